/** The directory's bounds, and where agents live. Many nodes and topics: sim/directory.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { concat, equal, toHex, utf8 } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { SeededRandom } from "../../base/random.ts";
import { FieldReader, u64 } from "../fields.ts";
import { Liveness } from "../membership/types.ts";
import { Directory } from "./directory.ts";
import { decodeDirectory, DirectoryType, encodeDirectory, MAX_RECORDS, RecordRole } from "./frames.ts";
import { topicKey } from "./keys.ts";
import { type AgentPlace, type DirectoryOptions, TopicRole } from "./types.ts";

const START_WALL_MS = 1_800_000_000_000;
const NETWORK: Uint8Array = new Uint8Array(32).fill(9);
const GOOD: Uint8Array = new Uint8Array(64).fill(1);

/** A stand-in for a lease: "L" ‖ agent 32 ‖ node 32 ‖ version u64 ‖ expires u64. */
function leaseOf(agent: Uint8Array, node: Uint8Array, version: number, expiresAtMs: number): Uint8Array {
  return concat(utf8("L"), agent, node, u64(version), u64(expiresAtMs));
}

function openLease(bytes: Uint8Array, wallMs: number): Omit<AgentPlace, "lease"> | undefined {
  const reader = new FieldReader(bytes);
  const mark = reader.u8();
  const agent = reader.bytes(32);
  const nodeId = reader.bytes(32);
  const version = reader.u64();
  const expiresAtMs = reader.u64();
  return mark === 76 && reader.isWhole && expiresAtMs > wallMs ? { agent, nodeId, version, expiresAtMs } : undefined;
}

/** Nodes whose frames arrive at once, in the order they were sent. */
class World {
  nowMs = 0;
  readonly ids: Uint8Array[] = [];
  readonly nodes: Directory[] = [];
  readonly located: (AgentPlace | undefined)[] = [];
  readonly dead = new Set<number>();
  /** So many of them are in the roster. */
  size: number;

  constructor(count: number, options: DirectoryOptions = {}) {
    const random = new SeededRandom(1);
    this.size = count;
    for (let i = 0; i < count; i++) this.ids.push(random.bytes(32));
    for (const nodeId of this.ids) {
      const signing = {
        nodeId,
        sign: () => GOOD,
        verify: (_: Uint8Array, __: string, ___: Uint8Array, s: Uint8Array) => equal(s, GOOD),
      };
      this.nodes.push(
        new Directory(
          {
            signing,
            random,
            networkId: NETWORK,
            isMember: (one) => this.ids.slice(0, this.size).some((other) => equal(other, one)),
            members: () => this.ids.slice(0, this.size),
            liveness: () => Liveness.UNKNOWN,
            openLease,
          },
          options,
        ),
      );
    }
  }

  get now(): Now {
    return { nowMs: this.nowMs, wallMs: START_WALL_MS + this.nowMs };
  }

  run(ms: number): void {
    for (const untilMs = this.nowMs + ms; ;) {
      this.deliver();
      const next = Math.min(...this.nodes.map((node, i) => (this.dead.has(i) ? Infinity : node.nextTimeoutMs())));
      if (next > untilMs) {
        this.nowMs = untilMs;
        return;
      }
      this.nowMs = Math.max(this.nowMs, next);
      this.nodes.forEach((node, i) => !this.dead.has(i) && node.handleTimeout(this.now));
    }
  }

  deliver(): void {
    for (let any = true; any;) {
      any = false;
      this.nodes.forEach((node, from) => {
        for (let output = node.pollOutput(); output !== undefined; output = node.pollOutput()) {
          any = true;
          if (output.kind === "located") this.located.push(output.place);
          if (output.kind !== "send" || this.dead.has(from)) continue;
          const { to, frame } = output;
          const target = this.ids.findIndex((id) => equal(id, to));
          if (!this.dead.has(target)) this.nodes[target].handleFrame(this.now, this.ids[from], frame);
        }
      });
    }
  }
}

test("an agent is found from everywhere, and after it moved it is found in its new place alone", () => {
  const world = new World(20);
  const agent = new Uint8Array(32).fill(5);
  const [host, next] = world.nodes;
  const first = leaseOf(agent, world.ids[0], 1, START_WALL_MS + 3_600_000);
  host.announce(world.now, first);
  world.run(1000);
  for (const node of world.nodes) node.locate(world.now, agent, 3000);
  world.run(10);
  assert.equal(world.located.length, 20);
  for (const place of world.located) assert.deepEqual(place?.lease, first);
  world.located.length = 0;
  const second = leaseOf(agent, world.ids[1], 2, START_WALL_MS + 3_600_000);
  next.announce(world.now, second);
  world.run(1000);
  for (const node of world.nodes) node.locate(world.now, agent, 3000);
  world.run(10);
  for (const place of world.located) assert.deepEqual(place?.lease, second);
  // the old host shows its lease again and again: it does not come back
  world.run(1_200_000);
  assert.deepEqual(world.nodes[15].whereIs(world.now.wallMs, agent)?.lease, second);
});

test("a lease is taken from its host alone, not when it has expired, and a lookup without an answer ends in time", () => {
  const world = new World(20);
  const agent = new Uint8Array(32).fill(6);
  const lease = leaseOf(agent, world.ids[0], 1, START_WALL_MS + 60_000);
  assert.throws(() => world.nodes[1].announce(world.now, lease), { code: "LEASE_INVALID" });
  world.nodes[2].handleFrame(world.now, world.ids[1], encodeDirectory({ type: DirectoryType.LEASE, lease }));
  assert.equal(world.nodes[2].whereIs(world.now.wallMs, agent), undefined);
  assert.equal(world.nodes[2].counters.recordsRefused, 1);
  world.nodes[2].handleFrame(world.now, world.ids[0], encodeDirectory({ type: DirectoryType.LEASE, lease }));
  assert.ok(world.nodes[2].whereIs(world.now.wallMs, agent) !== undefined);
  world.run(61_000);
  assert.equal(world.nodes[2].whereIs(world.now.wallMs, agent), undefined);
  for (let i = 1; i < 20; i++) world.dead.add(i);
  world.nodes[0].locate(world.now, agent, 3000);
  world.run(2999);
  assert.equal(world.located.length, 0);
  world.run(1);
  assert.deepEqual(world.located, [undefined]);
});

test("an answer to a question that was not asked, or about another agent, is worth nothing", () => {
  const world = new World(20);
  const agent = new Uint8Array(32).fill(7);
  const lease = leaseOf(agent, world.ids[3], 1, START_WALL_MS + 60_000);
  world.nodes[0].handleFrame(
    world.now,
    world.ids[3],
    encodeDirectory({ type: DirectoryType.LOCATED, query: 1, agent, lease }),
  );
  assert.equal(world.nodes[0].whereIs(world.now.wallMs, agent), undefined);
});

test("topics have names of 1 to 256 bytes, and there are as many as the bound says", () => {
  const world = new World(2, { maxTopics: 2 });
  const [node] = world.nodes;
  assert.throws(() => node.follow(world.now, "", TopicRole.SUBSCRIBER), { code: "TOPIC_INVALID" });
  assert.throws(() => node.follow(world.now, "ä".repeat(129), TopicRole.SUBSCRIBER), { code: "TOPIC_INVALID" });
  node.follow(world.now, "ä".repeat(128), TopicRole.SUBSCRIBER);
  node.follow(world.now, "b", TopicRole.SUBSCRIBER);
  assert.throws(() => node.follow(world.now, "c", TopicRole.SUBSCRIBER), { code: "TOPICS_FULL" });
  node.unfollow(world.now, "b");
  node.follow(world.now, "c", TopicRole.SUBSCRIBER);
  assert.equal(node.counters.topics, 2);
});

test("a meeting node keeps 64 records per topic and no more topics than its bound, and answers with 16", () => {
  const world = new World(200, { maxMeetings: 3 });
  const [meeting] = world.nodes;
  const visit = (from: number, topic: string): void => {
    const record = {
      node: world.ids[from],
      version: world.now.wallMs,
      lifeS: 1800,
      role: RecordRole.SUBSCRIBER,
      signature: GOOD,
    };
    const frame = { type: DirectoryType.VISIT, key: topicKey(NETWORK, topic), records: [record] } as const;
    meeting.handleFrame(world.now, world.ids[from], encodeDirectory(frame));
  };
  for (let i = 1; i < 200; i++) visit(i, "popular");
  assert.equal(meeting.counters.recordsEvicted, 199 - 64);
  let answer: ReturnType<typeof decodeDirectory>;
  for (let output = meeting.pollOutput(); output !== undefined; output = meeting.pollOutput())
    if (output.kind === "send") answer = decodeDirectory(output.frame);
  assert.ok(answer?.type === DirectoryType.VISITED && answer.records.length === MAX_RECORDS);
  assert.ok(!answer.records.some((record) => toHex(record.node) === toHex(world.ids[199])), "not the visitor itself");
  for (let i = 0; i < 10; i++) visit(1 + i, `topic ${i}`);
  assert.equal(meeting.counters.meetings, 3);
  assert.equal(meeting.counters.meetingsEvicted, 8);
});

test("the more followers come, the later a meeting node wants them back", () => {
  const world = new World(2);
  const [meeting, visitor] = world.ids.map((_, i) => world.nodes[i]);
  assert.ok(visitor !== undefined);
  const key = topicKey(NETWORK, "popular");
  const again = (): number => {
    world.nodes[0].handleFrame(
      world.now,
      world.ids[1],
      encodeDirectory({ type: DirectoryType.VISIT, key, records: [] }),
    );
    let againS = 0;
    for (let output = meeting.pollOutput(); output !== undefined; output = meeting.pollOutput()) {
      const frame = output.kind === "send" ? decodeDirectory(output.frame) : undefined;
      if (frame?.type === DirectoryType.VISITED) againS = frame.againS;
    }
    return againS;
  };
  const first = again();
  assert.ok(first >= 480 && first <= 720, `${first} s`);
  let later = 0;
  for (let i = 0; i < 3000; i++) {
    world.nowMs += 100;
    later = again() || later;
  }
  assert.ok(later > 5000, `${later} s`);
  // and when few come it shrinks again
  for (let i = 0; i < 40; i++) {
    world.nowMs += 120_000;
    later = again() || later;
  }
  assert.ok(later <= 720, `${later} s`);
});

test("while the network grows around them, followers of a rare topic and agents stay to be found", () => {
  const world = new World(120);
  world.size = 3;
  const agent = new Uint8Array(32).fill(8);
  world.nodes[0].announce(world.now, leaseOf(agent, world.ids[0], 1, START_WALL_MS + 3_600_000));
  world.nodes[0].follow(world.now, "rare", TopicRole.SUBSCRIBER);
  world.nodes[1].follow(world.now, "rare", TopicRole.SUBSCRIBER);
  world.run(5000);
  for (; world.size < 120; world.size += 9) {
    world.nodes.forEach((node, i) => i < world.size && node.membersChanged(world.now));
    world.run(1000);
  }
  world.run(10_000);
  const last = world.nodes[119];
  last.follow(world.now, "rare", TopicRole.SUBSCRIBER);
  last.locate(world.now, agent, 3000);
  world.run(3000);
  assert.equal(last.sample("rare", 9).length, 2);
  assert.deepEqual(
    world.located.map((place) => place?.nodeId),
    [world.ids[0]],
  );
});
