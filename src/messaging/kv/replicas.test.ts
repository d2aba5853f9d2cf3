import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { toHex, utf8 } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { signEntry, SpaceKind, spaceId } from "./entry.ts";
import { encodeSync } from "./messages.ts";
import type { Space } from "./space.ts";
import { ANYTHING, NETWORK, ReplicaWorld, START_WALL_MS, type TestReplica } from "./testing.ts";

const SPACE = spaceId(SpaceKind.KV, "default");

function content(space: Space): Record<string, string> {
  const out: Record<string, string> = {};
  for (const entry of space.map.entries())
    if (entry.value !== undefined) out[entry.key] = Buffer.from(entry.value).toString();
  return out;
}

function put(node: TestReplica, space: Space, key: string, value: string | undefined): void {
  node.replicas.write(node.now, space, key, value === undefined ? undefined : utf8(value));
}

test("replicas agree after loss, doubling, reordering, a partition and restarts", () => {
  const op = fc.record({
    node: fc.nat(4),
    key: fc.constantFrom("a", "b", "c", "d"),
    value: fc.option(fc.string({ maxLength: 5 }), { nil: undefined }),
    pauseMs: fc.nat(200),
    restarts: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.nat(10_000), fc.array(op, { maxLength: 40 }), (seed, ops) => {
      const world = new ReplicaWorld(seed + 1);
      world.loss = 0.2;
      world.doubles = 0.1;
      const nodes = Array.from({ length: 5 }, () => world.add());
      for (const [i, node] of nodes.entries()) node.wallOffsetMs = (i - 2) * 2000;
      let spaces = nodes.map((node) => node.open());
      world.connected = (from, to) => nodes.indexOf(from) < 2 === nodes.indexOf(to) < 2;
      for (const { node, key, value, pauseMs, restarts } of ops) {
        put(nodes[node], spaces[node], key, value);
        world.run(pauseMs);
        if (restarts) spaces = spaces.map((space, i) => (i === node ? nodes[node].restart() : space));
      }
      world.connected = () => true;
      world.run(400_000);
      for (const [i, space] of spaces.entries()) {
        assert.deepEqual(content(space), content(spaces[0]), `node ${i}`);
        assert.equal(nodes[i].stored.size, space.map.size, "the store has what the map has");
      }
    }),
    { numRuns: 30 },
  );
});

test("a write that follows another one everywhere wins, whatever the wall clocks say", () => {
  const world = new ReplicaWorld(3);
  const [a, b] = [world.add(), world.add()];
  b.wallOffsetMs = -120_000;
  const [mine, theirs] = [a.open(), b.open()];
  world.up(a, b);
  put(a, mine, "k", "first");
  world.run(1000);
  assert.deepEqual(content(theirs), { k: "first" });
  put(b, theirs, "k", "second");
  world.run(1000);
  assert.deepEqual(content(mine), { k: "second" });
});

test("a new replica gets 5,000 entries within seconds, and what is equal costs next to nothing", () => {
  const world = new ReplicaWorld(4);
  const a = world.add();
  const full = a.open();
  for (let i = 0; i < 5000; i++) put(a, full, `key-${i}`, `value-${i}`);
  world.drain();
  const b = world.add();
  const empty = b.open();
  world.run(6_000);
  assert.equal(empty.map.size, 5000);
  assert.deepEqual(empty.map.tree.fingerprint(0, 0), full.map.tree.fingerprint(0, 0));
  const before = a.sentBytes + b.sentBytes;
  world.run(600_000);
  const perRound = (a.sentBytes + b.sentBytes - before) / 40;
  assert.ok(perRound < 200, `${perRound} bytes per node and round between equal replicas`);
  put(a, full, "one", "more");
  const start = b.sentBytes + a.sentBytes;
  world.run(1000);
  assert.equal(empty.map.size, 5001);
  assert.ok(a.sentBytes + b.sentBytes - start < 1000, "one new entry among 5,000 costs little more than itself");
});

test("two sides that differ in few of many entries exchange little more than those", () => {
  const world = new ReplicaWorld(5);
  const [a, b] = [world.add(), world.add()];
  const [left, right] = [a.open(), b.open()];
  for (let i = 0; i < 2000; i++) put(a, left, `key-${i}`, "x".repeat(100));
  world.run(20_000);
  assert.equal(right.map.size, 2000);
  world.connected = () => false;
  for (let i = 0; i < 5; i++) put(a, left, `left-${i}`, "l");
  for (let i = 0; i < 5; i++) put(b, right, `right-${i}`, "r");
  world.run(1000);
  world.connected = () => true;
  const before = a.sentBytes + b.sentBytes;
  world.up(a, b);
  world.run(5_000);
  assert.equal(left.map.size, 2010);
  assert.deepEqual(content(left), content(right));
  assert.ok(a.sentBytes + b.sentBytes - before < 60_000, `${a.sentBytes + b.sentBytes - before} bytes`);
});

test("news reach 60 replicas without the writer telling all of them", () => {
  const world = new ReplicaWorld(6);
  const nodes = Array.from({ length: 60 }, () => world.add());
  const spaces = nodes.map((node) => node.open());
  world.run(120_000);
  const before = nodes[0].sentBytes;
  put(nodes[0], spaces[0], "k", "v".repeat(1000));
  world.run(500);
  const reached = spaces.filter((space) => space.map.size === 1).length;
  assert.ok(reached >= 50, `${reached} of 60 within half a second`);
  assert.ok(nodes[0].sentBytes - before < 16_000);
  world.run(180_000);
  assert.ok(spaces.every((space) => space.map.size === 1));
});

test("what is forged, malformed, ahead of time, forbidden or from a blocked member is refused and counted", () => {
  const world = new ReplicaWorld(7);
  const [a, b] = [world.add(), world.add()];
  const space = a.open("default", SpaceKind.KV, { allows: (entry) => entry.key !== "forbidden" });
  const send = (...entries: Uint8Array[]): void =>
    a.replicas.handleFrame(a.now, b.identity.nodeId, encodeSync({ type: "entries", space: SPACE, hops: 0, entries }));
  const hlc = START_WALL_MS * 1024;
  const good = signEntry(NETWORK, SPACE, "k", utf8("v"), hlc, b.identity);
  const forged = Uint8Array.from(good.wire);
  forged[50] = forged[50] ^ 1;
  send(forged);
  assert.equal(a.replicas.counters.signaturesRefused, 1);
  send(new Uint8Array(200));
  assert.equal(a.replicas.counters.entriesMalformed, 1);
  send(signEntry(NETWORK, SPACE, "k", utf8("v"), hlc + 400_000 * 1024, b.identity).wire);
  assert.equal(a.replicas.counters.entriesAhead, 1);
  send(signEntry(NETWORK, SPACE, "forbidden", utf8("v"), hlc, b.identity).wire);
  assert.equal(a.replicas.counters.entriesForbidden, 1);
  a.replicas.handleFrame(a.now, b.identity.nodeId, Uint8Array.of(17, 9, 9));
  assert.equal(a.replicas.counters.framesRefused, 1);
  assert.equal(space.map.size, 0);
  a.blocked.add(b.hex);
  send(good.wire);
  assert.equal(a.replicas.counters.entriesBlocked, 1);
  assert.equal(space.map.size, 0);
  a.blocked.clear();
  send(good.wire);
  assert.equal(space.map.size, 1, "the same entry is taken when nothing is against it");
  send(good.wire);
  assert.equal(a.replicas.counters.entriesOld, 1);
});

test("a flood of frames is cut off per sender, and another sender is heard", () => {
  const world = new ReplicaWorld(8);
  const [a, b, c] = [world.add(), world.add(), world.add()];
  const space = a.open();
  for (let i = 0; i < 10_000; i++) a.replicas.handleFrame(a.now, b.identity.nodeId, Uint8Array.of(17, 0, 0, 0));
  assert.ok(a.replicas.counters.framesOverRate > 5000);
  const wire = signEntry(NETWORK, SPACE, "k", utf8("v"), START_WALL_MS * 1024, c.identity).wire;
  a.replicas.handleFrame(
    a.now,
    c.identity.nodeId,
    encodeSync({ type: "entries", space: SPACE, hops: 0, entries: [wire] }),
  );
  assert.equal(space.map.size, 1);
});

test("limits: keys, values, entries, spaces; and what is full says so", () => {
  const world = new ReplicaWorld(9);
  const a = world.add({ maxEntries: 2, maxSpaces: 2, maxBytes: 3000 });
  const space = a.open();
  const code = (run: () => void): string => {
    try {
      run();
      return "none";
    } catch (error) {
      return error instanceof WeftError ? error.code : String(error);
    }
  };
  assert.equal(
    code(() => put(a, space, "", "v")),
    "KEY_INVALID",
  );
  assert.equal(
    code(() => put(a, space, "ä".repeat(129), "v")),
    "KEY_INVALID",
  );
  assert.equal(
    code(() => put(a, space, "\ud800", "v")),
    "KEY_INVALID",
  );
  assert.equal(
    code(() => put(a, space, "k", "v".repeat(65_537))),
    "VALUE_TOO_LARGE",
  );
  assert.equal(
    code(() => put(a, space, "k", "v".repeat(5000))),
    "SPACE_FULL",
  );
  put(a, space, "k", "v");
  put(a, space, "l", "v");
  assert.equal(
    code(() => put(a, space, "m", "v")),
    "SPACE_FULL",
  );
  put(a, space, "k", undefined);
  assert.deepEqual(content(space), { l: "v" });
  assert.equal(
    code(() => void a.open("UPPER")),
    "SPACE_NAME",
  );
  a.open("second");
  assert.equal(
    code(() => void a.open("third")),
    "SPACES_FULL",
  );
  a.replicas.close(space);
  assert.equal(a.replicas.counters.bytes, 0);
  assert.equal(a.replicas.find(SpaceKind.KV, "default"), undefined);
});

test("spaces of the same name and another kind, or another name, do not mix", () => {
  const world = new ReplicaWorld(10);
  const [a, b] = [world.add(), world.add()];
  const kv = a.open("x");
  const tasks = b.open("x", SpaceKind.TASKS, ANYTHING);
  const other = b.open("y");
  put(a, kv, "k", "v");
  world.up(a, b);
  world.run(60_000);
  assert.equal(tasks.map.size + other.map.size, 0);
  assert.notEqual(toHex(kv.id), toHex(tasks.id));
});

test("one frame is answered with a bounded number of bytes, however many spaces it names, and answers are paid for before they are made", () => {
  const world = new ReplicaWorld(20);
  const [a, b] = [world.add(), world.add()];
  const spaces = Array.from({ length: 4 }, (_, i) => a.open(`s${i}`));
  for (const space of spaces) for (let i = 0; i < 10; i++) put(a, space, `k${i}`, "x".repeat(60_000));
  world.drain();
  const hello = encodeSync({
    type: "hello",
    wantsAnswer: true,
    spaces: spaces.map(({ id }) => ({ space: id, count: 0, fingerprint: new Uint8Array(16) })),
  });
  const ask = (): number => {
    a.replicas.handleFrame(a.now, b.identity.nodeId, hello);
    let bytes = 0;
    for (let output = a.replicas.pollOutput(); output !== undefined; output = a.replicas.pollOutput())
      if (output.kind === "send") bytes += output.frame.length;
    return bytes;
  };
  assert.ok(ask() < 1_000_000);
  let answered = 0;
  // reading a map is what costs: it must not happen for those that are beyond the rate
  const { byId } = spaces[0].map;
  let looks = 0;
  spaces[0].map.byId = (hex) => {
    looks++;
    return byId.call(spaces[0].map, hex);
  };
  for (let i = 0; i < 1000; i++) if (ask() > 0) answered++;
  assert.ok(answered <= 60, `${answered} of 1000 at one moment`);
  assert.ok(looks < 2500, `${looks} looks`);
  assert.ok(a.replicas.counters.framesOverRate > 900);
  world.nowMs += 60_000;
  // comparisons without entries cost too
  const fingerprint = new Uint8Array(16);
  const frame = encodeSync({
    type: "tree",
    space: spaces[1].id,
    nodes: [{ depth: 0, prefix: 0, count: 99, fingerprint }],
  });
  let compared = 0;
  for (let i = 0; i < 1000; i++) {
    a.replicas.handleFrame(a.now, b.identity.nodeId, frame);
    while (a.replicas.pollOutput() !== undefined) compared++;
  }
  assert.ok(compared > 0 && compared <= 300, `${compared} of 1000 at one moment`);
});

test("who was never a member writes nothing, whoever delivers it; who was removed, nothing later than that", () => {
  const world = new ReplicaWorld(21);
  const [a, b, c] = [world.add(), world.add(), world.add()];
  const space = a.open();
  const hlc = START_WALL_MS * 1024;
  c.writesUntil.clear();
  a.writesUntil.set(c.hex, hlc - 1000);
  const send = (stamp: number): void => {
    const { wire } = signEntry(NETWORK, SPACE, `k${stamp}`, utf8("v"), stamp, c.identity);
    a.replicas.handleFrame(
      a.now,
      b.identity.nodeId,
      encodeSync({ type: "entries", space: SPACE, hops: 0, entries: [wire] }),
    );
  };
  send(hlc - 2000);
  send(hlc - 999);
  assert.equal(space.map.size, 1);
  assert.equal(a.replicas.counters.entriesForbidden, 1);
  a.writesUntil.set(c.hex, -1);
  send(hlc - 3000);
  assert.equal(space.map.size, 1);
});

test("one author cannot fill a space, nor all of them together", () => {
  const world = new ReplicaWorld(22);
  const [a, b] = [world.add({ maxSpaceBytes: 40_000, maxBytes: 80_000 }), world.add()];
  const rules = { allows: () => true };
  const spaces = Array.from({ length: 6 }, (_, i) => a.open(`s${i}`, SpaceKind.KV, rules));
  let stamp = START_WALL_MS * 1024;
  for (const space of spaces) {
    for (let i = 0; i < 40; i++) {
      const { wire } = signEntry(NETWORK, space.id, `k${i}`, new Uint8Array(1000), stamp++, b.identity);
      a.replicas.handleFrame(
        a.now,
        b.identity.nodeId,
        encodeSync({ type: "entries", space: space.id, hops: 0, entries: [wire] }),
      );
    }
    assert.ok(space.map.bytes <= 10_000, "a quarter of a space");
  }
  assert.ok(a.replicas.counters.bytes <= 42_000, `${a.replicas.counters.bytes}: half of all is left for others`);
  for (const space of spaces) put(a, space, "mine", "x".repeat(1000));
});

test("groups leave spaces to keys and tasks", () => {
  const world = new ReplicaWorld(23);
  const a = world.add({ maxSpaces: 8 });
  for (let i = 0; i < 6; i++) a.open(`g${i}`, SpaceKind.GROUP);
  assert.equal(a.replicas.hasRoom(SpaceKind.GROUP), false);
  assert.throws(() => a.open("g6", SpaceKind.GROUP), { code: "SPACES_FULL" });
  a.open("default");
  a.open("work", SpaceKind.TASKS);
  assert.equal(a.replicas.hasRoom(SpaceKind.KV), false);
});

test("what is stamped at the limit can be overwritten, and does not carry other keys with it", () => {
  const world = new ReplicaWorld(24);
  const [a, b] = [world.add(), world.add()];
  const space = a.open();
  const limit = (START_WALL_MS + 300_000) * 1024;
  const { wire } = signEntry(NETWORK, SPACE, "k", utf8("theirs"), limit, b.identity);
  a.replicas.handleFrame(
    a.now,
    b.identity.nodeId,
    encodeSync({ type: "entries", space: SPACE, hops: 0, entries: [wire] }),
  );
  assert.deepEqual(content(space), { k: "theirs" });
  put(a, space, "k", "mine");
  put(a, space, "other", "mine");
  assert.deepEqual(content(space), { k: "mine", other: "mine" });
  assert.ok(space.map.get("k")!.hlc > limit);
  assert.ok(space.map.get("other")!.hlc < (START_WALL_MS + 241_000) * 1024, "within what every node takes at once");
});
