/**
 * The membership overlay on many nodes in virtual time: whole after everybody joins at once, after a third dies, after a partition; slow peers are not
 * dead ones, stuck ones are; nobody is talked out of the network; what it costs does not depend on how many there are.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toHex } from "../src/base/bytes.ts";
import { encodeOverlay, OverlayType, RumourKind, rumourBody } from "../src/messaging/membership/frames.ts";
import { activeViewSize, DownReason, Liveness } from "../src/messaging/membership/types.ts";
import { MembershipNet, type SimMember } from "./membership-net.ts";

const MINUTE_MS = 60_000;
/** WEFT_SIM_NODES=10000 makes a longer run. */
const NODES = Number(process.env["WEFT_SIM_NODES"] ?? 1000);

function settled(seed: number, nodes: number): MembershipNet {
  const net = new MembershipNet(seed, nodes);
  net.startAll(5000);
  net.run(MINUTE_MS);
  return net;
}

function meanActive(nodes: readonly SimMember[]): number {
  return nodes.reduce((sum, node) => sum + node.overlay.active().length, 0) / nodes.length;
}

test(`${NODES} nodes that start within five seconds are one symmetric overlay a minute later`, () => {
  const net = settled(1, NODES);
  const size = activeViewSize(NODES);
  assert.equal(size, 12);
  assert.ok(net.isConnected(net.nodes));
  for (const node of net.nodes) {
    assert.ok(node.overlay.active().length <= size, `${node.overlay.active().length} neighbours`);
    assert.ok(node.overlay.passive().length <= 8 * size);
  }
  assert.ok(meanActive(net.nodes) > 0.9 * size, `${meanActive(net.nodes)} neighbours on average`);
  assert.ok(net.asymmetries() <= NODES / 100, `${net.asymmetries()} of ${12 * NODES}`);
  const few = net.nodes.filter((node) => node.overlay.active().length < 4);
  assert.equal(few.length, 0);
});

test("a few nodes all become neighbours", () => {
  for (const count of [2, 3, 8]) {
    const net = new MembershipNet(count, count);
    net.startAll(1000);
    net.run(30_000);
    for (const node of net.nodes) assert.equal(node.overlay.active().length, count - 1, `${count} nodes`);
  }
});

test("after 30 % of 300 nodes died at once, the others are one overlay without them within two minutes", () => {
  const net = settled(2, 300);
  for (const node of net.nodes.slice(0, 90)) net.kill(node);
  const living = net.up;
  const isClean = (): boolean =>
    living.every((node) => node.overlay.active().every((id) => net.find(id).isUp)) && net.isConnected(living);
  assert.ok(net.runUntilEvery(isClean, 2 * MINUTE_MS, 1000));
  net.run(MINUTE_MS);
  assert.ok(net.isConnected(living));
  assert.ok(meanActive(living) > 10, `${meanActive(living)} neighbours on average`);
});

test("while nodes die and come back all the time, those that stay remain one overlay", () => {
  const net = settled(3, 200);
  const staying = net.nodes.slice(0, 100);
  const moving = net.nodes.slice(100);
  for (let second = 0; second < 300; second += 2) {
    const node = moving[net.random.u32() % moving.length];
    net.at(net.nowMs + second * 1000, () => {
      if (node.isUp) net.kill(node);
      else net.restart(node);
    });
  }
  for (let i = 0; i < 10; i++) {
    net.run(30_000);
    assert.ok(net.isConnected(net.up.filter((node) => staying.includes(node) || node.overlay.active().length > 0)));
  }
  net.run(MINUTE_MS);
  assert.ok(net.isConnected(net.up));
});

test("a network that was in two parts for ten minutes is one again within two", () => {
  const net = settled(4, 120);
  net.partition((node) => node.index % 2);
  net.run(10 * MINUTE_MS);
  const [even, odd] = [0, 1].map((side) => net.nodes.filter((node) => node.side === side));
  // each part went on by itself
  assert.ok(net.isConnected(even) && net.isConnected(odd));
  assert.ok(!net.isConnected(net.nodes));
  net.heal();
  assert.ok(net.runUntilEvery(() => net.isConnected(net.nodes), 2 * MINUTE_MS, 1000));
  net.run(3 * MINUTE_MS);
  assert.ok(net.isConnected(net.nodes));
  const across = net.nodes.reduce(
    (sum, node) => sum + node.overlay.active().filter((id) => net.find(id).side !== node.side).length,
    0,
  );
  assert.ok(across > net.nodes.length, `${across} ends across`);
});

test("peers with round trips of 1,500 ms and 600 ms are never taken for dead, a stuck one is within a minute and a half", () => {
  const net = new MembershipNet(5, 60);
  const slow = net.nodes.slice(0, 3);
  for (const node of slow) node.extraDelayMs = 745;
  for (const node of net.nodes.slice(3, 6)) node.extraDelayMs = 290;
  const failed = new Set<string>();
  net.onOverlay = (node, output) => {
    // who is cut off itself loses everybody
    if (output.kind === "down" && output.reason === DownReason.FAILED && !node.isStuck)
      failed.add(toHex(output.nodeId));
  };
  const suspicions = (): number => net.nodes.reduce((sum, node) => sum + node.overlay.counters.suspicions, 0);
  net.startAll(5000);
  net.run(5 * MINUTE_MS);
  const early = suspicions();
  net.run(10 * MINUTE_MS);
  assert.equal(failed.size, 0, "somebody was taken for dead");
  assert.equal(suspicions(), early, "time-outs have learnt the round trips");
  for (const node of slow) assert.ok(node.overlay.active().length >= 4, `${node.overlay.active().length} neighbours`);
  // negative control: the detector does see who answers nothing
  const [stuck] = net.nodes.slice(10);
  stuck.isStuck = true;
  const isForgotten = (): boolean =>
    net.up.every((node) => node === stuck || !node.overlay.active().some((id) => toHex(id) === stuck.hex));
  assert.ok(net.runUntilEvery(isForgotten, 1.5 * MINUTE_MS, 1000));
  assert.deepEqual([...failed], [stuck.hex]);
  stuck.isStuck = false;
  // and it comes back as soon as it answers
  const isBack = (): boolean =>
    net.up.filter((node) => node.overlay.active().some((id) => toHex(id) === stuck.hex)).length >= 4;
  assert.ok(net.runUntilEvery(isBack, 3 * MINUTE_MS, 1000));
});

test("a node that stands still for a minute blames nobody when it goes on", () => {
  const net = settled(6, 60);
  let failed = 0;
  const sleeper = net.nodes[0];
  net.onOverlay = (node, output) => {
    if (node === sleeper && output.kind === "down" && output.reason === DownReason.FAILED) failed++;
  };
  // frames to it are lost, its timers do not run
  sleeper.isUp = false;
  const { timerAtMs } = sleeper;
  net.run(MINUTE_MS);
  sleeper.isUp = true;
  sleeper.timerAtMs = Number.POSITIVE_INFINITY;
  assert.ok(timerAtMs < net.nowMs);
  net.touch(sleeper, () => sleeper.overlay.handleTimeout(net.now));
  net.run(2 * MINUTE_MS);
  assert.equal(failed, 0);
  assert.ok(sleeper.overlay.active().length >= 6, `${sleeper.overlay.active().length} neighbours`);
});

test("accusations of one hostile member talk nobody out of the network and nobody out of a passive view for long", () => {
  const net = settled(7, 80);
  const hostile = net.nodes[0];
  let failed = 0;
  net.onOverlay = (_, output) => {
    if (output.kind === "down" && output.reason === DownReason.FAILED) failed++;
  };
  const accuse = (victim: SimMember): Uint8Array => {
    const claim = { kind: RumourKind.DEAD, node: victim.id, incarnation: 1_800_000_000_000 + net.nowMs };
    const { purpose, body } = rumourBody(claim);
    return encodeOverlay({
      type: OverlayType.PING,
      flags: 0,
      sequence: 1,
      incarnation: 1_800_000_000_000,
      rumours: [{ ...claim, accuser: hostile.id, signature: net.sign(hostile, purpose, body) }],
    });
  };
  for (let i = 0; i < 300; i++) {
    const victim = net.nodes[1 + (net.random.u32() % 79)];
    const target = net.nodes[1 + (net.random.u32() % 79)];
    net.at(net.nowMs + i * 200, () => net.inject(hostile, target, accuse(victim)));
  }
  net.run(2 * MINUTE_MS);
  assert.equal(failed, 0);
  assert.ok(net.isConnected(net.nodes));
  const dead = net.nodes.flatMap((node) =>
    net.nodes.filter((other) => other !== node && node.overlay.liveness(other.id) === Liveness.DEAD),
  );
  assert.equal(dead.length, 0, "the word of one is not enough");
  assert.ok(net.nodes.some((node) => node.overlay.counters.refutations > 0));
});

test("who leaves is let go at once and not suspected", () => {
  const net = settled(8, 60);
  const [leaver] = net.nodes;
  const neighbours = leaver.overlay.active().map((id) => net.find(id));
  const reasons: string[] = [];
  net.onOverlay = (_, output) => {
    if (output.kind === "down" && toHex(output.nodeId) === leaver.hex) reasons.push(output.reason);
  };
  net.leave(leaver);
  net.run(1000);
  assert.deepEqual(
    reasons,
    neighbours.map(() => DownReason.LEFT),
  );
  net.run(MINUTE_MS);
  const believing = net.up.filter((node) => node.overlay.liveness(leaver.id) === Liveness.LEFT);
  assert.ok(believing.length > 50, `${believing.length} of 59 know`);
  net.restart(leaver);
  net.run(MINUTE_MS);
  assert.ok(leaver.overlay.active().length >= 6);
  assert.ok(net.isConnected(net.nodes));
});

test("who is removed from the roster is nobody's neighbour any more and gets no frame taken", () => {
  const net = settled(9, 40);
  const [gone] = net.nodes;
  const other = net.find(gone.overlay.active()[0]);
  net.removeMember(gone);
  for (const node of net.up) assert.ok(!node.overlay.active().some((id) => toHex(id) === gone.hex));
  const refusedBefore = other.overlay.counters.framesRefused;
  net.inject(gone, other, encodeOverlay({ type: OverlayType.JOIN, incarnation: 1 }));
  net.run(1000);
  assert.equal(other.overlay.counters.framesRefused, refusedBefore + 1);
});

/** Bytes per node and second, after a minute of settling. */
function costPerNode(nodes: number, seed: number): { readonly bytes: number; readonly most: number } {
  const net = settled(seed, nodes);
  net.resetCounts();
  net.run(MINUTE_MS);
  const rates = net.nodes.map((node) => node.bytesOut / 60);
  return { bytes: rates.reduce((a, b) => a + b, 0) / nodes, most: Math.max(...rates) };
}

test("what a node sends does not depend on how many there are", () => {
  const small = costPerNode(400, 10);
  const large = costPerNode(Math.max(1600, NODES), 11);
  // both have twelve neighbours
  assert.ok(large.bytes < 1.25 * small.bytes, `${small.bytes} B/s with 400, ${large.bytes} B/s with more`);
  assert.ok(large.bytes < 400, `${large.bytes} B/s`);
  assert.ok(large.most < 4 * large.bytes, `one sends ${large.most} B/s`);
});

test("negative control: a full view, in which everybody probes everybody, costs more with every node", () => {
  const cost = (nodes: number): number => {
    const net = new MembershipNet(12, nodes, { overlay: { activeSize: nodes } });
    net.startAll(1000);
    net.run(10 * MINUTE_MS);
    net.resetCounts();
    net.run(MINUTE_MS);
    return net.nodes.reduce((sum, node) => sum + node.bytesOut, 0) / nodes / 60;
  };
  const [small, large] = [cost(20), cost(80)];
  assert.ok(large > 2.5 * small, `${small} B/s with 20, ${large} B/s with 80`);
});
