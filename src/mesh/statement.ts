/**
 * Roster statements: signed, immutable, content-addressed.
 *
 *   wire = signature 64 ‖ payload; payload = deterministic CBOR {network, issuer, parents, hlc, kind, body}
 *   hash = SHA-256(payload); signature over "weft/1 statement" ‖ 0 ‖ network ‖ payload
 *
 * `network` is the network id, in the genesis 32 zero bytes (the id is the genesis' hash). `parents` are hashes of the heads the issuer
 * knew, sorted, 1–8 (none in the genesis). `hlc` is a hybrid logical clock in 1/1024 ms since 1970, above that of every parent.
 * Kinds genesis, admit, invite and revoke have the bodies below; any other kind is kept and passed on without effect, so that later
 * versions can add some. Unknown fields of a known body are ignored but stay signed.
 * Source: docs/protocol.md, "Roster".
 */
import { createHash } from "node:crypto";
import { compare, concat, equal, toHex } from "../base/bytes.ts";
import { type Ipv4Prefix, ipv4Bytes, readIpv4 } from "./addresses.ts";
import {
  type Cbor,
  type CborMap,
  asBytes,
  asListOf,
  asMap,
  asText,
  asUint,
  decodeCanonicalCbor,
  encodeCbor,
} from "./cbor.ts";
import { type MeshKeys, SignKind, type Signer } from "./keys.ts";
import { ROLES, type Role } from "./types.ts";

/** Fits a control message with its frame. */
export const MAX_STATEMENT_BYTES = 1024;
export const MAX_PARENTS = 8;
export const HASH_BYTES = 32;
export const SIGNATURE_BYTES = 64;
export const MAX_INVITE_USES = 10_000;
export const MAX_TAGS = 16;
/** One below the end of the range that digests cover. */
export const MAX_HLC: number = Number.MAX_SAFE_INTEGER - 1;
const MAX_REASON_BYTES = 200;
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
  INVITE_EXPIRED: "invite-expired",
  ISSUER_QUOTA: "issuer-over-quota",
  ROSTER_FULL: "roster-full",
} as const;
export type Refusal = (typeof Refusal)[keyof typeof Refusal];

export interface GenesisBody {
  readonly kind: "genesis";
  readonly network: string;
  readonly name: string;
  readonly prefix: Ipv4Prefix;
}
export interface AdmitBody {
  readonly kind: "admit";
  readonly node: Uint8Array;
  readonly name: string;
  /** Unsigned number. */
  readonly ipv4: number;
  readonly roles: readonly Role[];
  readonly tags: readonly string[];
  readonly expiresAtMs: number | undefined;
  /** Hash of the invite statement it rests on. */
  readonly invite: Uint8Array | undefined;
}
export interface InviteBody {
  readonly kind: "invite";
  /** Ed25519 public key whose holder may ask to join. */
  readonly key: Uint8Array;
  readonly uses: number;
  readonly expiresAtMs: number;
  readonly roles: readonly Role[];
  readonly tags: readonly string[];
}
/** Ends a membership or an invite; exactly one of the two is set. Issued by the node itself it means leaving. */
export interface RevokeBody {
  readonly kind: "revoke";
  readonly node: Uint8Array | undefined;
  readonly invite: Uint8Array | undefined;
  readonly reason: string;
}
export interface UnknownBody {
  readonly kind: "unknown";
}
export type StatementBody = GenesisBody | AdmitBody | InviteBody | RevokeBody | UnknownBody;

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

/** Total order that contains the DAG's order: by (hlc, hash). */
export function compareStatements(a: Statement, b: Statement): number {
  return a.hlc - b.hlc || compare(a.hash, b.hash);
}

/** DNS label (RFC 1123), lower case, as names of nodes and networks are. */
export function isName(text: string): boolean {
  return /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text);
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

/** Bodies in their CBOR form, for signStatement. */
export function genesisBody(network: string, name: string, prefix: Ipv4Prefix, nonce: Uint8Array): CborMap {
  return { network, name, prefix: [ipv4Bytes(prefix.base), prefix.bits], nonce };
}

export function admitBody(body: Omit<AdmitBody, "kind">): CborMap {
  return {
    node: body.node,
    name: body.name,
    ipv4: ipv4Bytes(body.ipv4),
    roles: body.roles,
    tags: body.tags,
    expires: body.expiresAtMs,
    invite: body.invite,
  };
}

export function inviteBody(body: Omit<InviteBody, "kind">): CborMap {
  return { key: body.key, uses: body.uses, expires: body.expiresAtMs, roles: body.roles, tags: body.tags };
}

export function revokeBody(body: Omit<RevokeBody, "kind">): CborMap {
  return { node: body.node, invite: body.invite, reason: truncateUtf8(body.reason, MAX_REASON_BYTES) };
}

function readBody(kind: string, map: CborMap): StatementBody | undefined {
  switch (kind) {
    case "genesis":
      return readGenesis(map);
    case "admit":
      return readAdmit(map);
    case "invite":
      return readInvite(map);
    case "revoke":
      return readRevoke(map);
    default:
      return { kind: "unknown" };
  }
}

function readGenesis(map: CborMap): GenesisBody | undefined {
  const network = asName(map["network"]);
  const name = asName(map["name"]);
  const pair = map["prefix"];
  if (network === undefined || name === undefined || !Array.isArray(pair) || pair.length !== 2) return undefined;
  const base = asBytes(pair[0] as Cbor, 4);
  const bits = asUint(pair[1] as Cbor, 30);
  if (base === undefined || bits === undefined || bits < 8) return undefined;
  const value = readIpv4(base);
  if ((value & (2 ** (32 - bits) - 1)) !== 0) return undefined;
  return { kind: "genesis", network, name, prefix: { base: value, bits } };
}

function readAdmit(map: CborMap): AdmitBody | undefined {
  const node = asBytes(map["node"], 32);
  const name = asName(map["name"]);
  const ipv4 = asBytes(map["ipv4"], 4);
  const grants = readGrants(map);
  const expiresAtMs = map["expires"] === undefined ? undefined : asUint(map["expires"]);
  const invite = map["invite"] === undefined ? undefined : asBytes(map["invite"], HASH_BYTES);
  if (node === undefined || name === undefined || ipv4 === undefined || grants === undefined) return undefined;
  if (map["expires"] !== undefined && expiresAtMs === undefined) return undefined;
  if (map["invite"] !== undefined && invite === undefined) return undefined;
  return { kind: "admit", node, name, ipv4: readIpv4(ipv4), ...grants, expiresAtMs, invite };
}

function readInvite(map: CborMap): InviteBody | undefined {
  const key = asBytes(map["key"], 32);
  const uses = asUint(map["uses"], MAX_INVITE_USES);
  const expiresAtMs = asUint(map["expires"]);
  const grants = readGrants(map);
  if (key === undefined || uses === undefined || uses < 1 || expiresAtMs === undefined || grants === undefined)
    return undefined;
  return { kind: "invite", key, uses, expiresAtMs, ...grants };
}

function readRevoke(map: CborMap): RevokeBody | undefined {
  const node = map["node"] === undefined ? undefined : asBytes(map["node"], 32);
  const invite = map["invite"] === undefined ? undefined : asBytes(map["invite"], HASH_BYTES);
  const reason = asText(map["reason"], MAX_REASON_BYTES);
  if (reason === undefined || (node === undefined) === (invite === undefined)) return undefined;
  if (map["node"] !== undefined && map["invite"] !== undefined) return undefined;
  return { kind: "revoke", node, invite, reason };
}

/** Roles of later versions are ignored here: they stay in the signed bytes. */
function readGrants(map: CborMap): { roles: readonly Role[]; tags: readonly string[] } | undefined {
  const roles = asListOf(map["roles"], MAX_TAGS, (item) => asText(item, 32));
  const tags = asListOf(map["tags"], MAX_TAGS, (item) => asText(item, 32));
  if (roles === undefined || tags === undefined) return undefined;
  return { roles: ROLES.filter((role) => role !== "member" && roles.includes(role)), tags };
}

function truncateUtf8(text: string, maxBytes: number): string {
  let kept = "";
  let bytes = 0;
  for (const character of text.toWellFormed()) {
    bytes += Buffer.byteLength(character);
    if (bytes > maxBytes) break;
    kept += character;
  }
  return kept;
}

function asName(value: Cbor | undefined): string | undefined {
  const text = asText(value, 63);
  return text !== undefined && isName(text) ? text : undefined;
}
