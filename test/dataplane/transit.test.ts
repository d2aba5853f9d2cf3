/** Vias and channels from end to end: three engines and more with their sessions, in virtual time. What a user of the tunnel would notice, and what the counters say. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Drop } from "../../src/base/drop.ts";
import { formatEndpoint, endpointFromBytes } from "../../src/base/endpoint.ts";
import { ViaFailure } from "../../src/dataplane/messages.ts";
import { Counter, PeerField } from "../../src/dataplane/stats.ts";
import { DATA_TYPE } from "../../src/wire/data.ts";
import { EngineMesh, type MeshNode } from "../../sim/engine-mesh.ts";
import { conserves } from "./conservation.ts";

function active(mesh: EngineMesh, node: MeshNode, peer: MeshNode): string {
  const path = mesh.paths(node, peer).find((one) => one.active);
  return path === undefined ? "none" : formatEndpoint(endpointFromBytes(path.endpoint));
}

/** a and b cannot meet; both have a session with c, which forwards. */
function relayed(seed: number, pathKind = 2): { mesh: EngineMesh; a: MeshNode; b: MeshNode; c: MeshNode } {
  const mesh = new EngineMesh({ seed, nodes: 3 });
  const [a, b, c] = mesh.nodes;
  mesh.setLink(a, b, { up: false });
  meet(mesh, a, c);
  meet(mesh, b, c);
  const [atA, atB] = mesh.install([a, c, b], pathKind, 7);
  mesh.candidates(a, b, [b.endpoint, atA]);
  mesh.candidates(b, a, [a.endpoint, atB]);
  return { mesh, a, b, c };
}

interface FourNodes {
  readonly mesh: EngineMesh;
  readonly a: MeshNode;
  readonly b: MeshNode;
  readonly c: MeshNode;
  readonly d: MeshNode;
}

/** a and b cannot meet; c and d forward for them, and the way through d is the longer one. */
function twoHops(seed: number): FourNodes {
  const mesh = new EngineMesh({ seed, nodes: 4 });
  const [a, b, c, d] = mesh.nodes;
  mesh.setLink(a, b, { up: false });
  for (const hop of [c, d]) {
    meet(mesh, a, hop);
    meet(mesh, b, hop);
  }
  mesh.setLink(a, d, { delayMs: 15 });
  const [first] = mesh.install([a, c, b], 2, 1);
  const [second] = mesh.install([a, d, b], 2, 2);
  mesh.candidates(a, b, [first, second]);
  mesh.candidates(b, a, [first, second]);
  return { mesh, a, b, c, d };
}

/** a – b – c – d, each reaching only those beside it; a and d know the way along all of them. */
function chain(seed: number): FourNodes {
  const mesh = new EngineMesh({ seed, nodes: 4 });
  const [a, b, c, d] = mesh.nodes;
  for (const [x, y] of [[a, c], [a, d], [b, d]]) mesh.setLink(x, y, { up: false }); // prettier-ignore
  meet(mesh, a, b);
  meet(mesh, b, c);
  meet(mesh, c, d);
  const [atA, atD] = mesh.install([a, b, c, d], 2, 9);
  mesh.candidates(a, d, [atA]);
  mesh.candidates(d, a, [atD]);
  return { mesh, a, b, c, d };
}

function meet(mesh: EngineMesh, a: MeshNode, b: MeshNode): void {
  mesh.send(a, b, 100, 1);
  assert.ok(
    mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0),
    "a session",
  );
  mesh.received(b);
}

test("two nodes that cannot meet open a session through a third, and it sees only sealed bytes", () => {
  const { mesh, a, b, c } = relayed(1);
  const plain = new TextEncoder().encode("what nobody else may read");
  let leaked = false;
  mesh.onWire = (datagram) => {
    if (Buffer.from(datagram).includes(plain)) leaked = true;
  };
  const startedMs = mesh.nowMs;
  mesh.send(a, b, 200, 42);
  a.tun.incoming[0].set(plain, 80);
  assert.ok(mesh.run(startedMs + 3_000, () => b.tun.written.length > 0));
  assert.ok(mesh.nowMs - startedMs < 200, `${mesh.nowMs - startedMs} ms`);
  assert.deepEqual(mesh.received(b), [42]);
  mesh.send(b, a, 200, 43);
  assert.ok(mesh.run(mesh.nowMs + 200, () => a.tun.written.length > 0));
  assert.deepEqual(mesh.received(a), [43]);
  mesh.run(mesh.nowMs + 2_000);
  assert.equal(active(mesh, a, b), "transit#7");
  assert.equal(active(mesh, b, a), "transit#7");
  assert.equal(a.stats.cells[a.stats.peerRow(b.number) + PeerField.hybrid], 1);
  assert.ok(!leaked);
  assert.equal(c.tun.written.length, 0);
  assert.ok(c.stats.get(Counter.forwarded) > 10);
  for (const node of mesh.nodes) conserves(node.stats);
});

test("a train to a peer behind a via leaves as one train, is forwarded as one, and arrives whole and in order", () => {
  const { mesh, a, b, c } = relayed(2);
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  mesh.run(mesh.nowMs + 3_000);
  mesh.received(b);
  a.trains.length = 0;
  c.trains.length = 0;
  for (let i = 0; i < 40; i++) mesh.send(a, b, 1_200, i);
  mesh.run(mesh.nowMs + 30);
  assert.deepEqual(
    mesh.received(b),
    Array.from({ length: 40 }, (_, i) => i),
  );
  const long = (node: MeshNode, to: MeshNode): number[] =>
    node.trains.filter((train) => train.to === to.address && train.bytes > 1_500).map((t) => t.bytes / t.segmentBytes);
  assert.deepEqual(long(a, c), [40]);
  assert.ok(Math.max(...long(c, b)) >= 4, `${long(c, b)}`);
  // 28 + 1,200 inside, sealed for b, label, sealed for c
  assert.equal(a.trains.find((train) => train.bytes > 1_500)?.segmentBytes, 1_228 + 36 + 4 + 36);
  for (const node of mesh.nodes) conserves(node.stats);
});

test("steady traffic over a chain of three hops is neither lost nor doubled nor reordered", () => {
  const { mesh, a, d } = chain(3);
  const got: number[] = [];
  for (let i = 0; i < 500; i++) {
    mesh.send(a, d, 300, i);
    mesh.run(mesh.nowMs + 4);
    got.push(...mesh.received(d));
  }
  mesh.run(mesh.nowMs + 100);
  got.push(...mesh.received(d));
  assert.deepEqual(
    got,
    Array.from({ length: 500 }, (_, i) => i),
  );
  for (const node of mesh.nodes) conserves(node.stats);
});

test("direct before transit: when the pair can meet data moves there, and back within a report interval when it fails", () => {
  const { mesh, a, b } = relayed(4);
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  mesh.setLink(a, b, { up: true, delayMs: 20 });
  const pump = (untilMs: number): { lost: number; gapMs: number } => {
    let tag = 1_000;
    let gapMs = 0;
    let lastMs = mesh.nowMs;
    let count = 0;
    while (mesh.nowMs < untilMs) {
      mesh.send(a, b, 200, tag++);
      mesh.send(b, a, 200, tag);
      mesh.run(mesh.nowMs + 5);
      mesh.received(a);
      const now = mesh.received(b).length;
      count += now;
      if (now > 0) {
        gapMs = Math.max(gapMs, mesh.nowMs - lastMs);
        lastMs = mesh.nowMs;
      }
    }
    return { lost: tag - 1_000 - count, gapMs: Math.max(gapMs, mesh.nowMs - lastMs) };
  };
  pump(mesh.nowMs + 40_000);
  assert.equal(active(mesh, a, b), "10.0.0.2:12345");
  assert.equal(active(mesh, b, a), "10.0.0.1:12345");
  const paths = mesh.paths(a, b);
  const warm = paths.find((path) => path.endpoint[0] === 1);
  assert.equal(warm?.state, 2, "the transit path stays proven");
  mesh.setLink(a, b, { up: false });
  const { gapMs } = pump(mesh.nowMs + 1_000);
  assert.ok(gapMs < 200, `${gapMs} ms`);
  assert.equal(active(mesh, a, b), "transit#7");
  for (const node of mesh.nodes) conserves(node.stats);
});

test("a hop that lost its label says so, and the source is told and moves to its other via at once", () => {
  const { mesh, a, b, c } = twoHops(5);
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  for (let i = 0; i < 100; i++) {
    mesh.send(a, b, 100, i);
    mesh.send(b, a, 100, i);
    mesh.run(mesh.nowMs + 20);
  }
  assert.equal(active(mesh, a, b), "transit#1");
  mesh.received(b);
  a.take("viaFailed");
  const label = mesh.nowMs;
  assert.ok(label > 0);
  // c forgets what it was told
  for (const forward of forwardsOf(c)) c.commands.push({ kind: "forwardRemove", ...forward });
  mesh.send(a, b, 100, 500);
  mesh.run(mesh.nowMs + 15);
  assert.deepEqual(a.take("viaFailed"), [{ kind: "viaFailed", id: 1, code: ViaFailure.UNKNOWN_LABEL }]);
  assert.equal(active(mesh, a, b), "transit#2");
  mesh.send(a, b, 100, 501);
  assert.ok(mesh.run(mesh.nowMs + 40, () => b.tun.written.length > 0));
  assert.deepEqual(mesh.received(b), [501]);
  assert.ok(c.stats.droppedRx(Drop.UNKNOWN_LABEL) > 0);
  for (const node of mesh.nodes) conserves(node.stats);
});

/** Labels that the simulator gave out at this node. */
function forwardsOf(node: MeshNode): { label: number; from: number }[] {
  const found: { label: number; from: number }[] = [];
  for (let label = 1_000_000_000; label < 1_000_000_600; label++) {
    for (let from = 0; from < 8; from++) {
      if (node.engine.virtual.vias.forwardOf(node.engine.virtual.vias.incoming(from, label)) !== undefined) {
        found.push({ label, from });
      }
    }
  }
  return found;
}

test("a hop that dies without a word is left when delivery stops, in either direction of the traffic", () => {
  const { mesh, a, b, c } = twoHops(25);
  let gapMs = 0;
  let lastMs = mesh.nowMs;
  const pump = (durationMs: number): void => {
    for (const untilMs = mesh.nowMs + durationMs; mesh.nowMs < untilMs;) {
      mesh.send(a, b, 100, 1);
      mesh.send(b, a, 100, 1);
      mesh.run(mesh.nowMs + 5);
      mesh.received(a);
      if (mesh.received(b).length === 0) continue;
      gapMs = Math.max(gapMs, mesh.nowMs - lastMs);
      lastMs = mesh.nowMs;
    }
  };
  pump(10_000);
  assert.equal(active(mesh, a, b), "transit#1");
  for (const node of mesh.nodes) mesh.setLink(c, node, { up: false });
  gapMs = 0;
  pump(2_000);
  assert.ok(gapMs < 200, `${gapMs} ms`);
  assert.equal(active(mesh, a, b), "transit#2");
  assert.equal(active(mesh, b, a), "transit#2");
  for (const node of mesh.nodes) conserves(node.stats);
});

test("a hop whose own path moves to a via is a hop no more; what was on its way there is not nested", () => {
  const { mesh, a, b, c, d } = twoHops(26);
  meet(mesh, c, d);
  const [around] = mesh.install([a, d, c], 2, 3);
  mesh.candidates(a, c, [c.endpoint, around]);
  mesh.candidates(c, a, [a.endpoint, around]);
  const pump = (durationMs: number): number => {
    let count = 0;
    for (const untilMs = mesh.nowMs + durationMs; mesh.nowMs < untilMs; count++) {
      for (const peer of [b, c]) {
        mesh.send(a, peer, 100, 1);
        mesh.send(peer, a, 100, 1);
      }
      mesh.run(mesh.nowMs + 5);
    }
    mesh.received(a);
    return count - mesh.received(b).length;
  };
  pump(10_000);
  assert.equal(active(mesh, a, b), "transit#1");
  const states = mesh.paths(a, c).map((path) => path.state);
  assert.deepEqual(states, [2, 2]);
  mesh.setLink(a, c, { up: false });
  pump(3_000);
  assert.equal(active(mesh, a, c), "transit#3");
  assert.equal(active(mesh, a, b), "transit#2");
  assert.ok(pump(1_000) <= 10, "traffic flows");
  for (const node of mesh.nodes) {
    assert.equal(node.stats.droppedRx(Drop.AUTH), 0);
    assert.equal(node.stats.droppedRx(Drop.BAD_INNER), 0);
    conserves(node.stats);
  }
});

test("an error travels back along the whole way, each node dropping its entry", () => {
  const { mesh, a, b, c, d } = chain(6);
  mesh.send(a, d, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => d.tun.written.length > 0));
  mesh.run(mesh.nowMs + 2_000);
  for (const node of [a, b, c]) {
    node.take("viaFailed");
    node.take("forwardExpired");
  }
  // c loses d altogether
  c.commands.push({ kind: "peerRemove", peer: d.number });
  mesh.send(a, d, 100, 2);
  mesh.run(mesh.nowMs + 50);
  assert.equal(c.take("forwardExpired").length, 2, "both directions at c");
  assert.equal(b.take("forwardExpired").length, 1, "the direction that was used, at b");
  assert.deepEqual(a.take("viaFailed"), [{ kind: "viaFailed", id: 9, code: ViaFailure.UNKNOWN_LABEL }]);
  // the control thread takes the via back: what is sent now waits for another way
  a.commands.push({ kind: "viaRemove", id: 9 });
  mesh.send(a, d, 100, 3);
  mesh.run(mesh.nowMs + 5);
  assert.equal(a.stats.get(Counter.queued), 1);
  assert.equal(active(mesh, a, d), "none");
  for (const node of mesh.nodes) conserves(node.stats);
});

test("one sender gets its quota and no more, whatever the number of its ways, and nobody else notices", () => {
  const QUOTA_BYTES_PER_SECOND = 100_000;
  const mesh = new EngineMesh({ seed: 28, nodes: 5 });
  const [a, b, c, d, e] = mesh.nodes;
  const pairs = [[a, b], [a, d], [e, b]]; // prettier-ignore
  for (const [x, y] of pairs) mesh.setLink(x, y, { up: false });
  for (const node of [a, b, d, e]) meet(mesh, node, c);
  pairs.forEach(([x, y], i) => {
    const [there, back] = mesh.install([x, c, y], 1, 1 + i, QUOTA_BYTES_PER_SECOND);
    mesh.candidates(x, y, [there]);
    mesh.candidates(y, x, [back]);
    meet(mesh, x, y);
  });
  mesh.run(mesh.nowMs + 2_000);
  const of = (node: MeshNode, field: number): number => c.stats.cells[c.stats.peerRow(node.number) + field];
  const before = of(a, PeerField.forwardedBytes);
  const startedMs = mesh.nowMs;
  const got = { b: 0, d: 0 };
  const quiet: number[] = [];
  for (let i = 0; i < 1_000; i++) {
    mesh.send(a, b, 1_000, i);
    mesh.send(a, d, 1_000, i);
    if (i % 20 === 0) mesh.send(e, b, 1_000, 100_000 + i);
    mesh.run(mesh.nowMs + 2);
    for (const tag of mesh.received(b)) {
      if (tag >= 100_000) quiet.push(tag);
      else got.b++;
    }
    got.d += mesh.received(d).length;
  }
  const seconds = (mesh.nowMs - startedMs) / 1_000;
  const passed = of(a, PeerField.forwardedBytes) - before;
  assert.ok(passed <= 65_536 + QUOTA_BYTES_PER_SECOND * seconds, `${passed} bytes in ${seconds} s`);
  assert.ok(passed > QUOTA_BYTES_PER_SECOND * seconds * 0.8, `${passed} bytes in ${seconds} s`);
  assert.ok(got.b > 10 && got.d > 10, "both targets have their share");
  const dropped = c.stats.droppedRx(Drop.QUOTA);
  assert.ok(dropped > 1_000, `${dropped}`);
  assert.equal(of(a, PeerField.forwardDrops), dropped, "all of them are a's");
  assert.ok(quiet.length >= 49, `${quiet.length} of the other sender's 50`);
  assert.equal(of(e, PeerField.forwardDrops), 0);
  for (const node of mesh.nodes) conserves(node.stats);
});

test("a forward entry passes its sender's quota and no more, and ends after 300 s without use", () => {
  const mesh = new EngineMesh({ seed: 7, nodes: 3 });
  const [a, b, c] = mesh.nodes;
  mesh.setLink(a, b, { up: false });
  meet(mesh, a, c);
  meet(mesh, b, c);
  const [atA, atB] = mesh.install([a, c, b], 1, 3, 100_000);
  mesh.candidates(a, b, [atA]);
  mesh.candidates(b, a, [atB]);
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  mesh.run(mesh.nowMs + 2_000);
  mesh.received(b);
  const before = c.stats.get(Counter.forwardedBytes);
  const startedMs = mesh.nowMs;
  for (let i = 0; i < 1_000; i++) {
    mesh.send(a, b, 1_000, i);
    mesh.run(mesh.nowMs + 2);
  }
  const seconds = (mesh.nowMs - startedMs) / 1_000;
  const passed = c.stats.get(Counter.forwardedBytes) - before;
  assert.ok(passed < 2 * (65_536 + 100_000 * seconds), `${passed} bytes in ${seconds} s`);
  assert.ok(passed > 100_000 * seconds * 0.8, `${passed} bytes in ${seconds} s`);
  assert.ok(c.stats.droppedRx(Drop.QUOTA) > 100);
  conserves(c.stats);
  assert.equal(c.engine.virtual.vias.forwardCount, 2);
  // rekeys are use too: take the way from both ends
  for (const node of [a, b]) node.commands.push({ kind: "viaRemove", id: 3 });
  for (let i = 0; i < 320; i++) {
    mesh.nowMs += 1_000;
    mesh.run(mesh.nowMs + 1);
  }
  assert.equal(c.engine.virtual.vias.forwardCount, 0);
  assert.equal(c.take("forwardExpired").length, 2);
});

test("a forwarder whose socket is full keeps one batch and drops the rest, counted, and goes on afterwards", () => {
  const { mesh, a, b, c } = relayed(27);
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  mesh.run(mesh.nowMs + 500);
  mesh.received(b);
  c.udp.onSend = () => -11;
  for (let i = 0; i < 150; i++) mesh.send(a, b, 1_000, i);
  mesh.run(mesh.nowMs + 12);
  const dropped = c.stats.droppedRx(Drop.QUEUE_FULL);
  assert.ok(dropped > 80, `${dropped}`);
  c.udp.onSend = () => 0;
  mesh.run(mesh.nowMs + 30);
  const got = mesh.received(b);
  assert.equal(got.length, 150 - dropped);
  assert.deepEqual(
    got,
    got.toSorted((x, y) => x - y),
  );
  mesh.send(a, b, 100, 999);
  mesh.run(mesh.nowMs + 30);
  assert.deepEqual(mesh.received(b), [999]);
  for (const node of mesh.nodes) conserves(node.stats);
});

test("no nesting: a hop that is itself behind a via is no hop", () => {
  const mesh = new EngineMesh({ seed: 8, nodes: 4 });
  const [a, b, c, d] = mesh.nodes;
  mesh.setLink(a, b, { up: false });
  mesh.setLink(a, d, { up: false });
  meet(mesh, a, c);
  meet(mesh, c, d);
  meet(mesh, b, d);
  const [toD, toA] = mesh.install([a, c, d], 2, 1);
  mesh.candidates(a, d, [toD]);
  mesh.candidates(d, a, [toA]);
  mesh.send(a, d, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => d.tun.written.length > 0));
  const [toB, fromB] = mesh.install([a, d, b], 2, 2);
  mesh.candidates(a, b, [toB]);
  mesh.candidates(b, a, [fromB]);
  mesh.send(a, b, 100, 2);
  mesh.run(mesh.nowMs + 500);
  assert.equal(b.tun.written.length, 0);
  assert.ok(a.take("viaFailed").some((event) => event.id === 2 && event.code === ViaFailure.NO_PATH));
  for (const node of mesh.nodes) conserves(node.stats);
});

test("a hop with a small path: base-size datagrams pass in pieces, and the true size is found out", () => {
  const { mesh, a, b, c } = relayed(9);
  mesh.setLink(a, c, { maxDatagramBytes: 1_280 - 28 });
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 5_000, () => b.tun.written.length > 0));
  for (let i = 0; i < 400; i++) {
    mesh.send(a, b, 64, 10 + i);
    mesh.run(mesh.nowMs + 50);
  }
  const mtuBytes = mesh.paths(a, b).find((path) => path.active)?.mtuBytes;
  assert.equal(mtuBytes, 1_280);
  mesh.received(b);
  // the largest packet that a base-size datagram carries
  mesh.send(a, b, 1_280 - 48 - 36 - 28, 7);
  mesh.run(mesh.nowMs + 50);
  assert.deepEqual(mesh.received(b), [7]);
  assert.ok(a.stats.get(Counter.fragmentsSent) > 0);
  for (const node of mesh.nodes) conserves(node.stats);
  conserves(c.stats);
});

test("congestion marked between the hops shows inside", () => {
  const { mesh, a, b, c } = relayed(10);
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  mesh.run(mesh.nowMs + 1_000);
  mesh.received(b);
  mesh.link(a, c).mark = 3;
  mesh.send(a, b, 100, 2, 2);
  mesh.run(mesh.nowMs + 30);
  assert.equal(b.tun.written.length, 1);
  assert.equal(b.tun.written[0][11] & 3, 3);
});

test("a channel carries handshake and data where UDP does not pass, and gives way to UDP when it does", () => {
  const mesh = new EngineMesh({ seed: 11, nodes: 2 });
  const [a, b] = mesh.nodes;
  mesh.setLink(a, b, { up: false });
  const endpoint = mesh.channel(a, b, 5, 12);
  mesh.candidates(a, b, [b.endpoint, endpoint]);
  mesh.candidates(b, a, [a.endpoint, endpoint]);
  mesh.send(a, b, 200, 42);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  assert.deepEqual(mesh.received(b), [42]);
  assert.equal(active(mesh, a, b), "channel#5");
  mesh.send(b, a, 200, 43);
  assert.ok(mesh.run(mesh.nowMs + 100, () => a.tun.written.length > 0));
  for (let i = 0; i < 30; i++) mesh.send(a, b, 1_200, i);
  mesh.run(mesh.nowMs + 100);
  assert.equal(mesh.received(b).length, 30);
  // a ring that is half full pushes back: packets wait and none is lost
  a.eventLoad = 0.6;
  for (let i = 0; i < 90; i++) mesh.send(a, b, 1_200, i);
  mesh.run(mesh.nowMs + 4);
  assert.ok(a.stats.get(Counter.queued) > 0);
  a.eventLoad = 0;
  mesh.run(mesh.nowMs + 100);
  assert.equal(mesh.received(b).length, 90);
  mesh.setLink(a, b, { up: true });
  for (let i = 0; i < 800; i++) {
    mesh.send(a, b, 100, i);
    mesh.send(b, a, 100, i);
    mesh.run(mesh.nowMs + 20);
  }
  assert.equal(active(mesh, a, b), "10.0.0.2:12345");
  assert.equal(active(mesh, b, a), "10.0.0.1:12345");
  a.commands.push({ kind: "channel", id: 5, open: false });
  assert.ok(!mesh.paths(a, b).some((path) => path.endpoint[0] === 1));
  for (const node of mesh.nodes) conserves(node.stats);
});

test("a relay reached through a channel is a hop like any other", () => {
  const mesh = new EngineMesh({ seed: 12, nodes: 3 });
  const [a, b, c] = mesh.nodes;
  mesh.setLink(a, b, { up: false });
  mesh.setLink(a, c, { up: false });
  const endpoint = mesh.channel(a, c, 1, 10);
  mesh.candidates(a, c, [endpoint]);
  mesh.candidates(c, a, [endpoint]);
  meet(mesh, a, c);
  meet(mesh, b, c);
  const [atA, atB] = mesh.install([a, c, b], 1, 4);
  mesh.candidates(a, b, [atA]);
  mesh.candidates(b, a, [atB]);
  mesh.send(a, b, 200, 42);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  assert.deepEqual(mesh.received(b), [42]);
  assert.equal(active(mesh, a, b), "relay#4");
  for (const node of mesh.nodes) conserves(node.stats);
});

test("kinds of paths: relay before channel before transit, whatever their round trips", () => {
  const mesh = new EngineMesh({ seed: 13, nodes: 4 });
  const [a, b, c, d] = mesh.nodes;
  mesh.setLink(a, b, { up: false });
  for (const hop of [c, d]) {
    meet(mesh, a, hop);
    meet(mesh, b, hop);
  }
  const channel = mesh.channel(a, b, 5, 2);
  const [transit] = mesh.install([a, c, b], 2, 1);
  mesh.candidates(a, b, [transit]);
  mesh.candidates(b, a, [transit]);
  const settle = (): string => {
    for (let i = 0; i < 600; i++) {
      mesh.send(a, b, 100, i);
      mesh.send(b, a, 100, i);
      mesh.run(mesh.nowMs + 20);
    }
    return active(mesh, a, b);
  };
  assert.equal(settle(), "transit#1");
  mesh.candidates(a, b, [transit, channel]);
  mesh.candidates(b, a, [transit, channel]);
  assert.equal(settle(), "channel#5");
  mesh.setLink(a, d, { delayMs: 60 });
  const [relay] = mesh.install([a, d, b], 1, 2);
  mesh.candidates(a, b, [transit, channel, relay]);
  mesh.candidates(b, a, [transit, channel, relay]);
  assert.equal(settle(), "relay#2");
});

test("an observed address never names a via, and nothing comes in from the discard prefix", () => {
  const { mesh, a, b, c } = relayed(14);
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  mesh.run(mesh.nowMs + 3_000);
  for (const node of mesh.nodes) {
    for (const event of node.take("observed")) assert.notEqual(event.endpoint[0], 1);
  }
  // a datagram whose source claims to be one of our vias
  const name = new Uint8Array(48);
  name[0] = 1;
  name[8] = 1;
  name[9] = 2;
  name[15] = 7;
  name[32] = 1;
  name[34] = 6;
  const before = a.stats.droppedRx(Drop.UNEXPECTED);
  a.udp.incoming.push({ bytes: new Uint8Array(64).fill(DATA_TYPE), segmentBytes: 64, name });
  mesh.run(mesh.nowMs + 2);
  assert.equal(a.stats.droppedRx(Drop.UNEXPECTED), before + 1);
  conserves(a.stats);
  conserves(c.stats);
});

test("STUN: what was asked is heard for five seconds, everything else is dropped", () => {
  const mesh = new EngineMesh({ seed: 15, nodes: 2 });
  const [a, b] = mesh.nodes;
  const answer = new Uint8Array(32);
  new DataView(answer.buffer).setUint16(0, 0x0101);
  new DataView(answer.buffer).setUint16(2, 12);
  new DataView(answer.buffer).setUint32(4, 0x2112a442);
  const send = (from: MeshNode, to: MeshNode, datagram: Uint8Array): void => {
    from.commands.push({ kind: "raw", to: to.endpoint, datagram });
  };
  send(b, a, answer);
  mesh.run(mesh.nowMs + 20);
  assert.equal(a.take("stun").length, 0, "nobody asked");
  assert.equal(a.stats.droppedRx(Drop.BAD_TYPE), 1);
  send(a, b, new Uint8Array(20));
  mesh.run(mesh.nowMs + 20);
  assert.equal(b.take("stun").length, 0, "no magic cookie");
  send(b, a, answer);
  mesh.run(mesh.nowMs + 20);
  const heard = a.take("stun");
  assert.equal(heard.length, 1);
  assert.deepEqual(heard[0].from, b.endpoint);
  assert.deepEqual(new Uint8Array(heard[0].datagram), answer);
  mesh.run(mesh.nowMs + 6_000);
  send(b, a, answer);
  mesh.run(mesh.nowMs + 20);
  assert.equal(a.take("stun").length, 0, "too late");
  for (const node of mesh.nodes) conserves(node.stats);
});

test("whatever a member sends as transit, nothing throws, every datagram is accounted for, and honest traffic goes on", () => {
  const { mesh, a, b, c } = relayed(16);
  mesh.send(a, b, 100, 1);
  assert.ok(mesh.run(mesh.nowMs + 3_000, () => b.tun.written.length > 0));
  const sealed: Uint8Array[] = [];
  mesh.onWire = (datagram, from, to) => {
    // what c forwards to a: bytes that were valid once
    if (from === c && to === a && sealed.length < 200) sealed.push(datagram.slice());
  };
  for (let i = 0; i < 20; i++) {
    mesh.send(b, a, 300, i);
    mesh.run(mesh.nowMs + 10);
  }
  mesh.received(a);
  const { random } = mesh;
  const label = labelsInto(a, c.number)[0];
  const pick = (): Uint8Array => {
    const body = random.unit() < 0.5 ? (sealed[random.u32() % sealed.length] ?? new Uint8Array(0)) : random.bytes(200);
    const payload = new Uint8Array(4 + (random.u32() % (body.length + 1)));
    payload.set(body.subarray(0, payload.length - 4), 4);
    new DataView(payload.buffer).setUint32(0, random.unit() < 0.8 ? label : random.u32(), true);
    if (payload.length > 8 && random.unit() < 0.3) payload[4] = 0x40 + (random.u32() % 6);
    return random.unit() < 0.1 ? payload.subarray(0, random.u32() % 6) : payload;
  };
  for (let i = 0; i < 3_000; i++) {
    const payload = pick();
    const whole = random.unit() < 0.8;
    // the other kind is a fragment of one piece that claims to be a transit message, or a fragment
    const piece = new Uint8Array(8 + payload.length);
    new DataView(piece.buffer).setUint32(0, i, true);
    piece[5] = 1;
    piece[6] = random.unit() < 0.9 ? 4 : 9;
    piece[7] = random.unit() < 0.9 ? 0 : 2;
    piece.set(payload, 8);
    c.commands.push({
      kind: "inner",
      peer: a.number,
      epochId: 0,
      innerKind: whole ? 4 : 9,
      flags: random.unit() < 0.9 ? 0 : random.u32() % 4,
      aux: 0,
      payload: whole ? payload : piece,
    });
    mesh.run(mesh.nowMs + 1);
  }
  mesh.run(mesh.nowMs + 1_500);
  conserves(a.stats);
  assert.ok(a.stats.droppedRx(Drop.BAD_INNER) > 50);
  assert.ok(a.stats.droppedRx(Drop.UNKNOWN_LABEL) > 50);
  assert.ok(a.stats.droppedRx(Drop.REPLAY) + a.stats.droppedRx(Drop.AUTH) > 50);
  mesh.received(a);
  for (let i = 0; i < 50; i++) {
    mesh.send(b, a, 300, 9_000 + i);
    mesh.run(mesh.nowMs + 10);
  }
  mesh.run(mesh.nowMs + 100);
  assert.equal(mesh.received(a).length, 50);
  for (const node of mesh.nodes) conserves(node.stats);
});

/** Labels under which a node receives from a peer, of those that the simulator gave out. */
function labelsInto(node: MeshNode, from: number): number[] {
  const { vias } = node.engine.virtual;
  return Array.from({ length: 100 }, (_, i) => 1_000_000_000 + i).filter((label) => vias.incoming(from, label) >= 0);
}

test("whatever fails and comes back: no packet arrives twice, nothing is unaccounted for, and in calm weather traffic is direct again", () => {
  for (let seed = 100; seed < 105; seed++) {
    const mesh = new EngineMesh({ seed, nodes: 5 });
    const { random } = mesh;
    const [a, b, ...hops] = mesh.nodes;
    for (const hop of hops) {
      meet(mesh, a, hop);
      meet(mesh, b, hop);
    }
    // a stand-in for the control thread: one way through each hop, made anew when it fails
    let nextId = 1;
    const ways = new Map<MeshNode, { id: number; endpoint: Uint8Array }>();
    const establish = (hop: MeshNode): void => {
      const old = ways.get(hop);
      if (old !== undefined) for (const end of [a, b]) end.commands.push({ kind: "viaRemove", id: old.id });
      const id = nextId++;
      const [endpoint] = mesh.install([a, hop, b], hop === hops[2] ? 1 : 2, id);
      ways.set(hop, { id, endpoint });
      const virtual = [...ways.values()].map((way) => way.endpoint);
      mesh.candidates(a, b, [b.endpoint, ...virtual]);
      mesh.candidates(b, a, [a.endpoint, ...virtual]);
    };
    for (const hop of hops) establish(hop);
    const seen = new Set<number>();
    let tag = 0;
    const step = (maxBytes: number): number => {
      mesh.send(a, b, 100 + (random.u32() % (maxBytes - 100)), ++tag);
      if (tag % 3 === 0) mesh.send(b, a, 100, tag);
      mesh.run(mesh.nowMs + 10);
      mesh.received(a);
      const got = mesh.received(b);
      for (const one of got) {
        assert.ok(!seen.has(one), `seed ${seed}: packet ${one} twice`);
        seen.add(one);
      }
      const failed = new Set([...a.take("viaFailed"), ...b.take("viaFailed")].map((event) => event.id));
      for (const [hop, way] of ways) if (failed.has(way.id)) establish(hop);
      return got.length;
    };
    const pairs = [[a, b], ...hops.flatMap((hop) => [[a, hop], [hop, b]])]; // prettier-ignore
    for (let round = 0; round < 60; round++) {
      const [x, y] = pairs[random.u32() % pairs.length];
      const kind = random.u32() % 4;
      if (kind === 0) mesh.link(x, y).up = !mesh.link(x, y).up;
      else if (kind === 1) mesh.setLink(x, y, { up: random.unit() < 0.6, delayMs: 1 + (random.u32() % 40) });
      else if (kind === 2) mesh.setLink(x, y, { maxDatagramBytes: [1_252, 1_372, 1_472][random.u32() % 3] });
      else {
        const hop = hops[random.u32() % hops.length];
        for (const forward of forwardsOf(hop)) hop.commands.push({ kind: "forwardRemove", ...forward });
      }
      for (let i = 0; i < 15; i++) step(1_300);
    }
    for (const [x, y] of pairs) mesh.setLink(x, y, { up: true, delayMs: 5, maxDatagramBytes: 1_472 });
    // a size that was lowered stays so for ten minutes
    for (let i = 0; i < 3_000; i++) step(1_000);
    let flowing = 0;
    for (let i = 0; i < 100; i++) flowing += step(1_000);
    assert.ok(flowing >= 98, `seed ${seed}: ${flowing} of 100`);
    assert.equal(active(mesh, a, b), "10.0.0.2:12345", `seed ${seed}`);
    for (const node of mesh.nodes) conserves(node.stats);
  }
});
