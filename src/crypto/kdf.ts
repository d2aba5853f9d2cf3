/** SHA-256, HMAC-SHA256 (RFC 2104) and HKDF-SHA256 (RFC 5869) over node:crypto, returning plain bytes. */
import { createHash, createHmac, hkdfSync } from "node:crypto";

export const HASH_BYTES = 32;

export function sha256(...parts: readonly Uint8Array[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** @returns 32 bytes */
export function hmacSha256(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
  const mac = createHmac("sha256", key);
  for (const part of parts) mac.update(part);
  return mac.digest();
}

/** Extract and expand. @returns `bytes` (≤ 8,160) fresh bytes owned by the caller */
export function hkdfSha256(ikm: Uint8Array, salt: Uint8Array, info: Uint8Array, bytes: number): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", ikm, salt, info, bytes));
}
