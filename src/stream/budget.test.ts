import assert from "node:assert/strict";
import { test } from "node:test";
import { ClassBudget } from "./budget.ts";
import { StreamClass } from "./types.ts";

interface Link {
  readonly bytesPerMs: number;
  readonly rttMs: number;
  readonly forMs: number;
  /** Class 0 sends so many bytes each 100 ms. @default 0 */
  readonly urgentBytes?: number;
}

/** A path that a bulk stream fills. @returns the most that was in flight in the second half, what got through per ms, the queue in ms at its 99th percentile */
function fill(budget: ClassBudget, link: Link): { most: number; perMs: number; queueMs: number } {
  const sent: { readonly atMs: number; readonly bytes: number; readonly streamClass: StreamClass }[] = [];
  const queue: { bytes: number; readonly streamClass: StreamClass }[] = [];
  let most = 0;
  let through = 0;
  const queues: number[] = [];
  budget.setRtt(link.rttMs);
  const write = (nowMs: number, streamClass: StreamClass, bytes: number): void => {
    if (bytes <= 0) return;
    budget.noteWritten(nowMs, streamClass, bytes);
    queue.push({ bytes, streamClass });
  };
  for (let nowMs = 0; nowMs < link.forMs; nowMs++) {
    if (link.urgentBytes !== undefined && nowMs % 100 === 0) write(nowMs, StreamClass.CONTROL, link.urgentBytes);
    write(nowMs, StreamClass.BULK, budget.room(nowMs, StreamClass.BULK, false));
    for (let left = link.bytesPerMs; left > 0 && queue.length > 0;) {
      const [first] = queue;
      const bytes = Math.min(left, first.bytes);
      first.bytes -= bytes;
      left -= bytes;
      sent.push({ atMs: nowMs, bytes, streamClass: first.streamClass });
      if (first.bytes === 0) queue.shift();
    }
    while (sent.length > 0 && sent[0].atMs + link.rttMs <= nowMs) {
      const { streamClass, bytes } = sent.shift()!;
      budget.noteAcknowledged(nowMs, streamClass, bytes);
      if (nowMs > link.forMs / 2) through += bytes;
    }
    if (nowMs <= link.forMs / 2) continue;
    most = Math.max(most, budget.inFlight[StreamClass.BULK]);
    const queued = queue.reduce((sum, { bytes }) => sum + bytes, 0);
    queues.push(queued / link.bytesPerMs);
  }
  const queueMs = queues.toSorted((a, b) => a - b)[Math.floor(queues.length * 0.99)];
  return { most, perMs: through / (link.forMs / 2), queueMs };
}

test("a long transfer may have about twice the path's capacity in flight, and no less than 64 KiB", () => {
  for (const [bytesPerMs, rttMs] of [
    [10_000, 100],
    [2_000, 100],
    [20, 50],
    [10_000, 2],
  ] as const) {
    const { most } = fill(new ClassBudget(0), { bytesPerMs, rttMs, forMs: 8_000 });
    const capacity = Math.max(65_536, 2 * bytesPerMs * (rttMs + 5));
    assert.ok(most <= capacity * 1.2, `${bytesPerMs} B/ms, ${rttMs} ms: ${most} of ${capacity}`);
    assert.ok(
      most >= Math.min(capacity * 0.8, 8 << 20),
      `${bytesPerMs} B/ms, ${rttMs} ms: only ${most} of ${capacity}`,
    );
  }
});

test("a queue of its own making is not taken for the path, however long it stands", () => {
  const { most, perMs } = fill(new ClassBudget(0), { bytesPerMs: 5_000, rttMs: 40, forMs: 120_000 });
  assert.ok(most <= 2.5 * 5_000 * 45, `${most} bytes in flight`);
  assert.ok(perMs >= 0.95 * 5_000, `${perMs} of 5000 B/ms`);
});

test("while acknowledgements go, bulk fills the path and leaves a queue of a few milliseconds", () => {
  for (const [bytesPerMs, rttMs] of [
    [50_000, 1],
    [12_500, 20],
    [5_000, 100],
  ] as const) {
    const { perMs, queueMs } = fill(new ClassBudget(0), { bytesPerMs, rttMs, forMs: 40_000, urgentBytes: 200 });
    assert.ok(perMs >= 0.9 * bytesPerMs, `${bytesPerMs} B/ms, ${rttMs} ms: only ${perMs}`);
    assert.ok(queueMs <= 6 + rttMs * 0.4, `${bytesPerMs} B/ms, ${rttMs} ms: a queue of ${queueMs} ms`);
  }
});

test("urgent classes have their own room, and bulk gives way while one of them waits", () => {
  const budget = new ClassBudget(0);
  budget.noteWritten(0, StreamClass.BULK, 65_536);
  budget.noteWritten(0, StreamClass.PUBSUB, 65_536);
  assert.equal(budget.room(0, StreamClass.BULK, false), 0);
  assert.equal(budget.room(0, StreamClass.CONTROL, true), 1 << 20);
  budget.noteAcknowledged(1, StreamClass.BULK, 65_536);
  assert.equal(budget.room(1, StreamClass.BULK, false), 65_536);
  assert.equal(budget.room(1, StreamClass.BULK, true), 32_768);
  budget.noteWritten(1, StreamClass.CONTROL, 1 << 20);
  assert.equal(budget.room(1, StreamClass.CONTROL, false), 0);
  assert.equal(budget.room(1, StreamClass.DIRECT, true), 1 << 20);
});

test("publish/subscribe and bulk share what acknowledgements leave them", () => {
  const budget = new ClassBudget(0);
  budget.noteWritten(0, StreamClass.CONTROL, 100);
  const alone = budget.room(0, StreamClass.BULK, false);
  budget.noteWritten(0, StreamClass.PUBSUB, 1_000);
  assert.equal(budget.room(0, StreamClass.BULK, false), alone / 2);
  assert.equal(budget.room(0, StreamClass.PUBSUB, false), alone - 1_000);
});
