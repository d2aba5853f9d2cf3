/**
 * When things happen in a session: rekey, resend, retry, give up. Source: docs/protocol.md, "Epochs, rekey, replay".
 * Pure functions and one table of times, so that tests and the simulator can use others.
 */
import type { Random } from "../base/random.ts";

export interface SessionTimes {
  /** The initiator rekeys this old an epoch, ± rekeyJitter. @default 120_000 */
  readonly rekeyMs: number;
  /** Share of rekeyMs. @default 0.1 */
  readonly rekeyJitter: number;
  /**
   * The keys of a session's first handshake are rekeyed at an age from this share of rekeyMs up: sessions that began together, as after a failure of
   * the power, do not rekey together. @default 0.3
   */
  readonly firstRekey: number;
  /** The responder rekeys this old an epoch itself when data flows. @default 135_000 */
  readonly takeOverMs: number;
  /** Age at which an epoch is destroyed. @default 270_000 */
  readonly maxAgeMs: number;
  /** How long a replaced epoch stays open for receiving. @default 10_000 */
  readonly overlapMs: number;
  /** First wait before a retained message is resent; doubles. @default 250 */
  readonly resendMs: number;
  /** Resends of one retained message. @default 5 */
  readonly resends: number;
  /** First wait for an answer to an init; grows by retryFactor, ± retryJitter. @default 1_000 */
  readonly retryMs: number;
  /** @default 1.5 */
  readonly retryFactor: number;
  /** Share of the wait. @default 0.1 */
  readonly retryJitter: number;
  /** After this long without a session the attempt is given up and reported. @default 90_000 */
  readonly giveUpMs: number;
  /** An init is resent as it is for this long, then a fresh one takes its place. @default 5_000 */
  readonly initLifeMs: number;
  /** The responder forgets a handshake whose initiator proved nothing for this long. @default 10_000 */
  readonly unprovenMs: number;
  /** The same for joins, whose keys are in no roster yet. @default 5_000 */
  readonly joinMs: number;
  /** How long a cookie is used. @default 120_000 */
  readonly cookieMs: number;
  /** connect() and rekey() wait this long for a handshake that the peer just began. @default 2_000 */
  readonly yieldMs: number;
  /** After giving up a rekey while the old epoch still lives. @default 30_000 */
  readonly rekeyAgainMs: number;
}

export const DEFAULT_TIMES: SessionTimes = Object.freeze({
  rekeyMs: 120_000,
  rekeyJitter: 0.1,
  firstRekey: 0.3,
  takeOverMs: 135_000,
  maxAgeMs: 270_000,
  overlapMs: 10_000,
  resendMs: 250,
  resends: 5,
  retryMs: 1000,
  retryFactor: 1.5,
  retryJitter: 0.1,
  giveUpMs: 90_000,
  initLifeMs: 5000,
  unprovenMs: 10_000,
  joinMs: 5000,
  cookieMs: 120_000,
  yieldMs: 2000,
  rekeyAgainMs: 30_000,
});

/** `value` ± `share` of it. */
export function jittered(value: number, share: number, random: Random): number {
  return value * (1 + share * (2 * random.unit() - 1));
}

/**
 * Age at which this side rekeys an epoch. The responder waits longer, so that the initiator normally comes first.
 * @param isFirst no rekey of the session came before
 */
export function rekeyAgeMs(initiator: boolean, isFirst: boolean, times: SessionTimes, random: Random): number {
  if (!initiator) return times.takeOverMs;
  const { rekeyMs, rekeyJitter, firstRekey } = times;
  if (!isFirst) return jittered(rekeyMs, rekeyJitter, random);
  return rekeyMs * (firstRekey + (1 + rekeyJitter - firstRekey) * random.unit());
}

/** One retained message: resent at 250, 750, 1,750 … ms until proof, then judged to have failed after one more second. */
export class Resend {
  dueMs: number = Infinity;
  #waitMs = 0;
  #left = 0;

  start(nowMs: number, times: SessionTimes, resends: number = times.resends): void {
    this.#waitMs = times.resendMs;
    this.#left = resends;
    this.dueMs = nowMs + this.#waitMs;
  }

  stop(): void {
    this.dueMs = Infinity;
    this.#left = 0;
  }

  /** Call when due. @returns "send" to send again, "spent" when that was already done as often as allowed */
  fire(nowMs: number, times: SessionTimes): "send" | "spent" {
    if (this.#left === 0) {
      this.dueMs = Infinity;
      return "spent";
    }
    this.#left--;
    this.#waitMs *= 2;
    this.dueMs = nowMs + (this.#left > 0 ? this.#waitMs : times.retryMs);
    return "send";
  }
}
