/** The senders of all peers (sender.ts). Bound: MAX_PEERS, an idle one goes first. */
import { PeerSender, type SendVerdict } from "./sender.ts";
import { type PeerKey, type PubSubCounters, type SendFate, SendPriority, type SendTicket } from "./types.ts";

const MAX_PEERS = 4096;

export interface SendersDeps {
  readonly counters: PubSubCounters;
  rttMs(peer: PeerKey): number;
  readonly judge: SendVerdict;
  /** For the transport; comes back through done(). */
  send(ticket: SendTicket): void;
}

export class Senders {
  readonly #deps: SendersDeps;
  readonly #senders = new Map<PeerKey, PeerSender>();
  /** Those with something waiting or in flight. */
  readonly #busy = new Set<PeerSender>();

  constructor(deps: SendersDeps) {
    this.#deps = deps;
  }

  get queuedBytes(): number {
    let sum = 0;
    for (const sender of this.#busy) sum += sender.queuedBytes;
    return sum;
  }

  get nextTimeoutMs(): number {
    let due = Number.POSITIVE_INFINITY;
    for (const sender of this.#busy) {
      if (sender.isIdle) this.#busy.delete(sender);
      else if (sender.dueMs < due) due = sender.dueMs;
    }
    return due;
  }

  handleTimeout(nowMs: number): void {
    for (const sender of this.#busy) {
      if (nowMs >= sender.dueMs) sender.expire(nowMs);
      this.#pump(nowMs, sender);
    }
  }

  send(nowMs: number, peer: PeerKey, topic: string, frame: Uint8Array, priority: SendPriority): void {
    let sender = this.#senders.get(peer);
    if (sender === undefined) {
      if (this.#senders.size >= MAX_PEERS) this.#forgetOne();
      sender = new PeerSender(peer, this.#deps.counters, this.#deps.judge);
      this.#senders.set(peer, sender);
    }
    sender.offer(nowMs, topic, frame, priority);
    this.#busy.add(sender);
    this.#pump(nowMs, sender);
  }

  done(nowMs: number, ticket: SendTicket, fate: SendFate): void {
    const sender = this.#senders.get(ticket.peer);
    if (sender === undefined) return;
    sender.done(nowMs, ticket, fate, this.#deps.rttMs(ticket.peer));
    this.#pump(nowMs, sender);
  }

  /** How long the oldest frame has waited; undefined: nothing was sent to that peer. */
  waitMs(nowMs: number, peer: PeerKey): number | undefined {
    return this.#senders.get(peer)?.waitMs(nowMs);
  }

  /** Gives up what waits for that peer and topic. */
  clear(peer: PeerKey, topic: string): void {
    this.#senders.get(peer)?.clear(topic);
  }

  forget(peer: PeerKey): void {
    const sender = this.#senders.get(peer);
    if (sender === undefined) return;
    this.#senders.delete(peer);
    this.#busy.delete(sender);
  }

  #pump(nowMs: number, sender: PeerSender): void {
    const { counters } = this.#deps;
    const rttMs = this.#deps.rttMs(sender.peer);
    for (let ticket = sender.take(nowMs, rttMs); ticket !== undefined; ticket = sender.take(nowMs, rttMs)) {
      const isPayload = ticket.priority === SendPriority.PUSH || ticket.priority === SendPriority.ANSWER;
      if (isPayload) counters.payloadBytesSent += ticket.frame.length;
      else counters.controlBytesSent += ticket.frame.length;
      this.#deps.send(ticket);
    }
  }

  /** An idle one if there is any, else the longest known. */
  #forgetOne(): void {
    for (const [peer, sender] of this.#senders) if (sender.isIdle) return this.forget(peer);
    const [first] = this.#senders.keys();
    this.forget(first);
  }
}
