/**
 * Publish/subscribe on many nodes in virtual time: delivery under loss and churn, load that does not depend on the number of subscribers,
 * peers that are stuck, slow or hostile, partitions. Ten thousand subscribers are in messaging-scale.test.ts.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../src/base/random.ts";
import { MAX_EAGER, MAX_LAZY } from "../src/messaging/pubsub/types.ts";
import { MessagingNet, type SimPubSub } from "./messaging-net.ts";

const payload = new Uint8Array(200);

/** Publishes from random subscribers at a rate; dies and comes back at another. */
function flood(
  net: MessagingNet,
  topic: string,
  { messages, gapMs, churnPerSecond = 0 }: { messages: number; gapMs: number; churnPerSecond?: number },
): void {
  const random = new SeededRandom(7);
  let churn = 0;
  for (let i = 0; i < messages; i++) {
    const up = net.nodes.filter((node) => node.isUp);
    net.publish(up[random.u32() % up.length], topic, payload);
    churn += (churnPerSecond * gapMs) / 1000;
    for (; churn >= 1; churn--) {
      const node = net.nodes[random.u32() % net.nodes.length];
      if (!node.isUp) continue;
      net.kill(node);
      net.later(15_000, () => net.restart(node));
    }
    net.run(gapMs);
  }
}

function figures(net: MessagingNet): { duplicates: number; control: number; sendsPerNode: number } {
  const deliveries = net.sum("deliveries");
  return {
    duplicates: net.sum("duplicates") / deliveries,
    control: net.controlBytes / (net.controlBytes + net.payloadBytes),
    sendsPerNode: net.frames / net.nodes.length / Math.max(1, net.traces.length),
  };
}

test("1,000 subscribers of a topic under 1 % loss and churn get at least 99.9 % of the messages, each once, over a bounded tree", () => {
  const net = new MessagingNet(1, { nodes: 1000 });
  net.loss = 0.01;
  net.subscribeAll("t");
  net.run(5000);
  flood(net, "t", { messages: 15, gapMs: 1000 });
  net.clearFigures();
  flood(net, "t", { messages: 40, gapMs: 1000, churnPerSecond: 2 });
  net.run(40_000);
  const { share, expected } = net.delivery();
  const links = net.links("t");
  assert.ok(expected > 30_000, `${expected}`);
  assert.ok(share >= 0.999, `${share}`);
  assert.deepEqual(net.violations, []);
  assert.ok(links.maxEager <= MAX_EAGER && links.maxLazy <= MAX_LAZY, JSON.stringify(links));
  assert.ok(links.minEager >= 1, JSON.stringify(links));
});

test("without churn the tree has no more links than it needs: mean eager at most 2.1, duplicates at most 10 %", () => {
  const net = new MessagingNet(2, { nodes: 150 });
  net.subscribeAll("t");
  net.run(5000);
  flood(net, "t", { messages: 300, gapMs: 200 });
  net.run(5000);
  const before = { duplicates: net.sum("duplicates"), deliveries: net.sum("deliveries") };
  net.clearFigures();
  flood(net, "t", { messages: 100, gapMs: 200 });
  net.run(10_000);
  const links = net.links("t");
  const duplicates = (net.sum("duplicates") - before.duplicates) / (net.sum("deliveries") - before.deliveries);
  assert.equal(net.delivery().share, 1);
  assert.ok(links.meanEager <= 2.1, JSON.stringify(links));
  assert.ok(links.minEager >= 1, JSON.stringify(links));
  assert.ok(duplicates <= 0.1, `${duplicates}`);
});

/** Frames per node and publish once the tree stands. */
function load(nodes: number, hasFullView = false): { sends: number; maxEager: number; share: number } {
  const net = new MessagingNet(3, { nodes, pubsub: { hasFullView } });
  net.loss = 0.01;
  net.subscribeAll("t");
  net.run(5000);
  flood(net, "t", { messages: hasFullView ? 2 : 30, gapMs: 500 });
  net.clearFigures();
  flood(net, "t", { messages: hasFullView ? 3 : 20, gapMs: 500 });
  net.run(5000);
  return { sends: figures(net).sendsPerNode, maxEager: net.links("t").maxEager, share: net.delivery().share };
}

test("frames per node and publish do not depend on the number of subscribers", () => {
  const few = load(100);
  const many = load(600);
  assert.ok(few.share === 1 && many.share >= 0.999, JSON.stringify({ few, many }));
  assert.ok(many.sends < few.sends * 1.3 && many.sends < 12, JSON.stringify({ few, many }));
});

test("negative control: with a full view the load grows with the subscribers, and the bound on eager links is broken", () => {
  const few = load(30, true);
  const many = load(120, true);
  assert.ok(many.maxEager > MAX_EAGER, JSON.stringify(many));
  assert.ok(many.sends > few.sends * 2.5, JSON.stringify({ few, many }));
});

/** Topics with random subscribers, each with messages of random publishers among them, evenly in time. */
function manyTopics(
  net: MessagingNet,
  { topics, subscribers, perSecond }: { topics: number; subscribers: number; perSecond: number },
): { publishFor(ms: number, only?: (node: SimPubSub) => boolean): void } {
  const random = new SeededRandom(11);
  const membersOf: SimPubSub[][] = [];
  for (let t = 0; t < topics; t++) {
    const pool = [...net.nodes];
    const members: SimPubSub[] = [];
    for (let i = 0; i < subscribers; i++) members.push(...pool.splice(random.u32() % pool.length, 1));
    membersOf.push(members);
    net.subscribeAll(`t${t}`, members);
  }
  const bytes = new Uint8Array(1024);
  let turn = 0;
  return {
    publishFor(ms, only = () => true) {
      for (let at = 0; at < ms; at += 1000 / perSecond) {
        const topic = turn++ % topics;
        const able = membersOf[topic].filter((node) => node.isUp && only(node));
        if (able.length > 0) net.publish(able[random.u32() % able.length], `t${topic}`, bytes);
        net.run(1000 / perSecond);
      }
    },
  };
}

const percentile = (values: readonly number[], share: number): number =>
  values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(values.length * share) - 1)] ?? 0;

test("20 topics of 20 subscribers among 100 nodes at 200 messages/s: everything arrives, duplicates ≤ 10 %, control ≤ 25 % of bytes", () => {
  const net = new MessagingNet(4, { nodes: 100 });
  const traffic = manyTopics(net, { topics: 20, subscribers: 20, perSecond: 200 });
  net.run(3000);
  traffic.publishFor(5000);
  const before = { duplicates: net.sum("duplicates"), deliveries: net.sum("deliveries") };
  net.clearFigures();
  traffic.publishFor(10_000);
  net.run(5000);
  const duplicates = (net.sum("duplicates") - before.duplicates) / (net.sum("deliveries") - before.deliveries);
  const { control } = figures(net);
  assert.equal(net.delivery().share, 1);
  assert.ok(duplicates <= 0.1, `${duplicates}`);
  assert.ok(control <= 0.25, `${control}`);
  assert.deepEqual(net.violations, []);
});

test("a stuck peer, one that reads a byte per second and one with a round trip of 1,500 ms delay nobody else; the stuck ones are cooled and come back", () => {
  const run = (isHard: boolean): { p99: number; net: MessagingNet } => {
    const net: MessagingNet = new MessagingNet(5, {
      nodes: 60,
      delayMs: (a, b) => (isHard && (a.index === 2 || b.index === 2) ? 750 : 10 + ((a.index * 31 + b.index * 31) % 40)),
    });
    const traffic = manyTopics(net, { topics: 6, subscribers: 15, perSecond: 30 });
    net.run(3000);
    traffic.publishFor(5000, (node) => node.index > 2);
    if (isHard) {
      net.setManner(net.nodes[0], { kind: "stuck" });
      net.setManner(net.nodes[1], { kind: "trickle", bytesPerSecond: 1 });
    }
    traffic.publishFor(30_000, (node) => node.index > 2);
    net.clearFigures();
    traffic.publishFor(20_000, (node) => node.index > 2);
    net.run(3000);
    const others: number[] = [];
    for (const trace of net.traces)
      for (const node of net.nodes.slice(3)) {
        const took = trace.tookMs[node.index];
        if (took !== undefined) others.push(took);
        else if (node.subscribedMs.has(trace.topic) && node !== trace.by) others.push(60_000);
      }
    return { p99: percentile(others, 0.99), net };
  };
  const calm = run(false);
  const hard = run(true);
  assert.ok(hard.p99 < calm.p99 * 1.2 || hard.p99 < calm.p99 + 10, `${calm.p99} ms, ${hard.p99} ms`);
  const { net } = hard;
  const isCooled = (index: number): boolean =>
    net.nodes.some((node) => node.machine.cooled().some((one) => one.peer === net.nodes[index].key));
  assert.ok(isCooled(0), "the stuck one is cooled");
  assert.equal(isCooled(2), false, "a long round trip is no slowness");
  net.setManner(net.nodes[0], { kind: "well" });
  const traffic = net.sum("recoveries");
  net.run(700_000);
  assert.ok(net.sum("recoveries") > traffic, "who was cooled comes back after a probe");
  assert.equal(isCooled(0), false);
});

test("a partition of ten minutes heals to 100 %, with a peak of at most five times the steady rate", () => {
  const net = new MessagingNet(6, { nodes: 20 });
  const traffic = manyTopics(net, { topics: 2, subscribers: 10, perSecond: 10 });
  net.run(3000);
  traffic.publishFor(20_000);
  net.clearFigures();
  const steadyFrom = Math.floor(net.nowMs / 1000);
  traffic.publishFor(20_000);
  const steady = mean(net.bytesBySecond.slice(steadyFrom + 1, steadyFrom + 19));
  net.split((node) => node.index % 2);
  const startMs = net.nowMs;
  traffic.publishFor(600_000);
  net.split(undefined);
  const healFrom = Math.floor(net.nowMs / 1000);
  traffic.publishFor(300_000);
  net.run(600_000);
  const peak = Math.max(...net.bytesBySecond.slice(healFrom, healFrom + 900));
  const during = net.traces.filter((trace) => trace.atMs >= startMs && trace.atMs < startMs + 600_000);
  assert.ok(during.length > 4000);
  assert.equal(net.delivery().share, 1);
  assert.ok(peak <= 5 * steady, `${Math.round(peak)} against ${Math.round(steady)} bytes a second`);
  assert.deepEqual(net.violations, []);
});

test("in random worlds with 15 % loss, deaths, partitions and stuck peers everything arrives in the end, and nothing twice", () => {
  for (let seed = 100; seed < 110; seed++) {
    const random = new SeededRandom(seed);
    const net = new MessagingNet(seed, { nodes: 6 + (random.u32() % 10) });
    net.loss = 0.15;
    net.subscribeAll("t");
    net.run(3000);
    const pick = (): SimPubSub => net.nodes[random.u32() % net.nodes.length];
    for (let i = 0; i < 80; i++) {
      const by = pick();
      if (by.isUp) net.publish(by, "t", payload);
      const what = random.u32() % 40;
      const node = pick();
      if (what === 0 && node.isUp) {
        net.kill(node);
        net.later(20_000, () => net.restart(node));
      } else if (what === 1) {
        const cut = 1 + (random.u32() % 3);
        net.split((one) => one.index % (cut + 1));
      } else if (what === 2) net.split(undefined);
      else if (what === 3) {
        net.setManner(node, { kind: "stuck" });
        net.later(15_000, () => net.setManner(node, { kind: "well" }));
      }
      net.run(random.u32() % 1000);
    }
    net.split(undefined);
    net.run(400_000);
    const lost: string[] = [];
    for (const trace of net.traces) {
      const holders = net.nodes.filter((node) => {
        const took = trace.tookMs[node.index];
        return node.isUp && took !== undefined && trace.atMs + took >= node.upSinceMs;
      });
      // whoever has a message and dies before it was passed on takes it along
      if (holders.length === 0) continue;
      for (const node of net.nodes)
        if (node.isUp && !holders.includes(node) && (node.subscribedMs.get("t") ?? 0) + 3000 <= trace.atMs)
          lost.push(`${trace.by.index} at ${trace.atMs} → ${node.index}`);
    }
    assert.deepEqual(lost, [], `seed ${seed}`);
    assert.deepEqual(net.violations, [], `seed ${seed}`);
  }
});

test("forged, damaged and replayed frames harm nobody: not delivered, counted, their sender refused, the rest arrives", () => {
  const net = new MessagingNet(8, { nodes: 40 });
  const liar = net.nodes[0];
  net.subscribeAll("t");
  net.run(3000);
  const random = new SeededRandom(99);
  net.tamper = (from, _to, frame) => {
    if (from !== liar) return frame;
    const copy = frame.slice();
    copy[random.u32() % Math.min(copy.length, 90)] ^= 1 + (random.u32() % 255);
    return copy;
  };
  for (let i = 0; i < 100; i++) {
    net.publish(net.nodes[1 + (i % 39)], "t", payload);
    net.run(200);
  }
  net.run(60_000);
  const honest = net.traces.flatMap((trace) =>
    net.nodes.slice(1).filter((node) => node !== trace.by && trace.tookMs[node.index] === undefined),
  );
  assert.deepEqual(honest.length, 0);
  assert.deepEqual(net.violations, []);
  assert.ok(net.sum("invalidFrames") + net.sum("invalidSignatures") > 0);
  const worst = net.nodes.slice(1).flatMap((node) => node.machine.scores(net.nowMs));
  const scoreOf = (one: SimPubSub): number => Math.min(...worst.filter((s) => s.peer === one.key).map((s) => s.score));
  assert.ok(scoreOf(liar) < 0, `${scoreOf(liar)}`);
});

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}
