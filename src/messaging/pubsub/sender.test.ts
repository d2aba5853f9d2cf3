/** One peer's sender: budget, queue, time-outs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PeerSender } from "./sender.ts";
import { newPubSubCounters, SendPriority, type SendTicket } from "./types.ts";

const kib64 = 65_536;

function sender(): { peer: PeerSender; counters: ReturnType<typeof newPubSubCounters>; judged: boolean[] } {
  const counters = newPubSubCounters();
  const judged: boolean[] = [];
  return { peer: new PeerSender("a", counters, (_, isInTime) => judged.push(isInTime)), counters, judged };
}

const frame = (bytes: number): Uint8Array => new Uint8Array(bytes);

test("no more than the budget is in flight, and what comes back makes room for what waits", () => {
  const { peer } = sender();
  for (let i = 0; i < 100; i++) peer.offer(0, "t", frame(1024), SendPriority.PUSH);
  const taken: SendTicket[] = [];
  for (let ticket = peer.take(0, 10); ticket !== undefined; ticket = peer.take(0, 10)) taken.push(ticket);
  assert.equal(taken.length, kib64 / 1024);
  peer.done(5, taken[0], "flushed", 10);
  assert.ok(peer.take(5, 10) !== undefined);
  assert.equal(peer.take(5, 10), undefined);
});

test("the budget grows to twice the measured rate times the round trip", () => {
  const { peer } = sender();
  let nowMs = 0;
  // 1 MiB per 100 ms: what is asked for comes back at once
  for (let i = 0; i < 200; i++) {
    for (let j = 0; j < 5; j++) peer.offer(nowMs, "t", frame(10_000), SendPriority.PUSH);
    for (let ticket = peer.take(nowMs, 200); ticket !== undefined; ticket = peer.take(nowMs, 200))
      peer.done(nowMs + 5, ticket, "flushed", 200);
    nowMs += 5;
  }
  // 10,000 bytes per millisecond × 200 ms × 2
  const budget = peer.budgetBytes(200);
  assert.ok(budget > 3_000_000 && budget < 5_000_000, `${budget}`);
  assert.equal(peer.budgetBytes(0), kib64);
});

test("what is most important goes first; at the bound the least important and oldest goes", () => {
  const { peer, counters } = sender();
  for (let i = 0; i < 64; i++) peer.offer(0, "t", frame(1024), SendPriority.PUSH);
  while (peer.take(0, 10) !== undefined);
  peer.offer(1, "t", frame(10), SendPriority.CHATTER);
  peer.offer(2, "t", frame(10), SendPriority.CONTROL);
  for (let i = 0; i < 1100; i++) peer.offer(3, "t", frame(1000), SendPriority.ANSWER);
  assert.ok(counters.sendShed > 0);
  assert.ok(peer.queuedBytes <= 1_048_576);
  const order: number[] = [];
  const other = sender().peer;
  for (const priority of [SendPriority.CHATTER, SendPriority.ANSWER, SendPriority.PUSH, SendPriority.CONTROL])
    other.offer(0, "t", frame(10), priority);
  for (let ticket = other.take(0, 10); ticket !== undefined; ticket = other.take(0, 10)) order.push(ticket.priority);
  assert.deepEqual(order, [0, 1, 2, 3]);
});

test("the time-out begins at 2.5 s and follows 2.5 × p95 within 1.5 to 10 s; a time-out counts once and as a sample", () => {
  const { peer, counters, judged } = sender();
  assert.equal(peer.timeoutMs, 2500);
  let nowMs = 0;
  const send = (tookMs: number): void => {
    peer.offer(nowMs, "t", frame(10), SendPriority.PUSH);
    const ticket = peer.take(nowMs, 10);
    assert.ok(ticket !== undefined);
    nowMs += tookMs;
    peer.expire(nowMs);
    peer.done(nowMs, ticket, "flushed", 10);
  };
  for (let i = 0; i < 32; i++) send(100);
  assert.equal(peer.timeoutMs, 1500);
  for (let i = 0; i < 32; i++) send(1200);
  assert.equal(peer.timeoutMs, 3000);
  for (let i = 0; i < 64; i++) send(20_000);
  assert.equal(peer.timeoutMs, 10_000);
  assert.equal(counters.sendTimeouts, 64);
  assert.equal(judged.filter((isInTime) => !isInTime).length, 64);
});

test("a frame that the transport had no room for goes again, after a pause, before the others", () => {
  const { peer } = sender();
  peer.offer(0, "t", frame(11), SendPriority.PUSH);
  peer.offer(0, "t", frame(12), SendPriority.PUSH);
  const ticket = peer.take(0, 10);
  assert.ok(ticket !== undefined);
  peer.done(0, ticket, "full", 10);
  assert.equal(peer.take(10, 10), undefined);
  assert.equal(peer.dueMs, 50);
  assert.equal(peer.take(50, 10)?.frame.length, 11);
});

test("a ticket of an earlier sender for the same peer changes nothing", () => {
  const before = sender().peer;
  before.offer(0, "t", frame(100), SendPriority.PUSH);
  const ticket = before.take(0, 10);
  const { peer } = sender();
  assert.ok(ticket !== undefined);
  peer.done(1, ticket, "flushed", 10);
  assert.equal(peer.inFlightBytes, 0);
});

test("whatever is offered, taken and given back, the bytes in flight are those of the tickets out", () => {
  const step = fc.oneof(
    fc.record({ offer: fc.integer({ min: 1, max: 20_000 }), priority: fc.constantFrom(0, 1, 2, 3) }),
    fc.record({ take: fc.constant(true) }),
    fc.record({ back: fc.nat(50), fate: fc.constantFrom("flushed" as const, "lost" as const, "full" as const) }),
    fc.record({ pass: fc.integer({ min: 1, max: 5000 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const { peer } = sender();
      const out: SendTicket[] = [];
      let nowMs = 0;
      for (const one of steps) {
        if ("offer" in one) peer.offer(nowMs, "t", frame(one.offer), one.priority);
        else if ("take" in one) {
          const ticket = peer.take(nowMs, 10);
          if (ticket !== undefined) out.push(ticket);
        } else if ("back" in one) {
          const [ticket] = out.splice(one.back % Math.max(1, out.length), 1);
          if (ticket !== undefined) peer.done(nowMs, ticket, one.fate, 10);
        } else {
          nowMs += one.pass;
          peer.expire(nowMs);
        }
        assert.equal(
          peer.inFlightBytes,
          out.reduce((sum, ticket) => sum + ticket.frame.length, 0),
        );
        assert.ok(peer.queuedBytes >= 0 && peer.queuedBytes <= 1_048_576);
      }
    }),
  );
});
