/** Frames: what is written is read back, and no bytes whatever make a decoder throw, read on, or accept two forms of the same thing. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { utf8 } from "../../base/bytes.ts";
import { type ControlFrame, decodeControlFrame, encodeControlFrame, FrameType } from "./frames.ts";
import { asType, decodeMessage, encodeMessage, HybridClock, hlcOf, streamRefOf, topicIdOf } from "./message.ts";
import { MAX_PAYLOAD_BYTES } from "./types.ts";

const hex = (bytes: number): fc.Arbitrary<string> =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((one) => one.toHex());
const topic = hex(16);
const ref = hex(8);
const value = fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 2 ** 47 }));
const entries = fc.array(
  fc.record({ ref, from: value, length: fc.integer({ min: 1, max: 1000 }) }).map((one) => ({
    ref: one.ref,
    from: one.from,
    to: one.from + one.length - 1,
  })),
  { maxLength: 40 },
);
const ranges = fc.array(fc.tuple(fc.integer({ min: 2, max: 500 }), fc.integer({ min: 1, max: 500 })), {
  maxLength: 64,
});
const summary = fc.record({ ref, floor: fc.nat(2 ** 40), ranges }).map((one) => {
  let at = one.floor;
  const list = one.ranges.map(([gap, length]) => {
    const from = at + gap;
    at = from + length - 1;
    return { from, to: at };
  });
  return { ref: one.ref, floor: one.floor, ranges: list };
});
const anyFrame: fc.Arbitrary<ControlFrame> = fc.oneof(
  fc.record({ type: fc.constant("ihave" as const), topic, isOld: fc.boolean(), entries }),
  fc.record({
    type: fc.constant("none" as const),
    topic,
    reason: fc.constantFrom(0 as const, 1 as const, 2 as const),
    entries,
  }),
  fc.record({ type: fc.constant("iwant" as const), topic, since: fc.nat(2 ** 52), entries }),
  fc.record({
    type: fc.constant("graft" as const),
    topic,
    isEager: fc.boolean(),
    isSource: fc.boolean(),
    isNeeded: fc.boolean(),
  }),
  fc.record({
    type: fc.constant("prune" as const),
    topic,
    isDrop: fc.boolean(),
    backoffMs: fc.nat(60_000).map((seconds) => seconds * 1000),
  }),
  fc.record({
    type: fc.constant("digest" as const),
    topic,
    ranges: fc
      .uniqueArray(fc.nat(0xffff), { minLength: 1, maxLength: 60 })
      .map((list) => list.toSorted((a, b) => a - b))
      .map((list) => list.map((at) => ({ lower: at, upper: at, streams: at * 7, fingerprint: "0123456789abcdef" }))),
  }),
  fc.record({
    type: fc.constant("list" as const),
    topic,
    isAnswer: fc.boolean(),
    lower: fc.nat(100),
    upper: fc.integer({ min: 100, max: 0xffff }),
    streams: fc.array(summary, { maxLength: 20 }),
  }),
  fc.record({
    type: fc.constantFrom("probe" as const, "echo" as const),
    topic,
    nonce: fc.integer({ min: 0, max: 0xffffffff }),
  }),
);

test("every control frame is read back as it was written, and a byte more or less is no frame", () => {
  fc.assert(
    fc.property(anyFrame, (frame) => {
      const bytes = encodeControlFrame(frame);
      assert.deepEqual(decodeControlFrame(bytes), structuredClone(frame));
      assert.equal(decodeControlFrame(bytes.subarray(0, bytes.length - 1)), undefined);
      assert.equal(decodeControlFrame(Uint8Array.from([...bytes, 0])), undefined);
    }),
  );
});

test("arbitrary bytes never throw, and what they decode to encodes to the same bytes", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 12 }),
      fc.integer({ min: 0, max: 7 }),
      fc.uint8Array({ maxLength: 120 }),
      (type, flags, rest) => {
        const bytes = Uint8Array.from([type, flags, ...rest]);
        const frame = decodeControlFrame(bytes);
        if (frame !== undefined) assert.deepEqual(encodeControlFrame(frame), bytes);
        decodeMessage(bytes);
      },
    ),
    { numRuns: 2000 },
  );
});

test("a count that the bytes cannot hold is refused before anything is built", () => {
  const bytes = new Uint8Array(20);
  bytes[0] = FrameType.IHAVE;
  bytes[18] = 0xff;
  bytes[19] = 0x03;
  assert.equal(decodeControlFrame(bytes), undefined);
});

test("a message comes back as it was, its signature covers everything but the type", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 300 }),
      fc.option(fc.uint8Array({ minLength: 32, maxLength: 32 }), { nil: undefined }),
      fc.integer({ min: 1, max: 2 ** 48 - 1 }),
      fc.nat(2 ** 52),
      (payload, agent, sequence, hlc) => {
        const publisher = new Uint8Array(32).fill(7);
        const signature = new Uint8Array(64).fill(9);
        let signed = new Uint8Array(0);
        const frame = encodeMessage(
          { topicId: topicIdOf("a"), publisher, agent, epoch: 1_800_000_000_000, sequence, hlc, payload },
          (body) => {
            signed = Uint8Array.from(body);
            return signature;
          },
        );
        const read = decodeMessage(frame);
        assert.ok(read !== undefined);
        assert.deepEqual(Uint8Array.from(read.payload), payload);
        assert.deepEqual(read.agent && Uint8Array.from(read.agent), agent);
        assert.equal(read.sequence, sequence);
        assert.equal(read.epoch, 1_800_000_000_000);
        assert.equal(read.hlc, hlc);
        assert.deepEqual(Uint8Array.from(read.body), signed);
        assert.deepEqual(Uint8Array.from(read.signature), signature);
        assert.deepEqual(signed, frame.slice(1, frame.length - 64));
        const answer = decodeMessage(asType(frame, FrameType.ANSWER));
        assert.deepEqual([answer?.type, read.type], [FrameType.ANSWER, FrameType.PUSH]);
        assert.deepEqual(Uint8Array.from(answer?.body ?? []), signed);
      },
    ),
  );
});

test("a payload above 64 KiB, a sequence of nought and an unknown flag are no messages", () => {
  const make = (bytes: number, sequence = 1): Uint8Array =>
    encodeMessage(
      {
        topicId: topicIdOf("a"),
        publisher: new Uint8Array(32),
        agent: undefined,
        epoch: 1,
        sequence,
        hlc: 1,
        payload: new Uint8Array(bytes),
      },
      () => new Uint8Array(64),
    );
  assert.ok(decodeMessage(make(MAX_PAYLOAD_BYTES)) !== undefined);
  assert.equal(decodeMessage(make(MAX_PAYLOAD_BYTES + 1)), undefined);
  assert.equal(decodeMessage(make(10, 0)), undefined);
  const flagged = make(10);
  flagged[1] = 2;
  assert.equal(decodeMessage(flagged), undefined);
});

test("topics and streams have stable names", () => {
  assert.equal(topicIdOf("news").length, 16);
  assert.notDeepEqual(topicIdOf("news"), topicIdOf("News"));
  assert.match(streamRefOf(utf8("x".repeat(32)), 5), /^[0-9a-f]{16}$/);
  assert.notEqual(streamRefOf(new Uint8Array(32), 1), streamRefOf(new Uint8Array(32), 2));
});

test("the hybrid clock grows with every message, also when the wall clock jumps back", () => {
  const clock = new HybridClock();
  const first = clock.next(1000);
  assert.equal(first, hlcOf(1000));
  assert.equal(clock.next(500), first + 1);
  clock.see(hlcOf(9000));
  assert.ok(clock.next(1000) > hlcOf(9000));
});
