/**
 * HMAC-SHA256 (RFC 2104, FIPS 180-4) over slab memory through OpenSSL's EVP_MAC, for the handshake gate: the worker checks mac1 before
 * anything else, without copying the datagram. The keyed state is kept, so a MAC is three calls: re-init, update, final.
 */
import { createHmac } from "node:crypto";
import { Slab } from "../base/slab.ts";
import type { MacPort } from "../dataplane/ports.ts";
import { SysError } from "./errno.ts";
import { loadCrypto } from "./libc.ts";
import { setU64, slabAddress, type SlabMemory } from "./memory.ts";

export const MAC_BYTES = 32;
/** Keys are hashed by HMAC beyond 64 bytes; longer than this is a mistake. */
const MAX_KEY_BYTES = 256;
const OSSL_PARAM_UTF8_STRING = 4;

export interface Mac extends MacPort {
  /** Frees every keyed state. */
  close(): void;
}

let fetched = 0;

/** @throws SysError CRYPTO_MISSING, or SELF_TEST when the result differs from node:crypto's */
export function createMac(deps: { readonly slab: SlabMemory }): Mac {
  selfTest();
  return new EvpMac(deps.slab);
}

function selfTest(): void {
  // RFC 4231, test case 2
  const slab = new Slab(4096);
  const mac = new EvpMac(slab);
  const key = new TextEncoder().encode("Jefe");
  const data = new TextEncoder().encode("what do ya want for nothing?");
  const at = slab.allocate(128);
  slab.u8.set(data, at);
  const handle = mac.create(key);
  let right = true;
  for (let round = 0; round < 2; round++) {
    mac.compute(handle, at, data.length, at + 64);
    const result = Buffer.from(slab.buffer, at + 64, MAC_BYTES).toString("hex");
    right &&= result === "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    right &&= result === createHmac("sha256", key).update(data).digest("hex");
  }
  mac.close();
  if (right) return;
  throw new SysError("EVP_MAC", 0, {
    code: "SELF_TEST",
    what: "OpenSSL failed its self-test: HMAC-SHA256 differs from RFC 4231",
    remedy: "do not use this machine's OpenSSL: run the pinned Node (npm ci)",
  });
}

class EvpMac implements Mac {
  readonly #crypto = loadCrypto();
  readonly #slab: SlabMemory;
  readonly #base: number;
  readonly #key: number;
  readonly #lengthAddress: number;
  readonly #parameters: number;
  /** By handle; undefined = free. Index 0 is never used. */
  readonly #contexts: (number | undefined)[] = [undefined];
  readonly #free: number[] = [];

  /** Takes 448 bytes of the slab. */
  constructor(slab: SlabMemory) {
    this.#slab = slab;
    this.#base = slabAddress(slab);
    const at = slab.allocate(MAX_KEY_BYTES + 192);
    this.#key = at;
    this.#lengthAddress = this.#base + at + MAX_KEY_BYTES;
    // OSSL_PARAM array: "digest" = "SHA256", end
    this.#parameters = at + MAX_KEY_BYTES + 16;
    const strings = this.#parameters + 80;
    slab.u8.set(new TextEncoder().encode("digest\0SHA256\0"), strings);
    setU64(slab.view, this.#parameters, this.#base + strings);
    slab.view.setUint32(this.#parameters + 8, OSSL_PARAM_UTF8_STRING, true);
    setU64(slab.view, this.#parameters + 16, this.#base + strings + 7);
    setU64(slab.view, this.#parameters + 24, 6);
    if (fetched === 0) fetched = this.#crypto.EVP_MAC_fetch(0, "HMAC", 0);
    if (fetched === 0) throw failure("EVP_MAC_fetch");
  }

  create(key: Uint8Array): number {
    if (key.length === 0 || key.length > MAX_KEY_BYTES)
      throw new RangeError(`a MAC key has 1–${MAX_KEY_BYTES} bytes, not ${key.length}`);
    const context = this.#crypto.EVP_MAC_CTX_new(fetched);
    if (context === 0) throw failure("EVP_MAC_CTX_new");
    this.#slab.u8.set(key, this.#key);
    const done = this.#crypto.EVP_MAC_init(context, this.#base + this.#key, key.length, this.#base + this.#parameters);
    this.#slab.u8.fill(0, this.#key, this.#key + key.length);
    if (done !== 1) {
      this.#crypto.EVP_MAC_CTX_free(context);
      throw failure("EVP_MAC_init");
    }
    const handle = this.#free.pop() ?? this.#contexts.length;
    this.#contexts[handle] = context;
    return handle;
  }

  destroy(handle: number): void {
    const context = this.#contexts[handle];
    if (context === undefined) throw new RangeError(`no such MAC key: ${handle}`);
    this.#contexts[handle] = undefined;
    this.#free.push(handle);
    this.#crypto.EVP_MAC_CTX_free(context);
  }

  /** @throws when the handle is not alive or OpenSSL refuses: going on would compare with stale bytes */
  compute(handle: number, source: number, bytes: number, target: number): void {
    const crypto = this.#crypto;
    const context = this.#contexts[handle];
    if (context === undefined) throw new RangeError(`no such MAC key: ${handle}`);
    if (
      crypto.EVP_MAC_init(context, 0, 0, 0) !== 1 ||
      crypto.EVP_MAC_update(context, this.#base + source, bytes) !== 1 ||
      crypto.EVP_MAC_final(context, this.#base + target, this.#lengthAddress, MAC_BYTES) !== 1
    ) {
      throw failure("EVP_MAC");
    }
  }

  close(): void {
    for (let handle = 1; handle < this.#contexts.length; handle++) {
      if (this.#contexts[handle] !== undefined) this.destroy(handle);
    }
  }
}

function failure(call: string): SysError {
  return new SysError(call, 0, {
    code: "MAC_FAILED",
    what: `${call} was refused by OpenSSL`,
    remedy: "this is unexpected: stop the daemon and report it",
  });
}
