/**
 * How many bytes each class may have in QUIC's hands (handed over and not acknowledged), so that long transfers fill the path and no more:
 * what waits above QUIC can be overtaken by a more urgent class, what is inside goes out in turns, and what stands in a queue of the path
 * delays everybody.
 *   classes 0 and 1: 1 MiB each, independent of everybody else
 *   class 2: 2 × rate × (delay + 5 ms), at least 64 KiB; class 3 the same, but a quarter of it (at least 32 KiB) while a more urgent class has bytes waiting
 *   while classes 0 or 1 were used within the last second: rate × (1.25 × delay + 4 ms) for classes 2 and 3 together, half of it reserved
 *   for class 2 when that has bytes, so that at most a few milliseconds of theirs stand before an acknowledgement
 * The rate is the largest of the last eight measurements, each over a delay or 50 ms. The delay is the least time from handing over to
 * acknowledgement of the last 10–20 s; every 10 s the limits are 0.4 of that for a moment, so that a queue of this node's own making drains and
 * is not taken for the path. Source: docs/protocol.md, "Streams"; sans-I/O.
 */
import { STREAM_CLASSES, StreamClass } from "./types.ts";

const URGENT_BYTES = 1 << 20;
const LEAST_BYTES = 64 << 10;
const PRESSED_BYTES = 32 << 10;
/** A dozen datagrams: on a slow path more would be a long queue. */
const URGENT_LEAST_BYTES = 12 << 10;
const LARGEST_BYTES = 8 << 20;
const SAMPLES = 8;
const LEAST_SAMPLE_MS = 50;
/** So long after its last byte an urgent class is still in use. */
const URGENT_MS = 1_000;
const SLACK_MS = 4;
/** Threads of this and the other node work in pieces of milliseconds, whatever the path does. */
const ALONE_SLACK_MS = 5;
const GAIN = 2;
const URGENT_GAIN = 1.25;
const DRAIN_EVERY_MS = 10_000;
/** Less than the path holds, whatever the gain: what stands in a queue drains. */
const DRAIN_SHARE = 0.4;
const MARK_BYTES = 1_200;
const LEAST_DRAIN_MS = 40;
const UNKNOWN_DELAY_MS = 50;

export class ClassBudget {
  /** Bytes per class that were handed over and are not acknowledged. */
  readonly inFlight: Float64Array = new Float64Array(STREAM_CLASSES);
  readonly #samples = new Float64Array(SAMPLES);
  #sample = 0;
  #sampleStartMs: number;
  #ackedBytes = 0;
  /** Of the path, as probes see it; 0 = unknown. */
  #rttMs = 0;
  /** Least delay of this window and of the one before. */
  #delayMs = Infinity;
  #delayBeforeMs = Infinity;
  #windowEndsMs: number;
  #drainUntilMs = 0;
  /** All bytes so far; the mark is a point in them whose acknowledgement is being timed. */
  #writtenTotal = 0;
  #ackedTotal = 0;
  #markAt = -1;
  #markMs = 0;
  #urgentUntilMs = -1;
  #bulkMs = -Infinity;
  #pubsubMs = -Infinity;

  constructor(nowMs: number) {
    this.#sampleStartMs = nowMs;
    this.#windowEndsMs = nowMs + DRAIN_EVERY_MS;
  }

  /** @param rttMs of the path; 0 or less = unknown */
  setRtt(rttMs: number): void {
    if (rttMs > 0) this.#rttMs = rttMs;
  }

  /** From handing over to acknowledgement when nothing waits; of the path while nothing was measured. */
  get delayMs(): number {
    const least = Math.min(this.#delayMs, this.#delayBeforeMs);
    if (least < Infinity) return least;
    return this.#rttMs > 0 ? this.#rttMs : UNKNOWN_DELAY_MS;
  }

  noteWritten(nowMs: number, streamClass: StreamClass, bytes: number): void {
    this.inFlight[streamClass] += bytes;
    const startAt = this.#writtenTotal;
    this.#writtenTotal += bytes;
    if (streamClass < StreamClass.PUBSUB) this.#urgentUntilMs = nowMs + URGENT_MS;
    else if (streamClass === StreamClass.PUBSUB) this.#pubsubMs = nowMs;
    else this.#bulkMs = nowMs;
    if (this.#markAt >= 0) return;
    // the first of a long write: the rest of it waits for itself
    this.#markAt = startAt + Math.min(bytes, MARK_BYTES);
    this.#markMs = nowMs;
  }

  noteAcknowledged(nowMs: number, streamClass: StreamClass, bytes: number): void {
    if (bytes <= 0) return;
    this.inFlight[streamClass] = Math.max(0, this.inFlight[streamClass] - bytes);
    this.#ackedBytes += bytes;
    this.#ackedTotal += bytes;
    if (this.#markAt >= 0 && this.#ackedTotal >= this.#markAt) {
      this.#markAt = -1;
      this.#delayMs = Math.min(this.#delayMs, Math.max(0.1, nowMs - this.#markMs));
    }
    const elapsedMs = nowMs - this.#sampleStartMs;
    if (elapsedMs < Math.max(LEAST_SAMPLE_MS, this.delayMs)) return;
    // a pause is no measurement of the path
    const isPause = elapsedMs > 4 * Math.max(LEAST_SAMPLE_MS, this.delayMs);
    if (!isPause) {
      this.#samples[this.#sample] = this.#ackedBytes / elapsedMs;
      this.#sample = (this.#sample + 1) % SAMPLES;
    }
    this.#sampleStartMs = nowMs;
    this.#ackedBytes = 0;
  }

  /** Bytes this class may hand over now. @param isPressed a more urgent class has bytes that it could not hand over */
  room(nowMs: number, streamClass: StreamClass, isPressed: boolean): number {
    if (streamClass < StreamClass.PUBSUB) return Math.max(0, URGENT_BYTES - this.inFlight[streamClass]);
    this.#turnWindow(nowMs);
    const own = this.inFlight[streamClass];
    let limit = this.#limit(nowMs);
    if (nowMs < this.#drainUntilMs) limit = Math.max(URGENT_LEAST_BYTES, limit * DRAIN_SHARE);
    if (streamClass === StreamClass.BULK && isPressed) limit = Math.max(PRESSED_BYTES, limit / 4);
    if (nowMs >= this.#urgentUntilMs) return Math.max(0, limit - own);
    // together; each has half when both are there
    const other = streamClass === StreamClass.BULK ? StreamClass.PUBSUB : StreamClass.BULK;
    const isOtherThere = nowMs - (other === StreamClass.BULK ? this.#bulkMs : this.#pubsubMs) < URGENT_MS;
    const share = isOtherThere ? limit / 2 : limit;
    return Math.max(0, share - own);
  }

  #limit(nowMs: number): number {
    let rate = 0;
    for (let i = 0; i < SAMPLES; i++) rate = Math.max(rate, this.#samples[i]);
    const { delayMs } = this;
    if (nowMs < this.#urgentUntilMs) {
      const least = rate > 0 ? URGENT_LEAST_BYTES : PRESSED_BYTES;
      return Math.min(LARGEST_BYTES, Math.max(least, rate * (URGENT_GAIN * delayMs + SLACK_MS)));
    }
    return Math.min(LARGEST_BYTES, Math.max(LEAST_BYTES, GAIN * rate * (delayMs + ALONE_SLACK_MS)));
  }

  #turnWindow(nowMs: number): void {
    if (nowMs < this.#windowEndsMs) return;
    const hasMeasured = this.#delayMs < Infinity;
    this.#delayBeforeMs = hasMeasured ? this.#delayMs : this.#delayBeforeMs;
    this.#delayMs = Infinity;
    this.#windowEndsMs = nowMs + DRAIN_EVERY_MS;
    this.#drainUntilMs = nowMs + Math.max(LEAST_DRAIN_MS, 2 * this.delayMs);
    // the mark that is under way still stands in the queue
    this.#markAt = -1;
  }
}
