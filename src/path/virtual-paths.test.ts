import assert from "node:assert/strict";
import { test } from "node:test";
import { endpointFromBytes, formatEndpoint, VirtualType } from "../base/endpoint.ts";
import { InnerKind } from "../wire/data.ts";
import { type End, link, virtualLink, World } from "./pair-world.ts";
import { PathState } from "./path.ts";

const text = (bytes: Uint8Array | undefined): string =>
  bytes === undefined ? "none" : formatEndpoint(endpointFromBytes(bytes));

function states(end: End): Record<string, PathState> {
  return Object.fromEntries(end.paths.figures().map((path) => [text(path.endpoint), path.state]));
}

/** Data in both directions every 5 ms for so long. @returns the longest time without an arrival at b */
function pump(world: World, durationMs: number): number {
  const untilMs = world.nowMs + durationMs;
  world.every(5, () => {
    if (world.nowMs >= untilMs) return false;
    world.a.sendData();
    world.b.sendData();
    return true;
  });
  const from = world.b.arrivals.length;
  const times = [world.nowMs];
  world.run(untilMs);
  times.push(...world.b.arrivals.slice(from).map((arrival) => arrival.atMs), world.nowMs);
  let gapMs = 0;
  for (let i = 1; i < times.length; i++) gapMs = Math.max(gapMs, times[i] - times[i - 1]);
  return gapMs;
}

test("a relay that is faster does not take the data from a direct path, and stays proven beside it", () => {
  const world = new World([
    link("10.0.0.1:1", "10.0.0.2:1", 40),
    virtualLink(VirtualType.LABEL, 1, 7, 5),
    virtualLink(VirtualType.LABEL, 2, 8, 5),
  ]);
  world.connect();
  pump(world, 60_000);
  assert.equal(text(world.a.activeRemote), "10.0.0.2:1");
  assert.equal(text(world.b.activeRemote), "10.0.0.1:1");
  assert.deepEqual(states(world.a), { "10.0.0.2:1": 2, "relay#7": 2, "transit#8": 2 });
});

test("a way through others in reserve, which takes smaller packets, does not make those on a direct path smaller", () => {
  const alone = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  const beside = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), virtualLink(VirtualType.LABEL, 1, 7, 5)]);
  for (const world of [alone, beside]) {
    world.connect();
    pump(world, 20_000);
  }
  assert.equal(Object.keys(states(beside.a)).length, 2);
  assert.equal(beside.a.paths.innerBytes(36), alone.a.paths.innerBytes(36));
});

test("direct paths fail together: the stand-in is of another kind, and the gap is that of one failure", () => {
  const world = new World([
    link("10.0.0.1:1", "10.0.0.2:1", 10),
    link("10.1.0.1:1", "10.1.0.2:1", 11),
    virtualLink(VirtualType.LABEL, 1, 7, 20),
  ]);
  world.connect();
  pump(world, 20_000);
  assert.equal(text(world.a.activeRemote), "10.0.0.2:1");
  for (const direct of world.links.slice(0, 2)) {
    direct.lossToA = 1;
    direct.lossToB = 1;
  }
  const gapMs = pump(world, 1_000);
  assert.ok(gapMs < 100, `${gapMs} ms`);
  assert.equal(text(world.a.activeRemote), "relay#7");
});

test("when only one direct path fails the other takes over from the stand-in within a round trip", () => {
  const world = new World([
    link("10.0.0.1:1", "10.0.0.2:1", 10),
    link("10.1.0.1:1", "10.1.0.2:1", 11),
    virtualLink(VirtualType.LABEL, 1, 7, 20),
  ]);
  world.connect();
  pump(world, 20_000);
  world.links[0].lossToA = 1;
  world.links[0].lossToB = 1;
  const gapMs = pump(world, 250);
  assert.ok(gapMs < 100, `${gapMs} ms`);
  assert.equal(text(world.a.activeRemote), "10.1.0.2:1");
  assert.equal(text(world.b.activeRemote), "10.1.0.1:1");
});

test("a via that is reported as failed is left at once, and comes back after it has proven itself", () => {
  const world = new World([virtualLink(VirtualType.LABEL, 1, 1, 5), virtualLink(VirtualType.LABEL, 1, 2, 20)]);
  world.connect();
  pump(world, 20_000);
  assert.equal(text(world.a.activeRemote), "relay#1");
  const name = world.a.name(world.links[0].b);
  assert.ok(world.a.paths.failed(world.nowMs, name));
  assert.equal(text(world.a.activeRemote), "relay#2");
  assert.equal(states(world.a)["relay#1"], PathState.DEAD);
  assert.ok(!world.a.paths.failed(world.nowMs, world.a.name(world.links[0].b)), "once");
  world.links[0].lossToB = 1;
  pump(world, 5_000);
  assert.equal(text(world.a.activeRemote), "relay#2");
  world.links[0].lossToB = 0;
  pump(world, 60_000);
  assert.equal(text(world.a.activeRemote), "relay#1");
});

test("a failed via with no other way stays, so that nothing is held back; a removed one leaves none", () => {
  const world = new World([virtualLink(VirtualType.LABEL, 2, 1, 5)]);
  world.connect();
  pump(world, 2_000);
  world.a.paths.failed(world.nowMs, world.a.name(world.links[0].b));
  assert.equal(text(world.a.activeRemote), "transit#1");
  pump(world, 5_000);
  assert.equal(states(world.a)["transit#1"], PathState.ALIVE);
  world.a.paths.takeActiveChanged();
  assert.ok(world.a.paths.remove(world.nowMs, world.a.name(world.links[0].b)));
  assert.equal(world.a.paths.active, -1);
  assert.equal(world.a.paths.duplicate, -1);
  assert.ok(world.a.paths.takeActiveChanged());
  assert.equal(world.a.paths.figures().length, 0);
  assert.ok(!world.a.paths.remove(world.nowMs, world.a.name(world.links[0].b)));
  // found again, it is asked and used
  world.a.paths.setCandidates(world.nowMs, [world.links[0].b]);
  pump(world, 1_000);
  assert.equal(text(world.a.activeRemote), "transit#1");
});

test("the stand-in may go while it stands in: the next best does", () => {
  const world = new World([
    link("10.0.0.1:1", "10.0.0.2:1", 10),
    virtualLink(VirtualType.LABEL, 1, 1, 20),
    virtualLink(VirtualType.LABEL, 2, 2, 20),
  ]);
  world.connect();
  pump(world, 20_000);
  world.links[0].lossToA = 1;
  world.links[0].lossToB = 1;
  world.every(5, () => world.a.sendData());
  world.run(world.nowMs + 500, () => world.a.paths.duplicate >= 0);
  assert.ok(world.a.paths.duplicate >= 0);
  world.links[1].lossToA = 1;
  world.links[1].lossToB = 1;
  world.a.paths.remove(world.nowMs, world.a.name(world.links[1].b));
  assert.equal(text(world.a.paths.figures().find((path) => path.duplicate)?.endpoint), "transit#2");
  world.pass(500);
  assert.equal(text(world.a.activeRemote), "transit#2");
});

test("what a peer sees of a virtual path is nobody's address", () => {
  const world = new World([virtualLink(VirtualType.LABEL, 2, 1, 5)]);
  let acks = 0;
  world.tap = (datagram) => {
    if (datagram.kind !== InnerKind.PROBE_ACK) return true;
    acks++;
    assert.ok(datagram.payload.subarray(16, 34).every((byte) => byte === 0));
    return true;
  };
  world.connect();
  pump(world, 10_000);
  assert.ok(acks > 5);
  assert.equal(world.a.paths.takeObserved(), undefined);
  assert.equal(world.b.paths.takeObserved(), undefined);
});

test("a via starts below the interface's MTU by what wrapping adds", () => {
  const world = new World([virtualLink(VirtualType.LABEL, 2, 1, 5)]);
  world.connect();
  assert.equal(world.a.paths.mtuBytes, 1_460);
  const channel = new World([virtualLink(VirtualType.CHANNEL, 1, 1, 5)]);
  channel.connect();
  assert.equal(channel.a.paths.mtuBytes, 1_500);
});
