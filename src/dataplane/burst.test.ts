import assert from "node:assert/strict";
import { test } from "node:test";
import { BurstControl, MAX_BURST_SEGMENTS } from "./burst.ts";

/** Ten updates a second for `seconds`; the loss is what the path would show for that many segments per send. */
function drive(burst: BurstControl, fromMs: number, seconds: number, loss: (segments: number) => number): number {
  let nowMs = fromMs;
  let ratio = loss(burst.segments);
  for (; nowMs < fromMs + seconds * 1_000; nowMs += 100) {
    burst.update(nowMs, 10e9, 1_472, ratio);
    ratio = loss(burst.segments);
  }
  return nowMs;
}

test("a burst is about a millisecond of the measured rate and never more than 64 segments", () => {
  const burst = new BurstControl();
  assert.equal(burst.update(0, 0, 1_472, 0), MAX_BURST_SEGMENTS);
  assert.equal(burst.update(0, 10e9, 1_472, 0), MAX_BURST_SEGMENTS);
  const slow = burst.update(0, 250e6, 1_472, 0);
  assert.ok(slow * 1_472 * 8 < 250e6 * 0.0014 && slow > 10, `${slow}`);
  assert.equal(burst.update(0, 1e6, 1_472, 0), 2);
});

test("batches rest for a minute when sending without them at least halves the loss", () => {
  const burst = new BurstControl();
  const endMs = drive(burst, 0, 10, (segments) => (segments > 1 ? 0.2 : 0.01));
  assert.equal(burst.fallbacks, 1);
  assert.equal(burst.segments, 1);
  drive(burst, endMs, 60, () => 0);
  assert.equal(burst.segments, MAX_BURST_SEGMENTS);
});

test("loss that has nothing to do with batches, or does not last, changes nothing for long", () => {
  const burst = new BurstControl();
  const endMs = drive(burst, 0, 30, () => 0.1);
  assert.equal(burst.fallbacks, 0);
  assert.equal(burst.segments, MAX_BURST_SEGMENTS);
  burst.update(endMs, 10e9, 1_472, 0);
  for (let i = 0; i < 50; i++) {
    const atMs = endMs + 200_000 + i * 4_000;
    assert.equal(burst.update(atMs, 10e9, 1_472, 0.2), MAX_BURST_SEGMENTS);
    assert.equal(burst.update(atMs + 2_000, 10e9, 1_472, 0), MAX_BURST_SEGMENTS);
  }
});
