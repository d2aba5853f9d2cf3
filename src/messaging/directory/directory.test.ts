/** The directory's bounds, and where agents live. Many nodes and topics: sim/directory.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { concat, equal, toHex, utf8 } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { SeededRandom } from "../../base/random.ts";
import { FieldReader, u64 } from "../fields.ts";
import { Liveness } from "../membership/types.ts";
import { Directory } from "./directory.ts";
import {
  decodeDirectory,
  DirectoryType,
  encodeDirectory,
  MAX_RECORDS,
  RecordRole,
  type TopicRecord,
} from "./frames.ts";
import { isMeetingNode, meetingNodes, topicKey } from "./keys.ts";
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
  onSubscribers: ((node: number) => void) | undefined;
  readonly #make: (nodeId: Uint8Array) => Directory;
  /** So many of them are in the roster. */
  size: number;

  constructor(count: number, options: DirectoryOptions = {}) {
    const random = new SeededRandom(1);
    this.size = count;
    for (let i = 0; i < count; i++) this.ids.push(random.bytes(32));
    this.#make = (nodeId) => {
      const signing = {
        nodeId,
        sign: () => GOOD,
        verify: (_: Uint8Array, __: string, ___: Uint8Array, s: Uint8Array) => equal(s, GOOD),
      };
      return new Directory(
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
      );
    };
    for (const nodeId of this.ids) this.nodes.push(this.#make(nodeId));
  }

  /** A new run of the node, which remembers nothing. */
  replace(index: number): void {
    this.nodes[index] = this.#make(this.ids[index]);
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
          if (output.kind === "subscribers") this.onSubscribers?.(from);
          if (output.kind !== "send" || this.dead.has(from)) continue;
          const { to, frame } = output;
          const target = this.ids.findIndex((id) => equal(id, to));
          if (!this.dead.has(target)) this.nodes[target].handleFrame(this.now, this.ids[from], frame);
        }
      });
    }
  }
}

/** The first of some agents that has this node among its ten meeting nodes. */
function agentMetAt(world: World, index: number, seed = 0): Uint8Array {
  for (let i = seed; ; i++) {
    const agent = concat(u64(i), new Uint8Array(24));
    if (isMeetingNode(agent, world.ids, world.ids[index], 10)) return agent;
  }
}

/** The first of some topics for which this node is a meeting node, or is none. */
function topicMetAt(world: World, index: number, prefix: string, isMet = true): string {
  for (let i = 0; ; i++) {
    const topic = `${prefix} ${i}`;
    if (isMeetingNode(topicKey(NETWORK, topic), world.ids, world.ids[index], 10) === isMet) return topic;
  }
}

/** A subscriber's record; the signature decides whether it holds. */
function recordOf(world: World, node: number, signature: Uint8Array = GOOD): TopicRecord {
  const { wallMs } = world.now;
  return { node: world.ids[node], version: wallMs, lifeS: 1800, role: RecordRole.SUBSCRIBER, signature };
}

/** What `to` answers to a visit; the frames before are lost. */
function visitTo(
  world: World,
  to: number,
  from: number,
  topic: string,
  isFollower = true,
): { readonly againS: number; readonly nodes: string[] } | undefined {
  const key = topicKey(NETWORK, topic);
  const frame = { type: DirectoryType.VISIT, key, records: isFollower ? [recordOf(world, from)] : [] } as const;
  world.nodes[to].handleFrame(world.now, world.ids[from], encodeDirectory(frame));
  let answer: ReturnType<typeof decodeDirectory>;
  for (let output = world.nodes[to].pollOutput(); output !== undefined; output = world.nodes[to].pollOutput())
    if (output.kind === "send") answer = decodeDirectory(output.frame);
  if (answer?.type !== DirectoryType.VISITED) return undefined;
  return { againS: answer.againS, nodes: answer.records.map((record) => toHex(record.node)) };
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
  const agent = agentMetAt(world, 2);
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
  const popular = topicMetAt(world, 0, "popular");
  for (let i = 1; i < 200; i++) visit(i, popular);
  assert.equal(meeting.counters.recordsEvicted, 199 - 64);
  let answer: ReturnType<typeof decodeDirectory>;
  for (let output = meeting.pollOutput(); output !== undefined; output = meeting.pollOutput())
    if (output.kind === "send") answer = decodeDirectory(output.frame);
  assert.ok(answer?.type === DirectoryType.VISITED && answer.records.length === MAX_RECORDS);
  assert.ok(!answer.records.some((record) => toHex(record.node) === toHex(world.ids[199])), "not the visitor itself");
  for (let i = 0; i < 10; i++) visit(1 + i, topicMetAt(world, 0, `topic ${i},`));
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

test("a publisher that is a meeting node itself knows a later subscriber at once, and a new run of it too", () => {
  const world = new World(2);
  const [publisher, subscriber] = world.nodes;
  publisher.follow(world.now, "logs", TopicRole.VISITOR);
  world.run(100_000);
  assert.deepEqual(publisher.sample("logs", 9), []);
  let told = 0;
  world.onSubscribers = (node) => {
    if (node === 0) told++;
  };
  subscriber.follow(world.now, "logs", TopicRole.SUBSCRIBER);
  world.run(500);
  assert.deepEqual(publisher.sample("logs", 9), [world.ids[1]]);
  assert.equal(publisher.known("logs"), 1);
  assert.equal(publisher.counters.records, 1);
  assert.equal(told, 1);
  // restarted, it comes with a newer record: who lost it meanwhile hears of that
  world.run(10_000);
  world.replace(1);
  world.nodes[1].follow(world.now, "logs", TopicRole.SUBSCRIBER);
  world.run(500);
  assert.equal(told, 2);
});

test("a publisher elsewhere finds the first subscriber within 40 s, and looks again when it has lost the last one", () => {
  const world = new World(60);
  const key = topicKey(NETWORK, "logs");
  const meeting = new Set(meetingNodes(key, world.ids, 10).map(toHex));
  const [from, to] = world.ids.flatMap((id, i) => (meeting.has(toHex(id)) ? [] : [i]));
  const publisher = world.nodes[from];
  publisher.follow(world.now, "logs", TopicRole.VISITOR);
  world.run(200_000);
  // three visits a round, a round in half a minute once it has looked a few times
  assert.ok(publisher.counters.visits <= 36, `${publisher.counters.visits} visits`);
  world.nodes[to].follow(world.now, "logs", TopicRole.SUBSCRIBER);
  world.run(40_000);
  assert.deepEqual(publisher.sample("logs", 9), [world.ids[to]]);
  const { visits } = publisher.counters;
  world.run(300_000);
  assert.equal(publisher.counters.visits, visits, "who knows somebody need not look");
  world.nodes[to].unfollow(world.now, "logs");
  publisher.notThere(world.now, "logs", world.ids[to]);
  world.nodes[to].follow(world.now, "logs", TopicRole.SUBSCRIBER);
  world.run(10_000);
  assert.deepEqual(publisher.sample("logs", 9), [world.ids[to]]);
});

test("a visit that was lost because the meeting node was not there yet is made again when it comes", () => {
  const world = new World(2);
  world.dead.add(0);
  world.nodes[0].follow(world.now, "logs", TopicRole.VISITOR);
  world.nodes[1].follow(world.now, "logs", TopicRole.SUBSCRIBER);
  world.run(1000);
  world.dead.delete(0);
  world.nodes[1].alive(world.now, world.ids[0]);
  world.deliver();
  assert.deepEqual(world.nodes[0].sample("logs", 9), [world.ids[1]]);
});

test("publishers that only look do not keep followers away from a meeting node", () => {
  const world = new World(4);
  for (let i = 0; i < 3000; i++) {
    world.nowMs += 100;
    visitTo(world, 0, 1, "logs", false);
  }
  assert.ok((visitTo(world, 0, 1, "logs", false)?.againS ?? 0) > 5000);
  assert.ok((visitTo(world, 0, 2, "logs")?.againS ?? Infinity) <= 720);
});

test("a node keeps nothing for a key of others and says so; the visitor goes on to the next and holds nothing against it", () => {
  const world = new World(30);
  const foreign = topicMetAt(world, 0, "foreign", false);
  assert.deepEqual(visitTo(world, 0, 1, foreign), { againS: 0, nodes: [] });
  assert.equal(world.nodes[0].counters.meetings, 0);
  // a follower with an older, smaller roster comes to others than those that serve
  const own = topicMetAt(world, 0, "own");
  assert.ok((visitTo(world, 0, 1, own)?.againS ?? 0) > 0);
  const [first] = meetingNodes(topicKey(NETWORK, own), world.ids, 1);
  const asker = world.ids.findIndex((id) => !equal(id, first) && !equal(id, world.ids[0]));
  const node = world.nodes[asker];
  node.follow(world.now, own, TopicRole.SUBSCRIBER);
  const asked = (): string[] => {
    const out: string[] = [];
    node.handleTimeout(world.now);
    for (let output = node.pollOutput(); output !== undefined; output = node.pollOutput())
      if (output.kind === "send") out.push(toHex(output.to));
    return out;
  };
  const key = topicKey(NETWORK, own);
  const refusal = encodeDirectory({ type: DirectoryType.VISITED, key, againS: 0, records: [] });
  const refusing = new Set<string>();
  for (let [to] = asked(); to !== undefined; [to] = asked()) {
    refusing.add(to);
    const from = world.ids.findIndex((id) => toHex(id) === to);
    node.handleFrame(world.now, world.ids[from], refusal);
  }
  // a refusal is no answer, of which three would do
  assert.ok(refusing.size >= 7, `${refusing.size} asked`);
});

test("one member with thousands of keys takes the places of its own keys alone, also when it came to those of others first", () => {
  const world = new World(8, { maxMeetings: 100 });
  visitTo(world, 0, 4, "first");
  for (let i = 0; i < 10; i++) visitTo(world, 0, 7, `honest ${i}`, false);
  for (let i = 0; i < 10; i++) visitTo(world, 0, 1 + (i % 3), `honest ${i}`);
  for (let i = 0; i < 2000; i++) {
    world.nowMs += 50;
    visitTo(world, 0, 7, `random ${i}`);
  }
  assert.equal(world.nodes[0].counters.meetings, 100);
  assert.ok(world.nodes[0].counters.meetingsEvicted >= 1900);
  for (let i = 0; i < 10; i++) {
    const answer = visitTo(world, 0, 5, `honest ${i}`);
    assert.deepEqual(answer?.nodes, [toHex(world.ids[1 + (i % 3)])], `honest ${i}`);
  }
  assert.deepEqual(visitTo(world, 0, 5, "first")?.nodes, [toHex(world.ids[4])]);
});

test("leases of one host take no places of others, and nobody keeps one that meets elsewhere", () => {
  const world = new World(20);
  const lease = (agent: Uint8Array, host: number): Uint8Array =>
    leaseOf(agent, world.ids[host], 1, START_WALL_MS + 3_600_000);
  const show = (agent: Uint8Array, host: number): void => {
    world.nowMs += 50;
    const frame = encodeDirectory({ type: DirectoryType.LEASE, lease: lease(agent, host) });
    world.nodes[2].handleFrame(world.now, world.ids[host], frame);
  };
  const isKnown = (agent: Uint8Array): boolean => world.nodes[2].whereIs(world.now.wallMs, agent) !== undefined;
  const honest = agentMetAt(world, 2);
  show(honest, 0);
  let last: Uint8Array = honest;
  for (let i = 0, seed = 1000; i < 600; i++, seed += 100) {
    last = agentMetAt(world, 2, seed);
    show(last, 1);
  }
  assert.ok(isKnown(honest));
  assert.ok(isKnown(last));
  assert.equal(world.nodes[2].counters.agents, 257);
  let elsewhere = 0;
  while (isMeetingNode(concat(u64(elsewhere), new Uint8Array(24)), world.ids, world.ids[2], 10)) elsewhere++;
  show(concat(u64(elsewhere), new Uint8Array(24)), 3);
  assert.ok(!isKnown(concat(u64(elsewhere), new Uint8Array(24))));
});

test("who delivers forged records uses up its own share of checks, is cut off for a minute, and starves nobody", () => {
  const world = new World(40);
  const [node] = world.nodes;
  node.follow(world.now, "logs", TopicRole.SUBSCRIBER);
  world.run(100);
  const key = topicKey(NETWORK, "logs");
  const shuffle = (from: number, records: readonly TopicRecord[]): void =>
    node.handleFrame(world.now, world.ids[from], encodeDirectory({ type: DirectoryType.SHUFFLE, key, records }));
  const bad = new Uint8Array(64).fill(2);
  // three hostile members at their full rate, naming others
  for (let i = 0; i < 60; i++)
    for (const from of [1, 2, 3])
      shuffle(
        from,
        Array.from({ length: MAX_RECORDS }, (_, j) => recordOf(world, 4 + ((i + j) % 30), bad)),
      );
  assert.equal(node.counters.signaturesRefused, 3 * 16);
  assert.equal(node.counters.peersCutOff, 3);
  // those who were named and those who deliver honestly are not charged
  for (let from = 4; from < 34; from++) shuffle(from, [recordOf(world, from)]);
  assert.equal(node.known("logs"), 30);
  // good ones of a peer that is cut off are not looked at, until the minute is over
  shuffle(1, [recordOf(world, 35)]);
  assert.equal(node.known("logs"), 30);
  world.nowMs += 60_000;
  shuffle(1, [recordOf(world, 35)]);
  assert.equal(node.known("logs"), 31);
});
