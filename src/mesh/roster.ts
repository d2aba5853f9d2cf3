/**
 * The roster of one network: a bounded set of verified statements, closed under parents, with its resolved state.
 *
 * A statement enters only when its parents are here, its clock is above theirs, and its issuer had the authority for it in the state of its
 * own ancestors. These are properties of the statement alone, so every node lets in the same ones whatever the order of arrival;
 * only the bounds (statements, of them by one issuer, statements a plain member may issue) and the clock guard depend on the node, and they
 * have names. Beyond them the first removal of each node by each issuer still enters, so that a full roster can lose a thief.
 * Statements that wait for parents are the caller's business. Source: docs/protocol.md, "Roster".
 */
import { createHash } from "node:crypto";
import { toHex } from "../base/bytes.ts";
import { nodeAddress } from "../crypto/node-id.ts";
import type { MeshKeys } from "./keys.ts";
import type { Derived } from "./clashes.ts";
import { type Admins, type CheckpointView, type Entry, isAncestor } from "./dag.ts";
import { type InviteUse, type Resolution, resolve } from "./resolve.ts";
import {
  type GenesisBody,
  HASH_BYTES,
  MAX_PARENTS,
  Refusal,
  type Statement,
  compareStatements,
  hlcFromWall,
  needsAdmin,
  openStatement,
  statementHash,
  wallFromHlc,
} from "./statement.ts";
import { InviteState, type Member } from "./types.ts";

/** Statements that one member without the role admin may have in the roster. */
export const MEMBER_QUOTA = 64;
/** Of the bound on statements: what one issuer may fill, and the room beyond it for first removals. */
const ISSUER_SHARE = 1 / 2;
const REMOVAL_SHARE = 1 / 4;
/** First removals of one issuer beyond the bounds. */
const MAX_ISSUER_EXTRAS = 32;
/** How far ahead of a sane local clock a statement may be: as far as a join may be off, since one from further ahead would push every later one with it. */
const FUTURE_LIMIT_MS = 300_000;

export interface RosterOptions {
  /** @default 2048 */
  readonly maxMembers?: number;
  /** A quarter more with first removals. @default 8192 */
  readonly maxStatements?: number;
}

export type AddResult =
  | { readonly status: "added"; readonly statement: Statement }
  | { readonly status: "known" }
  | { readonly status: "missing"; readonly statement: Statement; readonly parents: readonly Uint8Array[] }
  | { readonly status: "refused"; readonly reason: Refusal };

export class Roster {
  readonly networkId: Uint8Array;
  readonly #keys: MeshKeys;
  readonly #maxMembers: number;
  readonly #maxStatements: number;
  readonly #entries = new Map<string, Entry>();
  /** In (hlc, hash) order. */
  readonly #sorted: Entry[] = [];
  /** Hashes in the order of #sorted, 32 bytes each, for range fingerprints; made on demand. */
  #hashes: Uint8Array | undefined;
  readonly #heads = new Set<Entry>();
  readonly #admissions = new Map<string, Entry[]>();
  readonly #memberIssued = new Map<string, number>();
  /** Node ids in hex that any statement ever made an admin, whether it had effect or not. */
  readonly #everAdmins = new Set<string>();
  readonly #issued = new Map<string, number>();
  /** By issuer: removals that entered although a bound was reached. */
  readonly #extras = new Map<string, number>();
  /** Kind, issuer and removed node of every removal. */
  readonly #removals = new Set<string>();
  readonly #derived = new Map<string, Derived>();
  #resolution: Resolution | undefined;

  constructor(deps: { readonly keys: MeshKeys; readonly networkId: Uint8Array }, options: RosterOptions = {}) {
    this.networkId = deps.networkId;
    this.#keys = deps.keys;
    this.#maxMembers = options.maxMembers ?? 2048;
    this.#maxStatements = options.maxStatements ?? 8192;
  }

  get size(): number {
    return this.#sorted.length;
  }

  /** Nothing but first removals enters any more. */
  get isFull(): boolean {
    return this.#sorted.length >= this.#maxStatements;
  }

  get maxMembers(): number {
    return this.#maxMembers;
  }

  /** Largest clock of all statements; 0 when empty. */
  get maxHlc(): number {
    return this.#sorted.at(-1)?.statement.hlc ?? 0;
  }

  has(hash: Uint8Array): boolean {
    return this.#entries.has(toHex(hash));
  }

  get(hash: Uint8Array): Statement | undefined {
    return this.#entries.get(toHex(hash))?.statement;
  }

  /** All statements in (hlc, hash) order, so that parents come before children. */
  *statements(): Generator<Statement> {
    for (const entry of this.#sorted) yield entry.statement;
  }

  /** @param wire any bytes; copied @param wallMs guards against clocks far ahead; Infinity for none */
  add(wire: Uint8Array, wallMs: number): AddResult {
    if (this.#entries.has(toHex(statementHash(wire)))) return { status: "known" };
    const statement = openStatement(wire, this.networkId, this.#keys);
    return typeof statement === "string" ? { status: "refused", reason: statement } : this.addOpened(statement, wallMs);
  }

  /**
   * @param statement one that openStatement has verified for this network
   * @param isStored it had entered before, when there was room: the order in which statements come from the store is another one
   */
  addOpened(statement: Statement, wallMs: number, isStored = false): AddResult {
    if (this.#entries.has(statement.hashHex)) return { status: "known" };
    const parents: Entry[] = [];
    const missing: Uint8Array[] = [];
    for (const hash of statement.parents) {
      const parent = this.#entries.get(toHex(hash));
      if (parent === undefined) missing.push(hash);
      else parents.push(parent);
    }
    if (missing.length > 0) return { status: "missing", statement, parents: missing };
    const depth = parents.reduce((deepest, parent) => Math.max(deepest, parent.depth + 1), 0);
    const isPolicy = statement.body.kind === "policy";
    const entry: Entry = {
      statement,
      index: this.#sorted.length,
      parents,
      depth,
      policyVersion:
        parents.reduce((highest, parent) => Math.max(highest, parent.policyVersion), 0) + (isPolicy ? 1 : 0),
      touchesAdmins: parents.some((parent) => parent.touchesAdmins),
      ancestors: undefined,
      adminsAfter: undefined,
      view: undefined,
    };
    const reason = this.#judge(entry, wallMs, isStored);
    if (reason !== undefined) return { status: "refused", reason };
    this.#insert(entry);
    return { status: "added", statement };
  }

  /** The state; resolved again only after a change. @throws TypeError while the roster is empty */
  get state(): Resolution {
    if (this.#sorted.length === 0) throw new TypeError("a roster without genesis has no state");
    this.#resolution ??= this.#resolve(this.#sorted);
    return this.#resolution;
  }

  get genesis(): GenesisBody | undefined {
    return this.#sorted[0]?.statement.body as GenesisBody | undefined;
  }

  member(nodeId: Uint8Array): Member | undefined {
    return this.#sorted.length === 0 ? undefined : this.state.byNode.get(toHex(nodeId));
  }

  /**
   * At most MAX_PARENTS parents for a statement to be signed now: the latest heads, and always descendants of (or themselves) `required`.
   * @returns with the lowest clock that is above all of them
   */
  parentsFor(
    required: readonly Uint8Array[],
    wallMs: number,
  ): { readonly parents: readonly Uint8Array[]; readonly hlc: number } {
    const heads = [...this.#heads].toSorted((a, b) => compareStatements(b.statement, a.statement));
    const chosen = heads.slice(0, MAX_PARENTS);
    const needed = required.map((hash) => this.#entries.get(toHex(hash)) as Entry);
    let replaceable = chosen.length - 1;
    for (const entry of needed) {
      if (chosen.some((parent) => parent === entry || isAncestor(entry, parent))) continue;
      if (chosen.length < MAX_PARENTS) chosen.push(entry);
      else chosen[replaceable--] = entry;
    }
    let latest = 0;
    for (const parent of chosen) latest = Math.max(latest, parent.statement.hlc);
    return { parents: chosen.map((parent) => parent.statement.hash), hlc: Math.max(hlcFromWall(wallMs), latest + 1) };
  }

  /** Highest version of a policy below a statement with these parents. */
  policyVersion(parents: readonly Uint8Array[]): number {
    return parents.reduce((highest, hash) => Math.max(highest, this.#entries.get(toHex(hash))?.policyVersion ?? 0), 0);
  }

  get headCount(): number {
    return this.#heads.size;
  }

  /** @returns the invite's state for people and for acceptsInvite */
  inviteState(use: InviteUse, wallMs: number): { readonly state: InviteState; readonly endedAtMs: number | undefined } {
    if (use.revokedHlc !== undefined) return { state: InviteState.REVOKED, endedAtMs: wallFromHlc(use.revokedHlc) };
    if (use.usedUpHlc !== undefined) return { state: InviteState.USED_UP, endedAtMs: wallFromHlc(use.usedUpHlc) };
    if (wallMs >= use.body.expiresAtMs) return { state: InviteState.EXPIRED, endedAtMs: use.body.expiresAtMs };
    return { state: InviteState.LIVE, endedAtMs: undefined };
  }

  /** How many statements have lower ≤ hlc < upper, and a 16-byte fingerprint of exactly those. */
  fingerprint(lower: number, upper: number): { readonly count: number; readonly fingerprint: Uint8Array } {
    const [from, to] = this.#span(lower, upper);
    const hashes = this.#sortedHashes();
    const digest = createHash("sha256")
      .update(hashes.subarray(from * HASH_BYTES, to * HASH_BYTES))
      .digest();
    return { count: to - from, fingerprint: digest.subarray(0, 16) };
  }

  /** Statements with lower ≤ hlc < upper in order. */
  range(lower: number, upper: number): readonly Statement[] {
    const [from, to] = this.#span(lower, upper);
    return this.#sorted.slice(from, to).map((entry) => entry.statement);
  }

  #span(lower: number, upper: number): [number, number] {
    const from = this.#firstAtOrAbove(lower);
    return [from, Math.max(from, this.#firstAtOrAbove(upper))];
  }

  #firstAtOrAbove(hlc: number): number {
    let low = 0;
    let high = this.#sorted.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#sorted[middle].statement.hlc < hlc) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #sortedHashes(): Uint8Array {
    if (this.#hashes === undefined) {
      const hashes = new Uint8Array(this.#sorted.length * HASH_BYTES);
      this.#sorted.forEach((entry, i) => hashes.set(entry.statement.hash, i * HASH_BYTES));
      this.#hashes = hashes;
    }
    return this.#hashes;
  }

  #insert(entry: Entry): void {
    const { statement } = entry;
    const removal = removalKey(statement);
    if (removal !== undefined && this.#boundReached(statement) !== undefined) count(this.#extras, statement.issuerHex);
    count(this.#issued, statement.issuerHex);
    let at = this.#sorted.length;
    while (at > 0 && compareStatements(this.#sorted[at - 1].statement, statement) > 0) at--;
    this.#sorted.splice(at, 0, entry);
    this.#entries.set(statement.hashHex, entry);
    for (const parent of entry.parents) this.#heads.delete(parent);
    this.#heads.add(entry);
    const body = statement.body;
    const node = body.kind === "admit" ? toHex(body.node) : body.kind === "genesis" ? statement.issuerHex : undefined;
    if (node !== undefined) {
      const list = this.#admissions.get(node);
      if (list === undefined) this.#admissions.set(node, [entry]);
      else list.push(entry);
    }
    const madeAdmin = madeAdminBy(statement);
    if (madeAdmin !== undefined) this.#everAdmins.add(madeAdmin);
    if (!needsAdmin(statement)) count(this.#memberIssued, statement.issuerHex);
    if (removal !== undefined) this.#removals.add(removal);
    this.#hashes = undefined;
    this.#resolution = undefined;
  }

  #judge(entry: Entry, wallMs: number, isStored: boolean): Refusal | undefined {
    const { statement } = entry;
    const first = this.#sorted[0];
    if (first === undefined) return undefined;
    const bound = isStored ? undefined : this.#boundReached(statement);
    if (bound !== undefined && !this.#mayExceed(statement)) return bound;
    for (const parent of entry.parents) if (parent.statement.hlc >= statement.hlc) return Refusal.CLOCK_ORDER;
    // a clock before the network's birth is unset, and then judges nobody
    const clockIsSane = wallMs >= wallFromHlc(first.statement.hlc);
    if (clockIsSane && wallFromHlc(statement.hlc) > wallMs + FUTURE_LIMIT_MS) return Refusal.FUTURE;
    if (statement.body.kind === "genesis") return Refusal.FOREIGN;
    // whom nothing ever made an admin is none below any statement: no need to find out who is, which is dear
    if (!this.#everAdmins.has(statement.issuerHex))
      return needsAdmin(statement) ? Refusal.NOT_AUTHORISED : this.#judgeMember(entry, false);
    const adminsBefore = this.#adminsBefore(entry);
    entry.touchesAdmins ||= mayChangeAdmins(statement, adminsBefore);
    const adminUntil = adminsBefore.get(statement.issuerHex);
    const isAdmin = adminUntil !== undefined && wallFromHlc(statement.hlc) <= adminUntil;
    if (!needsAdmin(statement)) return this.#judgeMember(entry, isAdmin);
    return isAdmin ? this.#judgeBody(entry) : Refusal.NOT_AUTHORISED;
  }

  /** What any member may say. */
  #judgeMember(entry: Entry, isAdmin: boolean): Refusal | undefined {
    const { issuerHex } = entry.statement;
    if (!isAdmin && (this.#memberIssued.get(issuerHex) ?? 0) >= MEMBER_QUOTA) return Refusal.ISSUER_QUOTA;
    const wasAdmitted = this.#admissions.get(issuerHex)?.some((admission) => isAncestor(admission, entry)) === true;
    return wasAdmitted ? undefined : Refusal.NOT_AUTHORISED;
  }

  #boundReached({ issuerHex }: Statement): Refusal | undefined {
    if (this.isFull) return Refusal.ROSTER_FULL;
    const isShareFull = (this.#issued.get(issuerHex) ?? 0) >= this.#maxStatements * ISSUER_SHARE;
    return isShareFull ? Refusal.ISSUER_QUOTA : undefined;
  }

  /** True for the first removal of a node by this issuer, while there is room beyond the bounds. */
  #mayExceed(statement: Statement): boolean {
    const removal = removalKey(statement);
    if (removal === undefined || this.#removals.has(removal)) return false;
    if (this.#sorted.length >= this.#maxStatements * (1 + REMOVAL_SHARE)) return false;
    return (this.#extras.get(statement.issuerHex) ?? 0) < MAX_ISSUER_EXTRAS;
  }

  /** What an admin says must fit what is below it. */
  #judgeBody(entry: Entry): Refusal | undefined {
    const { body, hlc } = entry.statement;
    switch (body.kind) {
      case "admit":
      case "revoke": {
        if (body.invite === undefined) return undefined;
        const invite = this.#entries.get(toHex(body.invite));
        if (invite?.statement.body.kind !== "invite" || !isAncestor(invite, entry)) return Refusal.UNKNOWN_INVITE;
        const isLate = wallFromHlc(hlc) > invite.statement.body.expiresAtMs;
        return isLate && body.kind === "admit" ? Refusal.INVITE_EXPIRED : undefined;
      }
      case "policy":
        return body.version === entry.policyVersion ? undefined : Refusal.POLICY_VERSION;
      case "checkpoint": {
        if (body.of === undefined) {
          entry.view = this.#viewOf(entry);
          return undefined;
        }
        const proposal = this.#entries.get(toHex(body.of));
        const said = proposal?.statement.body;
        if (proposal === undefined || said?.kind !== "checkpoint" || said.of !== undefined)
          return Refusal.UNKNOWN_CHECKPOINT;
        return isAncestor(proposal, entry) ? undefined : Refusal.UNKNOWN_CHECKPOINT;
      }
      default:
        return undefined;
    }
  }

  /** Admins in the state of the entry's ancestors. */
  #adminsBefore(entry: Entry): Admins {
    const parent = entry.parents[0];
    if (parent === undefined) return new Map();
    if (entry.parents.length === 1) return this.#adminsAfter(parent);
    if (!entry.parents.some((one) => one.touchesAdmins)) return this.#adminsAfter(this.#sorted[0]);
    return this.#resolve(this.#ancestry(entry, false)).admins;
  }

  /** Asked for whatever an admin says as it is judged; below that may stand a long row of what plain members said. */
  #adminsAfter(entry: Entry): Admins {
    const row: Entry[] = [];
    let below = entry;
    for (
      ;
      below.adminsAfter === undefined && below.touchesAdmins && below.parents.length === 1;
      below = below.parents[0]
    )
      row.push(below);
    below.adminsAfter ??=
      below.parents.length > 0 && !below.touchesAdmins
        ? this.#adminsAfter(this.#sorted[0])
        : this.#resolve(this.#ancestry(below, true)).admins;
    let admins = below.adminsAfter;
    for (const one of row.toReversed()) {
      if (mayChangeAdmins(one.statement, admins)) admins = this.#resolve(this.#ancestry(one, true)).admins;
      one.adminsAfter = admins;
    }
    return admins;
  }

  #ancestry(entry: Entry, withSelf: boolean): Entry[] {
    return this.#sorted.filter((other) => (withSelf && other === entry) || isAncestor(other, entry));
  }

  #resolve(entries: readonly Entry[]): Resolution {
    return resolve(entries, {
      networkId: this.networkId,
      maxMembers: this.#maxMembers,
      derive: (nodeId) => this.#derive(nodeId),
      viewOf: (proposal) => this.#viewOf(proposal),
    });
  }

  /** Made when the proposal enters, so that each one finds those below it made. */
  #viewOf(proposal: Entry): CheckpointView {
    if (proposal.view === undefined) {
      const { admins, electorate } = this.#resolve(this.#ancestry(proposal, false));
      proposal.view = { admins, electorate };
    }
    return proposal.view;
  }

  #derive(nodeId: Uint8Array): Derived {
    const hex = toHex(nodeId);
    let derived = this.#derived.get(hex);
    if (derived === undefined) {
      // openStatement has refused ids without a static key
      derived = { staticKey: this.#keys.staticKeyOf(nodeId) as Uint8Array, ipv6: nodeAddress(this.networkId, nodeId) };
      this.#derived.set(hex, derived);
    }
    return derived;
  }
}

function count(map: Map<string, number>, key: string): void {
  map.set(key, (map.get(key) ?? 0) + 1);
}

/** undefined: it removes no node */
function removalKey({ body, issuerHex }: Statement): string | undefined {
  if ((body.kind !== "revoke" && body.kind !== "unadmin") || body.node === undefined) return undefined;
  return `${body.kind} ${issuerHex} ${toHex(body.node)}`;
}

/** @returns the node id in hex that the statement makes an admin, if it has effect */
function madeAdminBy(statement: Statement): string | undefined {
  const { body } = statement;
  if (body.kind === "genesis") return statement.issuerHex;
  const isGrant = body.kind === "admin" || (body.kind === "admit" && body.roles.includes("admin"));
  return isGrant ? toHex(body.node) : undefined;
}

/** @param before admins before the statement; others than these can change only by a grant */
function mayChangeAdmins(statement: Statement, before: Admins): boolean {
  const { body } = statement;
  switch (body.kind) {
    case "admit":
      return body.roles.includes("admin") || before.has(toHex(body.node));
    case "revoke":
      return body.node !== undefined && before.has(toHex(body.node));
    case "update":
      return body.expiresAtMs !== undefined && before.has(toHex(body.node));
    // a checkpoint that becomes final changes the order in which removals count
    case "admin":
    case "unadmin":
    case "checkpoint":
      return true;
    default:
      return false;
  }
}
