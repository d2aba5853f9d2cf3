/**
 * The directory on many nodes in virtual time: followers of rare and of popular topics find each other, also after churn and partitions, and what it costs a
 * node depends neither on the number of members nor on that of a topic's followers.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toHex } from "../src/base/bytes.ts";
import {
  encodeDirectory,
  DirectoryType,
  RECORD_PURPOSE,
  recordBody,
  RecordRole,
} from "../src/messaging/directory/frames.ts";
import { meetingNodes, topicKey } from "../src/messaging/directory/keys.ts";
import { TopicRole } from "../src/messaging/directory/types.ts";
import type { OverlayOptions } from "../src/messaging/membership/types.ts";
import { MembershipNet, type SimMember } from "./membership-net.ts";

const MINUTE_MS = 60_000;
const CALM: OverlayOptions = { probeMs: 300_000, shuffleMs: 300_000 };
const TOPIC = "weather";

/** The overlay is slowed down where it only costs time. */
function mesh(seed: number, nodes: number, overlay: OverlayOptions = {}): MembershipNet {
  const net = new MembershipNet(seed, nodes, { directory: {}, overlay });
  net.startAll(5000);
  net.run(30_000);
  return net;
}

function follow(
  net: MembershipNet,
  node: SimMember,
  topic: string = TOPIC,
  role: TopicRole = TopicRole.SUBSCRIBER,
): void {
  net.touch(node, () => node.directory?.follow(net.now, topic, role));
}

const sampleOf = (net: MembershipNet, node: SimMember, count = 64): SimMember[] =>
  (node.directory?.sample(TOPIC, count) ?? []).map((id) => net.find(id));

test("three followers of a rare topic among 500 nodes know each other within five seconds", () => {
  const net = mesh(1, 500);
  const followers = [net.nodes[3], net.nodes[250], net.nodes[499]];
  for (const node of followers) follow(net, node);
  assert.ok(net.runUntilEvery(() => followers.every((node) => sampleOf(net, node).length === 2), 5000, 100));
  const later = net.nodes[77];
  follow(net, later);
  assert.ok(net.runUntilEvery(() => followers.every((node) => sampleOf(net, node).includes(later)), 5000, 100));
  // who does not follow knows nothing
  assert.deepEqual(sampleOf(net, net.nodes[5]), []);
});

test("all of 600 followers of one topic know a sample that is bounded, alive and spread evenly", () => {
  const net = mesh(2, 600, CALM);
  for (const node of net.nodes) net.at(net.nowMs + 30_000 * net.random.unit(), () => follow(net, node));
  net.run(6 * MINUTE_MS);
  const known = new Map<SimMember, number>();
  for (const node of net.nodes) {
    const sample = sampleOf(net, node);
    assert.ok(sample.length >= 16 && sample.length <= 64, `${sample.length} known`);
    assert.equal(new Set(sample).size, sample.length);
    assert.ok(!sample.includes(node));
    for (const other of sample) known.set(other, (known.get(other) ?? 0) + 1);
  }
  const counts = net.nodes.map((node) => known.get(node) ?? 0).toSorted((a, b) => a - b);
  assert.ok(counts[30] >= 5, `a twentieth of the followers is known to at most ${counts[30]} others`);
  const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
  assert.ok(counts[599] < 8 * mean, `one is known to ${counts[599]}, the mean is ${mean}`);
  // samples of different sizes are all random: the first ones are not always the same
  assert.ok(new Set(net.nodes.flatMap((node) => sampleOf(net, node, 1))).size > 150);
});

test("a visitor finds the subscribers of a topic and is not found", () => {
  const net = mesh(3, 50);
  for (const node of net.nodes.slice(0, 5)) follow(net, node);
  follow(net, net.nodes[5], TOPIC, TopicRole.VOLUNTEER);
  const visitor = net.nodes[20];
  net.run(2000);
  follow(net, visitor, TOPIC, TopicRole.VISITOR);
  assert.ok(net.runUntilEvery(() => sampleOf(net, visitor).length === 6, 5000, 100));
  net.run(10 * MINUTE_MS);
  for (const node of net.nodes.slice(0, 6)) assert.ok(!sampleOf(net, node).includes(visitor));
});

test("who stops following is forgotten at once where it is known, and comes back when it follows again", () => {
  const net = mesh(4, 60);
  const followers = net.nodes.slice(0, 6);
  for (const node of followers) follow(net, node);
  net.run(10_000);
  const [leaver, ...others] = followers;
  const told = sampleOf(net, leaver);
  assert.ok(told.length >= 4);
  net.touch(leaver, () => leaver.directory?.unfollow(net.now, TOPIC));
  net.run(1000);
  for (const node of told) assert.ok(!sampleOf(net, node).includes(leaver));
  // shuffles and visits tell the rest and do not bring it back
  net.run(15 * MINUTE_MS);
  for (const node of others) assert.ok(!sampleOf(net, node).includes(leaver));
  follow(net, leaver);
  const knowing = (): number => others.filter((node) => sampleOf(net, node).includes(leaver)).length;
  assert.ok(
    net.runUntilEvery(() => knowing() >= 4, 10_000, 100),
    `${knowing()} know it`,
  );
  assert.ok(
    net.runUntilEvery(() => knowing() === others.length, 10 * MINUTE_MS, 1000),
    `${knowing()} know it`,
  );
});

test("followers that died are sampled last at once, and not at all when their records have expired", () => {
  const net = mesh(5, 60);
  const followers = net.nodes.slice(0, 20);
  for (const node of followers) follow(net, node);
  net.run(MINUTE_MS);
  const dead = followers.slice(0, 8);
  for (const node of dead) net.kill(node);
  net.run(2 * MINUTE_MS);
  const living = followers.slice(8);
  for (const node of living) {
    const sample = sampleOf(net, node);
    const firstDead = sample.findIndex((other) => !other.isUp);
    assert.ok(
      firstDead < 0 || sample.slice(firstDead).every((other) => !other.isUp),
      "the dead come before the living",
    );
  }
  net.run(45 * MINUTE_MS);
  for (const node of living) {
    const sample = sampleOf(net, node);
    assert.ok(sample.every((other) => other.isUp));
    assert.equal(sample.length, living.length - 1);
  }
});

test("followers on both sides of a partition of ten minutes know each other within ten minutes after it", () => {
  const net = mesh(6, 80);
  const early = net.nodes.slice(0, 10);
  for (const node of early) follow(net, node);
  net.run(10_000);
  net.partition((node) => node.index % 2);
  net.run(MINUTE_MS);
  // these begin while the sides cannot hear each other
  const late = net.nodes.slice(40, 50);
  for (const node of late) follow(net, node);
  net.run(9 * MINUTE_MS);
  for (const node of late)
    assert.ok(sampleOf(net, node).every((other) => !late.includes(other) || other.side === node.side));
  net.heal();
  const knowsAcross = (node: SimMember): boolean =>
    sampleOf(net, node).some((other) => late.includes(other) && other.side !== node.side);
  assert.ok(net.runUntilEvery(() => [...early, ...late].every(knowsAcross), 10 * MINUTE_MS, 1000));
});

test("a topic goes on while its meeting nodes die one after the other", () => {
  const net = mesh(7, 100);
  const key = topicKey(net.networkId, TOPIC);
  const meeting = meetingNodes(
    key,
    net.nodes.map((node) => node.id),
    3,
  ).map((id) => net.find(id));
  const others = net.nodes.filter((node) => !meeting.includes(node));
  for (const node of others.slice(0, 4)) follow(net, node);
  net.run(5000);
  for (const node of meeting) net.kill(node);
  const late = others[50];
  follow(net, late);
  // its first visits go to the dead; then it asks those after them
  assert.ok(net.runUntilEvery(() => sampleOf(net, late).length >= 1, 12 * MINUTE_MS, 1000));
});

test("records of others that a hostile follower makes up are refused, and those it may make cannot fill a sample", () => {
  const net = mesh(8, 40);
  const followers = net.nodes.slice(0, 5);
  for (const node of followers) follow(net, node);
  net.run(5000);
  const [victim, hostile] = followers;
  const key = topicKey(net.networkId, TOPIC);
  const forged = net.nodes.slice(10, 25).map((node) => {
    const unsigned = { version: net.now.wallMs, lifeS: 1800, role: RecordRole.SUBSCRIBER };
    return { node: node.id, ...unsigned, signature: net.sign(hostile, RECORD_PURPOSE, recordBody(key, unsigned)) };
  });
  const before = victim.directory?.counters.signaturesRefused ?? 0;
  net.inject(hostile, victim, encodeDirectory({ type: DirectoryType.SHUFFLE, key, records: forged }), 1);
  net.run(1000);
  assert.equal(victim.directory?.counters.signaturesRefused, before + forged.length);
  assert.ok(sampleOf(net, victim).every((node) => followers.includes(node)));
  // a record from the future, which would outlive its node's next ones
  const future = { version: net.now.wallMs + 3_600_000, lifeS: 7200, role: RecordRole.SUBSCRIBER };
  const record = { node: hostile.id, ...future, signature: net.sign(hostile, RECORD_PURPOSE, recordBody(key, future)) };
  const accepted = victim.directory?.counters.recordsAccepted;
  net.inject(hostile, victim, encodeDirectory({ type: DirectoryType.SHUFFLE, key, records: [record] }), 1);
  net.run(100);
  assert.equal(victim.directory?.counters.recordsAccepted, accepted);
});

interface Cost {
  /** Bytes per second that the directories of all nodes sent, on average and at most. */
  readonly mean: number;
  readonly most: number;
}

/** One topic that everybody follows, in the steady state. */
function costOfTopic(seed: number, nodes: number): Cost {
  const net = mesh(seed, nodes, CALM);
  for (const node of net.nodes) net.at(net.nowMs + 60_000 * net.random.unit(), () => follow(net, node));
  net.run(30 * MINUTE_MS);
  net.resetCounts();
  net.run(20 * MINUTE_MS);
  const rates = net.nodes.map((node) => node.directoryBytesOut / (20 * 60));
  return { mean: rates.reduce((a, b) => a + b, 0) / nodes, most: Math.max(...rates) };
}

test("what a node sends for a topic does not depend on the number of followers, and no meeting node is overrun", () => {
  const small = costOfTopic(9, 100);
  const large = costOfTopic(10, 400);
  assert.ok(large.mean < 1.3 * small.mean, `${small.mean} B/s with 100 followers, ${large.mean} B/s with 400`);
  assert.ok(large.mean < 20, `${large.mean} B/s`);
  assert.ok(large.most < 1500, `one node sends ${large.most} B/s`);
});

test("negative control: followers that show all their records to all others cost more with each of them", () => {
  /** What a full view costs: every follower sends its record to every other one in each third of its life. */
  const cost = (nodes: number): number => {
    const net = mesh(11, nodes);
    for (const node of net.nodes) follow(net, node);
    const key = topicKey(net.networkId, TOPIC);
    const tell = (node: SimMember): void => {
      const unsigned = { version: net.now.wallMs, lifeS: 1800, role: RecordRole.SUBSCRIBER };
      const signature = net.sign(node, RECORD_PURPOSE, recordBody(key, unsigned));
      const frame = encodeDirectory({
        type: DirectoryType.SHUFFLE,
        key,
        records: [{ node: node.id, ...unsigned, signature }],
      });
      for (const other of net.nodes) if (other !== node) net.inject(node, other, frame, 1);
      net.at(net.nowMs + 600_000, () => tell(node));
    };
    for (const node of net.nodes) tell(node);
    net.resetCounts();
    net.run(20 * MINUTE_MS);
    return net.nodes.reduce((sum, node) => sum + node.bytesOut, 0) / nodes / 1200;
  };
  const [small, large] = [cost(25), cost(100)];
  assert.ok(large > 1.3 * small, `${small} B/s with 25, ${large} B/s with 100`);
});

test("subscribers are told to the owner once for many records at once", () => {
  const net = mesh(12, 60);
  for (const node of net.nodes.slice(0, 30)) follow(net, node);
  net.run(5000);
  const [late] = net.nodes.slice(40);
  let told = 0;
  net.onSubscribers = (node, topic) => {
    if (node === late && topic === TOPIC) told++;
  };
  follow(net, late);
  net.run(3000);
  assert.ok(sampleOf(net, late).length >= 8);
  assert.ok(told >= 1 && told <= 8, `told ${told} times`);
  const [{ id }] = sampleOf(net, late);
  net.touch(late, () => late.directory?.notThere(net.now, TOPIC, id));
  assert.ok(!sampleOf(net, late).some((node) => toHex(node.id) === toHex(id)));
});
