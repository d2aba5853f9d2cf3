import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { FrameChannel, MAX_FRAME_BYTES } from "../frames.ts";
import {
  decodeOverlay,
  encodeOverlay,
  MAX_HOPS,
  MAX_NODES,
  MAX_RUMOURS,
  type OverlayFrame,
  OverlayType,
  type Rumour,
  RumourKind,
} from "./frames.ts";

const node = fc.uint8Array({ minLength: 32, maxLength: 32 });
const nodes = fc.array(node, { maxLength: MAX_NODES });
const incarnation = fc.maxSafeNat();
const sequence = fc.nat(0xffffffff);
const signature = fc.uint8Array({ minLength: 64, maxLength: 64 });
const rumour: fc.Arbitrary<Rumour> = fc.oneof(
  fc
    .record({ kind: fc.constantFrom(RumourKind.ALIVE, RumourKind.LEFT), node, incarnation, signature })
    .map((one) => ({ ...one, accuser: one.node })),
  fc.record({
    kind: fc.constantFrom(RumourKind.SUSPECT, RumourKind.DEAD),
    node,
    incarnation,
    accuser: node,
    signature,
  }),
);
const rumours = fc.array(rumour, { maxLength: MAX_RUMOURS });
const hops = fc.nat(MAX_HOPS);
const flags = fc.nat(255);

const frame: fc.Arbitrary<OverlayFrame> = fc.oneof(
  fc.record({ type: fc.constant(OverlayType.JOIN), incarnation }),
  fc.record({ type: fc.constant(OverlayType.FORWARD_JOIN), node, hops }),
  fc.record({ type: fc.constant(OverlayType.NEIGHBOUR), flags, incarnation }),
  fc.record({ type: fc.constant(OverlayType.NEIGHBOUR_REPLY), flags, incarnation, nodes }),
  fc.record({ type: fc.constant(OverlayType.DISCONNECT), reason: flags, nodes, rumours }),
  fc.record({ type: fc.constant(OverlayType.SHUFFLE), origin: node, hops, nodes }),
  fc.record({ type: fc.constant(OverlayType.SHUFFLE_REPLY), nodes }),
  fc.record({ type: fc.constant(OverlayType.PING), flags, sequence, incarnation, rumours }),
  fc.record({ type: fc.constant(OverlayType.ACK), sequence, incarnation, rumours }),
  fc.record({ type: fc.constant(OverlayType.PING_REQ), sequence, target: node }),
  fc.record({ type: fc.constant(OverlayType.NACK), sequence }),
);

test("every frame is read as it was written, and fits its channel", () => {
  fc.assert(
    fc.property(frame, (one) => {
      const bytes = encodeOverlay(one);
      assert.deepEqual(decodeOverlay(bytes), structuredClone(one));
      assert.ok(bytes.length <= MAX_FRAME_BYTES[FrameChannel.MEMBERSHIP]);
      // neither a byte more nor one less
      assert.equal(decodeOverlay(bytes.subarray(0, -1)), undefined);
      assert.equal(decodeOverlay(Uint8Array.of(...bytes, 0)), undefined);
    }),
  );
});

test("noise is a frame within the bounds or nothing, never an exception", () => {
  fc.assert(
    fc.property(fc.nat(15), fc.uint8Array({ maxLength: 600 }), (type, noise) => {
      const read = decodeOverlay(Uint8Array.of(type, ...noise));
      if (read === undefined) return;
      if ("nodes" in read) assert.ok(read.nodes.length <= MAX_NODES);
      if ("rumours" in read) assert.ok(read.rumours.length <= MAX_RUMOURS);
      if ("hops" in read) assert.ok(read.hops <= MAX_HOPS);
    }),
    { numRuns: 1000 },
  );
});
