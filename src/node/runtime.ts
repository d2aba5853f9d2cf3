/**
 * The control thread's glue: one loop that gives what arrives to the machine it concerns and does what the machines ask for.
 *
 *   plane events ──► Sessions ──► commands (keys, handshakes) ──► plane
 *   plane events ──► MeshNode ──► commands (control messages, routes, peers, candidates) ──► plane
 *                      └──────► store (statements, endpoint cache), join and leave results
 *
 * Everything happens in one thread in the order of arrival; #pump() empties the outputs of both machines after each input, and one timer
 * stands for the earliest of their deadlines. Nothing here waits for a disk or a program.
 */
import type { Now } from "../base/clock.ts";
import { equal, toHex } from "../base/bytes.ts";
import { endpointFromBytes, formatEndpoint, parseAddress } from "../base/endpoint.ts";
import { Drop, DROP_NAMES } from "../base/drop.ts";
import { WeftError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Random } from "../base/random.ts";
import type { Identity } from "../crypto/identity.ts";
import { formatNodeId } from "../crypto/node-id.ts";
import type { DataplaneHandle, PlaneEvent, PlaneSettings, RouteEntry } from "../dataplane/messages.ts";
import type { MeshNode } from "../mesh/mesh-node.ts";
import type { JoinResult, Member, MeshOutput } from "../mesh/types.ts";
import { Sessions } from "../session/sessions.ts";
import type { SessionState } from "../session/sessions.ts";
import type { SessionOutput } from "../session/types.ts";
import { InnerKind } from "../wire/data.ts";
import type { Clock } from "./clock.ts";
import type { PeerRecord } from "./peer-table.ts";
import { MAX_PROVISIONAL, PeerTable } from "./peer-table.ts";
import { PlaneLink } from "./plane-link.ts";
import type { Storage } from "./storage.ts";
import type { Mutation } from "./store.ts";
import type { StoredTimestamps } from "./timestamps.ts";

/** Name in the store of the endpoint cache. */
export const ENDPOINT_CACHE_KEY = "endpoint-cache";
/** Name in the store of the network id. */
export const NETWORK_KEY = "network";

const START_DIALS = 16;
const TICK_MS = 1000;
const CACHE_WRITE_MS = 250;
const MAX_PINGS = 1024;
const MAX_OBSERVED = 4;
const OBSERVED_LIFE_MS = 600_000;
/** A peer that was heard this recently is there; idle sessions rekey every two minutes. */
const ONLINE_MS = 150_000;

export interface RuntimeDeps {
  readonly identity: Identity;
  readonly mesh: MeshNode;
  readonly storage: Storage;
  readonly timestamps: StoredTimestamps;
  readonly random: Random;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface RuntimeOptions {
  /** Peers that may have a slot of the plane; joiners come on top, see slotsFor(). */
  readonly maxPeers: number;
  readonly pq: "require" | "prefer";
  /** Node id or name → 32 bytes. */
  readonly psk: ReadonlyMap<string, Uint8Array>;
  /** Bits of session/types.ts. */
  readonly capabilities: number;
  /** Largest underlay IP packet this host takes, bytes. */
  readonly underlayMtuBytes: number;
  readonly bootId: number;
}

/** What the runtime reports to whoever composed it. */
export interface RuntimeEvents {
  /** Members, names or addresses changed. */
  rosterChanged(): void;
  /** The active path or its MTU changed; endpoint is 18 bytes, undefined without a path. */
  pathChanged(peer: PeerRecord): void;
  /** Interfaces or addresses of the host changed, or a peer sees this node at another address. */
  endpointsDirty(): void;
  /** This node is no member any more. */
  removed(reason: string, by: string | undefined): void;
  /** The data plane ended by itself. */
  failed(error: WeftError): void;
}

export interface Pong {
  readonly rttMs: number;
  /** 18 bytes */
  readonly endpoint: Uint8Array;
}

/** Slots to ask of the plane for that many peers. */
export function slotsFor(maxPeers: number): number {
  return maxPeers + MAX_PROVISIONAL;
}

export class NodeRuntime {
  readonly mesh: MeshNode;
  readonly peers: PeerTable;
  /** Handshake datagrams that passed the gate and changed nothing, by drop reason (a closed list). */
  readonly handshakeDrops: Map<string, number> = new Map();
  readonly #deps: RuntimeDeps;
  readonly #options: RuntimeOptions;
  readonly #events: RuntimeEvents;
  #sessions: Sessions | undefined;
  #plane: DataplaneHandle | undefined;
  #link: PlaneLink | undefined;
  readonly #pings = new Map<number, { readonly slot: number; readonly done: (pong: Pong | undefined) => void }>();
  #nextPing = 1;
  #joined: ((result: JoinResult) => void) | undefined;
  #left: ((delivered: boolean) => void) | undefined;
  readonly #unwritten = new Set<Promise<void>>();
  readonly #observed = new Map<string, { readonly endpoint: Uint8Array; atMs: number }>();
  #lastEpochId = 0;
  #tickAtMs = Infinity;
  #cacheWriteAtMs = Infinity;
  #timerAtMs = Infinity;
  #cancelTimer: (() => void) | undefined;
  #announces = false;
  #pumping = false;
  #closed = false;

  constructor(deps: RuntimeDeps, options: RuntimeOptions, events: RuntimeEvents) {
    this.#deps = deps;
    this.#options = options;
    this.#events = events;
    this.mesh = deps.mesh;
    this.peers = new PeerTable(slotsFor(options.maxPeers));
  }

  /** Connects the data plane. Events may come from now on. */
  attach(plane: DataplaneHandle): void {
    this.#plane = plane;
    this.#link = new PlaneLink(plane, this.#deps.clock);
    this.#tickAtMs = this.#deps.clock.now().nowMs + TICK_MS;
  }

  /** The mesh has its roster from the store: peers, routes and first dials follow. */
  start(): void {
    const now = this.#deps.clock.now();
    this.#startSessions();
    this.#syncMembers();
    const others = this.#otherMembers();
    const reachable = others.filter((member) => this.mesh.candidates(member.nodeId, now.wallMs).length > 0);
    reachable.sort((a, b) => Number(b.roles.includes("admin")) - Number(a.roles.includes("admin")));
    this.#announceFromNow();
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
        reject(error as Error);
      }
    });
  }

  /** Resolves when the members know, or after the mesh gave up telling them. */
  leave(): Promise<boolean> {
    const now = this.#deps.clock.now();
    return new Promise((resolve, reject) => {
      this.#left = resolve;
      try {
        this.mesh.leave(now, { force: true });
        this.#pump(now);
      } catch (error) {
        this.#left = undefined;
        reject(error as Error);
      }
    });
  }

  /** Runs an operation of the mesh and everything that follows from it; resolves when its statements are on disk. */
  async operate<T>(operation: (mesh: MeshNode, now: Now) => T): Promise<T> {
    const now = this.#deps.clock.now();
    const result = operation(this.mesh, now);
    this.#pump(now);
    await Promise.all(this.#unwritten);
    return result;
  }

  /** @param endpoints 18 bytes each, best first; addresses seen by peers are added behind them */
  setOwnEndpoints(endpoints: readonly Uint8Array[]): void {
    const now = this.#deps.clock.now();
    for (const [key, seen] of this.#observed) if (now.nowMs - seen.atMs > OBSERVED_LIFE_MS) this.#observed.delete(key);
    const observed = [...this.#observed.values()]
      .map((seen) => seen.endpoint)
      .filter((seen) => !endpoints.some((own) => equal(own, seen)));
    this.mesh.setOwnEndpoints(now, [...endpoints, ...observed]);
    this.#pump(now);
  }

  applySettings(settings: PlaneSettings): void {
    this.#link?.send({ kind: "settings", settings });
  }

  /** One echo; dials first when there is no session. @returns undefined when nothing came back in time */
  ping(peer: PeerRecord, timeoutMs: number): Promise<Pong | undefined> {
    if (this.#pings.size >= MAX_PINGS)
      throw new WeftError("BUSY", `${MAX_PINGS} echoes are under way`, "wait a moment");
    const { clock } = this.#deps;
    const now = clock.now();
    const token = this.#nextPing++ >>> 0;
    return new Promise((resolve) => {
      let sent = false;
      let cancel = (): void => undefined;
      const done = (pong: Pong | undefined): void => {
        this.#pings.delete(token);
        cancel();
        resolve(pong);
      };
      this.#pings.set(token, { slot: peer.slot, done });
      const attempt = (): void => {
        const nowMs = clock.now().nowMs;
        const leftMs = now.nowMs + timeoutMs - nowMs;
        if (leftMs <= 0 || this.#closed) {
          done(undefined);
          return;
        }
        if (!sent && this.#plane?.peerFigures(peer.slot).established === true) {
          sent = true;
          this.#link?.send({ kind: "ping", peer: peer.slot, token });
        }
        cancel = clock.schedule(nowMs + (sent ? leftMs : Math.min(leftMs, 10)), attempt);
      };
      this.connect(peer);
      attempt();
    });
  }

  /** Wants a session with a peer; does nothing when there is one. */
  connect(peer: PeerRecord): void {
    const now = this.#deps.clock.now();
    this.#sessions?.connect(now, peer.slot);
    this.#pump(now);
  }

  sessionState(peer: PeerRecord): SessionState | undefined {
    return this.#sessions?.state(peer.slot, this.#deps.clock.now().nowMs);
  }

  isOnline(peer: PeerRecord): boolean {
    const figures = this.#plane?.peerFigures(peer.slot);
    if (figures === undefined || peer.stopping || peer.silent) return false;
    return figures.established && figures.lastDeliveryMs >= 0 && figures.lastDeliveryMs < ONLINE_MS;
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

  /** Says good-bye to the peers, writes what is not yet written, forgets the keys. The plane is the caller's to stop. */
  async close(): Promise<void> {
    if (this.#closed) return;
    const now = this.#deps.clock.now();
    this.mesh.shutdown();
    this.#pump(now);
    this.#closed = true;
    this.#cancelTimer?.();
    for (const { done } of [...this.#pings.values()]) done(undefined);
    this.#deps.timestamps.flush();
    if (this.mesh.self !== undefined) await this.flush();
    this.#sessions?.close();
    this.#link?.close();
  }

  handleEvent(event: PlaneEvent): void {
    if (this.#closed) return;
    const now = this.#deps.clock.now();
    this.#takeEvent(now, event);
    this.#pump(now);
  }

  #takeEvent(now: Now, event: PlaneEvent): void {
    const sessions = this.#sessions;
    switch (event.kind) {
      case "handshake":
        this.#noteHandshake(event.from, sessions?.handleHandshake(now, event.datagram, event.from) ?? Drop.NONE);
        return;
      case "inner": {
        const peer = this.#holder(event.peer, event.epochId);
        if (peer === undefined) return;
        peer.silent = false;
        if (event.innerKind === InnerKind.CONTROL) this.mesh.handleControl(now, peer.staticKey, event.payload);
        else if (event.innerKind !== InnerKind.STREAM)
          sessions?.handleInner(now, event.peer, event.epochId, event.innerKind, event.payload);
        return;
      }
      case "proof":
        if (this.#holder(event.peer, event.epochId) !== undefined)
          sessions?.handleProof(now, event.peer, event.epochId);
        return;
      case "needSession":
        sessions?.connect(now, event.peer);
        return;
      case "wantRekey":
        if (this.#holder(event.peer, event.epochId) !== undefined) sessions?.rekey(now, event.peer);
        return;
      case "silent": {
        const peer = this.peers.bySlot(event.peer);
        if (peer === undefined) return;
        peer.silent = true;
        sessions?.handleSilence(now, event.peer);
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
        this.#observe(now, event.endpoint);
        return;
      case "pong":
        if (this.#pings.get(event.token)?.slot === event.peer)
          this.#pings.get(event.token)?.done({ rttMs: event.rttMs, endpoint: event.endpoint });
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
    if (peer.endpoint !== undefined && peer.member !== undefined) {
      this.mesh.noteReached(now, peer.nodeId, peer.endpoint);
      this.#writeCacheSoon(now);
    }
    this.#events.pathChanged(peer);
  }

  #observe(now: Now, endpoint: Uint8Array): void {
    const key = toHex(endpoint);
    const known = this.#observed.get(key);
    if (known !== undefined) {
      known.atMs = now.nowMs;
      return;
    }
    if (this.#observed.size >= MAX_OBSERVED) this.#observed.delete(this.#observed.keys().next().value as string);
    this.#observed.set(key, { endpoint, atMs: now.nowMs });
    this.#events.endpointsDirty();
  }

  // ── outputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #pump(now: Now): void {
    // what an output causes (a dial, a drop) is an output again: the loop below takes it, not a nested one
    // and nothing is taken before there is a plane to tell
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
    this.#arm();
  }

  #takeSessionOutput(now: Now, output: SessionOutput): void {
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
        this.#link?.send(output);
        return;
      case "inner":
        this.#link?.send({ ...output, flags: 0, aux: 0 });
        return;
      case "established":
        peer.lastError = undefined;
        peer.silent = false;
        peer.stopping = false;
        if (!output.rekey)
          this.#deps.log.info(
            `session with ${this.#nameOf(peer)} is up (${output.hybrid ? "hybrid post-quantum" : "classic"} keys)`,
          );
        if (!peer.established || !output.rekey) {
          peer.established = true;
          this.mesh.peerUp(now, peer.staticKey);
        }
        return;
      case "restarted":
        this.#deps.log.info(`${this.#nameOf(peer)} has restarted`);
        return;
      case "failed":
        peer.lastError = output.reason;
        if (peer.member === undefined && peer.inviteId === undefined) {
          this.#drop(now, peer, output.reason);
          return;
        }
        this.#deps.log.warn(
          `no session with ${this.#nameOf(peer)}: ${output.reason}; it is tried again when there is traffic for it`,
        );
        this.#checkDown(now, peer);
    }
  }

  #takeMeshOutput(now: Now, output: MeshOutput): void {
    const { log } = this.#deps;
    switch (output.kind) {
      case "send": {
        const peer = this.peers.byKey(output.staticKey);
        if (peer !== undefined)
          this.#link?.send({
            kind: "inner",
            peer: peer.slot,
            epochId: 0,
            innerKind: InnerKind.CONTROL,
            flags: 0,
            aux: 0,
            payload: output.bytes,
          });
        return;
      }
      case "persistStatement":
        this.#write([{ kind: "statement", hash: output.hash, bytes: output.bytes }, ...this.#networkMutation()]);
        return;
      case "rosterChanged":
        // whoever was a member before this run, or before this node joined, is no news
        if (this.#announces) {
          for (const member of output.added)
            log.info(`${member.name} (${member.ipv4}, ${member.ipv6}) is a member now`);
          for (const member of output.removed) log.info(`${member.name} is no member any more`);
        }
        this.#syncMembers();
        this.#events.rosterChanged();
        return;
      case "endpointsChanged":
        this.#pushCandidates(now, this.#recordOf(output.nodeId));
        this.#writeCacheSoon(now);
        return;
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
        log.info(`${this.#nameOf(peer)} is stopping`);
        return;
      }
      case "selfRemoved":
        if (this.#left === undefined)
          this.#events.removed(
            output.reason,
            output.by === undefined
              ? undefined
              : (this.mesh.memberById(output.by)?.name ?? formatNodeId(output.by).slice(0, 8)),
          );
        return;
      case "left":
        this.#left?.(output.delivered);
        this.#left = undefined;
        return;
      case "log":
        log.child("mesh")[output.level](output.text);
    }
  }

  // ── peers ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #announceFromNow(): void {
    this.#announces = true;
    const { mesh } = this;
    this.#deps.log.info(
      `${mesh.self?.name} (${mesh.self?.ipv4}, ${mesh.self?.ipv6}) in the network ${mesh.networkName}; members: ${mesh.members().length}`,
    );
  }

  #startSessions(): void {
    const { identity, random, timestamps, clock } = this.#deps;
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
        provisionalPeer: (key, inviteId) => this.#provisional(clock.now(), key, inviteId),
        flowing: (slot) => {
          const lastMs = this.#plane?.peerFigures(slot).lastDeliveryMs ?? -1;
          return lastMs >= 0 && lastMs < 30_000;
        },
      },
      {
        pq: this.#options.pq,
        capabilities: this.#options.capabilities,
        mtuBytes: this.#options.underlayMtuBytes,
        bootId: this.#options.bootId,
      },
    );
  }

  #otherMembers(): Member[] {
    const own = this.#deps.identity.nodeId;
    return this.mesh.members().filter((member) => !equal(member.nodeId, own));
  }

  /** Gives members their slots and the plane its tables. Who was removed is dropped by the mesh's own outputs. */
  #syncMembers(): void {
    const now = this.#deps.clock.now();
    let without = 0;
    for (const member of this.#otherMembers()) {
      let peer = this.peers.byKey(member.staticKey);
      if (peer === undefined) {
        if (this.peers.size < this.#options.maxPeers) peer = this.#add(member.nodeId, member.staticKey);
        if (peer === undefined) {
          without++;
          continue;
        }
      } else if (peer.member === undefined) {
        this.peers.settle(peer);
        peer.nodeId = member.nodeId;
      }
      const isFresh = peer.member === undefined;
      peer.member = member;
      peer.psk = this.#options.psk.get(formatNodeId(member.nodeId)) ?? this.#options.psk.get(member.name);
      this.#pushCandidates(now, peer);
      // a joiner's path was there before anybody knew whose it is
      if (isFresh && peer.endpoint !== undefined) this.#pathChanged(now, peer);
    }
    if (without > 0)
      this.#deps.log.warn(
        `${without} members have no place among the ${this.#options.maxPeers} peers; raise max_peers in weft.toml`,
      );
    this.#pushTables();
  }

  #pushTables(): void {
    const routes: RouteEntry[] = [];
    for (const peer of this.peers.all()) {
      for (const text of peer.member === undefined ? [] : [peer.member.ipv4, peer.member.ipv6]) {
        const prefix = parseAddress(text);
        if (prefix !== undefined) routes.push({ prefix, prefixBits: 128, peer: peer.slot });
      }
    }
    const self = this.mesh.self;
    const own =
      self === undefined
        ? []
        : [self.ipv4, self.ipv6].map((text) => parseAddress(text)).filter((prefix) => prefix !== undefined);
    this.#link?.send({ kind: "local", prefixes: own.map((prefix) => ({ prefix, prefixBits: 128 })) });
    this.#link?.send({ kind: "routes", routes });
  }

  #pushCandidates(now: Now, peer: PeerRecord | undefined): void {
    if (peer === undefined) return;
    this.#link?.send({ kind: "candidates", peer: peer.slot, endpoints: this.mesh.candidates(peer.nodeId, now.wallMs) });
  }

  #recordOf(nodeId: Uint8Array): PeerRecord | undefined {
    const member = this.mesh.memberById(nodeId);
    return member === undefined
      ? this.peers.all().find((peer) => equal(peer.nodeId, nodeId))
      : this.peers.byKey(member.staticKey);
  }

  #add(nodeId: Uint8Array, staticKey: Uint8Array): PeerRecord | undefined {
    const peer = this.peers.add(nodeId, staticKey, this.#lastEpochId);
    if (peer !== undefined) this.#link?.send({ kind: "peer", peer: peer.slot, nodeId });
    return peer;
  }

  #provisional(now: Now, staticKey: Uint8Array, inviteId: Uint8Array): PeerRecord | undefined {
    // who comes with an invite that has ended may hear so; who comes with none that was ever ours hears nothing
    if (this.mesh.acceptsInvite(inviteId, now.wallMs) === "unknown") return undefined;
    const peer = this.peers.addProvisional(staticKey, this.#lastEpochId, now.nowMs);
    if (peer !== undefined) this.#link?.send({ kind: "peer", peer: peer.slot, nodeId: peer.nodeId });
    return peer;
  }

  #dial(now: Now, nodeId: Uint8Array, staticKey: Uint8Array, inviteId: Uint8Array | undefined): void {
    const peer = this.peers.byKey(staticKey) ?? this.#add(nodeId, staticKey);
    if (peer === undefined) return;
    peer.inviteId = inviteId;
    this.#pushCandidates(now, peer);
    this.#sessions?.connect(now, peer.slot);
  }

  #drop(now: Now, peer: PeerRecord, reason: string): void {
    if (peer.member !== undefined) this.#deps.log.info(`dropped ${this.#nameOf(peer)}: ${reason}`);
    this.#sessions?.removePeer(now, peer.slot);
    this.#link?.send({ kind: "peerRemove", peer: peer.slot });
    if (peer.established) this.mesh.peerDown(now, peer.staticKey);
    this.peers.remove(peer);
    for (const ping of [...this.#pings.values()]) if (ping.slot === peer.slot) ping.done(undefined);
    this.#events.pathChanged(peer);
    this.#pushTables();
  }

  #checkDown(now: Now, peer: PeerRecord): void {
    if (!peer.established || this.#sessions?.state(peer.slot, now.nowMs).established === true) return;
    peer.established = false;
    this.mesh.peerDown(now, peer.staticKey);
  }

  #nameOf(peer: PeerRecord): string {
    const where = peer.endpoint === undefined ? "" : ` at ${formatEndpoint(endpointFromBytes(peer.endpoint))}`;
    return (
      peer.member?.name ??
      (peer.nodeId.every((byte) => byte === 0) ? `a joining node${where}` : formatNodeId(peer.nodeId).slice(0, 8))
    );
  }

  // ── store ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #networkWritten = false;

  /** The network's id is written with its first statement, so that a store has both or neither. */
  #networkMutation(): Mutation[] {
    const networkId = this.mesh.networkId;
    if (this.#networkWritten || networkId === undefined) return [];
    this.#networkWritten = true;
    return [{ kind: "meta", key: NETWORK_KEY, value: networkId }];
  }

  #write(mutations: readonly Mutation[]): void {
    const writing = this.#deps.storage
      .write(mutations)
      .catch((error: Error) => this.#deps.log.error(`not written to disk: ${error.message}`))
      .finally(() => this.#unwritten.delete(writing));
    this.#unwritten.add(writing);
  }

  /** Resolves when everything worth keeping, the endpoint cache included, is on disk or has failed. */
  async flush(): Promise<void> {
    this.#writeCacheSoon(this.#deps.clock.now());
    this.#writeCache();
    while (this.#unwritten.size > 0) await Promise.all(this.#unwritten);
  }

  #writeCacheSoon(now: Now): void {
    this.#cacheWriteAtMs = Math.min(this.#cacheWriteAtMs, now.nowMs + CACHE_WRITE_MS);
  }

  #writeCache(): void {
    if (this.#cacheWriteAtMs === Infinity) return;
    this.#cacheWriteAtMs = Infinity;
    this.#write([{ kind: "meta", key: ENDPOINT_CACHE_KEY, value: this.mesh.exportEndpoints() }]);
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #arm(): void {
    const dueMs = Math.min(
      this.#sessions?.nextTimeout() ?? Infinity,
      this.mesh.nextTimeout(),
      this.#deps.timestamps.nextTimeout(),
      this.#tickAtMs,
      this.#cacheWriteAtMs,
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
    if (now.nowMs >= this.#cacheWriteAtMs) this.#writeCache();
    if (now.nowMs >= this.#tickAtMs) {
      this.#tickAtMs = now.nowMs + TICK_MS;
      for (const peer of this.peers.expired(now.nowMs)) this.#drop(now, peer, "it did not join in time");
      for (const peer of this.peers.all()) this.#checkDown(now, peer);
    }
    this.#pump(now);
  }
}
