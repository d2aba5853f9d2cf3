/**
 * Store operations on their way to the disk: what comes while a commit runs goes into the next one, so that under load each fsync serves
 * many messages and at rest none waits for another. Order is kept: a callback runs when its operations and all before them are decided.
 * Bound: the owners bound what they put in (messages, numbers of a window).
 */
import type { StoreOp } from "../store-types.ts";

export type Decided = (isDurable: boolean) => void;

export class CommitPipeline {
  #ops: StoreOp[] = [];
  #waiting: Decided[] = [];
  #running: Decided[] | undefined;
  /** Nothing is taken. */
  isHeld = false;

  /** @param decided called once, after the commit of which `ops` are part; false when it failed, and nothing of it was applied */
  add(ops: readonly StoreOp[], decided?: Decided): void {
    for (const op of ops) this.#ops.push(op);
    if (decided !== undefined) this.#waiting.push(decided);
  }

  /** Calls when everything that was added so far is decided; at once when that is so. */
  after(decided: Decided): void {
    if (this.#ops.length > 0) this.#waiting.push(decided);
    else if (this.#running === undefined) decided(true);
    else this.#running.push(decided);
  }

  /** What failed goes before everything that came later, so that an old value never follows a new one. */
  putBack(ops: readonly StoreOp[], decided: Decided): void {
    this.#ops = [...ops, ...this.#ops];
    this.#waiting.unshift(decided);
  }

  get canTake(): boolean {
    return this.#running === undefined && this.#ops.length > 0 && !this.isHeld;
  }

  /** @returns what to commit now; undefined while a commit runs or nothing waits */
  take(): StoreOp[] | undefined {
    if (!this.canTake) return undefined;
    const ops = this.#ops;
    this.#running = this.#waiting;
    this.#ops = [];
    this.#waiting = [];
    return ops;
  }

  /** The commit that take() gave is decided. */
  decided(isDurable: boolean): void {
    const running = this.#running;
    this.#running = undefined;
    for (const one of running ?? []) one(isDurable);
  }
}
