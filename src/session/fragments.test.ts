import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Drop } from "../base/drop.ts";
import { SeededRandom } from "../base/random.ts";
import { Slab } from "../base/slab.ts";
import { FRAGMENTED_PER_PEER, Fragmenter, HEADROOM_BYTES } from "./fragments.ts";

function make(capacity = 64): { slab: Slab; fragmenter: Fragmenter; at: number } {
  const slab = new Slab(1 << 20);
  return { slab, fragmenter: new Fragmenter(slab, capacity), at: slab.allocate(8192) };
}

interface Piece {
  readonly id: number;
  readonly bytes: Uint8Array;
}

function cut(slab: Slab, fragmenter: Fragmenter, at: number, id: number, message: Uint8Array, room: number): Piece[] {
  slab.u8.set(message, at);
  const count = fragmenter.split(id, 1, 3, at, message.length, room);
  return [...Array(count).keys()].map((i) => {
    const offset = fragmenter.partOffset[i];
    return { id, bytes: slab.u8.slice(offset, offset + fragmenter.partBytes[i]) };
  });
}

test("messages in any order of pieces, interleaved and with duplicates, come out whole and once", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ bytes: fc.integer({ min: 8, max: 1280 }), room: fc.integer({ min: 340, max: 1400 }) }), {
        minLength: 1,
        maxLength: 12,
      }),
      fc.integer(),
      (sizes, seed) => {
        const { slab, fragmenter, at } = make();
        const random = new SeededRandom(seed);
        const messages = sizes.map(({ bytes }) => random.bytes(bytes));
        const pieces = messages.flatMap((message, id) => cut(slab, fragmenter, at, id, message, sizes[id]?.room));
        for (const piece of pieces) assert.ok(piece.bytes.length <= sizes[piece.id]?.room);
        // Of each message at most one piece twice: the replay window takes care of the rest.
        const mixed = [...pieces, ...pieces.filter((piece) => piece.bytes[4] === 0 && random.unit() < 0.5)];
        for (let i = mixed.length - 1; i > 0; i--) {
          const j = random.u32() % (i + 1);
          [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
        }
        const whole = new Map<number, number>();
        for (const piece of mixed) {
          slab.u8.set(piece.bytes, at);
          const result = fragmenter.add(0, 1, at, piece.bytes.length);
          if (result <= 0) {
            assert.ok(result === 0 || result === -Drop.UNEXPECTED);
            continue;
          }
          assert.deepEqual(slab.u8.slice(fragmenter.wholeOffset, fragmenter.wholeOffset + result), messages[piece.id]);
          assert.equal(fragmenter.wholeKind, 1);
          assert.equal(fragmenter.wholeFlags, 3);
          whole.set(piece.id, (whole.get(piece.id) ?? 0) + 1);
        }
        assert.equal(whole.size, messages.length);
        for (const times of whole.values()) assert.equal(times, 1);
      },
    ),
    { numRuns: 100 },
  );
});

test("anything at all in a piece gives a length or a reason, and what is held stays within its bounds", () => {
  const { slab, fragmenter, at } = make(20);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 2000 }), fc.nat(4), (bytes, peer) => {
      slab.u8.set(bytes, at);
      const result = fragmenter.add(0, peer, at, bytes.length);
      assert.ok(Number.isInteger(result) && result > -50 && result <= 4 * 1472);
      assert.ok(fragmenter.pending <= 20);
    }),
    { numRuns: 500 },
  );
});

test("a peer keeps at most 16 unfinished messages: the oldest makes room, others are not touched", () => {
  const { slab, fragmenter, at } = make();
  const message = new Uint8Array(600).fill(9);
  const other = cut(slab, fragmenter, at, 1, message, 400);
  const give = (peer: number, piece: Piece): number => {
    slab.u8.set(piece.bytes, at);
    return fragmenter.add(5, peer, at, piece.bytes.length);
  };
  give(2, other[0]);
  for (let id = 0; id <= FRAGMENTED_PER_PEER; id++) give(1, cut(slab, fragmenter, at, id, message, 400)[0]);
  assert.equal(fragmenter.pending, FRAGMENTED_PER_PEER + 1);
  assert.equal(fragmenter.expire(5), 1);
  assert.equal(give(1, cut(slab, fragmenter, at, 0, message, 400)[1]), 0, "message 0 was displaced");
  assert.equal(give(2, other[1]), 600);
});

test("unfinished messages are given up after 1 s and when the peer goes", () => {
  const { slab, fragmenter, at } = make();
  const [first, second] = cut(slab, fragmenter, at, 1, new Uint8Array(600), 400);
  slab.u8.set(first.bytes, at);
  assert.equal(fragmenter.add(0, 1, at, first.bytes.length), 0);
  assert.equal(fragmenter.nextTimeout(), 1000);
  assert.equal(fragmenter.expire(999), 0);
  assert.equal(fragmenter.expire(1000), 1);
  assert.equal(fragmenter.pending, 0);
  slab.u8.set(second.bytes, at);
  fragmenter.add(1000, 1, at, second.bytes.length);
  fragmenter.forget(1);
  assert.equal(fragmenter.pending, 0);
  assert.equal(fragmenter.nextTimeout(), Infinity);
});

test("pieces that disagree about their message end it; what does not fit four pieces is refused", () => {
  const { slab, fragmenter, at } = make();
  const pieces = cut(slab, fragmenter, at, 1, new Uint8Array(600), 400);
  slab.u8.set(pieces[0].bytes, at);
  fragmenter.add(0, 1, at, pieces[0].bytes.length);
  slab.u8.set(pieces[1].bytes, at);
  slab.u8[at + 7] = 0;
  assert.equal(fragmenter.add(0, 1, at, pieces[1].bytes.length), -Drop.FRAGMENT);
  assert.equal(fragmenter.pending, 0);
  assert.equal(fragmenter.split(1, 1, 0, at, 1280, 300), 0);
  assert.equal(fragmenter.split(1, 1, 0, at, 1280, 8), 0);
  assert.equal(fragmenter.split(1, 1, 0, at, 1280, 328), 4);
});

test("a whole message has room in front for a header", () => {
  const { slab, fragmenter, at } = make(1);
  const pieces = cut(slab, fragmenter, at, 1, new Uint8Array(600).fill(5), 400);
  for (const piece of pieces) {
    slab.u8.set(piece.bytes, at);
    fragmenter.add(0, 1, at, piece.bytes.length);
  }
  slab.u8.fill(0xee, fragmenter.wholeOffset - HEADROOM_BYTES, fragmenter.wholeOffset);
  assert.ok(slab.u8.slice(fragmenter.wholeOffset, fragmenter.wholeOffset + 600).every((byte) => byte === 5));
});
