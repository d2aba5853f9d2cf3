/**
 * Between the peers of the runtime and channels.ts: says to whom a channel could be opened and whether UDP reaches it, gives open channels
 * to the data plane as candidates, and lets a handshake that waits try the new way at once.
 */
import { fromHex, toHex } from "../../base/bytes.ts";
import { isVirtualAddress } from "../../base/endpoint.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import type { Command, PeerFigures, PlanePath } from "../../dataplane/messages.ts";
import type { MeshNode } from "../../mesh/mesh-node.ts";
import type { Clock } from "../clock.ts";
import type { PeerRecord, PeerTable } from "../peer-table.ts";
import { type ChannelFigures, Channels, type ChannelsOptions } from "./channels.ts";
import type { Dial } from "./dial.ts";
import type { ChannelPeer } from "./policy.ts";

/** Nothing came from a peer for this long: the data plane is asked whether its path still answers, often while data moved lately. */
const QUIET_MS = 2_000;
const ASK_IN_USE_MS = 2_000;
const ASK_IDLE_MS = 30_000;
const IN_USE_MS = 30_000;
const PATH_ALIVE = 2;
/** A dial counts as a wish for this long; neighbours are dialled again about every 30 s. */
const WANTED_MS = 60_000;
const MAX_WANTED = 4_096;

export interface PeerChannelsDeps {
  readonly mesh: MeshNode;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** undefined: this node opens no channels. */
  readonly dial: Dial | undefined;
  peers(): PeerTable;
  figures(slot: number): PeerFigures | undefined;
  /** Every path to the peer; empty when the data plane did not say in time. */
  paths(peer: PeerRecord): Promise<readonly PlanePath[]>;
  send(command: Command): void;
  /** candidates(peer) has changed. */
  candidatesChanged(peer: PeerRecord): void;
  /** There is a new way to the peer: a handshake that waits for an answer goes out again. */
  hurry(peer: PeerRecord): void;
}

/** Whether the path over UDP that is in use still leads anywhere. */
interface Watch {
  /** User packets in both directions, and when their number last changed. */
  packets: number;
  movedAtMs: number;
  askAtMs: number;
  isDead: boolean;
}

export class PeerChannels {
  readonly #deps: PeerChannelsDeps;
  readonly #channels: Channels;
  /** Static key in hexadecimal → until when somebody wants a session. */
  readonly #wanted = new Map<string, number>();
  /** By static key, of peers with a URL; who is gone goes at the next look. */
  readonly #watches = new Map<string, Watch>();
  #isDirty = false;

  constructor(deps: PeerChannelsDeps, options: ChannelsOptions) {
    this.#deps = deps;
    this.#channels = new Channels(
      {
        clock: deps.clock,
        random: deps.random,
        log: deps.log.child("channels"),
        dial: deps.dial,
        send: (command) => deps.send(command),
        peers: () => this.#peers(),
        changed: (key, opened) => this.#changed(key, opened),
      },
      options,
    );
  }

  /** @throws WeftError CHANNEL_LISTEN */
  start(): Promise<void> {
    return this.#channels.start();
  }

  close(): Promise<void> {
    return this.#channels.close();
  }

  figures(): ChannelFigures {
    return this.#channels.figures();
  }

  /** Virtual endpoints (18 bytes) by which the peer can be reached now. */
  candidates(peer: PeerRecord): Uint8Array[] {
    return this.#channels.candidates(toHex(peer.staticKey));
  }

  /** Host behind a virtual endpoint that is a channel of ours, for people. @param endpoint 18 bytes */
  hostOf(endpoint: Uint8Array): string | undefined {
    return this.#channels.hostOf(endpoint);
  }

  /** Somebody wants a session with that peer. */
  noteWanted(nowMs: number, peer: PeerRecord): void {
    const hex = toHex(peer.staticKey);
    this.#wanted.delete(hex);
    if (this.#wanted.size >= MAX_WANTED) this.#wanted.delete(this.#wanted.keys().next().value as string);
    this.#wanted.set(hex, nowMs + WANTED_MS);
    this.#isDirty = true;
  }

  /** A peer has shown at this endpoint, which may be a channel, that it is a member or has an invite. @param endpoint 18 bytes */
  noteProven(endpoint: Uint8Array, peer: PeerRecord): void {
    this.#channels.noteProven(endpoint, toHex(peer.staticKey));
  }

  /** The peer is dropped: no member any more, or it did not join in time. */
  noteRemoved(peer: PeerRecord): void {
    const hex = toHex(peer.staticKey);
    this.#wanted.delete(hex);
    this.#channels.forget(hex);
    this.#isDirty = true;
  }

  /** Something about peers, their paths or their URLs has changed: settle() looks at it. */
  touch(): void {
    this.#isDirty = true;
  }

  /** Call when the outputs of all machines are done. */
  settle(): void {
    if (!this.#isDirty) return;
    this.#isDirty = false;
    this.#channels.review();
  }

  handleOut(id: number, datagram: Uint8Array): void {
    this.#channels.handleOut(id, datagram);
  }

  *#peers(): Iterable<ChannelPeer> {
    const { mesh, clock } = this.#deps;
    const { nowMs } = clock.now();
    const seen = new Set<string>();
    for (const peer of this.#deps.peers().all()) {
      const roles = peer.member?.roles ?? [];
      const isBeacon = roles.includes("beacon");
      // cheap first: most peers are neither, and only while joining may others have a URL (mesh.urls decides)
      if (!isBeacon && !roles.includes("admin") && !mesh.isJoining) continue;
      const urls = mesh.urls(peer.nodeId);
      if (urls.length === 0) continue;
      const key = toHex(peer.staticKey);
      const established = this.#deps.figures(peer.slot)?.established === true;
      const { endpoint } = peer;
      const overUdp = established && endpoint !== undefined && !isVirtualAddress(endpoint);
      const isDead = overUdp && this.#isDead(nowMs, key, peer);
      seen.add(key);
      yield {
        key,
        urls,
        isBeacon,
        wanted: established || (this.#wanted.get(key) ?? -Infinity) > nowMs,
        overdue: peer.silent || isDead,
        direct: overUdp && !peer.silent && !isDead,
      };
    }
    for (const key of this.#watches.keys()) if (!seen.has(key)) this.#watches.delete(key);
  }

  /** Who only receives learns from probes alone that nothing arrives any more, and only the data plane sees those. */
  #isDead(nowMs: number, key: string, peer: PeerRecord): boolean {
    const figures = this.#deps.figures(peer.slot);
    const packets = (figures?.txPackets ?? 0) + (figures?.rxPackets ?? 0);
    let watch = this.#watches.get(key);
    if (watch === undefined) {
      watch = { packets, movedAtMs: -Infinity, askAtMs: 0, isDead: false };
      this.#watches.set(key, watch);
    }
    if (packets !== watch.packets) {
      watch.packets = packets;
      watch.movedAtMs = nowMs;
      watch.askAtMs = Math.min(watch.askAtMs, nowMs + ASK_IN_USE_MS);
    }
    if ((figures?.lastDeliveryMs ?? -1) < QUIET_MS) watch.isDead = false;
    else if (nowMs >= watch.askAtMs) this.#ask(nowMs, watch, peer);
    return watch.isDead;
  }

  #ask(nowMs: number, watch: Watch, peer: PeerRecord): void {
    watch.askAtMs = nowMs + (nowMs - watch.movedAtMs < IN_USE_MS ? ASK_IN_USE_MS : ASK_IDLE_MS);
    void this.#deps.paths(peer).then((paths) => {
      const isAlive = paths.some(({ endpoint, state }) => state === PATH_ALIVE && !isVirtualAddress(endpoint));
      const isDead = paths.length > 0 && !isAlive;
      if (isDead === watch.isDead) return;
      watch.isDead = isDead;
      this.#channels.review();
    });
  }

  #changed(key: string, opened: boolean): void {
    const bytes = fromHex(key);
    const peer = bytes === undefined ? undefined : this.#deps.peers().byKey(bytes);
    if (peer === undefined) return;
    this.#deps.candidatesChanged(peer);
    if (opened) this.#deps.hurry(peer);
  }
}
