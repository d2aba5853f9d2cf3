/**
 * Start-up proof that the AEAD in use is the one of the standards: published vectors through the raw EVP calls (they need nonces and
 * associated data that a data packet never has), then the port itself against node:crypto. Takes about a millisecond.
 */
import { createCipheriv } from "node:crypto";
import { toHex } from "../base/bytes.ts";
import { Slab } from "../base/slab.ts";
import type { AeadPort } from "../dataplane/ports.ts";
import { Cipher } from "../session/types.ts";
import { SysError } from "./errno.ts";
import { AEAD_NONCE_BYTES, AEAD_TAG_BYTES, allocateScratch, fetchCipher } from "./evp.ts";
import { type Crypto, loadCrypto } from "./libc.ts";
import { setU64, slabAddress, type SlabMemory } from "./memory.ts";

export interface AeadVector {
  readonly name: string;
  readonly cipher: Cipher;
  readonly key: string;
  readonly nonce: string;
  readonly associated: string;
  readonly plaintext: string;
  readonly ciphertext: string;
  readonly tag: string;
}

const MCGREW_KEY = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";

/** Hexadecimal. */
export const AEAD_VECTORS: readonly AeadVector[] = [
  {
    name: "AES-256-GCM test case 14 (McGrew and Viega, The Galois/Counter Mode of Operation, appendix B)",
    cipher: Cipher.AES_256_GCM,
    key: "00".repeat(32),
    nonce: "00".repeat(12),
    associated: "",
    plaintext: "00".repeat(16),
    ciphertext: "cea7403d4d606b6e074ec5d3baf39d18",
    tag: "d0d1c8a799996bf0265b98b5d48ab919",
  },
  {
    name: "AES-256-GCM test case 16 (McGrew and Viega, The Galois/Counter Mode of Operation, appendix B)",
    cipher: Cipher.AES_256_GCM,
    key: MCGREW_KEY,
    nonce: "cafebabefacedbaddecaf888",
    associated: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
    plaintext:
      "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" +
      "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    ciphertext:
      "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa" +
      "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
    tag: "76fc6ece0f4e1768cddf8853bb2d551b",
  },
  {
    name: "ChaCha20-Poly1305 (RFC 8439, section 2.8.2)",
    cipher: Cipher.CHACHA20_POLY1305,
    key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
    nonce: "070000004041424344454647",
    associated: "50515253c0c1c2c3c4c5c6c7",
    plaintext:
      "4c616469657320616e642047656e746c656d656e206f662074686520636c6173" +
      "73206f66202739393a204966204920636f756c64206f6666657220796f75206f" +
      "6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73" +
      "637265656e20776f756c642062652069742e",
    ciphertext:
      "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6" +
      "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36" +
      "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc" +
      "3ff4def08e4b7a9de576d26586cec64b6116",
    tag: "1ae10b594f09e26a7e902ecbd0600691",
  },
];

function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "hex"));
}

function must(holds: boolean, what: string): void {
  if (holds) return;
  throw new SysError("EVP", 0, {
    code: "SELF_TEST",
    what: `OpenSSL failed its self-test: ${what}`,
    remedy: "do not use this machine's OpenSSL: run the pinned Node (npm ci)",
  });
}

/** Published vectors, both directions, and a changed tag. @throws SysError SELF_TEST */
export function checkVectors(vectors: readonly AeadVector[] = AEAD_VECTORS): void {
  const crypto = loadCrypto();
  const slab = new Slab(4096);
  const at = { associated: slab.allocate(64), text: slab.allocate(256) };
  const scratch = allocateScratch(slab);
  for (const vector of vectors) {
    const text = hex(vector.plaintext);
    const sealed = runVector(crypto, slab, scratch, at, vector, text, undefined);
    must(sealed !== undefined && toHex(sealed) === vector.ciphertext + vector.tag, `sealing ${vector.name}`);
    const tag = hex(vector.tag);
    const opened = runVector(crypto, slab, scratch, at, vector, hex(vector.ciphertext), tag);
    must(opened !== undefined && toHex(opened) === vector.plaintext, `opening ${vector.name}`);
    tag[15] = tag[15] ^ 1;
    must(
      runVector(crypto, slab, scratch, at, vector, hex(vector.ciphertext), tag) === undefined,
      `forging ${vector.name}`,
    );
  }
}

/** @param tag undefined to seal @returns text (and tag when sealing), or undefined when OpenSSL refused */
function runVector(
  crypto: Crypto,
  slab: SlabMemory,
  scratch: ReturnType<typeof allocateScratch>,
  at: { readonly associated: number; readonly text: number },
  vector: AeadVector,
  text: Uint8Array,
  tag: Uint8Array | undefined,
): Uint8Array | undefined {
  const base = slabAddress(slab);
  const associated = hex(vector.associated);
  slab.u8.set(hex(vector.key), scratch.key);
  slab.u8.set(hex(vector.nonce), scratch.nonce);
  slab.u8.set(associated, at.associated);
  slab.u8.set(text, at.text);
  const tagOffset = at.text + text.length;
  slab.u8.fill(0, tagOffset, tagOffset + AEAD_TAG_BYTES);
  if (tag !== undefined) slab.u8.set(tag, tagOffset);
  setU64(slab.view, scratch.tagPointer, base + tagOffset);
  const cipher = fetchCipher(vector.cipher);
  const length = base + scratch.length;
  const parameters = base + scratch.tagParameter;
  const context = crypto.EVP_CIPHER_CTX_new();
  let done: boolean;
  if (tag === undefined) {
    done =
      crypto.EVP_EncryptInit_ex2(context, cipher, base + scratch.key, base + scratch.nonce, 0) === 1 &&
      (associated.length === 0 ||
        crypto.EVP_EncryptUpdate(context, 0, length, base + at.associated, associated.length) === 1) &&
      crypto.EVP_EncryptUpdate(context, base + at.text, length, base + at.text, text.length) === 1 &&
      crypto.EVP_EncryptFinal_ex(context, length, length) === 1 &&
      crypto.EVP_CIPHER_CTX_get_params(context, parameters) === 1;
  } else {
    done =
      crypto.EVP_DecryptInit_ex2(context, cipher, base + scratch.key, base + scratch.nonce, parameters) === 1 &&
      (associated.length === 0 ||
        crypto.EVP_DecryptUpdate(context, 0, length, base + at.associated, associated.length) === 1) &&
      crypto.EVP_DecryptUpdate(context, base + at.text, length, base + at.text, text.length) === 1 &&
      crypto.EVP_DecryptFinal_ex(context, length, length) === 1;
  }
  crypto.EVP_CIPHER_CTX_free(context);
  return done ? slab.u8.slice(at.text, tagOffset + (tag === undefined ? AEAD_TAG_BYTES : 0)) : undefined;
}

/** The port, sealing in place and apart, against node:crypto. @param at offset of 1,024 bytes of the port's slab */
export function checkPort(aead: AeadPort, slab: SlabMemory, at: number): void {
  const bytes = 200;
  const key = new Uint8Array(32);
  const plain = new Uint8Array(bytes);
  for (let i = 0; i < 32; i++) key[i] = i * 7 + 1;
  for (let i = 0; i < bytes; i++) plain[i] = (i * 31) & 255;
  const low = 0x89abcdef;
  const high = 0x01234567;
  const nonce = Buffer.alloc(AEAD_NONCE_BYTES);
  nonce.writeUInt32LE(low, 4);
  nonce.writeUInt32LE(high, 8);
  for (const cipher of [Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]) {
    const reference =
      cipher === Cipher.AES_256_GCM
        ? createCipheriv("aes-256-gcm", key, nonce, { authTagLength: AEAD_TAG_BYTES })
        : createCipheriv("chacha20-poly1305", key, nonce, { authTagLength: AEAD_TAG_BYTES });
    const expected = Buffer.concat([reference.update(plain), reference.final(), reference.getAuthTag()]).toString(
      "hex",
    );
    const seal = aead.create(cipher, key, "seal");
    const open = aead.create(cipher, key, "open");
    const apart = at + 512;
    for (const target of [at, apart]) {
      slab.u8.set(plain, at);
      aead.seal(seal, low, high, at, bytes, target);
      must(
        toHex(slab.u8.slice(target, target + bytes + AEAD_TAG_BYTES)) === expected,
        "sealing differs from node:crypto",
      );
      must(aead.open(open, low, high, target, bytes, target), "opening what was sealed");
      must(toHex(slab.u8.slice(target, target + bytes)) === toHex(plain), "the opened bytes differ");
    }
    slab.u8.set(plain, at);
    aead.seal(seal, low, high, at, bytes, at);
    must(!aead.open(open, low ^ 1, high, at, bytes, apart), "another counter was accepted");
    aead.destroy(seal);
    aead.destroy(open);
  }
}
