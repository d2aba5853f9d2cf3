/** Datagrams of streams leave in runs: one send for many of a peer, in order, whatever their sizes and whatever the kernel says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { equal } from "../../src/base/bytes.ts";
import { Counter } from "../../src/dataplane/stats.ts";
import { InnerKind } from "../../src/wire/data.ts";
import { EnginePair } from "../../sim/engine-pair.ts";

const EIO = -5;
const EAGAIN = -11;

const many = (count: number, size: number): number[] => Array.from({ length: count }, () => size);
const came = new WeakMap<EnginePair, Uint8Array[]>();

function established(seed: number): EnginePair {
  const pair = new EnginePair({ seed });
  pair.send(pair.a, pair.b, 64, 1);
  assert.ok(pair.run(3_000, () => pair.b.tun.written.length > 0));
  const list: Uint8Array[] = [];
  came.set(pair, list);
  const { sessions } = pair.b;
  const handle = sessions.handleInner.bind(sessions);
  sessions.handleInner = (now, slot, epochId, kind, payload) => {
    if (kind === InnerKind.STREAM) list.push(payload);
    else handle(now, slot, epochId, kind, payload);
  };
  return pair;
}

function write(pair: EnginePair, sizes: readonly number[]): Uint8Array[] {
  const payloads = sizes.map((size, i) => new Uint8Array(size).fill(i & 255));
  for (const payload of payloads) {
    pair.a.commands.push({
      kind: "inner",
      peer: 1,
      epochId: 0,
      innerKind: InnerKind.STREAM,
      flags: 0,
      aux: 7,
      payload,
    });
  }
  return payloads;
}

/** What came at b since the last call. */
function arrived(pair: EnginePair): Uint8Array[] {
  return came.get(pair)?.splice(0) ?? [];
}

/** A difference of megabytes is not worth printing. */
function same(got: readonly Uint8Array[], sent: readonly Uint8Array[]): void {
  assert.equal(got.length, sent.length);
  for (let i = 0; i < sent.length; i++) assert.ok(equal(got[i], sent[i]), `datagram ${i}`);
}

test("datagrams of any sizes arrive once, in order", () => {
  const sizes = fc.array(fc.oneof(fc.constant(1_200), fc.integer({ min: 0, max: 1_200 })), { maxLength: 150 });
  const pair = established(11);
  fc.assert(
    fc.property(sizes, (wanted) => {
      const sent = write(pair, wanted);
      pair.run(pair.nowMs + 30);
      same(arrived(pair), sent);
    }),
    { numRuns: 30 },
  );
});

test("a burst leaves in few sends", () => {
  const pair = established(12);
  const before = pair.a.stats.get(Counter.udpTxCalls);
  write(pair, many(60, 1_200));
  pair.run(pair.nowMs + 20);
  assert.equal(arrived(pair).length, 60);
  const calls = pair.a.stats.get(Counter.udpTxCalls) - before;
  assert.ok(calls <= 6, `${calls} sends`);
});

test("where the kernel takes no trains they go singly, and none is lost", () => {
  const pair = established(13);
  pair.a.udp.onSend = ({ bytes, segmentBytes }) => (bytes.length > segmentBytes ? EIO : 0);
  const sent = write(pair, many(60, 1_200));
  pair.run(pair.nowMs + 20);
  same(arrived(pair), sent);
  assert.equal(pair.a.stats.get(Counter.gsoFallbacks), 1);
  const again = write(pair, many(10, 900));
  pair.run(pair.nowMs + 20);
  same(arrived(pair), again);
  assert.equal(pair.a.stats.get(Counter.gsoFallbacks), 1);
});

test("while the socket is full a short run waits", () => {
  const pair = established(14);
  pair.a.udp.onSend = () => EAGAIN;
  const sent = write(pair, many(20, 1_200));
  pair.run(pair.nowMs + 5);
  same(arrived(pair), []);
  pair.a.udp.onSend = () => 0;
  pair.run(pair.nowMs + 1_000);
  same(arrived(pair), sent);
});
