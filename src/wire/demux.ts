/**
 * Which protocol a datagram on the shared UDP port belongs to, by its first byte: 0b01xxxxxx Weft, 0b00xxxxxx STUN (RFC 8489 §5),
 * anything else nobody's. Source: docs/protocol.md, "Wire formats".
 */
import { DATA_TYPE } from "./data.ts";
import { COOKIE_REPLY_TYPE, HANDSHAKE_INIT_TYPE, HANDSHAKE_RESPONSE_TYPE } from "./handshake-sizes.ts";

/** What classify() answers. */
export const DatagramClass = { UNKNOWN: 0, DATA: 1, HANDSHAKE: 2, STUN: 3 } as const;
export type DatagramClass = (typeof DatagramClass)[keyof typeof DatagramClass];

/** @param firstByte 0–255 @returns UNKNOWN also for Weft types that do not exist: they are dropped as BAD_TYPE */
export function classify(firstByte: number): DatagramClass {
  if (firstByte === DATA_TYPE) return DatagramClass.DATA;
  if (firstByte < 0x40) return DatagramClass.STUN;
  if (firstByte === HANDSHAKE_INIT_TYPE || firstByte === HANDSHAKE_RESPONSE_TYPE || firstByte === COOKIE_REPLY_TYPE) {
    return DatagramClass.HANDSHAKE;
  }
  return DatagramClass.UNKNOWN;
}
