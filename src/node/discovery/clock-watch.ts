/**
 * Notices that time did not pass as it should: the wall clock was set, or this process or machine slept. Either way what is known about the
 * outside is old. Sans-I/O.
 */
import type { Now } from "../../base/clock.ts";

/** Clocks that are kept in step are slewed, not set, by less than this. */
const JUMP_MS = 5_000;
const LATE_MS = 15_000;

export class ClockWatch {
  readonly #periodMs: number;
  #last: Now | undefined;

  /** @param periodMs how often tick() is called */
  constructor(periodMs: number) {
    this.#periodMs = periodMs;
  }

  /** @returns what happened since the tick before, one line; undefined = nothing */
  tick(now: Now): string | undefined {
    const last = this.#last;
    this.#last = now;
    if (last === undefined) return undefined;
    const elapsedMs = now.nowMs - last.nowMs;
    // the monotonic clock stands still while the machine sleeps, the wall clock does not
    const jumpMs = now.wallMs - last.wallMs - elapsedMs;
    if (Math.abs(jumpMs) > JUMP_MS) return `the wall clock jumped by ${Math.round(jumpMs / 1000)} s`;
    if (elapsedMs > this.#periodMs + LATE_MS) return `this process stood still for ${Math.round(elapsedMs / 1000)} s`;
    return undefined;
  }
}
