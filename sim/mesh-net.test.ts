/**
 * Routing through members on many nodes in virtual time: random topologies with churn, the loss of a member that traffic runs through, relays,
 * members that lie. The 10,000 topologies of the design run with `npm run bench -- mesh`; here is a sample of them.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { virtualOf } from "../src/base/endpoint.ts";
import { PathKind } from "../src/mesh/routing/types.ts";
import { MeshNet, runTopology, type SimNode } from "./mesh-net.ts";

const SAMPLE = 250;
const FIRST_SEED = 20_000;

test(`in ${SAMPLE} random topologies with churn no packet visits a node twice, and who can be reached is`, () => {
  let packets = 0;
  let reachable = 0;
  for (let seed = FIRST_SEED; seed < FIRST_SEED + SAMPLE; seed++) {
    const result = runTopology(seed);
    assert.deepEqual(result.violations, []);
    assert.equal(result.found, result.reachable, `seed ${seed}`);
    packets += result.packets;
    reachable += result.reachable;
  }
  assert.ok(packets > SAMPLE * 20 && reachable > SAMPLE / 2, `${packets} packets, ${reachable} pairs`);
});

test("negative control: a packet that comes to a node twice, or out at the wrong one, is seen", () => {
  const net = new MeshNet(1, 4);
  const [a, b, c, d] = net.nodes;
  for (const [x, y] of [
    [a, b],
    [b, c],
    [c, a],
  ] as const)
    net.connect(x, y, 5);
  net.connect(c, d, 5);
  b.forwards.set(`${a.hex}/1`, { label: 1, from: a.id, to: c.id, out: 2 });
  c.forwards.set(`${b.hex}/2`, { label: 2, from: b.id, to: a.id, out: 3 });
  a.forwards.set(`${c.hex}/3`, { label: 3, from: c.id, to: b.id, out: 1 });
  a.vias.set(1, { id: 1, target: d.id, hop: b.id, out: 1, in: 9 });
  net.send(a, b, 1, d);
  net.run(100);
  assert.match(net.violations.join(), /visited node 0 twice/);
  net.violations.length = 0;
  c.viaByLabel.set(`${a.hex}/7`, { id: 5, target: a.id, hop: a.id, out: 1, in: 7 });
  net.send(a, c, 7, d);
  net.run(100);
  assert.match(net.violations.join(), /came out at 2/);
});

/** A and B can meet through some of the others only. */
function star(between: number, delayMs = 5): { net: MeshNet; a: SimNode; b: SimNode; others: SimNode[] } {
  const net = new MeshNet(42, 2 + between);
  const [a, b, ...others] = net.nodes;
  for (const other of others) {
    net.connect(a, other, delayMs);
    net.connect(b, other, delayMs);
  }
  return { net, a, b, others };
}

test("a way through a member is there one round trip after the first packet", () => {
  const { net, a, b } = star(1, 20);
  net.run(1000);
  const startMs = net.nowMs;
  net.seek(a, b);
  assert.ok(net.runUntil(() => a.routing.candidates(net.now, b.id).length > 0, 1000));
  assert.ok(net.nowMs - startMs <= 4 * 2 * 20, `${net.nowMs - startMs} ms`);
  assert.equal(net.probe(a, b), 1);
  net.run(500);
  assert.equal(b.delivered, 1);
  // and back the same way
  assert.equal(net.probe(b, a), 1);
  net.run(500);
  assert.equal(a.delivered, 1);
});

test("with two members between, both are ways from the first lookup on, so one may die", () => {
  const { net, a, b, others } = star(2);
  net.run(2000);
  net.seek(a, b);
  net.run(500);
  assert.equal(a.routing.candidates(net.now, b.id).length, 2);
  const [c] = others;
  net.cut(a, c);
  net.cut(b, c);
  assert.equal(net.probe(a, b), 2);
  net.run(100);
  assert.equal(b.delivered, 1);
  net.run(5000);
  assert.equal(a.routing.candidates(net.now, b.id).length, 1);
});

test("a member that restarts answers with errors, and the way is made again at once", () => {
  const { net, a, b, others } = star(1);
  net.run(2000);
  net.seek(a, b);
  net.run(500);
  const [id] = [virtualOf(a.routing.candidates(net.now, b.id)[0])?.id];
  a.routing.using(net.now, b.id, { via: id });
  net.restart(others[0]);
  net.run(3000);
  net.probe(a, b);
  net.run(1500);
  assert.equal(b.delivered, 0);
  assert.equal(net.probe(a, b), 1);
  net.run(100);
  assert.equal(b.delivered, 1);
});

test("a beacon relays where members do not allow transit, and is preferred to them where they do", () => {
  const net = new MeshNet(5, 4);
  const [a, b, beacon, c] = net.nodes;
  beacon.isBeacon = true;
  beacon.allowsTransit = false;
  for (const node of [beacon, c]) {
    net.connect(a, node, node === beacon ? 30 : 5);
    net.connect(b, node, 5);
  }
  net.run(2000);
  net.seek(a, b);
  net.run(500);
  const kinds = a.routing.candidates(net.now, b.id).map((endpoint) => virtualOf(endpoint)?.pathKind);
  assert.deepEqual(kinds, [PathKind.RELAY, PathKind.TRANSIT]);
  c.allowsTransit = false;
  const [first] = a.routing.describe(net.now, b.id);
  assert.equal(first.kind === "relay" || first.kind === "transit", true);
  assert.deepEqual(net.violations, []);
});

test("a way of several members is found by rings, and a lookup costs a bounded number of messages", () => {
  const net = new MeshNet(6, 9);
  for (let i = 0; i + 1 < 6; i++) net.connect(net.nodes[i], net.nodes[i + 1], 3);
  for (let i = 6; i < 9; i++) net.connect(net.nodes[0], net.nodes[i], 3);
  const [a, , , , , f] = net.nodes;
  net.run(2000);
  let tries = 0;
  const found = net.runUntil(() => {
    if (tries++ % 50 === 0) net.seek(a, f);
    return a.routing.candidates(net.now, f.id).length > 0;
  }, 6000);
  assert.ok(found);
  net.probe(a, f);
  net.run(100);
  assert.equal(f.delivered, 1);
});

test("a member that lies can drop, and nothing else: wrong answers install nothing, an honest way is found", () => {
  for (let seed = 0; seed < 40; seed++) {
    const net = new MeshNet(100 + seed, 5);
    const [a, b, liar, c, d] = net.nodes;
    for (const [x, y] of [
      [a, liar],
      [liar, b],
      [a, c],
      [c, b],
      [c, d],
      [d, b],
      [liar, c],
    ] as const)
      net.connect(x, y, 5);
    net.tamper = (from, to, message) => {
      if (from !== liar) return message;
      const what = net.random.u32() % 4;
      if (what === 0) return undefined;
      if (message.type === "found") {
        if (what === 1) return { ...message, signature: net.random.bytes(64) };
        if (what === 2) return { ...message, label: 1 + (net.random.u32() >>> 1), hops: 2 };
      }
      if (message.type === "lookup") {
        if (what === 1) return { ...message, path: [to.id, liar.id] };
        if (what === 2) return { ...message, target: d.id };
        return { ...message, path: [a.id, liar.id], label: 1 + (net.random.u32() >>> 1) };
      }
      return message;
    };
    net.run(2000);
    for (let i = 0; i < 20; i++) {
      net.seek(a, b);
      net.probe(a, b);
      net.probe(b, a);
      net.say(liar, c, { type: "unlabel", label: net.random.u32() | 1 });
      net.run(500);
    }
    assert.deepEqual(net.violations, [], `seed ${seed}`);
    assert.ok(b.delivered > 0 && a.delivered > 0, `seed ${seed}`);
  }
});

test("nodes behind NATs: whoever cannot meet directly is relayed, and a beacon that stops is replaced by another", () => {
  const kinds = ["open", "easy", "easy", "hard", "hard", "hard", "blocked", "blocked"] as const;
  const net = new MeshNet(77, kinds.length + 2);
  const beacons = net.nodes.slice(-2);
  for (const beacon of beacons) beacon.isBeacon = true;
  for (const node of net.nodes) node.allowsTransit = node.isBeacon;
  const kindOf = (node: SimNode): string => kinds[node.index] ?? "open";
  // hole punching brings easy pairs together; a hard NAT needs an open or easy partner; who blocks UDP reaches the beacons only
  const meets = (a: SimNode, b: SimNode): boolean => {
    const both = [kindOf(a), kindOf(b)];
    if (both.includes("blocked")) return a.isBeacon || b.isBeacon;
    return !(both[0] === "hard" && both[1] === "hard");
  };
  for (const a of net.nodes) for (const b of net.nodes) if (a.index < b.index && meets(a, b)) net.connect(a, b, 10);
  net.run(3000);
  const apart = net.nodes.flatMap((a) => net.nodes.filter((b) => a !== b && !meets(a, b)).map((b) => [a, b] as const));
  assert.ok(apart.length > 10);
  const everybodyMeets = (): void => {
    for (const [a, b] of apart) net.seek(a, b);
    net.run(3000);
    for (const [a, b] of apart) {
      const before = b.delivered;
      assert.ok(net.probe(a, b) > 0, `${a.index}–${b.index}`);
      net.run(100);
      assert.ok(b.delivered > before, `${a.index}–${b.index}`);
      const best = virtualOf(a.routing.candidates(net.now, b.id)[0]);
      assert.equal(best?.pathKind, PathKind.RELAY);
    }
  };
  everybodyMeets();
  for (const other of net.nodes) net.disconnect(beacons[0], other);
  everybodyMeets();
  assert.deepEqual(net.violations, []);
});

test("a partition cuts the ways across it, and they come back when it heals", () => {
  const net = new MeshNet(31, 12);
  const { nodes } = net;
  const halves = [nodes.slice(0, 6), nodes.slice(6)];
  for (const half of halves)
    for (const [i, node] of half.entries())
      for (const step of [1, 2]) net.connect(node, half[(i + step) % half.length], 5);
  const bridges = [0, 2, 4].map((i) => [halves[0][i], halves[1][i]] as const);
  const pairs = [1, 3, 5].map((i) => [halves[0][i], halves[1][i]] as const);
  const heal = (): void => bridges.forEach(([a, b]) => net.connect(a, b, 20));
  const seek = (ms: number): void => {
    for (let at = 0; at < ms; at += 500) {
      for (const [a, b] of pairs) {
        net.seek(a, b);
        net.probe(a, b);
        net.probe(b, a);
      }
      net.run(500);
    }
  };
  const delivered = (): number => pairs.reduce((total, [a, b]) => total + a.delivered + b.delivered, 0);
  heal();
  seek(5000);
  assert.ok(delivered() > 0);
  for (const [a, b] of bridges) net.cut(a, b);
  seek(5000);
  const during = delivered();
  seek(60_000);
  assert.equal(delivered(), during);
  for (const [a, b] of pairs) assert.equal(a.routing.candidates(net.now, b.id).length, 0);
  heal();
  seek(5000);
  for (const [a, b] of pairs) assert.ok(a.routing.candidates(net.now, b.id).length > 0);
  assert.ok(delivered() > during);
  assert.deepEqual(net.violations, []);
});

test("a removed member carries nothing any more", () => {
  const { net, a, b, others } = star(2);
  net.run(2000);
  net.seek(a, b);
  net.run(500);
  net.removeMember(others[0]);
  net.run(500);
  assert.equal(a.routing.candidates(net.now, b.id).length, 1);
  assert.equal(others[1].routing.forwards > 0, true);
  net.removeMember(b);
  net.run(500);
  assert.equal(a.routing.candidates(net.now, b.id).length, 0);
  assert.equal(others[1].routing.forwards, 0);
});

test("what a node says while nothing happens does not grow with the network", () => {
  const rates = [50, 200].map((count) => {
    const net = new MeshNet(9, count);
    for (let i = 0; i < count; i++)
      for (let step = 1; step <= 4; step++) net.connect(net.nodes[i], net.nodes[(i + step) % count], 5);
    net.run(20_000);
    const before = net.controlBytes;
    net.run(240_000);
    return (net.controlBytes - before) / 240 / count;
  });
  assert.ok(rates[1] <= 1.5 * rates[0] && rates[0] < 200, rates.join(" "));
});

test("nodes that all start at the same moment do not march in step: no five seconds see more than twice the mean", () => {
  const net = new MeshNet(77, 50);
  net.nodes.forEach((node, i) => {
    for (let step = 1; step <= 4; step++) net.connect(node, net.nodes[(i + step) % 50], 5);
  });
  // what the start itself brings about
  net.run(20_000);
  const counts: number[] = [];
  for (let window = 0; window < 48; window++) {
    const before = net.controlMessages;
    net.run(5_000);
    counts.push(net.controlMessages - before);
  }
  const mean = counts.reduce((total, count) => total + count, 0) / counts.length;
  assert.ok(mean > 10, "control: something is said");
  assert.ok(Math.max(...counts) <= 2 * mean, `mean ${mean}, ${counts.join(" ")}`);
});
