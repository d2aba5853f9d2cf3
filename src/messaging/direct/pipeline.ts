/**
 * Store operations on their way to the disk: what comes while a commit runs goes into the next one, so that under load each fsync serves
 * many messages and at rest none waits for another. Order is kept: a callback runs when its operations and all before them are decided.
 * Bounds: a commit has MAX_COMMIT_OPS operations and MAX_COMMIT_BYTES, so that none is too big for the store (what was added together stays
 * together, also when it alone is more); the owners bound what waits (messages, numbers of a window, operations of a sender).
 */
import type { StoreOp } from "../store-types.ts";

export const MAX_COMMIT_OPS = 4_096;
const MAX_COMMIT_BYTES = 16 << 20;

export type Decided = (isDurable: boolean) => void;

interface Entry {
  readonly ops: readonly StoreOp[];
  readonly decided: Decided | undefined;
}

export class CommitPipeline {
  #queue: Entry[] = [];
  #opCount = 0;
  #running: Decided[] | undefined;
  /** Nothing is taken. */
  isHeld = false;

  /** @param decided called once, after the commit of which `ops` are part; false when it failed, and nothing of it was applied */
  add(ops: readonly StoreOp[], decided?: Decided): void {
    this.#queue.push({ ops, decided });
    this.#opCount += ops.length;
  }

  /** Calls when everything that was added so far is decided; at once when that is so. */
  after(decided: Decided): void {
    if (this.#opCount > 0) this.#queue.push({ ops: [], decided });
    else if (this.#running === undefined) decided(true);
    else this.#running.push(decided);
  }

  /** What failed goes before everything that came later, so that an old value never follows a new one. */
  putBack(ops: readonly StoreOp[], decided: Decided): void {
    this.#queue.unshift({ ops, decided });
    this.#opCount += ops.length;
  }

  get canTake(): boolean {
    return this.#running === undefined && this.#opCount > 0 && !this.isHeld;
  }

  /** Operations that wait for a commit. */
  get waiting(): number {
    return this.#opCount;
  }

  /** Something waits, or a commit runs. */
  get isBusy(): boolean {
    return this.#opCount > 0 || this.#running !== undefined;
  }

  /** @returns what to commit now; undefined while a commit runs or nothing waits */
  take(): StoreOp[] | undefined {
    if (!this.canTake) return undefined;
    const ops: StoreOp[] = [];
    const running: Decided[] = [];
    let bytes = 0;
    let taken = 0;
    for (const entry of this.#queue) {
      const more = bytesOf(entry.ops);
      const isTooMuch = ops.length + entry.ops.length > MAX_COMMIT_OPS || bytes + more > MAX_COMMIT_BYTES;
      if (isTooMuch && ops.length > 0 && entry.ops.length > 0) break;
      for (const op of entry.ops) ops.push(op);
      if (entry.decided !== undefined) running.push(entry.decided);
      bytes += more;
      taken++;
    }
    this.#queue = this.#queue.slice(taken);
    this.#opCount -= ops.length;
    this.#running = running;
    return ops;
  }

  /** The commit that take() gave is decided. */
  decided(isDurable: boolean): void {
    const running = this.#running;
    this.#running = undefined;
    for (const one of running ?? []) one(isDurable);
  }
}

function bytesOf(ops: readonly StoreOp[]): number {
  let bytes = 0;
  for (const { values } of ops) for (const value of values) if (value instanceof Uint8Array) bytes += value.length;
  return bytes;
}
