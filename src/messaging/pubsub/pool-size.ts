/**
 * How many threads check signatures, by what the work shows: quick up, slow down, with hysteresis between. 0 threads: checked at once by
 * whoever receives. Nobody has to set anything.
 */
const UP_GAP_MS = 250;
const DOWN_GAP_MS = 30_000;
/** Checks that wait, per thread, from which on one more helps. */
const BUSY_BACKLOG = 32;
const BUSY_DISPATCH_MS = 20;
/** Checks per second that one thread, or the receiver, does with ease. */
const EASY_RATE = 500;

export interface PoolFigures {
  /** Checks that wait or are under way. */
  readonly backlog: number;
  /** Checks in the last interval, per second. */
  readonly ratePerSecond: number;
  /** p95 between dispatch and verdict. */
  readonly dispatchMs: number;
  /** Checks that took longer than allowed since the last call. */
  readonly timeouts: number;
}

export class PoolSize {
  readonly #max: number;
  #size = 0;
  #changedMs: number = Number.NEGATIVE_INFINITY;
  #quietSinceMs: number | undefined;

  /** @param max threads, at least 1 */
  constructor(max: number) {
    this.#max = max;
  }

  get size(): number {
    return this.#size;
  }

  /** @returns the size to have from now on */
  update(nowMs: number, figures: PoolFigures): number {
    const threads = Math.max(1, this.#size);
    const isBusy =
      figures.backlog > BUSY_BACKLOG * threads ||
      (this.#size > 0 && figures.dispatchMs > BUSY_DISPATCH_MS) ||
      figures.timeouts > 0 ||
      figures.ratePerSecond > 2 * EASY_RATE * threads;
    if (isBusy) {
      this.#quietSinceMs = undefined;
      if (this.#size < this.#max && nowMs - this.#changedMs >= UP_GAP_MS) this.#set(nowMs, this.#size + 1);
      return this.#size;
    }
    const isQuiet = figures.backlog <= BUSY_BACKLOG / 4 && figures.ratePerSecond < EASY_RATE * (threads - 0.5);
    if (!isQuiet || this.#size === 0) {
      this.#quietSinceMs = undefined;
      return this.#size;
    }
    this.#quietSinceMs ??= nowMs;
    if (nowMs - this.#quietSinceMs >= DOWN_GAP_MS) {
      this.#quietSinceMs = nowMs;
      this.#set(nowMs, this.#size - 1);
    }
    return this.#size;
  }

  #set(nowMs: number, size: number): void {
    this.#size = size;
    this.#changedMs = nowMs;
  }
}
