/**
 * The hybrid ratchet's key schedule: ML-KEM-768 (FIPS 203) on top of a finished Noise handshake. Source: docs/protocol.md, "Handshake".
 *   exporter = HKDF(ck, "weft exporter"), before Split
 *   64 bytes = HKDF-SHA256(salt = transcript hash ‖ SHA-256(public key ‖ ciphertext), ikm = exporter ‖ KEM secret, info = "weft hybrid v1")
 *            = initiator→responder 32 ‖ responder→initiator 32
 * A wrong ciphertext does not fail: it gives another secret (implicit rejection), which shows as failed authentication later.
 */
import { createPrivateKey, createPublicKey, decapsulate, encapsulate, type KeyObject } from "node:crypto";
import { concat, utf8 } from "../base/bytes.ts";
import type { Random } from "../base/random.ts";
import { hkdfSha256, sha256 } from "./kdf.ts";
import type { TransportKeys } from "./noise.ts";
import { zeroise } from "./secret.ts";

export const KEM_PUBLIC_KEY_BYTES = 1184;
export const KEM_CIPHERTEXT_BYTES = 1088;
export const EXPORTER_INFO: Uint8Array = utf8("weft exporter");

const KEM = "ml-kem-768";
const SEED_BYTES = 64;
const HYBRID_INFO = utf8("weft hybrid v1");

/** The initiator's half: a fresh key pair for one exchange. */
export class KemKeyPair {
  /** 1,184 bytes */
  readonly publicKey: Uint8Array;
  readonly #privateKey: KeyObject;

  constructor(random: Random) {
    const seed = random.bytes(SEED_BYTES);
    this.#privateKey = createPrivateKey({ key: seed, format: "raw-seed", asymmetricKeyType: KEM });
    zeroise(seed);
    this.publicKey = createPublicKey(this.#privateKey).export({ format: "raw-public" });
  }

  /** @param ciphertext anything @returns 32 bytes; undefined only for a wrong length */
  decapsulate(ciphertext: Uint8Array): Uint8Array | undefined {
    if (ciphertext.length !== KEM_CIPHERTEXT_BYTES) return undefined;
    return new Uint8Array(decapsulate(this.#privateKey, ciphertext));
  }
}

/** The responder's half. @param publicKey anything @returns undefined when it is no valid ML-KEM-768 key (FIPS 203 section 7.2) */
export function kemEncapsulate(publicKey: Uint8Array): { ciphertext: Uint8Array; secret: Uint8Array } | undefined {
  if (publicKey.length !== KEM_PUBLIC_KEY_BYTES) return undefined;
  try {
    const key = createPublicKey({ key: publicKey, format: "raw-public", asymmetricKeyType: KEM });
    const result = encapsulate(key);
    return { ciphertext: new Uint8Array(result.ciphertext), secret: new Uint8Array(result.sharedKey) };
  } catch {
    // The modulus check of FIPS 203 is reported by throwing; the key is a peer's and may hold anything.
    return undefined;
  }
}

/** @param exporter 32 bytes @param kemSecret 32 bytes; both stay the caller's to overwrite */
export function hybridKeys(
  transcriptHash: Uint8Array,
  publicKey: Uint8Array,
  ciphertext: Uint8Array,
  exporter: Uint8Array,
  kemSecret: Uint8Array,
): TransportKeys {
  const ikm = concat(exporter, kemSecret);
  const out = hkdfSha256(ikm, concat(transcriptHash, sha256(publicKey, ciphertext)), HYBRID_INFO, 64);
  const keys = { initiatorToResponder: out.slice(0, 32), responderToInitiator: out.slice(32) };
  zeroise(ikm, out);
  return keys;
}
