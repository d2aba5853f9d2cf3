/** Receive queue, scores, pool size and the table of streams: what happens at their bounds. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { FrameType } from "./frames.ts";
import { hlcOf } from "./message.ts";
import { PoolSize } from "./pool-size.ts";
import { ReceiveQueue } from "./receive-queue.ts";
import { REFUSED_BELOW, ScoreBoard, ScoreKind } from "./scores.ts";
import { StreamTable } from "./streams.ts";
import { newPubSubCounters } from "./types.ts";

function frameOf(type: number, bytes = 100): Uint8Array {
  const frame = new Uint8Array(bytes);
  frame[0] = type;
  return frame;
}

test("a full receive queue gives up chatter first, then bulk, then the oldest messages, and counts each", () => {
  const counters = newPubSubCounters();
  const logged: string[] = [];
  const queue = new ReceiveQueue({ maxBytes: 100_000, maxFrames: 9 }, counters, (level) => logged.push(level));
  for (let i = 0; i < 3; i++) queue.push(0, `a${i}`, frameOf(FrameType.IHAVE));
  for (let i = 0; i < 3; i++) queue.push(0, `b${i}`, frameOf(FrameType.ANSWER));
  for (let i = 0; i < 3; i++) queue.push(0, `c${i}`, frameOf(FrameType.PUSH));
  for (let i = 0; i < 8; i++) queue.push(0, `d${i}`, frameOf(FrameType.PUSH));
  assert.deepEqual([counters.receiveShedChatter, counters.receiveShedBulk, counters.receiveShedNormal], [3, 3, 2]);
  queue.push(0, "e", frameOf(FrameType.IWANT));
  assert.equal(counters.receiveShedChatter, 4, "something less important than all that waits is not taken");
  assert.equal(queue.frames, 9);
  const order: string[] = [];
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) order.push(next.from);
  assert.deepEqual(order, ["c2", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"]);
  assert.equal(queue.bytes, 0);
  assert.deepEqual(logged, ["info", "warn"], "a trend line at half, a warning at 80 %, each once in 30 s");
});

test("one peer holds a quarter of the receive queue at most", () => {
  const counters = newPubSubCounters();
  const queue = new ReceiveQueue({ maxBytes: 40_000, maxFrames: 1000 }, counters, () => undefined);
  for (let i = 0; i < 20; i++) queue.push(0, "flood", frameOf(FrameType.PUSH, 1000));
  assert.equal(queue.bytes, 10_000);
  assert.equal(counters.receiveShedNormal, 10);
  queue.push(0, "other", frameOf(FrameType.PUSH, 1000));
  assert.equal(queue.frames, 11);
});

test("the receive queue never holds more than its bounds, and gives out in the order of arrival", () => {
  const one = fc.record({
    from: fc.constantFrom("a", "b", "c", "d", "e"),
    type: fc.constantFrom(1, 2, 3, 4, 6, 9),
    bytes: fc.integer({ min: 1, max: 400 }),
    shift: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(one, { maxLength: 300 }), (steps) => {
      const queue = new ReceiveQueue({ maxBytes: 4000, maxFrames: 30 }, newPubSubCounters(), () => undefined);
      const order = new Map<Uint8Array, number>();
      let last = -1;
      steps.forEach((step, i) => {
        const frame = frameOf(step.type, step.bytes);
        order.set(frame, i);
        queue.push(i, step.from, frame);
        assert.ok(queue.bytes <= 4000 && queue.frames <= 30);
        if (!step.shift) return;
        const next = queue.shift();
        if (next === undefined) return;
        const at = order.get(next.frame) ?? -1;
        assert.ok(at > last);
        last = at;
      });
      while (queue.shift() !== undefined);
      assert.deepEqual([queue.bytes, queue.frames], [0, 0]);
    }),
  );
});

test("scores fall with time-outs and invalid frames, rise with first deliveries, and forget with time", () => {
  const board = new ScoreBoard();
  for (let i = 0; i < 100; i++) board.note(0, "good", ScoreKind.FIRST);
  for (let i = 0; i < 10; i++) board.note(0, "slow", ScoreKind.TIMEOUT);
  for (let i = 0; i < 5; i++) board.note(0, "liar", ScoreKind.INVALID);
  assert.ok(board.score(0, "good") > 0 && board.score(0, "slow") < 0);
  assert.ok(board.score(0, "liar") < REFUSED_BELOW);
  assert.equal(board.isRefused(0, "liar"), true);
  assert.equal(board.isRefused(0, "slow"), false);
  assert.equal(board.score(0, "nobody"), 0);
  assert.equal(board.isRefused(1_200_000, "liar"), false);
});

test("a snapshot of scores never changes once it was given out", () => {
  const board = new ScoreBoard();
  board.note(0, "a", ScoreKind.FIRST);
  const before = board.snapshot(2000);
  const copy = structuredClone([...before]);
  for (let i = 0; i < 50; i++) board.note(2000, "a", ScoreKind.TIMEOUT);
  board.note(2000, "b", ScoreKind.FIRST);
  assert.deepEqual([...before], copy);
  assert.notEqual(board.snapshot(4000), before);
});

test("the pool grows quickly under load, shrinks slowly, and does not swing at a border", () => {
  const pool = new PoolSize(4);
  const calm = { backlog: 0, ratePerSecond: 10, dispatchMs: 1, timeouts: 0 };
  const busy = { backlog: 500, ratePerSecond: 5000, dispatchMs: 50, timeouts: 0 };
  assert.equal(pool.update(0, calm), 0);
  let nowMs = 0;
  for (; nowMs <= 1000; nowMs += 250) pool.update(nowMs, busy);
  assert.equal(pool.size, 4);
  for (; nowMs < 20_000; nowMs += 250) pool.update(nowMs, calm);
  assert.equal(pool.size, 4);
  for (; nowMs < 200_000; nowMs += 250) pool.update(nowMs, calm);
  assert.equal(pool.size, 0);
  const border = new PoolSize(4);
  const sizes = new Set<number>();
  for (let i = 0; i < 1000; i++) {
    border.update(i * 250, { ...calm, ratePerSecond: i % 2 === 0 ? 900 : 1100 });
    if (i > 10) sizes.add(border.size);
  }
  assert.equal(sizes.size, 1);
});

test("an epoch older than the oldest kept of its publisher is too old, and so is what was forgotten", () => {
  const counters = newPubSubCounters();
  const table = new StreamTable(8, counters, () => undefined);
  const publisher = (n: number): Uint8Array => new Uint8Array(32).fill(n);
  for (let epoch = 1; epoch <= 5; epoch++) table.open(epoch, publisher(1), epoch, hlcOf(1000)).add(1);
  assert.equal(table.isTooOld(publisher(1), 1, hlcOf(900)), true);
  assert.equal(table.isTooOld(publisher(1), 2, hlcOf(900)), false);
  for (let n = 2; n < 12; n++) {
    const stream = table.open(100 + n, publisher(n), 1, hlcOf(2000));
    stream.lastMs = 100 + n;
    stream.hlc = hlcOf(1500);
  }
  assert.ok(table.size <= 8);
  assert.ok(counters.streamsForgotten > 0);
  assert.equal(table.isTooOld(publisher(2), 1, hlcOf(1500)), true, "it may have been delivered before");
  assert.equal(table.isTooOld(publisher(2), 1, hlcOf(1501)), false);
});

test("claims of streams nobody has shown stay few, and do not touch verified ones", () => {
  const table = new StreamTable(8, newPubSubCounters(), () => undefined);
  const real = table.open(0, new Uint8Array(32), 1, hlcOf(1));
  for (let i = 0; i < 2000; i++) table.claim(i, i.toString(16).padStart(16, "0"));
  assert.ok(table.size <= 257);
  assert.equal(table.byRef(real.ref), real);
});
