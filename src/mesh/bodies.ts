/**
 * Bodies of roster statements: what each kind says, in memory and as deterministic CBOR. Reading never throws; a body that does not fit
 * its kind is none. Unknown fields of a known body are ignored but stay signed; kinds of later versions read as "unknown".
 * Who may say what, and what it does: statement.ts, roster.ts, resolve.ts. Source: docs/protocol.md, "Roster".
 */
import { type Ipv4Prefix, ipv4Bytes, readIpv4 } from "./addresses.ts";
import { type Cbor, type CborMap, asBytes, asListOf, asMap, asText, asUint } from "./cbor.ts";
import { type RoutePrefix, routePrefix } from "./route-prefix.ts";
import { ROLES, type Role, type StaleRule } from "./types.ts";

export const HASH_BYTES = 32;
export const MAX_INVITE_USES = 10_000;
export const MAX_TAGS = 16;
const MAX_REASON_BYTES = 200;

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
  /** Whoever asks waits until an admin has decided. */
  readonly approve?: boolean;
  /** Memberships under it end this long after their admission, milliseconds; undefined: never. */
  readonly lifeMs?: number | undefined;
}
/** Ends a membership or an invite; exactly one of the two is set. Issued by the node itself it means leaving. */
export interface RevokeBody {
  readonly kind: "revoke";
  readonly node: Uint8Array | undefined;
  readonly invite: Uint8Array | undefined;
  readonly reason: string;
}
/** Makes a member an admin. */
export interface AdminBody {
  readonly kind: "admin";
  readonly node: Uint8Array;
}
/** Takes the role admin away; the member stays a member. */
export interface UnadminBody {
  readonly kind: "unadmin";
  readonly node: Uint8Array;
  readonly reason: string;
}
/** Changes what it names about a member; the rest stays. Who is an admin is said by `admin` and `unadmin` alone. */
export interface UpdateBody {
  readonly kind: "update";
  readonly node: Uint8Array;
  readonly name: string | undefined;
  /** The whole new set, without "admin". */
  readonly roles: readonly Role[] | undefined;
  readonly tags: readonly string[] | undefined;
  /** null: the membership does not end by itself. */
  readonly expiresAtMs: number | null | undefined;
}
/** Rules for the whole network; each one is the whole policy. */
export interface PolicyBody {
  readonly kind: "policy";
  /** One above the highest among the ancestors. */
  readonly version: number;
  /** What a node does with user data while nobody confirms its roster. */
  readonly stale: StaleRule;
  /** For parts that define rules of their own. */
  readonly rules: CborMap;
}
/** Says whether packets for a prefix may be routed to a member. */
export interface RouteBody {
  readonly kind: "route";
  readonly node: Uint8Array;
  readonly prefix: RoutePrefix;
  readonly approved: boolean;
}
/** A proposal to make everything below it final, or (with `of`) the consent of another admin to one. */
export interface CheckpointBody {
  readonly kind: "checkpoint";
  readonly of: Uint8Array | undefined;
}
/** Kinds of later versions, and "merge", which folds heads. */
export interface UnknownBody {
  readonly kind: "unknown";
}
export type StatementBody =
  | GenesisBody
  | AdmitBody
  | InviteBody
  | RevokeBody
  | AdminBody
  | UnadminBody
  | UpdateBody
  | PolicyBody
  | RouteBody
  | CheckpointBody
  | UnknownBody;

/** DNS label (RFC 1123), lower case, as names of nodes and networks are. */
export function isName(text: string): boolean {
  return /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text);
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
  return {
    key: body.key,
    uses: body.uses,
    expires: body.expiresAtMs,
    roles: body.roles,
    tags: body.tags,
    approve: body.approve === true ? true : undefined,
    life: body.lifeMs,
  };
}

export function revokeBody(body: Omit<RevokeBody, "kind">): CborMap {
  return { node: body.node, invite: body.invite, reason: truncateUtf8(body.reason, MAX_REASON_BYTES) };
}

export function adminBody(node: Uint8Array): CborMap {
  return { node };
}

export function unadminBody(node: Uint8Array, reason: string): CborMap {
  return { node, reason: truncateUtf8(reason, MAX_REASON_BYTES) };
}

export function updateBody(body: Pick<UpdateBody, "node"> & Partial<Omit<UpdateBody, "kind">>): CborMap {
  return { node: body.node, name: body.name, roles: body.roles, tags: body.tags, expires: body.expiresAtMs };
}

export function policyBody(body: Omit<PolicyBody, "kind">): CborMap {
  return { version: body.version, stale: body.stale, rules: body.rules };
}

export function routeBody(node: Uint8Array, prefix: RoutePrefix, approved: boolean): CborMap {
  return { node, prefix: [prefix.address, prefix.bits], approved };
}

/** @param of hash of the proposal it consents to; undefined: a proposal */
export function checkpointBody(of: Uint8Array | undefined): CborMap {
  return { of };
}

/** @returns undefined when the kind is known and the body is not one of it */
export function readBody(kind: string, map: CborMap): StatementBody | undefined {
  switch (kind) {
    case "genesis":
      return readGenesis(map);
    case "admit":
      return readAdmit(map);
    case "invite":
      return readInvite(map);
    case "revoke":
      return readRevoke(map);
    case "admin":
      return readAdmin(map);
    case "unadmin":
      return readUnadmin(map);
    case "update":
      return readUpdate(map);
    case "policy":
      return readPolicy(map);
    case "route":
      return readRoute(map);
    case "checkpoint":
      return readCheckpoint(map);
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
  const lifeMs = asUint(map["life"]);
  if (key === undefined || uses === undefined || uses < 1 || expiresAtMs === undefined || grants === undefined)
    return undefined;
  if (map["life"] !== undefined && lifeMs === undefined) return undefined;
  if (map["approve"] !== undefined && typeof map["approve"] !== "boolean") return undefined;
  return { kind: "invite", key, uses, expiresAtMs, ...grants, approve: map["approve"] === true, lifeMs };
}

function readRevoke(map: CborMap): RevokeBody | undefined {
  const node = map["node"] === undefined ? undefined : asBytes(map["node"], 32);
  const invite = map["invite"] === undefined ? undefined : asBytes(map["invite"], HASH_BYTES);
  const reason = asText(map["reason"], MAX_REASON_BYTES);
  if (reason === undefined || (node === undefined) === (invite === undefined)) return undefined;
  if (map["node"] !== undefined && map["invite"] !== undefined) return undefined;
  return { kind: "revoke", node, invite, reason };
}

function readAdmin(map: CborMap): AdminBody | undefined {
  const node = asBytes(map["node"], 32);
  return node === undefined ? undefined : { kind: "admin", node };
}

function readUnadmin(map: CborMap): UnadminBody | undefined {
  const node = asBytes(map["node"], 32);
  const reason = asText(map["reason"], MAX_REASON_BYTES);
  return node === undefined || reason === undefined ? undefined : { kind: "unadmin", node, reason };
}

function readUpdate(map: CborMap): UpdateBody | undefined {
  const node = asBytes(map["node"], 32);
  if (node === undefined) return undefined;
  const name = asName(map["name"]);
  if (map["name"] !== undefined && name === undefined) return undefined;
  const roles = map["roles"] === undefined ? undefined : readRoles(map["roles"]);
  if (map["roles"] !== undefined && roles === undefined) return undefined;
  const tags = map["tags"] === undefined ? undefined : readTags(map["tags"]);
  if (map["tags"] !== undefined && tags === undefined) return undefined;
  const expires = map["expires"];
  const expiresAtMs = expires === null ? null : asUint(expires);
  if (expires !== undefined && expiresAtMs === undefined) return undefined;
  return { kind: "update", node, name, roles: roles?.filter((role) => role !== "admin"), tags, expiresAtMs };
}

function readPolicy(map: CborMap): PolicyBody | undefined {
  const version = asUint(map["version"], 0xffffffff);
  const stale = asStaleRule(map["stale"]);
  const rules = asMap(map["rules"]);
  if (version === undefined || version < 1 || stale === undefined || rules === undefined) return undefined;
  return { kind: "policy", version, stale, rules };
}

function readRoute(map: CborMap): RouteBody | undefined {
  const node = asBytes(map["node"], 32);
  const pair = map["prefix"];
  const approved = map["approved"];
  if (node === undefined || !Array.isArray(pair) || pair.length !== 2 || typeof approved !== "boolean")
    return undefined;
  const address = asBytes(pair[0] as Cbor, 16, true);
  const bits = asUint(pair[1] as Cbor, 128);
  const prefix = address === undefined || bits === undefined ? undefined : routePrefix(address, bits);
  return prefix === undefined ? undefined : { kind: "route", node, prefix, approved };
}

function readCheckpoint(map: CborMap): CheckpointBody | undefined {
  const of = asBytes(map["of"], HASH_BYTES);
  return map["of"] !== undefined && of === undefined ? undefined : { kind: "checkpoint", of };
}

function readGrants(map: CborMap): { roles: readonly Role[]; tags: readonly string[] } | undefined {
  const roles = readRoles(map["roles"]);
  const tags = readTags(map["tags"]);
  return roles === undefined || tags === undefined ? undefined : { roles, tags };
}

/** Roles of later versions are ignored here: they stay in the signed bytes. */
function readRoles(value: Cbor | undefined): readonly Role[] | undefined {
  const roles = asListOf(value, MAX_TAGS, (item) => asText(item, 32));
  return roles === undefined ? undefined : ROLES.filter((role) => role !== "member" && roles.includes(role));
}

function readTags(value: Cbor | undefined): readonly string[] | undefined {
  return asListOf(value, MAX_TAGS, (item) => asText(item, 32));
}

/** @returns undefined when it is none of the rules */
function asStaleRule(value: Cbor | undefined): StaleRule | undefined {
  return value === "allow" || value === "refuse" ? value : undefined;
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
