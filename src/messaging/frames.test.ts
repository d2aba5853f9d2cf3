import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { concat } from "../base/bytes.ts";
import { encodeFrames, FRAME_HEADER_BYTES, FrameChannel, FrameReader, MAX_FRAME_BYTES } from "./frames.ts";

const frames = fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { maxLength: 20 });

/** Cuts `bytes` at the given places, in any order. */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const at = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length].toSorted((a, b) => a - b);
  return at.slice(1).map((end, i) => bytes.slice(at[i], end));
}

test("frames come out as they went in, wherever the stream is cut", () => {
  fc.assert(
    fc.property(frames, fc.array(fc.nat(), { maxLength: 60 }), (sent, places) => {
      const reader = new FrameReader(FrameChannel.DIRECT);
      const got: Uint8Array[] = [];
      for (const piece of cut(encodeFrames(sent), places)) assert.ok(reader.add(piece, (frame) => got.push(frame)));
      assert.deepEqual(got, sent);
      assert.equal(reader.heldBytes, 0);
    }),
  );
});

test("a stream byte by byte is read too, and what is taken does not share memory with the stream", () => {
  const reader = new FrameReader(FrameChannel.ACK);
  const stream = encodeFrames([Uint8Array.of(1, 2, 3), Uint8Array.of(4)]);
  const got: Uint8Array[] = [];
  for (const byte of stream) assert.ok(reader.add(Uint8Array.of(byte), (frame) => got.push(frame)));
  const whole: Uint8Array[] = [];
  new FrameReader(FrameChannel.ACK).add(stream, (frame) => whole.push(frame));
  stream.fill(9);
  assert.deepEqual(got, [Uint8Array.of(1, 2, 3), Uint8Array.of(4)]);
  assert.deepEqual(whole, got);
});

test("the largest frame of each channel passes, one byte more and an empty one end the stream for good", () => {
  for (const channel of Object.values(FrameChannel)) {
    const header = new Uint8Array(FRAME_HEADER_BYTES);
    const reader = new FrameReader(channel);
    let got = 0;
    assert.ok(reader.add(encodeFrames([new Uint8Array(MAX_FRAME_BYTES[channel])]), (frame) => (got = frame.length)));
    assert.equal(got, MAX_FRAME_BYTES[channel]);
    for (const length of [0, MAX_FRAME_BYTES[channel] + 1, 0xffffffff]) {
      new DataView(header.buffer).setUint32(0, length, true);
      for (const pieces of [[header], [header.subarray(0, 1), header.subarray(1)]]) {
        const broken = new FrameReader(channel);
        const answers = pieces.map((piece) => broken.add(piece, () => assert.fail("no frame")));
        assert.equal(answers.at(-1), false);
        assert.equal(broken.heldBytes, 0);
        assert.equal(
          broken.add(encodeFrames([Uint8Array.of(1)]), () => assert.fail("no frame")),
          false,
        );
      }
    }
  }
});

test("only what has come is held, whatever was announced", () => {
  const reader = new FrameReader(FrameChannel.BULK);
  const header = new Uint8Array(FRAME_HEADER_BYTES);
  new DataView(header.buffer).setUint32(0, 1_000_000, true);
  reader.add(concat(header, new Uint8Array(10)), () => assert.fail("no frame"));
  assert.equal(reader.heldBytes, FRAME_HEADER_BYTES + 10);
});
