/** What time brings about for a peer: probes and keys that are due, keepalives owed, silence noticed, packets that waited too long for a session. */
import { InnerKind } from "../wire/data.ts";
import { fitReplayWindow } from "./adapt.ts";
import { type EngineContext, KEEPALIVE_AFTER_MS } from "./engine-context.ts";
import type { Inbound } from "./inbound.ts";
import type { InnerMessages } from "./inner-messages.ts";
import type { PathWatch } from "./path-watch.ts";
import type { PeerState } from "./peer.ts";
import type { PacketQueues } from "./queues.ts";
import { PeerField } from "./stats.ts";

const SILENT_AGAIN_MS = 5_000;
const WAITING_MAX_MS = 10_000;
const WAITING_LOOK_MS = 1_000;

export interface PeerTimersDeps {
  readonly context: EngineContext;
  readonly inner: InnerMessages;
  readonly watch: PathWatch;
  readonly inbound: Inbound;
  readonly queues: PacketQueues;
}

export class PeerTimers {
  readonly #context: EngineContext;
  readonly #deps: PeerTimersDeps;

  constructor(deps: PeerTimersDeps) {
    this.#context = deps.context;
    this.#deps = deps;
  }

  /** Serves every peer whose deadline has passed. */
  handleTimeout(): void {
    const { deadlines, nowMs } = this.#context;
    let next = Infinity;
    for (let slot = 0; slot < deadlines.length; slot++) {
      if (deadlines[slot] <= nowMs) this.#serve(slot);
      const at = deadlines[slot];
      if (at < next) next = at;
    }
    this.#context.nextDeadlineMs = next;
  }

  #serve(slot: number): void {
    const { deadlines, peers, nowMs, epochs, stats } = this.#context;
    const { inner, watch, inbound } = this.#deps;
    deadlines[slot] = Infinity;
    const peer = peers[slot];
    if (peer === undefined) return;
    peer.paths.handleTimeout(nowMs, inner.sinkOf(peer));
    watch.changed(peer);
    fitReplayWindow(peer, nowMs, stats);
    let next = Math.min(peer.paths.nextTimeoutMs, epochs.handleTimeout(nowMs, slot));
    if (peer.sendEpoch !== undefined && !peer.sendEpoch.live) {
      peer.sendEpoch = undefined;
      stats.cells[peer.row + PeerField.established] = 0;
    }
    inbound.forget();
    next = Math.min(next, this.#keepalive(peer), this.#silence(peer), this.#waiting(peer));
    this.#context.schedule(slot, next);
  }

  /** @returns when to look again; Infinity: not for this */
  #keepalive(peer: PeerState): number {
    if (peer.unansweredReceiveMs < 0) return Infinity;
    const { nowMs, scratch } = this.#context;
    const at = peer.unansweredReceiveMs + KEEPALIVE_AFTER_MS;
    if (at > nowMs) return at;
    peer.unansweredReceiveMs = -1;
    this.#deps.inner.emitPath(peer, InnerKind.KEEPALIVE, peer.paths.activeName(), scratch, 0);
    peer.lastSentMs = nowMs;
    return Infinity;
  }

  /** As keepalive(): data was sent, and nothing comes back. */
  #silence(peer: PeerState): number {
    if (peer.unansweredSendMs < 0) return Infinity;
    const context = this.#context;
    const { nowMs } = context;
    const at = Math.max(peer.unansweredSendMs + context.silenceMs(peer), peer.silentMs + SILENT_AGAIN_MS);
    if (at > nowMs) return at;
    peer.silentMs = nowMs;
    context.emit({ kind: "silent", peer: peer.slot });
    return nowMs + SILENT_AGAIN_MS;
  }

  /** As keepalive(): packets wait for a session. */
  #waiting(peer: PeerState): number {
    if (peer.sendEpoch !== undefined || peer.queue.packets === 0) return Infinity;
    const context = this.#context;
    const { nowMs } = context;
    this.#deps.queues.expire(peer.queue, nowMs - WAITING_MAX_MS);
    context.stats.cells[peer.row + PeerField.queued] = peer.queue.packets;
    if (peer.queue.packets === 0) return Infinity;
    context.needSession(peer);
    return nowMs + WAITING_LOOK_MS;
  }
}
