import assert from "node:assert/strict";
import { test } from "node:test";
import { ClassBudget } from "./budget.ts";
import { StreamClass } from "./types.ts";

/** A path of `bytesPerMs` and `rttMs` that a bulk stream fills for `forMs`. @returns the most that was in flight at the end */
function fill(budget: ClassBudget, bytesPerMs: number, rttMs: number, forMs: number): number {
  const sent: { readonly atMs: number; readonly bytes: number }[] = [];
  let queued = 0;
  let most = 0;
  budget.setRtt(rttMs);
  for (let nowMs = 0; nowMs < forMs; nowMs++) {
    const room = budget.room(StreamClass.BULK, false);
    budget.noteWritten(StreamClass.BULK, room);
    queued += room;
    const bytes = Math.min(queued, bytesPerMs);
    queued -= bytes;
    if (bytes > 0) sent.push({ atMs: nowMs, bytes });
    while (sent.length > 0 && sent[0].atMs + rttMs <= nowMs) {
      budget.noteAcknowledged(nowMs, StreamClass.BULK, sent.shift()?.bytes ?? 0);
    }
    if (nowMs > forMs / 2) most = Math.max(most, budget.inFlight[StreamClass.BULK]);
  }
  return most;
}

test("a long transfer may have twice the path's capacity in flight, and no less than 64 KiB", () => {
  for (const [bytesPerMs, rttMs] of [
    [10_000, 100],
    [2_000, 100],
    [20, 50],
    [10_000, 2],
  ] as const) {
    const most = fill(new ClassBudget(0), bytesPerMs, rttMs, 5_000);
    const capacity = Math.max(65_536, 2 * bytesPerMs * rttMs);
    assert.ok(most <= capacity * 1.1, `${bytesPerMs} B/ms, ${rttMs} ms: ${most} of ${capacity}`);
    assert.ok(
      most >= Math.min(capacity * 0.8, 8 << 20),
      `${bytesPerMs} B/ms, ${rttMs} ms: only ${most} of ${capacity}`,
    );
  }
});

test("urgent classes have their own room, and bulk gives way while one of them waits", () => {
  const budget = new ClassBudget(0);
  budget.noteWritten(StreamClass.BULK, 65_536);
  budget.noteWritten(StreamClass.PUBSUB, 65_536);
  assert.equal(budget.room(StreamClass.BULK, false), 0);
  assert.equal(budget.room(StreamClass.CONTROL, true), 1 << 20);
  budget.noteWritten(StreamClass.CONTROL, 1 << 20);
  assert.equal(budget.room(StreamClass.CONTROL, false), 0);
  assert.equal(budget.room(StreamClass.DIRECT, true), 1 << 20);
  budget.noteAcknowledged(1, StreamClass.BULK, 65_536);
  assert.equal(budget.room(StreamClass.BULK, false), 65_536);
  assert.equal(budget.room(StreamClass.BULK, true), 32_768);
});
