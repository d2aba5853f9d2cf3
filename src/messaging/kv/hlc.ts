/**
 * Hybrid logical clock (Kulkarni and others, 2014) in 1/1024 ms since 1970: near the wall clock, above everything seen that is not far
 * ahead of it, so that what follows something carries a higher stamp. Source: docs/protocol.md, "Replicated stores".
 */
import { hlcFromWall, MAX_HLC } from "../../mesh/statement.ts";

/** Stamps further in the future than this are refused: one wrong clock must not win over everybody for years. */
export const MAX_AHEAD_MS = 300_000;

/** No stamp seen pushes this clock further ahead: who stamps at the bound must not take others over it. */
export const MAX_FOLLOWED_MS = 240_000;

export class HybridClock {
  #last = 0;

  get last(): number {
    return this.#last;
  }

  /** @returns above every stamp made or followed before */
  tick(wallMs: number): number {
    this.#last = Math.min(MAX_HLC, Math.max(this.#last + 1, hlcFromWall(wallMs)));
    return this.#last;
  }

  /** @param hlc of something that was accepted */
  observe(hlc: number, wallMs: number): void {
    this.#last = Math.max(this.#last, Math.min(hlc, hlcFromWall(wallMs + MAX_FOLLOWED_MS)));
  }
}

/** True when no honest clock gives this stamp at this time. */
export function isAhead(hlc: number, wallMs: number): boolean {
  return hlc > hlcFromWall(wallMs + MAX_AHEAD_MS);
}
