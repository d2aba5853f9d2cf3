/**
 * ChaCha20-Poly1305 (RFC 8439) for the few small messages of the control thread: handshakes and cookies. Data packets go
 * through the AeadPort of the data plane instead. Nonce = 4 zero bytes ‖ counter u64 little-endian, as Noise section 12.3 says.
 */
import { createCipheriv, createDecipheriv } from "node:crypto";

export const TAG_BYTES = 16;
export const KEY_BYTES = 32;

function nonceOf(counter: number): Uint8Array {
  const nonce = new Uint8Array(12);
  const view = new DataView(nonce.buffer);
  view.setUint32(4, counter % 4294967296, true);
  view.setUint32(8, Math.floor(counter / 4294967296), true);
  return nonce;
}

/** @param key 32 bytes @param counter below 2^53 @returns ciphertext ‖ tag, plaintext.length + 16 bytes */
export function chachaSeal(
  key: Uint8Array,
  counter: number,
  associated: Uint8Array,
  plaintext: Uint8Array,
): Uint8Array {
  const cipher = createCipheriv("chacha20-poly1305", key, nonceOf(counter), { authTagLength: TAG_BYTES });
  cipher.setAAD(associated, { plaintextLength: plaintext.length });
  const out = new Uint8Array(plaintext.length + TAG_BYTES);
  out.set(cipher.update(plaintext), 0);
  cipher.final();
  out.set(cipher.getAuthTag(), plaintext.length);
  return out;
}

/** @param sealed ciphertext ‖ tag; anything may be in it @returns the plaintext, or undefined when it is short or forged */
export function chachaOpen(
  key: Uint8Array,
  counter: number,
  associated: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | undefined {
  const length = sealed.length - TAG_BYTES;
  if (length < 0) return undefined;
  const decipher = createDecipheriv("chacha20-poly1305", key, nonceOf(counter), { authTagLength: TAG_BYTES });
  decipher.setAAD(associated, { plaintextLength: length });
  decipher.setAuthTag(sealed.subarray(length));
  const out = Uint8Array.from(decipher.update(sealed.subarray(0, length)));
  try {
    decipher.final();
  } catch {
    // OpenSSL reports a wrong tag by throwing; to the caller it is one of the expected outcomes.
    out.fill(0);
    return undefined;
  }
  return out;
}
