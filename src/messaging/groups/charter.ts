/**
 * A group's charter: who belongs to it from now on, who may change that, and the key of this epoch, sealed to each member. Every change is a new
 * charter with a new key, signed by an admin of the one before, so that whoever was removed has no key to what is said afterwards.
 *
 *   wire = signature 64 ‖ payload; payload = deterministic CBOR
 *     {g: group 32, n: name, e: epoch from 1, p: SHA-256 of the payload before (none at 1), i: issuer 32, h: hlc, f: founder 32, r: the group's nonce 16,
 *      x: X25519 public key 32, m: [[node 32, role, until ms, card signature 64, envelope 48], …]}
 *   signed as "charter"; the group's id is SHA-256("weft group v1" ‖ network ‖ founder ‖ nonce), checked in every charter
 *   envelope = ChaCha20-Poly1305(HKDF-SHA256(X25519(x, member), salt = group ‖ epoch u32, info = "weft group envelope v1" ‖ member), 0, ad = group ‖ epoch ‖ member, key 32)
 *
 * Two charters that follow the same one are decided alike everywhere (compareSiblings): one that takes the other's issuer out of the admins goes
 * first, so that nobody stays by being quick; when each does, the issuer that comes first among the members of the one before (who was there first:
 * nobody may reorder them); else the smaller hash. Members are at most 128; bounded before anything is verified.
 * Source: docs/protocol.md, "Groups".
 */
import { compare, concat, equal, toHex, utf8 } from "../../base/bytes.ts";
import { chachaOpen, chachaSeal } from "../../crypto/chacha.ts";
import { type Identity, staticKeyOf, verifySignature } from "../../crypto/identity.ts";
import { hkdfSha256, sha256 } from "../../crypto/kdf.ts";
import { zeroise } from "../../crypto/secret.ts";
import { X25519KeyPair } from "../../crypto/x25519.ts";
import { asBytes, asListOf, asMap, asText, asUint, decodeCanonicalCbor, encodeCbor } from "../../mesh/cbor.ts";
import { MAX_HLC } from "../../mesh/statement.ts";
import { u32 } from "../fields.ts";
import { type Card, signCard } from "./card.ts";

export const MAX_GROUP_MEMBERS = 128;
export const MAX_CHARTER_BYTES = 32_768;
export const GROUP_KEY_BYTES = 32;
export const GROUP_NONCE_BYTES = 16;
const SIGNATURE_BYTES = 64;
const ENVELOPE_BYTES = 48;
const SIGN_KIND = "charter";
const GROUP_LABEL = utf8("weft group v1");
const ENVELOPE_LABEL = utf8("weft group envelope v1");
const NO_PARENT: Uint8Array = new Uint8Array(32);

export const GroupRole = { MEMBER: 0, ADMIN: 1 } as const;
export type GroupRole = (typeof GroupRole)[keyof typeof GroupRole];

export interface GroupMember {
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  readonly role: GroupRole;
  /** Wall-clock milliseconds; then it counts no more unless it is renewed. */
  readonly untilMs: number;
}

export interface Charter {
  /** 32 bytes */
  readonly group: Uint8Array;
  readonly name: string;
  readonly epoch: number;
  /** 32 bytes, zeros at epoch 1 */
  readonly parent: Uint8Array;
  readonly issuer: Uint8Array;
  /** 32 bytes; with the nonce it makes the group's id. */
  readonly founder: Uint8Array;
  /** 16 bytes, the same in all charters of a group */
  readonly nonce: Uint8Array;
  readonly hlc: number;
  readonly members: readonly (GroupMember & { readonly card: Uint8Array; readonly envelope: Uint8Array })[];
  /** 32 bytes, ephemeral */
  readonly publicKey: Uint8Array;
  /** 32 bytes */
  readonly hash: Uint8Array;
  readonly wire: Uint8Array;
}

export interface CharterFields {
  /** The group is made of them; of a new one the signer is the founder. */
  readonly origin: Pick<Charter, "founder" | "nonce">;
  readonly name: string;
  readonly epoch: number;
  readonly parent: Uint8Array | undefined;
  readonly hlc: number;
  readonly members: readonly GroupMember[];
}

type CharterSigner = Pick<Identity, "nodeId" | "sign">;

/** @param key 32 bytes, fresh @param secret 32 random bytes, overwritten @throws RangeError for a member with an impossible key */
export function signCharter(
  networkId: Uint8Array,
  fields: CharterFields,
  key: Uint8Array,
  secret: Uint8Array,
  signer: CharterSigner,
): Charter {
  const { founder, nonce } = fields.origin;
  const group = groupIdOf(networkId, founder, nonce);
  const ephemeral = new X25519KeyPair(secret);
  zeroise(secret);
  const members = fields.members.map((member) => {
    const card = signCard(networkId, cardOf(group, fields.name, fields.epoch, signer.nodeId, member), signer);
    const remote = staticKeyOf(member.nodeId);
    const shared = remote === undefined ? undefined : ephemeral.agree(remote);
    if (shared === undefined) throw new RangeError("a group member's key is impossible");
    const sealing = envelopeKey(shared, group, fields.epoch, member.nodeId);
    const envelope = chachaSeal(sealing, 0, envelopeData(group, fields.epoch, member.nodeId), key);
    zeroise(shared, sealing);
    return [member.nodeId, member.role, member.untilMs, card, envelope];
  });
  const payload = encodeCbor({
    g: group,
    n: fields.name,
    e: fields.epoch,
    p: fields.parent ?? NO_PARENT,
    i: signer.nodeId,
    h: fields.hlc,
    f: founder,
    r: nonce,
    x: ephemeral.publicKey,
    m: members,
  });
  const wire = concat(signer.sign(SIGN_KIND, networkId, payload), payload);
  const charter = readCharter(networkId, wire);
  if (charter === undefined) throw new RangeError("a charter that nobody would read");
  return charter;
}

/** Form, bounds and the group's id; not the signatures. @param wire anything; copied */
export function readCharter(networkId: Uint8Array, wire: Uint8Array): Charter | undefined {
  if (wire.length <= SIGNATURE_BYTES || wire.length > MAX_CHARTER_BYTES) return undefined;
  const copy = new Uint8Array(wire);
  const payload = copy.subarray(SIGNATURE_BYTES);
  const map = asMap(decodeCanonicalCbor(payload, MAX_CHARTER_BYTES));
  if (map === undefined || Object.keys(map).length !== 10) return undefined;
  const group = asBytes(map["g"], 32);
  const name = asText(map["n"], 64);
  const epoch = asUint(map["e"], 0xffffffff);
  const parent = asBytes(map["p"], 32);
  const issuer = asBytes(map["i"], 32);
  const hlc = asUint(map["h"], MAX_HLC);
  const founder = asBytes(map["f"], 32);
  const nonce = asBytes(map["r"], GROUP_NONCE_BYTES);
  const publicKey = asBytes(map["x"], 32);
  const members = asListOf(map["m"], MAX_GROUP_MEMBERS, (item) => {
    if (!Array.isArray(item) || item.length !== 5) return undefined;
    const nodeId = asBytes(item[0], 32);
    const role = asUint(item[1], GroupRole.ADMIN);
    const untilMs = asUint(item[2]);
    const card = asBytes(item[3], SIGNATURE_BYTES);
    const envelope = asBytes(item[4], ENVELOPE_BYTES);
    if (nodeId === undefined || role === undefined || untilMs === undefined) return undefined;
    if (card === undefined || envelope === undefined) return undefined;
    return { nodeId, role: role as GroupRole, untilMs, card, envelope };
  });
  if (group === undefined || name === undefined || !isGroupName(name) || epoch === undefined || epoch < 1)
    return undefined;
  if (parent === undefined || issuer === undefined || hlc === undefined || nonce === undefined) return undefined;
  if (founder === undefined || publicKey === undefined || members === undefined || members.length === 0)
    return undefined;
  if ((epoch === 1) !== equal(parent, NO_PARENT)) return undefined;
  if (epoch === 1 && !equal(issuer, founder)) return undefined;
  if (!equal(group, groupIdOf(networkId, founder, nonce))) return undefined;
  if (new Set(members.map((member) => toHex(member.nodeId))).size !== members.length) return undefined;
  if (!members.some((member) => member.role === GroupRole.ADMIN)) return undefined;
  const hash = sha256(payload);
  return { group, name, epoch, parent, issuer, founder, nonce, hlc, members, publicKey, hash, wire: copy };
}

export function verifyCharter(networkId: Uint8Array, charter: Charter): boolean {
  const payload = charter.wire.subarray(SIGNATURE_BYTES);
  return verifySignature(charter.issuer, SIGN_KIND, networkId, payload, charter.wire.subarray(0, SIGNATURE_BYTES));
}

/** @returns the epoch's key, 32 bytes, or undefined when this node is not in it or its envelope is not what it should be */
export function openEnvelope(charter: Charter, nodeId: Uint8Array, agree: X25519KeyPair): Uint8Array | undefined {
  const member = memberOf(charter, nodeId);
  const shared = member === undefined ? undefined : agree.agree(charter.publicKey);
  if (member === undefined || shared === undefined) return undefined;
  const sealing = envelopeKey(shared, charter.group, charter.epoch, nodeId);
  const key = chachaOpen(sealing, 0, envelopeData(charter.group, charter.epoch, nodeId), member.envelope);
  zeroise(shared, sealing);
  return key;
}

/** The expiring proof of membership that a charter holds for a member. */
export function cardFrom(charter: Charter, nodeId: Uint8Array): { card: Card; signature: Uint8Array } | undefined {
  const member = memberOf(charter, nodeId);
  if (member === undefined) return undefined;
  return { card: cardOf(charter.group, charter.name, charter.epoch, charter.issuer, member), signature: member.card };
}

export function memberOf<T extends GroupMember>(
  charter: { readonly members: readonly T[] },
  nodeId: Uint8Array,
): T | undefined {
  return charter.members.find((member) => equal(member.nodeId, nodeId));
}

export function isAdmin(charter: Charter, nodeId: Uint8Array, wallMs: number): boolean {
  const member = memberOf(charter, nodeId);
  return member !== undefined && member.role === GroupRole.ADMIN && member.untilMs > wallMs;
}

/** Who stays keeps its place before who comes: the order is that of seniority, which decides between admins that remove each other. */
export function keepsOrder(charter: Charter, parent: Charter): boolean {
  const place = new Map(parent.members.map((member, at) => [toHex(member.nodeId), at]));
  let last = -1;
  for (const { nodeId } of charter.members) {
    const at = place.get(toHex(nodeId)) ?? Infinity;
    if (at < last) return false;
    last = at;
  }
  return true;
}

/**
 * Of two charters that follow the same one.
 * @param parent the one that they follow; undefined when it is not here: then the hash decides between issuers that remove each other
 * @returns above 0 when `a` is the one that counts
 */
export function compareSiblings(a: Charter, b: Charter, parent: Charter | undefined): number {
  const aRemoves = memberOf(a, b.issuer)?.role !== GroupRole.ADMIN;
  const bRemoves = memberOf(b, a.issuer)?.role !== GroupRole.ADMIN;
  if (aRemoves !== bRemoves) return aRemoves ? 1 : -1;
  // nothing here that an issuer could choose until it wins
  const order = aRemoves && parent !== undefined ? seniority(parent, b.issuer) - seniority(parent, a.issuer) : 0;
  if (order !== 0) return order;
  return compare(b.hash, a.hash);
}

/** Letters, digits, `.`, `_` and `-`, beginning with a letter or digit, 1–64 characters. */
export function isGroupName(name: string): boolean {
  return /^[a-z0-9][a-z0-9._-]{0,63}$/.test(name);
}

/** Lower is longer in the group. */
function seniority(charter: Charter, nodeId: Uint8Array): number {
  const at = charter.members.findIndex((member) => equal(member.nodeId, nodeId));
  return at < 0 ? MAX_GROUP_MEMBERS : at;
}

function groupIdOf(networkId: Uint8Array, founder: Uint8Array, nonce: Uint8Array): Uint8Array {
  return sha256(GROUP_LABEL, networkId, founder, nonce);
}

function cardOf(group: Uint8Array, name: string, epoch: number, issuer: Uint8Array, member: GroupMember): Card {
  return { group, name, nodeId: member.nodeId, role: member.role, epoch, untilMs: member.untilMs, issuer };
}

function envelopeKey(shared: Uint8Array, group: Uint8Array, epoch: number, nodeId: Uint8Array): Uint8Array {
  return hkdfSha256(shared, concat(group, u32(epoch)), concat(ENVELOPE_LABEL, nodeId), GROUP_KEY_BYTES);
}

function envelopeData(group: Uint8Array, epoch: number, nodeId: Uint8Array): Uint8Array {
  return concat(group, u32(epoch), nodeId);
}
