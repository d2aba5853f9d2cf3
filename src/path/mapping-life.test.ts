import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MappingLife } from "./mapping-life.ts";

/** A NAT that forgets after `lifeMs`; keepalives until `untilMs`. @returns times at which the mapping was lost, and all intervals */
function run(lifeMs: number, untilMs: number): { readonly lost: number[]; readonly intervals: number[] } {
  const life = new MappingLife();
  const lost: number[] = [];
  const intervals: number[] = [];
  for (let atMs = 0; atMs < untilMs;) {
    const { intervalMs } = life;
    atMs += intervalMs;
    intervals.push(intervalMs);
    const isSame = intervalMs < lifeMs;
    if (!isSame) lost.push(atMs);
    life.answered(isSame);
  }
  return { lost, intervals };
}

test("behind a NAT that never forgets the interval grows to two minutes", () => {
  const { lost, intervals } = run(Infinity, 3_600_000);
  assert.deepEqual(lost, []);
  assert.equal(intervals.at(-1), 120_000);
  assert.ok(intervals.length < 40);
});

test("whatever the NAT's time-out, it is overrun a few times at most and never again after an hour", () => {
  fc.assert(
    fc.property(fc.integer({ min: 10_100, max: 300_000 }), (lifeMs) => {
      const { lost, intervals } = run(lifeMs, 8 * 3_600_000);
      assert.ok(lost.length <= 4, `lost ${lost.length} times`);
      assert.ok(lost.every((atMs) => atMs < 3_600_000));
      assert.ok(intervals.every((interval) => interval >= 10_000 && interval <= 120_000));
    }),
  );
});

test("another path begins anew", () => {
  const life = new MappingLife();
  for (let i = 0; i < 9; i++) life.answered(true);
  life.reset();
  assert.equal(life.intervalMs, 20_000);
});
