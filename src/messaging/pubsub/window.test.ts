/** The window of sequences against a plain set. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MAX_RANGES, SequenceWindow } from "./window.ts";

test("a window knows exactly what a plain set knows, whatever the order", () => {
  const step = fc.oneof(
    { weight: 8, arbitrary: fc.record({ add: fc.integer({ min: 1, max: 120 }) }) },
    { weight: 1, arbitrary: fc.record({ skip: fc.integer({ min: 1, max: 120 }) }) },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
      const window = new SequenceWindow();
      const plain = new Set<number>();
      for (const one of steps) {
        if ("add" in one) {
          assert.equal(window.add(one.add), 0);
          plain.add(one.add);
        } else {
          let given = 0;
          for (let i = 1; i <= one.skip; i++) {
            if (!plain.has(i)) given++;
            plain.add(i);
          }
          assert.equal(window.skipTo(one.skip), given);
        }
        for (let i = 1; i <= 125; i++) assert.equal(window.has(i), plain.has(i), `${i}`);
        let floor = 0;
        while (plain.has(floor + 1)) floor++;
        assert.equal(window.floor, floor);
        assert.equal(window.top, plain.size === 0 ? 0 : Math.max(...plain));
        const holes = window.missing(125, 1000).flatMap(({ from, to }) => span(from, to));
        assert.deepEqual(
          holes,
          span(1, 125).filter((i) => !plain.has(i)),
        );
        const above = window.ranges().flatMap(({ from, to }) => span(from, to));
        assert.deepEqual(
          above,
          span(1, 125).filter((i) => i > floor && plain.has(i)),
        );
      }
    }),
  );
});

test("at its bound the lowest hole is given up, and nothing above it", () => {
  const window = new SequenceWindow();
  for (let i = 0; i < MAX_RANGES; i++) assert.equal(window.add(10 + 3 * i), 0);
  assert.equal(window.add(10 + 3 * MAX_RANGES), 9);
  assert.equal(window.floor, 10);
  assert.equal(window.has(11), false);
  assert.equal(window.has(13), true);
  assert.equal(window.ranges().length, MAX_RANGES);
});

function span(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);
}
