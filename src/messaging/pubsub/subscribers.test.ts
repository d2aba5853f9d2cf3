/** Local subscribers: bounds, isolation, order. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Subscribers } from "./subscribers.ts";
import { newPubSubCounters, type ReceivedMessage, type SubscriberEvent } from "./types.ts";

const publisher = new Uint8Array(32);

function message(sequence: number, topic = "t"): ReceivedMessage {
  return {
    topic,
    ref: "r",
    publisher,
    agent: undefined,
    epoch: 1,
    sequence,
    hlc: sequence,
    payload: new Uint8Array(10),
    cursor: sequence,
  };
}

function all(one: { poll(): SubscriberEvent | undefined }): SubscriberEvent[] {
  const events: SubscriberEvent[] = [];
  for (let event = one.poll(); event !== undefined; event = one.poll()) events.push(event);
  return events;
}

const sequences = (events: readonly SubscriberEvent[]): number[] =>
  events.flatMap((event) => (event.kind === "message" ? [event.message.sequence] : []));

test("a subscriber that never reads loses its own oldest events, is told how many, and costs the others nothing", () => {
  const counters = newPubSubCounters();
  const woken: number[] = [];
  const subscribers = new Subscribers(counters, (id) => woken.push(id));
  const slow = subscribers.add("t", { maxEvents: 100 });
  const quick = subscribers.add("t", {});
  for (let i = 1; i <= 1000; i++) {
    subscribers.deliver(0, "r", message(i), i);
    assert.deepEqual(sequences(all(quick)), [i]);
  }
  assert.equal(slow.waiting, 100);
  const events = all(slow);
  assert.deepEqual(events[0], { kind: "dropped", count: 900 });
  assert.deepEqual(
    sequences(events),
    Array.from({ length: 100 }, (_, i) => 901 + i),
  );
  assert.equal(counters.subscriberDropped, 900);
  assert.equal(woken.filter((id) => id === slow.id).length, 1, "woken once, not for every event");
  subscribers.deliver(0, "r", message(2000), 2000);
  assert.deepEqual(sequences(all(slow)), [2000]);
});

test("bytes are bounded too", () => {
  const subscribers = new Subscribers(newPubSubCounters(), () => undefined);
  const one = subscribers.add("t", { maxBytes: 2000 });
  for (let i = 1; i <= 1000; i++) subscribers.deliver(0, "r", message(i), i);
  assert.ok(one.bytes <= 2000);
});

test("in order: what comes early is held, a gap is reported after five seconds, what comes after that is late", () => {
  const counters = newPubSubCounters();
  const subscribers = new Subscribers(counters, () => undefined);
  const one = subscribers.add("t", { isOrdered: true });
  subscribers.deliver(0, "r", message(1), 1);
  subscribers.deliver(10, "r", message(3), 1);
  subscribers.deliver(20, "r", message(4), 1);
  assert.deepEqual(sequences(all(one)), [1]);
  assert.equal(subscribers.nextTimeoutMs, 5010);
  subscribers.handleTimeout(5010);
  const events = all(one);
  assert.deepEqual(events[0], { kind: "gap", publisher, epoch: 1, from: 2, to: 2 });
  assert.deepEqual(sequences(events), [3, 4]);
  subscribers.deliver(6000, "r", message(2), 4);
  assert.deepEqual(all(one), []);
  assert.equal(counters.subscriberLate, 1);
});

test("in order: what was before the first message is no gap once the floor is known to be above it", () => {
  const subscribers = new Subscribers(newPubSubCounters(), () => undefined);
  const one = subscribers.add("t", { isOrdered: true });
  subscribers.deliver(0, "r", message(500), 0);
  assert.deepEqual(all(one), []);
  subscribers.advance(50, "t", "r", 500);
  assert.deepEqual(
    all(one).map((event) => event.kind),
    ["message"],
  );
});

test("in order, whatever the arrival: ascending, once each, and every missing one is reported exactly once", () => {
  fc.assert(
    fc.property(fc.shuffledSubarray(Array.from({ length: 30 }, (_, i) => i + 1)), (arrival) => {
      const subscribers = new Subscribers(newPubSubCounters(), () => undefined);
      const one = subscribers.add("t", { isOrdered: true });
      subscribers.deliver(0, "r", message(0), 0);
      const had = new Set<number>();
      let floor = 0;
      for (const sequence of arrival) {
        had.add(sequence);
        while (had.has(floor + 1)) floor++;
        subscribers.deliver(1, "r", message(sequence), floor);
      }
      for (let due = subscribers.nextTimeoutMs; due < 1e9; due = subscribers.nextTimeoutMs)
        subscribers.handleTimeout(due);
      const events = all(one);
      const got = sequences(events).slice(1);
      assert.deepEqual(
        got,
        [...arrival].toSorted((a, b) => a - b),
      );
      const gaps = events.flatMap((event) =>
        event.kind === "gap" ? Array.from({ length: event.to - event.from + 1 }, (_, i) => event.from + i) : [],
      );
      const top = Math.max(0, ...arrival);
      const missing = Array.from({ length: top }, (_, i) => i + 1).filter((i) => !had.has(i));
      assert.deepEqual(gaps, missing);
    }),
  );
});

test("the last subscriber of a topic that leaves is told apart from others", () => {
  const subscribers = new Subscribers(newPubSubCounters(), () => undefined);
  const a = subscribers.add("t", {});
  const b = subscribers.add("t", {});
  assert.equal(subscribers.remove(a.id), undefined);
  assert.equal(subscribers.remove(b.id), "t");
  assert.equal(subscribers.remove(b.id), undefined);
});
