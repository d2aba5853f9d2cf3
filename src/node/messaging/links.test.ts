/** Frames over real QUIC connections in this process: order, bounds, fates, successors of broken streams. */
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { test, type TestContext } from "node:test";
import { VirtualClock } from "../../../test/support/virtual-clock.ts";
import { equal, utf8 } from "../../base/bytes.ts";
import { nullLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { FrameChannel, MAX_FRAME_BYTES } from "../../messaging/frames.ts";
import { type ChannelModel, StreamPair } from "../../stream/testing.ts";
import type { StreamEndpoint } from "../../stream/api.ts";
import { systemClock } from "../clock.ts";
import { type FrameFate, PeerFrameLinks } from "./links.ts";

interface Side {
  readonly links: PeerFrameLinks;
  readonly taken: { readonly channel: FrameChannel; readonly frame: Uint8Array }[];
  isMember: boolean;
  onTake: (frame: Uint8Array) => void;
}

function side(endpoint: StreamEndpoint, peerId: Uint8Array): Side {
  const made: Side = {
    taken: [],
    isMember: true,
    onTake: () => undefined,
    links: new PeerFrameLinks({
      streams: endpoint,
      clock: systemClock,
      random: new SeededRandom(7),
      log: nullLogger,
      isMember: (nodeId) => made.isMember && equal(nodeId, peerId),
      handle: (channel, from, frame) => {
        assert.ok(equal(from, peerId));
        made.onTake(frame);
        made.taken.push({ channel, frame });
        return true;
      },
    }),
  };
  made.links.start();
  return made;
}

function world(t: TestContext, model: ChannelModel = {}): { pair: StreamPair; a: Side; b: Side } {
  const pair = new StreamPair(model, { attemptsPerSecond: 1_000 });
  const a = side(pair.client, pair.serverId);
  const b = side(pair.server, pair.clientId);
  t.after(() => {
    a.links.close();
    b.links.close();
    pair.close();
  });
  return { pair, a, b };
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const endMs = performance.now() + 20_000;
  while (!holds()) {
    if (performance.now() > endMs) assert.fail(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

test("frames of every channel arrive in the order of their channel, and each is told that it went", async (t) => {
  const { pair, a, b } = world(t);
  const fates: FrameFate[] = [];
  for (let i = 0; i < 500; i++) {
    for (const channel of Object.values(FrameChannel))
      assert.equal(
        a.links.send(pair.serverId, channel, utf8(`${channel} ${i}`), (fate) => fates.push(fate)),
        "accepted",
      );
  }
  await until("2500 frames arrive", () => b.taken.length === 2_500 && fates.length === 2_500);
  for (const channel of Object.values(FrameChannel)) {
    const got = b.taken.filter((one) => one.channel === channel).map(({ frame }) => Buffer.from(frame).toString());
    assert.deepEqual(
      got,
      Array.from({ length: 500 }, (_, i) => `${channel} ${i}`),
    );
  }
  assert.ok(fates.every((fate) => fate === "flushed"));
  assert.equal(a.links.counters.queuedBytes, 0);
  assert.equal(pair.client.counters.streamsOpened, 5);
});

test("the largest frame arrives whole, in both directions", async (t) => {
  const { pair, a, b } = world(t);
  const frame = new SeededRandom(1).bytes(MAX_FRAME_BYTES[FrameChannel.DIRECT]);
  a.links.send(pair.serverId, FrameChannel.DIRECT, frame);
  b.links.send(pair.clientId, FrameChannel.DIRECT, frame);
  await until("both arrive", () => a.taken.length === 1 && b.taken.length === 1);
  assert.ok(equal(a.taken[0].frame, frame) && equal(b.taken[0].frame, frame));
  assert.throws(() => a.links.send(pair.serverId, FrameChannel.ACK, frame), RangeError);
});

test("a queue at its bound says full and keeps nothing; it takes again when the peer is back", async (t) => {
  const { pair, a, b } = world(t);
  a.links.send(pair.serverId, FrameChannel.ACK, utf8("first"));
  await until("the stream is up", () => b.taken.length === 1);
  pair.filter = () => false;
  const frame = new Uint8Array(4_000);
  let accepted = 0;
  let answer = a.links.send(pair.serverId, FrameChannel.ACK, frame);
  while (answer === "accepted") {
    accepted++;
    answer = a.links.send(pair.serverId, FrameChannel.ACK, frame);
  }
  assert.equal(answer, "full");
  assert.ok(a.links.queuedBytes(pair.serverId, FrameChannel.ACK) <= 262_144);
  assert.ok(a.links.isFull(pair.serverId, FrameChannel.ACK) && a.links.isPressed(pair.serverId));
  assert.equal(a.links.queuedBytes(pair.serverId, FrameChannel.DIRECT), 0, "another channel has its own room");
  pair.filter = () => true;
  await until("everything accepted arrives", () => b.taken.length === 1 + accepted);
  assert.equal(a.links.send(pair.serverId, FrameChannel.ACK, frame), "accepted");
});

test("a connection that dies takes what was being written with it; what still waited goes over the next one", async (t) => {
  const { pair, a, b } = world(t, { delayMs: 5 });
  const fates = new Map<number, FrameFate>();
  const send = (i: number): void => {
    const frame = new Uint8Array(2_000);
    new DataView(frame.buffer).setUint32(0, i, true);
    assert.equal(
      a.links.send(pair.serverId, FrameChannel.DIRECT, frame, (fate) => fates.set(i, fate)),
      "accepted",
    );
  };
  send(0);
  await until("the first arrives", () => b.taken.length === 1);
  for (let i = 1; i <= 300; i++) send(i);
  await until("some have arrived", () => b.taken.length > 20);
  const startMs = performance.now();
  pair.client.peerRestarted(pair.serverId);
  await until("every frame has its fate", () => fates.size === 301);
  const numberOf = (frame: Uint8Array): number => new DataView(frame.buffer, frame.byteOffset).getUint32(0, true);
  await until("the last arrives", () => b.taken.some(({ frame }) => numberOf(frame) === 300));
  t.diagnostic(`whole again after ${(performance.now() - startMs).toFixed(1)} ms`);
  assert.ok(performance.now() - startMs < 5_000);
  const arrived = b.taken.map(({ frame }) => numberOf(frame));
  assert.equal(new Set(arrived).size, arrived.length, "nothing arrives twice");
  assert.deepEqual(
    arrived,
    arrived.toSorted((x, y) => x - y),
    "order is kept across the break",
  );
  const lost = [...fates].filter(([, fate]) => fate === "lost").map(([i]) => i);
  assert.ok(lost.length > 0, "the batch that was being written is lost");
  for (const [i, fate] of fates)
    if (fate === "flushed" && i > Math.max(...lost)) assert.ok(arrived.includes(i), `${i} went after the break`);
});

test("who is no member gets nothing and is not heard", async (t) => {
  const { pair, a, b } = world(t);
  assert.equal(a.links.send(pair.clientId, FrameChannel.DIRECT, utf8("to itself")), "gone");
  b.isMember = false;
  a.links.send(pair.serverId, FrameChannel.DIRECT, utf8("x"));
  await until("it is refused", () => b.links.counters.framesRefused === 1);
  assert.equal(b.taken.length, 0);
  const fates: FrameFate[] = [];
  pair.filter = () => false;
  a.links.send(pair.serverId, FrameChannel.PUBSUB, utf8("y"), (fate) => fates.push(fate));
  a.isMember = false;
  a.links.memberGone(pair.serverId);
  assert.deepEqual(fates, ["lost"]);
  assert.equal(a.links.counters.queuedBytes, 0);
  assert.equal(a.links.counters.links, 0);
  assert.equal(a.links.send(pair.serverId, FrameChannel.DIRECT, utf8("z")), "gone");
});

test("a part that throws, and bytes that are no frames, end nothing but themselves", async (t) => {
  const { pair, a, b } = world(t);
  b.onTake = (frame) => {
    if (frame[0] === 1) throw new Error("a mistake of the part");
  };
  a.links.send(pair.serverId, FrameChannel.DIRECT, Uint8Array.of(1));
  a.links.send(pair.serverId, FrameChannel.DIRECT, Uint8Array.of(2));
  await until("the next one arrives", () => b.taken.length === 1);
  assert.equal(b.links.counters.framesRefused, 1);
  const stream = await pair.client.open(pair.serverId, { kind: "frames-2" });
  const closed = new Promise((resolve) => stream.once("close", resolve));
  stream.resume();
  stream.write(Buffer.alloc(100, 0xff));
  await closed;
  a.links.send(pair.serverId, FrameChannel.DIRECT, Uint8Array.of(3));
  await until("frames go on", () => b.taken.length === 2);
});

test("a peer that opens stream after stream holds no more than a few of them", async (t) => {
  const { pair } = world(t);
  let ended = 0;
  for (let i = 0; i < 20; i++) {
    const stream = await pair.client.open(pair.serverId, { kind: "frames-3" });
    stream.once("close", () => ended++);
    stream.resume();
    stream.write(Uint8Array.of(1, 0, 0, 0, 7));
  }
  await until("the oldest are ended", () => ended >= 17);
  assert.equal(ended, 17);
});

/** A stream whose other end takes everything at once. */
class FakeStream extends Duplex {
  override _read(): void {
    // nothing comes from the other side
  }

  override _write(_chunk: unknown, _encoding: string, done: () => void): void {
    done();
  }

  override _final(done: () => void): void {
    this.push(null);
    done();
  }

  reset(): void {
    this.destroy();
  }
}

test("a link that nobody uses ends its stream, and the first frame after half an hour goes as fast as any", async () => {
  const clock = new VirtualClock();
  const opened: FakeStream[] = [];
  const streams = {
    open: () => {
      const stream = new FakeStream();
      opened.push(stream);
      return Promise.resolve(stream);
    },
    serve: () => () => undefined,
  };
  const links = new PeerFrameLinks({
    streams: streams as never,
    clock,
    random: new SeededRandom(1),
    log: nullLogger,
    isMember: () => true,
    handle: () => true,
  });
  const peer = new Uint8Array(32);
  const tookMs: number[] = [];
  for (let hour = 0; hour < 5; hour++) {
    assert.equal(
      links.send(peer, FrameChannel.DIRECT, utf8("x"), (fate, ms) => {
        assert.equal(fate, "flushed");
        tookMs.push(ms);
      }),
      "accepted",
    );
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(tookMs.length, hour + 1);
    await clock.advance(1_800_000);
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(opened.at(-1)?.destroyed, "its stream has ended");
    assert.equal(links.counters.links, 0, "and nothing of it is kept");
  }
  assert.equal(opened.length, 5);
  assert.deepEqual(tookMs, [0, 0, 0, 0, 0]);
  assert.equal(links.counters.streamsBroken, 0);
  links.close();
});

test("while a peer cannot be reached opens are tried at growing distances, and what waits too long is lost", async () => {
  const clock = new VirtualClock();
  let opens = 0;
  const streams = {
    open: () => {
      opens++;
      return Promise.reject(new Error("no path"));
    },
    serve: () => () => undefined,
  };
  const links = new PeerFrameLinks({
    streams,
    clock,
    random: new SeededRandom(1),
    log: nullLogger,
    isMember: () => true,
    handle: () => true,
  });
  const peer = new Uint8Array(32);
  const fates: FrameFate[] = [];
  links.send(peer, FrameChannel.DIRECT, utf8("x"), (fate) => fates.push(fate));
  for (let i = 0; i < 600; i++) {
    await clock.advance(100);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.deepEqual(fates, ["lost"]);
  assert.ok(opens >= 8 && opens <= 25, `${opens} tries`);
  assert.equal(links.counters.queuedBytes, 0);
  assert.equal(links.counters.links, 0);
  links.close();
});
