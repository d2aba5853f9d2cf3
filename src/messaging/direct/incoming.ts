/**
 * Requests of peers that run here, and responses that came for this node's own. A request is admitted when somebody serves its name;
 * what it answers goes back as a message that is not durable. Bounds: MAX_RUNNING, MAX_PER_SENDER; one whose deadline has passed is over.
 * Source: docs/protocol.md, "Requests".
 */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import type { Body, DataEntry } from "./codec.ts";
import type { DirectCore } from "./core.ts";
import type { Sender } from "./senders.ts";
import { type AgentKey, MessageKind, Verdict } from "./types.ts";

const MAX_RUNNING = 1_024;
const MAX_PER_SENDER = 128;
const MAX_SERVICES = 1_024;

export interface RunningRequest {
  readonly key: string;
  readonly from: Uint8Array;
  readonly fromAgent: AgentKey;
  readonly toAgent: AgentKey;
  readonly incarnation: number;
  readonly number: number;
  readonly deadlineAtMs: number;
}

export class Incoming {
  readonly #core: DirectCore;
  readonly #services = new Set<string>();
  readonly #running = new Map<string, RunningRequest>();
  readonly #perSender = new Map<string, number>();
  readonly #onResponse: (now: Now, from: Uint8Array, body: Body) => void;
  #dueMs = Infinity;

  constructor(core: DirectCore, onResponse: (now: Now, from: Uint8Array, body: Body) => void) {
    this.#core = core;
    this.#onResponse = onResponse;
  }

  get size(): number {
    return this.#running.size;
  }

  get nextTimeoutMs(): number {
    return this.#dueMs;
  }

  /** Requests of that name come from now on. @returns false when the name is served already, or too many are */
  serve(agent: AgentKey, name: string): boolean {
    const key = serviceKey(agent, name);
    if (this.#services.has(key) || this.#services.size >= MAX_SERVICES) return false;
    this.#services.add(key);
    return true;
  }

  unserve(agent: AgentKey, name: string): void {
    this.#services.delete(serviceKey(agent, name));
  }

  judge(sender: Sender, toAgent: AgentKey, name: string): number {
    if (!this.#services.has(serviceKey(toAgent, name))) return Verdict.NO_SERVICE;
    const isFull = this.#running.size >= MAX_RUNNING || (this.#perSender.get(sender.hex) ?? 0) >= MAX_PER_SENDER;
    return isFull ? Verdict.BUSY : Verdict.ACKNOWLEDGED;
  }

  take(now: Now, sender: Sender, incarnation: number, { number, leftMs }: DataEntry, body: Body): void {
    if (body.kind === MessageKind.RESPONSE) return this.#onResponse(now, sender.nodeId, body);
    const { fromAgent, toAgent, name, payload } = body;
    const key = requestKey(sender.nodeId, incarnation, number);
    const deadlineAtMs = now.nowMs + leftMs;
    this.#core.counters.requestsIn++;
    this.#running.set(key, { key, from: sender.nodeId, fromAgent, toAgent, incarnation, number, deadlineAtMs });
    this.#perSender.set(sender.hex, (this.#perSender.get(sender.hex) ?? 0) + 1);
    this.#dueMs = Math.min(this.#dueMs, deadlineAtMs);
    const request = { key, from: sender.nodeId, fromAgent, toAgent, name, payload, deadlineAtMs };
    this.#core.output({ kind: "request", request });
  }

  /** @returns undefined when nobody waits for it any more */
  finish(key: string): RunningRequest | undefined {
    const running = this.#running.get(key);
    if (running === undefined) return undefined;
    this.#running.delete(key);
    const hex = toHex(running.from);
    const left = (this.#perSender.get(hex) ?? 1) - 1;
    if (left <= 0) this.#perSender.delete(hex);
    else this.#perSender.set(hex, left);
    return running;
  }

  cancel(key: string): void {
    if (this.finish(key) !== undefined) this.#core.output({ kind: "cancelled", key });
  }

  handleTimeout(nowMs: number): void {
    if (nowMs < this.#dueMs) return;
    let dueMs = Infinity;
    for (const { key, deadlineAtMs } of this.#running.values()) {
      if (deadlineAtMs <= nowMs) this.cancel(key);
      else dueMs = Math.min(dueMs, deadlineAtMs);
    }
    this.#dueMs = dueMs;
  }
}

export function requestKey(from: Uint8Array, incarnation: number, number: number): string {
  return `${toHex(from)}:${incarnation}:${number}`;
}

function serviceKey(agent: AgentKey, name: string): string {
  return `${agent === undefined ? "" : toHex(agent)}\n${name}`;
}
