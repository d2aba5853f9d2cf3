/** The real clock and generator, which protocols get as arguments; tests pass their own. */
import { getRandomValues, randomBytes } from "node:crypto";
import type { Now } from "../base/clock.ts";
import type { Random } from "../base/random.ts";

export interface Clock {
  now(): Now;
  /** Calls `action` once at monotonic `atMs`, or as soon after as possible. @returns cancels it */
  schedule(atMs: number, action: () => void): () => void;
}

/** setTimeout counts in 32 bits. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => ({ nowMs: performance.now(), wallMs: Date.now() }),
  schedule(atMs, action) {
    const timer = setTimeout(action, Math.min(LONGEST_TIMER_MS, Math.max(0, Math.ceil(atMs - performance.now()))));
    return () => clearTimeout(timer);
  },
};

const word = new Uint32Array(1);

export const systemRandom: Random = {
  bytes: (length) => new Uint8Array(randomBytes(length)),
  u32: () => getRandomValues(word)[0] as number,
  unit: () => (getRandomValues(word)[0] as number) / 2 ** 32,
};
