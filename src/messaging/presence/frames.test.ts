import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  BeaconStatus,
  decodePresence,
  encodePresence,
  MAX_NOTE_BYTES,
  MAX_REDIRECTS,
  type PresenceFrame,
  PresenceType,
} from "./frames.ts";

const node = fc.uint8Array({ minLength: 32, maxLength: 32 });
const frame: fc.Arbitrary<PresenceFrame> = fc.oneof(
  fc.record({ type: fc.constant(PresenceType.WATCH), subject: node, version: fc.maxSafeNat() }),
  fc.record({ type: fc.constant(PresenceType.UNWATCH), subject: node }),
  fc.record({
    type: fc.constant(PresenceType.BEACON),
    beacon: fc.record({
      node,
      version: fc.maxSafeNat(),
      status: fc.constantFrom(...Object.values(BeaconStatus)),
      note: fc.uint8Array({ maxLength: MAX_NOTE_BYTES }),
      signature: fc.uint8Array({ minLength: 64, maxLength: 64 }),
    }),
  }),
  fc.record({
    type: fc.constant(PresenceType.REDIRECT),
    subject: node,
    nodes: fc.array(node, { minLength: 1, maxLength: MAX_REDIRECTS }),
  }),
);

test("every frame is read as it was written", () => {
  fc.assert(
    fc.property(frame, (written) =>
      assert.deepEqual(decodePresence(encodePresence(written)), structuredClone(written)),
    ),
  );
});

test("noise is a frame within the bounds or nothing, never an exception", () => {
  fc.assert(
    fc.property(fc.integer({ min: 55, max: 61 }), fc.uint8Array({ maxLength: 400 }), (type, noise) => {
      const read = decodePresence(Uint8Array.of(type, ...noise));
      if (read?.type === PresenceType.BEACON) assert.ok(read.beacon.note.length <= MAX_NOTE_BYTES);
      if (read?.type === PresenceType.REDIRECT) assert.ok(read.nodes.length <= MAX_REDIRECTS);
    }),
    { numRuns: 1000 },
  );
});
