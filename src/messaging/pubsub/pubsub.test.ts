/** The machine as its owner sees it, on a few nodes in virtual time: who takes part, what arrives, what is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MessagingNet, type SimPubSub } from "../../../sim/messaging-net.ts";
import { WeftError } from "../../base/errors.ts";
import { type ControlFrame, encodeControlFrame, FrameType } from "./frames.ts";
import { decodeMessage, hlcOf, topicIdOf } from "./message.ts";
import { PubSub } from "./pubsub.ts";
import { MAX_PAYLOAD_BYTES, type PubSubOutput, type SubscriberEvent } from "./types.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

function got(net: MessagingNet): number[] {
  return net.traces.map((trace) => trace.tookMs.filter((took) => took !== undefined).length);
}

test("a node that only publishes reaches all subscribers, and gets nothing of others", () => {
  const net = new MessagingNet(1, { nodes: 8 });
  const [source, ...others] = net.nodes;
  net.subscribeAll("t", others);
  net.run(3000);
  for (let i = 0; i < 20; i++) {
    net.publish(source, "t", bytes("x"));
    net.publish(others[0], "t", bytes("y"));
    net.run(300);
  }
  net.run(5000);
  assert.deepEqual(new Set(got(net)), new Set([7]));
  assert.equal(source.machine.topic("t")?.isSource, true);
  assert.ok(source.receivedBytes < 20_000, `${source.receivedBytes}`);
  const frames = source.machine.counters.deliveries;
  assert.equal(frames, 20, "its own only");
  net.run(700_000);
  assert.equal(source.machine.topic("t"), undefined, "after a while it takes part no more");
});

test("a node that published and then subscribes takes part as a whole, with sequences from one again in a new epoch", () => {
  const net = new MessagingNet(2, { nodes: 5 });
  const [a, ...others] = net.nodes;
  net.subscribeAll("t", others);
  net.run(2000);
  const first = a.machine.publish(net.now, "t", bytes("1"));
  net.run(1000);
  net.subscribe(a, "t");
  net.run(2000);
  const second = a.machine.publish(net.now, "t", bytes("2"));
  assert.deepEqual([first.sequence, second.sequence], [1, 1]);
  assert.ok(second.epoch > first.epoch);
  const trace = net.publish(others[0], "t", bytes("3"));
  net.run(3000);
  assert.notEqual(trace.tookMs[0], undefined);
});

test("who subscribes later gets what comes from then on, not what was before", () => {
  const net = new MessagingNet(3, { nodes: 6 });
  const [late, ...others] = net.nodes;
  net.subscribeAll("t", others);
  net.run(2000);
  for (let i = 0; i < 100; i++) {
    net.publish(others[i % 5], "t", bytes("before"));
    net.run(100);
  }
  net.run(10_000);
  const before = net.traces.length;
  net.subscribe(late, "t");
  net.run(3000);
  for (let i = 0; i < 20; i++) {
    net.publish(others[i % 5], "t", bytes("after"));
    net.run(100);
  }
  net.run(20_000);
  const mine = net.traces.map((trace) => trace.tookMs[late.index] !== undefined);
  assert.equal(mine.slice(0, before).filter(Boolean).length, 0);
  assert.equal(mine.slice(before).every(Boolean), true);
  assert.equal(late.machine.topic("t")?.recovery.missing, 0, "it has found out that it misses nothing");
});

test("a node that was away while others published catches up over anti-entropy, also with publishers it has never heard of", () => {
  const net = new MessagingNet(4, { nodes: 10 });
  net.subscribeAll("t");
  net.run(2000);
  net.publish(net.nodes[1], "t", bytes("x"));
  net.run(2000);
  net.split((node) => (node === net.nodes[0] ? 0 : 1));
  for (let i = 0; i < 200; i++) {
    net.publish(net.nodes[1 + (i % 9)], "t", bytes("x"));
    net.run(200);
  }
  net.split(undefined);
  net.run(200_000);
  assert.equal(net.delivery().share, 1);
  assert.ok(net.nodes[0].machine.counters.recovered > 150);
  assert.deepEqual(net.violations, []);
});

test("after everybody has left, nothing is sent any more and nothing is due but what the topic needs", () => {
  const net = new MessagingNet(5, { nodes: 6 });
  net.subscribeAll("t");
  net.run(3000);
  for (const node of net.nodes) net.unsubscribe(node, "t");
  net.run(1000);
  const { frames } = net;
  net.run(600_000);
  assert.equal(net.frames, frames);
  for (const node of net.nodes) assert.equal(node.machine.topics().length, 0);
});

test("a message twice, one of a stranger, one from the future and one whose topic is not here: none is delivered, each is counted", () => {
  const net = new MessagingNet(6, { nodes: 3 });
  const [a, b] = net.nodes;
  net.subscribeAll("t");
  let replay: Uint8Array | undefined;
  net.tamper = (from, _to, frame) => {
    if (from === a && frame[0] === FrameType.PUSH) replay ??= frame.slice();
    return frame;
  };
  net.run(2000);
  net.publish(a, "t", bytes("x"));
  net.run(1000);
  const frame = replay as Uint8Array;
  const before = b.machine.counters.deliveries;
  const take = (bad: Uint8Array): void => {
    b.machine.receive(net.now, net.nodes[2].key, bad);
    b.machine.process(net.now, 10);
  };
  take(frame);
  assert.equal(b.machine.counters.duplicates > 0, true);
  const stranger = frame.slice();
  stranger.fill(3, 18, 50);
  take(stranger);
  assert.equal(b.machine.counters.unknownPublishers, 1);
  const future = frame.slice();
  future[66] += 0x80;
  future[56]++;
  take(future);
  assert.equal(b.machine.counters.fromFuture, 1);
  const forged = frame.slice();
  forged[56]++;
  take(forged);
  assert.equal(b.machine.counters.invalidSignatures, 1);
  const elsewhere = frame.slice();
  elsewhere[5] ^= 1;
  take(elsewhere);
  assert.equal(b.machine.counters.unknownTopics, 1);
  assert.equal(b.machine.counters.deliveries, before);
});

/** A machine whose signatures are checked when the test says so. */
function lateVerdicts(): { machine: PubSub; asked: number[]; frame(sequence: number): Uint8Array } {
  const asked: number[] = [];
  const net = new MessagingNet(7, { nodes: 2 });
  const [a] = net.nodes;
  const frames: Uint8Array[] = [];
  net.subscribeAll("t");
  net.tamper = (from, _to, frame) => {
    if (from === a && frame[0] === FrameType.PUSH) frames.push(frame);
    return frame;
  };
  net.run(1000);
  for (let i = 0; i < 3; i++) net.publish(a, "t", bytes("x"));
  net.run(1000);
  const machine = new PubSub(
    {
      nodeId: net.nodes[1].id,
      random: net.random,
      directory: { sample: () => [] },
      sign: () => new Uint8Array(64),
      isMember: () => true,
      verify: (id) => {
        asked.push(id);
        return undefined;
      },
      rttMs: () => 10,
    },
    net.now,
  );
  return { machine, asked, frame: (sequence) => frames[sequence - 1] };
}

test("a copy with a bad signature does not keep the real one out, and each copy is checked at most once", () => {
  const now = { nowMs: 2000, wallMs: 1_800_000_002_000 };
  const { machine, asked, frame } = lateVerdicts();
  const { id } = machine.subscribe(now, "t");
  machine.receive(now, "aa".repeat(32), frame(1));
  machine.receive(now, "bb".repeat(32), frame(1));
  machine.receive(now, "cc".repeat(32), frame(1));
  machine.process(now, 10);
  assert.equal(asked.length, 1);
  machine.verified(now, asked[0], false);
  assert.equal(asked.length, 2);
  machine.verified(now, asked[1], true);
  assert.equal(asked.length, 2);
  assert.equal(machine.poll(id)?.kind, "message");
  assert.equal(machine.poll(id), undefined);
  assert.equal(machine.counters.invalidSignatures, 1);
});

test("while many signatures are being checked the rest waits in the receive queue, and goes on afterwards", () => {
  const now = { nowMs: 2000, wallMs: 1_800_000_002_000 };
  const { machine, asked, frame } = lateVerdicts();
  machine.subscribe(now, "t");
  for (let i = 1; i <= 3; i++) machine.receive(now, "aa".repeat(32), frame(i));
  assert.equal(machine.process(now, 1), true);
  machine.process(now, 10);
  assert.equal(asked.length, 3);
  for (const id of asked) machine.verified(now, id, true);
  assert.equal(machine.counters.deliveries, 3);
});

test("a subscriber that goes on after a cursor gets what it missed, or is told that it cannot", () => {
  const net = new MessagingNet(8, { nodes: 2, pubsub: { cacheMessagesPerTopic: 50 } });
  const [a, b] = net.nodes;
  net.subscribeAll("t");
  net.run(1000);
  for (let i = 0; i < 10; i++) {
    net.publish(a, "t", bytes(`${i}`));
    net.run(50);
  }
  const again = (after: number): SubscriberEvent[] => {
    const { id } = b.machine.subscribe(net.now, "t", { after });
    const events: SubscriberEvent[] = [];
    for (let event = b.machine.poll(id); event !== undefined; event = b.machine.poll(id)) events.push(event);
    b.machine.unsubscribe(net.now, id);
    return events;
  };
  const cursors = again((b.machine.topic("t")?.firstCursor ?? 0) + 0).flatMap((event) =>
    event.kind === "message" ? [event.message.cursor] : [],
  );
  assert.equal(cursors.length, 10);
  assert.deepEqual(again(cursors[6]).length, 3);
  for (let i = 0; i < 60; i++) {
    net.publish(a, "t", bytes("x"));
    net.run(20);
  }
  assert.deepEqual(again(cursors[6]), [{ kind: "missed", after: cursors[6] }]);
  assert.deepEqual(again(5), [{ kind: "missed", after: 5 }]);
});

test("what fell out of memory is read from the log for peers that ask", () => {
  const net = new MessagingNet(9, { nodes: 2, pubsub: { cacheMessagesPerTopic: 2, hasLog: true } });
  const [a, b] = net.nodes;
  net.subscribeAll("t");
  net.run(1000);
  for (let i = 0; i < 20; i++) net.publish(a, "t", bytes("x"));
  net.run(1000);
  const stream = [...(a.machine.topic("t")?.streams.values() ?? [])][0];
  b.machine.receive(
    net.now,
    a.key,
    encodeControlFrame({
      type: "iwant",
      topic: topicIdOf("t").toHex(),
      since: 0,
      entries: [{ ref: stream.ref, from: 3, to: 6 }],
    }),
  );
  b.machine.process(net.now, 10);
  const outputs: PubSubOutput[] = [];
  for (let output = b.machine.pollOutput(); output !== undefined; output = b.machine.pollOutput()) outputs.push(output);
  const read = outputs.find((output) => output.kind === "read");
  assert.ok(read?.kind === "read");
  assert.deepEqual([read.read.from, read.read.to, read.read.peer], [3, 6, a.key]);
  const frames = net.logOf(b).filter((one) => one.sequence >= 3 && one.sequence <= 5);
  b.machine.logRead(
    net.now,
    read.read,
    frames.map((one) => one.frame),
  );
  const types: number[] = [];
  for (let output = b.machine.pollOutput(); output !== undefined; output = b.machine.pollOutput())
    if (output.kind === "send") types.push(output.ticket.frame[0]);
  assert.deepEqual(types, [FrameType.ANSWER, FrameType.ANSWER, FrameType.ANSWER, FrameType.NONE]);
});

test("names of topics and sizes of messages have bounds", () => {
  const net = new MessagingNet(10, { nodes: 1, pubsub: { maxTopics: 3 } });
  const [{ machine }] = net.nodes;
  const throws = (code: string, act: () => unknown): void => {
    assert.throws(act, (error) => error instanceof WeftError && error.code === code);
  };
  throws("TOPIC_INVALID", () => machine.subscribe(net.now, ""));
  throws("TOPIC_INVALID", () => machine.subscribe(net.now, "x".repeat(257)));
  throws("TOPIC_INVALID", () => machine.subscribe(net.now, "a\0b"));
  throws("MESSAGE_TOO_BIG", () => machine.publish(net.now, "t", new Uint8Array(MAX_PAYLOAD_BYTES + 1)));
  for (const name of ["a", "b", "c"]) machine.subscribe(net.now, name);
  throws("TOPIC_LIMIT", () => machine.subscribe(net.now, "d"));
  const other = new MessagingNet(12, { nodes: 1, pubsub: { maxTopics: 3 } }).nodes[0].machine;
  for (const name of ["a", "b", "c", "d"]) other.publish(net.now, name, bytes("x"));
  assert.equal(other.topics().length, 3, "a topic that was only published to makes room");
});

test("a volunteer carries a topic without a subscriber, and stays when its last subscriber leaves", () => {
  const net = new MessagingNet(11, { nodes: 4 });
  const [a, b, volunteer] = net.nodes;
  const roles: string[] = [];
  const act = (what: () => void): void => {
    what();
    for (let output = volunteer.machine.pollOutput(); output !== undefined; output = volunteer.machine.pollOutput())
      if (output.kind === "follow") roles.push(output.role);
      else if (output.kind === "unfollow") roles.push("none");
  };
  act(() => volunteer.machine.volunteer(net.now, "t", true));
  let id = 0;
  act(() => (id = volunteer.machine.subscribe(net.now, "t").id));
  act(() => volunteer.machine.unsubscribe(net.now, id));
  act(() => volunteer.machine.volunteer(net.now, "t", false));
  assert.equal(roles.at(-1), "none");
  assert.deepEqual([...new Set(roles)], ["subscriber", "volunteer", "none"]);
  assert.equal(
    [a, b].every((node: SimPubSub) => node.isUp),
    true,
  );
});

test("whatever a peer sends, nothing is thrown, nothing is delivered, and what is kept for it stays small", () => {
  const topic = topicIdOf("t");
  const head = fc.record({
    type: fc.integer({ min: 0, max: 14 }),
    flags: fc.integer({ min: 0, max: 8 }),
    isHere: fc.boolean(),
    rest: fc.uint8Array({ maxLength: 200 }),
  });
  const ref = fc.uint8Array({ minLength: 8, maxLength: 8 }).map((one) => one.toHex());
  const sequence = fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 2 ** 47 }));
  const entries = fc.array(
    fc
      .tuple(ref, sequence, sequence)
      .map(([one, from, length]) => ({ ref: one, from, to: Math.min(2 ** 48 - 1, from + length - 1) })),
    { maxLength: 20 },
  );
  const shaped: fc.Arbitrary<ControlFrame> = fc.oneof(
    entries.map((list) => ({
      type: "ihave" as const,
      topic: topic.toHex(),
      isOld: list.length % 2 === 0,
      entries: list,
    })),
    entries.map((list) => ({ type: "iwant" as const, topic: topic.toHex(), since: 0, entries: list })),
    entries.map((list) => ({ type: "none" as const, topic: topic.toHex(), reason: 1 as const, entries: list })),
    fc.tuple(ref, sequence).map(([one, floor]) => ({
      type: "list" as const,
      topic: topic.toHex(),
      isAnswer: false,
      lower: 0,
      upper: 0xffff,
      streams: [{ ref: one, floor, ranges: [] }],
    })),
    fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()).map(([isEager, isSource, isNeeded]) => ({
      type: "graft" as const,
      topic: topic.toHex(),
      isEager,
      isSource,
      isNeeded,
    })),
  );
  const raw = head.map(({ type, flags, isHere, rest }) => {
    const bytes = Uint8Array.of(type, flags, ...(isHere ? topic : new Uint8Array(16)), ...rest);
    return bytes;
  });
  const frame = fc.oneof(raw, shaped.map(encodeControlFrame));
  const net = new MessagingNet(13, { nodes: 3 });
  net.subscribeAll("t");
  net.run(2000);
  const [a, b] = net.nodes;
  let peer = 0;
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 30 }), fc.integer({ min: 1, max: 20_000 }), (frames, passMs) => {
      // a fresh one each time: who lies is refused soon
      const from = (++peer).toString(16).padStart(64, "0");
      for (const one of frames) a.machine.receive(net.now, from, one);
      while (a.machine.process(net.now, 64));
      for (let output = a.machine.pollOutput(); output !== undefined; output = a.machine.pollOutput())
        if (output.kind === "send") a.machine.sent(net.now, output.ticket, "flushed");
      net.run(passMs);
      assert.equal(a.machine.counters.deliveries, 0);
      const tree = a.machine.topic("t")?.tree;
      assert.ok(tree !== undefined && tree.eager <= 12 && tree.lazy <= 10, `${tree?.eager} ${tree?.lazy}`);
      assert.ok((a.machine.topic("t")?.streams.size ?? 0) <= 256);
      assert.ok((a.machine.topic("t")?.wants.size ?? 0) <= 2048);
    }),
    { numRuns: 200 },
  );
  const trace = net.publish(b, "t", bytes("still here"));
  net.run(60_000);
  assert.notEqual(trace.tookMs[a.index], undefined);
});

test("a publisher whose only neighbour leaves finds another one within seconds, and what it published meanwhile arrives", () => {
  for (let seed = 200; seed < 210; seed++) {
    const net = new MessagingNet(seed, { nodes: 3 });
    const [source, first, second] = net.nodes;
    net.subscribe(first, "t");
    net.run(2000);
    net.publish(source, "t", bytes("x"));
    // it looks for more neighbours less and less often
    net.run(100_000);
    net.subscribe(second, "t");
    net.run(1000);
    const before = net.publish(source, "t", bytes("before"));
    net.unsubscribe(first, "t");
    net.run(seed % 100);
    const after = net.publish(source, "t", bytes("after"));
    net.run(5000);
    assert.notEqual(after.tookMs[second.index], undefined, `seed ${seed}`);
    assert.notEqual(before.tookMs[second.index], undefined, `seed ${seed}`);
  }
});

test("a neighbour that claims messages nobody has cannot make a node give up real ones", () => {
  const net = new MessagingNet(14, { nodes: 3 });
  const [a, b, liar] = net.nodes;
  net.subscribeAll("t");
  net.run(2000);
  for (let i = 0; i < 5; i++) net.publish(a, "t", bytes("x"));
  net.run(2000);
  const [stream] = b.machine.topic("t")?.streams.values() ?? [];
  const claim = encodeControlFrame({
    type: "list",
    topic: topicIdOf("t").toHex(),
    isAnswer: true,
    lower: 0,
    upper: 0xffff,
    streams: [{ ref: stream.ref, floor: 2 ** 47, ranges: [] }],
  });
  // it never answers what it is asked for
  net.tamper = (from, to, frame) => (from === b && to === liar && frame[0] === FrameType.IWANT ? undefined : frame);
  for (let minute = 0; minute < 20; minute++) {
    b.machine.receive(net.now, liar.key, claim);
    b.machine.process(net.now, 10);
    net.run(60_000);
  }
  assert.ok(stream.window.floor < 10, `${stream.window.floor}`);
  const trace = net.publish(a, "t", bytes("still"));
  net.run(5000);
  assert.notEqual(trace.tookMs[b.index], undefined);
});

test("announcements of nodes that are no neighbours are not heard", () => {
  const net = new MessagingNet(15, { nodes: 2 });
  const [a, b] = net.nodes;
  net.subscribeAll("t");
  net.run(2000);
  const announce = (from: string, ref: string): void => {
    const entries = [{ ref, from: 1, to: 2 ** 48 - 2 }];
    a.machine.receive(
      net.now,
      from,
      encodeControlFrame({ type: "ihave", topic: topicIdOf("t").toHex(), isOld: false, entries }),
    );
    a.machine.process(net.now, 10);
  };
  const topic = a.machine.topic("t");
  announce("ee".repeat(32), "01".repeat(8));
  assert.deepEqual([topic?.streams.size, topic?.recovery.missing], [0, 0]);
  announce(b.key, "02".repeat(8));
  assert.deepEqual([topic?.streams.size, topic?.recovery.missing], [1, 1]);
});

test("a publisher with a clock far ahead is heard, and moves nobody else's clock by more than a minute", () => {
  const net = new MessagingNet(16, { nodes: 2, pubsub: { hasLog: true } });
  const [a, b] = net.nodes;
  net.subscribeAll("t");
  net.run(2000);
  const { nowMs, wallMs } = net.now;
  a.machine.publish({ nowMs, wallMs: wallMs + 3_000_000 }, "t", bytes("from the future"));
  net.publish(a, "t", bytes("x"));
  net.run(1000);
  assert.equal(b.machine.counters.deliveries, 2);
  net.publish(b, "t", bytes("y"));
  const frames = net.logOf(b).map(({ frame }) => decodeMessage(frame));
  const own = frames.find((message) => message?.publisher.toHex() === b.key);
  assert.ok((own?.hlc ?? Infinity) <= hlcOf(net.now.wallMs + 60_000), "it would have to sign what is in the future");
});
