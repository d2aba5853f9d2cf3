/**
 * Hybrid logical clock (Kulkarni and others, 2014) in 1/1024 ms since 1970: near the wall clock, above everything seen, so that what
 * follows something carries a higher stamp. Source: docs/protocol.md, "Replicated stores".
 */
import { hlcFromWall, MAX_HLC } from "../../mesh/statement.ts";

/** Stamps further in the future than this are refused: one wrong clock must not win over everybody for years. */
export const MAX_AHEAD_MS = 300_000;

export class HybridClock {
  #last = 0;

  get last(): number {
    return this.#last;
  }

  /** @returns above every stamp made or seen before */
  tick(wallMs: number): number {
    this.#last = Math.min(MAX_HLC, Math.max(this.#last + 1, hlcFromWall(wallMs)));
    return this.#last;
  }

  /** @param hlc of something that was accepted: at most MAX_AHEAD_MS ahead */
  observe(hlc: number): void {
    if (hlc > this.#last) this.#last = hlc;
  }
}

/** True when no honest clock gives this stamp at this time. */
export function isAhead(hlc: number, wallMs: number): boolean {
  return hlc > hlcFromWall(wallMs + MAX_AHEAD_MS);
}
