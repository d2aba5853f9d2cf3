/**
 * TCP header (RFC 9293), network byte order, and clamping of the MSS option on SYN segments.
 *   0 source port | 2 destination port | 4 sequence u32 | 8 acknowledgement u32 | 12 header words 4 bits, zero 4 bits | 13 flags
 *   14 window u16 | 16 checksum u16 | 18 urgent u16 | 20 options
 */
import { Drop } from "../base/drop.ts";
import { updateChecksum } from "./checksum.ts";

export const TCP_MIN_BYTES = 20;
export const TCP_SOURCE_PORT = 0;
export const TCP_DESTINATION_PORT = 2;
export const TCP_SEQUENCE = 4;
export const TCP_ACKNOWLEDGEMENT = 8;
export const TCP_DATA_OFFSET = 12;
export const TCP_FLAGS = 13;
export const TCP_CHECKSUM = 16;

/** Bits of the byte at TCP_FLAGS. */
export const TcpFlag = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16, URG: 32, ECE: 64, CWR: 128 } as const;

const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_MSS = 2;

/** Every field is overwritten when the result is `Drop.NONE`. */
export class TcpHeader {
  sourcePort = 0;
  destinationPort = 0;
  sequence = 0;
  acknowledgement = 0;
  headerBytes = 0;
  flags = 0;
}

/** @param length bytes of the segment from `offset` @returns BAD_IP when the header does not fit, else NONE */
export function decodeTcp(view: DataView, offset: number, length: number, out: TcpHeader): Drop {
  if (length < TCP_MIN_BYTES) return Drop.BAD_IP;
  const headerBytes = (view.getUint8(offset + TCP_DATA_OFFSET) >>> 4) * 4;
  if (headerBytes < TCP_MIN_BYTES || headerBytes > length) return Drop.BAD_IP;
  out.sourcePort = view.getUint16(offset + TCP_SOURCE_PORT);
  out.destinationPort = view.getUint16(offset + TCP_DESTINATION_PORT);
  out.sequence = view.getUint32(offset + TCP_SEQUENCE);
  out.acknowledgement = view.getUint32(offset + TCP_ACKNOWLEDGEMENT);
  out.headerBytes = headerBytes;
  out.flags = view.getUint8(offset + TCP_FLAGS);
  return Drop.NONE;
}

/**
 * Where the value of the MSS option is.
 * @param headerBytes a checked header length (decodeTcp) @returns offset of the u16, or −1 when there is no well-formed MSS option
 */
export function findMss(view: DataView, offset: number, headerBytes: number): number {
  const end = offset + headerBytes;
  let position = offset + TCP_MIN_BYTES;
  while (position < end) {
    const kind = view.getUint8(position);
    if (kind === OPTION_END) return -1;
    if (kind === OPTION_NOP) {
      position++;
      continue;
    }
    if (position + 2 > end) return -1;
    const bytes = view.getUint8(position + 1);
    if (bytes < 2 || position + bytes > end) return -1;
    if (kind === OPTION_MSS) return bytes === 4 ? position + 2 : -1;
    position += bytes;
  }
  return -1;
}

/**
 * Lowers the MSS of a SYN or SYN-ACK to `maxMssBytes` and corrects the checksum incrementally (RFC 1624).
 * @param partial the checksum field holds only the pseudo-header sum, which options do not enter, and stays as it is
 * @returns true when the segment was changed
 */
export function clampMss(
  view: DataView,
  offset: number,
  headerBytes: number,
  maxMssBytes: number,
  partial: boolean,
): boolean {
  if ((view.getUint8(offset + TCP_FLAGS) & TcpFlag.SYN) === 0) return false;
  const at = findMss(view, offset, headerBytes);
  if (at < 0) return false;
  const old = view.getUint16(at);
  if (old <= maxMssBytes) return false;
  view.setUint16(at, maxMssBytes);
  if (partial) return true;
  // After a single NOP the value straddles two checksum words: then each byte counts in the other half (RFC 1071 §2 B).
  const odd = ((at - offset) & 1) === 1;
  const checksum = view.getUint16(offset + TCP_CHECKSUM);
  view.setUint16(
    offset + TCP_CHECKSUM,
    updateChecksum(checksum, odd ? swap16(old) : old, odd ? swap16(maxMssBytes) : maxMssBytes),
  );
  return true;
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >>> 8);
}
