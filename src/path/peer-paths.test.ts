import assert from "node:assert/strict";
import { test } from "node:test";
import { InnerKind } from "../wire/data.ts";
import { PathState } from "./path.ts";
import { type Datagram, endpoint, link, World } from "./pair-world.ts";

const hex = (bytes: Uint8Array | undefined): string => (bytes === undefined ? "" : Buffer.from(bytes).toString("hex"));

function stateOf(end: World["a"], remote: Uint8Array): PathState | undefined {
  return end.paths.figures().find((figures) => hex(figures.endpoint) === hex(remote))?.state;
}

test("round trip and jitter converge on a steady link, in both directions", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 25)]);
  world.connect();
  world.every(10, () => world.a.sendData());
  world.pass(120_000);
  for (const end of [world.a, world.b]) {
    const [figures] = end.paths.figures();
    assert.ok(Math.abs(end.paths.rttMs - 50) < 1, `rtt ${end.paths.rttMs}`);
    assert.ok(figures.jitterMs < 1, `jitter ${figures.jitterMs}`);
    assert.ok(Math.abs(figures.rttP95Ms - 50) < 1);
    assert.equal(end.paths.lossRatio < 0.01, true);
  }
});

test("loss converges to the link's, measured by the sender", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10, { lossToB: 0.1 })], { seed: 7 });
  world.connect();
  world.every(2, () => world.a.sendData());
  world.pass(2_000);
  let sum = 0;
  for (let i = 0; i < 20; i++) {
    world.pass(1_000);
    sum += world.a.paths.lossRatio;
  }
  assert.ok(Math.abs(sum / 20 - 0.1) < 0.02, `loss ${sum / 20}`);
  assert.ok(world.b.paths.lossRatio < 0.02, "the other direction is clean");
});

test("who only receives learns from refused probes that nothing comes any more, as from lost ones", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.every(5, () => world.b.sendData());
  world.pass(3_000);
  assert.equal(world.a.paths.figures()[0].state, PathState.ALIVE);
  // the firewall of a's own host: the kernel refuses what goes out, and drops what comes in
  world.a.interfaceMtuBytes = 0;
  world.links[0].lossToA = 1;
  world.pass(10_000);
  assert.notEqual(world.a.paths.figures()[0].state, PathState.ALIVE);
  world.a.interfaceMtuBytes = 65_536;
  world.links[0].lossToA = 0;
  world.pass(10_000);
  assert.equal(world.a.paths.figures()[0].state, PathState.ALIVE);
});

test("the delivery rate is what arrives per second", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.every(1, () => world.a.sendData());
  world.pass(3_000);
  const expected = (1_000 + 36) * 8 * 1_000;
  assert.ok(Math.abs(world.a.paths.rateBps / expected - 1) < 0.15, `${world.a.paths.rateBps} of ${expected}`);
});

test("the peer's moving is followed one round trip after its first packet from there, not before its probe was answered", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 20)]);
  world.connect();
  world.every(5, () => world.a.sendData());
  world.every(5, () => world.b.sendData());
  world.pass(3_000);
  const before = hex(world.b.activeRemote);
  const moved = endpoint("192.0.2.99:7");
  world.links[0].a = moved;
  let firstSeenMs = 0;
  let answeredMs = 0;
  let movedMs = 0;
  world.tap = (datagram: Datagram, toA: boolean): boolean => {
    if (!toA && firstSeenMs === 0 && hex(datagram.from) === hex(moved)) firstSeenMs = world.nowMs + 20;
    return true;
  };
  world.run(world.nowMs + 2_000, () => {
    const proven = stateOf(world.b, moved) === PathState.ALIVE;
    if (proven && answeredMs === 0) answeredMs = world.nowMs;
    if (hex(world.b.activeRemote) === hex(moved)) movedMs = world.nowMs;
    else assert.equal(hex(world.b.activeRemote), before);
    return movedMs > 0;
  });
  assert.ok(answeredMs > 0 && movedMs >= answeredMs, "only after the answer");
  assert.ok(movedMs - firstSeenMs <= 40 + 1, `moved ${movedMs - firstSeenMs} ms after the first packet`);
  assert.equal(world.b.paths.counters.roams, 1);
});

test("a peer that keeps moving between two addresses is followed each time within a second", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 20)]);
  world.connect();
  world.every(5, () => world.a.sendData());
  world.every(5, () => world.b.sendData());
  world.pass(3_000);
  const homes = [world.links[0].a, endpoint("192.0.2.99:7")];
  for (let i = 1; i <= 10; i++) {
    world.links[0].a = homes[i % 2]!;
    world.a.paths.addressesChanged(world.nowMs);
    const fromMs = world.nowMs;
    world.run(fromMs + 1_000, () => hex(world.b.activeRemote) === hex(homes[i % 2]));
    assert.ok(world.nowMs - fromMs < 1_000, `move ${i} took ${world.nowMs - fromMs} ms`);
    world.pass(3_000 - (world.nowMs - fromMs));
  }
});

test("a peer that moves while nothing is sent is found again without data", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 20)]);
  world.connect();
  world.pass(3_000);
  world.links[0].a = endpoint("192.0.2.99:7");
  world.a.paths.addressesChanged(world.nowMs);
  world.pass(15_000);
  assert.equal(hex(world.b.activeRemote), hex(endpoint("192.0.2.99:7")));
});

test("a genuine packet sent on from a spoofed source never moves traffic, and that source is asked only a few small questions", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 20)]);
  world.connect();
  world.every(10, () => world.a.sendData());
  world.every(10, () => world.b.sendData());
  world.pass(2_000);
  const spoofed = endpoint("203.0.113.5:53");
  let sentToSpoofed = 0;
  let captured = 0;
  world.tap = (datagram: Datagram, toA: boolean): boolean => {
    if (toA) return true;
    if (datagram.kind !== InnerKind.IP || world.random.unit() < 0.5) return true;
    // The attacker holds the original back and sends it on from an address that is not its own.
    captured++;
    world.at(world.nowMs + 1, () => void world.b.receive({ ...datagram, from: spoofed }));
    return false;
  };
  const target = hex(world.links[0].a);
  world.run(world.nowMs + 10_000, () => {
    assert.equal(hex(world.b.activeRemote), target);
    return false;
  });
  for (const message of world.b.emitted) if (message.to === spoofed.join()) sentToSpoofed += message.bytes;
  assert.ok(captured > 100);
  assert.ok(sentToSpoofed < captured * 100, `${sentToSpoofed} bytes for ${captured} packets`);
  assert.equal(world.b.paths.counters.roams, 0);
  assert.notEqual(stateOf(world.b, spoofed), PathState.ALIVE);
});

test("an answer from another address than the question went to proves nothing", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 5)]);
  world.connect();
  world.pass(1_000);
  const liar = endpoint("203.0.113.5:53");
  let late = 0;
  world.tap = (datagram: Datagram, toA: boolean): boolean => {
    if (toA || datagram.kind !== InnerKind.PROBE_ACK) return true;
    world.at(world.nowMs + 1, () => {
      world.b.receive({ ...datagram, from: liar });
      late++;
    });
    return false;
  };
  world.b.paths.addressesChanged(world.nowMs);
  world.pass(3_000);
  assert.ok(late > 0);
  assert.ok(world.b.paths.counters.acksLate >= late);
  assert.notEqual(stateOf(world.b, liar), PathState.ALIVE);
});

/** Two links; traffic both ways every millisecond; the first link dies; what happens when. */
function blackhole(
  delay1: number,
  delay2: number,
  oneWay = false,
): { boundMs: number; intervalMs: number; duplicatedMs: number; movedMs: number; gapMs: number } {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", delay1), link("10.1.0.1:1", "10.1.0.2:1", delay2)]);
  world.connect();
  world.every(1, () => world.a.sendData());
  world.every(1, () => world.b.sendData());
  world.pass(6_000);
  assert.equal(hex(world.a.activeRemote), hex(world.links[0].b));
  const rttMs = delay1 * 2;
  const intervalMs = Math.min(50, Math.max(10, rttMs / 4));
  const failMs = world.nowMs;
  world.links[0].lossToB = 1;
  if (!oneWay) world.links[0].lossToA = 1;
  let duplicatedMs = 0;
  let movedMs = 0;
  const arrivalsBefore = world.b.arrivals.length;
  world.run(failMs + 3_000, () => {
    if (world.a.paths.duplicate >= 0 && duplicatedMs === 0) duplicatedMs = world.nowMs - failMs;
    if (movedMs === 0 && hex(world.a.activeRemote) === hex(world.links[1].b)) movedMs = world.nowMs - failMs;
    return false;
  });
  let gapMs = 0;
  const arrivals = world.b.arrivals.slice(Math.max(0, arrivalsBefore - 1)).map((arrival) => arrival.atMs);
  for (let i = 1; i < arrivals.length; i++) gapMs = Math.max(gapMs, arrivals[i] - arrivals[i - 1]);
  return { boundMs: rttMs + 2 * intervalMs + 20, intervalMs, duplicatedMs, movedMs, gapMs };
}

for (const [delay1, delay2] of [
  [1, 5],
  [10, 15],
  [50, 60],
  [250, 300],
] as const) {
  test(`a black hole on a ${delay1 * 2} ms path is left within the design's bound`, () => {
    const result = blackhole(delay1, delay2);
    const slackMs = 2;
    assert.ok(result.duplicatedMs > 0 && result.duplicatedMs <= result.boundMs + slackMs, JSON.stringify(result));
    assert.ok(result.movedMs <= result.boundMs + result.intervalMs + slackMs, JSON.stringify(result));
    assert.ok(result.gapMs <= result.boundMs + delay2 + slackMs, JSON.stringify(result));
  });
}

test("a path that fails in one direction only is left too", () => {
  const result = blackhole(10, 15, true);
  // The last report leaves up to an interval after the last data that it covers came in.
  assert.ok(result.movedMs > 0 && result.movedMs <= result.boundMs + 2 * result.intervalMs + 2, JSON.stringify(result));
});

test("after the better path is back traffic returns to it, and the return loses nothing", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 30)]);
  world.connect();
  world.every(5, () => world.a.sendData());
  world.every(5, () => world.b.sendData());
  world.pass(6_000);
  world.links[0].lossToA = 1;
  world.links[0].lossToB = 1;
  world.pass(3_000);
  assert.equal(hex(world.a.activeRemote), hex(world.links[1].b));
  const counterBefore = world.a.counter;
  world.links[0].lossToA = 0;
  world.links[0].lossToB = 0;
  let returned = false;
  world.run(world.nowMs + 60_000, () => (returned = hex(world.a.activeRemote) === hex(world.links[0].b)));
  assert.equal(returned, true);
  world.pass(1_000);
  const seen = new Set(world.b.arrivals.map((arrival) => arrival.counter));
  const lastMs = world.nowMs - 100;
  const dataAfter = world.b.arrivals.filter((arrival) => arrival.counter >= counterBefore && arrival.atMs < lastMs);
  assert.equal(new Set(dataAfter.map((arrival) => arrival.counter)).size, dataAfter.length);
  assert.ok(world.a.paths.lossRatio < 0.02);
  assert.ok(seen.size > 0);
});

test("traffic moves to a path that is clearly faster and stays on one that is hardly slower", () => {
  for (const [other, moves] of [
    [20, true],
    [47, false],
  ] as const) {
    const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 50), link("10.1.0.1:1", "10.1.0.2:1", other)]);
    world.connect();
    world.every(20, () => world.a.sendData());
    world.pass(20_000);
    assert.equal(hex(world.a.activeRemote) === hex(world.links[1].b), moves, `${other} ms`);
  }
});

test("a path that loses half of its packets is left for one that does not", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 40)], { seed: 5 });
  world.connect();
  world.every(5, () => world.a.sendData());
  world.pass(5_000);
  world.links[0].lossToB = 0.5;
  world.pass(3_000);
  assert.equal(hex(world.a.activeRemote), hex(world.links[1].b));
});

test("the newest data on another proven path is followed when nothing speaks for the own one any more", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 15)]);
  world.connect();
  world.every(5, () => world.a.sendData());
  world.pass(6_000);
  // Only A sends; B, which has nothing to send and so nothing reported, must still notice where A went.
  world.links[0].lossToA = 1;
  world.links[0].lossToB = 1;
  world.pass(1_000);
  assert.equal(hex(world.a.activeRemote), hex(world.links[1].b));
  assert.equal(hex(world.b.activeRemote), hex(world.links[1].a));
});

test("with a single path a black hole keeps it active, and it works again when the hole closes", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.every(5, () => world.a.sendData());
  world.pass(3_000);
  world.links[0].lossToA = 1;
  world.links[0].lossToB = 1;
  world.pass(20_000);
  assert.equal(hex(world.a.activeRemote), hex(world.links[0].b));
  assert.notEqual(stateOf(world.a, world.links[0].b), PathState.ALIVE);
  world.links[0].lossToA = 0;
  world.links[0].lossToB = 0;
  world.pass(2_500);
  assert.equal(stateOf(world.a, world.links[0].b), PathState.ALIVE);
});

test("a lone lost packet costs at most a false alarm, and the better path is active again soon", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 40)]);
  world.connect();
  world.every(1_000, () => world.a.sendData());
  world.pass(10_500);
  world.links[0].lossToB = 1;
  world.a.sendData();
  world.links[0].lossToB = 0;
  world.pass(3_000);
  assert.equal(hex(world.a.activeRemote), hex(world.links[0].b));
  assert.ok(world.a.paths.counters.falseAlarms >= 1);
});

test("a place that silently became narrow is known in both directions and on all paths that lead through it", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 30)]);
  world.connect();
  // Only a sends large packets; b's are small, so that no loss of its own can tell it.
  world.every(5, () => world.a.sendData(1_400));
  world.every(5, () => world.b.sendData(60));
  world.pass(10_000);
  const sizes = (): number[] => [world.a, world.b].flatMap(({ paths }) => paths.figures().map((one) => one.mtuBytes));
  assert.deepEqual(sizes(), [1_500, 1_500, 1_500, 1_500]);
  for (const narrow of world.links) narrow.mtuBytes = 1_380;
  world.pass(3_000);
  assert.deepEqual(sizes(), [1_380, 1_380, 1_380, 1_380]);
});

test("late, duplicated and reordered answers and reports change nothing that they should not", () => {
  const world = new World(
    [link("10.0.0.1:1", "10.0.0.2:1", 10, { duplicate: 0.3, jitterMs: 15 }), link("10.1.0.1:1", "10.1.0.2:1", 60)],
    { seed: 3 },
  );
  world.connect();
  world.every(3, () => world.a.sendData());
  world.every(3, () => world.b.sendData());
  world.run(world.nowMs + 20_000, () => {
    assert.equal(hex(world.a.activeRemote), hex(world.links[0].b));
    return false;
  });
  assert.ok(world.a.paths.counters.reportsStale > 0, "reordering reached the reports");
  assert.ok(world.a.paths.lossRatio < 0.02, `loss ${world.a.paths.lossRatio}`);
  assert.equal(world.a.paths.counters.failovers, 0);
});

test("an answer to an earlier attempt does not revive a path", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 20)]);
  world.connect();
  world.every(100, () => world.a.sendData());
  world.pass(4_000);
  const held: Datagram[] = [];
  const second = world.links[1];
  world.tap = (datagram: Datagram, toA: boolean): boolean => {
    if (!toA || hex(datagram.from) !== hex(second.b) || datagram.kind !== InnerKind.PROBE_ACK) return true;
    held.push(datagram);
    return false;
  };
  world.run(world.nowMs + 30_000, () => stateOf(world.a, second.b) === PathState.DEAD);
  assert.equal(stateOf(world.a, second.b), PathState.DEAD);
  const first = held.length;
  world.run(world.nowMs + 30_000, () => held.length > first);
  assert.ok(first > 0 && held.length > first, "the next attempt has begun");
  for (const datagram of held.slice(0, first)) world.a.receive(datagram);
  assert.notEqual(stateOf(world.a, second.b), PathState.ALIVE);
  assert.ok(world.a.paths.counters.acksLate >= first);
  world.a.receive(held[first]);
  assert.equal(stateOf(world.a, second.b), PathState.ALIVE);
});

test("a spray of sources keeps at most eight paths, the active one among them, and a bounded number of probes", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 20)]);
  world.connect();
  world.every(10, () => world.a.sendData());
  world.pass(3_000);
  const genuine = world.links.map((known) => hex(known.a));
  const probesBefore = world.b.paths.counters.probesSent;
  const startMs = world.nowMs;
  let sprayed = 0;
  world.every(1, () => {
    const from = endpoint(`198.51.${(sprayed >> 8) & 255}.${sprayed & 255}:${1 + (sprayed % 60_000)}`);
    const datagram = {
      kind: InnerKind.IP,
      payload: new Uint8Array(20),
      counter: world.a.counter++,
      epochId: 1,
      datagramBytes: 56,
      from,
    };
    world.b.receive(datagram);
    sprayed++;
    assert.ok(world.b.paths.figures().length <= 8);
    assert.ok(genuine.includes(hex(world.b.activeRemote)));
    return sprayed < 5_000;
  });
  world.pass(6_000);
  assert.equal(sprayed, 5_000);
  const seconds = (world.nowMs - startMs) / 1000;
  assert.ok(world.b.paths.counters.probesSent - probesBefore <= 20 * seconds + 40);
  assert.ok(world.b.paths.counters.pathsRefused > 0);
  assert.ok(world.b.paths.counters.pathsEvicted > 0);
  assert.equal(
    stateOf(world.b, world.links[1].a) ?? PathState.ALIVE,
    PathState.ALIVE,
    "a working path is not displaced",
  );
});

test("no answer is larger than its question, and a question smaller than an answer gets none", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 20)]);
  world.connect();
  world.every(10, () => world.a.sendData());
  const questions: number[] = [];
  world.tap = (datagram: Datagram, toA: boolean): boolean => {
    if (datagram.kind === InnerKind.PROBE) questions.push(datagram.payload.length);
    if (datagram.kind === InnerKind.PROBE_ACK)
      assert.ok(datagram.payload.length <= Math.min(...questions), `to A: ${toA}`);
    return true;
  };
  world.pass(10_000);
  assert.ok(questions.length > 5);
  const answered = world.b.paths.counters.probesAnswered;
  const short = {
    kind: InnerKind.PROBE,
    payload: new Uint8Array(43).fill(1),
    counter: world.a.counter++,
    epochId: 1,
    datagramBytes: 79,
    from: world.links[0].a,
  };
  assert.notEqual(world.b.receive(short), 0);
  assert.equal(world.b.paths.counters.probesAnswered, answered);
});

test("a flood of probes from the peer is answered up to the limit and counted beyond it", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.pass(2_000);
  const answeredBefore = world.b.paths.counters.probesAnswered;
  for (let i = 0; i < 1_000; i++) {
    const payload = new Uint8Array(44);
    payload[0] = i & 255;
    payload[1] = i >> 8;
    payload[12] = 9;
    world.b.receive({
      kind: InnerKind.PROBE,
      payload,
      counter: 1_000_000 + i,
      epochId: 1,
      datagramBytes: 80,
      from: world.links[0].a,
    });
  }
  const answered = world.b.paths.counters.probesAnswered - answeredBefore;
  assert.ok(answered > 0 && answered <= 80);
  assert.equal(world.b.paths.counters.answersLimited, 1_000 - answered);
});

test("an idle peer is left alone after half a minute, and asked again with the first data", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 20)]);
  world.connect();
  world.a.sendData();
  world.pass(40_000);
  const before = world.a.emitted.length + world.b.emitted.length;
  world.pass(600_000);
  assert.equal(world.a.emitted.length + world.b.emitted.length, before);
  world.a.sendData();
  world.pass(300);
  assert.ok(
    world.a.emitted.slice(-10).some((message) => message.kind === InnerKind.PROBE && message.atMs >= world.nowMs - 300),
  );
});

test("a path to be kept open is asked while idle, less and less often while nothing is forgotten, and no other path is", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 20)], {
    keepsOpen: true,
  });
  world.connect();
  world.pass(60_000);
  const from = world.a.emitted.length;
  world.pass(600_000);
  const probes = world.a.emitted.slice(from).filter((message) => message.kind === InnerKind.PROBE);
  assert.ok(probes.length >= 7 && probes.length <= 11, `${probes.length} probes in 10 min`);
  assert.ok(world.nowMs - (probes.at(-1)?.atMs ?? 0) <= 132_000);
  assert.equal(new Set(probes.map((probe) => probe.to)).size, 1);
});

test("probe steadily while in use: about every five seconds on each path", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 14)]);
  world.connect();
  world.every(100, () => world.a.sendData());
  world.pass(10_000);
  const from = world.a.emitted.length;
  world.pass(100_000);
  const small = world.a.emitted
    .slice(from)
    .filter((message) => message.kind === InnerKind.PROBE && message.bytes < 100);
  for (const known of world.links) {
    const count = small.filter((message) => message.to === known.b.join()).length;
    assert.ok(count >= 17 && count <= 24, `${count} probes in 100 s`);
  }
});

test("a peer that forgot everything is measured again after the next handshake, without a false alarm", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 20)]);
  world.connect();
  world.every(5, () => world.a.sendData());
  world.pass(5_000);
  world.b.paths.close();
  world.b.paths = world.b.makePaths(1500);
  world.b.sessionUp = false;
  world.pass(200);
  world.b.sessionUp = true;
  world.a.epochId = 2;
  world.b.epochId = 2;
  world.connect();
  const failovers = world.a.paths.counters.failovers;
  world.pass(3_000);
  assert.equal(world.a.paths.counters.failovers, failovers);
  const reports = world.a.paths.counters.reportsReceived;
  world.pass(1_000);
  assert.ok(world.a.paths.counters.reportsReceived > reports + 10);
  assert.ok(world.a.paths.rateBps > 0);
});

test("without a session nothing is counted as asked, and the first session starts every candidate", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10), link("10.1.0.1:1", "10.1.0.2:1", 20)]);
  world.a.paths.setCandidates(
    world.nowMs,
    world.links.map((known) => known.b),
  );
  world.pass(10_000);
  assert.equal(world.a.emitted.length, 0);
  assert.equal(world.a.paths.active, -1);
  assert.equal(world.a.paths.nextTimeoutMs, Infinity);
  world.connect();
  world.pass(200);
  assert.deepEqual(
    world.a.paths.figures().map((figures) => figures.state),
    [PathState.ALIVE, PathState.ALIVE],
  );
});

test("candidates: eight at most, live paths stay when they are no longer named, unlived ones go", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.pass(1_000);
  const many = Array.from({ length: 12 }, (_, i) => endpoint(`10.9.0.${i + 1}:1`));
  world.a.paths.setCandidates(world.nowMs, many);
  assert.equal(world.a.paths.figures().length, 8);
  world.run(
    world.nowMs + 20_000,
    () => !world.a.paths.figures().some((figures) => figures.state === PathState.PROBING),
  );
  world.a.paths.setCandidates(world.nowMs, []);
  assert.deepEqual(
    world.a.paths.figures().map((figures) => hex(figures.endpoint)),
    [hex(world.links[0].b)],
  );
});

test("the address by which the peer sees us is told once per change", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.pass(1_000);
  assert.equal(hex(world.a.paths.takeObserved()), hex(world.links[0].a));
  world.pass(10_000);
  assert.equal(world.a.paths.takeObserved(), undefined);
  world.links[0].a = endpoint("192.0.2.4:4");
  world.a.paths.addressesChanged(world.nowMs);
  world.pass(1_000);
  assert.equal(hex(world.a.paths.takeObserved()), hex(endpoint("192.0.2.4:4")));
});

test("an on-demand probe is answered under its own number", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 30)]);
  world.connect();
  world.pass(2_000);
  const id = world.a.paths.ping(world.nowMs, world.a.sink);
  assert.ok(id > 0);
  world.run(world.nowMs + 1_000, () => world.a.paths.lastAckId === id);
  assert.equal(world.a.paths.lastAckId, id);
  assert.ok(Math.abs(world.a.paths.lastAckRttMs - 60) < 0.001);
  assert.equal(world.a.paths.lastAckPath, world.a.paths.active);
});

test("a changed address clears the sticky source of every path", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  const { u8, view } = world.a.slab;
  const name = world.a.name(world.links[0].b);
  u8.set(endpoint("10.0.0.1:1").subarray(0, 16), name + 16);
  view.setUint32(name + 36, 3, true);
  world.a.paths.received(world.nowMs, name, 1, 100, 1, 0, 0, 1);
  const active = world.a.paths.activeName();
  assert.equal(hex(u8.slice(active + 16, active + 32)), hex(endpoint("10.0.0.1:1").slice(0, 16)));
  assert.equal(view.getUint32(active + 36, true), 3);
  world.a.paths.addressesChanged(world.nowMs);
  assert.ok(u8.slice(active + 16, active + 32).every((byte) => byte === 0));
  assert.equal(view.getUint32(active + 36, true), 0);
});

test("whatever the links do, time goes on, traffic stays on a known link, and calm brings every link back", () => {
  for (let seed = 1; seed <= 12; seed++) {
    const world = new World(
      [
        link("10.0.0.1:1", "10.0.0.2:1", 8, { duplicate: 0.05, jitterMs: 4 }),
        link("10.1.0.1:1", "10.1.0.2:1", 20, { duplicate: 0.05, jitterMs: 10 }),
        link("[fd00::1]:1", "[fd00::2]:1", 45, { jitterMs: 2 }),
      ],
      { seed },
    );
    world.connect();
    world.every(7, () => world.a.sendData());
    world.every(11, () => world.b.sendData());
    const random = world.random;
    const endMs = world.nowMs + 20_000;
    world.every(400, () => {
      const victim = world.links[Math.floor(random.unit() * 3)];
      victim.lossToA = random.unit() < 0.4 ? 1 : random.unit() * 0.2;
      victim.lossToB = random.unit() < 0.4 ? 1 : random.unit() * 0.2;
      victim.mtuBytes = random.unit() < 0.3 ? 1400 : 1500;
      return world.nowMs < endMs;
    });
    const known = new Set(world.links.flatMap((one) => [hex(one.a), hex(one.b)]));
    let steps = 0;
    world.run(endMs, () => {
      steps++;
      assert.ok(known.has(hex(world.a.activeRemote)) && known.has(hex(world.b.activeRemote)));
      return false;
    });
    assert.ok(steps < 60_000, `seed ${seed}: ${steps} steps`);
    for (const calm of world.links) Object.assign(calm, { lossToA: 0, lossToB: 0, mtuBytes: 1500 });
    world.pass(90_000);
    for (const end of [world.a, world.b]) {
      const figures = end.paths.figures();
      assert.equal(figures.length, 3, `seed ${seed}`);
      assert.ok(
        figures.every((one) => one.state === PathState.ALIVE),
        `seed ${seed}`,
      );
      assert.ok(end.paths.counters.probesSent < 120 * 20, `seed ${seed}: ${end.paths.counters.probesSent} probes`);
    }
    assert.equal(hex(world.a.activeRemote), hex(world.links[0].b), `seed ${seed}: back on the best`);
    const before = world.b.arrivals.length;
    world.pass(1_000);
    assert.ok(world.b.arrivals.length - before >= 140, `seed ${seed}`);
  }
});

test("counting what comes in and goes out does not allocate", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.every(10, () => world.a.sendData());
  world.every(10, () => world.b.sendData());
  world.pass(2_000);
  const { paths } = world.a;
  const name = world.a.name(world.links[0].b);
  // One time per stretch: a fresh fraction per call would be boxed by the caller.
  const work = (nowMs: number, from: number, calls: number): void => {
    for (let i = 0; i < calls; i++) {
      paths.received(nowMs, name, 3, 3_000, from + i, 1, 0, 1);
      paths.sent(nowMs, 2, 2_000);
    }
  };
  work(world.nowMs, 0, 200_000);
  const growth: number[] = [];
  for (let round = 0; round < 20; round++) {
    const before = process.memoryUsage().heapUsed;
    work(world.nowMs + round * 0.7, 200_000 + round * 20_000, 20_000);
    growth.push(process.memoryUsage().heapUsed - before);
  }
  growth.sort((a, b) => a - b);
  const typical = growth[10];
  assert.ok(typical < 40_000, `${typical} bytes for 40,000 calls`);
});
