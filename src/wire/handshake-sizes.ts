/**
 * Sizes and offsets of the handshake datagrams, little-endian. Source: docs/protocol.md, "Handshake".
 *
 *   0x41 init:     0 type | 1 zero 3 | 4 sender u32 | 8 ephemeral 32 | 40 sealed static 48 | 88 sealed payload 56 | 144 mac1 16 | 160 mac2 16
 *   0x42 response: 0 type | 1 zero 3 | 4 sender u32 | 8 receiver u32 | 12 ephemeral 32 | 44 sealed payload 56 | 100 mac1 16 | 116 mac2 16
 *   0x43 cookie:   0 type | 1 zero 3 | 4 receiver u32 | 8 salt 16 | 24 sealed cookie 32
 */
import { Drop } from "../base/drop.ts";

export const HANDSHAKE_INIT_TYPE = 0x41;
export const HANDSHAKE_RESPONSE_TYPE = 0x42;
export const COOKIE_REPLY_TYPE = 0x43;

export const HANDSHAKE_INIT_BYTES = 176;
export const HANDSHAKE_RESPONSE_BYTES = 132;
export const COOKIE_REPLY_BYTES = 56;

export const MAC_BYTES = 16;
/** Plain handshake payload; sealed it is 16 bytes longer. */
export const HANDSHAKE_PAYLOAD_BYTES = 40;

export const INIT_SENDER = 4;
export const INIT_EPHEMERAL = 8;
export const INIT_MAC1 = 144;

export const RESPONSE_SENDER = 4;
export const RESPONSE_RECEIVER = 8;
export const RESPONSE_EPHEMERAL = 12;
export const RESPONSE_MAC1 = 100;

export const COOKIE_RECEIVER = 4;
export const COOKIE_SALT = 8;
export const COOKIE_SEALED = 24;

/** @param type first byte of the datagram @returns the exact size that type must have, or 0 when it is no handshake type */
export function handshakeBytes(type: number): number {
  if (type === HANDSHAKE_INIT_TYPE) return HANDSHAKE_INIT_BYTES;
  if (type === HANDSHAKE_RESPONSE_TYPE) return HANDSHAKE_RESPONSE_BYTES;
  if (type === COOKIE_REPLY_TYPE) return COOKIE_REPLY_BYTES;
  return 0;
}

/** Checks type, exact length and the zero bytes. @returns SHORT for any wrong length, BAD_TYPE, or NONE */
export function checkHandshake(view: DataView, offset: number, length: number): Drop {
  if (length < COOKIE_REPLY_BYTES) return Drop.SHORT;
  const type = view.getUint32(offset, true);
  // Above 0xff a reserved byte is set, and no type matches.
  const bytes = handshakeBytes(type);
  if (bytes === 0) return Drop.BAD_TYPE;
  return length === bytes ? Drop.NONE : Drop.SHORT;
}
