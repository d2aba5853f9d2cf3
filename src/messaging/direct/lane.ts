/**
 * The way to one peer: its messages without an outcome, by incarnation and number, and the queue of those that want to go.
 * Source: docs/protocol.md, "Direct messages".
 */
import { toHex } from "../../base/bytes.ts";
import type { DirectHeader } from "./codec.ts";
import type { MessageKind, SendResult } from "./types.ts";

export const Phase = {
  /** In the lane's queue. */
  QUEUED: 0,
  /** Handed to the link, which has not told its fate. */
  HANDED: 1,
  /** Taken by QUIC; the answer is awaited. */
  FLUSHED: 2,
  /** Until its next attempt. */
  RESTING: 3,
} as const;
export type Phase = (typeof Phase)[keyof typeof Phase];

/** Its row in the outbox. */
export const RowState = { NONE: 0, WRITING: 1, WRITTEN: 2 } as const;
export type RowState = (typeof RowState)[keyof typeof RowState];

export interface OutgoingSetup {
  readonly id: string;
  readonly lane: Lane;
  readonly incarnation: number;
  readonly number: number;
  readonly kind: MessageKind;
  readonly durable: boolean;
  readonly body: Uint8Array | undefined;
  readonly submittedAtMs: number;
  readonly createdWallMs: number;
  readonly deadlineAtMs: number;
  readonly expiresAtMs: number;
  readonly clippedDeadlineMs: number | undefined;
}

/** One message without an outcome. */
export class Outgoing {
  readonly id: string;
  readonly lane: Lane;
  readonly incarnation: number;
  readonly number: number;
  readonly kind: MessageKind;
  readonly durable: boolean;
  readonly submittedAtMs: number;
  readonly createdWallMs: number;
  /** When the caller is told. */
  readonly deadlineAtMs: number;
  /** When delivery ends; not before the deadline. */
  readonly expiresAtMs: number;
  readonly clippedDeadlineMs: number | undefined;
  /** undefined once it is only asked for. */
  body: Uint8Array | undefined;
  phase: Phase = Phase.QUEUED;
  row: RowState = RowState.NONE;
  isClosing = false;
  isResolved = false;
  /** The caller has been told "unknown". */
  isTold = false;
  isTellDue = false;
  attempts = 0;
  /** Frames with it that may have reached the peer; 0: certainly never sent. */
  copies = 0;
  /** Not durable ones: the run of the receiver under which it went; 0: none that would take it. */
  boot = 0;
  isCounted = false;
  retryAtMs: number = Infinity;
  outboxAtMs: number = Infinity;
  depositAtMs: number = Infinity;
  resolveAtMs: number = Infinity;
  handedAtMs: number = NaN;
  flushedAtMs: number = NaN;
  admitMs: number = NaN;
  commitMs: number = NaN;

  constructor(setup: OutgoingSetup) {
    this.id = setup.id;
    this.lane = setup.lane;
    this.incarnation = setup.incarnation;
    this.number = setup.number;
    this.kind = setup.kind;
    this.durable = setup.durable;
    this.body = setup.body;
    this.submittedAtMs = setup.submittedAtMs;
    this.createdWallMs = setup.createdWallMs;
    this.deadlineAtMs = setup.deadlineAtMs;
    this.expiresAtMs = setup.expiresAtMs;
    this.clippedDeadlineMs = setup.clippedDeadlineMs;
  }

  get dueAtMs(): number {
    const tellAtMs = this.isTold || this.isTellDue ? Infinity : this.deadlineAtMs;
    const endAtMs = this.isClosing ? this.resolveAtMs : this.expiresAtMs;
    return Math.min(tellAtMs, endAtMs, this.outboxAtMs, this.depositAtMs, this.retryAtMs);
  }

  result(nowMs: number, outcome: SendResult["outcome"], reason: SendResult["reason"], isFinal: boolean): SendResult {
    const { submittedAtMs, handedAtMs, flushedAtMs, admitMs, commitMs } = this;
    const atReceiverMs = (admitMs || 0) + (commitMs || 0);
    const wayMs = nowMs - (Number.isNaN(flushedAtMs) ? handedAtMs : flushedAtMs) - atReceiverMs;
    return {
      id: this.id,
      to: this.lane.peer,
      outcome,
      reason,
      isFinal,
      isQueued: !isFinal && !this.isClosing,
      attempts: this.attempts,
      stages: {
        openMs: handedAtMs - submittedAtMs,
        writeMs: flushedAtMs - handedAtMs,
        admitMs,
        commitMs,
        answerMs: outcome === "unknown" ? NaN : Math.max(0, wayMs),
        totalMs: nowMs - submittedAtMs,
      },
      clippedDeadlineMs: this.clippedDeadlineMs,
    };
  }
}

/** Numbers of one incarnation of this node towards one peer. */
export class Run {
  readonly incarnation: number;
  /** The lowest number that still matters here. */
  floor: number;
  next: number;
  /** Those without an outcome, and those whose outcome is not on disk yet. */
  readonly open: Map<number, Outgoing> = new Map();

  constructor(incarnation: number, first: number) {
    this.incarnation = incarnation;
    this.floor = first;
    this.next = first;
  }

  /** Its outcome cannot be lost any more. */
  done(number: number): void {
    this.open.delete(number);
    while (this.floor < this.next && !this.open.has(this.floor)) this.floor++;
  }
}

export class Lane {
  readonly peer: Uint8Array;
  readonly hex: string;
  /** By incarnation; the current one is always there. */
  readonly runs: Map<number, Run> = new Map();
  readonly current: Run;
  queue: Outgoing[] = [];
  head = 0;
  /** Handed to the link, fate unknown. */
  unflushedBytes = 0;
  /** Handed and without an answer. */
  unansweredBytes = 0;
  lostInARow = 0;
  /** Nothing goes before. */
  retryAtMs = 0;
  /** The peer's run, as its last answer said; 0: not known. */
  boot = 0;
  dueMs: number = Infinity;

  constructor(peer: Uint8Array, incarnation: number) {
    this.peer = Uint8Array.from(peer);
    this.hex = toHex(peer);
    this.current = new Run(incarnation, 0);
    this.runs.set(incarnation, this.current);
  }

  get queued(): number {
    return this.queue.length - this.head;
  }

  get openCount(): number {
    let count = 0;
    for (const run of this.runs.values()) count += run.open.size;
    return count;
  }

  push(outgoing: Outgoing): void {
    outgoing.phase = Phase.QUEUED;
    outgoing.retryAtMs = Infinity;
    this.queue.push(outgoing);
  }

  peek(): Outgoing | undefined {
    while (this.head < this.queue.length) {
      const first = this.queue[this.head];
      if (!first.isResolved && first.phase === Phase.QUEUED) return first;
      this.head++;
    }
    this.queue = [];
    this.head = 0;
    return undefined;
  }

  shift(): void {
    this.head++;
    if (this.head > 1_024 && this.head * 2 > this.queue.length) {
      this.queue = this.queue.slice(this.head);
      this.head = 0;
    }
  }

  header(run: Run): DirectHeader {
    let oldest = this.current.incarnation;
    for (const [incarnation, { open }] of this.runs) {
      if (open.size === 0 && incarnation !== this.current.incarnation) this.runs.delete(incarnation);
      else oldest = Math.min(oldest, incarnation);
    }
    return { boot: this.boot, incarnation: run.incarnation, oldest, floor: run.floor };
  }
}
