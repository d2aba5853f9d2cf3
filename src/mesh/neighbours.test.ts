/** Who is a neighbour. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { compare, toHex } from "../base/bytes.ts";
import { SeededRandom } from "../base/random.ts";
import { neighboursOf, NEIGHBOURS } from "./neighbours.ts";
import type { Member, Role } from "./types.ts";

const random = new SeededRandom(17);
function member(roles: readonly Role[] = []): Member {
  return {
    nodeId: random.bytes(32),
    staticKey: random.bytes(32),
    name: "",
    requestedName: "",
    ipv4: "",
    ipv6: "",
    roles,
    tags: [],
    expiresAtMs: undefined,
    admittedAtMs: 0,
    admission: random.bytes(32),
  };
}
const members = Array.from({ length: 60 }, () => member());
const [own, ...others] = members;
const hexes = (list: readonly Member[]): string[] => list.map((one) => toHex(one.nodeId));
const successors = (count: number): Member[] => {
  const ring = others.toSorted((a, b) => compare(a.nodeId, b.nodeId));
  const start = ring.findIndex((one) => compare(one.nodeId, own.nodeId) > 0);
  return Array.from({ length: count }, (_, i) => ring[(Math.max(0, start) + i) % ring.length]);
};

test("without measurements the neighbours are the successors in the ring", () => {
  assert.deepEqual(new Set(hexes(neighboursOf(members, own.nodeId))), new Set(hexes(successors(NEIGHBOURS))));
});

test("four are the nearest ones, and four successors at least", () => {
  const far = others.filter((one) => !successors(NEIGHBOURS).includes(one));
  const rttMs = new Map(far.map((one, i) => [toHex(one.nodeId), 10 + i]));
  const chosen = neighboursOf(members, own.nodeId, rttMs);
  assert.equal(chosen.length, NEIGHBOURS);
  for (const one of [...far.slice(0, 4), ...successors(4)]) assert.ok(chosen.includes(one));
});

test("a neighbour stays until another is clearly nearer", () => {
  const far = others.filter((one) => !successors(NEIGHBOURS).includes(one));
  const rttMs = new Map(far.slice(0, 5).map((one) => [toHex(one.nodeId), 10]));
  const present = new Set(hexes(far.slice(0, 4)));
  rttMs.set(toHex(far[4].nodeId), 9);
  assert.ok(!neighboursOf(members, own.nodeId, rttMs, present).includes(far[4]));
  rttMs.set(toHex(far[4].nodeId), 7);
  assert.ok(neighboursOf(members, own.nodeId, rttMs, present).includes(far[4]));
});

test("beacons are neighbours besides, four at most, the nearest of them", () => {
  const beacons = Array.from({ length: 6 }, () => member(["beacon"]));
  const all = [...members, ...beacons];
  const count = neighboursOf(all, own.nodeId).filter((one) => one.roles.includes("beacon")).length;
  assert.ok(count >= 4 && count <= 6);
  const near = beacons.slice(0, 2);
  const rttMs = new Map(near.map((one) => [toHex(one.nodeId), 3]));
  const chosen = neighboursOf(all, own.nodeId, rttMs);
  for (const one of near) assert.ok(chosen.includes(one));
  assert.ok(chosen.length <= NEIGHBOURS + 4);
});

test("in a small network everybody is a neighbour", () => {
  const few = members.slice(0, NEIGHBOURS + 1);
  assert.equal(neighboursOf(few, own.nodeId).length, NEIGHBOURS);
});
