import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { concat } from "../base/bytes.ts";
import { FieldReader, u16, u32, u64, u8 } from "./fields.ts";
import { SenderRates } from "./sender-rates.ts";

test("what is written is read again, and nothing is left", () => {
  const fields = fc.tuple(
    fc.nat(0xff),
    fc.nat(0xffff),
    fc.nat(0xffffffff),
    fc.maxSafeNat(),
    fc.uint8Array({ maxLength: 40 }),
  );
  fc.assert(
    fc.property(fields, ([a, b, c, d, bytes]) => {
      const reader = new FieldReader(concat(u8(a), u16(b), u32(c), u64(d), bytes));
      assert.deepEqual([reader.u8(), reader.u16(), reader.u32(), reader.u64()], [a, b, c, d]);
      assert.deepEqual(reader.bytes(bytes.length), bytes);
      assert.ok(reader.isWhole);
    }),
  );
});

test("a reader that comes to the end stays there and says so", () => {
  const reader = new FieldReader(Uint8Array.of(1, 2, 3));
  assert.equal(reader.u32(), 0);
  assert.equal(reader.u8(), 0);
  assert.equal(reader.left, 0);
  assert.ok(!reader.isWhole);
  const tooMuch = new FieldReader(Uint8Array.of(1, 2));
  tooMuch.u8();
  assert.ok(!tooMuch.isWhole);
  // above 2^53 − 1 is no number here
  const large = new FieldReader(concat(u32(0), u32(0x200000)));
  assert.equal(large.u64(), 0);
  assert.ok(!large.isWhole);
});

test("byte strings are copies", () => {
  const bytes = Uint8Array.of(7, 7);
  const copy = new FieldReader(bytes).bytes(2);
  bytes.fill(0);
  assert.deepEqual(copy, Uint8Array.of(7, 7));
});

test("a sender above its rate is stopped, others are not, and time gives it back", () => {
  const rates = new SenderRates(2, 3);
  assert.deepEqual(
    [1, 2, 3, 4].map(() => rates.take(0, "a")),
    [true, true, true, false],
  );
  assert.ok(rates.take(0, "b"));
  assert.ok(rates.take(500, "a"));
  assert.ok(!rates.take(500, "a"));
  // never above the burst
  assert.deepEqual(
    [1, 2, 3, 4].map(() => rates.take(60_000, "a")),
    [true, true, true, false],
  );
});

test("senders beyond the bound are forgotten, least recently used first", () => {
  const rates = new SenderRates(0.001, 1, 2);
  assert.ok(rates.take(0, "a"));
  assert.ok(rates.take(0, "b"));
  assert.ok(!rates.take(0, "a"));
  assert.ok(rates.take(0, "c"));
  // b went, a did not
  assert.ok(!rates.take(0, "a"));
  assert.ok(rates.take(0, "b"));
});
