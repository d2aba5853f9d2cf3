/**
 * This node's view of one network's membership: the roster, statements that wait for parents, what this node signs into it, and the
 * members that count at this moment (resolved, and not expired by the wall clock). Knows no peers; mesh-node.ts hands statements around.
 * Bound: MAX_PENDING waiting statements, oldest out first, counted. Source: docs/protocol.md, "Roster".
 */
import type { Now } from "../base/clock.ts";
import { equal, toHex } from "../base/bytes.ts";
import { WeftError } from "../base/errors.ts";
import type { Random } from "../base/random.ts";
import { type Ipv4Prefix, parseIpv4Prefix, pickIpv4Prefix } from "./addresses.ts";
import { type CborMap, encodeCbor } from "./cbor.ts";
import type { JoinRequest } from "./control.ts";
import { isAncestor } from "./dag.ts";
import { areTags, badName, Governance, TAG_RULE } from "./governance.ts";
import { hasIdForm, idName } from "./id-form.ts";
import { inviteIdOf } from "./invite.ts";
import { type Approval, findInvite, judgeJoin, type JoinVerdict, REMEMBER_ENDED_MS } from "./join-desk.ts";
import type { MeshKeys, Signer } from "./keys.ts";
import { type InviteUse, NO_POLICY } from "./resolve.ts";
import { type AddResult, Roster, type RosterOptions } from "./roster.ts";
import {
  admitBody,
  compareStatements,
  genesisBody,
  hlcFromWall,
  inviteBody,
  isName,
  MAX_INVITE_USES,
  MAX_PARENTS,
  openStatement,
  type Refusal,
  revokeBody,
  signStatement,
  type Statement,
  statementHash,
  wallFromHlc,
} from "./statement.ts";
import {
  type ApprovedRoute,
  type CreateInviteOptions,
  type CreateNetworkOptions,
  type InviteInfo,
  type Member,
  type NetworkPolicy,
  ROLES,
  type RosterInfo,
} from "./types.ts";

const MAX_PENDING = 2048;
const MAX_INVITE_MS = 365 * 86_400_000;
const MAX_LIFE_MS = 10 * MAX_INVITE_MS;
/** Shortest beginning of a node id that names a node. */
const MIN_ID_PREFIX = 8;

export interface MembershipDeps {
  readonly identity: Signer;
  readonly keys: MeshKeys;
  readonly random: Random;
}

export interface TakeResult {
  readonly result: AddResult;
  /** What entered: the statement itself and those that had waited for it, parents first. */
  readonly added: readonly Statement[];
}

export interface MemberChanges {
  readonly added: readonly Member[];
  readonly removed: readonly Member[];
  readonly changed: readonly Member[];
}

export interface SignedInvite {
  readonly statement: Statement;
  readonly seed: Uint8Array;
  readonly inviteId: Uint8Array;
  readonly expiresAtMs: number;
  readonly uses: number;
}

export class Membership {
  readonly roster: Roster;
  readonly governance: Governance;
  pendingEvicted = 0;
  readonly #identity: Signer;
  readonly #keys: MeshKeys;
  readonly #random: Random;
  readonly #pending = new Map<string, Statement>();
  #live: ReadonlyMap<string, Member> = new Map();
  #byStatic: ReadonlyMap<string, Member> = new Map();
  #routes: readonly ApprovedRoute[] = [];
  #policy: NetworkPolicy = NO_POLICY;

  constructor(deps: MembershipDeps, networkId: Uint8Array, options: RosterOptions) {
    this.#identity = deps.identity;
    this.#keys = deps.keys;
    this.#random = deps.random;
    this.roster = new Roster({ keys: deps.keys, networkId }, options);
    this.governance = new Governance({
      roster: this.roster,
      nodeId: deps.identity.nodeId,
      members: () => this.members(),
      isAdmin: () => this.isAdmin,
      requireAdmin: (what) => this.#requireAdmin(what),
      foldHeads: (now) => this.#foldHeads(now),
      sign: (now, kind, body, required) => this.#sign(now, kind, body, required),
    });
  }

  /**
   * Signs the genesis of a network with this node as founder and first admin.
   * @throws WeftError NAME_INVALID, PREFIX_INVALID, PREFIX_COLLISION
   */
  static found(deps: MembershipDeps, now: Now, network: CreateNetworkOptions, options: RosterOptions): Membership {
    if (!isName(network.network)) throw badName("network", network.network);
    if (!isName(network.name)) throw badName("node", network.name);
    if (hasIdForm(network.name)) throw idName(network.name);
    const nonce = deps.random.bytes(16);
    const body = genesisBody(network.network, network.name, choosePrefix(network, nonce[0]), nonce);
    const fields = {
      networkId: undefined,
      parents: [],
      hlc: Math.max(1, hlcFromWall(now.wallMs)),
      kind: "genesis",
      body,
    };
    const wire = signStatement(fields, deps.identity);
    const membership = new Membership(deps, statementHash(wire), options);
    membership.take(wire, now);
    return membership;
  }

  get networkId(): Uint8Array {
    return this.roster.networkId;
  }

  get self(): Member | undefined {
    return this.#live.get(toHex(this.#identity.nodeId));
  }

  get isAdmin(): boolean {
    return this.self?.roles.includes("admin") === true;
  }

  /** In order of admission. */
  members(): Member[] {
    return [...this.#live.values()];
  }

  byNode(nodeId: Uint8Array): Member | undefined {
    return this.#live.get(toHex(nodeId));
  }

  byStaticHex(hex: string): Member | undefined {
    return this.#byStatic.get(hex);
  }

  /**
   * @param query name, overlay address, node id, or at least its first 8 characters; what has the form of an id is never a name
   * @throws WeftError NODE_AMBIGUOUS
   */
  find(query: string): Member | undefined {
    const text = query.trim().toLowerCase();
    const members = this.members();
    const exact = hasIdForm(text)
      ? undefined
      : members.find((member) => member.name === text || member.ipv4 === text || member.ipv6 === text);
    if (exact !== undefined || text.length < MIN_ID_PREFIX) return exact;
    const matching = members.filter((member) => this.#keys.formatNodeId(member.nodeId).startsWith(text));
    if (matching.length > 1) {
      throw new WeftError(
        "NODE_AMBIGUOUS",
        `"${query}" fits ${matching.length} nodes`,
        "give more of the id, or the name",
      );
    }
    return matching[0];
  }

  /**
   * Takes stored statements in any order. What was accepted once is not judged by today's clock and room again.
   * @returns why some were refused, and how many wait for parents that are not there
   */
  load(wires: readonly Uint8Array[]): { readonly refused: readonly Refusal[]; readonly orphans: number } {
    const refused: Refusal[] = [];
    const opened: Statement[] = [];
    for (const wire of wires) {
      const statement = openStatement(wire, this.networkId, this.#keys);
      if (typeof statement === "string") refused.push(statement);
      else opened.push(statement);
    }
    let orphans = 0;
    // this order puts parents before children
    for (const statement of opened.toSorted(compareStatements)) {
      const result = this.roster.addOpened(statement, Number.POSITIVE_INFINITY, true);
      if (result.status === "refused") refused.push(result.reason);
      if (result.status === "missing") orphans++;
    }
    return { refused, orphans };
  }

  /** True when the statement is in the roster or waits for its parents. */
  isKnown(hash: Uint8Array): boolean {
    return this.roster.has(hash) || this.#pending.has(toHex(hash));
  }

  /** @param wire any bytes */
  take(wire: Uint8Array, now: Now): TakeResult {
    const waiting = this.#pending.get(toHex(statementHash(wire)));
    const result =
      waiting === undefined ? this.roster.add(wire, now.wallMs) : this.roster.addOpened(waiting, now.wallMs);
    if (result.status === "missing") this.#wait(result.statement);
    if (result.status !== "added") return { result, added: [] };
    const added = [result.statement];
    this.#pending.delete(result.statement.hashHex);
    for (let progress = this.#pending.size > 0; progress;) {
      progress = false;
      for (const [hash, statement] of this.#pending) {
        const retried = this.roster.addOpened(statement, now.wallMs);
        if (retried.status === "missing") continue;
        this.#pending.delete(hash);
        if (retried.status !== "added") continue;
        added.push(statement);
        progress = true;
      }
    }
    return { result, added };
  }

  /** Brings the members up to date with the roster and the wall clock. @returns undefined when nothing changed */
  refresh(now: Now): MemberChanges | undefined {
    if (this.roster.size === 0) return undefined;
    const live = new Map<string, Member>();
    const byStatic = new Map<string, Member>();
    const added: Member[] = [];
    const changed: Member[] = [];
    for (const member of this.roster.state.members) {
      if (member.expiresAtMs !== undefined && now.wallMs >= member.expiresAtMs) continue;
      const hex = toHex(member.nodeId);
      const before = this.#live.get(hex);
      live.set(hex, member);
      byStatic.set(toHex(member.staticKey), member);
      if (before === undefined) added.push(member);
      else if (before !== member && !sameMember(before, member)) changed.push(member);
    }
    const removed = [...this.#live].filter(([hex]) => !live.has(hex)).map(([, member]) => member);
    this.#live = live;
    this.#byStatic = byStatic;
    return added.length + changed.length + removed.length === 0 ? undefined : { added, removed, changed };
  }

  /** Brings routes and policy up to date; call after refresh(). @returns which of them have changed */
  refreshRules(): { readonly routes: boolean; readonly policy: boolean } {
    if (this.roster.size === 0) return { routes: false, policy: false };
    const { routes: all, policy } = this.roster.state;
    const live = all.filter((route) => this.#live.has(toHex(route.nodeId)));
    const before = this.#routes;
    const isSame = live.length === before.length && live.every((route, i) => sameRoute(route, before[i]));
    const changed = { routes: !isSame, policy: !samePolicy(policy, this.#policy) };
    this.#routes = live;
    this.#policy = policy;
    return changed;
  }

  /** By prefix, then node id; of members that count now. */
  get routes(): readonly ApprovedRoute[] {
    return this.#routes;
  }

  get policy(): NetworkPolicy {
    return this.#policy;
  }

  info(): RosterInfo {
    const { roster } = this;
    const { finals, proposals, aboveFinals, voids } = roster.state;
    const last = finals.at(-1);
    return {
      statements: roster.size,
      heads: roster.headCount,
      fingerprint: roster.fingerprint(0, Number.MAX_SAFE_INTEGER).fingerprint,
      finalAtMs: last === undefined ? undefined : wallFromHlc(last.statement.hlc),
      unsettled: aboveFinals,
      proposals: proposals.filter(({ entry, isFinal }) => !isFinal && !finals.some((final) => isAncestor(entry, final)))
        .length,
      voids: voids.size,
    };
  }

  /** Wall-clock time of the next membership to expire; Infinity: none. */
  nextExpiryMs(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const member of this.#live.values()) next = Math.min(next, member.expiresAtMs ?? Number.POSITIVE_INFINITY);
    return next;
  }

  /** Why a node is no member any more, from the latest removal of it. */
  removalOf(nodeId: Uint8Array): { readonly reason: string; readonly by: Uint8Array | undefined } {
    const removal = this.roster.state.removals.get(toHex(nodeId))?.at(-1)?.statement;
    if (removal?.body.kind !== "revoke") return { reason: "its membership ended", by: undefined };
    if (equal(removal.issuer, nodeId)) return { reason: removal.body.reason || "it left", by: undefined };
    return { reason: removal.body.reason || "revoked by an admin", by: removal.issuer };
  }

  /** Wall-clock time until which it is or was a member: Infinity without an end, undefined when it never was one. */
  memberUntilMs(nodeId: Uint8Array): number | undefined {
    const hex = toHex(nodeId);
    if (this.#live.has(hex)) return Infinity;
    const { byNode, removals } = this.roster.state;
    const removal = removals.get(hex)?.at(-1)?.statement;
    return removal === undefined ? byNode.get(hex)?.expiresAtMs : wallFromHlc(removal.hlc);
  }

  /** @throws WeftError NOT_ADMIN, INVITE_INVALID */
  createInvite(now: Now, options: CreateInviteOptions): SignedInvite {
    this.#requireAdmin("make an invite");
    const uses = options.uses ?? 1;
    const expiresMs = options.expiresMs ?? 3_600_000;
    const roles = (options.roles ?? []).filter((role) => role !== "member");
    const tags = options.tags ?? [];
    if (!Number.isInteger(uses) || uses < 1 || uses > MAX_INVITE_USES)
      throw badInvite(`uses is ${uses}`, `1 to ${MAX_INVITE_USES}`);
    if (!(expiresMs >= 1000 && expiresMs <= MAX_INVITE_MS))
      throw badInvite(`its life is ${expiresMs} ms`, "1 second to 365 days");
    const unknown = roles.find((role) => !ROLES.includes(role));
    if (unknown !== undefined) throw badInvite(`its role is "${unknown}"`, ROLES.join(", "));
    if (!areTags(tags)) throw badInvite(`its ${tags.length} tags do not fit`, TAG_RULE);
    const lifeMs = options.lifeMs === undefined ? undefined : Math.floor(options.lifeMs);
    if (lifeMs !== undefined && !(lifeMs >= 1000 && lifeMs <= MAX_LIFE_MS))
      throw badInvite(`memberships under it would last ${lifeMs} ms`, "1 second to 3,650 days");
    const seed = this.#random.bytes(32);
    const key = this.#keys.signerFromSeed(seed).nodeId;
    const expiresAtMs = Math.floor(now.wallMs + expiresMs);
    const body = inviteBody({ key, uses, expiresAtMs, roles, tags, approve: options.approve === true, lifeMs });
    const statement = this.#sign(now, "invite", body, []);
    return { statement, seed, inviteId: inviteIdOf(key), expiresAtMs, uses };
  }

  invites(wallMs: number): InviteInfo[] {
    return this.roster.state.invites.map((use) => this.#describe(use, wallMs));
  }

  /**
   * What the session layer asks about the invite id in a handshake of an unknown key. Only an admin's or a beacon's answer can be other than
   * "unknown"; "ended" invites are remembered 30 days, so that the joining node can be told why.
   */
  acceptsInvite(inviteId: Uint8Array, wallMs: number): "live" | "ended" | "unknown" {
    if (!this.isDesk) return "unknown";
    const use = findInvite(this.roster, inviteId, wallMs);
    if (use === undefined) return "unknown";
    const { endedAtMs } = this.roster.inviteState(use, wallMs);
    if (endedAtMs === undefined) return "live";
    return wallMs - endedAtMs <= REMEMBER_ENDED_MS ? "ended" : "unknown";
  }

  /** @throws WeftError NOT_ADMIN, INVITE_UNKNOWN */
  endInvite(now: Now, inviteId: Uint8Array, reason: string): Statement {
    this.#requireAdmin("end an invite");
    const use = findInvite(this.roster, inviteId, now.wallMs);
    if (use === undefined)
      throw new WeftError("INVITE_UNKNOWN", "no invite has this id", "list them: weft invite --list");
    const invite = use.entry.statement.hash;
    return this.#sign(now, "revoke", revokeBody({ node: undefined, invite, reason }), [invite]);
  }

  /** @param reason written into the roster @throws WeftError NOT_ADMIN */
  revoke(now: Now, member: Member, reason: string): Statement[] {
    this.#requireAdmin("revoke a node");
    const out = [...this.governance.settleBefore(now, member), ...this.#foldHeads(now)];
    const body = revokeBody({ node: member.nodeId, invite: undefined, reason });
    return [...out, this.#sign(now, "revoke", body, [member.admission])];
  }

  /** Keeps a node out that is no member, as every admin will see. @throws WeftError NOT_ADMIN */
  deny(now: Now, nodeId: Uint8Array, reason: string): Statement[] {
    this.#requireAdmin("deny a request");
    const out = this.#foldHeads(now);
    return [...out, this.#sign(now, "revoke", revokeBody({ node: nodeId, invite: undefined, reason }), [])];
  }

  /** @throws WeftError NOT_MEMBER */
  leave(now: Now): Statement {
    const self = this.self;
    if (self === undefined) throw new WeftError("NOT_MEMBER", "this node is in no network", "nothing is to be left");
    return this.#sign(now, "revoke", revokeBody({ node: self.nodeId, invite: undefined, reason: "" }), []);
  }

  /** True when this node may hear requests to join: an admin decides them, a beacon passes them on to one. */
  get isDesk(): boolean {
    return this.isAdmin || this.self?.roles.includes("beacon") === true;
  }

  /** @param approval an admin's decision, for invites that ask for one */
  judgeJoin(request: JoinRequest, staticKey: Uint8Array, wallMs: number, approval?: Approval): JoinVerdict {
    const deps = { roster: this.roster, keys: this.#keys, isDesk: this.isDesk };
    return judgeJoin(deps, request, staticKey, wallMs, approval);
  }

  admit(now: Now, verdict: Extract<JoinVerdict, { verdict: "admit" }>): Statement {
    return this.#sign(now, "admit", admitBody(verdict.body), [verdict.inviteHash]);
  }

  #sign(now: Now, kind: string, body: CborMap, required: readonly Uint8Array[]): Statement {
    const self = this.self;
    const own = self === undefined ? [] : [self.admission];
    const { parents, hlc } = this.roster.parentsFor([...own, ...required], now.wallMs);
    const wire = signStatement({ networkId: this.networkId, parents, hlc, kind, body }, this.#identity);
    const result = this.roster.add(wire, now.wallMs);
    if (result.status === "added") return result.statement;
    const why = result.status === "refused" ? result.reason : result.status;
    throw new WeftError(
      "STATEMENT_REFUSED",
      `the roster does not take the statement: ${why}`,
      "check this machine's clock and its role: weft status",
    );
  }

  /** Folds more heads than one statement can name, so that nothing known stays concurrent to what follows; a full roster has no room for it. */
  #foldHeads(now: Now): Statement[] {
    const out: Statement[] = [];
    while (this.roster.headCount > MAX_PARENTS && !this.roster.isFull) out.push(this.#sign(now, "merge", {}, []));
    return out;
  }

  #requireAdmin(what: string): void {
    if (this.isAdmin) return;
    throw new WeftError("NOT_ADMIN", `only an admin can ${what}`, "do it on an admin: weft members shows who is one");
  }

  #describe(use: InviteUse, wallMs: number): InviteInfo {
    const { state, endedAtMs } = this.roster.inviteState(use, wallMs);
    const { key, uses, expiresAtMs, roles, tags } = use.body;
    const approve = use.body.approve === true;
    const issuer = use.entry.statement.issuer;
    const inviteId = inviteIdOf(key);
    return { inviteId, state, uses, used: use.used, expiresAtMs, endedAtMs, roles, tags, approve, issuer };
  }

  #wait(statement: Statement): void {
    if (this.#pending.size >= MAX_PENDING) {
      this.#pending.delete(this.#pending.keys().next().value as string);
      this.pendingEvicted++;
    }
    this.#pending.set(statement.hashHex, statement);
  }
}

function choosePrefix(network: CreateNetworkOptions, seed: number): Ipv4Prefix {
  const avoid = network.avoid ?? [];
  if (network.ipv4 === undefined) {
    const picked = pickIpv4Prefix(seed, avoid);
    if (picked !== undefined) return picked;
    throw new WeftError(
      "PREFIX_COLLISION",
      "every /16 of 100.64.0.0/10 collides with a local network",
      "choose a prefix: weft init NETWORK --ipv4 10.77.0.0/16",
    );
  }
  const prefix = parseIpv4Prefix(network.ipv4);
  if (prefix !== undefined) return prefix;
  throw new WeftError(
    "PREFIX_INVALID",
    `"${network.ipv4}" is no IPv4 prefix of 8 to 30 bits`,
    "write it like 10.77.0.0/16, with zeros behind the prefix",
  );
}

function sameMember(a: Member, b: Member): boolean {
  return (
    a.name === b.name &&
    a.ipv4 === b.ipv4 &&
    a.expiresAtMs === b.expiresAtMs &&
    a.roles.join() === b.roles.join() &&
    a.tags.join("\0") === b.tags.join("\0") &&
    equal(a.admission, b.admission)
  );
}

function samePolicy(a: NetworkPolicy, b: NetworkPolicy): boolean {
  return a.version === b.version && a.stale === b.stale && equal(encodeCbor(a.rules), encodeCbor(b.rules));
}

function sameRoute(a: ApprovedRoute, b: ApprovedRoute | undefined): boolean {
  return b !== undefined && a.prefix === b.prefix && equal(a.nodeId, b.nodeId) && a.approvedAtMs === b.approvedAtMs;
}

function badInvite(what: string, allowed: string): WeftError {
  return new WeftError("INVITE_INVALID", `the invite cannot be made: ${what}`, `allowed: ${allowed}`);
}
