/**
 * IPv6 header (RFC 8200), network byte order, and the walk over its extension headers.
 *   0 version 4 bits, traffic class 8 bits, flow label 20 bits | 4 payload length u16 | 6 next header | 7 hop limit | 8 source 16 | 24 destination 16
 *   extension header: 0 next header | 1 length in 8 bytes without the first 8 (AH: in 4 bytes without the first 8) | …
 *   fragment header:  0 next header | 1 zero | 2 offset 13 bits, zero 2 bits, more 1 bit | 4 identification u32
 */
import { Drop } from "../base/drop.ts";
import type { IpPacket } from "./ip.ts";

export const IPV6_HEADER_BYTES = 40;
export const IPV6_PAYLOAD_LENGTH = 4;
export const IPV6_NEXT_HEADER = 6;
export const IPV6_HOP_LIMIT = 7;
export const IPV6_SOURCE = 8;
export const IPV6_DESTINATION = 24;
/** Every IPv6 link carries at least this (RFC 8200 §5). */
export const IPV6_MIN_MTU_BYTES = 1280;

const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const AUTHENTICATION = 51;
const NO_NEXT_HEADER = 59;
const DESTINATION_OPTIONS = 60;
/** More than any sane packet has; a longer chain is not walked. */
const MAX_EXTENSION_HEADERS = 8;

/**
 * @param length bytes present from `offset`; more than the packet's own length is allowed and ignored
 * @returns BAD_IP when the lengths do not fit or an extension header runs over the end. A chain longer than 8, and what follows the header of a
 *   non-first fragment, is left unread with protocol 59 (none) for the former and the fragment's own protocol for the latter.
 */
export function decodeIpv6(view: DataView, offset: number, length: number, out: IpPacket): Drop {
  if (length < IPV6_HEADER_BYTES) return Drop.BAD_IP;
  const first = view.getUint16(offset);
  const totalBytes = IPV6_HEADER_BYTES + view.getUint16(offset + IPV6_PAYLOAD_LENGTH);
  if (first >>> 12 !== 6 || totalBytes > length) return Drop.BAD_IP;
  const end = offset + totalBytes;
  let position = offset + IPV6_HEADER_BYTES;
  let next = view.getUint8(offset + IPV6_NEXT_HEADER);
  out.fragment = false;
  out.fragmentOffsetBytes = 0;
  let walked = 0;
  while (out.fragmentOffsetBytes === 0 && isExtension(next)) {
    if (walked++ === MAX_EXTENSION_HEADERS) {
      next = NO_NEXT_HEADER;
      break;
    }
    if (position + 8 > end) return Drop.BAD_IP;
    let bytes = 8;
    if (next === FRAGMENT) {
      const fragment = view.getUint16(position + 2);
      // An "atomic" fragment (offset 0, no more) is a whole packet (RFC 6946).
      out.fragment = out.fragment || (fragment & 0xfff9) !== 0;
      out.fragmentOffsetBytes = fragment & 0xfff8;
    } else if (next === AUTHENTICATION) {
      bytes = (view.getUint8(position + 1) + 2) * 4;
    } else {
      bytes = (view.getUint8(position + 1) + 1) * 8;
    }
    next = view.getUint8(position);
    position += bytes;
    if (position > end) return Drop.BAD_IP;
  }
  out.offset = offset;
  out.version = 6;
  out.headerBytes = position - offset;
  out.totalBytes = totalBytes;
  out.protocol = next;
  out.transportOffset = position;
  out.transportBytes = end - position;
  out.extended = walked > 0;
  out.dontFragment = true;
  out.trafficClass = (first >>> 4) & 0xff;
  out.hopLimit = view.getUint8(offset + IPV6_HOP_LIMIT);
  return Drop.NONE;
}

function isExtension(next: number): boolean {
  return (
    next === HOP_BY_HOP ||
    next === ROUTING ||
    next === FRAGMENT ||
    next === AUTHENTICATION ||
    next === DESTINATION_OPTIONS
  );
}

/**
 * True for an address that can name one host beyond this link: not unspecified, loopback, v4-mapped, link-local or multicast.
 * @param offset of the 16 address bytes
 */
export function isRoutableIpv6(view: DataView, offset: number): boolean {
  const high = view.getUint32(offset);
  if (high >>> 24 === 0xff || high >>> 22 === 0xfe80 >>> 6) return false;
  if (high !== 0 || view.getUint32(offset + 4) !== 0) return true;
  const third = view.getUint32(offset + 8);
  if (third === 0xffff) return false;
  return third !== 0 || view.getUint32(offset + 12) > 1;
}
