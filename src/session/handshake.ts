/**
 * Contents of the handshake datagrams: payload, timestamps, macs. Their layout is in src/wire/handshake-sizes.ts.
 * Source: docs/protocol.md, "Handshake".
 *   payload 40: 0 timestamp 12 (seconds u64 ‖ nanoseconds u32, big-endian, so that it compares as bytes) | 12 boot id u32
 *               16 capability bits u32 | 20 MTU hint u16 | 22 invite id 8 or zero | 30 zero 10
 */
import { mac16 } from "../crypto/cookie.ts";
import {
  COOKIE_RECEIVER,
  COOKIE_REPLY_BYTES,
  COOKIE_REPLY_TYPE,
  COOKIE_SALT,
  COOKIE_SEALED,
  HANDSHAKE_INIT_BYTES,
  HANDSHAKE_INIT_TYPE,
  HANDSHAKE_PAYLOAD_BYTES,
  HANDSHAKE_RESPONSE_BYTES,
  HANDSHAKE_RESPONSE_TYPE,
  INIT_EPHEMERAL,
  INIT_MAC1,
  INIT_SENDER,
  MAC_BYTES,
  RESPONSE_EPHEMERAL,
  RESPONSE_MAC1,
  RESPONSE_RECEIVER,
  RESPONSE_SENDER,
} from "../wire/handshake-sizes.ts";

export const TIMESTAMP_BYTES = 12;
export const INVITE_ID_BYTES = 8;

export interface HandshakePayload {
  /** 12 bytes */
  readonly timestamp: Uint8Array;
  readonly bootId: number;
  readonly capabilities: number;
  readonly mtuBytes: number;
  /** 8 bytes, or undefined when there is none */
  readonly inviteId: Uint8Array | undefined;
}

/** @returns 40 bytes */
export function encodePayload(payload: HandshakePayload): Uint8Array {
  const bytes = new Uint8Array(HANDSHAKE_PAYLOAD_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(payload.timestamp, 0);
  view.setUint32(12, payload.bootId, true);
  view.setUint32(16, payload.capabilities, true);
  view.setUint16(20, payload.mtuBytes, true);
  if (payload.inviteId !== undefined) bytes.set(payload.inviteId, 22);
  return bytes;
}

/** @param bytes 40, authenticated */
export function decodePayload(bytes: Uint8Array): HandshakePayload {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const inviteId = bytes.slice(22, 22 + INVITE_ID_BYTES);
  return {
    timestamp: bytes.slice(0, TIMESTAMP_BYTES),
    bootId: view.getUint32(12, true),
    capabilities: view.getUint32(16, true),
    mtuBytes: view.getUint16(20, true),
    inviteId: inviteId.some((byte) => byte !== 0) ? inviteId : undefined,
  };
}

/** @param wallMs milliseconds since 1970 @returns 12 bytes that order as time does */
export function encodeTimestamp(wallMs: number): Uint8Array {
  const bytes = new Uint8Array(TIMESTAMP_BYTES);
  const view = new DataView(bytes.buffer);
  const seconds = Math.floor(wallMs / 1000);
  view.setUint32(0, Math.floor(seconds / 4294967296), false);
  view.setUint32(4, seconds % 4294967296, false);
  view.setUint32(8, Math.floor((wallMs - seconds * 1000) * 1e6), false);
  return bytes;
}

/** @returns milliseconds since 1970; a hostile timestamp gives a huge number, never an error */
export function timestampWallMs(timestamp: Uint8Array): number {
  const view = new DataView(timestamp.buffer, timestamp.byteOffset, TIMESTAMP_BYTES);
  return (view.getUint32(0, false) * 4294967296 + view.getUint32(4, false)) * 1000 + view.getUint32(8, false) / 1e6;
}

/** The smallest timestamp after `timestamp`. @returns 12 bytes */
export function nextTimestamp(timestamp: Uint8Array): Uint8Array {
  const bytes = Uint8Array.from(timestamp);
  const view = new DataView(bytes.buffer);
  const nanoseconds = view.getUint32(8, false) + 1;
  if (nanoseconds < 1_000_000_000) {
    view.setUint32(8, nanoseconds, false);
    return bytes;
  }
  view.setUint32(8, 0, false);
  const seconds = view.getUint32(4, false) + 1;
  view.setUint32(4, seconds >>> 0, false);
  if (seconds > 0xffffffff) view.setUint32(0, view.getUint32(0, false) + 1, false);
  return bytes;
}

/** @param noise 136 bytes: ephemeral, sealed static, sealed payload */
export function encodeInit(sender: number, noise: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HANDSHAKE_INIT_BYTES);
  bytes[0] = HANDSHAKE_INIT_TYPE;
  new DataView(bytes.buffer).setUint32(INIT_SENDER, sender, true);
  bytes.set(noise, INIT_EPHEMERAL);
  return bytes;
}

/** @param noise 88 bytes: ephemeral, sealed payload */
export function encodeResponse(sender: number, receiver: number, noise: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HANDSHAKE_RESPONSE_BYTES);
  const view = new DataView(bytes.buffer);
  bytes[0] = HANDSHAKE_RESPONSE_TYPE;
  view.setUint32(RESPONSE_SENDER, sender, true);
  view.setUint32(RESPONSE_RECEIVER, receiver, true);
  bytes.set(noise, RESPONSE_EPHEMERAL);
  return bytes;
}

/** @param sealed 32 bytes: cookie and tag */
export function encodeCookieReply(receiver: number, salt: Uint8Array, sealed: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(COOKIE_REPLY_BYTES);
  bytes[0] = COOKIE_REPLY_TYPE;
  new DataView(bytes.buffer).setUint32(COOKIE_RECEIVER, receiver, true);
  bytes.set(salt, COOKIE_SALT);
  bytes.set(sealed, COOKIE_SEALED);
  return bytes;
}

/** Where mac1 of an init or response is; mac2 follows it and ends the message. */
export function mac1Offset(type: number): number {
  return type === HANDSHAKE_INIT_TYPE ? INIT_MAC1 : RESPONSE_MAC1;
}

/** Writes mac1 and, with a cookie, mac2 (else zeros) into a message. @param key of the receiver, from macKey() */
export function writeMacs(message: Uint8Array, key: Uint8Array, cookie: Uint8Array | undefined): void {
  const at = mac1Offset(message[0]);
  message.set(mac16(key, message.subarray(0, at)), at);
  if (cookie === undefined) message.fill(0, at + MAC_BYTES);
  else message.set(mac16(cookie, message.subarray(0, at + MAC_BYTES)), at + MAC_BYTES);
}

/** Bytes of the receiver index in front of a ratchet message's public key or ciphertext. */
export const RATCHET_INDEX_BYTES = 4;

/** Payload of inner kind 6: fresh receiver index u32 ‖ ML-KEM-768 public key or ciphertext. */
export function encodeRatchet(index: number, body: Uint8Array): Uint8Array {
  const message = new Uint8Array(RATCHET_INDEX_BYTES + body.length);
  viewOf(message).setUint32(0, index, true);
  message.set(body, RATCHET_INDEX_BYTES);
  return message;
}

/** The ephemeral key of an init in hex, by which a retained answer is found. */
export function ephemeralOf(init: Uint8Array): string {
  return init.subarray(INIT_EPHEMERAL, INIT_EPHEMERAL + 32).toHex();
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
