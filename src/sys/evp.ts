/**
 * What aead.ts and its self-test share of OpenSSL's EVP interface: fetched ciphers and the scratch memory that calls point to.
 */
import { Cipher } from "../session/types.ts";
import { SysError } from "./errno.ts";
import { loadCrypto } from "./libc.ts";
import { setU64, slabAddress, type SlabMemory } from "./memory.ts";

export const AEAD_KEY_BYTES = 32;
export const AEAD_TAG_BYTES = 16;
export const AEAD_NONCE_BYTES = 12;

/** struct ossl_param_st: 0 key pointer | 8 data type u32 | 16 data pointer | 24 data size u64 | 32 return size u64 */
const OSSL_PARAM_BYTES = 40;
const OSSL_PARAM_OCTET_STRING = 5;

/** Slab offsets of the memory that one user of EVP needs. */
export interface EvpScratch {
  readonly key: number;
  readonly nonce: number;
  /** An int that EVP writes output lengths to. */
  readonly length: number;
  /** OSSL_PARAM array: "tag" and the end. The pointer at tagPointer is set before each use. */
  readonly tagParameter: number;
  readonly tagPointer: number;
}

/** Takes 256 bytes of the slab. */
export function allocateScratch(slab: SlabMemory): EvpScratch {
  const at = slab.allocate(256);
  const tagParameter = at + 64;
  const name = tagParameter + 2 * OSSL_PARAM_BYTES;
  slab.u8.set([0x74, 0x61, 0x67, 0], name); // "tag"
  setU64(slab.view, tagParameter, slabAddress(slab) + name);
  slab.view.setUint32(tagParameter + 8, OSSL_PARAM_OCTET_STRING, true);
  setU64(slab.view, tagParameter + 24, AEAD_TAG_BYTES);
  return { key: at, nonce: at + 32, length: at + 48, tagParameter, tagPointer: tagParameter + 16 };
}

const NAMES: Readonly<Record<Cipher, string>> = {
  [Cipher.AES_256_GCM]: "AES-256-GCM",
  [Cipher.CHACHA20_POLY1305]: "ChaCha20-Poly1305",
};
const fetched = new Map<Cipher, number>();

/** Fetched once per thread. @throws SysError CIPHER_MISSING when this OpenSSL (a FIPS build, say) lacks it */
export function fetchCipher(cipher: Cipher): number {
  let address = fetched.get(cipher);
  if (address !== undefined) return address;
  address = loadCrypto().EVP_CIPHER_fetch(0, NAMES[cipher], 0);
  if (address === 0) {
    throw new SysError("EVP_CIPHER_fetch", 0, {
      code: "CIPHER_MISSING",
      what: `this OpenSSL has no ${NAMES[cipher]}`,
      remedy: "use the pinned Node (npm ci); a FIPS-only OpenSSL configuration hides ChaCha20-Poly1305",
    });
  }
  fetched.set(cipher, address);
  return address;
}
