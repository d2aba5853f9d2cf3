/**
 * An agent's lease: the agent's key says on which node it lives, and that node's key says that it hosts it. Both must sign, so that a node can
 * neither claim an agent whose key it does not have nor be given one that it does not want. A higher version replaces a lower one wherever
 * they meet; equal versions are decided by the bytes, so that every node decides alike.
 *   0 form u8 = 1 | 1 zero, 7 bytes | 8 version u64 | 16 expires u64, milliseconds since 1970 | 24 agent 32 | 56 node 32 | 88 agent's signature 64 | 152 node's signature 64
 * Little-endian. Signed are the first 88 bytes, as "lease" by the agent and "lease host" by the node. The version is generation × 2^33 + seconds
 * since 1970: a move is a new generation, a renewal a later second, so that the node that was left cannot win the agent back by renewing.
 * Source: docs/protocol.md, "Agents".
 */
import { compare, concat, equal } from "../../base/bytes.ts";
import { type Identity, verifySignature } from "../../crypto/identity.ts";
import { FieldReader, u64 } from "../fields.ts";
import { MAX_AHEAD_MS } from "../kv/hlc.ts";

export const LEASE_BYTES = 216;
/** A lease ends at most this long after it was made. */
export const MAX_LEASE_MS: number = 7 * 86_400_000;

/** Form 1 and zeros. */
const HEAD: Uint8Array = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0);
const GENERATION = 2 ** 33;
export const MAX_GENERATION: number = 2 ** 20 - 1;
const AGENT_SIGNATURE = 88;
const NODE_SIGNATURE = 152;
const AGENT_KIND = "lease";
const NODE_KIND = "lease host";

export interface Lease {
  /** 32 bytes, the agent's public key. */
  readonly agent: Uint8Array;
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  readonly version: number;
  readonly expiresAtMs: number;
}

/** What signs; an Identity is one. */
export type LeaseSigner = Pick<Identity, "nodeId" | "sign">;

/** @param networkId 32 bytes @param lifeMs at most MAX_LEASE_MS @param generation counts the moves, 0 – MAX_GENERATION @returns LEASE_BYTES */
export function signLease(
  networkId: Uint8Array,
  agent: LeaseSigner,
  node: LeaseSigner,
  wallMs: number,
  lifeMs: number,
  generation: number,
): Uint8Array {
  const seconds = Math.floor(wallMs / 1000);
  const version = Math.min(generation, MAX_GENERATION) * GENERATION + seconds;
  const expiresAtMs = seconds * 1000 + Math.floor(Math.min(lifeMs, MAX_LEASE_MS));
  const body = concat(HEAD, u64(version), u64(expiresAtMs), agent.nodeId, node.nodeId);
  return concat(body, agent.sign(AGENT_KIND, networkId, body), node.sign(NODE_KIND, networkId, body));
}

/** @param wire anything @returns undefined when it is malformed, expired, from the future, too long-lived or wrongly signed */
export function openLease(networkId: Uint8Array, wire: Uint8Array, wallMs: number): Lease | undefined {
  const lease = readLease(wire);
  if (lease === undefined || lease.expiresAtMs <= wallMs) return undefined;
  const madeMs = (lease.version % GENERATION) * 1000;
  if (madeMs > wallMs + MAX_AHEAD_MS || lease.expiresAtMs > madeMs + MAX_LEASE_MS) return undefined;
  const body = wire.subarray(0, AGENT_SIGNATURE);
  if (!verifySignature(lease.nodeId, NODE_KIND, networkId, body, wire.subarray(NODE_SIGNATURE))) return undefined;
  if (!verifySignature(lease.agent, AGENT_KIND, networkId, body, wire.subarray(AGENT_SIGNATURE, NODE_SIGNATURE))) {
    return undefined;
  }
  return lease;
}

/** The fields alone, of a lease that this node has checked before. @returns undefined when it is malformed */
export function readLease(wire: Uint8Array): Lease | undefined {
  if (wire.length !== LEASE_BYTES || !equal(wire.subarray(0, HEAD.length), HEAD)) return undefined;
  const reader = new FieldReader(wire.subarray(0, AGENT_SIGNATURE), HEAD.length);
  const version = reader.u64();
  const expiresAtMs = reader.u64();
  const agent = reader.bytes(32);
  const nodeId = reader.bytes(32);
  return reader.isWhole ? { agent, nodeId, version, expiresAtMs } : undefined;
}

export function generationOf(lease: Lease): number {
  return Math.floor(lease.version / GENERATION);
}

/** The order in which leases of one agent replace each other: by version, then by the signed bytes. @returns above 0 when `a` replaces `b` */
export function compareLeases(a: Uint8Array, b: Uint8Array): number {
  const versions = (readLease(a)?.version ?? 0) - (readLease(b)?.version ?? 0);
  return versions === 0 ? compare(a.subarray(0, AGENT_SIGNATURE), b.subarray(0, AGENT_SIGNATURE)) : versions;
}
