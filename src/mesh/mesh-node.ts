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
import { compare, equal, toHex } from "../base/bytes.ts";
import { isIPv4Mapped } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";
import { networkPrefix } from "../crypto/node-id.ts";
import { formatIpv4Prefix, overlaps, readIpv4 } from "./addresses.ts";
import { type ControlMessage, ControlFault, decodeControl, encodeControl, type JoinRequest } from "./control.ts";
import { EndpointCache, MAX_ENDPOINTS, nextEndpointHlc, Offer, openEndpoints, parseEndpoints, signEndpoints } from "./endpoints.ts";
import { Gossip } from "./gossip.ts";
import { checkToken, decodeToken, encodeToken, MAX_TOKEN_ADMINS, type TokenAdmin } from "./invite.ts";
import { failure, JoinAttempt, type JoinFailure, type JoinStep } from "./join-attempt.ts";
import { type MeshKeys, systemKeys } from "./keys.ts";
import type { Link } from "./links.ts";
import { Membership, type MembershipDeps } from "./membership.ts";
import { isName, Refusal, type Statement, statementHash } from "./statement.ts";
import {
  type CreatedInvite,
  type CreateInviteOptions,
  type CreateNetworkOptions,
  type InviteInfo,
  JoinCode,
  type JoinOptions,
  type Member,
  type MeshCounters,
  type MeshDeps,
  type MeshOptions,
  type MeshOutput,
  type PeerHello,
} from "./types.ts";

export type * from "./types.ts";

/** Successors in the ring of node ids to which a node keeps sessions; with up to NEIGHBOURS + 1 members that is everybody. */
export const NEIGHBOURS = 8;
const MAX_OUTPUTS = 32_768;
const MAX_HINTED_NODES = 4096;
const REDIAL_MS = 30_000;
const LEAVE_ATTEMPTS = 5;
const LEAVE_RETRY_MS = 1000;
/** Smallest distance between two looks at a growing roster for changes, except after a revocation. */
const REFRESH_GAP_MS = 50;
/** An endpoint message is signed again after this share of its life. */
const RENEW_AT = 0.5;
const COSTLY: ReadonlySet<string> = new Set(["digest", "ranges", "have", "known", "seek", "want", "join", "leave"]);

interface Leaving {
  readonly statement: Statement;
  attemptsLeft: number;
  dueMs: number;
}

export class MeshNode {
  readonly counters: MeshCounters = {
    controlReceived: 0,
    controlMalformed: 0,
    controlUnknownType: 0,
    controlRefusedSender: 0,
    controlRateLimited: 0,
    statementsAccepted: 0,
    statementsDuplicate: 0,
    statementsRefused: 0,
    statementsPendingEvicted: 0,
    endpointsAccepted: 0,
    endpointsRefused: 0,
    endpointsEvicted: 0,
    digestsSent: 0,
    digestsReceived: 0,
    joinsAccepted: 0,
    joinsRefused: 0,
    outputsDropped: 0,
  };
  readonly #deps: MembershipDeps;
  readonly #keys: MeshKeys;
  readonly #options: Required<MeshOptions>;
  readonly #cache: EndpointCache;
  readonly #gossip: Gossip;
  /** Unsigned endpoints: from tokens and configuration. */
  readonly #hints = new Map<string, readonly Uint8Array[]>();
  readonly #dialled = new Map<string, number>();
  #outputs: MeshOutput[] = [];
  #outputAt = 0;
  #membership: Membership | undefined;
  #join: JoinAttempt | undefined;
  #leaving: Leaving | undefined;
  #isRemoved = false;
  /** undefined until the owner has said something. */
  #ownEndpoints: readonly Uint8Array[] | undefined;
  #endpointsDueMs: number = Number.POSITIVE_INFINITY;
  #refreshDueMs: number = Number.POSITIVE_INFINITY;
  #lastRefreshMs: number = Number.NEGATIVE_INFINITY;
  #dialDueMs: number = Number.POSITIVE_INFINITY;

  constructor(deps: MeshDeps, options: MeshOptions = {}) {
    this.#keys = deps.keys ?? systemKeys;
    this.#deps = { identity: deps.identity, keys: this.#keys, random: deps.random };
    this.#options = Object.freeze({
      buildId: options.buildId ?? "dev",
      protocol: options.protocol ?? ([1, 1] as const),
      capabilities: options.capabilities ?? 0,
      digestIntervalMs: options.digestIntervalMs ?? 60_000,
      joinTimeoutMs: options.joinTimeoutMs ?? 60_000,
      endpointLifeMs: options.endpointLifeMs ?? 86_400_000,
      maxMembers: options.maxMembers ?? 2048,
      maxStatements: options.maxStatements ?? 8192,
    });
    this.#cache = new EndpointCache();
    const gossipDeps = {
      random: deps.random,
      cache: this.#cache,
      counters: this.counters,
      roster: () => this.#membership?.roster,
      isTrusted: (hex: string) => this.#isTrusted(hex),
      send: (link: Link, message: ControlMessage) => this.#send(link.staticKey, message),
    };
    this.#gossip = new Gossip(gossipDeps, this.#options.digestIntervalMs);
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
    return this.#neighbours().some((member) => equal(member.nodeId, nodeId));
  }

  invites(now: Now): InviteInfo[] {
    return this.#membership?.invites(now.wallMs) ?? [];
  }

  /** For the session layer's provisional peers: see Membership.acceptsInvite. @param inviteId 8 bytes */
  acceptsInvite(inviteId: Uint8Array, wallMs: number): "live" | "ended" | "unknown" {
    if (this.#join !== undefined) return "unknown";
    return this.#membership?.acceptsInvite(inviteId, wallMs) ?? "unknown";
  }

  /** Underlay addresses at which the node may be reached, best first, 18 bytes each, at most MAX_ENDPOINTS; never overlay addresses. */
  candidates(nodeId: Uint8Array, wallMs: number): Uint8Array[] {
    const out = this.#cache.candidates(nodeId, wallMs);
    for (const hint of this.#hints.get(toHex(nodeId)) ?? []) if (!out.some((other) => equal(other, hint))) out.push(hint);
    return out.filter((endpoint) => !this.#isOverlay(endpoint)).slice(0, MAX_ENDPOINTS);
  }

  /** Milliseconds since the node's signed endpoints came; undefined: there are none. */
  endpointAgeMs(nodeId: Uint8Array, wallMs: number): number | undefined {
    return this.#cache.ageMs(nodeId, wallMs);
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
    let waiting = [...wires];
    for (let before = Number.POSITIVE_INFINITY; waiting.length > 0 && waiting.length < before; ) {
      before = waiting.length;
      waiting = waiting.filter((wire) => {
        // what was accepted once is not judged by today's clock again
        const result = membership.roster.add(wire, Number.POSITIVE_INFINITY);
        if (result.status === "refused") this.#log("warn", `a stored statement is left out: ${result.reason}`);
        return result.status === "missing";
      });
    }
    if (waiting.length > 0) this.#log("warn", `${waiting.length} stored statements wait for ones that are not stored`);
    if (membership.roster.size === 0) return 0;
    this.#membership = membership;
    this.#refresh(now);
    return membership.roster.size;
  }

  /** @throws WeftError NOT_MEMBER, NOT_ADMIN, INVITE_INVALID */
  createInvite(now: Now, options: CreateInviteOptions = {}): CreatedInvite {
    const membership = this.#requireInside();
    const invite = membership.createInvite(now, options);
    this.#accepted(now, [invite.statement], undefined);
    const admins = this.#tokenAdmins(now);
    if (admins[0]?.endpoints.length === 0) this.#log("warn", "the token names no address of this node: give one with --endpoint");
    const { seed, inviteId, expiresAtMs, uses } = invite;
    return { token: encodeToken({ networkId: membership.networkId, seed, expiresAtMs, admins }), inviteId, expiresAtMs, uses };
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
    const member = typeof node === "string" ? membership.find(node) : membership.byNode(node);
    if (member === undefined) {
      const shown = typeof node === "string" ? node : this.#keys.formatNodeId(node);
      throw new WeftError("NODE_UNKNOWN", `no member is called "${shown}"`, "weft members lists them");
    }
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
    const statement = membership.leave(now);
    this.#leaving = { statement, attemptsLeft: LEAVE_ATTEMPTS, dueMs: now.nowMs };
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
    if (this.#join !== undefined) throw new WeftError("ALREADY_JOINING", "this node is joining already", "wait for the result");
    const token = decodeToken(text);
    const present = this.#membership;
    const self = present?.self;
    if (present !== undefined && self !== undefined && equal(present.networkId, token.networkId)) {
      this.#emit({ kind: "joinResult", result: { ok: true, member: self, network: this.networkName as string } });
      return;
    }
    checkToken(token, now.wallMs, self === undefined ? undefined : present?.networkId);
    if (!isName(options.name)) {
      throw new WeftError("NAME_INVALID", `"${options.name}" is no valid node name`, "use 1–63 of a–z, 0–9 and -: --name NAME");
    }
    if (token.admins.length === 0) {
      throw new WeftError("TOKEN_EMPTY", "the token names no admin", "ask the admin for another token: weft invite");
    }
    this.#isRemoved = false;
    this.#membership = new Membership(this.#deps, token.networkId, this.#options);
    this.#join = new JoinAttempt({ keys: this.#keys, nodeId: this.#deps.identity.nodeId, token }, options, this.#options.joinTimeoutMs, now);
    for (const admin of token.admins) this.#hint(admin.nodeId, admin.endpoints);
    const count = token.admins.length;
    this.#emit({ kind: "joinProgress", text: `looking for ${count === 1 ? "the admin" : `one of ${count} admins`} named in the token` });
    this.handleTimeout(now);
  }

  /** Gives up a join. */
  cancelJoin(): void {
    if (this.#join !== undefined) this.#failJoin(failure(JoinCode.NO_ADMIN, "the join was cancelled", "start it again with the same token"));
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

  /** That session is gone. */
  peerDown(now: Now, staticKey: Uint8Array): void {
    const hex = toHex(staticKey);
    this.#gossip.down(hex);
    this.#join?.peerDown(now, hex);
    const member = this.#membership?.byStaticHex(hex);
    if (member !== undefined) this.#scheduleDial(now.nowMs + this.#deps.random.unit() * 1000);
  }

  /** @param endpoints 18 bytes each, best first: where others may reach this node; signs and hands on when they changed */
  setOwnEndpoints(now: Now, endpoints: readonly Uint8Array[]): void {
    const usable = endpoints.filter((endpoint) => !this.#isOverlay(endpoint));
    const before = this.#ownEndpoints;
    const isSame = usable.length === before?.length && usable.every((one, i) => equal(one, before[i] as Uint8Array));
    this.#ownEndpoints = usable.map((endpoint) => endpoint.slice());
    if (!isSame) this.#signEndpoints(now);
  }

  /** An authenticated packet of that node came from there. @param endpoint 18 bytes */
  noteReached(now: Now, nodeId: Uint8Array, endpoint: Uint8Array): void {
    if (!this.#isOverlay(endpoint)) this.#cache.noteReached(nodeId, endpoint, now.wallMs);
  }

  /** Endpoints of a node from the configuration. */
  setHints(nodeId: Uint8Array, endpoints: readonly Uint8Array[]): void {
    this.#hint(nodeId, endpoints);
    this.#emit({ kind: "endpointsChanged", nodeId });
  }

  /** The endpoint cache, for a file. */
  exportEndpoints(): Uint8Array {
    return this.#cache.export();
  }

  /** Call after restore(). @param bytes of exportEndpoints(); anything may be in them @returns how many nodes were taken */
  importEndpoints(bytes: Uint8Array): number {
    const networkId = this.networkId;
    return networkId === undefined ? 0 : this.#cache.import(bytes, networkId, this.#keys);
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
      if (this.#gossip.link(hex) === undefined && (message.type === "join" || this.#isTrusted(hex))) this.peerUp(now, staticKey);
      const link = this.#gossip.link(hex);
      if (link === undefined) this.counters.controlRefusedSender++;
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
      this.#endpointsDueMs,
      this.#refreshDueMs,
      this.#dialDueMs,
    );
  }

  /** May be called at any time; does what is due. */
  handleTimeout(now: Now): void {
    if (this.#join !== undefined && now.nowMs >= this.#join.nextTimeout()) this.#followSteps(now, this.#join.handleTimeout(now));
    if (this.#leaving !== undefined && now.nowMs >= this.#leaving.dueMs) this.#handleLeaving(now);
    if (now.nowMs >= this.#endpointsDueMs) this.#signEndpoints(now);
    if (now.nowMs >= this.#refreshDueMs) this.#refresh(now);
    if (now.nowMs >= this.#dialDueMs) this.#dialNeighbours(now);
    this.#gossip.handleTimeout(now);
  }

  pollOutput(): MeshOutput | undefined {
    if (this.#outputAt >= this.#outputs.length) return undefined;
    const output = this.#outputs[this.#outputAt++];
    if (this.#outputAt === this.#outputs.length) {
      this.#outputs = [];
      this.#outputAt = 0;
    }
    return output;
  }

  // Incoming messages

  #dispatch(now: Now, link: Link, message: ControlMessage): void {
    if (message.type === "join") return this.#onJoin(now, link, message);
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
      case "leave":
        return this.#onLeave(now, link, message.wire);
      case "bye":
        return this.#emit({ kind: "peerStopping", staticKey: link.staticKey, nodeId: this.#nodeIdOf(link.hex) });
      default:
        this.#gossip.handle(now, link, message);
        if (this.#join !== undefined) this.#finishJoin(now);
    }
  }

  /** Confirmed before it takes effect, because then the session is dropped. */
  #onLeave(now: Now, link: Link, wire: Uint8Array): void {
    const membership = this.#membership;
    if (membership === undefined || this.#join !== undefined) return;
    const { added } = membership.take(wire, now);
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
    this.#log("warn", reason);
    this.#emit({ kind: "dropPeer", staticKey: link.staticKey, nodeId: this.#nodeIdOf(link.hex), reason });
    if (this.#join !== undefined) this.#failJoin(failure(JoinCode.PROTOCOL, reason, "update Weft on the older of the two machines"));
  }

  #onStatements(now: Now, link: Link, wires: readonly Uint8Array[]): void {
    const membership = this.#membership;
    if (membership === undefined || link.isMuted(now.nowMs)) return;
    const added: Statement[] = [];
    const missing: Uint8Array[] = [];
    for (const wire of wires) {
      const taken = membership.take(wire, now);
      added.push(...taken.added);
      if (taken.result.status === "known") this.counters.statementsDuplicate++;
      if (taken.result.status === "missing") missing.push(...taken.result.parents);
      if (taken.result.status === "refused") {
        this.counters.statementsRefused++;
        if (taken.result.reason === Refusal.BAD_SIGNATURE) link.noteForgery(now);
        this.#log("debug", `a statement is refused: ${taken.result.reason}`);
      }
    }
    this.counters.statementsPendingEvicted = membership.pendingEvicted;
    const unknown = missing.filter((hash) => !membership.roster.has(hash)).slice(0, 16);
    if (unknown.length > 0) this.#gossip.want(link, unknown);
    if (added.length === 0) return;
    this.#accepted(now, added, link);
    this.#gossip.noteProgress(now, link, membership.roster.size);
  }

  #onEndpoints(now: Now, link: Link, wires: readonly Uint8Array[]): void {
    const networkId = this.networkId;
    if (networkId === undefined || link.isMuted(now.nowMs)) return;
    for (const wire of wires) {
      const parsed = parseEndpoints(wire);
      const isWelcome = parsed !== undefined && (this.#membership?.byNode(parsed.nodeId) !== undefined || this.#join !== undefined);
      if (isWelcome && parsed.hlc <= (this.#cache.message(parsed.nodeId)?.hlc ?? -1)) continue;
      const message = isWelcome ? openEndpoints(wire, networkId, this.#keys) : undefined;
      if (message === undefined) {
        this.counters.endpointsRefused++;
        if (isWelcome) link.noteForgery(now);
        continue;
      }
      if (this.#cache.offer(message, now.wallMs) !== Offer.NEWER) continue;
      this.counters.endpointsAccepted++;
      this.counters.endpointsEvicted = this.#cache.evicted;
      if (equal(message.nodeId, this.#deps.identity.nodeId)) {
        // said in an earlier run whose clock this one does not know
        this.#gossip.endpointsChanged();
        this.#signEndpoints(now);
        continue;
      }
      this.#gossip.announceEndpoints(now, message, link);
      this.#emit({ kind: "endpointsChanged", nodeId: message.nodeId });
      this.#scheduleDial(now.nowMs);
    }
  }

  // Admin's side of a join

  #onJoin(now: Now, link: Link, request: JoinRequest): void {
    const membership = this.#membership;
    if (membership === undefined || membership.roster.size === 0 || this.#join !== undefined || this.#isRemoved) return;
    const verdict = membership.judgeJoin(request, link.staticKey, now.wallMs);
    if (verdict.verdict === "refuse") {
      this.counters.joinsRefused++;
      const { code, text, remedy, details } = verdict;
      this.#log("info", `a join as "${request.name}" is refused: ${text}`);
      return this.#send(link.staticKey, { type: "answer", ok: false, code, text, remedy, details });
    }
    let member: Member | undefined;
    if (verdict.verdict === "member") {
      member = verdict.member;
    } else {
      this.#accepted(now, [membership.admit(now, verdict)], undefined);
      this.#refresh(now);
      member = membership.byNode(request.nodeId);
      this.counters.joinsAccepted++;
    }
    if (member === undefined) return;
    this.#log("info", `"${member.name}" (${member.ipv4}) has joined`);
    this.#send(link.staticKey, { type: "answer", ok: true, admission: member.admission });
    this.#welcome(now, link);
  }

  // Joiner's side

  #followSteps(now: Now, steps: readonly JoinStep[], answered?: Link): void {
    for (const step of steps) {
      if (step.kind === "dial") {
        this.#emit({ kind: "dial", nodeId: step.nodeId, staticKey: step.staticKey, inviteId: step.inviteId });
      } else if (step.kind === "send") {
        this.#send(step.staticKey, step.message);
      } else if (step.kind === "progress") {
        this.#emit({ kind: "joinProgress", text: step.text });
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
    const isWhole = [...this.#gossip.links()].some((link) => link.hasSameRoster || (link.remoteCount > 0 && roster.size >= link.remoteCount));
    if (!isWhole) return;
    if (!roster.state.byNode.has(toHex(this.#deps.identity.nodeId))) {
      const admission = this.#join.admission;
      const why = admission === undefined ? undefined : roster.state.voids.get(toHex(admission));
      if (why !== undefined) this.#failJoin(failure(JoinCode.BAD_ROSTER, `the admission has no effect: ${why}`, "ask the admin for another token"));
      return;
    }
    this.#join = undefined;
    for (const statement of roster.statements()) this.#persist(statement);
    this.#refresh(now);
    const self = this.self as Member;
    this.#emit({ kind: "joinResult", result: { ok: true, member: self, network: this.networkName as string } });
    this.#signEndpoints(now);
  }

  #failJoin(result: JoinFailure): void {
    this.#join = undefined;
    this.#membership = undefined;
    for (const link of [...this.#gossip.links()]) this.#gossip.down(link.hex);
    this.#emit({ kind: "joinResult", result });
  }

  // Roster

  /** Statements that have entered: keep, hand on, see what they change. */
  #accepted(now: Now, statements: readonly Statement[], from: Link | undefined): void {
    let isUrgent = from === undefined;
    for (const statement of statements) {
      this.counters.statementsAccepted++;
      if (statement.body.kind === "revoke") isUrgent = true;
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
    if (changes === undefined) return;
    this.#emit({ kind: "rosterChanged", ...changes });
    for (const member of changes.removed) {
      const isSelf = equal(member.nodeId, this.#deps.identity.nodeId);
      const { reason, by } = membership.removalOf(member.nodeId);
      this.#cache.remove(member.nodeId);
      this.#gossip.endpointsChanged();
      this.#dialled.delete(toHex(member.staticKey));
      if (isSelf) {
        this.#isRemoved = true;
        this.#emit({ kind: "selfRemoved", reason, by });
      } else {
        this.#gossip.down(toHex(member.staticKey));
        this.#emit({ kind: "dropPeer", staticKey: member.staticKey, nodeId: member.nodeId, reason });
      }
    }
    for (const member of [...changes.added, ...changes.changed]) {
      if (member.name !== member.requestedName) {
        this.#log("warn", `the name "${member.requestedName}" was taken twice at once: one node is now called "${member.name}"`);
      }
    }
    this.#scheduleDial(now.nowMs);
  }

  #handleLeaving(now: Now): void {
    const leaving = this.#leaving;
    if (leaving === undefined) return;
    const links = [...this.#gossip.links()].filter((link) => this.#membership?.byStaticHex(link.hex) !== undefined);
    if (leaving.attemptsLeft === 0 || links.length === 0) return this.#finishLeaving(false);
    leaving.attemptsLeft--;
    leaving.dueMs = now.nowMs + LEAVE_RETRY_MS;
    for (const link of links) this.#send(link.staticKey, { type: "leave", wire: leaving.statement.wire }, true);
  }

  #onLeft(hash: Uint8Array): void {
    if (this.#leaving !== undefined && equal(this.#leaving.statement.hash, hash)) this.#finishLeaving(true);
  }

  #finishLeaving(delivered: boolean): void {
    this.#leaving = undefined;
    this.#emit({ kind: "left", delivered });
  }

  // Peers

  /** First words to a peer that may see the roster. */
  #welcome(now: Now, link: Link): void {
    const { buildId, protocol, capabilities } = this.#options;
    const name = this.self?.name ?? this.#join?.name ?? "";
    this.#send(link.staticKey, { type: "hello", buildId: buildId.slice(0, 64), protocol, capabilities, name });
    this.#gossip.compareSoon(now, link);
  }

  #scheduleDial(atMs: number): void {
    this.#dialDueMs = Math.min(this.#dialDueMs, atMs);
  }

  #dialNeighbours(now: Now): void {
    this.#dialDueMs = Number.POSITIVE_INFINITY;
    if (this.#join !== undefined || this.#isRemoved || this.self === undefined) return;
    const due = now.nowMs + REDIAL_MS * (0.9 + 0.2 * this.#deps.random.unit());
    for (const { nodeId, staticKey } of this.#neighbours()) {
      const hex = toHex(staticKey);
      if (this.#gossip.link(hex) !== undefined) {
        this.#dialled.delete(hex);
        continue;
      }
      this.#scheduleDial(due);
      const lastMs = this.#dialled.get(hex);
      const isDue = lastMs === undefined || now.nowMs - lastMs >= REDIAL_MS * 0.9;
      if (!isDue || this.candidates(nodeId, now.wallMs).length === 0) continue;
      this.#dialled.set(hex, now.nowMs);
      this.#emit({ kind: "dial", nodeId, staticKey, inviteId: undefined });
    }
  }

  /** The next members in the ring of ids: every member has successors, so the neighbourhood graph is connected. */
  #neighbours(): Member[] {
    const own = this.#deps.identity.nodeId;
    const others = this.members().filter((member) => !equal(member.nodeId, own));
    if (others.length <= NEIGHBOURS) return others;
    others.sort((a, b) => compare(a.nodeId, b.nodeId));
    const start = others.findIndex((member) => compare(member.nodeId, own) > 0);
    return Array.from({ length: NEIGHBOURS }, (_, i) => others[(Math.max(0, start) + i) % others.length] as Member);
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
    this.#endpointsDueMs = Number.POSITIVE_INFINITY;
    const self = this.self;
    const networkId = this.networkId;
    if (self === undefined || networkId === undefined || this.#ownEndpoints === undefined || this.#isRemoved) return;
    const lifeMs = this.#options.endpointLifeMs;
    const hlc = nextEndpointHlc(this.#cache.message(self.nodeId)?.hlc ?? 0, now.wallMs);
    const usable = this.#ownEndpoints.filter((endpoint) => !this.#isOverlay(endpoint));
    const message = signEndpoints(usable, hlc, Math.floor(now.wallMs + lifeMs), networkId, this.#deps.identity);
    this.#cache.offer(message, now.wallMs);
    this.#endpointsDueMs = now.nowMs + lifeMs * RENEW_AT * (0.9 + 0.2 * this.#deps.random.unit());
    this.#gossip.announceEndpoints(now, message, undefined);
  }

  #hint(nodeId: Uint8Array, endpoints: readonly Uint8Array[]): void {
    const hex = toHex(nodeId);
    this.#hints.delete(hex);
    if (this.#hints.size >= MAX_HINTED_NODES) this.#hints.delete(this.#hints.keys().next().value as string);
    this.#hints.set(hex, endpoints.slice(0, MAX_ENDPOINTS));
  }

  /** Overlay addresses never carry the underlay. */
  #isOverlay(endpoint: Uint8Array): boolean {
    const membership = this.#membership;
    if (membership === undefined) return false;
    if (!isIPv4Mapped(endpoint)) return equal(endpoint.subarray(0, 6), networkPrefix(membership.networkId).subarray(0, 6));
    const prefix = membership.roster.genesis?.prefix;
    return prefix !== undefined && overlaps(prefix, { base: readIpv4(endpoint, 12), bits: 32 });
  }

  #tokenAdmins(now: Now): TokenAdmin[] {
    const own = this.#deps.identity.nodeId;
    const admins: TokenAdmin[] = [{ nodeId: own, endpoints: this.#ownEndpoints ?? [] }];
    for (const member of this.members()) {
      if (admins.length === MAX_TOKEN_ADMINS) break;
      if (equal(member.nodeId, own) || !member.roles.includes("admin")) continue;
      const endpoints = this.candidates(member.nodeId, now.wallMs);
      if (endpoints.length > 0) admins.push({ nodeId: member.nodeId, endpoints });
    }
    return admins;
  }

  // Small things

  #requireInside(): Membership {
    if (this.#membership !== undefined && this.self !== undefined) return this.#membership;
    throw new WeftError("NOT_MEMBER", "this node is in no network", "create one (weft init NETWORK) or join one (weft up --join TOKEN)");
  }

  #requireOutside(): void {
    if (this.#membership?.self === undefined && this.#join === undefined) return;
    throw new WeftError("ALREADY_MEMBER", `this node belongs to the network "${this.networkName ?? "?"}" already`, "leave it first: weft leave");
  }

  #persist(statement: Statement): void {
    this.#emit({ kind: "persistStatement", hash: statement.hash, bytes: statement.wire });
  }

  #send(staticKey: Uint8Array, message: ControlMessage, evenIfRemoved = false): void {
    if (this.#isRemoved && !evenIfRemoved) return;
    if (this.#outputs.length - this.#outputAt >= MAX_OUTPUTS) {
      this.counters.outputsDropped++;
      return;
    }
    const nodeId = this.#nodeIdOf(toHex(staticKey));
    this.#emit({ kind: "send", staticKey, nodeId, bytes: encodeControl(message) });
  }

  #log(level: "debug" | "info" | "warn", text: string): void {
    this.#emit({ kind: "log", level, text });
  }

  #emit(output: MeshOutput): void {
    this.#outputs.push(output);
  }
}
