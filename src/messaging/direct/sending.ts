/**
 * The sending half of direct messages.
 *
 *   send ──► number ──► lane queue ──► DATA (several per frame) ──► link ──► ACK ──► outcome
 *                │ not answered soon, durable                        │ fate "lost", attempt time-out, peer up: again, same number
 *                └──► outbox row (sealed)                            └ deadline or keep time over: CLOSE until the peer says what became of it
 *
 * Guarantees: a refusal is certain (the peer said so after it had it on disk, or no copy ever left); an acknowledged one was on the peer's
 * disk; the floor that a frame carries never passes a number whose outcome could be forgotten by a crash here. Bounds: WINDOW numbers per
 * peer, outgoingBytes in all; beyond: refused "busy-here" at once. pump.ts makes the frames, outbox.ts the rows. Source: docs/protocol.md, "Direct messages".
 */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import { type Ack, type Body, encodeBody, encodeData } from "./codec.ts";
import type { DirectCore } from "./core.ts";
import { type Lane, Outgoing, Phase, RowState, Run } from "./lane.ts";
import { Lanes } from "./lanes.ts";
import { Outbox, type StoredOutgoing, storedResult } from "./outbox.ts";
import { Pump } from "./pump.ts";
import { StageHistograms } from "./stages.ts";
import {
  type Fate,
  MessageKind,
  type Outcome,
  type Reason,
  reasonOf,
  type SendRequest,
  type SendResult,
  Verdict,
  WINDOW,
} from "./types.ts";

/** Earlier incarnations per peer whose messages are still asked for; receivers remember two more. */
const MAX_RUNS = 6;
const MAX_RECENT = 16_384;
const DEFAULT_DEADLINE_MS = 30_000;
const MAX_DEADLINE_MS = 3_600_000;
const LATER_MS = 250;
/** A message that waits so long for a peer that is away goes to mailboxes, if it is to be kept for longer still. */
const DEPOSIT_AFTER_MS = 3_000;
/** Timers of a lane are looked at together. */
const TIMER_STEP_MS = 5;

export interface SendExtra {
  readonly kind: MessageKind;
  readonly reference?: Body["reference"];
  readonly failed?: boolean;
}

export class Sending {
  readonly stages: StageHistograms = new StageHistograms();
  readonly #core: DirectCore;
  readonly #lanes: Lanes;
  readonly #pump: Pump;
  readonly #outbox: Outbox;
  readonly #byId = new Map<string, Outgoing>();
  readonly #recent = new Map<string, SendResult>();
  /** Requests are told elsewhere. */
  readonly #onRequestSettled: (nowMs: number, result: SendResult) => void;
  #bytes = 0;
  #now: Now = { nowMs: 0, wallMs: 0 };

  constructor(core: DirectCore, onRequestSettled: (nowMs: number, result: SendResult) => void) {
    this.#core = core;
    this.#onRequestSettled = onRequestSettled;
    this.#lanes = new Lanes(core);
    this.#pump = new Pump(core, this.#lanes, (lost) => this.#resolve(lost, "unknown", "receiver-restarted"));
    this.#outbox = new Outbox(core);
  }

  turn(now: Now): void {
    this.#now = now;
    this.#pump.turn(now.nowMs);
  }

  /** The incarnation is on disk: frames may go. */
  start(): void {
    this.#pump.start();
  }

  get nextTimeoutMs(): number {
    return this.#lanes.nextTimeoutMs;
  }

  get openBytes(): number {
    return this.#bytes;
  }

  get openCount(): number {
    return this.#byId.size;
  }

  get outboxRows(): number {
    return this.#outbox.rows;
  }

  /** What an earlier run of this node has left behind. */
  load(rows: readonly StoredOutgoing[]): void {
    const runs = new Map<string, number[]>();
    for (const { peer, incarnation, state } of rows) {
      if (state === 2) continue;
      const list = runs.get(toHex(peer)) ?? [];
      if (!list.includes(incarnation)) list.push(incarnation);
      runs.set(toHex(peer), list);
    }
    for (const row of rows) {
      if (row.state === 2) {
        this.#remember(storedResult(row));
        continue;
      }
      this.#outbox.loaded();
      const outgoing = this.#restore(row);
      const latest = (runs.get(toHex(row.peer)) ?? []).toSorted((a, b) => b - a).slice(0, MAX_RUNS);
      if (outgoing === undefined) continue;
      if (latest.includes(row.incarnation)) this.#lanes.schedule(outgoing);
      else this.#resolve(outgoing, "unknown", "never-resolved");
    }
  }

  /** @returns the id; the outcome comes as "settled" */
  send(now: Now, request: SendRequest, extra: SendExtra = { kind: MessageKind.MESSAGE }): string {
    const counters = this.#core.counters;
    counters.sent++;
    const askedMs = request.deadlineMs ?? DEFAULT_DEADLINE_MS;
    const deadlineMs = Math.min(MAX_DEADLINE_MS, Math.max(1, askedMs));
    const durable = (request.durable ?? true) && extra.kind === MessageKind.MESSAGE;
    const keepMs = durable ? Math.min(this.#core.options.maxKeepMs, Math.max(0, request.keepMs ?? 0)) : 0;
    const body = encodeBody({
      kind: extra.kind,
      durable,
      failed: extra.failed ?? false,
      sentWallMs: now.wallMs,
      reference: extra.reference,
      fromAgent: request.fromAgent,
      toAgent: request.toAgent,
      name: request.name ?? "",
      payload: request.payload,
    });
    if (body === undefined) return this.#refuse(now, request, extra.kind, "too-big");
    const isSelf = toHex(request.to) === this.#core.selfHex;
    if (!isSelf && !this.#core.deps.isMember(request.to)) return this.#refuse(now, request, extra.kind, "no-such-peer");
    const lane = this.#lanes.open(request.to);
    const run = lane?.current;
    if (
      lane === undefined ||
      run === undefined ||
      run.next - run.floor >= WINDOW ||
      this.#bytes + body.length > this.#core.options.outgoingBytes
    ) {
      return this.#refuse(now, request, extra.kind, "busy-here");
    }
    const number = run.next++;
    const outgoing = new Outgoing({
      id: this.#core.idOf(this.#core.deps.self, lane.peer, run.incarnation, number),
      lane,
      incarnation: run.incarnation,
      number,
      kind: extra.kind,
      durable,
      body,
      submittedAtMs: now.nowMs,
      createdWallMs: now.wallMs,
      deadlineAtMs: now.nowMs + deadlineMs,
      expiresAtMs: now.nowMs + Math.max(deadlineMs, keepMs),
      clippedDeadlineMs: deadlineMs === askedMs ? undefined : deadlineMs,
    });
    if (durable && !isSelf) outgoing.outboxAtMs = now.nowMs + this.#core.options.outboxAfterMs;
    run.open.set(number, outgoing);
    this.#byId.set(outgoing.id, outgoing);
    this.#bytes += body.length;
    lane.push(outgoing);
    this.#pump.wake(lane);
    this.#lanes.schedule(outgoing);
    return outgoing.id;
  }

  /** What is known of it; undefined when it is not known here (any more). */
  status(id: string): SendResult | undefined {
    const outgoing = this.#byId.get(id);
    return outgoing === undefined
      ? this.#recent.get(id)
      : outgoing.result(this.#now.nowMs, "unknown", "no-answer", false);
  }

  /** Where a request went, for its response and its cancellation. */
  find(id: string): Outgoing | undefined {
    return this.#byId.get(id);
  }

  open(): Outgoing[] {
    return [...this.#byId.values()];
  }

  handleAck(from: Uint8Array, ack: Ack): void {
    const lane = this.#lanes.find(from);
    if (lane === undefined) return;
    lane.boot = ack.boot;
    const run = lane.runs.get(ack.incarnation);
    for (const { first, count, verdict } of ack.ranges) {
      for (let number = first; number < first + count; number++) {
        const outgoing = run?.open.get(number);
        if (outgoing === undefined || outgoing.isResolved) this.#core.counters.answersLate++;
        else this.#answered(outgoing, verdict, ack);
      }
    }
    this.#pump.wake(lane);
  }

  memberGone(nodeId: Uint8Array): void {
    const lane = this.#lanes.find(nodeId);
    if (lane === undefined) return;
    for (const run of lane.runs.values()) {
      for (const outgoing of run.open.values()) {
        if (outgoing.isResolved) continue;
        if (outgoing.copies === 0) this.#resolve(outgoing, "refused", "no-such-peer");
        else this.#resolve(outgoing, "unknown", "peer-gone");
      }
    }
  }

  /** The node stops: what has no outcome goes to the outbox, so that the next run can say what became of it. */
  stop(): void {
    for (const outgoing of this.#byId.values())
      if (outgoing.durable && outgoing.lane.hex !== this.#core.selfHex) this.#store(outgoing);
  }

  handleTimeout(nowMs: number): void {
    this.#lanes.handleTimeout(nowMs, (lane) => this.#laneTimeout(lane, nowMs));
  }

  handleFate(token: number, fate: Fate): void {
    this.#pump.handleFate(token, fate);
  }

  /** There is a (new) session: what the old connection may have lost goes again. */
  peerUp(nodeId: Uint8Array): void {
    const lane = this.#lanes.find(nodeId);
    if (lane !== undefined) this.#pump.peerUp(lane);
  }

  /** Frames for the links. */
  flush(): void {
    this.#pump.flush();
  }

  // ── one message ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #laneTimeout(lane: Lane, nowMs: number): void {
    lane.dueMs = Infinity;
    if (lane.queued > 0) {
      if (lane.retryAtMs > nowMs) lane.dueMs = lane.retryAtMs;
      else this.#pump.wake(lane);
    }
    for (const run of lane.runs.values()) {
      for (const outgoing of run.open.values()) {
        if (!outgoing.isResolved && outgoing.dueAtMs <= nowMs) this.#due(outgoing, nowMs);
        if (!outgoing.isResolved) lane.dueMs = Math.min(lane.dueMs, Math.max(outgoing.dueAtMs, nowMs + TIMER_STEP_MS));
      }
    }
  }

  #due(outgoing: Outgoing, nowMs: number): void {
    if (outgoing.outboxAtMs <= nowMs) this.#store(outgoing);
    if (outgoing.depositAtMs <= nowMs) this.#deposit(outgoing);
    if (outgoing.isClosing && outgoing.resolveAtMs <= nowMs)
      return this.#resolve(outgoing, "unknown", "never-resolved");
    if (!outgoing.isClosing && outgoing.expiresAtMs <= nowMs) {
      // no copy that would be taken ever left: nothing can arrive
      const isCertain = outgoing.copies === 0 || (!outgoing.durable && outgoing.boot === 0);
      if (isCertain) return this.#resolve(outgoing, "refused", "expired");
      // nobody asks for what became of a request or a response
      if (outgoing.kind !== MessageKind.MESSAGE) return this.#resolve(outgoing, "unknown", "no-answer");
      this.#close(outgoing);
    }
    if (!outgoing.isTold && !outgoing.isTellDue && outgoing.deadlineAtMs <= nowMs) this.#tell(outgoing);
    if (outgoing.retryAtMs <= nowMs) this.#pump.again(outgoing);
  }

  /** Once; a peer that is up gets it from here. */
  #deposit(outgoing: Outgoing): void {
    const { lane, incarnation, number, body } = outgoing;
    outgoing.depositAtMs = Infinity;
    const run = lane.runs.get(incarnation);
    if (outgoing.isClosing || body === undefined || run === undefined) return;
    if (this.#core.deps.isUp(lane.peer)) {
      outgoing.depositAtMs = this.#now.nowMs + DEPOSIT_AFTER_MS;
      return;
    }
    outgoing.copies++;
    const leftMs = outgoing.expiresAtMs - this.#now.nowMs;
    const frame = encodeData({ ...lane.header(run), boot: 0 }, [{ number, leftMs, body }]);
    this.#core.output({ kind: "deposit", to: lane.peer, frame, expiresWallMs: Math.floor(this.#now.wallMs + leftMs) });
  }

  /** Delivery is over; the peer is asked what became of it. */
  #close(outgoing: Outgoing): void {
    this.#pump.uncount(outgoing);
    outgoing.isClosing = true;
    this.#bytes -= outgoing.body?.length ?? 0;
    outgoing.body = undefined;
    outgoing.outboxAtMs = Infinity;
    outgoing.depositAtMs = Infinity;
    outgoing.resolveAtMs = this.#now.nowMs + this.#core.options.resolveMs;
    this.#outbox.close(outgoing);
    if (outgoing.phase !== Phase.QUEUED) this.#pump.again(outgoing);
  }

  /** "unknown", once its row is on disk: status(id) answers after a restart, too. */
  #tell(outgoing: Outgoing): void {
    if (outgoing.durable && outgoing.row !== RowState.WRITTEN) {
      outgoing.isTellDue = true;
      if (outgoing.row === RowState.NONE) this.#store(outgoing);
      return;
    }
    outgoing.isTellDue = false;
    outgoing.isTold = true;
    this.#core.counters.unknown++;
    this.#emit(outgoing, outgoing.result(this.#now.nowMs, "unknown", "no-answer", false), false);
  }

  #store(outgoing: Outgoing): void {
    outgoing.outboxAtMs = Infinity;
    if (outgoing.row !== RowState.NONE) return;
    this.#outbox.insert(this.#now, outgoing, (isWritten) => this.#rowDecided(outgoing, isWritten));
  }

  #rowDecided(outgoing: Outgoing, isWritten: boolean): void {
    outgoing.row = isWritten ? RowState.WRITTEN : RowState.NONE;
    if (isWritten) this.#core.counters.outboxStored++;
    else this.#core.counters.outboxRefused++;
    if (isWritten && !outgoing.isClosing && outgoing.expiresAtMs - this.#now.nowMs > 2 * DEPOSIT_AFTER_MS) {
      outgoing.depositAtMs = this.#now.nowMs + DEPOSIT_AFTER_MS;
      this.#lanes.schedule(outgoing);
    }
    if (!outgoing.isTellDue || outgoing.isResolved) return;
    outgoing.isTellDue = false;
    outgoing.isTold = true;
    this.#core.counters.unknown++;
    this.#emit(outgoing, outgoing.result(this.#now.nowMs, "unknown", "no-answer", false), false);
  }

  #answered(outgoing: Outgoing, verdict: number, ack: Ack): void {
    outgoing.admitMs = ack.admitMs;
    outgoing.commitMs = ack.commitMs;
    if (verdict === Verdict.ACKNOWLEDGED) return this.#resolve(outgoing, "acknowledged", undefined);
    const reason = reasonOf(verdict);
    if (reason !== undefined) return this.#resolve(outgoing, "refused", reason);
    if (verdict === Verdict.FORGOTTEN) return this.#resolve(outgoing, "unknown", "receiver-restarted");
    if (outgoing.phase === Phase.QUEUED) return;
    this.#pump.uncount(outgoing);
    if (verdict === Verdict.LATER) return this.#pump.rest(outgoing, LATER_MS, Phase.RESTING);
    if (verdict !== Verdict.WRONG_BOOT || outgoing.durable) return;
    if (outgoing.boot === 0) this.#pump.again(outgoing);
    else if (outgoing.boot === ack.boot) this.#pump.rest(outgoing, LATER_MS, Phase.RESTING);
    else this.#resolve(outgoing, "unknown", "receiver-restarted");
  }

  /** Its outcome is final. */
  #resolve(outgoing: Outgoing, outcome: Outcome, reason: Reason | undefined): void {
    const { lane, id, number, incarnation, isTold } = outgoing;
    this.#pump.uncount(outgoing);
    outgoing.isResolved = true;
    this.#bytes -= outgoing.body?.length ?? 0;
    outgoing.body = undefined;
    this.#byId.delete(id);
    const result = outgoing.result(this.#now.nowMs, outcome, reason, true);
    const run = lane.runs.get(incarnation);
    this.#outbox.settle(this.#now.wallMs, outgoing, outcome, reason, () => run?.done(number));
    this.#count(outgoing, result);
    this.#emit(outgoing, result, isTold);
  }

  #count(outgoing: Outgoing, { outcome, stages }: SendResult): void {
    const counters = this.#core.counters;
    if (outgoing.isTold) counters.resolvedLater++;
    else if (outcome === "unknown") counters.unknown++;
    if (outcome === "refused") counters.refused++;
    if (outcome !== "acknowledged") return;
    counters.acknowledged++;
    this.stages.record("open", stages.openMs);
    this.stages.record("write", stages.writeMs);
    this.stages.record("admit", stages.admitMs);
    this.stages.record("commit", stages.commitMs);
    this.stages.record("answer", stages.answerMs);
    this.stages.record("total", stages.totalMs);
  }

  #emit(outgoing: Outgoing, result: SendResult, again: boolean): void {
    if (outgoing.kind === MessageKind.RESPONSE) return;
    if (outgoing.kind === MessageKind.REQUEST) {
      if (!again) this.#onRequestSettled(this.#now.nowMs, result);
      return;
    }
    if (result.isFinal) this.#remember(result);
    this.#core.output({ kind: "settled", result, again });
  }

  #remember(result: SendResult): void {
    this.#recent.set(result.id, result);
    if (this.#recent.size <= MAX_RECENT) return;
    for (const oldest of this.#recent.keys()) {
      this.#recent.delete(oldest);
      return;
    }
  }

  /** Not even numbered. */
  #refuse(now: Now, request: SendRequest, kind: MessageKind, reason: Reason): string {
    const id = toHex(this.#core.deps.random.bytes(16));
    this.#core.counters.refused++;
    const none = { openMs: NaN, writeMs: NaN, admitMs: NaN, commitMs: NaN, answerMs: NaN, totalMs: 0 };
    const fixed = { isFinal: true, isQueued: false, attempts: 0, stages: none, clippedDeadlineMs: undefined };
    const result: SendResult = { id, to: request.to, outcome: "refused", reason, ...fixed };
    if (kind === MessageKind.REQUEST) this.#onRequestSettled(now.nowMs, result);
    else if (kind === MessageKind.MESSAGE) {
      this.#remember(result);
      this.#core.output({ kind: "settled", result, again: false });
    }
    return id;
  }

  #restore(row: StoredOutgoing): Outgoing | undefined {
    const lane = this.#lanes.open(row.peer);
    if (lane === undefined) return undefined;
    const opened = row.state === 0 && row.sealed !== null ? this.#core.deps.unseal(row.id, row.sealed) : undefined;
    const leftMs = row.expiresWallMs - this.#now.wallMs;
    const outgoing = new Outgoing({
      id: row.id,
      lane,
      incarnation: row.incarnation,
      number: row.number,
      kind: MessageKind.MESSAGE,
      durable: true,
      body: opened,
      submittedAtMs: this.#now.nowMs,
      createdWallMs: row.createdWallMs,
      deadlineAtMs: this.#now.nowMs,
      expiresAtMs: this.#now.nowMs + leftMs,
      clippedDeadlineMs: undefined,
    });
    outgoing.row = RowState.WRITTEN;
    outgoing.isTold = true;
    outgoing.attempts = row.attempts;
    // it may have left before the restart
    outgoing.copies = 1;
    let run = lane.runs.get(row.incarnation);
    if (run === undefined) {
      run = new Run(row.incarnation, row.number);
      lane.runs.set(row.incarnation, run);
    }
    run.floor = Math.min(run.floor, row.number);
    run.next = Math.max(run.next, row.number + 1);
    run.open.set(row.number, outgoing);
    this.#byId.set(row.id, outgoing);
    this.#bytes += opened?.length ?? 0;
    if (opened === undefined) this.#close(outgoing);
    lane.push(outgoing);
    this.#pump.wake(lane);
    return outgoing;
  }
}
