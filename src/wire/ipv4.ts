/**
 * IPv4 header (RFC 791), network byte order.
 *   0 version 4 bits, header words 4 bits | 1 TOS | 2 total length u16 | 4 identification u16 | 6 flags 3 bits, fragment offset 13 bits
 *   8 TTL | 9 protocol | 10 header checksum u16 | 12 source 4 | 16 destination 4 | 20 options
 */
import { Drop } from "../base/drop.ts";
import type { IpPacket } from "./ip.ts";

export const IPV4_MIN_BYTES = 20;
export const IPV4_TOS = 1;
export const IPV4_TOTAL_LENGTH = 2;
export const IPV4_FRAGMENT = 6;
export const IPV4_TTL = 8;
export const IPV4_PROTOCOL = 9;
export const IPV4_CHECKSUM = 10;
export const IPV4_SOURCE = 12;
export const IPV4_DESTINATION = 16;

/** Bits of the u16 at IPV4_FRAGMENT. */
export const IPV4_DONT_FRAGMENT = 0x4000;
export const IPV4_MORE_FRAGMENTS = 0x2000;
export const IPV4_FRAGMENT_MASK = 0x1fff;

/**
 * @param length bytes present from `offset`; more than the total length is allowed and ignored
 * @returns BAD_IP unless version, header length and total length fit each other and `length`; the header checksum is the receiver's business
 */
export function decodeIpv4(view: DataView, offset: number, length: number, out: IpPacket): Drop {
  if (length < IPV4_MIN_BYTES) return Drop.BAD_IP;
  const first = view.getUint8(offset);
  const headerBytes = (first & 15) * 4;
  const totalBytes = view.getUint16(offset + IPV4_TOTAL_LENGTH);
  if (first >>> 4 !== 4 || headerBytes < IPV4_MIN_BYTES || headerBytes > totalBytes || totalBytes > length) {
    return Drop.BAD_IP;
  }
  const fragment = view.getUint16(offset + IPV4_FRAGMENT);
  out.offset = offset;
  out.version = 4;
  out.headerBytes = headerBytes;
  out.totalBytes = totalBytes;
  out.protocol = view.getUint8(offset + IPV4_PROTOCOL);
  out.transportOffset = offset + headerBytes;
  out.transportBytes = totalBytes - headerBytes;
  out.fragment = (fragment & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_MASK)) !== 0;
  out.fragmentOffsetBytes = (fragment & IPV4_FRAGMENT_MASK) * 8;
  out.extended = headerBytes > IPV4_MIN_BYTES;
  out.dontFragment = (fragment & IPV4_DONT_FRAGMENT) !== 0;
  out.trafficClass = view.getUint8(offset + IPV4_TOS);
  out.hopLimit = view.getUint8(offset + IPV4_TTL);
  return Drop.NONE;
}

/**
 * True for an address that can name one host beyond this link: not 0/8, loopback, link-local, multicast, reserved or broadcast.
 * @param address 32 bits in host order, signed or unsigned
 */
export function isRoutableIpv4(address: number): boolean {
  const first = address >>> 24;
  return first !== 0 && first !== 127 && first < 224 && address >>> 16 !== 0xa9fe;
}
