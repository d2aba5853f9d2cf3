/**
 * How many datagrams may leave in one burst to one peer, and whether bursts do harm there.
 *
 * One burst is at most 1 ms at the path's measured rate, 1–64 segments: unpaced bursts of 64 have cost other systems two thirds of
 * their throughput on slow links. Some kernels and middle boxes lose or corrupt batches as such: when a path keeps losing more than 5 %,
 * half seconds with and without batches alternate, and if every one without loses less than half of every one with, batches rest for a minute.
 * Source: docs/protocol.md "UDP".
 */

export const MAX_BURST_SEGMENTS = 64;
const MIN_BURST_SEGMENTS = 2;
const BURST_MS = 1;
/** Room to grow: the rate is that of the past second. */
const HEADROOM = 1.25;
const SUSPICIOUS_LOSS = 0.05;
/** Loss has to last this long before anything is tried: a sender that probes for bandwidth loses some at times. */
const LASTING_MS = 3_000;
/** One trial alternates so many times between batches and none, each long enough for several reports. */
const PHASES = 6;
const PHASE_MS = 500;
const REST_MS = 60_000;
const AGAIN_MS = 120_000;

export class BurstControl {
  /** Segments per send now. */
  segments: number = MAX_BURST_SEGMENTS;
  /** Times that batches turned out to do worse. */
  fallbacks = 0;
  #lossySinceMs = -1;
  /** −1: no trial; else the phase of the trial, even ones without batches. */
  #phase = -1;
  #phaseEndsMs = 0;
  #worstSingle = 0;
  #bestBatched = 1;
  #unbatchedUntilMs = -1;
  #nextTrialMs = 0;

  /**
   * @param rateBps measured delivery rate, 0 = unknown or not the path's own (a sender with little to send says nothing about the path)
   * @param datagramBytes of a full segment
   * @param lossRatio of the path lately, 0–1
   * @returns segments per send
   */
  update(nowMs: number, rateBps: number, datagramBytes: number, lossRatio: number): number {
    const rateBytesPerMs = rateBps / 8_000;
    const byRate =
      rateBytesPerMs <= 0
        ? MAX_BURST_SEGMENTS
        : Math.max(
            MIN_BURST_SEGMENTS,
            Math.min(MAX_BURST_SEGMENTS, Math.ceil((rateBytesPerMs * BURST_MS * HEADROOM) / datagramBytes)),
          );
    this.segments = this.#batchesRest(nowMs, lossRatio) ? 1 : byRate;
    return this.segments;
  }

  #batchesRest(nowMs: number, lossRatio: number): boolean {
    if (nowMs < this.#unbatchedUntilMs) return true;
    if (this.#phase < 0) {
      if (lossRatio <= SUSPICIOUS_LOSS) this.#lossySinceMs = -1;
      else if (this.#lossySinceMs < 0) this.#lossySinceMs = nowMs;
      if (this.#lossySinceMs < 0 || nowMs - this.#lossySinceMs < LASTING_MS || nowMs < this.#nextTrialMs) return false;
      this.#phase = 0;
      this.#phaseEndsMs = nowMs + PHASE_MS;
      this.#worstSingle = 0;
      this.#bestBatched = 1;
      return true;
    }
    if (nowMs >= this.#phaseEndsMs) {
      if (this.#phase % 2 === 0) this.#worstSingle = Math.max(this.#worstSingle, lossRatio);
      else this.#bestBatched = Math.min(this.#bestBatched, lossRatio);
      this.#phase++;
      this.#phaseEndsMs = nowMs + PHASE_MS;
      if (this.#phase === PHASES) return this.#judge(nowMs);
    }
    return this.#phase % 2 === 0;
  }

  #judge(nowMs: number): boolean {
    this.#phase = -1;
    this.#lossySinceMs = -1;
    this.#nextTrialMs = nowMs + AGAIN_MS;
    if (this.#bestBatched <= SUSPICIOUS_LOSS || this.#worstSingle > this.#bestBatched / 2) return false;
    this.fallbacks++;
    this.#unbatchedUntilMs = nowMs + REST_MS;
    return true;
  }
}
