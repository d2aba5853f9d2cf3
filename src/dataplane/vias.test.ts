import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../base/random.ts";
import { LabelTable } from "./label-table.ts";
import { Quota } from "./quota.ts";
import { Forward, MAX_FORWARDS, MAX_VIAS, Via, Vias } from "./vias.ts";

const FREE = new Quota(0, 0);

test("a label table answers like a map, whatever is put in and taken out", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new SeededRandom(seed);
    const table = new LabelTable(random.u32());
    const reference = new Map<string, number>();
    // few keys, so that they meet again; some of them differ in scope only
    const labels = Array.from({ length: 60 }, () => random.u32());
    for (let step = 0; step < 3_000; step++) {
      const scope = random.u32() % 4;
      const label = labels[random.u32() % labels.length];
      const key = `${scope} ${label}`;
      if (random.unit() < 0.55) {
        table.set(scope, label, step);
        reference.set(key, step);
      } else {
        table.delete(scope, label);
        reference.delete(key);
      }
      assert.equal(table.size, reference.size);
      const probe = labels[random.u32() % labels.length];
      assert.equal(table.get(scope, probe), reference.get(`${scope} ${probe}`) ?? -1);
    }
    for (let scope = 0; scope < 4; scope++) {
      for (const label of labels) assert.equal(table.get(scope, label), reference.get(`${scope} ${label}`) ?? -1);
    }
  }
});

test("vias: found by id, by label in and by label out; replaced in place; removed with their hop", () => {
  const vias = new Vias(new SeededRandom(1));
  const first = new Via(7, 1, 0xffff_fffe, 0x8000_0001, 2);
  assert.ok(vias.addVia(first));
  assert.equal(vias.via(7), first);
  assert.equal(vias.viaOf(vias.incoming(1, 0x8000_0001)), first);
  assert.equal(vias.viaOf(vias.outgoing(1, 0xffff_fffe)), first);
  assert.equal(vias.incoming(2, 0x8000_0001), -1, "the label of another sender");
  assert.ok(!vias.addVia(new Via(8, 1, 5, 0x8000_0001, 2)), "the label is taken");
  assert.ok(!vias.addVia(new Via(8, 1, 0, 6, 2)), "zero is no label");
  const second = new Via(7, 2, 9, 10, 1);
  assert.ok(vias.addVia(second));
  assert.equal(vias.via(7), second);
  assert.equal(vias.incoming(1, 0x8000_0001), -1);
  assert.ok(vias.addVia(new Via(7, 2, 11, 10, 1)), "the same label in again, by the same id");
  const gone: number[] = [];
  vias.removePeer(
    2,
    (via) => gone.push(via.id),
    () => assert.fail("no forward entry"),
  );
  assert.deepEqual(gone, [7]);
  assert.equal(vias.viaCount, 0);
  assert.equal(vias.incoming(2, 10), -1);
  assert.equal(vias.outgoing(2, 11), -1);
});

test("forward entries: never back to where it came from, never in the place of a via, gone with either peer", () => {
  const vias = new Vias(new SeededRandom(2));
  assert.ok(vias.addVia(new Via(1, 1, 20, 10, 2)));
  assert.ok(!vias.addForward(new Forward(0, 10, 1, 2, 30, FREE)), "the label ends here");
  assert.ok(!vias.addForward(new Forward(0, 11, 1, 1, 30, FREE)), "back to its sender");
  assert.ok(vias.addForward(new Forward(0, 11, 1, 2, 30, FREE)));
  assert.ok(!vias.addVia(new Via(2, 1, 21, 11, 2)), "the label goes on");
  const forward = vias.forwardOf(vias.incoming(1, 11));
  assert.equal(forward?.to, 2);
  assert.equal(vias.forwardOf(vias.outgoing(2, 30)), forward);
  assert.equal(vias.viaOf(vias.incoming(1, 11)), undefined);
  assert.ok(vias.addForward(new Forward(0, 11, 1, 3, 31, FREE)), "replaced");
  assert.equal(vias.forwardCount, 1);
  assert.equal(vias.outgoing(2, 30), -1);
  assert.ok(vias.addForward(new Forward(0, 12, 3, 1, 32, FREE)));
  const gone: number[] = [];
  vias.removePeer(
    3,
    () => assert.fail("no via"),
    (one) => gone.push(one.label),
  );
  assert.deepEqual(gone.toSorted(), [11, 12]);
  assert.equal(vias.forwardCount, 0);
  assert.equal(vias.viaCount, 1);
});

test("a sender has one quota for all its entries, which ending them does not refill, and it goes with the peer", () => {
  const vias = new Vias(new SeededRandom(5));
  const quota = vias.quotaOf(0, 1, 100_000);
  assert.equal(vias.quotaOf(0, 1, 100_000), quota);
  assert.notEqual(vias.quotaOf(0, 2, 100_000), quota);
  assert.ok(vias.addForward(new Forward(0, 11, 1, 2, 30, quota)));
  assert.ok(quota.take(0, 65_536));
  vias.removeForward(1, 11);
  assert.ok(!vias.quotaOf(0, 1, 100_000).take(0, 1), "used up still");
  const ignore = (): void => {};
  vias.removePeer(1, ignore, ignore);
  assert.notEqual(vias.quotaOf(0, 1, 100_000), quota);
});

test("a quota lets its rate through and a quarter of a second at once, follows a change of rate, and 0 is no limit", () => {
  const quota = new Quota(0, 1_000_000);
  const passedBy = (fromMs: number, untilMs: number): number => {
    let bytes = 0;
    for (let nowMs = fromMs; nowMs < untilMs; nowMs += 0.1) if (quota.take(nowMs, 1_000)) bytes += 1_000;
    return bytes;
  };
  assert.ok(Math.abs(passedBy(0, 1_000) - 1_250_000) <= 2_000);
  quota.setRate(1_000, 400_000);
  assert.ok(Math.abs(passedBy(1_000, 2_000) - 400_000) <= 2_000);
  // idle: no more than a quarter of a second is saved up
  assert.ok(Math.abs(passedBy(60_000, 60_100) - (100_000 + 40_000)) <= 2_000);
  quota.setRate(60_100, 0);
  assert.ok(Math.abs(passedBy(60_100, 60_200) - 1_000_000) <= 2_000, "every packet");
  // time that stands still or goes back gives nothing
  quota.setRate(60_200, 400_000);
  while (quota.take(60_200, 1_000));
  assert.ok(!quota.take(60_200, 1_000) && !quota.take(50_000, 1_000));
});

test("one more than the bound is refused, and a place given back is used again", () => {
  const vias = new Vias(new SeededRandom(3));
  for (let i = 1; i <= MAX_VIAS; i++) assert.ok(vias.addVia(new Via(i, 1, i, i, 2)));
  assert.ok(!vias.addVia(new Via(MAX_VIAS + 1, 1, MAX_VIAS + 1, MAX_VIAS + 1, 2)));
  vias.removeVia(17);
  assert.ok(vias.addVia(new Via(MAX_VIAS + 1, 1, MAX_VIAS + 1, MAX_VIAS + 1, 2)));
  for (let i = 1; i <= MAX_FORWARDS; i++) assert.ok(vias.addForward(new Forward(0, i, 2, 3, i, FREE)));
  assert.ok(!vias.addForward(new Forward(0, MAX_FORWARDS + 1, 2, 3, 1, FREE)));
  assert.ok(vias.addForward(new Forward(0, 5, 2, 4, 1, FREE)), "replacing takes no new place");
});

test("an entry unused for 300 s is given up, a used one stays", () => {
  const vias = new Vias(new SeededRandom(4));
  assert.ok(vias.addForward(new Forward(0, 1, 1, 2, 1, FREE)));
  assert.ok(vias.addForward(new Forward(200_000, 2, 1, 2, 2, FREE)));
  const gone: number[] = [];
  vias.sweep(299_000, (one) => gone.push(one.label));
  assert.equal(gone.length, 0);
  vias.sweep(310_000, (one) => gone.push(one.label));
  assert.deepEqual(gone, [1]);
  assert.equal(vias.forwardCount, 1);
});
