/** Token bucket in virtual time. */
export class TokenBucket {
  readonly #perSecond: number;
  readonly #burst: number;
  #tokens: number;
  #atMs = -1;

  /** Starts full. @param perSecond refill @param burst capacity */
  constructor(perSecond: number, burst: number) {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#tokens = burst;
  }

  /** Takes one token. @param reserve tokens that must remain afterwards, for what matters more @returns false when it may not */
  take(nowMs: number, reserve: number = 0): boolean {
    if (this.#atMs >= 0 && nowMs > this.#atMs) {
      this.#tokens = Math.min(this.#burst, this.#tokens + ((nowMs - this.#atMs) * this.#perSecond) / 1000);
    }
    if (nowMs > this.#atMs) this.#atMs = nowMs;
    if (this.#tokens < 1 + reserve) return false;
    this.#tokens -= 1;
    return true;
  }
}
