/** Telling the others that this node leaves: repeated until one of them confirms, at most ATTEMPTS times. */
import type { Now } from "../base/clock.ts";
import { equal } from "../base/bytes.ts";
import type { ControlMessage } from "./control.ts";
import type { Statement } from "./statement.ts";

const ATTEMPTS = 5;
const RETRY_MS = 1000;

export class Leaving {
  /** Monotonic. */
  dueMs: number;
  readonly #statement: Statement;
  #attemptsLeft: number = ATTEMPTS;

  /** @param statement this node's removal of itself */
  constructor(statement: Statement, now: Now) {
    this.#statement = statement;
    this.dueMs = now.nowMs;
  }

  /** @returns what to tell every connected member; undefined: give up */
  next(now: Now, connected: number): ControlMessage | undefined {
    if (this.#attemptsLeft === 0 || connected === 0) return undefined;
    this.#attemptsLeft--;
    this.dueMs = now.nowMs + RETRY_MS;
    return { type: "leave", wire: this.#statement.wire };
  }

  isConfirmedBy(hash: Uint8Array): boolean {
    return equal(hash, this.#statement.hash);
  }
}
