/**
 * What goes to one peer: bytes in flight within a budget, the rest waits in a bounded queue, and a time-out that follows the peer. One
 * peer's slowness costs nobody else anything: every peer has a sender of its own and nobody waits for it.
 *
 *   offer() → queue by priority → (in flight < max(64 KiB, 2 × rate × RTT)) → ticket → transport → done()
 *
 * Time-out: 2.5 s, then 2.5 × p95 of the last 32 sends within 1.5–10 s; a time-out counts as a sample at the limit. What is timed out still
 * counts as in flight, because the transport still holds it. Source: docs/protocol.md, "Publish/subscribe" (overload).
 */
import type { PeerKey, PubSubCounters, SendFate, SendTicket } from "./types.ts";
import { SendPriority } from "./types.ts";

const MIN_BUDGET_BYTES = 65_536;
const MAX_BUDGET_BYTES = 8 * 1_048_576;
const MAX_QUEUE_BYTES = 1_048_576;
const MAX_QUEUE_FRAMES = 2048;
const FIRST_TIMEOUT_MS = 2500;
const MIN_TIMEOUT_MS = 1500;
const MAX_TIMEOUT_MS = 10_000;
const SAMPLES = 32;
/** After this many samples the p95 means something. */
const ENOUGH_SAMPLES = 8;
const RATE_WINDOW_MS = 50;
const RATES = 8;
/** The transport's own queue was full: try again after this long. */
const FULL_PAUSE_MS = 50;
const PRIORITIES = 4;

/** A send that took too long, or came back in time. */
export type SendVerdict = (ticket: SendTicket, isInTime: boolean, tookMs: number) => void;

export class PeerSender {
  readonly peer: PeerKey;
  inFlightBytes = 0;
  timeoutMs: number = FIRST_TIMEOUT_MS;
  readonly #counters: PubSubCounters;
  readonly #judge: SendVerdict;
  #queues: SendTicket[][] = Array.from({ length: PRIORITIES }, () => []);
  #queuedBytes = 0;
  #queuedFrames = 0;
  /** In the order they went; `#late` are the timed out ones among them that are not back. */
  readonly #inFlight: SendTicket[] = [];
  readonly #late = new Set<SendTicket>();
  readonly #samples: number[] = [];
  #nextSample = 0;
  #freshSamples = 0;
  #pausedUntilMs = 0;
  // the best of the last rates, each over an RTT or 50 ms
  readonly #rates: number[] = [];
  #nextRate = 0;
  #windowStartMs = 0;
  #windowBytes = 0;

  constructor(peer: PeerKey, counters: PubSubCounters, judge: SendVerdict) {
    this.peer = peer;
    this.#counters = counters;
    this.#judge = judge;
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get isIdle(): boolean {
    return this.#queuedFrames === 0 && this.#inFlight.length === 0 && this.#late.size === 0;
  }

  /** How long the oldest waiting frame has waited. */
  waitMs(nowMs: number): number {
    let oldest = nowMs;
    for (const queue of this.#queues)
      if (queue.length > 0 && queue[0].queuedAtMs < oldest) oldest = queue[0].queuedAtMs;
    return nowMs - oldest;
  }

  budgetBytes(rttMs: number): number {
    let best = 0;
    for (const rate of this.#rates) if (rate > best) best = rate;
    return Math.min(MAX_BUDGET_BYTES, Math.max(MIN_BUDGET_BYTES, 2 * best * rttMs));
  }

  /** Takes a frame for later; at the bound the least important and oldest goes. */
  offer(nowMs: number, topic: string, frame: Uint8Array, priority: SendPriority): void {
    const ticket: SendTicket = {
      peer: this.peer,
      topic,
      frame,
      priority,
      queuedAtMs: nowMs,
      sentAtMs: 0,
      isTimedOut: false,
      isDone: false,
    };
    this.#queues[priority].push(ticket);
    this.#queuedBytes += frame.length;
    this.#queuedFrames++;
    while (this.#queuedBytes > MAX_QUEUE_BYTES || this.#queuedFrames > MAX_QUEUE_FRAMES) this.#shed();
  }

  /** The next frame that may go now. */
  take(nowMs: number, rttMs: number): SendTicket | undefined {
    if (this.#queuedFrames === 0 || nowMs < this.#pausedUntilMs) return undefined;
    this.#pausedUntilMs = 0;
    const budget = this.budgetBytes(rttMs);
    if (this.inFlightBytes >= budget) return undefined;
    for (const queue of this.#queues) {
      if (queue.length === 0) continue;
      const ticket = queue.shift() as SendTicket;
      this.#queuedBytes -= ticket.frame.length;
      this.#queuedFrames--;
      ticket.sentAtMs = nowMs;
      this.inFlightBytes += ticket.frame.length;
      this.#inFlight.push(ticket);
      return ticket;
    }
    return undefined;
  }

  done(nowMs: number, ticket: SendTicket, fate: SendFate, rttMs: number): void {
    if (ticket.isDone) return;
    const at = ticket.isTimedOut ? -1 : this.#inFlight.indexOf(ticket);
    // of a sender before this one: the peer was gone in between
    if (at < 0 && !this.#late.delete(ticket)) return;
    if (at >= 0) this.#inFlight.splice(at, 1);
    ticket.isDone = true;
    this.inFlightBytes -= ticket.frame.length;
    if (fate === "full") {
      this.#pausedUntilMs = nowMs + FULL_PAUSE_MS;
      this.#queues[ticket.priority].unshift({ ...ticket, isDone: false });
      this.#queuedBytes += ticket.frame.length;
      this.#queuedFrames++;
      return;
    }
    if (fate !== "flushed") return;
    const tookMs = nowMs - ticket.sentAtMs;
    this.#noteRate(nowMs, ticket.frame.length, rttMs);
    if (ticket.isTimedOut) return;
    this.#sample(tookMs);
    this.#judge(ticket, true, tookMs);
  }

  /** Judges sends that take too long. */
  expire(nowMs: number): void {
    for (;;) {
      const [ticket] = this.#inFlight;
      if (ticket === undefined || nowMs - ticket.sentAtMs < this.timeoutMs) return;
      this.#inFlight.shift();
      this.#late.add(ticket);
      ticket.isTimedOut = true;
      this.#counters.sendTimeouts++;
      this.#sample(this.timeoutMs);
      this.#judge(ticket, false, this.timeoutMs);
    }
  }

  /** Monotonic time of the next judgement or retry. */
  get dueMs(): number {
    const [first] = this.#inFlight;
    const due = first === undefined ? Number.POSITIVE_INFINITY : first.sentAtMs + this.timeoutMs;
    return this.#queuedFrames > 0 && this.#pausedUntilMs > 0 ? Math.min(due, this.#pausedUntilMs) : due;
  }

  /** Gives up what waits for a topic, except control. */
  clear(topic: string): void {
    for (let priority = SendPriority.PUSH; priority < PRIORITIES; priority++) {
      const queue = this.#queues[priority];
      if (queue.length === 0) continue;
      const kept = queue.filter((ticket) => ticket.topic !== topic);
      for (const ticket of queue) {
        if (ticket.topic !== topic) continue;
        this.#queuedBytes -= ticket.frame.length;
        this.#queuedFrames--;
        this.#counters.sendShed++;
      }
      this.#queues[priority] = kept;
    }
  }

  #shed(): void {
    for (let priority = PRIORITIES - 1; priority >= 0; priority--) {
      const gone = this.#queues[priority].shift();
      if (gone === undefined) continue;
      this.#queuedBytes -= gone.frame.length;
      this.#queuedFrames--;
      this.#counters.sendShed++;
      return;
    }
  }

  #sample(tookMs: number): void {
    if (this.#samples.length < SAMPLES) this.#samples.push(tookMs);
    else this.#samples[this.#nextSample] = tookMs;
    this.#nextSample = (this.#nextSample + 1) % SAMPLES;
    this.#freshSamples++;
    if (this.#samples.length < ENOUGH_SAMPLES || this.#freshSamples < ENOUGH_SAMPLES) return;
    this.#freshSamples = 0;
    const sorted = this.#samples.toSorted((a, b) => a - b);
    const p95 = sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * 0.95) - 1)];
    this.timeoutMs = Math.min(MAX_TIMEOUT_MS, Math.max(MIN_TIMEOUT_MS, 2.5 * p95));
  }

  #noteRate(nowMs: number, bytes: number, rttMs: number): void {
    const windowMs = Math.max(RATE_WINDOW_MS, rttMs);
    if (nowMs - this.#windowStartMs > 4 * windowMs) {
      this.#windowStartMs = nowMs;
      this.#windowBytes = 0;
    }
    this.#windowBytes += bytes;
    const lastedMs = nowMs - this.#windowStartMs;
    if (lastedMs < windowMs) return;
    this.#rates[this.#nextRate] = this.#windowBytes / lastedMs;
    this.#nextRate = (this.#nextRate + 1) % RATES;
    this.#windowStartMs = nowMs;
    this.#windowBytes = 0;
  }
}
