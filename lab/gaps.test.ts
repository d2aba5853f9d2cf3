/** Gaps are read as they are: windows, edges, and nothing that came at all. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { histogram, longestGapMs } from "./gaps.ts";

test("the longest gap is the one that ends in the window, also when it began before it", () => {
  const times = [0, 10, 20, 120, 130, 140, 190];
  assert.equal(longestGapMs(times, 15, 135), 100);
  assert.equal(longestGapMs(times, 100, 135), 100);
  assert.equal(longestGapMs(times, 125, 200), 50);
  assert.equal(longestGapMs(times, 125, 290), 100, "the one at the end counts");
  assert.equal(longestGapMs(times, -30, 5), 30, "without anything before, from the beginning of the window");
  assert.equal(longestGapMs(times, 200, 300), Number.POSITIVE_INFINITY);
  assert.equal(longestGapMs([], 0, 1), Number.POSITIVE_INFINITY);
});

test("a histogram counts every gap once and gives the percentiles", () => {
  const lines = histogram([10, 25, 26, 400, Number.POSITIVE_INFINITY]);
  assert.deepEqual(
    lines.slice(0, -1).map((line) => line.trim().split(/\s+/).slice(0, 4).join(" ")),
    ["≤ 25 ms 2", "≤ 50 ms 1", "≤ 500 ms 1", "> 2000 ms 1"],
  );
  assert.match(lines.at(-1) ?? "", /median 26 ms, P95 Infinity ms, largest Infinity ms of 5/);
});
