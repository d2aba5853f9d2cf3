/** Engine, sessions and paths together in virtual time: what a user of the tunnel would notice. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Drop } from "../../src/base/drop.ts";
import { Counter, PeerField } from "../../src/dataplane/stats.ts";
import type { EngineNode } from "../../sim/engine-node.ts";
import { EnginePair } from "../../sim/engine-pair.ts";
import { conserves } from "./conservation.ts";

function cell(node: EngineNode, field: number): number {
  return node.stats.cells[node.stats.peerRow(1) + field];
}

test("the first packet opens a hybrid session and arrives", () => {
  const pair = new EnginePair({ seed: 1 });
  pair.send(pair.a, pair.b, 100, 42);
  assert.ok(pair.run(3_000, () => pair.b.tun.written.length > 0));
  assert.deepEqual(pair.received(pair.b), [42]);
  assert.ok(pair.nowMs < 1_100, `${pair.nowMs}`);
  pair.send(pair.b, pair.a, 100, 43);
  assert.ok(pair.run(pair.nowMs + 50, () => pair.a.tun.written.length > 0));
  assert.equal(cell(pair.a, PeerField.hybrid), 1);
  pair.run(pair.nowMs + 2_000);
  assert.ok(Math.abs(cell(pair.a, PeerField.rttMs) - 10) < 3, `rtt ${cell(pair.a, PeerField.rttMs)}`);
  assert.equal(cell(pair.a, PeerField.mtuBytes), 1_500);
  conserves(pair.a.stats);
  conserves(pair.b.stats);
});

test("while user data is held it waits on the way out and is refused on the way in, and flows once released", () => {
  const pair = new EnginePair({ seed: 7 });
  pair.send(pair.a, pair.b, 64, 1);
  assert.ok(pair.run(3_000, () => pair.b.tun.written.length > 0));
  pair.received(pair.b);
  pair.a.commands.push({ kind: "hold", held: true });
  pair.send(pair.a, pair.b, 64, 2);
  pair.send(pair.b, pair.a, 64, 3);
  pair.run(pair.nowMs + 1_000);
  assert.deepEqual(pair.received(pair.b), []);
  assert.deepEqual(pair.received(pair.a), []);
  assert.equal(pair.a.stats.droppedRx(Drop.NOT_READY), 1);
  assert.equal(pair.a.stats.get(Counter.queued), 1);
  pair.a.commands.push({ kind: "hold", held: false });
  assert.ok(pair.run(pair.nowMs + 100, () => pair.b.tun.written.length > 0));
  assert.deepEqual(pair.received(pair.b), [2]);
  conserves(pair.a.stats);
  conserves(pair.b.stats);
});

test("steady traffic crosses many rekeys without losing or doubling a packet", () => {
  const pair = new EnginePair({ seed: 2, times: { rekeyMs: 1_000, rekeyJitter: 0.1, overlapMs: 500 } });
  let sent = 0;
  const got: number[] = [];
  const epochs = new Set<number>();
  for (let step = 0; step < 2_000; step++) {
    pair.send(pair.a, pair.b, 64, sent++);
    pair.run(pair.nowMs + 10);
    got.push(...pair.received(pair.b));
    epochs.add(pair.a.sessions.state(1).epochId);
  }
  pair.run(pair.nowMs + 200);
  got.push(...pair.received(pair.b));
  assert.deepEqual(
    got,
    Array.from({ length: sent }, (_, i) => i),
  );
  assert.ok(epochs.size > 10, `${epochs.size} epochs`);
  conserves(pair.a.stats);
  conserves(pair.b.stats);
});

test("a node that lost everything but its identity is reached again within two seconds of its first packet", () => {
  const pair = new EnginePair({ seed: 3 });
  pair.send(pair.a, pair.b, 64, 1);
  assert.ok(pair.run(3_000, () => pair.b.tun.written.length > 0));
  pair.restartB();
  pair.run(pair.nowMs + 500);
  const startedMs = pair.nowMs;
  pair.send(pair.b, pair.a, 64, 2);
  assert.ok(pair.run(startedMs + 2_000, () => pair.a.tun.written.length > 0));
  pair.send(pair.a, pair.b, 64, 3);
  assert.ok(pair.run(startedMs + 2_000, () => pair.b.tun.written.length > 0));
  conserves(pair.a.stats);
});

test("a sender notices that its peer forgot the session and makes a new one", () => {
  const pair = new EnginePair({ seed: 4 });
  pair.send(pair.a, pair.b, 64, 1);
  assert.ok(pair.run(3_000, () => pair.b.tun.written.length > 0));
  pair.run(pair.nowMs + 1_000);
  pair.restartB();
  const startedMs = pair.nowMs;
  let tag = 10;
  const healed = (): boolean => pair.b.tun.written.length > 0;
  for (let step = 0; step < 200 && !healed(); step++) {
    pair.send(pair.a, pair.b, 64, tag++);
    pair.run(pair.nowMs + 50, healed);
  }
  assert.ok(healed() && pair.nowMs - startedMs < 3_000, `${pair.nowMs - startedMs} ms`);
});

test("when an address changes the peer follows within a round trip of its next packet", () => {
  const pair = new EnginePair({ seed: 5 });
  pair.send(pair.a, pair.b, 64, 1);
  assert.ok(pair.run(3_000, () => pair.b.tun.written.length > 0));
  pair.run(pair.nowMs + 3_000);
  pair.received(pair.b);
  pair.b.address = "10.0.0.77";
  pair.b.poll.networkChanged = true;
  const changedMs = pair.nowMs;
  let tag = 100;
  const arrived = (): boolean => pair.b.tun.written.length > 0;
  while (!arrived() && pair.nowMs < changedMs + 2_000) {
    pair.send(pair.a, pair.b, 64, tag++);
    pair.run(pair.nowMs + 5, arrived);
  }
  assert.ok(pair.nowMs - changedMs < 200, `${pair.nowMs - changedMs} ms`);
  conserves(pair.a.stats);
  conserves(pair.b.stats);
});

test("a smaller underlay is found out, told to the kernel, and IPv6-sized packets still pass", () => {
  const pair = new EnginePair({ seed: 6, link: { maxDatagramBytes: 1_280 - 28 } });
  pair.send(pair.a, pair.b, 64, 1);
  assert.ok(pair.run(3_000, () => pair.b.tun.written.length > 0));
  pair.run(pair.nowMs + 15_000);
  assert.ok(cell(pair.a, PeerField.mtuBytes) <= 1_280, `${cell(pair.a, PeerField.mtuBytes)}`);
  pair.received(pair.b);
  pair.a.tun.written.length = 0;
  pair.send(pair.a, pair.b, 1_372, 2);
  pair.run(pair.nowMs + 100);
  assert.equal(pair.a.tun.written.length, 1, "an ICMP error came back");
  assert.equal(pair.a.stats.droppedTx(Drop.TOO_BIG), 1);
  conserves(pair.a.stats);
});

test("while the socket takes nothing the worker sleeps until it does, and nothing is lost", () => {
  const pair = new EnginePair({ seed: 7 });
  pair.send(pair.a, pair.b, 64, 1);
  assert.ok(pair.run(3_000, () => pair.b.tun.written.length > 0));
  pair.run(pair.nowMs + 500);
  pair.received(pair.b);
  pair.a.udp.onSend = () => -11;
  for (let i = 0; i < 150; i++) pair.send(pair.a, pair.b, 1_200, i);
  pair.run(pair.nowMs + 10);
  assert.ok(pair.a.stats.get(Counter.queued) > 0);
  assert.ok(pair.a.poll.askedMs > 0, "it does not spin");
  pair.a.udp.onSend = () => 0;
  pair.run(pair.nowMs + 20);
  assert.equal(pair.received(pair.b).length, 150);
  conserves(pair.a.stats);
});
