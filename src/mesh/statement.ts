/**
 * Roster statements: signed, immutable, content-addressed.
 *
 *   wire = signature 64 ‖ payload; payload = deterministic CBOR {network, issuer, parents, hlc, kind, body}
 *   hash = SHA-256(payload); signature over "weft/1 statement" ‖ 0 ‖ network ‖ payload
 *
 * `network` is the network id, in the genesis 32 zero bytes (the id is the genesis' hash). `parents` are hashes of the heads the issuer
 * knew, sorted, 1–8 (none in the genesis). `hlc` is a hybrid logical clock in 1/1024 ms since 1970, above that of every parent.
 * Known kinds have the bodies of bodies.ts; any other kind is kept and passed on without effect, so that later versions can add some.
 * Source: docs/protocol.md, "Roster".
 */
import { createHash } from "node:crypto";
import { compare, concat, equal, toHex } from "../base/bytes.ts";
import { HASH_BYTES, readBody, type StatementBody } from "./bodies.ts";
import { type CborMap, asBytes, asListOf, asMap, asText, asUint, decodeCanonicalCbor, encodeCbor } from "./cbor.ts";
import { type MeshKeys, SignKind, type Signer } from "./keys.ts";

export * from "./bodies.ts";

/** Fits a control message with its frame. */
export const MAX_STATEMENT_BYTES = 1024;
export const MAX_PARENTS = 8;
export const SIGNATURE_BYTES = 64;
/** One below the end of the range that digests cover. */
export const MAX_HLC: number = Number.MAX_SAFE_INTEGER - 1;
const MAX_KIND_CHARACTERS = 32;
const NO_NETWORK: Uint8Array = new Uint8Array(32);

/** Why a statement is not taken. Hostile input ends here, never in an exception. */
export const Refusal = {
  TOO_LONG: "too-long",
  MALFORMED: "malformed",
  FOREIGN: "another-network",
  BAD_SIGNATURE: "bad-signature",
  BAD_KEY: "bad-key",
  MISSING_PARENTS: "missing-parents",
  CLOCK_ORDER: "clock-not-after-parents",
  FUTURE: "from-the-future",
  NOT_AUTHORISED: "issuer-not-authorised",
  UNKNOWN_INVITE: "invite-not-among-ancestors",
  UNKNOWN_CHECKPOINT: "checkpoint-not-among-ancestors",
  POLICY_VERSION: "policy-version-not-next",
  INVITE_EXPIRED: "invite-expired",
  ISSUER_QUOTA: "issuer-over-quota",
  ROSTER_FULL: "roster-full",
} as const;
export type Refusal = (typeof Refusal)[keyof typeof Refusal];

export interface Statement {
  readonly hash: Uint8Array;
  readonly hashHex: string;
  readonly wire: Uint8Array;
  readonly issuer: Uint8Array;
  readonly issuerHex: string;
  readonly parents: readonly Uint8Array[];
  readonly hlc: number;
  /** As written; `body.kind` is "unknown" for kinds of later versions. */
  readonly kind: string;
  readonly body: StatementBody;
}

/** The clock's unit: 1/1024 ms. */
export function hlcFromWall(wallMs: number): number {
  return Math.max(0, Math.floor(wallMs)) * 1024;
}

export function wallFromHlc(hlc: number): number {
  return Math.floor(hlc / 1024);
}

/** True when only an admin may say it; everything else any member may (leaving, and kinds of later versions). */
export function needsAdmin(statement: Statement): boolean {
  const { body } = statement;
  if (body.kind === "revoke") return body.node === undefined || !equal(body.node, statement.issuer);
  return body.kind !== "unknown";
}

/** Total order that contains the DAG's order: by (hlc, hash). */
export function compareStatements(a: Statement, b: Statement): number {
  return a.hlc - b.hlc || compare(a.hash, b.hash);
}

/** @param text anything, such as a host name @returns the nearest valid name, "node" when nothing is left */
export function toName(text: string): string {
  const cleaned = text
    .toLowerCase()
    .replace(/\..*$/s, "")
    .replace(/[^a-z0-9-]+/g, "-")
    .slice(0, 63)
    .replace(/^-+|-+$/g, "");
  return cleaned === "" ? "node" : cleaned;
}

export interface StatementFields {
  /** 32 bytes; undefined only for a genesis */
  readonly networkId: Uint8Array | undefined;
  readonly parents: readonly Uint8Array[];
  readonly hlc: number;
  readonly kind: string;
  readonly body: CborMap;
}

/** Signs and encodes. @throws RangeError when the result is longer than MAX_STATEMENT_BYTES (callers bound what they put in) */
export function signStatement(fields: StatementFields, signer: Signer): Uint8Array {
  const network = fields.networkId ?? NO_NETWORK;
  const payload = encodeCbor({
    network,
    issuer: signer.nodeId,
    parents: [...fields.parents].toSorted(compare),
    hlc: fields.hlc,
    kind: fields.kind,
    body: fields.body,
  });
  const wire = concat(signer.sign(SignKind.STATEMENT, network, payload), payload);
  if (wire.length > MAX_STATEMENT_BYTES)
    throw new RangeError(`statement of ${wire.length} bytes, at most ${MAX_STATEMENT_BYTES} fit`);
  return wire;
}

/** The hash alone, without decoding: for asking "do I have it already?" */
export function statementHash(wire: Uint8Array): Uint8Array {
  return createHash("sha256").update(wire.subarray(SIGNATURE_BYTES)).digest();
}

/**
 * Decodes and verifies everything that can be judged without the roster: form, network, keys, signature.
 * @param wire any bytes; copied @param networkId 32 bytes
 */
export function openStatement(wire: Uint8Array, networkId: Uint8Array, keys: MeshKeys): Statement | Refusal {
  if (wire.length > MAX_STATEMENT_BYTES) return Refusal.TOO_LONG;
  if (wire.length <= SIGNATURE_BYTES) return Refusal.MALFORMED;
  const copy = new Uint8Array(wire);
  const payload = copy.subarray(SIGNATURE_BYTES);
  const map = asMap(decodeCanonicalCbor(payload, MAX_STATEMENT_BYTES));
  if (map === undefined || Object.keys(map).length !== 6) return Refusal.MALFORMED;
  const network = asBytes(map["network"], 32);
  const issuer = asBytes(map["issuer"], 32);
  const parents = asListOf(map["parents"], MAX_PARENTS, (item) => asBytes(item, HASH_BYTES));
  const hlc = asUint(map["hlc"], MAX_HLC);
  const kind = asText(map["kind"], MAX_KIND_CHARACTERS);
  const rawBody = asMap(map["body"]);
  if (network === undefined || issuer === undefined || parents === undefined || hlc === undefined)
    return Refusal.MALFORMED;
  if (kind === undefined || kind === "" || rawBody === undefined) return Refusal.MALFORMED;
  for (let i = 1; i < parents.length; i++) {
    if (compare(parents[i - 1], parents[i]) >= 0) return Refusal.MALFORMED;
  }
  const isGenesis = kind === "genesis";
  if (isGenesis !== (parents.length === 0)) return Refusal.MALFORMED;
  const hash = statementHash(copy);
  if (isGenesis ? !equal(hash, networkId) || !equal(network, NO_NETWORK) : !equal(network, networkId))
    return Refusal.FOREIGN;
  const body = readBody(kind, rawBody);
  if (body === undefined) return Refusal.MALFORMED;
  if (body.kind === "genesis" && keys.staticKeyOf(issuer) === undefined) return Refusal.BAD_KEY;
  if (body.kind === "admit" && keys.staticKeyOf(body.node) === undefined) return Refusal.BAD_KEY;
  if (!keys.verify(issuer, SignKind.STATEMENT, network, payload, copy.subarray(0, SIGNATURE_BYTES)))
    return Refusal.BAD_SIGNATURE;
  return { hash, hashHex: toHex(hash), wire: copy, issuer, issuerHex: toHex(issuer), parents, hlc, kind, body };
}
