/**
 * What lies in the outbox is sealed: whoever gets hold of the database alone reads no message that has not arrived.
 *   sealed  0 salt 16 | 16 ciphertext | tag 16      key = HKDF-SHA256(ikm = seed, salt, info = "weft outbox v1"), nonce 0, associated data = id
 * Source: docs/protocol.md, "Outbox".
 */
import { concat, utf8 } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import { chachaOpen, chachaSeal, KEY_BYTES } from "../../crypto/chacha.ts";
import { hkdfSha256 } from "../../crypto/kdf.ts";
import { zeroise } from "../../crypto/secret.ts";

const SALT_BYTES = 16;
const INFO = utf8("weft outbox v1");

/** @param seed 32 secret bytes of the node @param id of the message */
export function sealForOutbox(seed: Uint8Array, random: Random, id: string, body: Uint8Array): Uint8Array {
  const salt = random.bytes(SALT_BYTES);
  // a fresh salt is a fresh key, so the nonce is used once
  const key = hkdfSha256(seed, salt, INFO, KEY_BYTES);
  const sealed = concat(salt, chachaSeal(key, 0, utf8(id), body));
  zeroise(key);
  return sealed;
}

/** @param sealed anything @returns undefined when it was not sealed with this seed for this id */
export function openFromOutbox(seed: Uint8Array, id: string, sealed: Uint8Array): Uint8Array | undefined {
  if (sealed.length < SALT_BYTES) return undefined;
  const key = hkdfSha256(seed, sealed.subarray(0, SALT_BYTES), INFO, KEY_BYTES);
  const body = chachaOpen(key, 0, utf8(id), sealed.subarray(SALT_BYTES));
  zeroise(key);
  return body;
}
