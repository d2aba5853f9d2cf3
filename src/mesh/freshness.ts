/**
 * Whether user data may flow, judged by how long ago another member has confirmed this node's roster. A node that was asleep or cut off may
 * have missed a revocation, so it asks before it carries data:
 *
 *   open ── no exchange for 60 s ──► held (everybody connected is asked) ── one member agreed ──► open
 *                                      └── 5 s without an answer ──► the policy's `stale`: allow → open, refuse → refused
 *   refused ── one member agreed ──► open
 *
 * While others are connected a member is asked in time, so that a working network never holds. A node that knows of no other member is open.
 * After the policy has let it go on, only a new exchange starts the count again. Time is monotonic: a jump of the wall clock changes nothing.
 * Source: docs/protocol.md, "Roster" (age).
 */
import type { StaleRule } from "./types.ts";
import { UserDataState } from "./types.ts";

const STALE_MS = 60_000;
const HOLD_MS = 5000;
/** A member is asked this long before the roster counts as stale, and again this often until one has answered. */
const ASK_AHEAD_MS = 12_000;
const ASK_EVERY_MS = 2000;
/** The same while the policy has decided for want of an answer. */
const DECIDED_ASK_MS = 5000;
/** While user data is held everybody is asked, this often. */
const HELD_ASK_MS = 500;

export const Ask = { NONE: 0, ONE: 1, ALL: 2 } as const;
export type Ask = (typeof Ask)[keyof typeof Ask];

export class Freshness {
  state: UserDataState = UserDataState.OPEN;
  holds = 0;
  /** Of the last exchange; undefined: none since start(). */
  #confirmedMs: number | undefined;
  #heldSinceMs = 0;
  /** The policy let user data go on without a confirmation. */
  #isExcused = false;
  #askDueMs: number = Number.POSITIVE_INFINITY;
  #isRunning = false;

  /** This node has a roster from its store and has spoken to nobody yet: it begins by asking. */
  start(nowMs: number, hasOthers: boolean): void {
    this.#isRunning = true;
    this.#confirmedMs = undefined;
    this.#isExcused = false;
    if (hasOthers) this.#hold(nowMs);
  }

  /** A member agreed with the whole roster just now. */
  confirmed(nowMs: number): void {
    this.#isRunning = true;
    this.#confirmedMs = nowMs;
    this.#isExcused = false;
    this.state = UserDataState.OPEN;
    this.#askDueMs = nowMs + STALE_MS - ASK_AHEAD_MS;
  }

  nextTimeout(): number {
    if (!this.#isRunning || (this.#confirmedMs === undefined && this.state === UserDataState.OPEN)) {
      return Number.POSITIVE_INFINITY;
    }
    let next = this.#askDueMs;
    if (this.state === UserDataState.HELD) next = Math.min(next, this.#heldSinceMs + HOLD_MS);
    else if (this.state === UserDataState.OPEN && !this.#isExcused && this.#confirmedMs !== undefined)
      next = Math.min(next, this.#confirmedMs + STALE_MS);
    return next;
  }

  /** @returns whom to ask for a comparison now */
  handleTimeout(nowMs: number, rule: StaleRule, hasOthers: boolean): Ask {
    if (!this.#isRunning) return Ask.NONE;
    if (!hasOthers) {
      this.state = UserDataState.OPEN;
      this.#isExcused = true;
      this.#askDueMs = nowMs + STALE_MS;
      return Ask.NONE;
    }
    const isStale = this.#confirmedMs !== undefined && nowMs - this.#confirmedMs >= STALE_MS;
    if (this.state === UserDataState.OPEN && !this.#isExcused && isStale) this.#hold(nowMs);
    if (this.state === UserDataState.HELD && nowMs - this.#heldSinceMs >= HOLD_MS) {
      this.state = rule === "refuse" ? UserDataState.REFUSED : UserDataState.OPEN;
      this.#isExcused = rule !== "refuse";
    }
    if (nowMs < this.#askDueMs) return Ask.NONE;
    const isAhead = this.state === UserDataState.OPEN && !this.#isExcused;
    const isHeld = this.state === UserDataState.HELD;
    this.#askDueMs = nowMs + (isHeld ? HELD_ASK_MS : isAhead ? ASK_EVERY_MS : DECIDED_ASK_MS);
    return isAhead ? Ask.ONE : Ask.ALL;
  }

  /** The policy was changed. */
  ruleChanged(nowMs: number, rule: StaleRule): void {
    if (this.state === UserDataState.REFUSED && rule === "allow") {
      this.state = UserDataState.OPEN;
      this.#isExcused = true;
    } else if (this.#isExcused && rule === "refuse") {
      this.#isExcused = false;
      this.#hold(nowMs);
    }
  }

  #hold(nowMs: number): void {
    this.state = UserDataState.HELD;
    this.#heldSinceMs = nowMs;
    this.#askDueMs = nowMs;
    this.holds++;
  }
}
