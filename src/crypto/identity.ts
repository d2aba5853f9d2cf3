/**
 * A node's identity: one Ed25519 key (RFC 8032), its Montgomery form as the X25519 static key of the handshake, and signatures
 * that serve one purpose each. Source: docs/protocol.md, "Identity".
 *   signed bytes: "weft/1 KIND" ‖ 0 ‖ network id 32 ‖ body
 *   X25519 private: first 32 bytes of SHA-512(seed), clamped (RFC 8032 section 5.1.5); public: the birational map of RFC 7748 section 4.1
 */
import { createHash, createPrivateKey, createPublicKey, sign, verify, type KeyObject } from "node:crypto";
import { ed25519 } from "@noble/curves/ed25519.js";
import { concat, equal, utf8 } from "../base/bytes.ts";
import type { Random } from "../base/random.ts";
import { zeroise } from "./secret.ts";
import { X25519KeyPair } from "./x25519.ts";

export const SEED_BYTES = 32;
export const SIGNATURE_BYTES = 64;

const SIGN_PREFIX = utf8("weft/1 ");
const ZERO_BYTE = new Uint8Array(1);

function signedBytes(kind: string, networkId: Uint8Array, body: Uint8Array): Uint8Array {
  return concat(SIGN_PREFIX, utf8(kind), ZERO_BYTE, networkId, body);
}

/** Holds the private keys of a node. The seed is needed only to write the identity file and can be read from `seed`. */
export class Identity {
  /** 32 bytes, Ed25519 public key */
  readonly nodeId: Uint8Array;
  /** X25519 form of the same key, for the handshake */
  readonly staticKeys: X25519KeyPair;
  /** 32 secret bytes; do not change */
  readonly seed: Uint8Array;
  readonly #signingKey: KeyObject;

  /** @param seed 32 bytes, copied */
  constructor(seed: Uint8Array) {
    if (seed.length !== SEED_BYTES)
      throw new RangeError(`identity seed must be ${SEED_BYTES} bytes, not ${seed.length}`);
    this.seed = Uint8Array.from(seed);
    this.#signingKey = createPrivateKey({ key: this.seed, format: "raw-private", asymmetricKeyType: "ed25519" });
    this.nodeId = createPublicKey(this.#signingKey).export({ format: "raw-public" });
    const digest = createHash("sha512").update(this.seed).digest();
    const secret = digest.subarray(0, 32);
    secret[0] = secret[0] & 248;
    secret[31] = (secret[31] & 127) | 64;
    this.staticKeys = new X25519KeyPair(secret);
    zeroise(digest);
  }

  static generate(random: Random): Identity {
    const seed = random.bytes(SEED_BYTES);
    const identity = new Identity(seed);
    zeroise(seed);
    return identity;
  }

  /** @param kind the purpose, ASCII without NUL @param networkId 32 bytes @returns 64 bytes */
  sign(kind: string, networkId: Uint8Array, body: Uint8Array): Uint8Array {
    return sign(null, signedBytes(kind, networkId, body), this.#signingKey);
  }
}

/** Anything may be in `nodeId` and `signature`; wrong lengths and impossible keys verify nothing. */
export function verifySignature(
  nodeId: Uint8Array,
  kind: string,
  networkId: Uint8Array,
  body: Uint8Array,
  signature: Uint8Array,
): boolean {
  if (nodeId.length !== 32 || signature.length !== SIGNATURE_BYTES) return false;
  try {
    const key = createPublicKey({ key: nodeId, format: "raw-public", asymmetricKeyType: "ed25519" });
    return verify(null, signedBytes(kind, networkId, body), key, signature);
  } catch {
    // A public key that is not on the curve is reported by throwing; it is hostile input like any wrong signature.
    return false;
  }
}

/**
 * The X25519 public key that belongs to a node id.
 * @param nodeId anything
 * @returns 32 bytes, or undefined for a wrong length, a non-canonical encoding, a point off the curve or one of low order
 */
export function staticKeyOf(nodeId: Uint8Array): Uint8Array | undefined {
  if (nodeId.length !== 32) return undefined;
  try {
    const point = ed25519.Point.fromBytes(nodeId, false);
    if (point.isSmallOrder() || !equal(point.toBytes(), nodeId)) return undefined;
    return ed25519.utils.toMontgomery(nodeId);
  } catch {
    return undefined;
  }
}
