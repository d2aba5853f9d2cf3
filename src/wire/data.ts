/**
 * Data packet header and the inner header of its plaintext, little-endian.
 *
 *   0 type u8 = 0x44 | 1 zero, 3 bytes | 4 receiver index u32 | 8 counter u64 | 16 ciphertext | … tag 16
 *   plaintext: 0 kind u8 | 1 flags u8 | 2 aux u16 | 4 payload
 *
 * The header is in the clear and not associated data: the index selects the key and the counter is the nonce, so a changed header cannot
 * authenticate. Source: docs/protocol.md, "Data".
 */
import { Drop } from "../base/drop.ts";

export const DATA_TYPE = 0x44;
export const DATA_HEADER_BYTES = 16;
export const INNER_HEADER_BYTES = 4;
export const TAG_BYTES = 16;
/** What sealing adds to an inner payload. */
export const DATA_OVERHEAD_BYTES: number = DATA_HEADER_BYTES + INNER_HEADER_BYTES + TAG_BYTES;
/** The shortest data packet: an inner header and nothing behind it. */
export const DATA_MIN_BYTES: number = DATA_OVERHEAD_BYTES;

/** Offsets within a data packet. */
export const DATA_RECEIVER = 4;
export const DATA_COUNTER = 8;

/** What an inner payload is. */
export const InnerKind = {
  KEEPALIVE: 0,
  IP: 1,
  CONTROL: 2,
  STREAM: 3,
  TRANSIT: 4,
  REPORT: 5,
  RATCHET: 6,
  PROBE: 7,
  PROBE_ACK: 8,
  FRAGMENT: 9,
} as const;
export type InnerKind = (typeof InnerKind)[keyof typeof InnerKind];
/** Kinds are 0 … INNER_KIND_COUNT − 1. */
export const INNER_KIND_COUNT = 10;

/** Flag bit of kind 1: the transport checksum holds only the pseudo-header sum. */
export const INNER_FLAG_PARTIAL_CHECKSUM = 1;

/** Bytes of the outer IP and UDP headers. */
export const OUTER_IPV4_BYTES = 28;
export const OUTER_IPV6_BYTES = 48;

/** Largest inner payload that one datagram of `ipBytes` (underlay IP packet) can carry. @param family of the underlay */
export function innerPayloadBytes(ipBytes: number, family: number): number {
  return ipBytes - (family === 4 ? OUTER_IPV4_BYTES : OUTER_IPV6_BYTES) - DATA_OVERHEAD_BYTES;
}

/** Underlay IP packet that an inner payload of `payloadBytes` becomes. */
export function outerPacketBytes(payloadBytes: number, family: number): number {
  return payloadBytes + DATA_OVERHEAD_BYTES + (family === 4 ? OUTER_IPV4_BYTES : OUTER_IPV6_BYTES);
}

/** Reused between packets: every field is overwritten when the result is `Drop.NONE`. */
export class DataHeader {
  receiver = 0;
  counterLow = 0;
  counterHigh = 0;
}

/** @param length bytes of the datagram from `offset`; anything may be in them @returns SHORT, BAD_TYPE or NONE */
export function decodeDataHeader(view: DataView, offset: number, length: number, out: DataHeader): Drop {
  if (length < DATA_MIN_BYTES) return Drop.SHORT;
  if (view.getUint32(offset, true) !== DATA_TYPE) return Drop.BAD_TYPE;
  out.receiver = view.getUint32(offset + DATA_RECEIVER, true);
  out.counterLow = view.getUint32(offset + DATA_COUNTER, true);
  out.counterHigh = view.getUint32(offset + DATA_COUNTER + 4, true);
  return Drop.NONE;
}

/** @returns bytes written (DATA_HEADER_BYTES) */
export function encodeDataHeader(
  view: DataView,
  offset: number,
  receiver: number,
  counterLow: number,
  counterHigh: number,
): number {
  view.setUint32(offset, DATA_TYPE, true);
  view.setUint32(offset + DATA_RECEIVER, receiver, true);
  view.setUint32(offset + DATA_COUNTER, counterLow, true);
  view.setUint32(offset + DATA_COUNTER + 4, counterHigh, true);
  return DATA_HEADER_BYTES;
}

/** Reused between packets: every field is overwritten when the result is `Drop.NONE`. */
export class InnerHeader {
  kind = 0;
  flags = 0;
  aux = 0;
}

/** @param length plaintext bytes from `offset` @returns BAD_INNER for a short plaintext or an unknown kind, else NONE */
export function decodeInnerHeader(view: DataView, offset: number, length: number, out: InnerHeader): Drop {
  if (length < INNER_HEADER_BYTES) return Drop.BAD_INNER;
  const kind = view.getUint8(offset);
  if (kind >= INNER_KIND_COUNT) return Drop.BAD_INNER;
  out.kind = kind;
  out.flags = view.getUint8(offset + 1);
  out.aux = view.getUint16(offset + 2, true);
  return Drop.NONE;
}

/** @returns bytes written (INNER_HEADER_BYTES) */
export function encodeInnerHeader(view: DataView, offset: number, kind: number, flags: number, aux: number): number {
  view.setUint8(offset, kind);
  view.setUint8(offset + 1, flags);
  view.setUint16(offset + 2, aux, true);
  return INNER_HEADER_BYTES;
}
