/** Who is spared, for how long, and how it comes back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Cooling } from "./cooling.ts";

function cooling(mayCool = true): { cooling: Cooling; cooled: number[]; probes: number[]; back: number[] } {
  const cooled: number[] = [];
  const probes: number[] = [];
  const back: number[] = [];
  let nonce = 0;
  return {
    cooled,
    probes,
    back,
    cooling: new Cooling({
      mayCool: () => mayCool,
      cooled: (_now, _peer, _topic, forMs) => cooled.push(forMs),
      probe: (nowMs) => {
        probes.push(nowMs);
        return ++nonce;
      },
      recovered: (nowMs) => back.push(nowMs),
    }),
  };
}

/** Lets time pass up to `toMs`. */
function pass(one: Cooling, toMs: number): void {
  for (let due = one.nextTimeoutMs; due <= toMs; due = one.nextTimeoutMs) one.handleTimeout(due);
}

test("five time-outs among the last ten sends cool a peer for a topic, four do not", () => {
  const { cooling: one, cooled } = cooling();
  for (let i = 0; i < 20; i++) one.noteSend(i, "a", "t", i % 3 !== 0);
  assert.deepEqual(cooled, []);
  for (let i = 0; i < 10; i++) one.noteSend(i, "a", "t", i % 2 === 0);
  assert.deepEqual(cooled, [30_000]);
  assert.equal(one.isCooled("a", "t"), true);
  assert.equal(one.isCooled("a", "other"), false);
  assert.equal(one.isCooled("b", "t"), false);
});

test("a queue wait above five seconds that lasts ten cools; a shorter one does not", () => {
  const { cooling: one, cooled } = cooling();
  one.noteWait(0, "a", "t", 6000);
  one.noteWait(5000, "a", "t", 6000);
  one.noteWait(9000, "a", "t", 100);
  one.noteWait(12_000, "a", "t", 6000);
  one.noteWait(21_000, "a", "t", 6000);
  assert.deepEqual(cooled, []);
  one.noteWait(22_000, "a", "t", 6000);
  assert.deepEqual(cooled, [30_000]);
});

test("one probe at a time; without an answer the time doubles up to 300 s; only a verified frame brings it back and resets that", () => {
  const { cooling: one, cooled, probes, back } = cooling();
  for (let i = 0; i < 5; i++) one.noteSend(0, "a", "t", false);
  pass(one, 3_000_000);
  assert.deepEqual(cooled.slice(0, 6), [30_000, 60_000, 120_000, 240_000, 300_000, 300_000]);
  assert.ok(cooled.length - probes.length <= 1, "each time one probe");
  for (let i = 1; i < probes.length; i++) assert.ok(probes[i] - probes[i - 1] >= 60_000);
  // a frame while it is cooled proves nothing about what it can take
  one.noteVerified(3_000_000, "a", "t");
  const isProbing = one.list()[0].phase === "probing";
  if (!isProbing) assert.deepEqual(back, []);
  while (one.list()[0]?.phase === "cooled") one.handleTimeout(one.nextTimeoutMs);
  assert.equal(one.isEcho("a", "t", 999_999), false);
  assert.equal(one.isEcho("a", "t", probes.length), true);
  one.noteVerified(4_000_000, "a", "t");
  assert.equal(back.length, 1);
  assert.equal(one.isCooled("a", "t"), false);
  for (let i = 0; i < 5; i++) one.noteSend(5_000_000, "a", "t", false);
  assert.equal(cooled.at(-1), 30_000);
});

test("who may not be cooled (the last eager peer of a topic) is asked about again at the next time-out", () => {
  const { cooling: one, cooled } = cooling(false);
  for (let i = 0; i < 10; i++) one.noteSend(i, "a", "t", false);
  assert.deepEqual(cooled, []);
  assert.equal(one.isCooled("a", "t"), false);
});

test("the list is cleaned: entries that are well again go, and nothing is due when it is empty", () => {
  const { cooling: one } = cooling();
  for (let i = 0; i < 50; i++) one.noteSend(0, `p${i}`, "t", false);
  assert.equal(one.size, 50);
  for (let i = 0; i < 50; i++) for (let j = 0; j < 10; j++) one.noteSend(1, `p${i}`, "t", true);
  pass(one, 1_000_000);
  assert.equal(one.size, 0);
  assert.equal(one.nextTimeoutMs, Number.POSITIVE_INFINITY);
});
