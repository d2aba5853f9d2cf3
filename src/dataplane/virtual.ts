/**
 * Ways to a peer that are not a UDP address: vias (labels inside another peer's session) and channels (byte streams of the control thread). One object that
 * owns both, takes their commands, and is the "socket" of every virtual name. To sessions, the gate, paths, probes and PMTU discovery a virtual endpoint is
 * an address like any other. Source: docs/protocol.md, "Vias".
 *
 * Rooms: vias.ts the labels, wrapper.ts sending through a via, forwarding.ts what comes in as inner kind 4, channels.ts.
 * A failed via is told to the control thread and to the paths that use it at the end of the turn, at most once a second each.
 */
import { VirtualType, virtualEndpoint } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_ECN, NAME_FAMILY, writeName } from "../base/name.ts";
import type { Random } from "../base/random.ts";
import type { Slab } from "../base/slab.ts";
import type { Epoch } from "../session/epochs.ts";
import { Channels } from "./channels.ts";
import { Forwarding, type ForwardingDeps } from "./forwarding.ts";
import { type Command, type PlaneEvent, ViaFailure } from "./messages.ts";
import type { PeerState } from "./peer.ts";
import { Counter, type PlaneStats } from "./stats.ts";
import { Forward, Via, Vias } from "./vias.ts";
import { Wrapper, type WrapperDeps } from "./wrapper.ts";

const FAILED_AGAIN_MS = 1_000;
/** Failures remembered until the end of a turn; more in one turn are noticed in a later one. */
const MAX_FAILURES = 256;

export interface VirtualDeps
  extends Omit<WrapperDeps, "vias" | "failed">, Omit<ForwardingDeps, "vias" | "failed" | "expired" | "nested"> {
  readonly slab: Slab;
  readonly stats: PlaneStats;
  readonly random: Random;
  readonly peers: readonly (PeerState | undefined)[];
  readonly emit: (event: PlaneEvent) => boolean;
  readonly eventLoad: () => number;
  /** A datagram that came inside another one, from this name. */
  readonly nested: (offset: number, bytes: number, name: number) => void;
  /** The name block of nested datagrams is about to change. */
  readonly endRun: () => void;
  /** A datagram that came out of a channel. */
  readonly received: (offset: number, bytes: number, name: number) => void;
  /** The path of this name does not deliver; or it is gone for good. */
  readonly pathFailed: (name: number) => void;
  readonly pathGone: (name: number) => void;
}

export class VirtualPaths {
  readonly vias: Vias;
  readonly channels: Channels;
  readonly #deps: VirtualDeps;
  readonly #u8: Uint8Array;
  readonly #wrapper: Wrapper;
  readonly #forwarding: Forwarding;
  /** Name of the via that nested datagrams came through last, and a scratch one. */
  readonly #nestedName: number;
  readonly #scratchName: number;
  #nestedVia: Via | undefined = undefined;
  readonly #failures: { readonly via: Via; readonly code: number }[] = [];

  constructor(deps: VirtualDeps) {
    this.#deps = deps;
    this.#u8 = deps.slab.u8;
    this.#nestedName = deps.slab.allocate(NAME_BYTES);
    this.#scratchName = deps.slab.allocate(NAME_BYTES);
    this.vias = new Vias(deps.random);
    this.channels = new Channels(deps);
    const shared = {
      slab: deps.slab,
      vias: this.vias,
      peers: deps.peers,
      sender: deps.sender,
      sealer: deps.sealer,
      stats: deps.stats,
      needSession: deps.needSession,
      wantRekey: deps.wantRekey,
      sendFragments: deps.sendFragments,
      failed: (via: Via, code: number) => this.#failed(via, code),
    };
    this.#wrapper = new Wrapper({ ...shared, tooBig: deps.tooBig, rescheduled: deps.rescheduled });
    this.#forwarding = new Forwarding({
      ...shared,
      nested: (via, offset, bytes, ecn) => this.#nested(via, offset, bytes, ecn),
      sendInner: deps.sendInner,
      expired: (forward) => this.#expired(forward),
    });
  }

  // ── the packet path ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** As UdpPort.send(), for a virtual name. */
  send(offset: number, bytes: number, segmentBytes: number, name: number): number {
    return this.#u8[name + NAME_FAMILY] === VirtualType.LABEL
      ? this.#wrapper.send(offset, bytes, segmentBytes, name)
      : this.channels.send(offset, bytes, segmentBytes, name);
  }

  /** Largest datagram that this virtual name takes whole; 0 = unknown. */
  limitBytes(name: number): number {
    return this.#u8[name + NAME_FAMILY] === VirtualType.LABEL ? this.#wrapper.limitBytes(name) : 0;
  }

  /** An opened inner message of kind 4. */
  transit(peer: PeerState, epoch: Epoch, flags: number, payload: number, bytes: number, name: number): void {
    this.#forwarding.nowMs = this.#deps.sender.nowMs;
    this.#forwarding.handle(peer, epoch, flags, payload, bytes, name);
  }

  /** Sends what was taken to be forwarded. */
  flush(): void {
    this.#forwarding.flush();
  }

  #nested(via: Via, offset: number, bytes: number, ecn: number): void {
    if (via !== this.#nestedVia) {
      this.#deps.endRun();
      this.#nestedVia = via;
      this.#nameOf(via, this.#nestedName);
    }
    this.#u8[this.#nestedName + NAME_ECN] = ecn;
    this.#deps.nested(offset, bytes, this.#nestedName);
  }

  #nameOf(via: Via, at: number): number {
    return writeName(this.#u8, virtualEndpoint(VirtualType.LABEL, via.pathKind, via.id), at);
  }

  // ── a turn of the engine ─────────────────────────────────────────────────────────────────────────────────────────────

  get pauseEndMs(): number {
    return this.#forwarding.batch.pauseEndMs;
  }

  waitsWritable(family: 4 | 6): boolean {
    return this.#forwarding.batch.waitsWritable(family);
  }

  service(writable4: boolean, writable6: boolean): void {
    this.#deps.sender.unblock(this.#forwarding.batch, writable4, writable6);
  }

  /** Tells what failed in this turn. */
  settle(): void {
    while (this.#failures.length > 0) {
      const { via, code } = this.#failures.pop() as { via: Via; code: number };
      if (this.vias.via(via.id) !== via) continue;
      this.#emit({ kind: "viaFailed", id: via.id, code });
      this.#deps.pathFailed(this.#nameOf(via, this.#scratchName));
    }
  }

  housekeeping(): void {
    this.vias.sweep(this.#deps.sender.nowMs, (forward) => this.#expired(forward));
  }

  removePeer(peer: PeerState): void {
    this.#forwarding.removePeer(peer);
    this.vias.removePeer(
      peer.slot,
      (via) => this.#gone(via),
      (forward) => this.#expired(forward),
    );
  }

  // ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @returns false when the command is not about virtual paths */
  command(command: Command): boolean {
    switch (command.kind) {
      case "via": {
        const old = this.vias.via(command.id);
        const via = new Via(command.id, command.hop, command.out >>> 0, command.in >>> 0, command.pathKind);
        if (this.#deps.peers[command.hop] === undefined || !this.vias.addVia(via)) {
          this.#deps.stats.add(Counter.transitRefused, 1);
          this.#emit({ kind: "viaFailed", id: command.id, code: ViaFailure.REFUSED });
        } else if (old !== undefined && old.pathKind !== via.pathKind) {
          this.#deps.pathGone(this.#nameOf(old, this.#scratchName));
        }
        return true;
      }
      case "viaRemove": {
        const via = this.vias.removeVia(command.id);
        if (via !== undefined) this.#deps.pathGone(this.#nameOf(via, this.#scratchName));
        return true;
      }
      case "forward": {
        const { label, from, to, out, bytesPerSecond } = command;
        const nowMs = this.#deps.sender.nowMs;
        const known = this.#deps.peers[from] !== undefined && this.#deps.peers[to] !== undefined;
        const installed =
          known &&
          this.vias.addForward(
            new Forward(nowMs, label >>> 0, from, to, out >>> 0, this.vias.quotaOf(nowMs, from, bytesPerSecond)),
          );
        if (!installed) {
          this.#deps.stats.add(Counter.transitRefused, 1);
          this.#expired({ label: label >>> 0, from });
        }
        return true;
      }
      case "forwardRemove":
        this.vias.removeForward(command.from, command.label >>> 0);
        return true;
      case "channel":
        if (!this.channels.setOpen(command.id, command.open)) this.#deps.stats.add(Counter.transitRefused, 1);
        if (!command.open) this.#deps.pathGone(this.#channelName(command.id));
        return true;
      case "channelIn": {
        const at = this.channels.isOpen(command.id) ? this.channels.place(command.datagram) : 0;
        if (at === 0) return true;
        this.#deps.stats.add(Counter.channelReceived, 1);
        this.#deps.received(at, command.datagram.length, this.#channelName(command.id));
        return true;
      }
      default:
        return false;
    }
  }

  #channelName(id: number): number {
    return writeName(this.#u8, virtualEndpoint(VirtualType.CHANNEL, 1, id), this.#scratchName);
  }

  // ── what fails ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Noted now and told in settle(): the caller may be in the middle of the paths that use it. */
  #failed(via: Via, code: number): void {
    const nowMs = this.#deps.sender.nowMs;
    if (nowMs - via.failedMs < FAILED_AGAIN_MS || this.#failures.length >= MAX_FAILURES) return;
    via.failedMs = nowMs;
    this.#failures.push({ via, code });
  }

  #gone(via: Via): void {
    this.#emit({ kind: "viaFailed", id: via.id, code: ViaFailure.HOP_GONE });
    this.#deps.pathGone(this.#nameOf(via, this.#scratchName));
  }

  #expired(forward: Pick<Forward, "label" | "from">): void {
    this.#emit({ kind: "forwardExpired", label: forward.label, from: forward.from });
  }

  #emit(event: PlaneEvent): void {
    if (!this.#deps.emit(event)) this.#deps.stats.add(Counter.eventsRefused, 1);
  }
}
