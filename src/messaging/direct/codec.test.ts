import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { MAX_FRAME_BYTES, FrameChannel } from "../frames.ts";
import {
  bodyHash,
  decodeAck,
  decodeBody,
  decodeDirect,
  DirectType,
  encodeAck,
  encodeBody,
  encodeData,
  encodeMarks,
  MAX_RANGES,
  toRanges,
  type Body,
} from "./codec.ts";
import { MAX_PAYLOAD_BYTES, MessageKind, WINDOW } from "./types.ts";

const number53 = fc.maxSafeNat();
const header = fc
  .record({ boot: fc.nat(0xffffffff), oldest: fc.nat(2 ** 40), above: fc.nat(2 ** 40), floor: fc.nat(2 ** 50) })
  .map(({ boot, oldest, above, floor }) => ({ boot, oldest, incarnation: oldest + above, floor }));
const above = fc.nat(WINDOW - 1);
const key = fc.uint8Array({ minLength: 32, maxLength: 32 });
const body: fc.Arbitrary<Body> = fc
  .record({
    kind: fc.constantFrom(...Object.values(MessageKind)),
    durable: fc.boolean(),
    failed: fc.boolean(),
    sentWallMs: number53,
    reference: fc.record({ incarnation: number53, number: number53 }),
    fromAgent: fc.option(key, { nil: undefined }),
    toAgent: fc.option(key, { nil: undefined }),
    name: fc.string({ maxLength: 32 }),
    payload: fc.uint8Array({ maxLength: 64 }),
  })
  .map((all) => {
    const isResponse = all.kind === MessageKind.RESPONSE;
    return { ...all, failed: all.failed && isResponse, reference: isResponse ? { ...all.reference } : undefined };
  });

test("what was encoded is decoded as it was", () => {
  fc.assert(
    fc.property(
      header,
      fc.array(fc.tuple(above, fc.nat(0xffffffff), fc.uint8Array({ maxLength: 99 }))),
      (head, list) => {
        const entries = list.map(([n, leftMs, bytes]) => ({ number: head.floor + n, leftMs, body: bytes }));
        const decoded = decodeDirect(encodeData(head, entries));
        assert.ok(decoded?.type === DirectType.DATA);
        assert.deepEqual(decoded.header, head);
        assert.deepEqual(
          decoded.entries.map((entry) => ({ ...entry, body: Uint8Array.from(entry.body) })),
          entries,
        );
      },
    ),
  );
  fc.assert(
    fc.property(header, fc.array(fc.tuple(above, fc.nat(0xffffffff))), (head, list) => {
      const marks = list.map(([n, boot]) => ({ number: head.floor + n, boot }));
      const decoded = decodeDirect(encodeMarks(DirectType.CLOSE, head, marks));
      assert.deepEqual(decoded, { type: DirectType.CLOSE, header: head, marks });
    }),
  );
  fc.assert(
    fc.property(body, (value) => {
      assert.deepEqual(decodeBody(encodeBody(value) as Uint8Array), value);
    }),
  );
});

test("answers come back as the verdicts they were made of", () => {
  fc.assert(
    fc.property(fc.nat(2 ** 50), fc.array(fc.tuple(fc.nat(2_000), fc.nat(5)), { maxLength: 600 }), (base, list) => {
      // as in a receiver: one verdict for a number
      const verdicts = new Map(list.map(([n, verdict]) => [base + n, verdict]));
      const ranges = toRanges(Array.from(verdicts, ([number, verdict]) => ({ number, verdict })));
      const found = new Map<number, number>();
      for (let at = 0; at < ranges.length; at += MAX_RANGES) {
        const some = ranges.slice(at, at + MAX_RANGES);
        const frame = encodeAck({ boot: 5, incarnation: 9, admitMs: 0.5, commitMs: 12.25 }, some[0].first, some);
        assert.ok(frame.length <= MAX_FRAME_BYTES[FrameChannel.ACK]);
        const ack = decodeAck(frame);
        assert.ok(ack !== undefined);
        assert.deepEqual([ack.boot, ack.incarnation, ack.admitMs, ack.commitMs], [5, 9, 0.5, 12.25]);
        for (const { first, count, verdict } of ack.ranges)
          for (let number = first; number < first + count; number++) found.set(number, verdict);
      }
      assert.deepEqual(new Map([...found].toSorted()), new Map([...verdicts].toSorted()));
    }),
  );
});

test("whatever else comes is no frame, and nothing throws", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    // nearly right ones
    fc
      .tuple(header, fc.array(fc.tuple(above, fc.uint8Array({ maxLength: 20 }))), fc.nat(), fc.nat(255))
      .map(([head, list, at, value]) => {
        const frame = encodeData(
          head,
          list.map(([n, b]) => ({ number: head.floor + n, leftMs: 1, body: b })),
        );
        frame[at % frame.length] = value;
        return frame.subarray(0, frame.length - (at % 3));
      }),
  );
  fc.assert(
    fc.property(bytes, (frame) => {
      const direct = decodeDirect(frame);
      if (direct?.type === DirectType.DATA) for (const entry of direct.entries) decodeBody(entry.body);
      decodeAck(frame);
      decodeBody(frame);
    }),
    { numRuns: 2_000 },
  );
});

test("an answer cannot make its reader count to more numbers than a window has", () => {
  const head = { boot: 1, incarnation: 1, admitMs: 0, commitMs: 0 };
  assert.ok(decodeAck(encodeAck(head, 0, [{ first: 0, count: WINDOW, verdict: 0 }])) !== undefined);
  assert.equal(decodeAck(encodeAck(head, 0, [{ first: 0, count: WINDOW + 1, verdict: 0 }])), undefined);
});

test("the largest message fits into a frame, and one byte more is refused", () => {
  const value: Body = {
    kind: MessageKind.RESPONSE,
    durable: false,
    failed: true,
    sentWallMs: 1,
    reference: { incarnation: 1, number: 1 },
    fromAgent: new Uint8Array(32),
    toAgent: new Uint8Array(32),
    name: "n".repeat(128),
    payload: new Uint8Array(MAX_PAYLOAD_BYTES),
  };
  const bytes = encodeBody(value) as Uint8Array;
  const frame = encodeData({ boot: 0, incarnation: 1, oldest: 1, floor: 0 }, [{ number: 0, leftMs: 1, body: bytes }]);
  assert.ok(frame.length <= MAX_FRAME_BYTES[FrameChannel.DIRECT]);
  assert.ok(decodeDirect(frame) !== undefined);
  assert.equal(encodeBody({ ...value, payload: new Uint8Array(MAX_PAYLOAD_BYTES + 1) }), undefined);
  assert.equal(encodeBody({ ...value, name: "ä".repeat(65) }), undefined);
});

test("other bytes have another hash", () => {
  assert.notEqual(bodyHash(new Uint8Array(5)), bodyHash(new Uint8Array(6)));
  assert.equal(bodyHash(new Uint8Array(5)), bodyHash(new Uint8Array(5)));
  assert.ok(Number.isSafeInteger(bodyHash(new Uint8Array(5))) && bodyHash(new Uint8Array(5)) >= 0);
});
