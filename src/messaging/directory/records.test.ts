import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compare, toHex } from "../../base/bytes.ts";
import { SeededRandom } from "../../base/random.ts";
import { RecordRole, type TopicRecord } from "./frames.ts";
import { meetingNodes, topicKey } from "./keys.ts";
import { expiresAtMs, hexOf, isThere, MAX_SKEW_MS, RecordTable } from "./records.ts";

const START_MS = 1_800_000_000_000;

function record(node: number, version: number, role: RecordRole, lifeS = 600): TopicRecord {
  return { node: new Uint8Array(32).fill(node), version, lifeS, role, signature: new Uint8Array(64) };
}

/** What the table must hold when nothing has to make room: the newest record of each node that was ever there and has not expired. */
class Reference {
  readonly newest = new Map<string, TopicRecord>();

  put(one: TopicRecord, wallMs: number): void {
    const known = this.newest.get(hexOf(one));
    if (one.version > wallMs + MAX_SKEW_MS || expiresAtMs(one) + MAX_SKEW_MS <= wallMs) return;
    if (known === undefined ? one.role !== RecordRole.NONE : one.version > known.version)
      this.newest.set(hexOf(one), one);
  }

  expire(wallMs: number): void {
    for (const [hex, one] of this.newest) if (expiresAtMs(one) + MAX_SKEW_MS <= wallMs) this.newest.delete(hex);
  }
}

const step = fc.record({
  node: fc.nat(9),
  passMs: fc.nat(400_000),
  ageMs: fc.integer({ min: -2 * MAX_SKEW_MS, max: 2_000_000 }),
  role: fc.constantFrom(RecordRole.NONE, RecordRole.SUBSCRIBER, RecordRole.VOLUNTEER),
});

test("with room for all, a table holds what a plain map of the newest records does", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const table = new RecordTable(new SeededRandom(1), 10);
      const reference = new Reference();
      let wallMs = START_MS;
      for (const { node, passMs, ageMs, role } of steps) {
        wallMs += passMs;
        table.expire(wallMs);
        reference.expire(wallMs);
        const one = record(node, wallMs - ageMs, role);
        if (table.isNews(one, hexOf(one), wallMs)) table.put(one, hexOf(one), wallMs);
        reference.put(one, wallMs);
        assert.equal(table.size, reference.newest.size);
        for (const entry of table.entries) assert.equal(entry.record, reference.newest.get(entry.hex));
      }
    }),
  );
});

test("a table never grows beyond its limit, and those who are not there go first", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(40), fc.boolean()), { maxLength: 120 }), (steps) => {
      const table = new RecordTable(new SeededRandom(2), 8);
      let version = START_MS;
      for (const [node, refuses] of steps) {
        version++;
        const one = record(node, version, RecordRole.SUBSCRIBER);
        const hasAbsent = table.entries.some((entry) => !isThere(entry));
        const there = new Set(table.entries.filter(isThere).map((entry) => entry.hex));
        const { evicted } = table.put(one, hexOf(one), version);
        if (evicted && hasAbsent) for (const hex of there) assert.ok(table.get(hex) !== undefined);
        const entry = table.get(hexOf(one));
        assert.equal(entry?.record, one);
        if (refuses && entry !== undefined) entry.isNotThere = true;
        assert.ok(table.size <= 8);
        assert.equal(new Set(table.entries.map((other) => other.hex)).size, table.size);
      }
    }),
  );
});

test("a pick is without repetition, of the accepted alone, and every one has its chance", () => {
  const table = new RecordTable(new SeededRandom(3), 64);
  for (let i = 0; i < 20; i++) table.put(record(i, START_MS, RecordRole.SUBSCRIBER), hexOf(record(i, 0, 1)), START_MS);
  const seen = new Map<string, number>();
  for (let i = 0; i < 2000; i++) {
    const picked = table.pick(5, (entry) => entry.record.node[0] % 2 === 0);
    assert.equal(new Set(picked).size, 5);
    for (const { hex, record: one } of picked) {
      assert.equal(one.node[0] % 2, 0);
      seen.set(hex, (seen.get(hex) ?? 0) + 1);
    }
  }
  assert.equal(seen.size, 10);
  for (const count of seen.values()) assert.ok(count > 850 && count < 1150, `${count} of 2,000, expected 1,000`);
});

test("all nodes with the same members agree on the meeting nodes, in whatever order they list them", () => {
  const random = new SeededRandom(4);
  const members = Array.from({ length: 100 }, () => random.bytes(32));
  const key = topicKey(random.bytes(32), "weather");
  const expected = meetingNodes(key, members, 8).map(toHex);
  assert.equal(new Set(expected).size, 8);
  assert.deepEqual(meetingNodes(key, members.toReversed(), 8).map(toHex), expected);
  assert.deepEqual(meetingNodes(key, members.toSorted(compare), 3).map(toHex), expected.slice(0, 3));
  // when one goes, the others keep their order
  const without = members.filter((member) => toHex(member) !== expected[1]);
  assert.deepEqual(
    meetingNodes(key, without, 7).map(toHex),
    expected.filter((_, i) => i !== 1),
  );
});

test("keys spread the work over the members", () => {
  const random = new SeededRandom(5);
  const members = Array.from({ length: 50 }, () => random.bytes(32));
  const networkId = random.bytes(32);
  const load = new Map<string, number>();
  for (let i = 0; i < 5000; i++) {
    const [first] = meetingNodes(topicKey(networkId, `topic ${i}`), members, 3);
    load.set(toHex(first), (load.get(toHex(first)) ?? 0) + 1);
  }
  assert.equal(load.size, 50);
  for (const count of load.values()) assert.ok(count > 50 && count < 170, `${count} topics, expected 100`);
});

test("a topic has another key in another network", () => {
  assert.notDeepEqual(topicKey(new Uint8Array(32), "a"), topicKey(new Uint8Array(32).fill(1), "a"));
});
