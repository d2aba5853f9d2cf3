/** X25519 (RFC 7748) key pairs over node:crypto. Shared secrets of low-order public keys (all zero) are refused. */
import { createPrivateKey, createPublicKey, diffieHellman, type KeyObject } from "node:crypto";

export const X25519_BYTES = 32;

export class X25519KeyPair {
  /** 32 bytes */
  readonly publicKey: Uint8Array;
  readonly #privateKey: KeyObject;

  /** @param secret 32 bytes, clamped by the algorithm; copied, the caller overwrites its own */
  constructor(secret: Uint8Array) {
    this.#privateKey = createPrivateKey({ key: secret, format: "raw-private", asymmetricKeyType: "x25519" });
    this.publicKey = createPublicKey(this.#privateKey).export({ format: "raw-public" });
  }

  /** @param publicKey 32 bytes; anything may be in them @returns 32 secret bytes, or undefined for a low-order key */
  agree(publicKey: Uint8Array): Uint8Array | undefined {
    try {
      const remote = createPublicKey({ key: publicKey, format: "raw-public", asymmetricKeyType: "x25519" });
      return diffieHellman({ privateKey: this.#privateKey, publicKey: remote });
    } catch {
      // OpenSSL reports the all-zero shared secret by throwing; to the caller it is a refused key.
      return undefined;
    }
  }
}
