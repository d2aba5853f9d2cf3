/**
 * How many bytes each class may have in QUIC's hands (handed over and not acknowledged), so that long transfers fill the path and no more:
 * what waits above QUIC can be overtaken by a more urgent class, what is inside goes out in turns.
 *   classes 0 and 1: 1 MiB each, independent of everybody else
 *   class 2: max(64 KiB, 2 × rate × RTT); class 3 the same, but a quarter of it (at least 32 KiB) while a more urgent class has bytes waiting
 * The rate is the largest of the last eight measurements, each over an RTT or 50 ms. Source: docs/protocol.md, "Streams"; sans-I/O.
 */
import { STREAM_CLASSES, StreamClass } from "./types.ts";

const URGENT_BYTES = 1 << 20;
const LEAST_BYTES = 64 << 10;
const PRESSED_BYTES = 32 << 10;
const LARGEST_BYTES = 8 << 20;
const SAMPLES = 8;
const LEAST_SAMPLE_MS = 50;

export class ClassBudget {
  /** Bytes per class that were handed over and are not acknowledged. */
  readonly inFlight: Float64Array = new Float64Array(STREAM_CLASSES);
  readonly #samples = new Float64Array(SAMPLES);
  #sample = 0;
  #sampleStartMs: number;
  #ackedBytes = 0;
  #rttMs = 50;

  constructor(nowMs: number) {
    this.#sampleStartMs = nowMs;
  }

  /** @param rttMs of the path; 0 or less = unknown */
  setRtt(rttMs: number): void {
    if (rttMs > 0) this.#rttMs = rttMs;
  }

  noteWritten(streamClass: StreamClass, bytes: number): void {
    this.inFlight[streamClass] += bytes;
  }

  noteAcknowledged(nowMs: number, streamClass: StreamClass, bytes: number): void {
    this.inFlight[streamClass] = Math.max(0, this.inFlight[streamClass] - bytes);
    this.#ackedBytes += bytes;
    const elapsedMs = nowMs - this.#sampleStartMs;
    if (elapsedMs < Math.max(LEAST_SAMPLE_MS, this.#rttMs)) return;
    this.#samples[this.#sample] = this.#ackedBytes / elapsedMs;
    this.#sample = (this.#sample + 1) % SAMPLES;
    this.#sampleStartMs = nowMs;
    this.#ackedBytes = 0;
  }

  /** Bytes this class may hand over now. @param isPressed a more urgent class has bytes that it could not hand over */
  room(streamClass: StreamClass, isPressed: boolean): number {
    return Math.max(0, this.#limit(streamClass, isPressed) - this.inFlight[streamClass]);
  }

  #limit(streamClass: StreamClass, isPressed: boolean): number {
    if (streamClass < StreamClass.PUBSUB) return URGENT_BYTES;
    let rate = 0;
    for (let i = 0; i < SAMPLES; i++) rate = Math.max(rate, this.#samples[i]);
    const whole = Math.min(LARGEST_BYTES, Math.max(LEAST_BYTES, 2 * rate * this.#rttMs));
    return streamClass === StreamClass.BULK && isPressed ? Math.max(PRESSED_BYTES, whole / 4) : whole;
  }
}
