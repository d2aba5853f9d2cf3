/**
 * The control thread's glue: one loop that gives what arrives to the machine it concerns and does what the machines ask for.
 *
 *   plane events ──► Sessions ──► commands (keys, handshakes) ──► plane
 *   plane events ──► MeshNode ──► commands (control messages), Members (slots, routes, candidates) ──► plane
 *                      └──────► Persistence (statements, endpoint cache), results of join and leave
 *   plane events ──► PeerStreams ──► commands (QUIC datagrams) ──► plane
 *
 * Everything happens in one thread in the order of arrival; #pump() empties the outputs of both machines after each input, and one timer
 * stands for the earliest of their deadlines. Nothing here waits for a disk or a program.
 */
import type { Now } from "../base/clock.ts";
import { equal } from "../base/bytes.ts";
import { Drop, DROP_NAMES } from "../base/drop.ts";
import { endpointFromBytes, formatEndpoint, isVirtualAddress } from "../base/endpoint.ts";
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { Identity } from "../crypto/identity.ts";
import { shortNodeId } from "../crypto/node-id.ts";
import type { DataplaneHandle, PeerFigures, PlaneEvent, PlanePath, RouteEntry } from "../dataplane/messages.ts";
import type { MeshNode } from "../mesh/mesh-node.ts";
import { Mapping } from "../mesh/punch/messages.ts";
import type { PunchReport } from "../mesh/punch/puncher.ts";
import type { JoinResult, MeshOutput } from "../mesh/types.ts";
import { Sessions } from "../session/sessions.ts";
import type { SessionOutput } from "../session/types.ts";
import { InnerKind } from "../wire/data.ts";
import type { ChannelsOptions } from "./channels/channels.ts";
import type { Dial } from "./channels/dial.ts";
import { PeerChannels } from "./channels/peer-channels.ts";
import type { Clock } from "./clock.ts";
import { IdleSessions } from "./idle-sessions.ts";
import { Members } from "./members.ts";
import type { LocalPrefix, MembersOptions } from "./members.ts";
import type { PeerRecord, PeerTable } from "./peer-table.ts";
import { PathQueries } from "./path-queries.ts";
import { Persistence } from "./persistence.ts";
import { Pings } from "./pings.ts";
import type { Pong } from "./pings.ts";
import { PlaneLink } from "./plane-link.ts";
import { Punches } from "./punches.ts";
import type { Storage } from "./storage.ts";
import { PeerStreams } from "./streams.ts";
import type { StoredTimestamps } from "./timestamps.ts";
import { Ways, type WaysOptions } from "./ways.ts";

const START_DIALS = 16;
const TICK_MS = 1000;
const MAX_OBSERVED = 4;
const OBSERVED_LIFE_MS = 600_000;
/** A peer that was heard this recently is there; idle sessions rekey every two minutes. */
const ONLINE_MS = 150_000;
/** A responder takes a rekey over only from a peer heard this recently. */
const FLOWING_MS = 30_000;

export interface RuntimeDeps {
  readonly identity: Identity;
  readonly mesh: MeshNode;
  readonly storage: Storage;
  readonly timestamps: StoredTimestamps;
  readonly random: Random;
  readonly clock: Clock;
  readonly log: Logger;
  /** Opens channels to beacons where UDP is blocked. @default undefined: none are opened */
  readonly dialChannel?: Dial | undefined;
}

export interface RuntimeOptions extends MembersOptions {
  /** Channels that this node serves. @default none */
  readonly channels?: ChannelsOptions;
  readonly pq: "require" | "prefer";
  /** Bits of session/types.ts. */
  readonly capabilities: number;
  /** Largest underlay IP packet this host takes, bytes. */
  readonly underlayMtuBytes: number;
  readonly bootId: number;
  /** Routing through members, and what this node does for others. */
  readonly ways?: WaysOptions | undefined;
}

/** What the runtime reports to whoever composed it. */
export interface RuntimeEvents {
  /** The active path or its MTU changed, or the peer is gone (then its slot is empty or another's). */
  pathChanged(peer: PeerRecord): void;
  /** Interfaces or addresses of the host changed, or a peer sees this node at another address. */
  endpointsDirty(): void;
  /** Members, their approved routes or what they offer changed. */
  membersChanged?(): void;
  /** A session with a member came up, or has ended. */
  sessionChanged?(peer: PeerRecord, isUp: boolean): void;
  /** It is no member any more. */
  memberGone?(nodeId: Uint8Array): void;
  /** A member at `to` (18 bytes) sees this node as `mapped`. */
  observed?(to: Uint8Array, mapped: Uint8Array): void;
  /** This node is no member any more. */
  removed(reason: string, by: string | undefined): void;
  /** The data plane ended by itself. */
  failed(error: WeftError): void;
}

export class NodeRuntime {
  readonly mesh: MeshNode;
  /** How the NAT in front of this node chooses ports, as discovery found it. */
  natMapping: Mapping = Mapping.UNKNOWN;
  /** What discovery says of a member's addresses (which may be tried, what is near); undefined = all of them. */
  judgeCandidates: ((nodeId: Uint8Array, candidates: readonly Uint8Array[]) => Uint8Array[]) | undefined;
  /** Handshake datagrams that passed the gate and changed nothing, by drop reason (a closed list). */
  readonly handshakeDrops: Map<string, number> = new Map();
  readonly #deps: RuntimeDeps;
  readonly #options: RuntimeOptions;
  readonly #events: RuntimeEvents;
  readonly #members: Members;
  readonly #persistence: Persistence;
  readonly #pings: Pings;
  readonly #ways: Ways;
  readonly #punches: Punches;
  readonly #pathQueries: PathQueries;
  readonly #idle: IdleSessions;
  readonly #channels: PeerChannels;
  readonly #streams: PeerStreams;
  #sessions: Sessions | undefined;
  #plane: DataplaneHandle | undefined;
  #link: PlaneLink | undefined;
  #joined: ((result: JoinResult) => void) | undefined;
  #left: ((delivered: boolean) => void) | undefined;
  /** Addresses at which peers see this node. */
  readonly #observed = new Map<number, { readonly endpoint: Uint8Array; atMs: number }>();
  #lastEpochId = 0;
  #toldKept = "";
  #ownEndpoints: readonly Uint8Array[] = [];
  #tickAtMs = Infinity;
  #timerAtMs = Infinity;
  #cancelTimer: (() => void) | undefined;
  #announces = false;
  #pumping = false;
  #closed = false;

  constructor(deps: RuntimeDeps, options: RuntimeOptions, events: RuntimeEvents) {
    const { mesh, log, storage, clock } = deps;
    this.#deps = deps;
    this.#options = options;
    this.#events = events;
    this.mesh = mesh;
    this.#members = new Members(
      {
        mesh,
        log,
        nodeId: deps.identity.nodeId,
        send: (command) => this.#link?.send(command),
        otherWays: (peer) => [...this.#channels.candidates(peer), ...this.#ways.candidates(clock.now(), peer.nodeId)],
        judge: (nodeId, candidates) => this.judgeCandidates?.(nodeId, candidates) ?? [...candidates],
      },
      options,
    );
    this.#ways = new Ways(
      {
        identity: deps.identity,
        mesh,
        random: deps.random,
        peers: () => this.peers,
        send: (command) => this.#link?.send(command),
        figures: (slot) => this.#usage(slot),
        candidatesChanged: (now, peer) => {
          this.#members.pushCandidates(peer, now.wallMs);
          if (!peer.established) this.#sessions?.hurry(now, peer.slot);
        },
      },
      options.ways,
    );
    this.#channels = new PeerChannels(
      {
        mesh,
        clock,
        log,
        random: deps.random,
        dial: deps.dialChannel,
        peers: () => this.peers,
        figures: (slot) => this.#plane?.peerFigures(slot),
        paths: (peer) => this.#pathQueries.start(peer.slot),
        send: (command) => this.#link?.send(command),
        candidatesChanged: (peer) => this.#members.pushCandidates(peer, clock.now().wallMs),
        hurry: (peer) => {
          const now = clock.now();
          this.#sessions?.hurry(now, peer.slot);
          // a peer that was away may have forgotten this node, and has no other way to say so
          this.#sessions?.rekey(now, peer.slot);
          this.#pump(now);
        },
      },
      options.channels ?? { server: undefined },
    );
    this.#streams = new PeerStreams({
      identity: deps.identity,
      random: deps.random,
      clock,
      log,
      find: (nodeId) => this.#members.find(nodeId),
      // while this node joins, the admins it joins through are no members yet
      isTrusted: (peer) => peer.member !== undefined || (mesh.isJoining && peer.inviteId !== undefined),
      figures: (slot) => this.#plane?.peerFigures(slot),
      trySend: (command) => this.#link?.trySend(command) ?? false,
      want: (peer) => {
        if (peer.established) return;
        const now = clock.now();
        this.#sessions?.connect(now, peer.slot);
        this.#ways.wanted(now, peer, true);
        this.#pump(now);
      },
      handleControl: (peer, message) => {
        const now = clock.now();
        mesh.handleControl(now, peer.staticKey, message);
        this.#pump(now);
      },
    });
    this.#persistence = new Persistence({
      storage,
      log,
      networkId: () => mesh.networkId,
      exportEndpoints: () => mesh.exportEndpoints(),
    });
    this.#pings = new Pings({
      clock,
      isReady: (slot) => this.#plane?.peerFigures(slot).established === true,
      send: (slot, token) => this.#link?.send({ kind: "ping", peer: slot, token }),
    });
    this.#pathQueries = new PathQueries({
      clock,
      ask: (slot, token) => this.#link?.send({ kind: "paths", peer: slot, token }),
    });
    this.#idle = new IdleSessions({
      peers: () => this.peers.all(),
      figures: (slot) => this.#usage(slot),
      isKept: (peer) => mesh.isNeighbour(peer.nodeId) || this.#ways.isHop(peer.nodeId),
      tell: (peer, message) => mesh.tell(peer.nodeId, message),
      disconnect: (now, peer) => {
        log.info(`session with ${this.#members.nameOf(peer)} ends: nobody uses it`);
        this.#sessions?.disconnect(now, peer.slot);
        this.#checkDown(now, peer);
      },
    });
    this.#punches = new Punches({
      mesh,
      peers: () => this.peers,
      random: deps.random,
      send: (command) => this.#link?.send(command),
      figures: (slot) => this.#usage(slot),
      mapping: () => this.natMapping,
      paths: (slot) => this.#pathQueries.start(slot),
      tell: (nodeId, message) => {
        mesh.tell(nodeId, message);
        this.#pump(clock.now());
      },
    });
  }

  get peers(): PeerTable {
    return this.#members.peers;
  }

  get ways(): Ways {
    return this.#ways;
  }

  get streams(): PeerStreams {
    return this.#streams;
  }

  get plane(): DataplaneHandle | undefined {
    return this.#plane;
  }

  get commandsWaiting(): number {
    return this.#link?.waiting ?? 0;
  }

  get commandsDropped(): number {
    return this.#link?.dropped ?? 0;
  }

  // ── the owner's calls ────────────────────────────────────────────────────────────────────────────────────────────────

  /** Connects the data plane; nothing is taken from the machines before, so that no command gets lost. */
  attach(plane: DataplaneHandle): void {
    this.#plane = plane;
    this.#link = new PlaneLink(plane, this.#deps.clock);
    this.#tickAtMs = this.#deps.clock.now().nowMs + TICK_MS;
  }

  /** Serves channels where the options say so. @throws WeftError CHANNEL_LISTEN */
  serveChannels(): Promise<void> {
    return this.#channels.start();
  }

  get channels(): PeerChannels {
    return this.#channels;
  }

  /** @param urls where others open channels to this node */
  setOwnUrls(urls: readonly string[]): void {
    const now = this.#deps.clock.now();
    this.mesh.setOwnUrls(now, urls);
    this.#pump(now);
  }

  /** The mesh has its roster from the store: peers, routes and first dials follow. */
  start(): void {
    const now = this.#deps.clock.now();
    this.#startSessions();
    this.#syncMembers(now);
    this.#announceFromNow();
    const reachable = this.#members
      .others()
      .filter(({ nodeId }) => this.mesh.candidates(nodeId, now.wallMs).length + this.mesh.urls(nodeId).length > 0)
      .toSorted((a, b) => Number(b.roles.includes("admin")) - Number(a.roles.includes("admin")));
    for (const member of reachable.slice(0, START_DIALS)) this.#dial(now, member.nodeId, member.staticKey, undefined);
    this.mesh.handleTimeout(now);
    this.#pump(now);
  }

  /** @throws WeftError when the token says by itself that it cannot work */
  join(token: string, name: string): Promise<JoinResult> {
    const now = this.#deps.clock.now();
    return new Promise((resolve, reject) => {
      this.#joined = resolve;
      try {
        this.mesh.startJoin(now, token, { name });
        this.#startSessions();
        this.#pump(now);
      } catch (error) {
        this.#joined = undefined;
        reject(error);
      }
    });
  }

  /** Resolves when a member knows (true), or after the mesh gave up telling them (false). */
  leave(): Promise<boolean> {
    const now = this.#deps.clock.now();
    return new Promise((resolve, reject) => {
      this.#left = resolve;
      try {
        this.mesh.leave(now, { force: true });
        this.#pump(now);
      } catch (error) {
        this.#left = undefined;
        reject(error);
      }
    });
  }

  /** Runs an operation of the mesh and everything that follows from it; resolves when its statements are on disk. */
  async operate<T>(operation: (mesh: MeshNode, now: Now) => T): Promise<T> {
    const now = this.#deps.clock.now();
    const result = operation(this.mesh, now);
    this.#pump(now);
    await this.#persistence.settled();
    return result;
  }

  /** Resolves when everything worth keeping is on disk or has failed. */
  flush(): Promise<void> {
    return this.#persistence.flush();
  }

  /** @param endpoints 18 bytes each, best first; addresses seen by peers are added behind them */
  setOwnEndpoints(endpoints: readonly Uint8Array[]): void {
    const now = this.#deps.clock.now();
    this.#ownEndpoints = endpoints;
    this.#announceEndpoints(now);
    this.#pump(now);
  }

  /** What the host knows of its addresses, and behind it what peers see. */
  #announceEndpoints(now: Now): void {
    const all = [...this.#ownEndpoints];
    for (const [key, { endpoint, atMs }] of this.#observed) {
      if (now.nowMs - atMs > OBSERVED_LIFE_MS) this.#observed.delete(key);
      else if (!all.some((own) => equal(own, endpoint))) all.push(endpoint);
    }
    this.mesh.setOwnEndpoints(now, all);
    this.#punches.surroundingsChanged(now);
  }

  /** Where members see this node, 18 bytes each. */
  observedEndpoints(): readonly Uint8Array[] {
    return [...this.#observed.values()].map(({ endpoint }) => endpoint);
  }

  /** Discovery judges candidates otherwise now. @param near only of these, which are on the LAN: those without a session are dialled */
  candidatesJudged(near: readonly Uint8Array[] | undefined): void {
    const now = this.#deps.clock.now();
    if (near === undefined) {
      for (const peer of this.peers.all())
        if (peer.member !== undefined) this.#members.pushCandidates(peer, now.wallMs);
    }
    for (const nodeId of near ?? []) {
      const member = this.mesh.memberById(nodeId);
      const peer = member === undefined ? undefined : this.peers.byKey(member.staticKey);
      if (member === undefined || peer === undefined) continue;
      if (peer.established) this.#members.pushCandidates(peer, now.wallMs);
      else this.#dial(now, nodeId, member.staticKey, undefined);
    }
    this.#pump(now);
  }

  /** Sends a STUN datagram from the underlay's socket. @returns false when there is no plane, or its ring is full */
  sendRaw(to: Uint8Array, datagram: Uint8Array): boolean {
    return this.#link?.trySend({ kind: "raw", to, datagram }) ?? false;
  }

  /** Prefixes behind members, and prefixes behind this node, besides everybody's own addresses. */
  setExtraTables(routes: readonly RouteEntry[], local: readonly LocalPrefix[]): void {
    this.#members.setExtraTables(routes, local);
  }

  /** One echo; dials first when there is no session. @returns undefined when nothing came back in time */
  ping(peer: PeerRecord, timeoutMs: number): Promise<Pong | undefined> {
    const now = this.#deps.clock.now();
    this.#sessions?.connect(now, peer.slot);
    if (!this.#delivers(peer)) this.#ways.wanted(now, peer, true);
    this.#channels.noteWanted(now.nowMs, peer);
    this.#pump(now);
    return this.#pings.start(peer.slot, timeoutMs);
  }

  /** Every path to the peer as the data plane sees it now. */
  paths(peer: PeerRecord): Promise<readonly PlanePath[]> {
    return this.#pathQueries.start(peer.slot);
  }

  /** What hole punching found out about that member; undefined when it never tried. */
  punchReport(nodeId: Uint8Array): PunchReport | undefined {
    return this.#punches.report(this.#deps.clock.now(), nodeId);
  }

  isOnline(peer: PeerRecord): boolean {
    const figures = this.#plane?.peerFigures(peer.slot);
    if (figures === undefined || peer.stopping || peer.silent) return false;
    return figures.established && figures.lastDeliveryMs >= 0 && figures.lastDeliveryMs < ONLINE_MS;
  }

  /** Says good-bye to the peers, writes what is not yet written, forgets the keys. The plane is the caller's to stop. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.mesh.shutdown();
    this.#pump(this.#deps.clock.now());
    this.#closed = true;
    this.#cancelTimer?.();
    this.#pings.cancel();
    this.#streams.close();
    this.#deps.timestamps.flush();
    await (this.mesh.self === undefined ? this.#persistence.settled() : this.#persistence.flush());
    this.#sessions?.close();
    this.#link?.close();
  }

  /** Ends the channels; after close(), when the good-byes have had their time. */
  closeChannels(): Promise<void> {
    return this.#channels.close();
  }

  handleEvent(event: PlaneEvent): void {
    if (this.#closed) {
      // good-byes leave through channels too
      if (event.kind === "channelOut") this.#channels.handleOut(event.id, event.datagram);
      return;
    }
    const now = this.#deps.clock.now();
    this.#takeEvent(now, event);
    this.#pump(now);
  }

  // ── from the data plane ──────────────────────────────────────────────────────────────────────────────────────────────

  #takeEvent(now: Now, event: PlaneEvent): void {
    const sessions = this.#sessions;
    switch (event.kind) {
      case "handshake":
        this.#noteHandshake(event.from, sessions?.handleHandshake(now, event.datagram, event.from) ?? Drop.NONE);
        return;
      case "inner": {
        const { peer: slot, epochId, innerKind, payload } = event;
        const peer = this.#holder(slot, epochId);
        if (peer === undefined) return;
        peer.silent = false;
        if (innerKind === InnerKind.CONTROL) this.mesh.handleControl(now, peer.staticKey, payload);
        else if (innerKind === InnerKind.STREAM) this.#streams.handleInner(peer, event.flags, event.aux, payload);
        else sessions?.handleInner(now, slot, epochId, innerKind, payload);
        return;
      }
      case "proof":
        if (this.#holder(event.peer, event.epochId) !== undefined) {
          sessions?.handleProof(now, event.peer, event.epochId);
        }
        return;
      case "needSession": {
        sessions?.connect(now, event.peer);
        const peer = this.peers.bySlot(event.peer);
        if (peer !== undefined) {
          this.#channels.noteWanted(now.nowMs, peer);
          this.#ways.wanted(now, peer, true);
        }
        return;
      }
      case "channelOut":
        this.#channels.handleOut(event.id, event.datagram);
        return;
      case "wantRekey":
        if (this.#holder(event.peer, event.epochId) !== undefined) sessions?.rekey(now, event.peer);
        return;
      case "silent": {
        const peer = this.peers.bySlot(event.peer);
        if (peer === undefined) return;
        peer.silent = true;
        this.#channels.touch();
        sessions?.handleSilence(now, event.peer);
        this.#ways.wanted(now, peer, true, true);
        return;
      }
      case "path": {
        const peer = this.peers.bySlot(event.peer);
        if (peer === undefined) return;
        peer.endpoint = event.endpoint;
        peer.pathMtuBytes = event.mtuBytes;
        this.#pathChanged(now, peer);
        return;
      }
      case "observed":
        // only members say where they see us, each has one say, and who merely asks to join has none; what others carried shows no address of ours
        if (!isVirtualAddress(event.endpoint)) {
          const peer = this.peers.bySlot(event.peer);
          if (peer !== undefined) peer.seesUsAt = event.endpoint;
          if (peer?.member !== undefined) this.#observe(now, event.peer, event.endpoint);
          if (peer?.member !== undefined && peer.endpoint !== undefined && !isVirtualAddress(peer.endpoint))
            this.#events.observed?.(peer.endpoint, event.endpoint);
        }
        return;
      case "pong":
        this.#pings.handlePong(event.peer, event.token, { rttMs: event.rttMs, endpoint: event.endpoint });
        return;
      case "viaFailed":
        this.#ways.viaFailed(now, event.id, event.code);
        return;
      case "forwardExpired":
        this.#ways.forwardExpired(now, event.label, event.from);
        return;
      case "paths":
        this.#pathQueries.answered(event.token, event.paths);
        return;
      case "netlink":
        this.#events.endpointsDirty();
        return;
      case "log":
        this.#deps.log.child("plane")[event.level](event.text);
        return;
      case "failed":
        this.#events.failed(new WeftError(event.code, event.text, event.remedy));
        return;
      case "stopped":
        this.#events.failed(
          new WeftError(
            "DATAPLANE_FAILED",
            "the data plane ended by itself",
            "start the daemon again and report its log",
          ),
        );
        return;
      case "ready":
    }
  }

  /** Figures in which the bytes of streams count as use of the session, as user data does. */
  #usage(slot: number): PeerFigures | undefined {
    const figures = this.#plane?.peerFigures(slot);
    const streamBytes = this.peers.bySlot(slot)?.streamBytes ?? 0;
    if (figures === undefined || streamBytes === 0) return figures;
    return { ...figures, rxBytes: figures.rxBytes + streamBytes };
  }

  /** The peer that holds the slot, unless the epoch is one of a former holder. */
  #holder(slot: number, epochId: number): PeerRecord | undefined {
    const peer = this.peers.bySlot(slot);
    return peer !== undefined && epochId > peer.firstEpochId ? peer : undefined;
  }

  #noteHandshake(from: Uint8Array, drop: Drop): void {
    if (drop === Drop.NONE) return;
    const reason = DROP_NAMES[drop] ?? String(drop);
    this.handshakeDrops.set(reason, (this.handshakeDrops.get(reason) ?? 0) + 1);
    this.#deps.log.debug(`handshake from ${formatEndpoint(endpointFromBytes(from))} dropped: ${reason}`);
  }

  #pathChanged(now: Now, peer: PeerRecord): void {
    if (peer.endpoint !== undefined && peer.member !== undefined && !isVirtualAddress(peer.endpoint)) {
      this.mesh.noteReached(now, peer.nodeId, peer.endpoint);
      this.#persistence.endpointsChanged(now.nowMs);
    }
    this.#channels.touch();
    if (peer.endpoint !== undefined) this.#channels.noteProven(peer.endpoint, peer);
    this.#ways.changed(now, peer);
    this.#punches.pathChanged(now, peer);
    this.#events.pathChanged(peer);
  }

  #observe(now: Now, slot: number, endpoint: Uint8Array): void {
    // through a channel or a via the peer sees no address of this node
    if (isVirtualAddress(endpoint)) return;
    const known = this.#observed.get(slot);
    const isNews = known === undefined || !equal(known.endpoint, endpoint);
    if (known === undefined && this.#observed.size >= MAX_OBSERVED)
      this.#observed.delete(this.#observed.keys().next().value as number);
    this.#observed.set(slot, { endpoint, atMs: now.nowMs });
    if (isNews) this.#announceEndpoints(now);
  }

  // ── from the machines ────────────────────────────────────────────────────────────────────────────────────────────────

  #pump(now: Now): void {
    // what an output causes (a dial, a drop) is an output again: the loop below takes it, not a nested one
    if (this.#pumping || this.#closed || this.#plane === undefined) return;
    this.#pumping = true;
    try {
      for (;;) {
        const fromSession = this.#sessions?.pollOutput();
        if (fromSession !== undefined) {
          this.#takeSessionOutput(now, fromSession);
          continue;
        }
        const fromMesh = this.mesh.pollOutput();
        if (fromMesh === undefined) break;
        this.#takeMeshOutput(now, fromMesh);
      }
    } finally {
      this.#pumping = false;
    }
    this.#channels.settle();
    this.#arm();
  }

  #takeSessionOutput(now: Now, output: SessionOutput): void {
    const { log } = this.#deps;
    const peer = this.peers.bySlot(output.peer);
    if (peer === undefined) return;
    switch (output.kind) {
      case "transmit":
      case "activate":
      case "retire":
        this.#link?.send(output);
        return;
      case "install":
        this.#lastEpochId = Math.max(this.#lastEpochId, output.epoch.epochId);
        // only who is in the roster, or has an invite, gets this far
        if (output.endpoint !== undefined) this.#channels.noteProven(output.endpoint, peer);
        this.#link?.send(output);
        return;
      case "inner":
        this.#link?.send({ ...output, flags: 0, aux: 0 });
        return;
      case "established": {
        const isNews = !peer.established || !output.rekey;
        peer.lastError = undefined;
        peer.silent = false;
        peer.stopping = false;
        peer.established = true;
        this.#ways.changed(now, peer);
        // what streams have sent to a peer that had restarted went under keys that it does not have
        if (peer.restarted && !isNews) this.#streamsUp(peer);
        peer.restarted = false;
        if (!isNews) return;
        const keys = output.hybrid ? "hybrid post-quantum" : "classic";
        log.info(`session with ${this.#members.nameOf(peer)} is up (${keys} keys)`);
        this.mesh.peerUp(now, peer.staticKey);
        this.#streamsUp(peer);
        return;
      }
      case "restarted":
        log.info(`${this.#members.nameOf(peer)} has restarted`);
        peer.restarted = true;
        this.#streams.peerRestarted(peer);
        return;
      case "failed":
        peer.lastError = output.reason;
        if (peer.member === undefined && peer.inviteId === undefined) {
          this.#drop(now, peer, output.reason);
          return;
        }
        log.warn(`no session with ${this.#members.nameOf(peer)}: ${output.reason}; traffic for it tries again`);
        this.#checkDown(now, peer);
    }
  }

  #streamsUp(peer: PeerRecord): void {
    this.#streams.peerUp(peer);
    if (peer.member !== undefined) this.#events.sessionChanged?.(peer, true);
  }

  #takeMeshOutput(now: Now, output: MeshOutput): void {
    const { log } = this.#deps;
    switch (output.kind) {
      case "send": {
        const slot = this.peers.byKey(output.staticKey)?.slot;
        if (slot === undefined) return;
        const innerKind = InnerKind.CONTROL;
        this.#link?.send({ kind: "inner", peer: slot, epochId: 0, innerKind, flags: 0, aux: 0, payload: output.bytes });
        return;
      }
      case "bulk":
        void this.#streams.sendControl(output.nodeId, output.messages).then((wasTaken) => {
          if (this.#closed) return;
          const later = this.#deps.clock.now();
          this.mesh.bulkDone(later, output.staticKey, wasTaken);
          this.#pump(later);
        });
        return;
      case "persistStatement":
        this.#persistence.statement(output.hash, output.bytes);
        return;
      case "rosterChanged":
        // whoever was a member before this run, or before this node joined, is no news
        if (this.#announces) {
          for (const member of output.added)
            log.info(`${member.name} (${member.ipv4}, ${member.ipv6}) is a member now`);
          for (const member of output.removed) log.info(`${member.name} is no member any more`);
        }
        this.#syncMembers(now);
        return;
      case "endpointsChanged": {
        const peer = this.#members.find(output.nodeId);
        if (peer !== undefined) this.#members.pushCandidates(peer, now.wallMs);
        this.#persistence.endpointsChanged(now.nowMs);
        this.#events.membersChanged?.();
        return;
      }
      case "routesChanged":
        this.#events.membersChanged?.();
        return;
      case "policyChanged":
        return;
      case "userData":
        if (output.state === "held") log.debug("user data waits until a member has confirmed the roster");
        if (output.state === "refused")
          log.warn("no user data is carried until a member has confirmed the roster: the network's policy says so");
        this.#link?.send({ kind: "hold", held: output.state === "held" });
        this.#members.pushTables();
        return;
      case "keepJoiner": {
        const peer = this.peers.byKey(output.staticKey);
        if (peer !== undefined && peer.expiresAtMs !== Infinity) peer.expiresAtMs = now.nowMs + output.forMs;
        return;
      }
      case "dial":
        this.#dial(now, output.nodeId, output.staticKey, output.inviteId);
        return;
      case "joinProgress":
        log.info(output.text);
        return;
      case "joinResult":
        for (const peer of this.peers.all()) peer.inviteId = undefined;
        if (output.result.ok) this.#announceFromNow();
        this.#joined?.(output.result);
        this.#joined = undefined;
        return;
      case "dropPeer": {
        const peer = this.peers.byKey(output.staticKey);
        if (peer !== undefined) this.#drop(now, peer, output.reason);
        return;
      }
      case "peerStopping": {
        const peer = this.peers.byKey(output.staticKey);
        if (peer === undefined) return;
        peer.stopping = true;
        this.#ways.changed(now, peer);
        log.info(`${this.#members.nameOf(peer)} is stopping`);
        return;
      }
      case "selfRemoved": {
        const by = output.by;
        const who = by === undefined ? undefined : (this.mesh.memberById(by)?.name ?? shortNodeId(by));
        if (this.#left === undefined) this.#events.removed(output.reason, who);
        return;
      }
      case "routing":
        this.#ways.handle(now, output.nodeId, output.message);
        return;
      case "idle": {
        const peer = this.peers.byKey(output.staticKey);
        if (peer !== undefined) this.#idle.handle(now, peer, output.message);
        return;
      }
      case "punch":
        this.#punches.handle(now, output.nodeId, output.message);
        return;
      case "left":
        this.#left?.(output.delivered);
        this.#left = undefined;
        return;
      case "log":
        log.child("mesh")[output.level](output.text);
    }
  }

  #announceFromNow(): void {
    this.#announces = true;
    const { self, networkName } = this.mesh;
    const count = this.mesh.members().length;
    this.#deps.log.info(
      `${self?.name} (${self?.ipv4}, ${self?.ipv6}) in the network ${networkName}; members: ${count}`,
    );
  }

  // ── peers ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #startSessions(): void {
    const { identity, random, timestamps, clock } = this.#deps;
    const { pq, capabilities, underlayMtuBytes, bootId } = this.#options;
    const networkId = this.mesh.networkId;
    if (networkId === undefined || this.#sessions !== undefined) return;
    this.#sessions = new Sessions(
      {
        identity,
        networkId,
        random,
        timestamps,
        peerByStaticKey: (key) => this.peers.byKey(key),
        peerBySlot: (slot) => this.peers.bySlot(slot),
        provisionalPeer: (key, inviteId) => {
          const { nowMs, wallMs } = clock.now();
          return this.#members.addJoiner(key, inviteId, this.#lastEpochId, nowMs, wallMs);
        },
        flowing: (slot) => {
          const lastMs = this.#plane?.peerFigures(slot).lastDeliveryMs ?? -1;
          return lastMs >= 0 && lastMs < FLOWING_MS;
        },
      },
      { pq, capabilities, mtuBytes: underlayMtuBytes, bootId },
    );
  }

  #syncMembers(now: Now): void {
    const admitted = this.#members.sync(this.#lastEpochId, now.wallMs);
    // a joiner's path was there before anybody knew whose it is, and so was its session
    for (const peer of admitted) {
      if (peer.endpoint !== undefined) this.#pathChanged(now, peer);
      if (peer.established) this.#events.sessionChanged?.(peer, true);
    }
    // and what it said about this node before, while this node joined, counts from now on
    for (const peer of this.peers.all()) {
      if (peer.member === undefined || peer.seesUsAt === undefined || this.#observed.has(peer.slot)) continue;
      if (this.#observed.size < MAX_OBSERVED) this.#observe(now, peer.slot, peer.seesUsAt);
    }
    this.#events.membersChanged?.();
  }

  #dial(now: Now, nodeId: Uint8Array, staticKey: Uint8Array, inviteId: Uint8Array | undefined): void {
    const peer = this.peers.byKey(staticKey) ?? this.#members.add(nodeId, staticKey, this.#lastEpochId);
    if (peer === undefined) return;
    peer.inviteId = inviteId;
    this.#channels.noteWanted(now.nowMs, peer);
    this.#members.pushCandidates(peer, now.wallMs);
    this.#sessions?.connect(now, peer.slot);
    if (!this.#delivers(peer)) this.#ways.wanted(now, peer, false);
  }

  /** There is a session, and a path that was not found wanting. */
  #delivers(peer: PeerRecord): boolean {
    return peer.established && peer.endpoint !== undefined && !peer.silent;
  }

  #drop(now: Now, peer: PeerRecord, reason: string): void {
    if (peer.member !== undefined) this.#deps.log.info(`dropped ${this.#members.nameOf(peer)}: ${reason}`);
    this.#sessions?.removePeer(now, peer.slot);
    this.#members.remove(peer);
    this.#streams.peerGone(peer, reason);
    this.#pings.cancel(peer.slot);
    this.#punches.forget(peer);
    this.#idle.forget(peer.slot);
    this.#ways.removed(now, peer);
    this.#channels.noteRemoved(peer);
    if (peer.established) this.mesh.peerDown(now, peer.staticKey);
    if (peer.member !== undefined && this.mesh.memberById(peer.nodeId) === undefined)
      this.#events.memberGone?.(peer.nodeId);
    else if (peer.member !== undefined && peer.established) this.#events.sessionChanged?.(peer, false);
    this.#events.pathChanged(peer);
  }

  /** Tells the plane whose paths have to stay open while idle: those who must be able to reach this node at any time. */
  #tellKept(): void {
    const kept = this.peers
      .all()
      .filter((peer) => peer.member !== undefined && peer.established && this.mesh.isNeighbour(peer.nodeId))
      .map((peer) => peer.slot);
    const text = kept.join();
    if (text === this.#toldKept) return;
    this.#toldKept = text;
    this.#link?.send({ kind: "keepOpen", peers: kept });
  }

  #checkDown(now: Now, peer: PeerRecord): void {
    if (!peer.established || this.#sessions?.state(peer.slot, now.nowMs).established === true) return;
    peer.established = false;
    this.#ways.changed(now, peer);
    this.mesh.peerDown(now, peer.staticKey);
    if (peer.member !== undefined) this.#events.sessionChanged?.(peer, false);
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #arm(): void {
    const dueMs = Math.min(
      this.#sessions?.nextTimeout() ?? Infinity,
      this.mesh.nextTimeout(),
      this.#deps.timestamps.nextTimeout(),
      this.#persistence.nextTimeout(),
      this.#punches.nextTimeoutMs,
      this.#ways.nextTimeoutMs,
      this.#tickAtMs,
    );
    if (dueMs === this.#timerAtMs) return;
    this.#cancelTimer?.();
    this.#timerAtMs = dueMs;
    this.#cancelTimer = dueMs === Infinity ? undefined : this.#deps.clock.schedule(dueMs, () => this.#timeout());
  }

  #timeout(): void {
    this.#timerAtMs = Infinity;
    this.#cancelTimer = undefined;
    if (this.#closed) return;
    const now = this.#deps.clock.now();
    this.#sessions?.handleTimeout(now);
    this.mesh.handleTimeout(now);
    this.#deps.timestamps.handleTimeout(now.nowMs);
    this.#persistence.handleTimeout(now.nowMs);
    this.#ways.handleTimeout(now);
    this.#punches.handleTimeout(now);
    if (now.nowMs >= this.#tickAtMs) {
      this.#tickAtMs = now.nowMs + TICK_MS;
      for (const peer of this.peers.expired(now.nowMs)) this.#drop(now, peer, "it did not join in time");
      for (const peer of this.peers.all()) this.#checkDown(now, peer);
      this.#channels.touch();
      this.#ways.tick(now);
      this.#punches.tick(now);
      this.#idle.tick(now);
      this.#tellKept();
    }
    this.#pump(now);
  }
}
