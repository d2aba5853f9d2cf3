/** The real clock and timers; tests pass their own. */
import type { Now } from "../base/clock.ts";

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
