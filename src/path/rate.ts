/**
 * Delivery rate of one path: what the peer reports to have received per time on its own clock, the maximum over the last 2 s. It bounds
 * bursts (1 ms at this rate), so a sender that has little to send must not look like a slow path at once: the maximum forgets slowly,
 * and while nothing is reported the last value stands.
 */

const BUCKETS = 4;
const BUCKET_MS = 500;
/** Shorter spans measure the receiver's batching, longer ones its idleness. */
const MIN_SPAN_US = 5_000;
const MAX_SPAN_US = 1_000_000;

export class RateEstimator {
  /** Bits per second; 0 before anything was measured. */
  bps = 0;
  readonly #peaks: Float64Array = new Float64Array(BUCKETS);
  #bucket = 0;
  #bytes = -1;
  #timestampUs = 0;

  reset(): void {
    this.bps = 0;
    this.#peaks.fill(0);
    this.restart();
  }

  /** The peer counts from elsewhere now (it restarted): take the next report as the beginning. */
  restart(): void {
    this.#bytes = -1;
  }

  /** @param totalBytes received by the peer since the path began @param timestampUs the peer's clock, u32 that wraps */
  add(nowMs: number, totalBytes: number, timestampUs: number): void {
    const spanUs = (timestampUs - this.#timestampUs) >>> 0;
    if (this.#bytes >= 0 && spanUs < MIN_SPAN_US) return;
    const bytes = totalBytes - this.#bytes;
    const usable = this.#bytes >= 0 && spanUs <= MAX_SPAN_US && bytes > 0;
    this.#bytes = totalBytes;
    this.#timestampUs = timestampUs;
    if (!usable) return;
    const bps = (bytes * 8_000_000) / spanUs;
    const bucket = Math.floor(nowMs / BUCKET_MS);
    const skipped = Math.min(BUCKETS, bucket - this.#bucket);
    for (let i = 0; i < skipped; i++) this.#peaks[(bucket - i) % BUCKETS] = 0;
    if (skipped > 0) this.#bucket = bucket;
    const at = bucket % BUCKETS;
    if (bps > this.#peaks[at]) this.#peaks[at] = bps;
    let peak = 0;
    for (let i = 0; i < BUCKETS; i++) if (this.#peaks[i] > peak) peak = this.#peaks[i]!;
    this.bps = peak;
  }
}
