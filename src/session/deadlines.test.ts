import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { nextTimestamp, encodeTimestamp, timestampWallMs } from "./handshake.ts";
import { compare } from "../base/bytes.ts";
import { Deadlines } from "./deadlines.ts";
import { DEFAULT_TIMES, jittered, Resend, rekeyAgeMs } from "./rekey.ts";
import { SeededRandom } from "../base/random.ts";

test("deadlines equal a plain map under random moves and removals", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ slot: fc.nat(15), at: fc.oneof(fc.nat(100), fc.constant(Infinity)), take: fc.nat(100) }), {
        maxLength: 200,
      }),
      (steps) => {
        const deadlines = new Deadlines();
        const plain = new Map<number, number>();
        for (const { slot, at, take } of steps) {
          deadlines.set(slot, at);
          if (at === Infinity) plain.delete(slot);
          else plain.set(slot, at);
          const earliest = Math.min(Infinity, ...plain.values());
          assert.equal(deadlines.next(), earliest);
          const due = deadlines.takeDue(take);
          assert.equal(due >= 0, earliest <= take);
          if (due < 0) continue;
          assert.equal(plain.get(due), earliest);
          plain.delete(due);
        }
      },
    ),
  );
});

test("a retained message is resent after 250, 750, 1,750, 3,750 and 7,750 ms, then it is spent", () => {
  const resend = new Resend();
  resend.start(0, DEFAULT_TIMES);
  const at: number[] = [];
  while (resend.dueMs !== Infinity) {
    const dueMs = resend.dueMs;
    if (resend.fire(dueMs, DEFAULT_TIMES) === "send") at.push(dueMs);
  }
  assert.deepEqual(at, [250, 750, 1750, 3750, 7750]);
});

test("jitter stays within its share and is not constant", () => {
  const random = new SeededRandom(1);
  const values = Array.from({ length: 200 }, () => jittered(120_000, 0.1, random));
  assert.ok(values.every((value) => value >= 108_000 && value <= 132_000));
  assert.ok(Math.max(...values) - Math.min(...values) > 20_000);
});

test("sessions that began together do not rekey together: the first rekeys are spread, in no tenth of their time more than a fifth", () => {
  const random = new SeededRandom(2);
  const { rekeyMs } = DEFAULT_TIMES;
  const first = Array.from({ length: 1_000 }, () => rekeyAgeMs(true, true, DEFAULT_TIMES, random));
  assert.ok(first.every((ageMs) => ageMs >= rekeyMs * 0.3 && ageMs <= rekeyMs * 1.1));
  const slots = Array.from({ length: 10 }, () => 0);
  for (const ageMs of first) slots[Math.floor(((ageMs / rekeyMs - 0.3) / 0.8) * 10)]++;
  assert.ok(Math.max(...slots) < 200, slots.join());
  const later = Array.from({ length: 1_000 }, () => rekeyAgeMs(true, false, DEFAULT_TIMES, random));
  assert.ok(later.every((ageMs) => ageMs >= rekeyMs * 0.9 && ageMs <= rekeyMs * 1.1));
  assert.equal(rekeyAgeMs(false, true, DEFAULT_TIMES, random), DEFAULT_TIMES.takeOverMs);
});

test("timestamps order as bytes like the clock does, and the next one is the very next", () => {
  fc.assert(
    fc.property(fc.nat(4e12), fc.nat(4e12), (a, b) => {
      const [first, second] = [encodeTimestamp(a), encodeTimestamp(b)];
      assert.equal(Math.sign(compare(first, second)), Math.sign(a - b));
      assert.ok(Math.abs(timestampWallMs(first) - a) < 0.001);
      assert.ok(compare(nextTimestamp(first), first) > 0);
    }),
  );
  const last = encodeTimestamp(0);
  last.set([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x3b, 0x9a, 0xc9, 0xff]);
  assert.deepEqual([...nextTimestamp(last)], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], "carries through both words");
});
