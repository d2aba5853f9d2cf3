/**
 * One node's part in the mesh, sans-I/O: the roster and its propagation, joining on both sides, endpoint messages. Time comes in as an
 * argument; what shall happen comes out of pollOutput(), in order. The types of everything exchanged are in types.ts.
 *
 *   owner calls                                                      outputs
 *   createNetwork | restore | startJoin ── membership ──────────►    persistStatement, rosterChanged, dropPeer, selfRemoved
 *   peerUp, peerDown (session with a static key) ───────────────►    send (hello, digests …), dial
 *   handleControl (inner kind 2 of an authenticated session) ───►    send, joinProgress, joinResult, endpointsChanged, peerStopping
 *   handleTimeout at nextTimeout() (monotonic ms) ──────────────►    send, dial, joinResult, left
 *
 * Who may say what: members everything; a stranger (a session that an invite has opened) only `join`; while joining, the admins named in the
 * token everything. Statements and endpoint messages carry their own signatures, so any member may hand on any of them.
 * Bounds: links, queues and rates in links.ts, waiting statements in membership.ts, statements in roster.ts, nodes in endpoints.ts,
 * outputs here. Source: docs/protocol.md, "Roster", "Join", "Control messages".
 */
import type { Now } from "../base/clock.ts";
import { equal, toHex } from "../base/bytes.ts";
import { WeftError } from "../base/errors.ts";
import { formatIpv4Prefix, type Ipv4Prefix } from "./addresses.ts";
import type { CborMap } from "./cbor.ts";
import { type ControlMessage, ControlFault, decodeControl, encodeControl } from "./control.ts";
import { Ask, Freshness } from "./freshness.ts";
import { Gossip } from "./gossip.ts";
import { hasIdForm, idName } from "./id-form.ts";
import { checkToken, decodeToken, encodeToken, MAX_TOKEN_ADMINS, type TokenAdmin } from "./invite.ts";
import { failure, JoinAttempt, type JoinFailure, type JoinStep } from "./join-attempt.ts";
import { JoinOffice } from "./join-office.ts";
import { systemKeys } from "./keys.ts";
import { Leaving } from "./leaving.ts";
import type { Link } from "./links.ts";
import { Membership, type MembershipDeps } from "./membership.ts";
import { Dialler, neighboursOf } from "./neighbours.ts";
import type { Offers } from "./offers.ts";
import { Outbox } from "./outbox.ts";
import type { PunchControl } from "./punch/messages.ts";
import { Reachability } from "./reachability.ts";
import type { RoutingMessage } from "./routing/messages.ts";
import { NO_POLICY } from "./resolve.ts";
import { formatRosterText } from "./roster-text.ts";
import { isName, Refusal, type Statement, statementHash } from "./statement.ts";
import {
  type ApprovedRoute,
  type CreatedInvite,
  type CreateInviteOptions,
  type CreateNetworkOptions,
  type ImportResult,
  type InviteInfo,
  JoinCode,
  type JoinOptions,
  type JoinRequestInfo,
  type Member,
  type MemberUpdate,
  type MeshCounters,
  type MeshDeps,
  type MeshOptions,
  type MeshOutput,
  type NetworkPolicy,
  newMeshCounters,
  type PeerHello,
  type RosterInfo,
  type StaleRule,
  UserDataState,
} from "./types.ts";

export type * from "./types.ts";

/** Smallest distance between two looks at a growing roster for changes, except after a revocation. */
const REFRESH_GAP_MS = 50;
const COSTLY: ReadonlySet<string> = new Set([
  "digest",
  "ranges",
  "have",
  "known",
  "seek",
  "want",
  "join",
  "joinVia",
  "leave",
  "lookup",
  "found",
  "near",
  "punch",
  "sight",
]);
/** Reasons that lie in this node's clock and bounds: an honest member may have such a statement. */
const HONEST: ReadonlySet<Refusal> = new Set([Refusal.FUTURE, Refusal.ISSUER_QUOTA, Refusal.ROSTER_FULL]);
/** Consent to a checkpoint follows soon; a proposal gives senior admins time to make theirs first. */
const CONSENT_MS = 300;
const PROPOSE_MS = 2000;
const PROPOSE_STEP_MS = 3000;

export class MeshNode {
  readonly counters: MeshCounters = newMeshCounters();
  readonly #deps: MembershipDeps;
  readonly #options: Required<MeshOptions>;
  readonly #outbox: Outbox = new Outbox();
  readonly #reach: Reachability;
  readonly #gossip: Gossip;
  readonly #dialler: Dialler;
  #membership: Membership | undefined;
  #join: JoinAttempt | undefined;
  #leaving: Leaving | undefined;
  readonly #office: JoinOffice;
  readonly #freshness: Freshness = new Freshness();
  #userData: UserDataState = UserDataState.OPEN;
  #checkpointDueMs: number = Number.POSITIVE_INFINITY;
  #isRemoved = false;
  /** Round trips to members reached directly, by node id in hex; and who is a neighbour. Bound: members. */
  readonly #rttMs = new Map<string, number>();
  #neighbourHexes: ReadonlySet<string> = new Set();
  /** undefined: members or distances have changed since. */
  #neighbourList: readonly Member[] | undefined;
  #refreshDueMs: number = Number.POSITIVE_INFINITY;
  #lastRefreshMs: number = Number.NEGATIVE_INFINITY;

  constructor(deps: MeshDeps, options: MeshOptions = {}) {
    this.#deps = { identity: deps.identity, keys: deps.keys ?? systemKeys, random: deps.random };
    this.#options = Object.freeze({
      buildId: options.buildId ?? "dev",
      protocol: options.protocol ?? ([1, 1] as const),
      capabilities: options.capabilities ?? 0,
      digestIntervalMs: options.digestIntervalMs ?? 60_000,
      bulkStreams: options.bulkStreams ?? false,
      joinTimeoutMs: options.joinTimeoutMs ?? 60_000,
      endpointLifeMs: options.endpointLifeMs ?? 86_400_000,
      maxMembers: options.maxMembers ?? 2048,
      maxStatements: options.maxStatements ?? 8192,
    });
    this.#reach = new Reachability({ ...this.#deps, overlay: () => this.#overlay() }, this.#options.endpointLifeMs);
    this.#dialler = new Dialler(deps.random);
    const gossipDeps = {
      random: deps.random,
      cache: this.#reach.cache,
      counters: this.counters,
      membership: () => this.#membership,
      isTrusted: (hex: string) => this.#isTrusted(hex),
      isUrgent: () => this.#join !== undefined,
      send: (link: Link, message: ControlMessage) => this.#send(link.staticKey, message),
      sendBulk: (link: Link, messages: readonly ControlMessage[]) => this.#sendBulk(link, messages),
    };
    this.#gossip = new Gossip(gossipDeps, this.#options.digestIntervalMs);
    this.#office = new JoinOffice({
      keys: this.#deps.keys,
      counters: this.counters,
      membership: () => (this.#join === undefined && !this.#isRemoved ? this.#membership : undefined),
      link: (hex) => this.#gossip.link(hex),
      links: () => this.#gossip.links(),
      send: (staticKey, message) => this.#send(staticKey, message),
      accepted: (now, statements) => this.#accepted(now, statements, undefined),
      welcome: (now, link) => this.#welcome(now, link),
      keepJoiner: (staticKey, forMs) => this.#outbox.push({ kind: "keepJoiner", staticKey, forMs }),
      log: (level, text) => this.#outbox.log(level, text),
    });
  }

  // What is

  /** 32 bytes; undefined before createNetwork, restore or startJoin. */
  get networkId(): Uint8Array | undefined {
    return this.#join?.token.networkId ?? this.#membership?.networkId;
  }

  get networkName(): string | undefined {
    return this.#membership?.roster.genesis?.network;
  }

  /** "100.64.0.0/16" */
  get ipv4Prefix(): string | undefined {
    const genesis = this.#membership?.roster.genesis;
    return genesis === undefined ? undefined : formatIpv4Prefix(genesis.prefix);
  }

  /** This node as a member; undefined while it is none. */
  get self(): Member | undefined {
    return this.#join === undefined ? this.#membership?.self : undefined;
  }

  get isAdmin(): boolean {
    return this.self?.roles.includes("admin") === true;
  }

  get isJoining(): boolean {
    return this.#join !== undefined;
  }

  /** Monotonic time at which another member last confirmed that its roster is the same; undefined: not in this run. */
  get rosterConfirmedAtMs(): number | undefined {
    return this.#gossip.confirmedAtMs;
  }

  /** All members that count now, this node included, in order of admission. */
  members(): Member[] {
    return this.#join === undefined ? (this.#membership?.members() ?? []) : [];
  }

  memberById(nodeId: Uint8Array): Member | undefined {
    return this.#membership?.byNode(nodeId);
  }

  memberByStaticKey(staticKey: Uint8Array): Member | undefined {
    return this.#membership?.byStaticHex(toHex(staticKey));
  }

  /**
   * @param query name, overlay address, node id, or at least its first 8 characters
   * @throws WeftError NODE_AMBIGUOUS
   */
  find(query: string): Member | undefined {
    return this.#membership?.find(query);
  }

  /** What that peer said in its hello. */
  hello(staticKey: Uint8Array): PeerHello | undefined {
    return this.#gossip.link(toHex(staticKey))?.hello;
  }

  /** True for members to which a session is kept open even when idle. */
  isNeighbour(nodeId: Uint8Array): boolean {
    this.#neighbours();
    return this.#neighbourHexes.has(toHex(nodeId));
  }

  invites(now: Now): InviteInfo[] {
    return this.#membership?.invites(now.wallMs) ?? [];
  }

  /** Requests that wait for this admin's decision, oldest first. */
  requests(now: Now): JoinRequestInfo[] {
    return this.#office.list(now);
  }

  /** Prefixes that members may route, by prefix, then node id. */
  approvedRoutes(): readonly ApprovedRoute[] {
    return this.#join === undefined ? (this.#membership?.routes ?? []) : [];
  }

  policy(): NetworkPolicy {
    return this.#join === undefined ? (this.#membership?.policy ?? NO_POLICY) : NO_POLICY;
  }

  /** Whether user data may flow: see freshness.ts. */
  get userData(): UserDataState {
    return this.#userData;
  }

  /** undefined outside a network. */
  rosterInfo(): RosterInfo | undefined {
    const membership = this.#membership;
    return membership === undefined || membership.roster.size === 0 ? undefined : membership.info();
  }

  /** The whole roster as text (roster-text.ts). @throws WeftError NOT_MEMBER */
  exportRoster(): string {
    const { roster, networkId } = this.#requireInside();
    return formatRosterText(
      networkId,
      [...roster.statements()].map((statement) => statement.wire),
    );
  }

  /** For the session layer's provisional peers: see Membership.acceptsInvite. @param inviteId 8 bytes */
  acceptsInvite(inviteId: Uint8Array, wallMs: number): "live" | "ended" | "unknown" {
    if (this.#join !== undefined) return "unknown";
    return this.#membership?.acceptsInvite(inviteId, wallMs) ?? "unknown";
  }

  /** Underlay addresses at which the node may be reached, best first, 18 bytes each, at most 8; never overlay addresses. */
  candidates(nodeId: Uint8Array, wallMs: number): Uint8Array[] {
    return this.#reach.candidates(nodeId, wallMs);
  }

  /**
   * Where a channel to the node can be opened, best first, at most 2. Only those of nodes that the network trusts to serve others count
   * (admins, beacons, and while joining whom the token names): whoever names a URL makes other machines connect to it.
   */
  urls(nodeId: Uint8Array): readonly string[] {
    if (this.#join === undefined) {
      const roles = this.memberById(nodeId)?.roles ?? [];
      if (!roles.includes("beacon") && !roles.includes("admin")) return [];
    }
    return this.#reach.urls(nodeId);
  }

  /** Milliseconds since the node's signed endpoints came; undefined: there are none. */
  endpointAgeMs(nodeId: Uint8Array, wallMs: number): number | undefined {
    return this.#reach.cache.ageMs(nodeId, wallMs);
  }

  // What a person asks for

  /**
   * @returns the network id, 32 bytes
   * @throws WeftError ALREADY_MEMBER, NAME_INVALID, PREFIX_INVALID, PREFIX_COLLISION
   */
  createNetwork(now: Now, network: CreateNetworkOptions): Uint8Array {
    this.#requireOutside();
    const membership = Membership.found(this.#deps, now, network, this.#options);
    this.#membership = membership;
    this.#isRemoved = false;
    for (const statement of membership.roster.statements()) this.#persist(statement);
    this.#refresh(now);
    this.#signEndpoints(now);
    return membership.networkId;
  }

  /**
   * Takes back what persistStatement gave, in any order.
   * @param networkId 32 bytes @returns how many were accepted; damaged ones are left out with a log line
   */
  restore(now: Now, networkId: Uint8Array, wires: readonly Uint8Array[]): number {
    const membership = new Membership(this.#deps, networkId, this.#options);
    const { refused, orphans } = membership.load(wires);
    for (const reason of refused) this.#outbox.log("warn", `a stored statement is left out: ${reason}`);
    if (orphans > 0) this.#outbox.log("warn", `${orphans} stored statements wait for ones that are not stored`);
    if (membership.roster.size === 0) return 0;
    this.#membership = membership;
    this.#isRemoved = false;
    this.#refresh(now);
    this.#freshness.start(now.nowMs, membership.members().length > 1);
    this.#checkFreshness(now);
    if (membership.self === undefined) {
      this.#isRemoved = true;
      this.#outbox.push({ kind: "selfRemoved", ...membership.removalOf(this.#deps.identity.nodeId) });
    }
    return membership.roster.size;
  }

  /** @throws WeftError NOT_MEMBER, NOT_ADMIN, INVITE_INVALID */
  createInvite(now: Now, options: CreateInviteOptions = {}): CreatedInvite {
    const membership = this.#requireInside();
    const invite = membership.createInvite(now, options);
    this.#accepted(now, [invite.statement], undefined);
    const admins = this.#tokenAdmins(now);
    if (admins[0]?.endpoints.length === 0 && admins[0].urls?.length === 0)
      this.#outbox.log("warn", "the token names no address of this node: give one with --endpoint");
    const { seed, inviteId, expiresAtMs, uses } = invite;
    return {
      token: encodeToken({ networkId: membership.networkId, seed, expiresAtMs, admins }),
      inviteId,
      expiresAtMs,
      uses,
    };
  }

  /**
   * Takes statements of this network from elsewhere, parents before children or not. @param networkId 32 bytes, whose they are said to be
   * @throws WeftError NOT_MEMBER, ROSTER_FOREIGN
   */
  importStatements(now: Now, networkId: Uint8Array, wires: readonly Uint8Array[]): ImportResult {
    const membership = this.#requireInside();
    if (!equal(networkId, membership.networkId)) {
      throw new WeftError(
        "ROSTER_FOREIGN",
        "these statements belong to another network",
        "export the roster on a member of this one: weft roster export",
      );
    }
    const added: Statement[] = [];
    const refused = new Map<string, number>();
    let known = 0;
    let waiting = 0;
    for (const wire of wires) {
      const taken = membership.take(wire, now);
      added.push(...taken.added);
      if (taken.result.status === "known") known++;
      if (taken.result.status === "missing") waiting++;
      if (taken.result.status === "refused")
        refused.set(taken.result.reason, (refused.get(taken.result.reason) ?? 0) + 1);
    }
    if (added.length > 0) this.#accepted(now, added, undefined);
    return { added: added.length, known, waiting, refused };
  }

  /** @throws WeftError NOT_MEMBER, NOT_ADMIN, NODE_UNKNOWN, NODE_AMBIGUOUS, UPDATE_INVALID, LAST_ADMIN @returns the member as it is now */
  updateMember(now: Now, node: string | Uint8Array, change: MemberUpdate): Member {
    const membership = this.#requireInside();
    const member = this.#memberNamed(membership, node);
    this.#accepted(now, membership.governance.update(now, member, change), undefined);
    return membership.byNode(member.nodeId) ?? member;
  }

  /** @param prefix see route-prefix.ts @throws WeftError NOT_MEMBER, NOT_ADMIN, NODE_UNKNOWN, NODE_AMBIGUOUS, ROUTE_INVALID, ROUTE_OVERLAY */
  approveRoute(now: Now, node: string | Uint8Array, prefix: string, approved: boolean): Member {
    const membership = this.#requireInside();
    const member = this.#memberNamed(membership, node);
    this.#accepted(now, [membership.governance.approveRoute(now, member, prefix, approved)], undefined);
    return member;
  }

  /** What is left out stays. @throws WeftError NOT_MEMBER, NOT_ADMIN, POLICY_INVALID */
  setPolicy(
    now: Now,
    change: { readonly stale?: StaleRule | undefined; readonly rules?: CborMap | undefined },
  ): NetworkPolicy {
    this.#accepted(now, this.#requireInside().governance.setPolicy(now, change), undefined);
    return this.policy();
  }

  /** See JoinOffice.approve. */
  approve(now: Now, query: string, name?: string): Member {
    this.#requireInside();
    return this.#office.approve(now, query, name);
  }

  /** See JoinOffice.deny. */
  deny(now: Now, query: string, reason = ""): JoinRequestInfo {
    this.#requireInside();
    return this.#office.deny(now, query, reason);
  }

  /** @throws WeftError NOT_MEMBER, NOT_ADMIN, INVITE_UNKNOWN */
  endInvite(now: Now, inviteId: Uint8Array, reason = ""): void {
    this.#accepted(now, [this.#requireInside().endInvite(now, inviteId, reason)], undefined);
  }

  /**
   * @param node see find() @returns who was removed
   * @throws WeftError NOT_MEMBER, NOT_ADMIN, NODE_UNKNOWN, NODE_AMBIGUOUS, REVOKE_SELF
   */
  revoke(now: Now, node: string | Uint8Array, reason = ""): Member {
    const membership = this.#requireInside();
    const member = this.#memberNamed(membership, node);
    if (equal(member.nodeId, this.#deps.identity.nodeId)) {
      throw new WeftError("REVOKE_SELF", "a node cannot revoke itself", "to leave the network: weft leave");
    }
    this.#accepted(now, membership.revoke(now, member, reason), undefined);
    return member;
  }

  /**
   * Leaves the network; output `left` follows when a member has confirmed it, or at the latest after 5 s.
   * @throws WeftError NOT_MEMBER, LAST_ADMIN (unless forced)
   */
  leave(now: Now, options: { readonly force?: boolean } = {}): void {
    const membership = this.#requireInside();
    const others = membership.members().filter((member) => !equal(member.nodeId, this.#deps.identity.nodeId));
    const isLastAdmin = membership.isAdmin && !others.some((member) => member.roles.includes("admin"));
    if (isLastAdmin && others.length > 0 && options.force !== true) {
      throw new WeftError(
        "LAST_ADMIN",
        `this node is the only admin of ${others.length + 1} members: without it nobody can invite or revoke`,
        "invite another admin first (weft invite --role admin), or leave with --yes",
      );
    }
    if (membership.self !== undefined)
      this.#accepted(now, membership.governance.settleBefore(now, membership.self), undefined);
    const statement = membership.leave(now);
    this.#leaving = new Leaving(statement, now);
    this.#persist(statement);
    this.#handleLeaving(now);
    this.#refresh(now);
  }

  /** Tells connected peers that this node is stopping. */
  shutdown(): void {
    for (const link of this.#gossip.links()) if (this.#isTrusted(link.hex)) this.#send(link.staticKey, { type: "bye" });
  }

  /**
   * Begins to join; joinResult follows.
   * @param text the token
   * @throws WeftError TOKEN_INVALID, TOKEN_DAMAGED, TOKEN_VERSION, TOKEN_EXPIRED, TOKEN_FOREIGN, TOKEN_EMPTY, NAME_INVALID, ALREADY_JOINING
   */
  startJoin(now: Now, text: string, options: JoinOptions): void {
    if (this.#join !== undefined)
      throw new WeftError("ALREADY_JOINING", "this node is joining already", "wait for the result");
    const token = decodeToken(text);
    const present = this.#membership;
    const self = present?.self;
    if (present !== undefined && self !== undefined && equal(present.networkId, token.networkId)) {
      this.#outbox.push({
        kind: "joinResult",
        result: { ok: true, member: self, network: this.networkName as string },
      });
      return;
    }
    checkToken(token, now.wallMs, self === undefined ? undefined : present?.networkId);
    if (!isName(options.name)) {
      throw new WeftError(
        "NAME_INVALID",
        `"${options.name}" is no valid node name`,
        "use 1–63 of a–z, 0–9 and -: --name NAME",
      );
    }
    if (hasIdForm(options.name)) throw idName(options.name);
    if (token.admins.length === 0) {
      throw new WeftError("TOKEN_EMPTY", "the token names no admin", "ask the admin for another token: weft invite");
    }
    this.#isRemoved = false;
    this.#membership = new Membership(this.#deps, token.networkId, this.#options);
    this.#neighbourList = undefined;
    this.#join = new JoinAttempt(
      { keys: this.#deps.keys, nodeId: this.#deps.identity.nodeId, token },
      options,
      this.#options.joinTimeoutMs,
      now,
    );
    for (const admin of token.admins) this.#reach.hint(admin.nodeId, admin.endpoints, admin.urls);
    const count = token.admins.length;
    this.#outbox.push({
      kind: "joinProgress",
      text: `looking for ${count === 1 ? "the admin" : `one of ${count} admins`} named in the token`,
    });
    this.handleTimeout(now);
  }

  /** Gives up a join. */
  cancelJoin(): void {
    if (this.#join !== undefined)
      this.#failJoin(failure(JoinCode.NO_ADMIN, "the join was cancelled", "start it again with the same token"));
  }

  // What the runtime reports

  /** A session with that key can carry control messages. Also for provisional peers. Idempotent. */
  peerUp(now: Now, staticKey: Uint8Array): void {
    const link = this.#gossip.up(now, staticKey);
    if (link === undefined) return;
    this.#join?.peerUp(now, link.hex);
    if (this.#join === undefined || this.#join.phase === "syncing") {
      if (this.#isTrusted(link.hex)) this.#welcome(now, link);
    } else {
      this.handleTimeout(now);
    }
  }

  /** Answers an output `bulk`. @param wasTaken the peer has read all of it */
  bulkDone(now: Now, staticKey: Uint8Array, wasTaken: boolean): void {
    this.#gossip.bulkDone(now, toHex(staticKey), wasTaken);
  }

  /** That session is gone. */
  peerDown(now: Now, staticKey: Uint8Array): void {
    const hex = toHex(staticKey);
    this.#gossip.down(hex);
    this.#join?.peerDown(now, hex);
    if (this.#membership?.byStaticHex(hex) !== undefined) this.#dialler.scheduleJittered(now, 1000);
  }

  /** How far a member is that is reached directly; undefined: not known any more. It decides who is a neighbour. */
  noteRtt(nodeId: Uint8Array, rttMs: number | undefined): void {
    const hex = toHex(nodeId);
    if (this.#rttMs.get(hex) === rttMs) return;
    this.#neighbourList = undefined;
    if (rttMs === undefined) this.#rttMs.delete(hex);
    else if (this.memberById(nodeId) !== undefined) this.#rttMs.set(hex, rttMs);
  }

  /** Says something to a member that is connected; dropped silently when it is not. */
  tell(nodeId: Uint8Array, message: ControlMessage): void {
    const member = this.memberById(nodeId);
    if (member !== undefined) this.#send(member.staticKey, message);
  }

  /** Where this node says that it can be reached, best first. */
  get ownEndpoints(): readonly Uint8Array[] {
    return this.#reach.own;
  }

  /** @param endpoints 18 bytes each, best first: where others may reach this node; signs and hands on when they changed */
  setOwnEndpoints(now: Now, endpoints: readonly Uint8Array[]): void {
    if (this.#reach.setOwn(endpoints)) this.#signEndpoints(now);
  }

  /** @param urls where channels to this node can be opened (base/channel-url.ts), best first */
  setOwnUrls(now: Now, urls: readonly string[]): void {
    if (this.#reach.setOwnUrls(urls)) this.#signEndpoints(now);
  }

  /** Prefixes and services that this node offers; signed and handed on when they changed. */
  setOwnOffers(now: Now, offers: Offers): void {
    if (this.#reach.setOwnOffers(offers)) this.#signEndpoints(now);
  }

  /** What a node says it offers; nothing of it counts by itself. */
  offers(nodeId: Uint8Array): Offers {
    return this.#reach.offers(nodeId);
  }

  /** An authenticated packet of that node came from there. @param endpoint 18 bytes */
  noteReached(now: Now, nodeId: Uint8Array, endpoint: Uint8Array): void {
    this.#reach.noteReached(now, nodeId, endpoint);
  }

  /** Endpoints of a node from the configuration. */
  setHints(nodeId: Uint8Array, endpoints: readonly Uint8Array[]): void {
    this.#reach.hint(nodeId, endpoints);
    this.#outbox.push({ kind: "endpointsChanged", nodeId });
  }

  /** The endpoint cache, for a file. */
  exportEndpoints(): Uint8Array {
    return this.#reach.cache.export();
  }

  /** Call after restore(). @param bytes of exportEndpoints(); anything may be in them @returns how many nodes were taken */
  importEndpoints(bytes: Uint8Array): number {
    return this.#reach.import(bytes);
  }

  /**
   * A control message (inner kind 2) that came through an authenticated session.
   * @param staticKey of the session's peer @param bytes any; not kept
   */
  handleControl(now: Now, staticKey: Uint8Array, bytes: Uint8Array): void {
    this.counters.controlReceived++;
    const message = decodeControl(bytes);
    if (message === ControlFault.MALFORMED) {
      this.counters.controlMalformed++;
    } else if (message === ControlFault.UNKNOWN_TYPE) {
      this.counters.controlUnknownType++;
    } else {
      const hex = toHex(staticKey);
      if (this.#gossip.link(hex) === undefined && (message.type === "join" || this.#isTrusted(hex)))
        this.peerUp(now, staticKey);
      const link = this.#gossip.link(hex);
      if (link === undefined) this.counters.controlRefusedSender++;
      else if (message.type === "join" && !link.mayJoin(now.nowMs)) this.counters.controlRateLimited++;
      else if (!link.mayReceive(now.nowMs, COSTLY.has(message.type))) this.counters.controlRateLimited++;
      else this.#dispatch(now, link, message);
    }
  }

  /** Monotonic milliseconds; Infinity: nothing is due. */
  nextTimeout(): number {
    return Math.min(
      this.#gossip.nextTimeout(),
      this.#join?.nextTimeout() ?? Number.POSITIVE_INFINITY,
      this.#leaving?.dueMs ?? Number.POSITIVE_INFINITY,
      this.#reach.renewDueMs,
      this.#refreshDueMs,
      this.#dialler.dueMs,
      this.#checkpointDueMs,
      this.#join === undefined && !this.#isRemoved ? this.#freshness.nextTimeout() : Number.POSITIVE_INFINITY,
    );
  }

  /** May be called at any time; does what is due. */
  handleTimeout(now: Now): void {
    if (this.#join !== undefined && now.nowMs >= this.#join.nextTimeout())
      this.#followSteps(now, this.#join.handleTimeout(now));
    if (this.#leaving !== undefined && now.nowMs >= this.#leaving.dueMs) this.#handleLeaving(now);
    if (now.nowMs >= this.#reach.renewDueMs) this.#signEndpoints(now);
    if (now.nowMs >= this.#refreshDueMs) this.#refresh(now);
    if (now.nowMs >= this.#dialler.dueMs) this.#dialNeighbours(now);
    if (now.nowMs >= this.#checkpointDueMs) this.#advanceCheckpoint(now);
    if (now.nowMs >= this.#freshness.nextTimeout()) this.#checkFreshness(now);
    this.#gossip.handleTimeout(now);
  }

  pollOutput(): MeshOutput | undefined {
    const output = this.#outbox.poll();
    this.counters.outputsDropped = this.#outbox.dropped;
    return output;
  }

  // Incoming messages

  #dispatch(now: Now, link: Link, message: ControlMessage): void {
    if (message.type === "join") return this.#office.handleJoin(now, link, message);
    if (message.type === "left") return this.#onLeft(message.hash);
    if (!this.#isTrusted(link.hex)) {
      this.counters.controlRefusedSender++;
      return;
    }
    switch (message.type) {
      case "hello":
        return this.#onHello(link, message);
      case "statements":
        return this.#onStatements(now, link, message.wires);
      case "endpoints":
        return this.#onEndpoints(now, link, message.wires);
      case "answer":
        if (this.#join !== undefined) this.#followSteps(now, this.#join.handleAnswer(now, link.hex, message), link);
        return;
      case "joinVia":
        return this.#office.handleJoinVia(now, link, message);
      case "answerVia": {
        const admission = this.#office.handleAnswerVia(link, message);
        if (admission !== undefined) this.#gossip.want(link, [admission]);
        return;
      }
      case "leave":
        return this.#onLeave(now, link, message.wire);
      case "idle":
        return this.#outbox.push({ kind: "idle", staticKey: link.staticKey, message });
      case "punch":
      case "sight":
      case "seen":
        return this.#onPunch(link, message);
      case "lookup":
      case "found":
      case "unlabel":
      case "near":
        return this.#onRouting(link, message);
      case "bye":
        // nothing is asked of it any more; when it is back, its next session or message makes the link anew
        this.#gossip.down(link.hex);
        return this.#outbox.push({ kind: "peerStopping", staticKey: link.staticKey, nodeId: this.#nodeIdOf(link.hex) });
      default:
        this.#gossip.handle(now, link, message);
        this.#noteConfirmed(now);
        if (this.#join !== undefined) this.#finishJoin(now);
    }
  }

  #onPunch(link: Link, message: PunchControl): void {
    const nodeId = this.#join === undefined ? this.#membership?.byStaticHex(link.hex)?.nodeId : undefined;
    if (nodeId === undefined) return;
    if (message.type === "sight") return this.#outbox.push({ kind: "punch", nodeId, message });
    const named = message.type === "punch" ? message.endpoints : [message.endpoint];
    const endpoints = this.#reach.dialable(named);
    if (message.type === "punch")
      return this.#outbox.push({ kind: "punch", nodeId, message: { ...message, endpoints } });
    if (endpoints.length === 1) this.#outbox.push({ kind: "punch", nodeId, message });
  }

  /** While joining, this node is nobody's way to anywhere. */
  #onRouting(link: Link, message: RoutingMessage): void {
    const nodeId = this.#join === undefined ? this.#membership?.byStaticHex(link.hex)?.nodeId : undefined;
    if (nodeId === undefined) this.counters.controlRefusedSender++;
    else this.#outbox.push({ kind: "routing", nodeId, message });
  }

  /** Confirmed before it takes effect, because then the session is dropped. */
  #onLeave(now: Now, link: Link, wire: Uint8Array): void {
    const membership = this.#membership;
    if (membership === undefined || this.#join !== undefined) return;
    if (!link.mayOffer(now.nowMs)) return;
    const { added, result } = membership.take(wire, now);
    if (result.status === "refused") link.noteRefusal(now, !HONEST.has(result.reason));
    const hash = statementHash(wire);
    if (membership.roster.has(hash)) this.#send(link.staticKey, { type: "left", hash });
    if (added.length > 0) this.#accepted(now, added, link);
  }

  #onHello(link: Link, message: Extract<ControlMessage, { type: "hello" }>): void {
    const { buildId, protocol, capabilities, name } = message;
    link.hello = { buildId, protocol, capabilities, name };
    const [lowest, highest] = this.#options.protocol;
    if (protocol[0] <= highest && protocol[1] >= lowest) return;
    const reason = `protocol ${protocol[0]}–${protocol[1]} of ${name} (build ${buildId}) and ${lowest}–${highest} of this node have nothing in common: update the older one`;
    this.#outbox.log("warn", reason);
    this.#outbox.push({ kind: "dropPeer", staticKey: link.staticKey, nodeId: this.#nodeIdOf(link.hex), reason });
    if (this.#join !== undefined)
      this.#failJoin(failure(JoinCode.PROTOCOL, reason, "update Weft on the older of the two machines"));
  }

  #onStatements(now: Now, link: Link, wires: readonly Uint8Array[]): void {
    const membership = this.#membership;
    if (membership === undefined) return;
    const added: Statement[] = [];
    const missing: Uint8Array[] = [];
    for (const wire of wires) {
      if (!link.mayOffer(now.nowMs)) {
        this.counters.controlRateLimited++;
        break;
      }
      const taken = membership.take(wire, now);
      added.push(...taken.added);
      if (taken.result.status === "known") this.counters.statementsDuplicate++;
      if (taken.result.status === "missing") missing.push(...taken.result.parents);
      if (taken.result.status === "refused") {
        this.counters.statementsRefused++;
        if (taken.result.reason === Refusal.BAD_SIGNATURE) link.noteForgery(now);
        else link.noteRefusal(now, !HONEST.has(taken.result.reason));
        this.#outbox.log("debug", `a statement is refused: ${taken.result.reason}`);
      }
    }
    this.counters.statementsPendingEvicted = membership.pendingEvicted;
    const unknown = missing.filter((hash) => !membership.isKnown(hash)).slice(0, 16);
    if (unknown.length > 0) this.#gossip.want(link, unknown);
    if (added.length === 0) return;
    this.#accepted(now, added, link);
    this.#gossip.noteProgress(now, link, membership.roster.size);
  }

  #onEndpoints(now: Now, link: Link, wires: readonly Uint8Array[]): void {
    if (link.isMuted(now.nowMs)) return;
    const isWelcome = (nodeId: Uint8Array): boolean =>
      this.#join !== undefined || this.#membership?.byNode(nodeId) !== undefined;
    for (const wire of wires) {
      const heard = this.#reach.hear(now, wire, isWelcome);
      if (heard.kind === "refused") {
        this.counters.endpointsRefused++;
        if (heard.isForged) link.noteForgery(now);
      }
      if (heard.kind !== "newer") continue;
      this.counters.endpointsAccepted++;
      this.counters.endpointsEvicted = this.#reach.cache.evicted;
      const { message } = heard;
      if (equal(message.nodeId, this.#deps.identity.nodeId)) {
        // said in an earlier run whose clock this one does not know
        this.#gossip.endpointsChanged();
        this.#signEndpoints(now);
        continue;
      }
      this.#gossip.announceEndpoints(now, message, link);
      this.#outbox.push({ kind: "endpointsChanged", nodeId: message.nodeId });
      this.#dialler.schedule(now.nowMs);
    }
  }

  // Joiner's side

  #followSteps(now: Now, steps: readonly JoinStep[], answered?: Link): void {
    for (const step of steps) {
      if (step.kind === "dial") {
        this.#outbox.push({ kind: "dial", nodeId: step.nodeId, staticKey: step.staticKey, inviteId: step.inviteId });
      } else if (step.kind === "send") {
        this.#send(step.staticKey, step.message);
      } else if (step.kind === "progress") {
        this.#outbox.push({ kind: "joinProgress", text: step.text });
      } else {
        this.#failJoin(step.failure);
      }
    }
    if (answered !== undefined && this.#join?.phase === "syncing") this.#welcome(now, answered);
  }

  /** Done when this node is a member of a verified roster that has everything some admin has. */
  #finishJoin(now: Now): void {
    const membership = this.#membership;
    if (this.#join?.phase !== "syncing" || membership === undefined || membership.roster.size === 0) return;
    const { roster } = membership;
    const isWhole = [...this.#gossip.links()].some(
      (link) => link.hasSameRoster || (link.remoteCount > 0 && roster.size >= link.remoteCount),
    );
    if (!isWhole) return;
    if (!roster.state.byNode.has(toHex(this.#deps.identity.nodeId))) {
      const admission = this.#join.admission;
      const why = admission === undefined ? undefined : roster.state.voids.get(toHex(admission));
      if (why !== undefined)
        this.#failJoin(
          failure(JoinCode.BAD_ROSTER, `the admission has no effect: ${why}`, "ask the admin for another token"),
        );
      return;
    }
    this.#join = undefined;
    this.#freshness.confirmed(now.nowMs);
    this.#refresh(now);
    const { self } = this;
    if (self === undefined) {
      return this.#failJoin(
        failure(JoinCode.BAD_ROSTER, "the membership has expired", "ask the admin for another token"),
      );
    }
    for (const statement of roster.statements()) this.#persist(statement);
    this.#outbox.push({ kind: "joinResult", result: { ok: true, member: self, network: this.networkName as string } });
    this.#signEndpoints(now);
  }

  #failJoin(result: JoinFailure): void {
    this.#join = undefined;
    this.#membership = undefined;
    this.#neighbourList = undefined;
    for (const link of this.#gossip.links()) this.#gossip.down(link.hex);
    this.#outbox.push({ kind: "joinResult", result });
  }

  // Roster

  /** Statements that have entered: keep, hand on, see what they change. */
  #accepted(now: Now, statements: readonly Statement[], from: Link | undefined): void {
    let isUrgent = from === undefined;
    for (const statement of statements) {
      this.counters.statementsAccepted++;
      if (statement.body.kind === "revoke" || statement.body.kind === "unadmin") isUrgent = true;
      if (this.#join !== undefined) continue;
      this.#persist(statement);
      this.#gossip.announceStatement(now, statement, from);
    }
    if (this.#join !== undefined) return this.#finishJoin(now);
    if (isUrgent) this.#refresh(now);
    else this.#refreshDueMs = Math.min(this.#refreshDueMs, Math.max(now.nowMs, this.#lastRefreshMs + REFRESH_GAP_MS));
    if (now.nowMs >= this.#refreshDueMs) this.#refresh(now);
  }

  #refresh(now: Now): void {
    this.#neighbourList = undefined;
    this.#lastRefreshMs = now.nowMs;
    this.#refreshDueMs = Number.POSITIVE_INFINITY;
    const membership = this.#membership;
    if (membership === undefined || this.#join !== undefined || this.#isRemoved) return;
    const changes = membership.refresh(now);
    const nextExpiryMs = membership.nextExpiryMs();
    // looked at again at least every hour, because the wall clock may jump
    if (nextExpiryMs !== Number.POSITIVE_INFINITY) {
      this.#refreshDueMs = now.nowMs + Math.min(3_600_000, Math.max(1, nextExpiryMs - now.wallMs));
    }
    this.#applyRules(now, membership);
    this.#scheduleCheckpoint(now, membership);
    if (changes === undefined) return;
    this.#outbox.push({ kind: "rosterChanged", ...changes });
    for (const member of changes.removed) {
      const isSelf = equal(member.nodeId, this.#deps.identity.nodeId);
      const { reason, by } = membership.removalOf(member.nodeId);
      this.#reach.cache.remove(member.nodeId);
      this.#rttMs.delete(toHex(member.nodeId));
      this.#gossip.endpointsChanged();
      if (isSelf) {
        this.#isRemoved = true;
        this.#outbox.push({ kind: "selfRemoved", reason, by });
      } else {
        this.#gossip.down(toHex(member.staticKey));
        this.#outbox.push({ kind: "dropPeer", staticKey: member.staticKey, nodeId: member.nodeId, reason });
      }
    }
    for (const member of changes.added) {
      // a joiner whose request a beacon has passed on hears its first words when the admission arrives
      const link = this.#gossip.link(toHex(member.staticKey));
      if (link !== undefined && link.hello === undefined) this.#welcome(now, link);
    }
    for (const member of [...changes.added, ...changes.changed]) {
      if (member.name !== member.requestedName) {
        this.#outbox.log(
          "warn",
          `the name "${member.requestedName}" was taken twice at once: one node is now called "${member.name}"`,
        );
      }
    }
    this.#dialler.schedule(now.nowMs);
  }

  #applyRules(now: Now, membership: Membership): void {
    const changed = membership.refreshRules();
    if (changed.routes) this.#outbox.push({ kind: "routesChanged" });
    if (!changed.policy) return;
    this.#outbox.push({ kind: "policyChanged" });
    this.#freshness.ruleChanged(now.nowMs, membership.policy.stale);
    this.#checkFreshness(now);
  }

  #scheduleCheckpoint(now: Now, membership: Membership): void {
    const step = membership.governance.checkpointStep();
    if (step === undefined) {
      this.#checkpointDueMs = Number.POSITIVE_INFINITY;
      return;
    }
    const jitter = this.#deps.random.unit();
    const waitMs =
      step === "consent"
        ? CONSENT_MS * (0.5 + jitter)
        : PROPOSE_MS + PROPOSE_STEP_MS * (membership.governance.adminPlace + jitter / 2);
    this.#checkpointDueMs = Math.min(this.#checkpointDueMs, now.nowMs + waitMs);
  }

  #advanceCheckpoint(now: Now): void {
    this.#checkpointDueMs = Number.POSITIVE_INFINITY;
    const membership = this.#membership;
    if (membership === undefined || this.#join !== undefined || this.#isRemoved) return;
    try {
      const step = membership.governance.checkpointStep();
      const statements = membership.governance.advanceCheckpoint(now);
      if (step === "propose") this.counters.checkpointsProposed++;
      if (step === "consent") this.counters.checkpointVotes++;
      if (statements.length > 0) this.#accepted(now, statements, undefined);
    } catch (error) {
      // a full roster or a clock far ahead; the next change of the roster tries again
      this.#outbox.log("warn", `no checkpoint: ${(error as Error).message}`);
    }
  }

  #noteConfirmed(now: Now): void {
    if (this.#gossip.confirmedAtMs !== now.nowMs || this.#join !== undefined) return;
    this.#freshness.confirmed(now.nowMs);
    this.#checkFreshness(now);
  }

  /** Asks members to compare rosters when that is due, and says when user data may flow or not. */
  #checkFreshness(now: Now): void {
    const hasOthers = this.members().length > 1;
    const ask = this.#freshness.handleTimeout(now.nowMs, this.policy().stale, hasOthers);
    this.counters.rosterHolds = this.#freshness.holds;
    if (ask !== Ask.NONE) {
      const links = [...this.#gossip.links()].filter((link) => this.#isTrusted(link.hex));
      const first = links.length === 0 ? 0 : this.#deps.random.u32() % links.length;
      const asked = ask === Ask.ALL ? links : links.slice(first, first + 1);
      for (const link of asked) this.#gossip.compareSoon(now, link);
    }
    if (this.#freshness.state === this.#userData) return;
    this.#userData = this.#freshness.state;
    this.#outbox.push({ kind: "userData", state: this.#userData });
  }

  #handleLeaving(now: Now): void {
    const links = [...this.#gossip.links()].filter((link) => this.#membership?.byStaticHex(link.hex) !== undefined);
    const message = this.#leaving?.next(now, links.length);
    if (message === undefined) return this.#finishLeaving(false);
    for (const link of links) this.#send(link.staticKey, message, true);
  }

  #onLeft(hash: Uint8Array): void {
    if (this.#leaving?.isConfirmedBy(hash) === true) this.#finishLeaving(true);
  }

  #finishLeaving(delivered: boolean): void {
    this.#leaving = undefined;
    this.#outbox.push({ kind: "left", delivered });
  }

  // Peers

  /** First words to a peer that may see the roster. */
  #welcome(now: Now, link: Link): void {
    const { buildId, protocol, capabilities } = this.#options;
    const name = this.self?.name ?? this.#join?.name ?? "";
    this.#send(link.staticKey, { type: "hello", buildId: buildId.slice(0, 64), protocol, capabilities, name });
    this.#gossip.compareSoon(now, link);
  }

  #dialNeighbours(now: Now): void {
    const neighbours = this.#isRemoved || this.self === undefined ? [] : this.#neighbours();
    const isConnected = (hex: string): boolean => this.#gossip.link(hex) !== undefined;
    const isReachable = (member: Member): boolean =>
      this.candidates(member.nodeId, now.wallMs).length > 0 || this.urls(member.nodeId).length > 0;
    for (const { nodeId, staticKey } of this.#dialler.due(now, neighbours, isConnected, isReachable)) {
      this.#outbox.push({ kind: "dial", nodeId, staticKey, inviteId: undefined });
    }
  }

  #neighbours(): readonly Member[] {
    if (this.#neighbourList !== undefined) return this.#neighbourList;
    const neighbours = neighboursOf(this.members(), this.#deps.identity.nodeId, this.#rttMs, this.#neighbourHexes);
    this.#neighbourHexes = new Set(neighbours.map((member) => toHex(member.nodeId)));
    this.#neighbourList = neighbours;
    return neighbours;
  }

  #isTrusted(staticHex: string): boolean {
    if (this.#isRemoved) return false;
    if (this.#join !== undefined) return this.#join.adminOf(staticHex) !== undefined;
    return this.#membership?.byStaticHex(staticHex) !== undefined;
  }

  #nodeIdOf(staticHex: string): Uint8Array | undefined {
    return this.#membership?.byStaticHex(staticHex)?.nodeId ?? this.#join?.adminOf(staticHex);
  }

  // Endpoints

  #signEndpoints(now: Now): void {
    if (this.self === undefined || this.#isRemoved) {
      this.#reach.renewDueMs = Number.POSITIVE_INFINITY;
      return;
    }
    const message = this.#reach.signOwn(now);
    if (message !== undefined) this.#gossip.announceEndpoints(now, message, undefined);
  }

  #overlay(): { readonly networkId: Uint8Array; readonly ipv4: Ipv4Prefix | undefined } | undefined {
    const roster = this.#membership?.roster;
    return roster === undefined ? undefined : { networkId: roster.networkId, ipv4: roster.genesis?.prefix };
  }

  #tokenAdmins(now: Now): TokenAdmin[] {
    const own = this.#deps.identity.nodeId;
    const admins: TokenAdmin[] = [{ nodeId: own, endpoints: this.#reach.own, urls: this.#reach.ownUrls }];
    // a beacon passes requests on to an admin that cannot be reached otherwise
    const desks = (["beacon", "admin"] as const).flatMap((role) =>
      this.members().filter((member) => member.roles.includes(role)),
    );
    for (const member of new Set(desks)) {
      if (admins.length === MAX_TOKEN_ADMINS) break;
      if (equal(member.nodeId, own)) continue;
      const endpoints = this.candidates(member.nodeId, now.wallMs);
      const urls = this.urls(member.nodeId);
      if (endpoints.length + urls.length > 0) admins.push({ nodeId: member.nodeId, endpoints, urls });
    }
    return admins;
  }

  // Small things

  #requireInside(): Membership {
    if (this.#membership !== undefined && this.self !== undefined) return this.#membership;
    throw new WeftError(
      "NOT_MEMBER",
      "this node is in no network",
      "create one (weft init NETWORK) or join one (weft up --join TOKEN)",
    );
  }

  #memberNamed(membership: Membership, node: string | Uint8Array): Member {
    const member = typeof node === "string" ? membership.find(node) : membership.byNode(node);
    if (member !== undefined) return member;
    const shown = typeof node === "string" ? node : this.#deps.keys.formatNodeId(node);
    throw new WeftError("NODE_UNKNOWN", `no member is called "${shown}"`, "weft members lists them");
  }

  #requireOutside(): void {
    if (this.#membership?.self === undefined && this.#join === undefined) return;
    throw new WeftError(
      "ALREADY_MEMBER",
      `this node belongs to the network "${this.networkName ?? "?"}" already`,
      "leave it first: weft leave",
    );
  }

  #persist(statement: Statement): void {
    this.#outbox.push({ kind: "persistStatement", hash: statement.hash, bytes: statement.wire });
  }

  #sendBulk(link: Link, messages: readonly ControlMessage[]): boolean {
    const nodeId = this.#nodeIdOf(link.hex);
    if (!this.#options.bulkStreams || this.#isRemoved || nodeId === undefined) return false;
    const bytes = messages.map((message) => encodeControl(message));
    this.#outbox.push({ kind: "bulk", staticKey: link.staticKey, nodeId, messages: bytes });
    return true;
  }

  #send(staticKey: Uint8Array, message: ControlMessage, evenIfRemoved = false): void {
    if (this.#isRemoved && !evenIfRemoved) return;
    this.#outbox.send(staticKey, this.#nodeIdOf(toHex(staticKey)), message);
  }
}
