import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Held, heldBytes, largestOffer, roomFor } from "./quota.ts";

const held = (offeredBy: string | undefined, bytes: number, state: Held["state"] = "running"): Held => ({
  exact: false,
  offeredBy,
  state,
  sizeBytes: bytes,
  reservedBytes: state === "running" ? bytes : 0,
  diskBytes: state === "failed" ? bytes : 0,
  isGone: false,
});
const LIMITS = { quotaBytes: 1_000_000, largestBytes: 900_000 };

test("whatever is reserved within its room, the sum stays within the quota, and no member locks the others out", () => {
  const step = fc.record({
    who: fc.constantFrom("a", "b", "c", undefined),
    share: fc.double({ min: 0, max: 1, noNaN: true }),
    after: fc.constantFrom<Held["state"]>("running", "failed", "done"),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.nat(400_000), (steps, kept) => {
      const jobs: Held[] = [];
      for (const { who, share, after } of steps) {
        const room = roomFor(who, jobs, kept, LIMITS);
        const free = LIMITS.quotaBytes - kept - jobs.reduce((sum, job) => sum + heldBytes(job), 0);
        assert.ok(room <= free || room === 0);
        jobs.push(held(who, Math.floor(room * share), after));
        assert.ok(jobs.reduce((sum, job) => sum + heldBytes(job), kept) <= LIMITS.quotaBytes);
      }
    }),
  );
  const greedy = [held("a", largestOffer(LIMITS))];
  assert.equal(roomFor("a", greedy, 0, LIMITS), 0);
  assert.equal(roomFor("b", greedy, 0, LIMITS), 125_000);
  assert.equal(roomFor(undefined, greedy, 0, LIMITS), 250_000);
});

test("what is finished counts while it lies there, what was put elsewhere does not", () => {
  assert.equal(heldBytes(held("a", 5, "done")), 5);
  assert.equal(heldBytes({ ...held("a", 5, "done"), isGone: true }), 0);
  assert.equal(heldBytes({ ...held(undefined, 5, "done"), exact: true }), 0);
  assert.equal(heldBytes(held("a", 5, "cancelled")), 0);
});
