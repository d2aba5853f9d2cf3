/**
 * Requests of this node that wait for their responses. The request itself is a message that is not durable; its acknowledgement means that
 * somebody serves it, its response is a message that names it. Cancelling tells the peer and ends the waiting at once.
 * Bound: MAX_CALLS. Source: docs/protocol.md, "Requests".
 */
import type { Now } from "../../base/clock.ts";
import { FrameChannel } from "../frames.ts";
import { type Body, DirectType, encodeMarks } from "./codec.ts";
import type { DirectCore } from "./core.ts";
import { requestKey } from "./incoming.ts";
import type { Sending } from "./sending.ts";
import { MessageKind, type Reason, type SendRequest, type SendResult } from "./types.ts";

const MAX_CALLS = 4_096;

interface PendingCall {
  readonly id: string;
  readonly to: Uint8Array;
  readonly key: string;
  readonly incarnation: number;
  readonly number: number;
  readonly startedMs: number;
  readonly deadlineAtMs: number;
}

export class Calls {
  readonly #core: DirectCore;
  readonly #pending = new Map<string, PendingCall>();
  /** By the receiver and the request's number. */
  readonly #byKey = new Map<string, PendingCall>();
  #sending: Sending | undefined;
  #dueMs = Infinity;
  /** Settled before send() returned. */
  #early: SendResult | undefined;

  constructor(core: DirectCore) {
    this.#core = core;
  }

  attach(sending: Sending): void {
    this.#sending = sending;
  }

  get size(): number {
    return this.#pending.size;
  }

  get nextTimeoutMs(): number {
    return this.#dueMs;
  }

  /** @returns the id; the outcome comes as "answered" */
  call(now: Now, request: SendRequest): string {
    const sending = this.#sending as Sending;
    if (this.#pending.size >= MAX_CALLS) {
      const id = this.#core.deps.random.bytes(16).toHex();
      this.#fail(id, "refused", "busy-here", 0);
      return id;
    }
    this.#core.counters.requestsOut++;
    this.#early = undefined;
    const id = sending.send(now, request, { kind: MessageKind.REQUEST });
    const outgoing = sending.find(id);
    if (outgoing === undefined) {
      this.#fail(id, "refused", (this.#early as SendResult | undefined)?.reason ?? "busy-here", 0);
      return id;
    }
    const { lane, incarnation, number, deadlineAtMs } = outgoing;
    const key = requestKey(lane.peer, incarnation, number);
    const call = { id, to: lane.peer, key, incarnation, number, startedMs: now.nowMs, deadlineAtMs };
    this.#pending.set(id, call);
    this.#byKey.set(key, call);
    this.#dueMs = Math.min(this.#dueMs, deadlineAtMs);
    return id;
  }

  /** The request's own outcome; acknowledged only means that it runs. */
  settled(nowMs: number, result: SendResult): void {
    this.#early = result;
    if (result.outcome === "acknowledged") return;
    const call = this.#end(result.id);
    if (call !== undefined) this.#fail(call.id, result.outcome, result.reason ?? "no-answer", nowMs - call.startedMs);
  }

  handleResponse(now: Now, from: Uint8Array, { reference, failed, payload }: Body): void {
    if (reference === undefined) return;
    const found = this.#byKey.get(requestKey(from, reference.incarnation, reference.number));
    const call = found === undefined ? undefined : this.#end(found.id);
    if (call === undefined) {
      this.#core.counters.answersLate++;
      return;
    }
    const totalMs = now.nowMs - call.startedMs;
    this.#core.output({ kind: "answered", result: { id: call.id, outcome: "answered", failed, payload, totalMs } });
  }

  /** Nobody waits for it any more; what the peer does meanwhile is not known. */
  cancel(nowMs: number, id: string): void {
    const call = this.#end(id);
    if (call === undefined) return;
    this.#tellPeer(call);
    this.#fail(id, "unknown", "no-answer", nowMs - call.startedMs);
  }

  handleTimeout(nowMs: number): void {
    if (nowMs < this.#dueMs) return;
    let dueMs = Infinity;
    for (const { id, deadlineAtMs } of this.#pending.values()) {
      // one that was never acknowledged is told by its own outcome, at the same time
      if (deadlineAtMs <= nowMs) this.cancel(nowMs, id);
      else dueMs = Math.min(dueMs, deadlineAtMs);
    }
    this.#dueMs = dueMs;
  }

  #tellPeer({ to, incarnation, number }: PendingCall): void {
    const header = { boot: 0, incarnation, oldest: 0, floor: number };
    const frame = encodeMarks(DirectType.CANCEL, header, [{ number, boot: 0 }]);
    this.#core.output({ kind: "frame", to, channel: FrameChannel.DIRECT, frame, token: 0 });
  }

  #end(id: string): PendingCall | undefined {
    const call = this.#pending.get(id);
    if (call === undefined) return undefined;
    this.#pending.delete(id);
    this.#byKey.delete(call.key);
    return call;
  }

  #fail(id: string, outcome: "refused" | "unknown", reason: Reason, totalMs: number): void {
    this.#core.output({ kind: "answered", result: { id, outcome, reason, totalMs } });
  }
}
