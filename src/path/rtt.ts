/**
 * Round-trip time of one path: smoothed mean and variation (RFC 6298 §2 gains), 95th percentile of the last 64 samples, and the
 * least value of the last 5–10 minutes, which is the path without the queue our own traffic builds in it.
 */

const GAIN = 1 / 8;
const VARIATION_GAIN = 1 / 4;
const RING = 64;
/** Long, because a transfer of minutes must not make its own queue look like the path. */
const BASELINE_WINDOW_MS = 300_000;
/** A longer "round trip" is a broken clock or a lie. */
const MAX_SAMPLE_MS = 60_000;

/** Reused by every percentile: figures are read from one thread. */
const sorted: Float64Array = new Float64Array(RING);

export class RttEstimator {
  /** Smoothed, ms; −1 before the first sample. */
  smoothedMs = -1;
  /** Mean deviation (jitter), ms. */
  variationMs = 0;
  /** Samples taken since reset(). */
  samples = 0;
  #baselineMs = Infinity;
  #olderBaselineMs = Infinity;
  #windowStartMs = 0;
  readonly #ring: Float64Array = new Float64Array(RING);

  reset(): void {
    this.smoothedMs = -1;
    this.variationMs = 0;
    this.samples = 0;
    this.forgetBaseline();
  }

  /** The way may have changed (addresses, interface): older minima say nothing any more. */
  forgetBaseline(): void {
    this.#baselineMs = Infinity;
    this.#olderBaselineMs = Infinity;
  }

  /** @param sampleMs ignored unless within 0–60 s */
  add(nowMs: number, sampleMs: number): void {
    if (!(sampleMs >= 0 && sampleMs <= MAX_SAMPLE_MS)) return;
    if (this.samples === 0) {
      this.smoothedMs = sampleMs;
      this.variationMs = sampleMs / 2;
      this.#windowStartMs = nowMs;
    } else {
      this.variationMs += VARIATION_GAIN * (Math.abs(this.smoothedMs - sampleMs) - this.variationMs);
      this.smoothedMs += GAIN * (sampleMs - this.smoothedMs);
    }
    this.#ring[this.samples % RING] = sampleMs;
    this.samples++;
    if (nowMs - this.#windowStartMs >= BASELINE_WINDOW_MS) {
      this.#windowStartMs = nowMs;
      this.#olderBaselineMs = this.#baselineMs;
      this.#baselineMs = sampleMs;
    } else if (sampleMs < this.#baselineMs) {
      this.#baselineMs = sampleMs;
    }
  }

  /** Least sample of the last 5–10 minutes, ms; the smoothed value when there is none, −1 without samples. */
  get baselineMs(): number {
    const least = this.#baselineMs < this.#olderBaselineMs ? this.#baselineMs : this.#olderBaselineMs;
    return least === Infinity ? this.smoothedMs : least;
  }

  /** 95th percentile (nearest rank) of the last 64 samples, ms; −1 without samples. Not for the packet path. */
  get p95Ms(): number {
    const count = Math.min(this.samples, RING);
    if (count === 0) return -1;
    const window = sorted.subarray(0, count);
    window.set(this.#ring.subarray(0, count));
    window.sort();
    return window[Math.ceil(count * 0.95) - 1];
  }
}
