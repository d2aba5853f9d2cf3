/**
 * How many datagrams may leave in one burst to one peer, and whether bursts do harm there.
 *
 * One burst is at most 1 ms at the path's measured rate, 1–64 segments: unpaced bursts of 64 have cost other systems two thirds of
 * their throughput on slow links. Some kernels and middle boxes lose or corrupt batches as such: when a path loses more than 3 %, the next
 * two seconds go out unbatched, and if that at least halves the loss, it stays so for a minute.
 * Source: docs/protocol.md "UDP".
 */

export const MAX_BURST_SEGMENTS = 64;
const MIN_BURST_SEGMENTS = 2;
const BURST_MS = 1;
/** Measured delivery may be the application's rate and not the path's: leave room to grow. */
const HEADROOM = 1.25;
const SUSPICIOUS_LOSS = 0.03;
const TRIAL_MS = 2_000;
const REST_MS = 60_000;
const AGAIN_MS = 120_000;

export class BurstControl {
  /** Segments per send now. */
  segments: number = MAX_BURST_SEGMENTS;
  /** Times that batches turned out to do worse. */
  fallbacks = 0;
  #trialEndsMs = -1;
  #baselineLoss = 0;
  #unbatchedUntilMs = -1;
  #nextTrialMs = 0;

  /**
   * @param rateBps measured delivery rate, 0 = unknown @param datagramBytes of a full segment
   * @param lossRatio of the path, 0–1
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
    this.segments = this.#batchesDoHarm(nowMs, lossRatio, byRate) ? 1 : byRate;
    return this.segments;
  }

  #batchesDoHarm(nowMs: number, lossRatio: number, byRate: number): boolean {
    if (nowMs < this.#unbatchedUntilMs) return true;
    if (this.#trialEndsMs < 0) {
      if (lossRatio <= SUSPICIOUS_LOSS || byRate === 1 || nowMs < this.#nextTrialMs) return false;
      this.#trialEndsMs = nowMs + TRIAL_MS;
      this.#baselineLoss = lossRatio;
      return true;
    }
    if (nowMs < this.#trialEndsMs) return true;
    this.#trialEndsMs = -1;
    this.#nextTrialMs = nowMs + AGAIN_MS;
    if (lossRatio > this.#baselineLoss / 2) return false;
    this.fallbacks++;
    this.#unbatchedUntilMs = nowMs + REST_MS;
    return true;
  }
}
