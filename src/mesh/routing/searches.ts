/**
 * Targets that this node looks for, and when it asks next: at once, then after 500 ms doubling to 8 s while the target is wanted and there is no way
 * to it; more rarely, while it is in use, for one in reserve. Bounds: MAX_SEARCHES targets, MAX_ASKED lookups whose
 * answers are awaited (oldest out). A target in use keeps one way in reserve beside a direct path, and two members when there is none.
 */
import { toHex } from "../../base/bytes.ts";

const MAX_SEARCHES = 1024;
const MAX_ASKED = 4096;
/** A target is wanted for that long after it was last asked for. */
const WANTED_MS = 10_000;
const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 8000;
const FIRST_SPARE_MS = 1000;
const MAX_SPARE_MS = 60_000;
/** Attempts of a target that nobody wants are remembered, so that the back-off holds. */
const MEMORY_MS = 30_000;
/** A way that is so old and has not ended the want does not work. */
const TRIAL_MS = 2000;
const ASKED_LIFE_MS = 5000;

export class Search {
  readonly target: Uint8Array;
  readonly hex: string;
  /** Lookups since the last success, and of these in the search for a way in reserve. */
  attempts = 0;
  spareAttempts = 0;
  asked = 0;
  lastAtMs: number = Number.NEGATIVE_INFINITY;
  soughtAtMs: number = Number.NEGATIVE_INFINITY;
  dueMs: number = Number.POSITIVE_INFINITY;
  /** What is due is the search for a way in reserve. */
  isSpare = false;
  /** Data flows to the target: over that way, or directly. */
  isUsed = false;
  usedVia: number | undefined;

  constructor(target: Uint8Array) {
    this.target = Uint8Array.from(target);
    this.hex = toHex(target);
  }

  isWanted(nowMs: number): boolean {
    return nowMs - this.soughtAtMs < WANTED_MS;
  }

  /**
   * Sets dueMs. @param hops members through which there is a way @param newestMs when the newest way came
   * @param jitter in [0, 1)
   */
  plan(nowMs: number, hops: number, newestMs: number, jitter: number): void {
    this.isSpare = false;
    const works = hops > 0 && this.soughtAtMs < newestMs + TRIAL_MS;
    if (this.isWanted(nowMs) && !works) {
      const retryMs = Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.max(0, this.attempts - 1));
      this.dueMs = Math.max(nowMs, this.lastAtMs + retryMs * (1 + 0.1 * jitter));
    } else if (this.isUsed && hops < (this.usedVia === undefined ? 1 : 2)) {
      this.isSpare = true;
      const spareMs = Math.min(MAX_SPARE_MS, FIRST_SPARE_MS * 2 ** this.spareAttempts);
      this.dueMs = Math.max(nowMs, this.lastAtMs + spareMs * (0.9 + 0.2 * jitter));
    } else {
      this.dueMs = Number.POSITIVE_INFINITY;
    }
  }

  /** Something changed that may bring success: the next attempt need not wait for the back-off. */
  hurry(nowMs: number): void {
    this.attempts = Math.min(this.attempts, 1);
    this.spareAttempts = 0;
    if (this.dueMs !== Number.POSITIVE_INFINITY)
      this.dueMs = Math.min(this.dueMs, Math.max(nowMs, this.lastAtMs + FIRST_RETRY_MS));
  }

  isForgotten(nowMs: number): boolean {
    return !this.isUsed && !this.isWanted(nowMs) && nowMs - this.lastAtMs > MEMORY_MS;
  }
}

/** One lookup that went out. */
export interface Asked {
  readonly id: Uint8Array;
  readonly target: Uint8Array;
  /** Neighbour in hex → label by which this node receives from it. */
  readonly labels: Map<string, number>;
  readonly untilMs: number;
}

export class Searches {
  readonly #byTarget = new Map<string, Search>();
  readonly #asked = new Map<string, Asked>();

  get(target: Uint8Array): Search | undefined {
    return this.#byTarget.get(toHex(target));
  }

  all(): IterableIterator<Search> {
    return this.#byTarget.values();
  }

  /** @returns undefined when there are too many that are wanted */
  open(nowMs: number, target: Uint8Array): Search | undefined {
    const known = this.get(target);
    if (known !== undefined) return known;
    if (this.#byTarget.size >= MAX_SEARCHES) {
      for (const search of this.#byTarget.values()) {
        if (search.isUsed || search.isWanted(nowMs)) continue;
        this.#byTarget.delete(search.hex);
        break;
      }
      if (this.#byTarget.size >= MAX_SEARCHES) return undefined;
    }
    const search = new Search(target);
    this.#byTarget.set(search.hex, search);
    return search;
  }

  drop(target: Uint8Array): void {
    this.#byTarget.delete(toHex(target));
  }

  note(nowMs: number, id: Uint8Array, target: Uint8Array): Asked {
    for (const [hex, asked] of this.#asked) {
      if (asked.untilMs > nowMs && this.#asked.size < MAX_ASKED) break;
      this.#asked.delete(hex);
    }
    const asked = { id, target, labels: new Map<string, number>(), untilMs: nowMs + ASKED_LIFE_MS };
    this.#asked.set(toHex(id), asked);
    return asked;
  }

  asked(nowMs: number, id: Uint8Array, hop: Uint8Array): Asked | undefined {
    const asked = this.#asked.get(toHex(id));
    return asked !== undefined && asked.untilMs > nowMs && asked.labels.has(toHex(hop)) ? asked : undefined;
  }

  nextMs(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const search of this.#byTarget.values()) next = Math.min(next, search.dueMs);
    return next;
  }

  /** Drops what nobody wants any more. */
  clean(nowMs: number): void {
    for (const search of this.#byTarget.values()) if (search.isForgotten(nowMs)) this.#byTarget.delete(search.hex);
  }
}
