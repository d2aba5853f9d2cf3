import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { CopyPool } from "./copy-pool.ts";

test("copies keep their bytes, whatever is copied after them, and lie at multiples of eight", () => {
  const pool = new CopyPool();
  const source = Uint8Array.from({ length: 6_000 }, (_, i) => (i * 7) & 255);
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(6_000), fc.nat(6_000)), { maxLength: 60 }), (pairs) => {
      const ranges = pairs.map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);
      const copies = ranges.map(([from, to]) => pool.copy(source, from, to));
      copies.forEach((copy, i) => {
        assert.ok(Buffer.from(copy).equals(source.subarray(...ranges[i])));
        assert.equal(copy.byteOffset % 8, 0);
      });
    }),
  );
});
