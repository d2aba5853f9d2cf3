/**
 * What the parts of the engine share: its ports, the peers, the time of the turn, when each peer has something due, and the events for the control thread.
 * Parts: door.ts handshakes and STUN, inner-messages.ts what is not user data, path-watch.ts paths, peer-timers.ts what time brings about.
 */
import { NAME_BYTES } from "../base/name.ts";
import type { Random } from "../base/random.ts";
import type { Slab } from "../base/slab.ts";
import { EpochTable } from "../session/epochs.ts";
import type { Command, EndpointBytes, PlaneEvent, PlaneSettings } from "./messages.ts";
import type { PeerState } from "./peer.ts";
import type { AeadPort, MacPort, PollPort, TunPort, UdpPort } from "./ports.ts";
import { Counter, type PlaneStats } from "./stats.ts";

/** After data came in and nothing went out. */
export const KEEPALIVE_AFTER_MS = 10_000;
/** Reports come every 50 ms at the latest while data flows, so this much silence (and four round trips) means that the peer forgot us. */
const SILENT_AFTER_MS = 1_500;
const NEED_SESSION_AGAIN_MS = 500;
const SCRATCH_BYTES = 16_384;

export interface EngineDeps {
  readonly slab: Slab;
  readonly tun: TunPort | undefined;
  readonly udp: UdpPort;
  readonly poll: PollPort;
  readonly aead: AeadPort;
  readonly mac: MacPort;
  readonly random: Random;
  readonly stats: PlaneStats;
  /** Monotonic milliseconds, fractional; read once or twice a turn. */
  readonly clock: () => number;
  /** Takes an event for the control thread. @returns false when its ring is full (counted here) */
  readonly emit: (event: PlaneEvent) => boolean;
  /** How full the ring to the control thread is, 0–1. */
  readonly eventLoad: () => number;
  /** The next command, if one waits. */
  readonly nextCommand: () => Command | undefined;
  /** Announces that the worker is about to sleep. @returns false when a command came in meanwhile, so it must not */
  readonly park: () => boolean;
  readonly unpark: () => void;
}

export interface EngineOptions {
  readonly maxPeers: number;
  /** X25519 public key of this node, 32 bytes. */
  readonly staticKey: Uint8Array;
  readonly settings: PlaneSettings;
  readonly hasUdp4: boolean;
  readonly hasUdp6: boolean;
}

export class EngineContext {
  readonly deps: EngineDeps;
  readonly options: EngineOptions;
  readonly u8: Uint8Array;
  readonly stats: PlaneStats;
  readonly peers: (PeerState | undefined)[];
  readonly epochs: EpochTable;
  /** Slots; also of peers that are declared later. */
  readonly candidates: Map<number, readonly EndpointBytes[]> = new Map();
  /** For one datagram or message of our own on its way out, and its name. */
  readonly scratch: number;
  readonly scratchName: number;
  nowMs: number;
  /** By slot; Infinity: nothing is due. */
  readonly deadlines: Float64Array;
  nextDeadlineMs = 0;

  constructor(deps: EngineDeps, options: EngineOptions) {
    this.deps = deps;
    this.options = options;
    this.u8 = deps.slab.u8;
    this.stats = deps.stats;
    this.nowMs = deps.clock();
    this.peers = Array.from({ length: options.maxPeers }, () => undefined);
    this.epochs = new EpochTable(deps.aead, { maxPeers: options.maxPeers });
    this.deadlines = new Float64Array(options.maxPeers).fill(Infinity);
    this.scratchName = deps.slab.allocate(NAME_BYTES);
    this.scratch = deps.slab.allocate(SCRATCH_BYTES);
  }

  emit(event: PlaneEvent): void {
    if (!this.deps.emit(event)) this.stats.add(Counter.eventsRefused, 1);
  }

  /** The peer has something due then, or earlier. */
  schedule(slot: number, atMs: number): void {
    if (atMs < this.deadlines[slot]) {
      this.deadlines[slot] = atMs;
      if (atMs < this.nextDeadlineMs) this.nextDeadlineMs = atMs;
    }
  }

  schedulePaths(peer: PeerState): void {
    this.schedule(peer.slot, peer.paths.nextTimeoutMs);
    if (peer.unansweredSendMs >= 0) this.schedule(peer.slot, peer.unansweredSendMs + this.silenceMs(peer));
  }

  silenceMs(peer: PeerState): number {
    return SILENT_AFTER_MS + 4 * Math.max(0, peer.paths.rttMs);
  }

  needSession(peer: PeerState): void {
    if (this.nowMs - peer.needSessionMs < NEED_SESSION_AGAIN_MS) return;
    peer.needSessionMs = this.nowMs;
    this.emit({ kind: "needSession", peer: peer.slot });
    this.schedule(peer.slot, this.nowMs + 1_000);
  }
}
