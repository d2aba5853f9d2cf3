/**
 * The few key operations the mesh needs, as interfaces, so that roster and join code stays free of key handling.
 * Every signature is over "weft/1 KIND" ‖ 0 ‖ network id ‖ body (docs/protocol.md, "Identity").
 */
import { Identity, staticKeyOf, verifySignature } from "../crypto/identity.ts";
import { formatNodeId } from "../crypto/node-id.ts";

/** Purposes of mesh signatures; each is its own domain. */
export const SignKind = {
  STATEMENT: "statement",
  ENDPOINTS: "endpoints",
  JOIN: "join",
  FOUND: "found",
  NEAR: "near",
} as const;
export type SignKind = (typeof SignKind)[keyof typeof SignKind];

export interface Signer {
  /** 32 bytes, Ed25519 public key. */
  readonly nodeId: Uint8Array;
  /** @param networkId 32 bytes @returns 64 bytes, Ed25519 */
  sign(kind: SignKind, networkId: Uint8Array, body: Uint8Array): Uint8Array;
}

export interface MeshKeys {
  /** @param publicKey 32 bytes @param signature 64 bytes; anything may be in them */
  verify(
    publicKey: Uint8Array,
    kind: SignKind,
    networkId: Uint8Array,
    body: Uint8Array,
    signature: Uint8Array,
  ): boolean;
  /** @returns the 32-byte X25519 form, or undefined for keys of low order, not canonical or not on the curve */
  staticKeyOf(nodeId: Uint8Array): Uint8Array | undefined;
  /** @param seed 32 bytes */
  signerFromSeed(seed: Uint8Array): Signer;
  /** Text form of a node id, "w1…". */
  formatNodeId(nodeId: Uint8Array): string;
}

/** The real ones. */
export const systemKeys: MeshKeys = {
  verify: verifySignature,
  staticKeyOf,
  signerFromSeed: (seed) => new Identity(seed),
  formatNodeId,
};
