import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { RecordReader } from "./streams.ts";

test("records come out as they went in, however the stream is cut", () => {
  const records = fc.array(fc.uint8Array({ minLength: 1, maxLength: 1_200 }), { maxLength: 8 });
  fc.assert(
    fc.property(records, fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 20 }), (sent, cuts) => {
      const header = (bytes: Uint8Array): Uint8Array => Uint8Array.of(bytes.length & 0xff, bytes.length >>> 8);
      const stream = Buffer.concat(sent.flatMap((bytes) => [header(bytes), bytes]));
      const reader = new RecordReader();
      const got: Uint8Array[] = [];
      for (let at = 0, i = 0; at < stream.length; at += cuts[i++ % cuts.length]) {
        const piece = stream.subarray(at, at + cuts[i % cuts.length]);
        assert.ok(reader.add(piece, (record) => got.push(record)));
      }
      assert.deepEqual(got, sent);
    }),
  );
});

test("a length of nothing or too much ends the stream", () => {
  for (const bytes of [
    [0, 0],
    [0xb1, 4],
    [0xff, 0xff],
  ]) {
    assert.equal(
      new RecordReader().add(Uint8Array.from(bytes), () => assert.fail("no record")),
      false,
    );
  }
});
