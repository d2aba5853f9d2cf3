/**
 * ICMP errors about a packet that cannot be carried, built into a buffer as whole IP packets.
 * Source: RFC 792 and RFC 1812 §4.3.2 (ICMPv4), RFC 1191 §4 (next-hop MTU), RFC 4443 §2.4 and §3 (ICMPv6).
 *
 *   ICMPv4: 0 type | 1 code | 2 checksum u16 | 4 zero u16 | 6 next-hop MTU u16 (code 4, else zero) | 8 offending packet
 *   ICMPv6: 0 type | 1 code | 2 checksum u16 | 4 MTU u32 (type 2, else zero) | 8 offending packet
 *
 * Guarantees: the error carries as much of the offending packet as fits 576 (IPv4) or 1,280 bytes (IPv6); none is ever built about an ICMP
 * error or redirect, a non-first fragment, a multicast or broadcast destination, or a source that does not name one host.
 * Limiting their rate is the caller's duty.
 */
import { completeTransportChecksum, fold, ipv4HeaderChecksum, sum16 } from "./checksum.ts";
import { Protocol, type IpPacket } from "./ip.ts";
import {
  IPV4_CHECKSUM,
  IPV4_DESTINATION,
  IPV4_DONT_FRAGMENT,
  IPV4_MIN_BYTES,
  IPV4_SOURCE,
  isRoutableIpv4,
} from "./ipv4.ts";
import { IPV6_DESTINATION, IPV6_HEADER_BYTES, IPV6_MIN_MTU_BYTES, IPV6_SOURCE, isRoutableIpv6 } from "./ipv6.ts";

export const ICMP_HEADER_BYTES = 8;
/** Room that buildIcmpError() may need at its target. */
export const ICMP_ERROR_MAX_BYTES: number = IPV6_MIN_MTU_BYTES;
const ICMPV4_ERROR_MAX_BYTES = 576;
/** A smaller next-hop MTU than this does not exist (RFC 791). */
const IPV4_MIN_MTU_BYTES = 68;
/** Precedence "internetwork control" for ICMP errors (RFC 1812 §4.3.2.5). */
const ICMPV4_TOS = 0xc0;
const HOP_LIMIT = 64;

/** Which error to build. */
export const IcmpError = {
  /** Fragmentation needed / packet too big; carries the MTU. */
  TOO_BIG: 0,
  NO_ROUTE: 1,
  HOST_UNREACHABLE: 2,
  PROHIBITED: 3,
  TIME_EXCEEDED: 4,
} as const;
export type IcmpError = (typeof IcmpError)[keyof typeof IcmpError];

const ICMPV4_TYPE: readonly number[] = [3, 3, 3, 3, 11];
const ICMPV4_CODE: readonly number[] = [4, 0, 1, 13, 0];
const ICMPV6_TYPE: readonly number[] = [2, 1, 1, 1, 3];
const ICMPV6_CODE: readonly number[] = [0, 0, 3, 1, 0];

/** True when RFC 1122 §3.2.2 and RFC 4443 §2.4(e) allow an error about this packet. @param packet decoded from `view` */
export function mayReportIcmpError(view: DataView, packet: IpPacket): boolean {
  if (packet.fragmentOffsetBytes > 0) return false;
  if (packet.version === 4) {
    if (!isRoutableIpv4(view.getUint32(packet.offset + IPV4_SOURCE))) return false;
    // Loopback and 0/8 as destinations are unicast mistakes; only groups and broadcast are forbidden.
    if (view.getUint8(packet.offset + IPV4_DESTINATION) >= 224) return false;
    if (packet.protocol !== Protocol.ICMP) return true;
    if (packet.transportBytes < 1) return false;
    const type = view.getUint8(packet.transportOffset);
    return type !== 3 && type !== 4 && type !== 5 && type !== 11 && type !== 12;
  }
  const source = packet.offset + IPV6_SOURCE;
  if (!isRoutableIpv6(view, source) && view.getUint16(source) >>> 6 !== 0xfe80 >>> 6) return false;
  if (view.getUint8(packet.offset + IPV6_DESTINATION) === 0xff) return false;
  // An extension chain we did not walk to its end may hide an error.
  if (packet.extended && packet.protocol === Protocol.NONE) return false;
  if (packet.protocol !== Protocol.ICMPV6) return true;
  if (packet.transportBytes < 1) return false;
  const type = view.getUint8(packet.transportOffset);
  return type >= 128 && type !== 137;
}

/**
 * Writes the error about `packet` to `target`.
 * @param packet decoded from `view`, its bytes still there; must not overlap [target, target + ICMP_ERROR_MAX_BYTES)
 * @param mtuBytes for TOO_BIG: the largest packet that fits (raised to 68 or 1,280); else ignored
 * @param from offset of the address that the error comes from: 4 bytes for IPv4, 16 for IPv6
 * @returns bytes of the IP packet written, or 0 when no error may be sent about this packet
 */
export function buildIcmpError(
  u8: Uint8Array,
  view: DataView,
  packet: IpPacket,
  error: IcmpError,
  mtuBytes: number,
  from: number,
  target: number,
): number {
  if (!mayReportIcmpError(view, packet)) return 0;
  return packet.version === 4
    ? buildIcmpv4(u8, view, packet, error, mtuBytes, from, target)
    : buildIcmpv6(u8, view, packet, error, mtuBytes, from, target);
}

function buildIcmpv4(
  u8: Uint8Array,
  view: DataView,
  packet: IpPacket,
  error: IcmpError,
  mtuBytes: number,
  from: number,
  target: number,
): number {
  const room = ICMPV4_ERROR_MAX_BYTES - IPV4_MIN_BYTES - ICMP_HEADER_BYTES;
  const quoted = Math.min(packet.totalBytes, room);
  const total = IPV4_MIN_BYTES + ICMP_HEADER_BYTES + quoted;
  const icmp = target + IPV4_MIN_BYTES;
  view.setUint8(target, 0x45);
  view.setUint8(target + 1, ICMPV4_TOS);
  view.setUint16(target + 2, total);
  // Identification 0: with DF set it means nothing (RFC 6864).
  view.setUint16(target + 4, 0);
  view.setUint16(target + 6, IPV4_DONT_FRAGMENT);
  view.setUint8(target + 8, HOP_LIMIT);
  view.setUint8(target + 9, Protocol.ICMP);
  view.setUint32(target + IPV4_SOURCE, view.getUint32(from));
  view.setUint32(target + IPV4_DESTINATION, view.getUint32(packet.offset + IPV4_SOURCE));
  view.setUint16(target + IPV4_CHECKSUM, ipv4HeaderChecksum(view, target, IPV4_MIN_BYTES));
  view.setUint8(icmp, ICMPV4_TYPE[error]);
  view.setUint8(icmp + 1, ICMPV4_CODE[error]);
  view.setUint16(icmp + 2, 0);
  view.setUint16(icmp + 4, 0);
  view.setUint16(icmp + 6, error === IcmpError.TOO_BIG ? clamp(mtuBytes, IPV4_MIN_MTU_BYTES, 0xffff) : 0);
  u8.copyWithin(icmp + ICMP_HEADER_BYTES, packet.offset, packet.offset + quoted);
  view.setUint16(icmp + 2, ~fold(sum16(u8, view, icmp, ICMP_HEADER_BYTES + quoted)) & 0xffff);
  return total;
}

function buildIcmpv6(
  u8: Uint8Array,
  view: DataView,
  packet: IpPacket,
  error: IcmpError,
  mtuBytes: number,
  from: number,
  target: number,
): number {
  const room = IPV6_MIN_MTU_BYTES - IPV6_HEADER_BYTES - ICMP_HEADER_BYTES;
  const quoted = Math.min(packet.totalBytes, room);
  const icmp = target + IPV6_HEADER_BYTES;
  view.setUint32(target, 0x60000000);
  view.setUint16(target + 4, ICMP_HEADER_BYTES + quoted);
  view.setUint8(target + 6, Protocol.ICMPV6);
  view.setUint8(target + 7, HOP_LIMIT);
  u8.copyWithin(target + IPV6_SOURCE, from, from + 16);
  u8.copyWithin(target + IPV6_DESTINATION, packet.offset + IPV6_SOURCE, packet.offset + IPV6_SOURCE + 16);
  view.setUint8(icmp, ICMPV6_TYPE[error]);
  view.setUint8(icmp + 1, ICMPV6_CODE[error]);
  view.setUint32(icmp + 4, error === IcmpError.TOO_BIG ? Math.max(mtuBytes, IPV6_MIN_MTU_BYTES) : 0);
  u8.copyWithin(icmp + ICMP_HEADER_BYTES, packet.offset, packet.offset + quoted);
  completeTransportChecksum(u8, view, target, icmp, ICMP_HEADER_BYTES + quoted, Protocol.ICMPV6);
  return IPV6_HEADER_BYTES + ICMP_HEADER_BYTES + quoted;
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}
