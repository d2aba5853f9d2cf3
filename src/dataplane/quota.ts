/**
 * What one peer may send through this node to others: a bucket of bytes for the peer, whatever the number of its ways, so that many ways carry no
 * more than one. It holds a quarter of a second, at least one full batch. One object per sender, made when its first way is installed and kept until
 * the peer is removed: ending a way and asking for it anew refills nothing. take() allocates nothing. Source: docs/protocol.md, "Vias".
 */
const BURST_S = 0.25;
const BURST_MIN_BYTES = 65_536;

const TOKENS = 0;
const AT_MS = 1;

export class Quota {
  /** 0 = no limit. */
  #bytesPerSecond: number;
  #burstBytes: number;
  /** What every packet changes: an array, because writing a fraction to a field would box it. */
  readonly #state: Float64Array = new Float64Array(2);

  /** Starts full. */
  constructor(nowMs: number, bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#burstBytes = burstBytes(bytesPerSecond);
    this.#state[TOKENS] = this.#burstBytes;
    this.#state[AT_MS] = nowMs;
  }

  /** What was saved up under the rate before stays, as far as the new one allows. */
  setRate(nowMs: number, bytesPerSecond: number): void {
    if (bytesPerSecond === this.#bytesPerSecond) return;
    this.#refill(nowMs);
    this.#bytesPerSecond = bytesPerSecond;
    this.#burstBytes = burstBytes(bytesPerSecond);
    this.#state[TOKENS] = Math.min(this.#state[TOKENS], this.#burstBytes);
  }

  /** HOT. @returns false when so many bytes are more than the peer may send now */
  take(nowMs: number, bytes: number): boolean {
    if (this.#bytesPerSecond === 0) return true;
    this.#refill(nowMs);
    const state = this.#state;
    if (state[TOKENS] < bytes) return false;
    state[TOKENS] -= bytes;
    return true;
  }

  #refill(nowMs: number): void {
    const state = this.#state;
    const elapsedMs = nowMs - state[AT_MS];
    if (elapsedMs <= 0) return;
    const tokens = state[TOKENS] + (elapsedMs * this.#bytesPerSecond) / 1_000;
    state[TOKENS] = tokens > this.#burstBytes ? this.#burstBytes : tokens;
    state[AT_MS] = nowMs;
  }
}

function burstBytes(bytesPerSecond: number): number {
  return Math.max(BURST_MIN_BYTES, bytesPerSecond * BURST_S);
}
