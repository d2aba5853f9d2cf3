/**
 * Anti-replay window over 64-bit counters (the sliding bitmap of RFC 4303 section 3.4.3 as a ring, as in RFC 6479): check() before the
 * packet is opened, mark() after it authenticated. No allocation except in resize(), no BigInt: a counter is two u32.
 * Window of exactly `counters` numbers; a counter at or above 2^53 is refused (no epoch lives that long).
 */
import { Drop } from "../base/drop.ts";

export const REPLAY_MIN_COUNTERS = 8192;
export const REPLAY_MAX_COUNTERS = 131072;

const HIGH_LIMIT = 0x200000;

export class ReplayWindow {
  #bits: Uint32Array;
  /** counters − 1; counters is a power of two */
  #mask: number;
  /** Highest marked counter; −1 before the first. */
  #top = -1;

  /** @param counters rounded up to a power of two within 8,192 … 131,072 */
  constructor(counters: number = REPLAY_MIN_COUNTERS) {
    const size = clampSize(counters);
    this.#bits = new Uint32Array(size >>> 5);
    this.#mask = size - 1;
  }

  get counters(): number {
    return this.#mask + 1;
  }

  /** Highest authenticated counter, −1 when there is none. */
  get highest(): number {
    return this.#top;
  }

  /** HOT. @returns Drop.NONE, Drop.REPLAY or Drop.OLD */
  check(low: number, high: number): number {
    if (high >= HIGH_LIMIT) return Drop.OLD;
    const counter = high * 4294967296 + low;
    const behind = this.#top - counter;
    if (behind < 0) return Drop.NONE;
    if (behind > this.#mask) return Drop.OLD;
    const at = low & this.#mask;
    return (this.#bits[at >>> 5] >>> (at & 31)) & 1 ? Drop.REPLAY : Drop.NONE;
  }

  /** HOT. Only for a counter that check() just let pass and whose packet authenticated. */
  mark(low: number, high: number): void {
    const counter = high * 4294967296 + low;
    const at = low & this.#mask;
    const ahead = counter - this.#top;
    if (ahead > 0) {
      if (ahead > this.#mask) this.#bits.fill(0);
      else if (ahead > 1) this.#clear((at - ahead + 1) & this.#mask, ahead);
      else this.#bits[at >>> 5] = this.#bits[at >>> 5] & ~(1 << (at & 31));
      this.#top = counter;
    }
    this.#bits[at >>> 5] = this.#bits[at >>> 5] | (1 << (at & 31));
  }

  /** Clears `count` (1 … counters − 1) bits of the ring from `from`. */
  #clear(from: number, count: number): void {
    let at = from;
    let left = count;
    while (left > 0) {
      const bit = at & 31;
      const run = Math.min(32 - bit, left);
      const ones = run === 32 ? 0xffffffff : ((1 << run) - 1) << bit;
      this.#bits[at >>> 5] = this.#bits[at >>> 5] & ~ones;
      at = (at + run) & this.#mask;
      left -= run;
    }
  }

  /**
   * Another size; may allocate, so not per packet. What the smaller window had already let go counts as seen afterwards:
   * growing must not open the door to old packets.
   */
  resize(counters: number): void {
    const size = clampSize(counters);
    const oldSize = this.counters;
    if (size === oldSize) return;
    const grown = new ReplayWindow(size);
    grown.#bits.fill(0xffffffff);
    if (this.#top < 0) {
      grown.#bits.fill(0);
    } else {
      const kept = Math.min(size, oldSize, this.#top + 1);
      const first = this.#top - kept + 1;
      for (let i = 0; i < kept; i++) {
        const from = (first + i) % oldSize;
        if (((this.#bits[from >>> 5] >>> (from & 31)) & 1) === 1) continue;
        const to = (first + i) % size;
        grown.#bits[to >>> 5] = grown.#bits[to >>> 5] & ~(1 << (to & 31));
      }
    }
    this.#bits = grown.#bits;
    this.#mask = grown.#mask;
  }

  /** As new, for reuse under another key. */
  reset(): void {
    this.#bits.fill(0);
    this.#top = -1;
  }
}

function clampSize(counters: number): number {
  let size = REPLAY_MIN_COUNTERS;
  while (size < counters && size < REPLAY_MAX_COUNTERS) size *= 2;
  return size;
}
