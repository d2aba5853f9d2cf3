import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeBase32, encodeBase32 } from "./base32.ts";
import { compare, concat, equal, fromHex, toHex, utf8 } from "./bytes.ts";
import { DROP_NAMES, Drop } from "./drop.ts";
import { endpointFromBytes, endpointToBytes, formatEndpoint, parseAddress, parseEndpoint } from "./endpoint.ts";
import { HISTOGRAM_FIELDS, histogramQuantile, recordHistogram } from "./histogram.ts";
import { SeededRandom } from "./random.ts";
import { BlockPool, Slab } from "./slab.ts";

test("base32 gives the RFC 4648 section 10 vectors, lower case and unpadded", () => {
  const vectors: readonly [string, string][] = [
    ["", ""],
    ["f", "my"],
    ["fo", "mzxq"],
    ["foo", "mzxw6"],
    ["foob", "mzxw6yq"],
    ["fooba", "mzxw6ytb"],
    ["foobar", "mzxw6ytboi"],
  ];
  for (const [plain, text] of vectors) {
    assert.equal(encodeBase32(utf8(plain)), text);
    assert.deepEqual(decodeBase32(text), utf8(plain));
  }
});

test("base32 has one text form for each value and refuses everything else", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      assert.deepEqual(decodeBase32(encodeBase32(bytes).toUpperCase()), bytes);
    }),
  );
  fc.assert(
    fc.property(fc.string({ maxLength: 20 }), (text) => {
      const bytes = decodeBase32(text);
      if (bytes !== undefined) assert.equal(encodeBase32(bytes), text.toLowerCase());
    }),
  );
  assert.equal(decodeBase32("mz"), undefined);
  assert.equal(decodeBase32("a"), undefined);
});

test("bytes compare like their hexadecimal text", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 6 }), fc.uint8Array({ maxLength: 6 }), (a, b) => {
      assert.equal(Math.sign(compare(a, b)), toHex(a) < toHex(b) ? -1 : toHex(a) > toHex(b) ? 1 : 0);
      assert.equal(equal(a, b), toHex(a) === toHex(b));
      assert.equal(toHex(concat(a, b)), toHex(a) + toHex(b));
      assert.deepEqual(fromHex(toHex(a)), a);
    }),
  );
  assert.equal(fromHex("0g"), undefined);
});

test("endpoints survive text and bytes, and nonsense is refused", () => {
  for (const text of ["1.2.3.4:5", "[2001:db8::1]:65535", "[::1]:1"]) {
    const endpoint = parseEndpoint(text);
    assert.ok(endpoint);
    assert.equal(formatEndpoint(endpoint), text);
    assert.deepEqual(endpointFromBytes(endpointToBytes(endpoint)), endpoint);
  }
  for (const text of ["1.2.3.4", "1.2.3:5", "1.2.3.4:0", "1.2.3.4:65536", "[::1]", "::1:5", "host:5", ""]) {
    assert.equal(parseEndpoint(text), undefined, text);
  }
  assert.equal(parseAddress("fe80::1%eth0"), undefined);
});

test("histogram buckets are powers of two microseconds and keep the exact sum", () => {
  const cells = new Float64Array(HISTOGRAM_FIELDS + 1);
  for (const ms of [0, 0.0005, 0.001, 0.003, 1, 100, -1]) recordHistogram(cells, 1, ms);
  assert.equal(cells[0], 0);
  assert.equal(cells[1], 7);
  assert.equal(Math.round(cells[2]), 101005);
  assert.equal(cells[3], 3);
  assert.equal(cells[4], 1);
  assert.equal(cells[5], 1);
  assert.equal(cells[3 + 10], 1);
  assert.equal(cells[3 + 15], 1);
  assert.equal(histogramQuantile(cells, 1, 0.5), 2);
});

test("a seeded generator replays and looks uniform", () => {
  const a = new SeededRandom(7);
  const b = new SeededRandom(7);
  assert.deepEqual(a.bytes(32), b.bytes(32));
  let sum = 0;
  for (let i = 0; i < 10_000; i++) sum += a.unit();
  assert.ok(Math.abs(sum / 10_000 - 0.5) < 0.02);
});

test("slab blocks never overlap, come back, and run out with a name", () => {
  const slab = new Slab(4096);
  const pool = new BlockPool(slab, 100, 8);
  const taken = new Set<number>();
  for (let i = 0; i < 8; i++) taken.add(pool.take());
  assert.equal(taken.size, 8);
  assert.equal(pool.take(), 0);
  const sorted = [...taken].toSorted((x, y) => x - y);
  for (let i = 1; i < 8; i++) assert.ok(sorted[i] - sorted[i - 1] >= 100);
  pool.give(sorted[3]);
  assert.equal(pool.take(), sorted[3]);
  assert.throws(() => slab.allocate(10_000), { code: "SLAB_FULL" });
});

test("drop reasons are a gapless list", () => {
  assert.deepEqual(
    Object.values(Drop),
    DROP_NAMES.map((_, i) => i),
  );
});
