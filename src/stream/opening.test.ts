import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encodeOpening, isKind, MAX_KIND_BYTES, OpeningReader } from "./opening.ts";
import type { StreamClass } from "./types.ts";

const kinds = fc
  .array(fc.integer({ min: 0x21, max: 0x7e }), { minLength: 1, maxLength: MAX_KIND_BYTES })
  .map((codes) => String.fromCharCode(...codes));
const classes = fc.integer({ min: 0, max: 3 }) as fc.Arbitrary<StreamClass>;

/** Feeds the reader what it wants, at most `step` bytes at a time. @returns bytes that were left, or undefined when it refused */
function feed(reader: OpeningReader, bytes: Uint8Array, step: number): number | undefined {
  let at = 0;
  while (reader.wanted > 0 && at < bytes.length) {
    const take = Math.min(step, reader.wanted, bytes.length - at);
    if (!reader.add(bytes.subarray(at, at + take))) return undefined;
    at += take;
  }
  return bytes.length - at;
}

test("an opening is read back however it is cut, and nothing behind it is touched", () => {
  fc.assert(
    fc.property(kinds, classes, fc.integer({ min: 1, max: 70 }), fc.uint8Array(), (kind, streamClass, step, rest) => {
      const header = encodeOpening({ kind, streamClass });
      const reader = new OpeningReader();
      assert.equal(feed(reader, Buffer.concat([header, rest]), step), rest.length);
      assert.deepEqual(reader.finish(), { kind, streamClass });
    }),
  );
});

test("hostile openings are refused and never throw", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), fc.integer({ min: 1, max: 80 }), (bytes, step) => {
      const reader = new OpeningReader();
      if (feed(reader, bytes, step) === undefined || reader.wanted > 0) return;
      const opening = reader.finish();
      if (opening === undefined) return;
      assert.ok(isKind(opening.kind) && opening.streamClass < 4);
      assert.deepEqual(encodeOpening(opening), bytes.subarray(0, 2 + opening.kind.length));
    }),
  );
  for (const bytes of [
    [4, 1],
    [0, 0],
    [0, 65],
  ])
    assert.equal(feed(new OpeningReader(), Uint8Array.from(bytes), 2), undefined);
});
