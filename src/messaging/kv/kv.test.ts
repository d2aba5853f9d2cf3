import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { toHex, utf8 } from "../../base/bytes.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import { compareEntries, type Entry, readEntry, signEntry, SpaceKind, spaceId, verifyEntry } from "./entry.ts";
import { FINGERPRINT_BYTES, Fingerprints, LEAF_DEPTH, prefixOf } from "./fingerprints.ts";
import { HybridClock, isAhead, MAX_AHEAD_MS, MAX_FOLLOWED_MS } from "./hlc.ts";
import { DELETION_LIFE_MS, LwwMap, Merge } from "./lww-map.ts";
import { decodeSync, encodeSync, type SyncMessage } from "./messages.ts";
import { NETWORK, START_WALL_MS } from "./testing.ts";

const SPACE = spaceId(SpaceKind.KV, "default");
const AUTHORS = [1, 2, 3].map((seed) => Identity.generate(new SeededRandom(seed)));
const LIMITS = { maxEntries: 1000, maxBytes: 1 << 20 };
const BASE_HLC = START_WALL_MS * 1024;

/** Few keys, authors and stamps, so that ties happen. */
const POOL: readonly Entry[] = (() => {
  const all: Entry[] = [];
  for (const key of ["a", "b", "c"]) {
    for (let stamp = 0; stamp < 4; stamp++) {
      for (const [i, author] of AUTHORS.entries()) {
        const value = (stamp + i) % 3 === 0 ? undefined : utf8(`${key}${stamp}${i}`);
        all.push(signEntry(NETWORK, SPACE, key, value, BASE_HLC + stamp, author));
      }
    }
  }
  return all;
})();

function nameOfNode(node: { readonly depth: number; readonly prefix: number }): string {
  return `${node.depth}/${node.prefix}`;
}

test("replicas that saw the same entries, in any order and any number of times, hold what a plain maximum holds", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(POOL.length - 1), { maxLength: 60 }), fc.infiniteStream(fc.nat()), (picks, order) => {
      const shuffled = picks
        .concat(picks.slice(0, 5))
        .map((pick) => ({ pick, at: order.next().value as number }))
        .toSorted((a, b) => a.at - b.at)
        .map(({ pick }) => pick);
      const reference = new Map<string, Entry>();
      for (const pick of picks) {
        const entry = POOL[pick];
        const known = reference.get(entry.key);
        if (known === undefined || compareEntries(entry, known) > 0) reference.set(entry.key, entry);
      }
      for (const sequence of [picks, shuffled]) {
        const map = new LwwMap(LIMITS);
        for (const pick of sequence) map.merge(POOL[pick], START_WALL_MS);
        assert.deepEqual(
          new Map(Array.from(map.entries(), (entry) => [entry.key, entry.idHex])),
          new Map(Array.from(reference.values(), (entry) => [entry.key, entry.idHex])),
        );
        assert.equal(map.live, [...reference.values()].filter((entry) => entry.value !== undefined).length);
        assert.equal(map.tree.count, reference.size);
      }
    }),
  );
});

test("the order of entries is total: by stamp, then author, then bytes", () => {
  for (const a of POOL) {
    for (const b of POOL) {
      const order = Math.sign(compareEntries(a, b));
      assert.equal(order, -Math.sign(compareEntries(b, a)) || 0);
      assert.equal(order === 0, a.idHex === b.idHex);
    }
  }
});

test("fingerprints agree with a plain sum over the ids, and depend on the set alone", () => {
  const id = fc.uint8Array({ minLength: 16, maxLength: 16 });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), fc.nat(15))),
      fc.array(id, { minLength: 16, maxLength: 16 }),
      (ops, ids) => {
        const tree = new Fingerprints();
        const reference = new Map<string, Uint8Array>();
        for (const [isAdd, which] of ops) {
          const one = ids[which];
          const hex = toHex(one);
          if (isAdd) assert.equal(tree.add(one, hex), !reference.has(hex));
          else assert.equal(tree.remove(one, hex), reference.has(hex));
          if (isAdd) reference.set(hex, one);
          else reference.delete(hex);
        }
        const fresh = new Fingerprints();
        for (const [hex, one] of [...reference].toReversed()) fresh.add(one, hex);
        for (let depth = 0; depth <= LEAF_DEPTH; depth++) {
          for (const one of ids) {
            const prefix = prefixOf(one, depth);
            const under = [...reference.values()].filter((other) => prefixOf(other, depth) === prefix);
            let sum = 0n;
            for (const other of under) sum += BigInt(`0x${toHex(other.toReversed())}`);
            const node = tree.node(depth, prefix);
            assert.equal(node.count, under.length);
            const got = node.sum.reduceRight((total, word) => (total << 32n) | BigInt(word), 0n);
            assert.equal(got, sum & ((1n << 128n) - 1n));
            assert.deepEqual(tree.fingerprint(depth, prefix), fresh.fingerprint(depth, prefix));
            assert.deepEqual(
              Array.from(tree.ids(depth, prefix), ([hex]) => hex).toSorted(),
              under.map((other) => toHex(other)).toSorted(),
            );
          }
        }
      },
    ),
    { numRuns: 50 },
  );
});

test("an entry is read as it was signed; one changed bit anywhere and it is refused or not verified", () => {
  const entry = signEntry(NETWORK, SPACE, "kéy", utf8("value"), BASE_HLC, AUTHORS[0]);
  assert.equal(entry.key, "kéy");
  assert.deepEqual(entry.value, utf8("value"));
  assert.equal(toHex(entry.author), toHex(AUTHORS[0].nodeId));
  assert.ok(verifyEntry(NETWORK, SPACE, entry));
  assert.equal(verifyEntry(NETWORK, spaceId(SpaceKind.TASKS, "default"), entry), false, "another space");
  assert.equal(verifyEntry(new Uint8Array(32), SPACE, entry), false, "another network");
  for (let bit = 0; bit < entry.wire.length * 8; bit += 5) {
    const wire = Uint8Array.from(entry.wire);
    wire[bit >> 3] = wire[bit >> 3] ^ (1 << (bit & 7));
    const read = readEntry(SPACE, wire);
    assert.ok(read === undefined || !verifyEntry(NETWORK, SPACE, read), `bit ${bit}`);
  }
  assert.equal(readEntry(SPACE, entry.wire.subarray(1)), undefined);
});

test("any message is read as it was written, and hostile bytes are never an exception", () => {
  const bytes = (length: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: length, maxLength: length });
  const node = fc
    .integer({ min: 0, max: LEAF_DEPTH })
    .chain((depth) => fc.record({ depth: fc.constant(depth), prefix: fc.nat(16 ** depth - 1) }));
  const count = fc.nat(0xffffffff);
  const fingerprint = bytes(FINGERPRINT_BYTES);
  const message: fc.Arbitrary<SyncMessage> = fc.oneof(
    fc.record({
      type: fc.constant("hello" as const),
      wantsAnswer: fc.boolean(),
      spaces: fc.uniqueArray(fc.record({ space: bytes(16), count, fingerprint }), {
        maxLength: 5,
        selector: (one) => toHex(one.space),
      }),
    }),
    fc.record({
      type: fc.constant("tree" as const),
      space: bytes(16),
      nodes: fc.uniqueArray(
        fc.tuple(node, count, fingerprint).map(([at, n, f]) => ({ ...at, count: n, fingerprint: f })),
        { selector: nameOfNode },
      ),
    }),
    fc.record({
      type: fc.constant("items" as const),
      space: bytes(16),
      nodes: fc.uniqueArray(
        fc.tuple(node, fc.array(bytes(16))).map(([at, ids]) => ({ ...at, ids })),
        { selector: nameOfNode },
      ),
    }),
    fc.record({ type: fc.constant("want" as const), space: bytes(16), ids: fc.array(bytes(16)) }),
    fc.record({
      type: fc.constant("entries" as const),
      space: bytes(16),
      hops: fc.nat(255),
      entries: fc.array(fc.uint8Array({ maxLength: 300 })),
    }),
  );
  fc.assert(
    fc.property(message, (one) => {
      const frame = encodeSync(one);
      assert.deepEqual(encodeSync(decodeSync(frame)!), frame);
      assert.equal(decodeSync(frame.subarray(0, frame.length - 1)), undefined, "cut short");
    }),
  );
  fc.assert(
    fc.property(fc.integer({ min: 15, max: 21 }), fc.uint8Array({ maxLength: 200 }), (type, rest) => {
      decodeSync(Uint8Array.of(type, ...rest));
      readEntry(SPACE, rest);
    }),
    { numRuns: 500 },
  );
});

test("a frame that names a space or a node of the tree twice is malformed: what it costs is bounded by what is here", () => {
  const fingerprint = new Uint8Array(16);
  const summary = { space: SPACE, count: 0, fingerprint };
  const node = { depth: 1, prefix: 3 };
  for (const times of [1, 2]) {
    const twice = <T>(one: T): T[] => Array.from({ length: times }, () => one);
    const frames = [
      encodeSync({ type: "hello", wantsAnswer: true, spaces: twice(summary) }),
      encodeSync({ type: "tree", space: SPACE, nodes: twice({ ...node, count: 1, fingerprint }) }),
      encodeSync({ type: "items", space: SPACE, nodes: twice({ ...node, ids: [] }) }),
    ];
    for (const frame of frames) assert.equal(decodeSync(frame) === undefined, times === 2);
  }
});

test("one author takes a part of a map, however many keys it writes; others have room, and what makes it less is taken", () => {
  const map = new LwwMap({ maxEntries: 8, maxBytes: 1 << 20, authorShare: 0.25 });
  const put = (author: number, key: string, stamp: number, value?: Uint8Array): Merge =>
    map.merge(signEntry(NETWORK, SPACE, key, value, BASE_HLC + stamp, AUTHORS[author]), START_WALL_MS);
  assert.equal(put(0, "a", 1, utf8("1")), Merge.TAKEN);
  assert.equal(put(0, "b", 1, utf8("1")), Merge.TAKEN);
  assert.equal(put(0, "c", 1, utf8("1")), Merge.FULL);
  assert.equal(put(0, "a", 2, utf8("22")), Merge.TAKEN, "its own key again");
  assert.equal(put(1, "c", 1, utf8("1")), Merge.TAKEN);
  assert.equal(put(1, "a", 3, utf8("1")), Merge.TAKEN, "another one's key");
  assert.equal(put(0, "d", 4, utf8("1")), Merge.TAKEN, "which makes room for that one");

  const wide = new LwwMap({ maxEntries: 100, maxBytes: 4000, authorShare: 0.25 });
  const write = (key: string, bytes: number, stamp: number): Merge =>
    wide.merge(signEntry(NETWORK, SPACE, key, new Uint8Array(bytes), BASE_HLC + stamp, AUTHORS[0]), START_WALL_MS);
  assert.equal(write("a", 500, 1), Merge.TAKEN);
  assert.equal(write("b", 500, 1), Merge.FULL);
  assert.equal(write("a", 100, 2), Merge.TAKEN);
});

test("a full map refuses what is new, takes what replaces, and forgets old deletions", () => {
  const map = new LwwMap({ maxEntries: 2, maxBytes: 1 << 20 });
  const put = (key: string, value: Uint8Array | undefined, stamp: number): Merge =>
    map.merge(signEntry(NETWORK, SPACE, key, value, BASE_HLC + stamp, AUTHORS[0]), START_WALL_MS);
  assert.equal(put("a", utf8("1"), 1), Merge.TAKEN);
  assert.equal(put("b", utf8("1"), 1), Merge.TAKEN);
  assert.equal(put("c", utf8("1"), 1), Merge.FULL);
  assert.equal(put("a", undefined, 2), Merge.TAKEN);
  assert.equal(put("a", utf8("late"), 1), Merge.OLD);
  assert.equal(map.live, 1);
  assert.deepEqual(map.sweep(START_WALL_MS + DELETION_LIFE_MS - 1), []);
  assert.deepEqual(map.sweep(START_WALL_MS + DELETION_LIFE_MS + 1), ["a"]);
  const deletion = signEntry(NETWORK, SPACE, "a", undefined, BASE_HLC, AUTHORS[0]);
  assert.equal(map.judge(deletion, START_WALL_MS + DELETION_LIFE_MS + 1), Merge.EXPIRED);
  assert.equal(put("c", utf8("1"), 1), Merge.TAKEN);

  const small = new LwwMap({ maxEntries: 10, maxBytes: 700 });
  const wide = signEntry(NETWORK, SPACE, "w", new Uint8Array(300), BASE_HLC, AUTHORS[0]);
  assert.equal(small.merge(wide, START_WALL_MS), Merge.TAKEN);
  assert.equal(
    small.judge(signEntry(NETWORK, SPACE, "x", new Uint8Array(1), BASE_HLC, AUTHORS[0]), START_WALL_MS),
    Merge.FULL,
  );
  const shorter = signEntry(NETWORK, SPACE, "w", new Uint8Array(1), BASE_HLC + 1, AUTHORS[0]);
  assert.equal(small.merge(shorter, START_WALL_MS), Merge.TAKEN, "less than it replaces");
});

test("the clock is above everything made and seen, and near the wall", () => {
  const clock = new HybridClock();
  const first = clock.tick(START_WALL_MS);
  assert.equal(first, BASE_HLC);
  assert.equal(clock.tick(START_WALL_MS - 5000), first + 1, "a wall clock that went back");
  clock.observe(BASE_HLC + 5000, START_WALL_MS);
  assert.ok(clock.tick(START_WALL_MS) > BASE_HLC + 5000);
  clock.observe((START_WALL_MS + MAX_AHEAD_MS) * 1024, START_WALL_MS);
  assert.equal(
    clock.tick(START_WALL_MS),
    (START_WALL_MS + MAX_FOLLOWED_MS) * 1024 + 1,
    "nobody pushes it to the limit",
  );
  assert.equal(isAhead((START_WALL_MS + MAX_AHEAD_MS) * 1024, START_WALL_MS), false);
  assert.equal(isAhead((START_WALL_MS + MAX_AHEAD_MS) * 1024 + 1, START_WALL_MS), true);
});
