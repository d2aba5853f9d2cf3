/**
 * Rows of messages without an outcome, so that the next run of this node goes on with them. What was not answered soon gets one; bodies are
 * sealed. Outcomes that were told late stay for a day. Bound: MAX_ROWS. Source: docs/protocol.md, "Outbox".
 */
import type { Now } from "../../base/clock.ts";
import type { DirectCore } from "./core.ts";
import { type Outgoing, RowState } from "./lane.ts";
import type { Outcome, Reason, SendResult } from "./types.ts";

const MAX_ROWS = 65_536;

/** A row of the outbox as it was found on disk. */
export interface StoredOutgoing {
  readonly id: string;
  readonly peer: Uint8Array;
  readonly incarnation: number;
  readonly number: number;
  /** 0: being delivered, 1: being asked for, 2: resolved */
  readonly state: number;
  readonly createdWallMs: number;
  readonly expiresWallMs: number;
  readonly attempts: number;
  readonly outcome: string | null;
  readonly reason: string | null;
  readonly sealed: Uint8Array | null;
}

export class Outbox {
  readonly #core: DirectCore;
  #rows = 0;

  constructor(core: DirectCore) {
    this.#core = core;
  }

  get rows(): number {
    return this.#rows;
  }

  /** There was one on disk. */
  loaded(): void {
    this.#rows++;
  }

  /** @param decided called once, at once when there is no room */
  insert(now: Now, outgoing: Outgoing, decided: (isWritten: boolean) => void): void {
    if (this.#rows >= MAX_ROWS) return decided(false);
    this.#rows++;
    outgoing.row = RowState.WRITING;
    const { id, lane, incarnation, number, isClosing, createdWallMs, attempts, body } = outgoing;
    const state = isClosing ? 1 : 0;
    const expiresWallMs = Math.floor(now.wallMs + outgoing.expiresAtMs - now.nowMs);
    const sealed = body === undefined ? null : this.#core.deps.seal(id, body);
    const times = [Math.floor(createdWallMs), expiresWallMs];
    const values = [id, lane.peer, incarnation, number, state, ...times, attempts, sealed];
    this.#core.own.add([{ name: "direct.outbox.insert", values }], (isDurable) => {
      if (!isDurable && !outgoing.isResolved) this.#rows--;
      decided(isDurable);
    });
  }

  /** Its body is not needed any more. */
  close({ id, row }: Outgoing): void {
    if (row !== RowState.NONE) this.#core.write([{ name: "direct.outbox.close", values: [id] }]);
  }

  /** It has an outcome; that stays when the caller was told before that nobody knows. @param done called when it is on disk */
  settle(
    wallMs: number,
    { id, isTold, row }: Outgoing,
    outcome: Outcome,
    reason: Reason | undefined,
    done: () => void,
  ): void {
    if (row === RowState.NONE) return done();
    const op = isTold
      ? { name: "direct.outbox.settle", values: [outcome, reason ?? null, Math.floor(wallMs), id] }
      : { name: "direct.outbox.delete", values: [id] };
    this.#core.write([op], () => {
      this.#rows--;
      done();
    });
  }
}

/** An outcome as it was kept. */
export function storedResult(row: StoredOutgoing): SendResult {
  return {
    id: row.id,
    to: row.peer,
    outcome: row.outcome as Outcome,
    reason: (row.reason ?? undefined) as Reason | undefined,
    isFinal: true,
    isQueued: false,
    attempts: row.attempts,
    stages: { openMs: NaN, writeMs: NaN, admitMs: NaN, commitMs: NaN, answerMs: NaN, totalMs: NaN },
    clippedDeadlineMs: undefined,
  };
}
