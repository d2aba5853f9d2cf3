import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { Slab } from "../base/slab.ts";
import { createMac, MAC_BYTES } from "./mac.ts";

const slab = new Slab(1 << 18);
const mac = createMac({ slab });
const source = slab.allocate(65_536);
const target = slab.allocate(64);

/** RFC 4231, HMAC-SHA-256, test cases 1 to 4, 6 and 7 (5 is truncated). */
const RFC_4231: readonly (readonly [key: Buffer, data: Buffer, mac: string])[] = [
  [Buffer.alloc(20, 0x0b), Buffer.from("Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"],
  [
    Buffer.from("Jefe"),
    Buffer.from("what do ya want for nothing?"),
    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
  ],
  [Buffer.alloc(20, 0xaa), Buffer.alloc(50, 0xdd), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"],
  [
    Buffer.from("0102030405060708090a0b0c0d0e0f10111213141516171819", "hex"),
    Buffer.alloc(50, 0xcd),
    "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
  ],
  [
    Buffer.alloc(131, 0xaa),
    Buffer.from("Test Using Larger Than Block-Size Key - Hash Key First"),
    "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
  ],
  [
    Buffer.alloc(131, 0xaa),
    Buffer.from(
      "This is a test using a larger than block-size key and a larger than block-size data. " +
        "The key needs to be hashed before being used by the HMAC algorithm.",
    ),
    "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
  ],
];

describe("HMAC-SHA256 over the slab", () => {
  it("answers the vectors of RFC 4231", () => {
    for (const [key, data, expected] of RFC_4231) {
      const handle = mac.create(key);
      slab.u8.set(data, source);
      mac.compute(handle, source, data.length, target);
      assert.equal(Buffer.from(slab.u8.slice(target, target + MAC_BYTES)).toString("hex"), expected);
      mac.destroy(handle);
    }
  });

  it("equals node:crypto's for any key and length, again and again under one handle", () => {
    const key = fc.uint8Array({ minLength: 1, maxLength: 200 });
    fc.assert(
      fc.property(
        key,
        fc.array(fc.integer({ min: 0, max: 3000 }), { minLength: 1, maxLength: 4 }),
        (bytes, lengths) => {
          const handle = mac.create(bytes);
          for (const length of lengths) {
            for (let i = 0; i < length; i++) slab.u8[source + i] = (i * 13 + length) & 255;
            mac.compute(handle, source, length, target);
            const expected = createHmac("sha256", bytes)
              .update(slab.u8.subarray(source, source + length))
              .digest();
            assert.ok(expected.equals(slab.u8.slice(target, target + MAC_BYTES)));
          }
          mac.destroy(handle);
        },
      ),
      { numRuns: 100 },
    );
  });

  it("keeps keys of several handles apart", () => {
    const a = mac.create(Buffer.from("a"));
    const b = mac.create(Buffer.from("b"));
    mac.compute(a, source, 10, target);
    const first = slab.u8.slice(target, target + MAC_BYTES);
    mac.compute(b, source, 10, target);
    assert.notDeepEqual(slab.u8.slice(target, target + MAC_BYTES), first);
    mac.compute(a, source, 10, target);
    assert.deepEqual(slab.u8.slice(target, target + MAC_BYTES), first);
    mac.destroy(a);
    mac.destroy(b);
  });

  it("never uses a destroyed handle", () => {
    const handle = mac.create(Buffer.from("key"));
    mac.destroy(handle);
    assert.throws(() => mac.compute(handle, source, 1, target), RangeError);
    assert.throws(() => mac.destroy(handle), RangeError);
    assert.throws(() => mac.create(new Uint8Array(0)), RangeError);
  });
});
