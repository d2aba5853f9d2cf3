/**
 * Message authentication of handshakes and the cookies that prove a source. Source: docs/protocol.md, "Handshake".
 *   mac key    = SHA-256("weft mac1" ‖ receiver's static key)       mac1 = HMAC-SHA256(mac key, message up to mac1), 16 bytes
 *   cookie key = SHA-256("weft cookie" ‖ receiver's static key)     mac2 = HMAC-SHA256(cookie, message up to mac2), 16 bytes
 *   cookie     = HMAC-SHA256(changing secret, source), 16 bytes; sent sealed with ChaCha20-Poly1305 under
 *                HKDF-SHA256(ikm = cookie key, salt, info = "weft cookie reply"), nonce 0, associated data = the mac1 it answers
 */
import { utf8 } from "../base/bytes.ts";
import { chachaOpen, chachaSeal, KEY_BYTES } from "./chacha.ts";
import { hkdfSha256, hmacSha256, sha256 } from "./kdf.ts";

export const MAC_BYTES = 16;
export const SALT_BYTES = 16;

const MAC1_LABEL = utf8("weft mac1");
const COOKIE_LABEL = utf8("weft cookie");
const REPLY_INFO = utf8("weft cookie reply");

/** @param staticKey the receiver's X25519 key @returns 32 bytes */
export function macKey(staticKey: Uint8Array): Uint8Array {
  return sha256(MAC1_LABEL, staticKey);
}

/** @param staticKey of the node that gives the cookie @returns 32 bytes */
export function cookieKey(staticKey: Uint8Array): Uint8Array {
  return sha256(COOKIE_LABEL, staticKey);
}

/** HMAC-SHA256 truncated to 16 bytes. */
export function mac16(key: Uint8Array, message: Uint8Array): Uint8Array {
  return hmacSha256(key, message).subarray(0, MAC_BYTES);
}

/** @param salt 16 fresh random bytes @param cookie 16 bytes @param mac1 16 bytes @returns 32 bytes */
export function sealCookie(key: Uint8Array, salt: Uint8Array, mac1: Uint8Array, cookie: Uint8Array): Uint8Array {
  return chachaSeal(hkdfSha256(key, salt, REPLY_INFO, KEY_BYTES), 0, mac1, cookie);
}

/** @returns the 16-byte cookie, or undefined when forged */
export function openCookie(
  key: Uint8Array,
  salt: Uint8Array,
  mac1: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | undefined {
  return chachaOpen(hkdfSha256(key, salt, REPLY_INFO, KEY_BYTES), 0, mac1, sealed);
}
