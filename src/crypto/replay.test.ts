import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Drop } from "../base/drop.ts";
import { REPLAY_MAX_COUNTERS, REPLAY_MIN_COUNTERS, ReplayWindow } from "./replay.ts";

/** What the window must be: a set of numbers and the highest of them. */
class PlainWindow {
  readonly #seen = new Set<number>();
  #top = -1;
  /** Counters below this count as old whatever the size is: a smaller window has forgotten them. */
  #floor = 0;
  #size: number;

  constructor(size: number) {
    this.#size = size;
  }

  check(counter: number): number {
    if (counter > this.#top) return Drop.NONE;
    if (counter <= this.#top - this.#size) return Drop.OLD;
    return counter < this.#floor || this.#seen.has(counter) ? Drop.REPLAY : Drop.NONE;
  }

  mark(counter: number): void {
    this.#seen.add(counter);
    this.#top = Math.max(this.#top, counter);
    this.#floor = Math.max(this.#floor, this.#top - this.#size + 1);
  }

  resize(size: number): void {
    this.#size = size;
    this.#floor = Math.max(this.#floor, this.#top - size + 1);
  }
}

const split = (counter: number): [number, number] => [counter % 2 ** 32, Math.floor(counter / 2 ** 32)];

test("equals a plain set under random jumps, repeats, laggards and resizes, also across the 32-bit border", () => {
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant("ahead" as const), by: fc.integer({ min: 1, max: 70 }) }) },
    {
      weight: 6,
      arbitrary: fc.record({ kind: fc.constant("behind" as const), by: fc.integer({ min: 0, max: 9000 }) }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("behind" as const), by: fc.integer({ min: 0, max: 80 }) }) },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant("ahead" as const), by: fc.integer({ min: 8000, max: 140_000 }) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("resize" as const),
        by: fc.constantFrom(8192, 16_384, 32_768, 131_072),
      }),
    },
  );
  fc.assert(
    fc.property(
      fc.constantFrom(0, 5, 2 ** 32 - 60, 2 ** 40),
      fc.array(step, { minLength: 50, maxLength: 300 }),
      (start, steps) => {
        const window = new ReplayWindow();
        const plain = new PlainWindow(REPLAY_MIN_COUNTERS);
        let top = start;
        let highest = -1;
        for (const { kind, by } of steps) {
          if (kind === "resize") {
            window.resize(by);
            plain.resize(by);
            continue;
          }
          const counter = Math.max(0, kind === "ahead" ? top + by : top - by);
          const [low, high] = split(counter);
          const verdict = window.check(low, high);
          assert.equal(verdict, plain.check(counter), `counter ${counter}, top ${top}`);
          if (verdict !== Drop.NONE) continue;
          window.mark(low, high);
          plain.mark(counter);
          top = Math.max(top, counter);
          assert.equal(window.check(low, high), Drop.REPLAY);
          highest = Math.max(highest, counter);
          assert.equal(window.highest, highest);
        }
      },
    ),
    { numRuns: 200 },
  );
});

test("the window reaches back exactly as many counters as it has", () => {
  for (const size of [8192, 131_072]) {
    const window = new ReplayWindow(size);
    window.mark(1_000_000, 0);
    assert.equal(window.check(1_000_000 - size + 1, 0), Drop.NONE);
    assert.equal(window.check(1_000_000 - size, 0), Drop.OLD);
  }
});

test("growing does not open the door to what the smaller window had let go", () => {
  const window = new ReplayWindow();
  window.mark(5, 0);
  window.mark(50_000, 0);
  assert.equal(window.check(5, 0), Drop.OLD);
  window.resize(131_072);
  assert.equal(window.check(5, 0), Drop.REPLAY);
  assert.equal(window.check(50_000 - 8191, 0), Drop.NONE, "what was still open stays open");
});

test("sizes are powers of two within the bounds; counters that no epoch reaches are refused; reset forgets", () => {
  assert.equal(new ReplayWindow(1).counters, REPLAY_MIN_COUNTERS);
  assert.equal(new ReplayWindow(8193).counters, 16_384);
  assert.equal(new ReplayWindow(1e9).counters, REPLAY_MAX_COUNTERS);
  const window = new ReplayWindow();
  assert.equal(window.check(0, 0xffffffff), Drop.OLD);
  window.mark(7, 1);
  window.reset();
  assert.equal(window.check(7, 1), Drop.NONE);
  assert.equal(window.highest, -1);
});
