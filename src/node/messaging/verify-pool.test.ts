/** Signatures in threads: the same verdicts as without, in order per lane. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import type { Clock } from "../clock.ts";
import { VerifyPool } from "./verify-pool.ts";

const KIND = "publish";
const NETWORK = new Uint8Array(32).fill(1);

/** Time moves when the test says so. */
class HandClock implements Clock {
  nowMs = 1000;
  now(): { nowMs: number; wallMs: number } {
    return { nowMs: this.nowMs, wallMs: this.nowMs };
  }
  schedule(): () => void {
    return () => undefined;
  }
}

interface World {
  readonly pool: VerifyPool;
  readonly clock: HandClock;
  readonly verdicts: Map<number, boolean>;
  readonly order: number[];
  /** @returns whether the answer came at once */
  check(id: number, isGood: boolean, lane: number): boolean;
  settle(count: number): Promise<void>;
}

function world(): World {
  const clock = new HandClock();
  const identity = new Identity(new SeededRandom(5).bytes(32));
  const body = new Uint8Array(500).fill(7);
  const good = identity.sign(KIND, NETWORK, body);
  const bad = Uint8Array.from(good);
  bad[3] ^= 1;
  const verdicts = new Map<number, boolean>();
  const order: number[] = [];
  const note = (id: number, isGood: boolean): void => {
    assert.equal(verdicts.has(id), false, "one verdict each");
    verdicts.set(id, isGood);
    order.push(id);
  };
  const pool = new VerifyPool(KIND, clock, () => NETWORK, note, 2);
  return {
    pool,
    clock,
    verdicts,
    order,
    check(id, isGood, lane) {
      const verdict = pool.check({ id, publisher: identity.nodeId, body, signature: isGood ? good : bad }, lane);
      if (verdict !== undefined) note(id, verdict);
      return verdict !== undefined;
    },
    async settle(count) {
      for (let i = 0; i < 2000 && verdicts.size < count; i++) await new Promise((resolve) => setTimeout(resolve, 5));
      assert.equal(verdicts.size, count);
    },
  };
}

/** So many checks that the pool wants threads. */
function load(one: World, from: number): number {
  let id = from;
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 600; i++, id++) one.check(id, id % 5 !== 0, id % 3);
    one.clock.nowMs += 250;
  }
  return id;
}

test("few checks are answered at once; many go to threads and come back with the same verdicts, in order per lane", async (t) => {
  const one = world();
  t.after(() => one.pool.close());
  assert.equal(one.check(0, true, 0), true);
  const count = load(one, 1);
  assert.ok(one.pool.threads >= 1);
  assert.ok(one.pool.counters.inThreads > 0);
  await one.settle(count);
  for (const [id, isGood] of one.verdicts) assert.equal(isGood, id === 0 || id % 5 !== 0, `${id}`);
  for (const lane of [0, 1, 2]) {
    const ids = one.order.filter((id) => id % 3 === lane);
    assert.deepEqual(
      ids,
      ids.toSorted((a, b) => a - b),
    );
  }
});

test("without a network every signature is wrong, and closing leaves nothing behind", async () => {
  const pool = new VerifyPool(
    KIND,
    new HandClock(),
    () => undefined,
    () => assert.fail("no verdict"),
    1,
  );
  const job = { id: 1, publisher: NETWORK, body: NETWORK, signature: new Uint8Array(64) };
  assert.equal(pool.check(job, 0), false);
  pool.close();
});
