import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_PROVISIONAL, PeerTable } from "./peer-table.ts";

const key = (n: number): Uint8Array => new Uint8Array(32).fill(n & 255).fill(n >>> 8, 0, 1);
const ID = new Uint8Array(32);

test("a slot given back is the last to be used again", () => {
  const table = new PeerTable(3);
  const first = table.add(ID, key(1), 0);
  assert.ok(first !== undefined);
  table.remove(first);
  assert.deepEqual(
    [2, 3, 4].map((n) => table.add(ID, key(n), 0)?.slot),
    [1, 2, 0],
  );
  assert.equal(table.add(ID, key(5), 0), undefined);
  assert.equal(table.byKey(key(1)), undefined);
});

test("removing a record twice, or after its slot has a new holder, changes nothing", () => {
  const table = new PeerTable(1);
  const first = table.add(ID, key(1), 0);
  assert.ok(first !== undefined);
  table.remove(first);
  const second = table.add(ID, key(2), 7);
  table.remove(first);
  assert.equal(table.bySlot(0), second);
  assert.equal(second?.firstEpochId, 7);
  assert.equal(table.size, 1);
});

test("joiners are bounded in number and time; one that is settled counts no more", () => {
  const table = new PeerTable(MAX_PROVISIONAL + 10);
  const joiners = Array.from({ length: MAX_PROVISIONAL }, (_, n) => table.addProvisional(key(n), 0, 1000, false));
  assert.equal(table.addProvisional(key(900), 0, 1000, false), undefined);
  const [joiner] = joiners;
  assert.ok(joiner !== undefined);
  table.settle(joiner);
  assert.ok(table.addProvisional(key(900), 0, 1000, false) !== undefined);
  assert.equal(table.expired(30_999).length, 0);
  assert.equal(table.expired(31_000).length, MAX_PROVISIONAL);
});

test("those with an ended invite share few slots, so that they cannot keep the others out", () => {
  const table = new PeerTable(MAX_PROVISIONAL + 10);
  let granted = 0;
  for (let n = 0; n < MAX_PROVISIONAL; n++) if (table.addProvisional(key(n), 0, 1000, true) !== undefined) granted++;
  assert.equal(granted, 8);
  assert.ok(table.addProvisional(key(800), 0, 1000, false) !== undefined);
});
