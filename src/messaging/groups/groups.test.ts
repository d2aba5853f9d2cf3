import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { equal, toHex, utf8 } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import { signEntry, SpaceKind } from "../kv/entry.ts";
import { encodeSync } from "../kv/messages.ts";
import { Replicas, type ReplicasOptions } from "../kv/replicas.ts";
import { NETWORK, START_WALL_MS } from "../kv/testing.ts";
import type { StoreOp } from "../store-types.ts";
import { formatCard, parseCard } from "./card.ts";
import {
  cardFrom,
  type Charter,
  type CharterFields,
  compareSiblings,
  type GroupMember,
  GroupRole,
  openEnvelope,
  readCharter,
  signCharter,
  verifyCharter,
} from "./charter.ts";
import { FLOOR_KEY, floorValue, MAX_GROUP_PAYLOAD_BYTES } from "./group-message.ts";
import { type Group, SETTLED_MS } from "./group.ts";
import { GROUP_FIRST, Groups, GroupFrame, MESSAGE_LIFE_MS } from "./groups.ts";

class Node {
  readonly identity: Identity;
  readonly random: SeededRandom;
  readonly replicas: Replicas;
  readonly messages: string[] = [];
  readonly stored: Map<string, StoreOp["values"]> = new Map();
  readonly world: World;
  /** Hexadecimal ids of nodes that are no members of the network. */
  readonly strangers: Set<string> = new Set();
  readonly troubles: string[] = [];
  left: Uint8Array[] = [];
  groups: Groups;

  constructor(world: World, seed: number, options: ReplicasOptions = {}) {
    this.world = world;
    this.random = new SeededRandom(seed);
    this.identity = Identity.generate(this.random);
    this.replicas = new Replicas(
      {
        signer: this.identity,
        random: this.random,
        networkId: NETWORK,
        others: () => world.nodes.filter((node) => node !== this).map((node) => node.id),
        candidates: () => [],
        isBlocked: () => false,
        mayWrite: () => true,
      },
      options,
    );
    this.groups = this.#start();
  }

  get id(): Uint8Array {
    return this.identity.nodeId;
  }

  get now(): Now {
    return { nowMs: this.world.nowMs, wallMs: START_WALL_MS + this.world.nowMs };
  }

  get group(): Group {
    return this.groups.find("team");
  }

  /** Ends of ids of the members, as this node knows them. */
  get members(): string[] {
    return this.group.current.members.map((member) => toHex(member.nodeId)).toSorted();
  }

  say(text: string): void {
    this.groups.send(this.now, this.group, utf8(text));
    this.world.drain();
  }

  restartGroups(): void {
    this.groups = this.#start();
    this.groups.restore(
      this.now,
      Array.from(this.stored.values(), (values) => ({
        wire: values[4] as Uint8Array,
        key: (values[5] as Uint8Array | null) ?? undefined,
        takenMs: values[6] as number,
        broughtBy: values[7] as Uint8Array,
      })),
      this.left,
    );
    this.groups.resume(this.now);
  }

  #start(): Groups {
    return new Groups({
      identity: this.identity,
      random: this.random,
      networkId: NETWORK,
      replicas: this.replicas,
      isMember: (nodeId) => !this.strangers.has(toHex(nodeId)),
      isBlocked: () => false,
    });
  }
}

class World {
  nowMs = 0;
  loss = 0;
  connected: (from: Node, to: Node) => boolean = () => true;
  readonly nodes: Node[] = [];
  readonly #random: SeededRandom;
  readonly #seed: number;
  #queue: { readonly atMs: number; readonly order: number; run(): void }[] = [];
  #order = 0;

  constructor(seed: number) {
    this.#seed = seed;
    this.#random = new SeededRandom(seed);
  }

  add(count: number, options: ReplicasOptions = {}): Node[] {
    for (let i = 0; i < count; i++) this.nodes.push(new Node(this, this.#seed * 1000 + this.nodes.length + 1, options));
    return this.nodes;
  }

  run(durationMs: number): void {
    const endMs = this.nowMs + durationMs;
    this.drain();
    for (;;) {
      this.#queue.sort((a, b) => a.atMs - b.atMs || a.order - b.order);
      let next = this.#queue[0]?.atMs ?? Infinity;
      for (const node of this.nodes) next = Math.min(next, node.replicas.nextTimeoutMs(), node.groups.nextTimeoutMs());
      if (next > endMs) break;
      this.nowMs = Math.max(this.nowMs, next);
      while (this.#queue.length > 0 && this.#queue[0].atMs <= this.nowMs) this.#queue.shift()!.run();
      for (const node of this.nodes) {
        if (node.replicas.nextTimeoutMs() <= this.nowMs) node.replicas.handleTimeout(node.now);
        if (node.groups.nextTimeoutMs() <= this.nowMs) node.groups.handleTimeout(node.now);
      }
      this.drain();
    }
    this.nowMs = endMs;
  }

  drain(): void {
    for (let busy = true; busy;) {
      busy = false;
      for (const node of this.nodes) {
        for (let output = node.replicas.pollOutput(); output !== undefined; output = node.replicas.pollOutput()) {
          busy = true;
          if (output.kind === "send") this.#deliver(node, output.to, output.frame);
          else if (output.kind === "changed") node.groups.entryChanged(node.now, output.space, output.entry);
        }
        for (let output = node.groups.pollOutput(); output !== undefined; output = node.groups.pollOutput()) {
          busy = true;
          if (output.kind === "send") this.#deliver(node, output.to, output.frame);
          else if (output.kind === "message") node.messages.push(Buffer.from(output.payload).toString());
          else if (output.kind === "conflict" || output.kind === "noSpace") node.troubles.push(output.kind);
          else if (output.kind === "store" && output.op.name === "groups.charter.put")
            node.stored.set(toHex(output.op.values[1] as Uint8Array), output.op.values);
          else if (output.kind === "store" && output.op.name === "groups.left.put")
            node.left.push(output.op.values[0] as Uint8Array);
          else if (output.kind === "store" && output.op.name === "groups.delete") node.stored.clear();
          else if (output.kind === "store" && output.op.name === "groups.charter.delete")
            node.stored.delete(toHex(output.op.values[1] as Uint8Array));
        }
      }
    }
  }

  #deliver(from: Node, toId: Uint8Array, frame: Uint8Array): void {
    const to = this.nodes.find((node) => equal(node.id, toId));
    if (to === undefined || this.#random.unit() < this.loss) return;
    this.#queue.push({
      atMs: this.nowMs + 1 + this.#random.unit() * 20,
      order: this.#order++,
      run: () => {
        if (!this.connected(from, to)) return;
        if (frame[0] >= GROUP_FIRST) to.groups.handleFrame(to.now, from.id, frame);
        else to.replicas.handleFrame(to.now, from.id, frame);
        this.drain();
      },
    });
  }
}

/** A charter of whatever form, on top of `before`. */
function forge(
  before: Charter,
  by: Node,
  members: readonly [Node, GroupRole][],
  more: Partial<CharterFields> = {},
): Charter {
  const untilMs = by.now.wallMs + 1e9;
  const fields = {
    origin: before,
    name: "team",
    epoch: before.epoch + 1,
    parent: before.hash,
    hlc: before.hlc + 1,
    members: members.map(([node, role]) => ({ nodeId: node.id, role, untilMs })),
    ...more,
  };
  return signCharter(NETWORK, fields, new Uint8Array(32), by.random.bytes(32), by.identity);
}

function charterFrame(charter: Charter): Uint8Array {
  return Uint8Array.of(GroupFrame.CHARTER, ...charter.wire);
}

function code(run: () => unknown): string {
  try {
    run();
    return "none";
  } catch (error) {
    return error instanceof WeftError ? error.code : String(error);
  }
}

test("a message to the group reaches every member once, also one that was away", () => {
  const world = new World(1);
  const [a, b, c, d] = world.add(4);
  a.groups.create(a.now, "team", [b.id, c.id]);
  world.run(200);
  world.connected = (from, to) => from !== c && to !== c;
  a.say("one");
  b.say("two");
  world.run(5000);
  assert.deepEqual(c.messages, []);
  world.connected = () => true;
  world.run(120_000);
  for (const node of [a, b, c]) assert.deepEqual(node.messages.toSorted(), ["one", "two"]);
  assert.deepEqual(d.messages, []);
  assert.equal(d.groups.list().length, 0, "who is not in it knows nothing of it");
});

test("whoever was removed cannot read the next message, even with everything it had and every byte that was sent", () => {
  const world = new World(2);
  const [a, b, c] = world.add(3);
  a.groups.create(a.now, "team", [b.id, c.id]);
  world.run(200);
  a.say("before");
  world.run(2000);
  assert.deepEqual(c.messages, ["before"]);
  const last = c.group;
  const keys = c.group.current;
  a.groups.remove(a.now, a.group, c.id);
  const sent = a.groups.send(a.now, a.group, utf8("after"));
  world.run(120_000);
  assert.deepEqual(b.messages, ["before", "after"]);
  assert.deepEqual(c.messages, ["before"]);
  // the sealed entry itself falls into its hands, and the charter with the new key's envelopes
  assert.equal(last.open(sent), undefined);
  const charter = a.group.current;
  assert.equal(openEnvelope(charter, c.id, c.identity.staticKeys), undefined, "no envelope for it");
  const stolen = { ...charter, members: charter.members.map((member) => ({ ...member, nodeId: c.id })) };
  assert.equal(openEnvelope(stolen, c.id, c.identity.staticKeys), undefined, "nor does another's open");
  assert.notEqual(toHex(keys.hash), toHex(charter.hash));
  assert.equal(
    code(() => c.groups.send(c.now, c.groups.find("team"), utf8("still here?"))),
    "GROUP_DENIED",
  );
  assert.equal(c.replicas.find(SpaceKind.GROUP, a.group.spaceName), undefined);
});

test("negative control: a member that was not removed does open the same entry", () => {
  const world = new World(2);
  const [a, b, c] = world.add(3);
  a.groups.create(a.now, "team", [b.id, c.id]);
  world.run(200);
  const sent = a.groups.send(a.now, a.group, utf8("after"));
  assert.deepEqual(c.group.open(sent), utf8("after"));
});

test("who was removed can neither write nor fetch; who comes later cannot read what was said before", () => {
  const world = new World(3);
  const [a, b, c, d] = world.add(4);
  a.groups.create(a.now, "team", [b.id, c.id]);
  world.run(200);
  a.say("early");
  world.run(1000);
  const oldKeyHolder = c.group;
  const forged = ((): Uint8Array => {
    // sealed with the key that it had, signed by itself
    const entry = c.groups.send(c.now, oldKeyHolder, utf8("forged"));
    return signEntry(NETWORK, a.group.space!.id, entry.key, entry.value, entry.hlc, c.identity).wire;
  })();
  while (c.replicas.pollOutput() !== undefined);
  a.groups.remove(a.now, a.group, c.id);
  world.run(2000);
  const before = a.messages.length;
  b.replicas.handleFrame(
    b.now,
    c.id,
    encodeSync({ type: "entries", space: b.group.space!.id, hops: 0, entries: [forged] }),
  );
  a.replicas.handleFrame(
    a.now,
    b.id,
    encodeSync({ type: "entries", space: a.group.space!.id, hops: 0, entries: [forged] }),
  );
  world.run(2000);
  assert.equal(a.messages.length, before, "not from its own hands, not from a member's");
  const framesOut: Uint8Array[] = [];
  b.replicas.handleFrame(
    b.now,
    c.id,
    encodeSync({ type: "items", space: b.group.space!.id, nodes: [{ depth: 0, prefix: 0, ids: [] }] }),
  );
  for (let output = b.replicas.pollOutput(); output !== undefined; output = b.replicas.pollOutput())
    if (output.kind === "send" && equal(output.to, c.id)) framesOut.push(output.frame);
  assert.deepEqual(framesOut, [], "asking for entries gives it nothing");
  a.groups.add(a.now, a.group, d.id, GroupRole.MEMBER);
  a.say("late");
  world.run(120_000);
  assert.deepEqual(d.messages, ["late"]);
});

test("only admins change a group; an admin may make others admin and go", () => {
  const world = new World(4);
  const [a, b, c] = world.add(3);
  a.groups.create(a.now, "team", [b.id]);
  world.run(200);
  assert.equal(
    code(() => b.groups.add(b.now, b.group, c.id, GroupRole.MEMBER)),
    "GROUP_DENIED",
  );
  assert.equal(
    code(() => a.groups.remove(a.now, a.group, a.id)),
    "GROUP_LAST_ADMIN",
  );
  assert.equal(
    code(() => a.groups.remove(a.now, a.group, c.id)),
    "NODE_UNKNOWN",
  );
  // a charter signed by a member that is no admin
  const parent = b.group.current;
  const members: GroupMember[] = [{ nodeId: b.id, role: GroupRole.ADMIN, untilMs: b.now.wallMs + 1e9 }];
  const fields = { origin: parent, name: "team", epoch: 2, parent: parent.hash, hlc: parent.hlc + 1, members };
  const coup = signCharter(NETWORK, fields, new Uint8Array(32), b.random.bytes(32), b.identity);
  a.groups.handleFrame(a.now, b.id, Uint8Array.of(GroupFrame.CHARTER, ...coup.wire));
  assert.equal(a.groups.counters.chartersRefused, 1);
  assert.equal(a.group.current.epoch, 1);
  a.groups.add(a.now, a.group, b.id, GroupRole.ADMIN);
  world.run(200);
  a.groups.leave(a.now, a.group);
  world.run(2000);
  assert.equal(a.groups.list().length, 0);
  assert.deepEqual(b.members, [toHex(b.id)]);
  b.groups.add(b.now, b.group, c.id, GroupRole.MEMBER);
  world.run(200);
  c.groups.leave(c.now, c.group);
  world.run(2000);
  assert.deepEqual(b.members, [toHex(b.id)], "an admin has removed the member that left");
});

test("admins that change the group at the same time agree, and nobody's change is lost", () => {
  const op = fc.record({
    by: fc.nat(2),
    who: fc.integer({ min: 3, max: 5 }),
    adds: fc.boolean(),
    pauseMs: fc.constantFrom(0, 5, 300),
  });
  fc.assert(
    fc.property(fc.nat(1000), fc.array(op, { maxLength: 12 }), (seed, ops) => {
      const world = new World(seed + 10);
      const nodes = world.add(6);
      const [a, b, c] = nodes;
      a.groups.create(a.now, "team", []);
      for (const admin of [b, c]) a.groups.add(a.now, a.group, admin.id, GroupRole.ADMIN);
      world.run(1000);
      world.loss = 0.1;
      for (const { by, who, adds, pauseMs } of ops) {
        const admin = nodes[by];
        code(() => {
          if (adds) admin.groups.add(admin.now, admin.group, nodes[who].id, GroupRole.MEMBER);
          else admin.groups.remove(admin.now, admin.group, nodes[who].id);
        });
        world.run(pauseMs);
      }
      world.run(900_000);
      for (const node of [b, c]) assert.equal(toHex(node.group.current.hash), toHex(a.group.current.hash));
      for (const who of [3, 4, 5]) {
        const own = ops.filter((one) => one.who === who);
        const wanted = new Set(own.map((one) => one.adds));
        // when all wanted the same (and a removal was of a member), that is what came
        if (wanted.size === 1 && wanted.has(true)) assert.ok(a.members.includes(toHex(nodes[who].id)), `member ${who}`);
        if (!wanted.has(true)) assert.ok(!a.members.includes(toHex(nodes[who].id)));
      }
      a.say("end");
      world.run(120_000);
      for (const node of nodes) {
        const isIn = a.members.includes(toHex(node.id));
        assert.equal(node.messages.includes("end"), isIn);
      }
    }),
    { numRuns: 20 },
  );
});

test("an admin that is being removed cannot win by a change of its own made at the same time", () => {
  for (let seed = 0; seed < 8; seed++) {
    const world = new World(100 + seed);
    const [a, b, c] = world.add(3);
    a.groups.create(a.now, "team", []);
    a.groups.add(a.now, a.group, b.id, GroupRole.ADMIN);
    world.run(500);
    world.connected = () => false;
    a.groups.remove(a.now, a.group, b.id);
    b.groups.add(b.now, b.group, c.id, GroupRole.ADMIN);
    world.run(100);
    const [parent, mine] = a.group.chain.slice(-2);
    const theirs = b.group.current;
    assert.ok(compareSiblings(mine, theirs, parent) > 0);
    assert.ok(compareSiblings(theirs, mine, parent) < 0);
    world.connected = () => true;
    world.run(300_000);
    assert.equal(toHex(b.group.current.hash), toHex(mine.hash), `seed ${seed}`);
    assert.deepEqual(a.members, [toHex(a.id)]);
  }
});

test("groups, keys and messages are there again after a restart", () => {
  const world = new World(5);
  const [a, b] = world.add(2);
  a.groups.create(a.now, "team", [b.id]);
  world.run(200);
  a.say("one");
  world.run(1000);
  b.messages.length = 0;
  b.restartGroups();
  world.drain();
  assert.deepEqual(b.messages, ["one"], "told again, for whoever stores them");
  a.say("two");
  world.run(1000);
  assert.deepEqual(b.messages, ["one", "two"]);
  b.say("three");
  world.run(1000);
  assert.deepEqual(a.messages, ["one", "two", "three"]);
});

test("memberships end unless an admin renews them, and entries end after seven days", () => {
  const world = new World(6);
  const [a, b] = world.add(2);
  a.groups.create(a.now, "team", [b.id]);
  world.run(200);
  a.say("old");
  world.run(1000);
  const until = a.group.current.members[1].untilMs;
  for (let day = 0; day < 24; day++) {
    world.nowMs += 86_400_000 - 8_000_000;
    world.run(8_000_000);
  }
  assert.ok(a.group.current.members[1].untilMs > until, "renewed");
  assert.equal(a.group.space!.map.size, 0);
  assert.ok(MESSAGE_LIFE_MS < 24 * 86_400_000);
  world.connected = () => false;
  world.nowMs += 31 * 86_400_000;
  assert.equal(
    code(() => b.groups.send(b.now, b.group, utf8("late"))),
    "GROUP_DENIED",
  );
});

test("a group that says more than fits forgets the older half everywhere alike, and goes on", () => {
  const world = new World(31);
  const [a, b, c] = world.add(3);
  a.groups.create(a.now, "team", [b.id, c.id]);
  world.run(200);
  for (let i = 0; i < 120; i++) {
    [a, b][i % 2].say(`${i} `.padEnd(60_000, "x"));
    world.run(100);
  }
  world.run(120_000);
  assert.equal(a.messages.length, 120, "nothing was lost for who listened");
  assert.ok(a.group.space!.map.bytes < 4 * 1024 * 1024);
  assert.equal(a.replicas.counters.entriesFull + b.replicas.counters.entriesFull, 0);
  const fingerprint = (node: Node): string => toHex(node.group.space!.map.tree.fingerprint(0, 0));
  assert.equal(fingerprint(b), fingerprint(a));
  assert.equal(fingerprint(c), fingerprint(a));
});

test("who has left stays out although no admin was there to hear it, also after a restart; and may be added again", () => {
  const world = new World(33);
  const [a, b] = world.add(2);
  a.groups.create(a.now, "team", [b.id]);
  world.run(200);
  world.connected = () => false;
  b.groups.leave(b.now, b.group);
  world.run(1000);
  b.restartGroups();
  world.connected = () => true;
  world.run(300_000);
  assert.equal(b.groups.list().length, 0);
  assert.deepEqual(a.members, [toHex(a.id)], "the admin has heard of it in the end");
  a.groups.add(a.now, a.group, b.id, GroupRole.MEMBER);
  world.run(300_000);
  assert.equal(b.group.current.epoch, a.group.current.epoch);
});

test("one member can bring another into a bounded number of groups", () => {
  const world = new World(34);
  const [a, b, c] = world.add(3);
  for (let i = 0; i < 30; i++) {
    a.groups.create(a.now, `team-${i}`, [b.id]);
    world.run(1000);
  }
  assert.equal(b.groups.list().length, 16);
  c.groups.create(c.now, "other", [b.id]);
  world.run(1000);
  assert.equal(b.groups.list().length, 17);
});

test("who leaves the network leaves its groups", () => {
  const world = new World(32);
  const [a, b, c] = world.add(3);
  a.groups.create(a.now, "team", [b.id]);
  a.groups.add(a.now, a.group, c.id, GroupRole.ADMIN);
  world.run(500);
  for (const admin of [a, c]) admin.groups.memberGone(admin.now, b.id);
  world.run(200_000);
  for (const node of [a, c]) assert.deepEqual(node.members, [a, c].map((one) => toHex(one.id)).toSorted());
  assert.equal(toHex(a.group.current.hash), toHex(c.group.current.hash));
});

test("a card proves membership to anybody until it expires; a changed one proves nothing", () => {
  const world = new World(7);
  const [a, b, c] = world.add(3);
  a.groups.create(a.now, "team", [b.id]);
  world.run(200);
  const text = b.groups.card(b.group, b.id);
  const card = parseCard(NETWORK, text)!;
  assert.equal(toHex(card.nodeId), toHex(b.id));
  assert.equal(toHex(card.issuer), toHex(a.id));
  assert.equal(card.name, "team");
  assert.ok(card.untilMs > b.now.wallMs);
  const found = cardFrom(b.group.current, b.id)!;
  assert.equal(parseCard(NETWORK, formatCard({ ...found.card, nodeId: c.id }, found.signature)), undefined);
  assert.equal(
    parseCard(NETWORK, formatCard({ ...found.card, untilMs: found.card.untilMs + 1 }, found.signature)),
    undefined,
  );
  assert.equal(parseCard(new Uint8Array(32), text), undefined, "of another network");
  assert.equal(parseCard(NETWORK, text.slice(0, -2)), undefined);
  assert.equal(parseCard(NETWORK, "weftcard1."), undefined);
});

test("changed charters are refused; hostile frames are counted and never an exception", () => {
  const world = new World(8);
  const [a, b] = world.add(2);
  const { current } = a.groups.create(a.now, "team", [b.id]);
  for (let bit = 0; bit < current.wire.length * 8; bit += 11) {
    const wire = Uint8Array.from(current.wire);
    wire[bit >> 3] = wire[bit >> 3] ^ (1 << (bit & 7));
    const read = readCharter(NETWORK, wire);
    assert.ok(read === undefined || !verifyCharter(NETWORK, read), `bit ${bit}`);
  }
  fc.assert(
    fc.property(fc.constantFrom(24, 25, 26, 27), fc.uint8Array({ maxLength: 200 }), (type, rest) => {
      b.groups.handleFrame(b.now, a.id, Uint8Array.of(type, ...rest));
    }),
    { numRuns: 300 },
  );
  assert.ok(
    b.groups.counters.framesRefused + b.groups.counters.chartersRefused + b.groups.counters.framesOverRate > 200,
  );
  assert.equal(b.groups.list().length, 0);
});

test("limits: names, payloads, groups", () => {
  const world = new World(9);
  const [a] = world.add(1);
  assert.equal(
    code(() => a.groups.create(a.now, "Not A Name", [])),
    "GROUP_NAME",
  );
  a.groups.create(a.now, "team", []);
  assert.equal(
    code(() => a.groups.create(a.now, "team", [])),
    "GROUP_EXISTS",
  );
  assert.equal(
    code(() => a.groups.send(a.now, a.group, new Uint8Array(MAX_GROUP_PAYLOAD_BYTES + 1))),
    "MESSAGE_TOO_LARGE",
  );
  a.groups.send(a.now, a.group, new Uint8Array(MAX_GROUP_PAYLOAD_BYTES));
  assert.equal(
    code(() => a.groups.find("nobody")),
    "GROUP_UNKNOWN",
  );
  assert.equal(a.groups.find(a.group.hex.slice(0, 8)), a.group);
  const many = Array.from({ length: 128 }, (_, i) => Identity.generate(new SeededRandom(5000 + i)).nodeId);
  assert.equal(
    code(() => a.groups.create(a.now, "crowd", many)),
    "GROUP_FULL",
  );
  a.groups.create(a.now, "crowd", many.slice(1));
  assert.equal(a.groups.find("crowd").current.members.length, 128);
});

test("an admin that was removed does not come back by removing who removed it: neither by trying hashes nor weeks later", () => {
  for (const isSenior of [false, true]) {
    const world = new World(isSenior ? 41 : 42);
    const [a, k, c] = world.add(3);
    const [founder, other] = isSenior ? [k, a] : [a, k];
    founder.groups.create(founder.now, "team", [c.id]);
    founder.groups.add(founder.now, founder.group, other.id, GroupRole.ADMIN);
    world.run(1000);
    const parent = a.group.current;
    a.groups.remove(a.now, a.group, k.id);
    world.run(1000);
    const { hash } = c.group.current;
    // one of them has a smaller hash, very probably
    const grind = Array.from({ length: 16 }, () =>
      forge(parent, k, [
        [k, GroupRole.ADMIN],
        [c, GroupRole.MEMBER],
      ]),
    );
    if (isSenior) world.nowMs += SETTLED_MS + 1000;
    for (const charter of grind) c.groups.handleFrame(c.now, k.id, charterFrame(charter));
    assert.equal(toHex(c.group.current.hash), toHex(hash));
    assert.equal(c.groups.counters.chartersLost, 16);
    world.drain();
    assert.deepEqual(c.troubles, isSenior ? ["conflict"] : [], "told once");
  }
});

test("of admins that remove each other at once the one that was there first stays, on all nodes alike", () => {
  for (let seed = 0; seed < 6; seed++) {
    const world = new World(50 + seed);
    const [a, b, c] = world.add(3);
    a.groups.create(a.now, "team", [c.id]);
    a.groups.add(a.now, a.group, b.id, GroupRole.ADMIN);
    world.run(1000);
    world.connected = () => false;
    b.groups.remove(b.now, b.group, a.id);
    a.groups.remove(a.now, a.group, b.id);
    world.run(1000);
    world.connected = () => true;
    world.run(300_000);
    for (const node of [a, c]) assert.deepEqual(node.members, [a, c].map((one) => toHex(one.id)).toSorted(), `${seed}`);
  }
});

test("nobody moves itself before others: who was there first shows in every charter", () => {
  const world = new World(43);
  const [a, b] = world.add(2);
  a.groups.create(a.now, "team", []);
  a.groups.add(a.now, a.group, b.id, GroupRole.ADMIN);
  world.run(1000);
  const swapped = forge(a.group.current, b, [
    [b, GroupRole.ADMIN],
    [a, GroupRole.ADMIN],
  ]);
  a.groups.handleFrame(a.now, b.id, charterFrame(swapped));
  assert.equal(a.groups.counters.chartersRefused, 1);
  b.groups.add(b.now, b.group, a.id, GroupRole.MEMBER);
  world.run(1000);
  assert.equal(toHex(a.group.current.members[0].nodeId), toHex(a.id), "a changed role keeps the place");
});

for (const isStranger of [true, false]) {
  test(`who brought this node into groups is remembered: 16 by one member, also when ${isStranger ? "a stranger" : "another one"} goes on, and after a restart`, () => {
    const world = new World(44);
    const [k, b, helper] = world.add(3);
    if (isStranger) b.strangers.add(toHex(helper.id));
    for (let i = 0; i < 40; i++) {
      const group = k.groups.create(k.now, `g${i}`, [b.id]);
      k.groups.add(k.now, group, helper.id, GroupRole.ADMIN);
      world.run(2000);
      const roles: [Node, GroupRole][] = [
        [helper, GroupRole.ADMIN],
        [b, GroupRole.MEMBER],
      ];
      const far = forge(group.current, helper, roles, { epoch: 1000, parent: new Uint8Array(32).fill(1) });
      const isKnown = b.groups.list().some((one) => one.hex === group.hex);
      if (!isKnown) continue;
      b.groups.handleFrame(b.now, helper.id, charterFrame(far));
      assert.equal(b.groups.find(group.hex).current.epoch === 1000, !isStranger, "a stranger is not believed");
    }
    assert.equal(b.groups.list().length, 16);
    b.restartGroups();
    world.drain();
    k.groups.create(k.now, "one-more", [b.id]);
    world.run(2000);
    assert.equal(b.groups.list().length, 16);
  });
}

test("where there is no room for more spaces groups go on without messages, and get them when there is", () => {
  const world = new World(45);
  const [a] = world.add(1);
  const b = new Node(world, 999, { maxSpaces: 4 });
  world.nodes.push(b);
  a.groups.create(a.now, "team", [b.id]);
  world.run(1000);
  const spaces = ["x", "y", "z"].map((name) => b.replicas.open(b.now, SpaceKind.KV, name, { allows: () => true }));
  a.groups.create(a.now, "second", [b.id]);
  world.run(1000);
  assert.equal(b.groups.list().length, 1, "it is not taken, and nothing of it is stored");
  assert.equal(b.stored.size, 1);
  // its space is lost to others while it was down
  b.replicas.close(b.group.space!);
  b.replicas.open(b.now, SpaceKind.KV, "w", { allows: () => true });
  b.restartGroups();
  world.drain();
  assert.deepEqual(b.troubles, ["noSpace"]);
  assert.equal(
    code(() => b.groups.send(b.now, b.group, utf8("hello"))),
    "SPACES_FULL",
  );
  a.groups.add(a.now, a.group, b.id, GroupRole.ADMIN);
  world.run(1000);
  assert.equal(b.group.current.epoch, 2, "charters are followed all the same");
  b.replicas.close(spaces[0]);
  a.say("now");
  world.run(200_000);
  assert.deepEqual(b.messages, ["now"]);
});

test("a frame that asks for one group twice is malformed, and chains of charters are sent seldom to the same node", () => {
  const world = new World(46);
  const [a, b] = world.add(2);
  a.groups.create(a.now, "team", [b.id]);
  world.run(1000);
  const state = (times: number): Uint8Array =>
    Uint8Array.of(
      GroupFrame.STATE,
      1,
      times,
      ...Array.from({ length: times }, () => [...a.group.id, ...new Uint8Array(20)]).flat(),
    );
  const charters = (frame: Uint8Array): number => {
    a.groups.handleFrame(a.now, b.id, frame);
    let count = 0;
    for (let output = a.groups.pollOutput(); output !== undefined; output = a.groups.pollOutput())
      if (output.kind === "send" && output.frame[0] === GroupFrame.CHARTER) count++;
    return count;
  };
  const refused = a.groups.counters.framesRefused;
  assert.ok(charters(state(64)) <= 1);
  assert.equal(a.groups.counters.framesRefused, refused + 1);
  let sent = 0;
  for (let i = 0; i < 50; i++) sent += charters(state(1));
  assert.ok(sent <= 2, `${sent}`);
  world.nowMs += 10_000;
  assert.equal(charters(state(1)), 1, "and again later");
});

test("a member's floor removes nothing while there is room, and a bounded part when there is none", () => {
  const world = new World(47);
  const [a, k] = world.add(2);
  a.groups.create(a.now, "team", [k.id]);
  world.run(1000);
  const erase = (): void => {
    const hlc = k.replicas.tick(k.now);
    k.replicas.write(k.now, k.group.space!, FLOOR_KEY, floorValue(hlc));
    world.run(1000);
  };
  for (let i = 0; i < 10; i++) a.say("x".repeat(60_000));
  world.run(1000);
  erase();
  assert.equal(a.group.space!.map.size, 11, "ten messages and the floor");
  for (let i = 0; i < 30; i++) a.say("x".repeat(60_000));
  world.run(1000);
  for (let i = 0; i < 15; i++) a.say("x".repeat(60_000));
  world.run(1000);
  const before = a.group.space!.map.size;
  assert.ok(before > 40);
  for (let i = 0; i < 20; i++) erase();
  const after = a.group.space!.map.size;
  assert.ok(after < before && after > 0.37 * before, `${after} of ${before} are left`);
});

test("a group's id cannot be had by anybody else: its founder and nonce are in every charter", () => {
  const world = new World(48);
  const [a, k, b] = world.add(3);
  a.groups.create(a.now, "team", []);
  const { group } = a.group.current;
  const squat = forge(
    { ...a.group.current, founder: k.id },
    k,
    [
      [k, GroupRole.ADMIN],
      [b, GroupRole.MEMBER],
    ],
    { epoch: 5 },
  );
  assert.notEqual(toHex(squat.group), toHex(group), "another group");
  // the bytes of the id in its place
  const at = Buffer.from(squat.wire).indexOf(squat.group);
  const wire = Uint8Array.from(squat.wire);
  wire.set(group, at);
  assert.ok(at > 0);
  assert.equal(readCharter(NETWORK, wire), undefined);
});

test("somebody who takes a member to another line of a group's charters does not go unnoticed", () => {
  const world = new World(49);
  const [a, k, b] = world.add(3);
  a.groups.create(a.now, "team", [k.id]);
  world.run(1000);
  // k knows founder and nonce: it is in the group
  const squat = forge(
    a.group.current,
    k,
    [
      [k, GroupRole.ADMIN],
      [b, GroupRole.MEMBER],
    ],
    { epoch: 500, parent: new Uint8Array(32).fill(1) },
  );
  b.groups.handleFrame(b.now, k.id, charterFrame(squat));
  world.run(1000);
  assert.equal(b.group.current.epoch, 500);
  a.groups.add(a.now, a.group, b.id, GroupRole.MEMBER);
  world.run(1000);
  assert.deepEqual(b.troubles, ["conflict"]);
});
