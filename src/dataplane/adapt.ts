/**
 * What follows from the measurements of a path: burst size, queue limit and CoDel interval of a peer, the width of its replay window, and the send
 * buffer of the sockets. Source: docs/protocol.md "UDP", "Queues" and "Epochs, rekey, replay".
 */
import { DATA_OVERHEAD_BYTES } from "../wire/data.ts";
import type { PeerState } from "./peer.ts";
import { QUEUE_MAX_PACKETS, QUEUE_MIN_PACKETS } from "./queues.ts";
import { Counter, PeerField, type PlaneStats } from "./stats.ts";

const WINDOW_FIT_MS = 1_000;
const SEND_BUFFER_MIN_BYTES = 96 * 1024;
const SEND_BUFFER_MAX_BYTES = 4 << 20;
const SEND_BUFFER_MS = 10;
const SEND_BUFFER_EVERY_MS = 50;

/** Burst size, queue limit and CoDel interval follow what is measured of the active path. */
export function adaptToPath(peer: PeerState, nowMs: number, stats: PlaneStats): void {
  const paths = peer.paths;
  const datagramBytes = peer.maxPacketBytes + DATA_OVERHEAD_BYTES;
  const before = peer.burst.fallbacks;
  // an empty queue and an unhurried path mean that the rate is the application's, which must not look like a slow path
  const limited = peer.queue.packets > 0 || paths.isLimited;
  peer.burst.update(nowMs, limited ? paths.rateBps : 0, datagramBytes, paths.lossRatio);
  if (peer.burst.fallbacks !== before) stats.add(Counter.gsoFallbacks, 1);
  const bytesPerMs = paths.rateBps / 8_000;
  if (bytesPerMs <= 0) return;
  const rttMs = paths.rttMs > 0 ? paths.rttMs : 1;
  const product = (bytesPerMs * Math.max(rttMs, 100)) / datagramBytes;
  peer.queue.limitPackets = Math.max(QUEUE_MIN_PACKETS, Math.min(QUEUE_MAX_PACKETS, Math.ceil(product)));
  peer.queue.intervalMs = Math.max(100, rttMs * 1.25);
}

/** What may overtake what: packets at this rate times the largest difference in delay that the paths of the peer show; looked at once a second. */
export function fitReplayWindow(peer: PeerState, nowMs: number, stats: PlaneStats): void {
  if (peer.sendEpoch === undefined || nowMs - peer.windowFittedMs < WINDOW_FIT_MS) return;
  peer.windowFittedMs = nowMs;
  let slowestMs = 0;
  let fastestMs = Infinity;
  for (const path of peer.paths.figures()) {
    if (path.rttMs < 0) continue;
    slowestMs = Math.max(slowestMs, path.rttP95Ms, path.rttMs);
    fastestMs = Math.min(fastestMs, path.rttMs);
  }
  const packets = stats.cells[peer.row + PeerField.rxPackets] - peer.windowPackets;
  peer.windowPackets += packets;
  const wanted = (packets / WINDOW_FIT_MS) * (slowestMs - Math.min(fastestMs, slowestMs)) * 2;
  const replay = peer.sendEpoch.replay;
  if (wanted > replay.counters) replay.resize(wanted);
}

/**
 * The send buffer holds about 10 ms of what the sockets really get rid of, so that a full qdisc pushes back (EAGAIN) instead of dropping.
 * While nothing pushes back the rate only rises.
 */
export class SendBuffer {
  #bytes = 0;
  #atMs = 0;
  #rateBps = 0;
  #wantedBytes = 0;

  /**
   * @param sentBytes to the kernel since start @param deliveredBps of all paths together, as reported @param blocked a socket takes nothing now
   * @returns the size to set, or 0 when the present one will do
   */
  update(nowMs: number, sentBytes: number, deliveredBps: number, blocked: boolean): number {
    const elapsedMs = nowMs - this.#atMs;
    if (elapsedMs < SEND_BUFFER_EVERY_MS) return 0;
    const bps = ((sentBytes - this.#bytes) * 8_000) / elapsedMs;
    this.#bytes = sentBytes;
    this.#atMs = nowMs;
    if (blocked) this.#rateBps = this.#rateBps === 0 ? bps : this.#rateBps * 0.7 + bps * 0.3;
    else this.#rateBps = Math.max(bps, deliveredBps, this.#rateBps * 0.98);
    const product = (this.#rateBps / 8_000) * SEND_BUFFER_MS;
    const wanted = Math.max(SEND_BUFFER_MIN_BYTES, Math.min(SEND_BUFFER_MAX_BYTES, product));
    if (Math.abs(wanted - this.#wantedBytes) < this.#wantedBytes * 0.25) return 0;
    this.#wantedBytes = wanted;
    return wanted;
  }
}
