/**
 * AEAD of data packets through OpenSSL's EVP interface on slab memory: AES-256-GCM (NIST SP 800-38D) and ChaCha20-Poly1305
 * (RFC 8439), without associated data, nonce = 4 zero bytes ‖ counter u64 little-endian. Source: docs/protocol.md, "Data".
 *
 * The cipher is fetched once, a context lives as long as its key, so a packet is four calls to seal (init with the nonce, update,
 * final, tag) and three to open (init with nonce and tag, update, final). Contexts belong to the thread that made them.
 */
import type { AeadPort } from "../dataplane/ports.ts";
import { Cipher } from "../session/types.ts";
import { Slab } from "../base/slab.ts";
import { checkPort, checkVectors } from "./aead-self-test.ts";
import { SysError } from "./errno.ts";
import { AEAD_KEY_BYTES, AEAD_TAG_BYTES, allocateScratch, type EvpScratch, fetchCipher } from "./evp.ts";
import { type Crypto, loadCrypto } from "./libc.ts";
import { slabAddress, type SlabMemory } from "./memory.ts";

export { AEAD_KEY_BYTES, AEAD_NONCE_BYTES, AEAD_TAG_BYTES } from "./evp.ts";

export interface Aead extends AeadPort {
  /** Frees and zeroises every context. Nothing may be called afterwards. */
  close(): void;
}

/** @throws SysError CRYPTO_MISSING, CIPHER_MISSING, or SELF_TEST when OpenSSL does not answer the published vectors */
export function createAead(deps: { readonly slab: SlabMemory }): Aead {
  checkVectors();
  const slab = new Slab(4096);
  const trial = new EvpAead(slab);
  checkPort(trial, slab, slab.allocate(1024));
  trial.close();
  return new EvpAead(deps.slab);
}

class EvpAead implements Aead {
  readonly #crypto: Crypto;
  readonly #slab: SlabMemory;
  readonly #view: DataView;
  readonly #base: number;
  readonly #scratch: EvpScratch;
  readonly #nonce: number;
  readonly #tagPointer: number;
  readonly #nonceAddress: number;
  readonly #lengthAddress: number;
  readonly #tagParameterAddress: number;
  readonly #ciphers: readonly number[];
  /** Context addresses by handle; undefined = free. Index 0 is never used (and keeps the elements boxed, so a load allocates nothing). */
  readonly #contexts: (number | undefined)[] = [undefined];
  readonly #free: number[] = [];

  constructor(slab: SlabMemory) {
    this.#crypto = loadCrypto();
    this.#slab = slab;
    this.#view = slab.view;
    this.#base = slabAddress(slab);
    this.#scratch = allocateScratch(slab);
    this.#nonce = this.#scratch.nonce;
    this.#tagPointer = this.#scratch.tagPointer;
    this.#nonceAddress = this.#base + this.#scratch.nonce;
    this.#lengthAddress = this.#base + this.#scratch.length;
    this.#tagParameterAddress = this.#base + this.#scratch.tagParameter;
    this.#ciphers = [0, fetchCipher(Cipher.AES_256_GCM), fetchCipher(Cipher.CHACHA20_POLY1305)];
  }

  create(cipher: number, key: Uint8Array, direction: "seal" | "open"): number {
    const fetched = this.#ciphers[cipher] ?? 0;
    if (fetched === 0) throw new RangeError(`no such cipher: ${cipher}`);
    if (key.length !== AEAD_KEY_BYTES)
      throw new RangeError(`an AEAD key has ${AEAD_KEY_BYTES} bytes, not ${key.length}`);
    const context = this.#crypto.EVP_CIPHER_CTX_new();
    if (context === 0) throw failure("EVP_CIPHER_CTX_new");
    const keyOffset = this.#scratch.key;
    this.#slab.u8.set(key, keyOffset);
    const done =
      direction === "seal"
        ? this.#crypto.EVP_EncryptInit_ex2(context, fetched, this.#base + keyOffset, 0, 0)
        : this.#crypto.EVP_DecryptInit_ex2(context, fetched, this.#base + keyOffset, 0, 0);
    this.#slab.u8.fill(0, keyOffset, keyOffset + AEAD_KEY_BYTES);
    if (done !== 1) {
      this.#crypto.EVP_CIPHER_CTX_free(context);
      throw failure(direction === "seal" ? "EVP_EncryptInit_ex2" : "EVP_DecryptInit_ex2");
    }
    const handle = this.#free.pop() ?? this.#contexts.length;
    this.#contexts[handle] = context;
    return handle;
  }

  destroy(handle: number): void {
    const context = this.#contexts[handle];
    if (context === undefined) throw new RangeError(`no such AEAD context: ${handle}`);
    this.#contexts[handle] = undefined;
    this.#free.push(handle);
    this.#crypto.EVP_CIPHER_CTX_free(context);
  }

  /** @throws when the handle is not alive or OpenSSL refuses: going on would put plaintext on the wire */
  seal(handle: number, counterLow: number, counterHigh: number, source: number, bytes: number, target: number): void {
    const crypto = this.#crypto;
    const view = this.#view;
    const base = this.#base;
    const context = this.#contexts[handle];
    if (context === undefined) throw new RangeError(`no such AEAD context: ${handle}`);
    const nonce = this.#nonce;
    view.setUint32(nonce + 4, counterLow, true);
    view.setUint32(nonce + 8, counterHigh, true);
    const tag = base + target + bytes;
    const tagPointer = this.#tagPointer;
    view.setUint32(tagPointer, tag >>> 0, true);
    view.setUint32(tagPointer + 4, (tag / 4294967296) >>> 0, true);
    const length = this.#lengthAddress;
    if (
      crypto.EVP_EncryptInit_ex2(context, 0, 0, this.#nonceAddress, 0) !== 1 ||
      crypto.EVP_EncryptUpdate(context, base + target, length, base + source, bytes) !== 1 ||
      crypto.EVP_EncryptFinal_ex(context, length, length) !== 1 ||
      crypto.EVP_CIPHER_CTX_get_params(context, this.#tagParameterAddress) !== 1
    ) {
      throw failure("EVP_Encrypt");
    }
  }

  open(
    handle: number,
    counterLow: number,
    counterHigh: number,
    source: number,
    bytes: number,
    target: number,
  ): boolean {
    const crypto = this.#crypto;
    const view = this.#view;
    const base = this.#base;
    const context = this.#contexts[handle];
    if (context === undefined) return false;
    const nonce = this.#nonce;
    view.setUint32(nonce + 4, counterLow, true);
    view.setUint32(nonce + 8, counterHigh, true);
    const tag = base + source + bytes;
    const tagPointer = this.#tagPointer;
    view.setUint32(tagPointer, tag >>> 0, true);
    view.setUint32(tagPointer + 4, (tag / 4294967296) >>> 0, true);
    const length = this.#lengthAddress;
    return (
      crypto.EVP_DecryptInit_ex2(context, 0, 0, this.#nonceAddress, this.#tagParameterAddress) === 1 &&
      crypto.EVP_DecryptUpdate(context, base + target, length, base + source, bytes) === 1 &&
      crypto.EVP_DecryptFinal_ex(context, length, length) === 1
    );
  }

  close(): void {
    for (let handle = 1; handle < this.#contexts.length; handle++) {
      if (this.#contexts[handle] !== undefined) this.destroy(handle);
    }
  }
}

function failure(call: string): SysError {
  return new SysError(call, 0, {
    code: "AEAD_FAILED",
    what: `${call} was refused by OpenSSL`,
    remedy: "this is unexpected: stop the daemon and report it",
  });
}

export interface CipherSpeeds {
  /** Milliseconds to seal 1 MB in packets of 1,400 bytes, best of three. */
  readonly aesMs: number;
  readonly chachaMs: number;
  /** True when AES-256-GCM is the faster one, which takes AES instructions. */
  readonly hardwareAes: boolean;
}

/** Seals 1 MB three times with each cipher (about 4 ms in all with AES instructions). */
export function measureCiphers(): CipherSpeeds {
  const packetBytes = 1400;
  const slab = new Slab(8192);
  const aead = new EvpAead(slab);
  const at = slab.allocate(packetBytes + AEAD_TAG_BYTES);
  const key = new Uint8Array(AEAD_KEY_BYTES).fill(1);
  const measure = (cipher: Cipher): number => {
    const handle = aead.create(cipher, key, "seal");
    let best = Infinity;
    for (let round = 0; round < 3; round++) {
      const start = performance.now();
      for (let i = 0; i < 750; i++) aead.seal(handle, i, round, at, packetBytes, at);
      best = Math.min(best, performance.now() - start);
    }
    return best;
  };
  const aesMs = measure(Cipher.AES_256_GCM);
  const chachaMs = measure(Cipher.CHACHA20_POLY1305);
  aead.close();
  return { aesMs, chachaMs, hardwareAes: aesMs < chachaMs };
}
