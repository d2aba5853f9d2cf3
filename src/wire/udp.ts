/**
 * UDP header (RFC 768), network byte order: 0 source port | 2 destination port | 4 length u16, header included | 6 checksum u16
 */
import { Drop } from "../base/drop.ts";

export const UDP_HEADER_BYTES = 8;
export const UDP_SOURCE_PORT = 0;
export const UDP_DESTINATION_PORT = 2;
export const UDP_LENGTH = 4;

/** Every field is overwritten when the result is `Drop.NONE`. */
export class UdpHeader {
  sourcePort = 0;
  destinationPort = 0;
  /** Header and payload by the length field, ≤ the bytes that were there. */
  totalBytes = 0;
}

/** @param length transport bytes from `offset` @returns BAD_IP when the length field is below 8 or beyond `length`, else NONE */
export function decodeUdp(view: DataView, offset: number, length: number, out: UdpHeader): Drop {
  if (length < UDP_HEADER_BYTES) return Drop.BAD_IP;
  const totalBytes = view.getUint16(offset + UDP_LENGTH);
  if (totalBytes < UDP_HEADER_BYTES || totalBytes > length) return Drop.BAD_IP;
  out.sourcePort = view.getUint16(offset + UDP_SOURCE_PORT);
  out.destinationPort = view.getUint16(offset + UDP_DESTINATION_PORT);
  out.totalBytes = totalBytes;
  return Drop.NONE;
}
