/**
 * A token bucket per sender, so that one member cannot use up another's share. Bound: `maxSenders` buckets; at the bound the one used least recently goes,
 * which can only have been full or nearly so.
 */
interface Bucket {
  tokens: number;
  atMs: number;
}

export class SenderRates {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #maxSenders: number;
  /** In order of use, the latest last. */
  readonly #buckets = new Map<string, Bucket>();

  /** @param maxSenders @default 4096 */
  constructor(perSecond: number, burst: number, maxSenders = 4096) {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#maxSenders = maxSenders;
  }

  /** @returns false when the sender is above its rate: drop and count */
  take(nowMs: number, sender: string): boolean {
    let bucket = this.#buckets.get(sender);
    if (bucket === undefined) bucket = { tokens: this.#burst, atMs: nowMs };
    else this.#buckets.delete(sender);
    this.#buckets.set(sender, bucket);
    if (this.#buckets.size > this.#maxSenders) {
      for (const oldest of this.#buckets.keys()) {
        this.#buckets.delete(oldest);
        break;
      }
    }
    const elapsedMs = Math.max(0, nowMs - bucket.atMs);
    bucket.tokens = Math.min(this.#burst, bucket.tokens + (elapsedMs / 1000) * this.#perSecond);
    bucket.atMs = nowMs;
    if (bucket.tokens < 1) return false;
    bucket.tokens--;
    return true;
  }
}
