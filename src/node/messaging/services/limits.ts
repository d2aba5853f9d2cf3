/**
 * What all services for members share: how many at once, and the audit lines that say who did what.
 * Source: docs/protocol.md, "Forwards" and "Limits".
 */
import type { Logger } from "../../../base/log.ts";
import type { Clock } from "../../clock.ts";

/** Places for what runs at once, in all and per key; nothing waits. */
export class Slots {
  readonly #most: number;
  readonly #mostPerKey: number;
  readonly #taken = new Map<string, number>();
  #total = 0;

  constructor(most: number, mostPerKey: number) {
    this.#most = most;
    this.#mostPerKey = mostPerKey;
  }

  get taken(): number {
    return this.#total;
  }

  /** @returns gives the place back (idempotent); undefined when there is none */
  take(key: string): (() => void) | undefined {
    const before = this.#taken.get(key) ?? 0;
    if (this.#total >= this.#most || before >= this.#mostPerKey) return undefined;
    this.#taken.set(key, before + 1);
    this.#total++;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      this.#total--;
      const now = (this.#taken.get(key) as number) - 1;
      if (now === 0) this.#taken.delete(key);
      else this.#taken.set(key, now);
    };
  }
}

const LINES_PER_SECOND = 20;
const BURST_LINES = 100;

/** One line for each use of a service and each refusal. A flood of them is cut short; how many are missing is said in the next line. */
export class Audit {
  readonly #log: Logger;
  readonly #clock: Clock;
  #tokens = BURST_LINES;
  #atMs = 0;
  #missing = 0;

  constructor(log: Logger, clock: Clock) {
    this.#log = log.child("audit");
    this.#clock = clock;
  }

  note(line: string): void {
    const { nowMs } = this.#clock.now();
    this.#tokens = Math.min(BURST_LINES, this.#tokens + ((nowMs - this.#atMs) / 1000) * LINES_PER_SECOND);
    this.#atMs = nowMs;
    if (this.#tokens < 1) {
      this.#missing++;
      return;
    }
    this.#tokens--;
    const missing = this.#missing === 0 ? "" : ` (${this.#missing} lines before this one were left out)`;
    this.#missing = 0;
    this.#log.info(`${line}${missing}`);
  }
}
