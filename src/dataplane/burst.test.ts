import assert from "node:assert/strict";
import { test } from "node:test";
import { BurstControl, MAX_BURST_SEGMENTS } from "./burst.ts";

test("a burst is about a millisecond of the measured rate and never more than 64 segments", () => {
  const burst = new BurstControl();
  assert.equal(burst.update(0, 0, 1_472, 0), MAX_BURST_SEGMENTS);
  assert.equal(burst.update(0, 10e9, 1_472, 0), MAX_BURST_SEGMENTS);
  const slow = burst.update(0, 250e6, 1_472, 0);
  assert.ok(slow * 1_472 * 8 < 250e6 * 0.0014 && slow > 10, `${slow}`);
  assert.equal(burst.update(0, 1e6, 1_472, 0), 2);
});

test("batches rest for a minute when sending without them halves the loss", () => {
  const burst = new BurstControl();
  assert.equal(burst.update(1_000, 10e9, 1_472, 0.2), 1);
  assert.equal(burst.update(2_900, 10e9, 1_472, 0.05), 1);
  assert.equal(burst.update(3_100, 10e9, 1_472, 0.01), 1);
  assert.equal(burst.fallbacks, 1);
  assert.equal(burst.update(60_000, 10e9, 1_472, 0), 1);
  assert.equal(burst.update(64_000, 10e9, 1_472, 0), MAX_BURST_SEGMENTS);
});

test("loss that has nothing to do with batches changes nothing for long", () => {
  const burst = new BurstControl();
  assert.equal(burst.update(1_000, 10e9, 1_472, 0.1), 1);
  assert.equal(burst.update(3_100, 10e9, 1_472, 0.1), MAX_BURST_SEGMENTS);
  assert.equal(burst.update(60_000, 10e9, 1_472, 0.1), MAX_BURST_SEGMENTS);
  assert.equal(burst.fallbacks, 0);
});
