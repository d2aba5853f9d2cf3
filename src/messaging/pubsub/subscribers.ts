/**
 * Programs of this machine that listen to a topic. Each has a queue of its own, bounded in events and bytes: who does not read loses its own
 * oldest events, is told how many, and harms nobody else. On request messages come in the publisher's order: what comes early is held, at
 * most five seconds and half the queue, then the gap is reported and it goes on.
 */
import { WeftError } from "../../base/errors.ts";
import type { PubSubCounters, ReceivedMessage, SubscribeOptions, SubscriberEvent } from "./types.ts";

const DEFAULT_EVENTS = 1024;
const DEFAULT_BYTES = 4 * 1_048_576;
export const MAX_SUBSCRIBERS = 4096;
const GAP_MS = 5000;
const MAX_ORDERED_STREAMS = 1024;
/** What an event costs beyond its payload. */
const EVENT_BYTES = 128;

interface OrderedStream {
  readonly publisher: Uint8Array;
  readonly epoch: number;
  next: number;
  hasBegun: boolean;
  readonly held: Map<number, ReceivedMessage>;
  heldSinceMs: number | undefined;
}

export class Subscriber {
  readonly id: number;
  readonly topic: string;
  readonly isOrdered: boolean;
  readonly #maxEvents: number;
  readonly #maxBytes: number;
  readonly #counters: PubSubCounters;
  #events: SubscriberEvent[] = [];
  #head = 0;
  #bytes = 0;
  #unreported = 0;
  readonly #streams = new Map<string, OrderedStream>();
  #held = 0;
  /** All it ever lost. */
  dropped = 0;
  delivered = 0;

  constructor(id: number, topic: string, options: SubscribeOptions, counters: PubSubCounters) {
    this.id = id;
    this.topic = topic;
    this.isOrdered = options.isOrdered ?? false;
    this.#maxEvents = Math.max(1, options.maxEvents ?? DEFAULT_EVENTS);
    this.#maxBytes = Math.max(1, options.maxBytes ?? DEFAULT_BYTES);
    this.#counters = counters;
  }

  get waiting(): number {
    return this.#events.length - this.#head;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** The next event; what was lost is told before what came after it. */
  poll(): SubscriberEvent | undefined {
    if (this.#unreported > 0) {
      const count = this.#unreported;
      this.#unreported = 0;
      return { kind: "dropped", count };
    }
    const event = this.#shift();
    if (event?.kind === "message") this.delivered++;
    return event;
  }

  push(event: SubscriberEvent): void {
    this.#events.push(event);
    this.#bytes += costOf(event);
    while (this.waiting > 1 && (this.waiting > this.#maxEvents || this.#bytes > this.#maxBytes)) {
      this.#shift();
      this.#unreported++;
      this.dropped++;
      this.#counters.subscriberDropped++;
    }
  }

  /** @param floor of the message's stream: nothing up to it comes any more */
  take(nowMs: number, ref: string, message: ReceivedMessage, floor: number): void {
    if (!this.isOrdered) return this.push({ kind: "message", message });
    let stream = this.#streams.get(ref);
    if (stream === undefined) {
      if (this.#streams.size >= MAX_ORDERED_STREAMS) this.#forgetOne();
      stream = {
        publisher: message.publisher,
        epoch: message.epoch,
        next: Math.min(floor + 1, message.sequence),
        hasBegun: false,
        held: new Map(),
        heldSinceMs: undefined,
      };
      this.#streams.set(ref, stream);
    }
    if (message.sequence < stream.next) {
      this.#counters.subscriberLate++;
      return;
    }
    stream.held.set(message.sequence, message);
    this.#held++;
    this.#drain(nowMs, stream);
    while (this.#held > this.#maxEvents / 2 && stream.held.size > 0) this.#jump(nowMs, stream);
  }

  /** Nothing up to the floor comes any more. */
  advance(nowMs: number, ref: string, floor: number): void {
    const stream = this.#streams.get(ref);
    if (stream === undefined || floor < stream.next) return;
    while (stream.next <= floor && stream.held.size > 0 && lowest(stream) <= floor) this.#jump(nowMs, stream);
    if (stream.next <= floor) this.#skip(stream, floor + 1);
    this.#drain(nowMs, stream);
  }

  get nextTimeoutMs(): number {
    let due = Number.POSITIVE_INFINITY;
    if (this.#held === 0) return due;
    for (const stream of this.#streams.values())
      if (stream.heldSinceMs !== undefined) due = Math.min(due, stream.heldSinceMs + GAP_MS);
    return due;
  }

  /** @returns whether there are events that were held before */
  handleTimeout(nowMs: number): boolean {
    if (this.#held === 0) return false;
    const before = this.waiting;
    for (const stream of this.#streams.values())
      if (stream.heldSinceMs !== undefined && nowMs - stream.heldSinceMs >= GAP_MS) this.#jump(nowMs, stream);
    return this.waiting > before;
  }

  #drain(nowMs: number, stream: OrderedStream): void {
    for (;;) {
      const message = stream.held.get(stream.next);
      if (message === undefined) break;
      stream.held.delete(stream.next);
      this.#held--;
      stream.next++;
      stream.hasBegun = true;
      stream.heldSinceMs = undefined;
      this.push({ kind: "message", message });
    }
    if (stream.held.size > 0) stream.heldSinceMs ??= nowMs;
    else stream.heldSinceMs = undefined;
  }

  /** Over the hole before the lowest that is held. */
  #jump(nowMs: number, stream: OrderedStream): void {
    this.#skip(stream, lowest(stream));
    stream.heldSinceMs = undefined;
    this.#drain(nowMs, stream);
  }

  #skip(stream: OrderedStream, next: number): void {
    // what was before the first message is no gap
    if (stream.hasBegun && next > stream.next) {
      this.#counters.subscriberGaps++;
      const { publisher, epoch } = stream;
      this.push({ kind: "gap", publisher, epoch, from: stream.next, to: next - 1 });
    }
    stream.next = next;
  }

  #forgetOne(): void {
    const [ref, stream] = this.#streams.entries().next().value as [string, OrderedStream];
    this.#held -= stream.held.size;
    for (const message of [...stream.held.values()].toSorted((a, b) => a.sequence - b.sequence))
      this.push({ kind: "message", message });
    this.#streams.delete(ref);
  }

  #shift(): SubscriberEvent | undefined {
    const event = this.#events[this.#head];
    if (event === undefined) return undefined;
    this.#head++;
    this.#bytes -= costOf(event);
    if (this.#head > 256 && this.#head * 2 > this.#events.length) {
      this.#events = this.#events.slice(this.#head);
      this.#head = 0;
    }
    return event;
  }
}

/** All subscribers of this node. */
export class Subscribers {
  readonly #counters: PubSubCounters;
  readonly #wake: (id: number) => void;
  readonly #byId = new Map<number, Subscriber>();
  readonly #byTopic = new Map<string, Set<Subscriber>>();
  #nextId = 1;
  #ordered = 0;

  constructor(counters: PubSubCounters, wake: (id: number) => void) {
    this.#counters = counters;
    this.#wake = wake;
  }

  get size(): number {
    return this.#byId.size;
  }

  /** @throws WeftError SUBSCRIBER_LIMIT */
  add(topic: string, options: SubscribeOptions): Subscriber {
    if (this.#byId.size >= MAX_SUBSCRIBERS)
      throw new WeftError("SUBSCRIBER_LIMIT", `${MAX_SUBSCRIBERS} subscriptions are open`, "close some of them");
    const subscriber = new Subscriber(this.#nextId++, topic, options, this.#counters);
    this.#byId.set(subscriber.id, subscriber);
    const all = this.#byTopic.get(topic) ?? new Set();
    all.add(subscriber);
    this.#byTopic.set(topic, all);
    if (subscriber.isOrdered) this.#ordered++;
    return subscriber;
  }

  get(id: number): Subscriber | undefined {
    return this.#byId.get(id);
  }

  values(): IterableIterator<Subscriber> {
    return this.#byId.values();
  }

  /** @returns the topic when nobody listens to it any more */
  remove(id: number): string | undefined {
    const subscriber = this.#byId.get(id);
    if (subscriber === undefined) return undefined;
    this.#byId.delete(id);
    if (subscriber.isOrdered) this.#ordered--;
    const all = this.#byTopic.get(subscriber.topic);
    all?.delete(subscriber);
    if (all === undefined || all.size > 0) return undefined;
    this.#byTopic.delete(subscriber.topic);
    return subscriber.topic;
  }

  count(topic: string): number {
    return this.#byTopic.get(topic)?.size ?? 0;
  }

  deliver(nowMs: number, ref: string, message: ReceivedMessage, floor: number): void {
    for (const subscriber of this.#byTopic.get(message.topic) ?? []) {
      const wasEmpty = subscriber.waiting === 0;
      subscriber.take(nowMs, ref, message, floor);
      if (wasEmpty && subscriber.waiting > 0) this.#wake(subscriber.id);
    }
  }

  advance(nowMs: number, topic: string, ref: string, floor: number): void {
    if (this.#ordered === 0) return;
    for (const subscriber of this.#byTopic.get(topic) ?? []) {
      const wasEmpty = subscriber.waiting === 0;
      subscriber.advance(nowMs, ref, floor);
      if (wasEmpty && subscriber.waiting > 0) this.#wake(subscriber.id);
    }
  }

  get nextTimeoutMs(): number {
    let due = Number.POSITIVE_INFINITY;
    if (this.#ordered === 0) return due;
    for (const subscriber of this.#byId.values()) due = Math.min(due, subscriber.nextTimeoutMs);
    return due;
  }

  handleTimeout(nowMs: number): void {
    if (this.#ordered === 0) return;
    for (const subscriber of this.#byId.values()) {
      const wasEmpty = subscriber.waiting === 0;
      if (subscriber.handleTimeout(nowMs) && wasEmpty) this.#wake(subscriber.id);
    }
  }
}

function lowest(stream: OrderedStream): number {
  let least = Number.POSITIVE_INFINITY;
  for (const sequence of stream.held.keys()) if (sequence < least) least = sequence;
  return least;
}

function costOf(event: SubscriberEvent): number {
  return EVENT_BYTES + (event.kind === "message" ? event.message.payload.length : 0);
}
