/** The impaired link in virtual time: every setting does what it says, from a seed, and nothing is lost uncounted. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SeededRandom } from "../src/base/random.ts";
import { DueHeap, Fate, LinkModel, settingsProblem, type LinkSettings } from "./link-model.ts";

const link = (settings: Partial<LinkSettings>, seed = 7): LinkModel => {
  const model = new LinkModel(new SeededRandom(seed));
  model.change(settings);
  return model;
};

test("delay and jitter keep the order", () => {
  const model = link({ delayMs: 100, jitterMs: 50 });
  let last = 0;
  for (let now = 0; now < 1_000; now++) {
    assert.equal(model.admit(now, 100), Fate.DELIVER);
    assert.ok(model.dueMs >= now + 100 && model.dueMs < now + 200 && model.dueMs >= last);
    last = model.dueMs;
  }
});

test("the token bucket passes its rate, lets one burst through and drops what its queue cannot hold", () => {
  const model = link({ rateBps: 8_000_000, burstBytes: 10_000, queueBytes: 20_000 });
  let out = 0;
  // 2 MB/s offered into 1 MB/s for 10 s.
  for (let now = 0; now < 10_000; now += 0.5) {
    if (model.admit(now, 1_000) !== Fate.DELIVER) continue;
    out += 1_000;
    assert.ok(model.dueMs - now <= 20 + 1e-6, `queued for ${model.dueMs - now} ms, 20,000 bytes are 20 ms`);
  }
  assert.ok(Math.abs(out - 10_030_000) <= 2_000, `${out} bytes passed`);
  assert.equal(model.packets, model.delivered + model.queueFull);
});

test("100 Mbit/s with half a second of delay loses nothing", () => {
  const model = link({ delayMs: 500, rateBps: 100e6, queueBytes: 65_536 });
  for (let index = 0; index < 100_000; index++) assert.equal(model.admit(index * 0.12, 1_500), Fate.DELIVER);
});

test("loss, duplication and reordering happen as often as set, and replay from the seed", () => {
  const fates = (seed: number): number[] => {
    const model = link({ loss: 0.1, duplicate: 0.05, reorder: 0.2, delayMs: 10 }, seed);
    const list = Array.from({ length: 20_000 }, (_, index) => model.admit(index, 100));
    assert.ok(Math.abs(model.lost / 20_000 - 0.1) < 0.01);
    assert.ok(Math.abs(model.duplicated / model.delivered - 0.05) < 0.01);
    assert.ok(Math.abs(model.reordered / model.delivered - 0.2) < 0.02);
    return list;
  };
  assert.deepEqual(fates(1), fates(1));
  assert.notDeepEqual(fates(1), fates(2));
});

test("a packet over the MTU and everything in a partition is counted as such", () => {
  const model = link({ mtuBytes: 1_280 });
  assert.equal(model.admit(0, 1_281), Fate.TOO_BIG);
  assert.equal(model.admit(0, 1_280), Fate.DELIVER);
  model.change({ partition: true });
  assert.equal(model.admit(0, 100), Fate.PARTITION);
  assert.deepEqual([model.tooBig, model.partitioned, model.delivered], [1, 1, 1]);
});

test("settings are checked", () => {
  assert.equal(settingsProblem({ delayMs: 5, partition: true }), undefined);
  assert.match(settingsProblem({ delay: 5 }) ?? "", /unknown setting delay/);
  assert.match(settingsProblem({ loss: 2 }) ?? "", /loss must be at least 0 and at most 1/);
  assert.match(settingsProblem({ rateBps: "1" }) ?? "", /rateBps must be a number/);
});

test("the heap gives back what a sorted list would, for any pushes and pops", () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.integer({ min: 0, max: 20 })), { maxLength: 200 }), (operations) => {
      const heap = new DueHeap(64);
      const plain: { due: number; slot: number }[] = [];
      for (const [slot, due] of operations.entries()) {
        if (due !== null) {
          assert.equal(heap.push(due, slot), plain.length < 64);
          if (plain.length < 64) plain.push({ due, slot });
        } else if (plain.length > 0) {
          const first = plain.reduce((best, one) => (one.due < best.due ? one : best));
          plain.splice(plain.indexOf(first), 1);
          assert.equal(heap.nextDueMs, first.due);
          assert.equal(heap.pop(), first.slot);
        }
        assert.equal(heap.size, plain.length);
      }
    }),
  );
});
