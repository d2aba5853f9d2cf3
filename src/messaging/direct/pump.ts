/**
 * From the queue of a lane to frames, and what the link said of them. Messages of one incarnation share frames of FRAME_BYTES; a lane has
 * MAX_UNFLUSHED_BYTES in the link and MAX_UNANSWERED_BYTES without an answer at most. What was lost goes again after a wait that doubles, what is
 * not answered after clamp(16 × RTT, 0.5 s, 30 s), doubling. Source: docs/protocol.md, "Direct messages".
 */
import { FrameChannel } from "../frames.ts";
import { DirectType, ENTRY_HEAD_BYTES, encodeData, encodeMarks } from "./codec.ts";
import type { DirectCore } from "./core.ts";
import { type Lane, type Outgoing, Phase, type Run } from "./lane.ts";
import type { Lanes } from "./lanes.ts";
import { type Fate, MessageKind } from "./types.ts";

const FRAME_BYTES = 65_536;
const MAX_UNFLUSHED_BYTES = 1 << 20;
const MAX_UNANSWERED_BYTES = 16 << 20;
const MAX_MARKS = 1_024;
const MIN_ATTEMPT_MS = 500;
const MAX_ATTEMPT_MS = 30_000;
const ATTEMPT_RTTS = 16;
const FIRST_LOST_MS = 20;
const MAX_LOST_MS = 5_000;

interface Flight {
  readonly lane: Lane;
  readonly messages: readonly Outgoing[];
  readonly bytes: number;
}

export class Pump {
  readonly #core: DirectCore;
  readonly #lanes: Lanes;
  readonly #flights = new Map<number, Flight>();
  readonly #ready = new Set<Lane>();
  /** It is not durable and may have arrived in a run of the receiver of which nobody knows any more. */
  readonly #lost: (outgoing: Outgoing) => void;
  #isStarted = false;
  #nextToken = 1;
  #nowMs = 0;

  constructor(core: DirectCore, lanes: Lanes, lost: (outgoing: Outgoing) => void) {
    this.#core = core;
    this.#lanes = lanes;
    this.#lost = lost;
  }

  turn(nowMs: number): void {
    this.#nowMs = nowMs;
  }

  /** The incarnation is on disk: frames may go. */
  start(): void {
    this.#isStarted = true;
    for (const lane of this.#lanes.all()) this.#ready.add(lane);
  }

  /** It may have something to say. */
  wake(lane: Lane): void {
    this.#ready.add(lane);
  }

  /** What it took of the lane's window is free again. */
  uncount(outgoing: Outgoing): void {
    if (!outgoing.isCounted) return;
    outgoing.isCounted = false;
    outgoing.lane.unansweredBytes -= ENTRY_HEAD_BYTES + (outgoing.body?.length ?? 0);
  }

  /** Goes (again) as soon as there is room, with its number. */
  again(outgoing: Outgoing): void {
    this.uncount(outgoing);
    outgoing.lane.push(outgoing);
    this.#ready.add(outgoing.lane);
  }

  /** Tries again later, about `waitMs` from now. */
  rest(outgoing: Outgoing, waitMs: number, phase: Phase): void {
    outgoing.phase = phase;
    outgoing.retryAtMs = this.#nowMs + waitMs * (0.9 + 0.2 * this.#core.deps.random.unit());
    this.#lanes.schedule(outgoing);
  }

  handleFate(token: number, fate: Fate): void {
    const flight = this.#flights.get(token);
    if (flight === undefined) return;
    this.#flights.delete(token);
    const { lane, messages, bytes } = flight;
    lane.unflushedBytes -= bytes;
    this.#ready.add(lane);
    const isFlushed = fate === "flushed";
    if (isFlushed) lane.lostInARow = 0;
    else {
      const waitMs = Math.min(MAX_LOST_MS, FIRST_LOST_MS * 2 ** Math.min(10, lane.lostInARow++));
      lane.retryAtMs = this.#nowMs + waitMs * (0.75 + 0.5 * this.#core.deps.random.unit());
      this.#lanes.due(lane, lane.retryAtMs);
    }
    for (const outgoing of messages) {
      if (fate === "full" || fate === "gone") outgoing.copies--;
      if (outgoing.isResolved || outgoing.phase !== Phase.HANDED) continue;
      if (isFlushed) {
        outgoing.phase = Phase.FLUSHED;
        if (Number.isNaN(outgoing.flushedAtMs)) outgoing.flushedAtMs = this.#nowMs;
        this.rest(outgoing, this.#attemptMs(lane, outgoing.attempts), Phase.FLUSHED);
      } else this.again(outgoing);
    }
  }

  /** There is a (new) session: what the old connection may have lost goes again. */
  peerUp(lane: Lane): void {
    lane.retryAtMs = 0;
    lane.lostInARow = 0;
    for (const run of lane.runs.values()) {
      for (const outgoing of run.open.values()) {
        if (outgoing.isResolved) continue;
        if (outgoing.phase === Phase.FLUSHED || outgoing.phase === Phase.RESTING) this.again(outgoing);
      }
    }
    this.#ready.add(lane);
  }

  /** Frames of all lanes that have something to say, as far as their budgets go. */
  flush(): void {
    if (!this.#isStarted) return;
    for (const lane of this.#ready) this.#pump(lane);
    this.#ready.clear();
  }

  #pump(lane: Lane): void {
    for (;;) {
      if (this.#nowMs < lane.retryAtMs) return this.#lanes.due(lane, lane.retryAtMs);
      if (lane.unflushedBytes >= MAX_UNFLUSHED_BYTES || lane.unansweredBytes >= MAX_UNANSWERED_BYTES) return;
      const first = lane.peek();
      if (first === undefined) return;
      const run = lane.runs.get(first.incarnation) as Run;
      if (first.isClosing) this.#handMarks(lane, run);
      else this.#handData(lane, run);
    }
  }

  #handData(lane: Lane, run: Run): void {
    const messages: Outgoing[] = [];
    let bytes = 0;
    for (let next = lane.peek(); next !== undefined; next = lane.peek()) {
      if (next.incarnation !== run.incarnation || next.isClosing || next.body === undefined) break;
      const cost = ENTRY_HEAD_BYTES + next.body.length;
      if (messages.length > 0 && bytes + cost > FRAME_BYTES) break;
      lane.shift();
      if (!next.durable && next.boot !== 0 && next.boot !== lane.boot) {
        // it may have arrived in a run of the receiver of which nobody knows any more
        this.#lost(next);
        continue;
      }
      if (!next.durable) next.boot = lane.boot;
      bytes += cost;
      messages.push(next);
    }
    if (messages.length === 0) return;
    const entries = messages.map(({ number, deadlineAtMs, expiresAtMs, kind, body }) => ({
      number,
      leftMs: (kind === MessageKind.MESSAGE ? expiresAtMs : deadlineAtMs) - this.#nowMs,
      body: body as Uint8Array,
    }));
    this.#hand(lane, messages, encodeData(lane.header(run), entries), bytes);
  }

  #handMarks(lane: Lane, run: Run): void {
    const messages: Outgoing[] = [];
    for (let next = lane.peek(); next !== undefined && messages.length < MAX_MARKS; next = lane.peek()) {
      if (next.incarnation !== run.incarnation || !next.isClosing) break;
      lane.shift();
      messages.push(next);
    }
    const marks = messages.map(({ number, durable, boot }) => ({ number, boot: durable ? 0 : boot }));
    this.#hand(lane, messages, encodeMarks(DirectType.CLOSE, lane.header(run), marks), 0);
  }

  #hand(lane: Lane, messages: readonly Outgoing[], frame: Uint8Array, unansweredBytes: number): void {
    for (const outgoing of messages) {
      outgoing.phase = Phase.HANDED;
      outgoing.attempts++;
      outgoing.copies++;
      if (outgoing.attempts > 1) this.#core.counters.retries++;
      else outgoing.handedAtMs = this.#nowMs;
      if (outgoing.isClosing) continue;
      outgoing.isCounted = true;
    }
    lane.unansweredBytes += unansweredBytes;
    lane.unflushedBytes += frame.length;
    const token = this.#nextToken++;
    this.#flights.set(token, { lane, messages, bytes: frame.length });
    this.#core.output({ kind: "frame", to: lane.peer, channel: FrameChannel.DIRECT, frame, token });
  }

  #attemptMs(lane: Lane, attempts: number): number {
    const rttMs = this.#core.deps.rttMs(lane.peer) ?? 0;
    const firstMs = Math.min(MAX_ATTEMPT_MS, Math.max(MIN_ATTEMPT_MS, ATTEMPT_RTTS * rttMs));
    return Math.min(MAX_ATTEMPT_MS, firstMs * 2 ** Math.min(6, Math.max(0, attempts - 1)));
  }
}
