/** A clock that only moves when it is told to: what is due runs in order of its time, then of its scheduling. */
import type { Now } from "../../src/base/clock.ts";
import type { Clock } from "../../src/node/clock.ts";

interface Due {
  readonly atMs: number;
  readonly order: number;
  readonly action: () => void;
}

export class VirtualClock implements Clock {
  nowMs = 1000;
  wallOffsetMs = 1_800_000_000_000;
  readonly #due: Due[] = [];
  #order = 0;

  now(): Now {
    return { nowMs: this.nowMs, wallMs: this.wallOffsetMs + this.nowMs };
  }

  schedule(atMs: number, action: () => void): () => void {
    const due: Due = { atMs: Math.max(atMs, this.nowMs), order: this.#order++, action };
    this.#due.push(due);
    return () => {
      const index = this.#due.indexOf(due);
      if (index >= 0) this.#due.splice(index, 1);
    };
  }

  /** Lets `durationMs` pass; promises settled by what runs are followed before the next thing runs. */
  async advance(durationMs: number): Promise<void> {
    const untilMs = this.nowMs + durationMs;
    for (;;) {
      await settle();
      let next: Due | undefined;
      for (const due of this.#due) {
        if (
          due.atMs <= untilMs &&
          (next === undefined || due.atMs < next.atMs || (due.atMs === next.atMs && due.order < next.order))
        )
          next = due;
      }
      if (next === undefined) break;
      this.#due.splice(this.#due.indexOf(next), 1);
      this.nowMs = Math.max(this.nowMs, next.atMs);
      next.action();
    }
    this.nowMs = untilMs;
    await settle();
  }
}

async function settle(): Promise<void> {
  for (let i = 0; i < 8; i++) await Promise.resolve();
}
