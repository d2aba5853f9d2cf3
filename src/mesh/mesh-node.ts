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
 *
 * This is the front; the parts are in node/: core.ts what they share, incoming.ts messages, operations.ts what a person asks for, changes.ts what follows
 * from a changed roster, joining.ts the joiner's side, circle.ts neighbours. The admin's side of joining is join-office.ts, propagation gossip.ts.
 * Bounds: links, queues and rates in links.ts, waiting statements in membership.ts, statements in roster.ts, nodes in endpoints.ts,
 * outputs in outbox.ts. Source: docs/protocol.md, "Roster", "Join", "Control messages".
 */
import type { Now } from "../base/clock.ts";
import { toHex } from "../base/bytes.ts";
import { formatIpv4Prefix } from "./addresses.ts";
import type { CborMap } from "./cbor.ts";
import type { ControlMessage } from "./control.ts";
import { JoinOffice } from "./join-office.ts";
import { Changes } from "./node/changes.ts";
import { Circle } from "./node/circle.ts";
import { MeshCore } from "./node/core.ts";
import { Incoming } from "./node/incoming.ts";
import { Joining } from "./node/joining.ts";
import { Operations } from "./node/operations.ts";
import type { Offers } from "./offers.ts";
import type {
  ApprovedRoute,
  CreatedInvite,
  CreateInviteOptions,
  CreateNetworkOptions,
  ImportResult,
  InviteInfo,
  JoinOptions,
  JoinRequestInfo,
  Member,
  MemberUpdate,
  MeshCounters,
  MeshDeps,
  MeshOptions,
  MeshOutput,
  NetworkPolicy,
  PeerHello,
  RosterInfo,
  StaleRule,
  UserDataState,
} from "./types.ts";

export type * from "./types.ts";

/** Somebody who went away is looked for within this time, by many perhaps. */
const REDIAL_WITHIN_MS = 1000;

export class MeshNode {
  readonly #core: MeshCore;
  readonly #circle: Circle;
  readonly #changes: Changes;
  readonly #joining: Joining;
  readonly #operations: Operations;
  readonly #office: JoinOffice;
  readonly #incoming: Incoming;

  constructor(deps: MeshDeps, options: MeshOptions = {}) {
    const core = new MeshCore(deps, options);
    const circle = new Circle(core);
    const changes = new Changes({ core, circle, joinProgressed: (now) => this.#joining.finish(now) });
    this.#core = core;
    this.#circle = circle;
    this.#changes = changes;
    this.#joining = new Joining({ core, circle, joined: (now) => changes.joined(now) });
    this.#operations = new Operations(core, changes);
    this.#office = new JoinOffice({
      keys: core.deps.keys,
      counters: core.counters,
      membership: () => (core.join === undefined && !core.isRemoved ? core.membership : undefined),
      link: (hex) => core.gossip.link(hex),
      links: () => core.gossip.links(),
      send: (staticKey, message) => core.send(staticKey, message),
      accepted: (now, statements) => changes.accepted(now, statements, undefined),
      welcome: (now, link) => core.welcome(now, link),
      keepJoiner: (staticKey, forMs) => core.outbox.push({ kind: "keepJoiner", staticKey, forMs }),
      log: (level, text) => core.outbox.log(level, text),
    });
    this.#incoming = new Incoming({
      core,
      circle,
      changes,
      joining: this.#joining,
      operations: this.#operations,
      office: this.#office,
      peerUp: (now, staticKey) => this.peerUp(now, staticKey),
    });
  }

  // What is

  get counters(): MeshCounters {
    return this.#core.counters;
  }

  /** 32 bytes; undefined before createNetwork, restore or startJoin. */
  get networkId(): Uint8Array | undefined {
    return this.#core.join?.token.networkId ?? this.#core.membership?.networkId;
  }

  get networkName(): string | undefined {
    return this.#core.membership?.roster.genesis?.network;
  }

  /** "100.64.0.0/16" */
  get ipv4Prefix(): string | undefined {
    const genesis = this.#core.membership?.roster.genesis;
    return genesis === undefined ? undefined : formatIpv4Prefix(genesis.prefix);
  }

  /** This node as a member; undefined while it is none. */
  get self(): Member | undefined {
    return this.#core.self;
  }

  get isAdmin(): boolean {
    return this.self?.roles.includes("admin") === true;
  }

  get isJoining(): boolean {
    return this.#core.join !== undefined;
  }

  /** Monotonic time at which another member last confirmed that its roster is the same; undefined: not in this run. */
  get rosterConfirmedAtMs(): number | undefined {
    return this.#core.gossip.confirmedAtMs;
  }

  /** All members that count now, this node included, in order of admission. */
  members(): Member[] {
    return this.#core.members();
  }

  memberById(nodeId: Uint8Array): Member | undefined {
    return this.#core.membership?.byNode(nodeId);
  }

  /** Wall-clock time until which it is or was a member: Infinity without an end, undefined when it never was one. */
  memberUntilMs(nodeId: Uint8Array): number | undefined {
    return this.#core.membership?.memberUntilMs(nodeId);
  }

  memberByStaticKey(staticKey: Uint8Array): Member | undefined {
    return this.#core.membership?.byStaticHex(toHex(staticKey));
  }

  /**
   * @param query name, overlay address, node id, or at least its first 8 characters
   * @throws WeftError NODE_AMBIGUOUS
   */
  find(query: string): Member | undefined {
    return this.#core.membership?.find(query);
  }

  /** What that peer said in its hello. */
  hello(staticKey: Uint8Array): PeerHello | undefined {
    return this.#core.gossip.link(toHex(staticKey))?.hello;
  }

  /** True for members to which a session is kept open even when idle. */
  isNeighbour(nodeId: Uint8Array): boolean {
    return this.#circle.has(nodeId);
  }

  invites(now: Now): InviteInfo[] {
    return this.#core.membership?.invites(now.wallMs) ?? [];
  }

  /** Requests that wait for this admin's decision, oldest first. */
  requests(now: Now): JoinRequestInfo[] {
    return this.#office.list(now);
  }

  /** Prefixes that members may route, by prefix, then node id. */
  approvedRoutes(): readonly ApprovedRoute[] {
    return this.isJoining ? [] : (this.#core.membership?.routes ?? []);
  }

  policy(): NetworkPolicy {
    return this.#changes.policy();
  }

  /** Whether user data may flow: see freshness.ts. */
  get userData(): UserDataState {
    return this.#changes.userData;
  }

  /** undefined outside a network. */
  rosterInfo(): RosterInfo | undefined {
    const { membership } = this.#core;
    return membership === undefined || membership.roster.size === 0 ? undefined : membership.info();
  }

  /** The whole roster as text (roster-text.ts). @throws WeftError NOT_MEMBER */
  exportRoster(): string {
    return this.#operations.exportRoster();
  }

  /** For the session layer's provisional peers: see Membership.acceptsInvite. @param inviteId 8 bytes */
  acceptsInvite(inviteId: Uint8Array, wallMs: number): "live" | "ended" | "unknown" {
    if (this.isJoining) return "unknown";
    return this.#core.membership?.acceptsInvite(inviteId, wallMs) ?? "unknown";
  }

  /** Underlay addresses at which the node may be reached, best first, 18 bytes each, at most 8; never overlay addresses. */
  candidates(nodeId: Uint8Array, wallMs: number): Uint8Array[] {
    return this.#core.candidates(nodeId, wallMs);
  }

  /**
   * Where a channel to the node can be opened, best first, at most 2. Only those of nodes that the network trusts to serve others count
   * (admins, beacons, and while joining whom the token names): whoever names a URL makes other machines connect to it.
   */
  urls(nodeId: Uint8Array): readonly string[] {
    return this.#core.urls(nodeId);
  }

  /** Milliseconds since the node's signed endpoints came; undefined: there are none. */
  endpointAgeMs(nodeId: Uint8Array, wallMs: number): number | undefined {
    return this.#core.reach.cache.ageMs(nodeId, wallMs);
  }

  // What a person asks for

  /**
   * @returns the network id, 32 bytes
   * @throws WeftError ALREADY_MEMBER, NAME_INVALID, PREFIX_INVALID, PREFIX_COLLISION
   */
  createNetwork(now: Now, network: CreateNetworkOptions): Uint8Array {
    return this.#operations.createNetwork(now, network);
  }

  /**
   * Takes back what persistStatement gave, in any order.
   * @param networkId 32 bytes @returns how many were accepted; damaged ones are left out with a log line
   */
  restore(now: Now, networkId: Uint8Array, wires: readonly Uint8Array[]): number {
    return this.#operations.restore(now, networkId, wires);
  }

  /** @throws WeftError NOT_MEMBER, NOT_ADMIN, INVITE_INVALID */
  createInvite(now: Now, options: CreateInviteOptions = {}): CreatedInvite {
    return this.#operations.createInvite(now, options);
  }

  /**
   * Takes statements of this network from elsewhere, parents before children or not. @param networkId 32 bytes, whose they are said to be
   * @throws WeftError NOT_MEMBER, ROSTER_FOREIGN
   */
  importStatements(now: Now, networkId: Uint8Array, wires: readonly Uint8Array[]): ImportResult {
    return this.#operations.importStatements(now, networkId, wires);
  }

  /** @throws WeftError NOT_MEMBER, NOT_ADMIN, NODE_UNKNOWN, NODE_AMBIGUOUS, UPDATE_INVALID, LAST_ADMIN @returns the member as it is now */
  updateMember(now: Now, node: string | Uint8Array, change: MemberUpdate): Member {
    return this.#operations.updateMember(now, node, change);
  }

  /** @param prefix see route-prefix.ts @throws WeftError NOT_MEMBER, NOT_ADMIN, NODE_UNKNOWN, NODE_AMBIGUOUS, ROUTE_INVALID, ROUTE_OVERLAY */
  approveRoute(now: Now, node: string | Uint8Array, prefix: string, approved: boolean): Member {
    return this.#operations.approveRoute(now, node, prefix, approved);
  }

  /** What is left out stays. @throws WeftError NOT_MEMBER, NOT_ADMIN, POLICY_INVALID */
  setPolicy(
    now: Now,
    change: { readonly stale?: StaleRule | undefined; readonly rules?: CborMap | undefined },
  ): NetworkPolicy {
    this.#operations.setPolicy(now, change);
    return this.policy();
  }

  /** See JoinOffice.approve. */
  approve(now: Now, query: string, name?: string): Member {
    this.#core.requireInside();
    return this.#office.approve(now, query, name);
  }

  /** See JoinOffice.deny. */
  deny(now: Now, query: string, reason = ""): JoinRequestInfo {
    this.#core.requireInside();
    return this.#office.deny(now, query, reason);
  }

  /** @throws WeftError NOT_MEMBER, NOT_ADMIN, INVITE_UNKNOWN */
  endInvite(now: Now, inviteId: Uint8Array, reason = ""): void {
    this.#operations.endInvite(now, inviteId, reason);
  }

  /**
   * @param node see find() @returns who was removed
   * @throws WeftError NOT_MEMBER, NOT_ADMIN, NODE_UNKNOWN, NODE_AMBIGUOUS, REVOKE_SELF
   */
  revoke(now: Now, node: string | Uint8Array, reason = ""): Member {
    return this.#operations.revoke(now, node, reason);
  }

  /**
   * Leaves the network; output `left` follows when a member has confirmed it, or at the latest after 5 s.
   * @throws WeftError NOT_MEMBER, LAST_ADMIN (unless forced)
   */
  leave(now: Now, options: { readonly force?: boolean } = {}): void {
    this.#operations.leave(now, options.force === true);
  }

  /** Tells connected peers that this node is stopping. */
  shutdown(): void {
    for (const link of this.#core.gossip.links())
      if (this.#core.isTrusted(link.hex)) this.#core.send(link.staticKey, { type: "bye" });
  }

  /**
   * Begins to join; joinResult follows.
   * @param text the token
   * @throws WeftError TOKEN_INVALID, TOKEN_DAMAGED, TOKEN_VERSION, TOKEN_EXPIRED, TOKEN_FOREIGN, TOKEN_EMPTY, NAME_INVALID, ALREADY_JOINING
   */
  startJoin(now: Now, text: string, options: JoinOptions): void {
    this.#joining.start(now, text, options);
    if (this.isJoining) this.handleTimeout(now);
  }

  /** Gives up a join. */
  cancelJoin(): void {
    this.#joining.cancel();
  }

  // What the runtime reports

  /** A session with that key can carry control messages. Also for provisional peers. Idempotent. */
  peerUp(now: Now, staticKey: Uint8Array): void {
    const core = this.#core;
    const link = core.gossip.up(now, staticKey);
    if (link === undefined) return;
    core.join?.peerUp(now, link.hex);
    if (core.join === undefined || core.join.phase === "syncing") {
      if (core.isTrusted(link.hex)) core.welcome(now, link);
    } else {
      this.handleTimeout(now);
    }
  }

  /** Answers an output `bulk`. @param wasTaken the peer has read all of it */
  bulkDone(now: Now, staticKey: Uint8Array, wasTaken: boolean): void {
    this.#core.gossip.bulkDone(now, toHex(staticKey), wasTaken);
  }

  /** That session is gone. */
  peerDown(now: Now, staticKey: Uint8Array): void {
    const hex = toHex(staticKey);
    this.#core.gossip.down(hex);
    this.#core.join?.peerDown(now, hex);
    if (this.#core.membership?.byStaticHex(hex) !== undefined) this.#circle.lookJittered(now, REDIAL_WITHIN_MS);
  }

  /** How far a member is that is reached directly; undefined: not known any more. It decides who is a neighbour. */
  noteRtt(nodeId: Uint8Array, rttMs: number | undefined): void {
    this.#circle.noteRtt(nodeId, rttMs);
  }

  /** Says something to a member that is connected; dropped silently when it is not. */
  tell(nodeId: Uint8Array, message: ControlMessage): void {
    const member = this.memberById(nodeId);
    if (member !== undefined) this.#core.send(member.staticKey, message);
  }

  /** Where this node says that it can be reached, best first. */
  get ownEndpoints(): readonly Uint8Array[] {
    return this.#core.reach.own;
  }

  /** @param endpoints 18 bytes each, best first: where others may reach this node; signs and hands on when they changed */
  setOwnEndpoints(now: Now, endpoints: readonly Uint8Array[]): void {
    if (this.#core.reach.setOwn(endpoints)) this.#core.signEndpoints(now);
  }

  /** @param urls where channels to this node can be opened (base/channel-url.ts), best first */
  setOwnUrls(now: Now, urls: readonly string[]): void {
    if (this.#core.reach.setOwnUrls(urls)) this.#core.signEndpoints(now);
  }

  /** Prefixes and services that this node offers; signed and handed on when they changed. */
  setOwnOffers(now: Now, offers: Offers): void {
    if (this.#core.reach.setOwnOffers(offers)) this.#core.signEndpoints(now);
  }

  /** What a node says it offers; nothing of it counts by itself. */
  offers(nodeId: Uint8Array): Offers {
    return this.#core.reach.offers(nodeId);
  }

  /** An authenticated packet of that node came from there. @param endpoint 18 bytes */
  noteReached(now: Now, nodeId: Uint8Array, endpoint: Uint8Array): void {
    this.#core.reach.noteReached(now, nodeId, endpoint);
  }

  /** Endpoints of a node from the configuration. */
  setHints(nodeId: Uint8Array, endpoints: readonly Uint8Array[]): void {
    this.#core.reach.hint(nodeId, endpoints);
    this.#core.outbox.push({ kind: "endpointsChanged", nodeId });
  }

  /** The endpoint cache, for a file. */
  exportEndpoints(): Uint8Array {
    return this.#core.reach.cache.export();
  }

  /** Call after restore(). @param bytes of exportEndpoints(); anything may be in them @returns how many nodes were taken */
  importEndpoints(bytes: Uint8Array): number {
    return this.#core.reach.import(bytes);
  }

  /**
   * A control message (inner kind 2) that came through an authenticated session.
   * @param staticKey of the session's peer @param bytes any; not kept
   */
  handleControl(now: Now, staticKey: Uint8Array, bytes: Uint8Array): void {
    this.#incoming.handle(now, staticKey, bytes);
  }

  /** Monotonic milliseconds; Infinity: nothing is due. */
  nextTimeout(): number {
    const { gossip, join, reach } = this.#core;
    return Math.min(
      gossip.nextTimeout(),
      join?.nextTimeout() ?? Number.POSITIVE_INFINITY,
      this.#operations.nextTimeout(),
      reach.renewDueMs,
      this.#circle.dueMs,
      this.#changes.nextTimeout(),
    );
  }

  /** May be called at any time; does what is due. */
  handleTimeout(now: Now): void {
    this.#joining.handleTimeout(now);
    this.#operations.handleTimeout(now);
    if (now.nowMs >= this.#core.reach.renewDueMs) this.#core.signEndpoints(now);
    this.#changes.refreshIfDue(now);
    if (now.nowMs >= this.#circle.dueMs) this.#circle.dial(now);
    this.#changes.handleTimeout(now);
    this.#core.gossip.handleTimeout(now);
  }

  pollOutput(): MeshOutput | undefined {
    const output = this.#core.outbox.poll();
    this.#core.counters.outputsDropped = this.#core.outbox.dropped;
    return output;
  }
}
