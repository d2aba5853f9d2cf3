import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  completeTransportChecksum,
  fold,
  ipv4HeaderChecksum,
  ipv4HeaderOk,
  pseudoHeaderSum,
  sum16,
  transportChecksumOk,
  updateChecksum,
  updateChecksum32,
  writePartialChecksum,
} from "./checksum.ts";
import { fromHex } from "../base/bytes.ts";

/** RFC 1071 §1, word by word: the definition. */
function plainSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += bytes[i] * 256 + (i + 1 < bytes.length ? bytes[i + 1] : 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

/** A packet with random addresses and payload, room before and behind it filled with noise that must not count. */
function packet(
  version: 4 | 6,
  protocol: number,
  payload: Uint8Array,
  noise: number,
): { u8: Uint8Array; view: DataView; ip: number } {
  const ip = 3;
  const header = version === 4 ? 20 : 40;
  const u8 = new Uint8Array(ip + header + payload.length + 5).fill(noise);
  const view = new DataView(u8.buffer);
  for (let i = 0; i < header; i++) u8[ip + i] = (noise * 31 + i * 7) & 0xff;
  u8[ip] = version === 4 ? 0x45 : 0x60;
  if (version === 4) u8[ip + 9] = protocol;
  u8.set(payload, ip + header);
  return { u8, view, ip };
}

/** Independent computation over a written-out pseudo header (RFC 9293 §3.1, RFC 8200 §8.1). */
function referenceChecksum(
  u8: Uint8Array,
  ip: number,
  version: 4 | 6,
  protocol: number,
  transport: Uint8Array,
): number {
  const source = version === 4 ? u8.slice(ip + 12, ip + 16) : u8.slice(ip + 8, ip + 24);
  const destination = version === 4 ? u8.slice(ip + 16, ip + 20) : u8.slice(ip + 24, ip + 40);
  const length = transport.length;
  const tail =
    version === 4 ? [0, protocol, length >> 8, length & 255] : [0, 0, length >> 8, length & 255, 0, 0, 0, protocol];
  const even = protocol === 1 ? [] : [...source, ...destination, ...tail];
  return ~plainSum(Uint8Array.from([...even, ...transport])) & 0xffff;
}

test("the bulk sum equals the word-by-word definition for every length from 0 to 300 at every alignment", () => {
  const u8 = new Uint8Array(400);
  for (let i = 0; i < u8.length; i++) u8[i] = (i * 167 + 89) & 0xff;
  const view = new DataView(u8.buffer);
  for (let length = 0; length <= 300; length++) {
    for (let offset = 0; offset < 4; offset++) {
      assert.equal(fold(sum16(u8, view, offset, length)), plainSum(u8.slice(offset, offset + length)));
    }
  }
});

test("the bulk sum equals the definition on random bytes and on 64 KiB of ones", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 3000, size: "max" }), fc.nat(0xffff), (bytes, initial) => {
      const u8 = Uint8Array.from(bytes);
      const expected = plainSum(u8) + initial;
      assert.equal(
        fold(sum16(u8, new DataView(u8.buffer), 0, u8.length, initial)),
        expected > 0xffff ? expected - 0xffff : expected,
      );
    }),
  );
  const ones = new Uint8Array(65535).fill(0xff);
  assert.equal(fold(sum16(ones, new DataView(ones.buffer), 0, ones.length)), plainSum(ones));
});

test("folding keeps the value modulo 65535 for sums up to 2^53", () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), (sum) => {
      const folded = fold(sum);
      assert.ok(folded >= 0 && folded <= 0xffff);
      assert.equal(folded % 0xffff, sum % 0xffff);
      assert.equal(folded === 0, sum === 0);
    }),
  );
});

test("RFC 1071 §3 example sums to ddf2", () => {
  const u8 = fromHex("0001f203f4f5f6f7")!;
  assert.equal(fold(sum16(u8, new DataView(u8.buffer, u8.byteOffset), 0, 8)), 0xddf2);
});

test("RFC 1624 §4 example: dd2f becomes 0000 when 5555 becomes 3285", () => {
  assert.equal(updateChecksum(0xdd2f, 0x5555, 0x3285), 0x0000);
});

test("an incremental update equals summing again", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 24, maxLength: 24, size: "max" }),
      fc.nat(4),
      fc.nat(0xffffffff),
      (bytes, index, value) => {
        const u8 = Uint8Array.from(bytes);
        const view = new DataView(u8.buffer);
        // The first word is never zero, so the two zeros of ones' complement cannot be confused.
        view.setUint16(0, 0x4500);
        const before = ~plainSum(u8) & 0xffff;
        const at = 4 + index * 4;
        const old = view.getUint32(at);
        view.setUint32(at, value);
        assert.equal(updateChecksum32(before, old, value), ~plainSum(u8) & 0xffff);
      },
    ),
  );
});

test("the header 192.168.0.1 → 192.168.0.199 of the well-known worked example has the checksum b861", () => {
  const u8 = fromHex("4500007300004000401100 00c0a80001c0a800c7".replaceAll(" ", ""))!;
  const view = new DataView(u8.buffer, u8.byteOffset);
  assert.equal(ipv4HeaderChecksum(view, 0, 20), 0xb861);
  assert.equal(ipv4HeaderOk(view, 0, 20), false);
  view.setUint16(10, 0xb861);
  assert.equal(ipv4HeaderChecksum(view, 0, 20), 0xb861, "what the field holds does not matter");
  assert.equal(ipv4HeaderOk(view, 0, 20), true);
});

for (const version of [4, 6] as const) {
  for (const [name, protocol, field] of [
    ["TCP", 6, 16],
    ["UDP", 17, 6],
    ["ICMP", version === 4 ? 1 : 58, 2],
  ] as const) {
    test(`completing ${name} over IPv${version} equals the reference, verifies, and one changed bit does not`, () => {
      fc.assert(
        fc.property(
          fc.uint8Array({ minLength: 20, maxLength: 200, size: "max" }),
          fc.nat(255),
          fc.nat(),
          (payload, noise, where) => {
            const { u8, view, ip } = packet(version, protocol, payload, noise);
            const transport = ip + (version === 4 ? 20 : 40);
            const outside = u8[transport + payload.length];
            assert.equal(completeTransportChecksum(u8, view, ip, transport, payload.length, protocol), true);
            const zeroed = u8.slice(transport, transport + payload.length);
            zeroed[field] = 0;
            zeroed[field + 1] = 0;
            const expected = referenceChecksum(u8, ip, version, protocol, zeroed);
            assert.equal(view.getUint16(transport + field), expected === 0 && protocol === 17 ? 0xffff : expected);
            assert.equal(transportChecksumOk(u8, view, ip, transport, payload.length, protocol), true);
            assert.equal(u8[transport + payload.length], outside);
            const bit = where % (payload.length * 8);
            u8[transport + (bit >> 3)] ^= 1 << (bit & 7);
            assert.equal(transportChecksumOk(u8, view, ip, transport, payload.length, protocol), false);
          },
        ),
      );
    });
  }
}

test("a UDP checksum that computes to zero is sent as ffff, and zero itself is not taken as verified", () => {
  const { u8, view, ip } = packet(4, 17, new Uint8Array(10), 0);
  const transport = ip + 20;
  // Choose the payload word so that everything sums to ffff.
  const rest = fold(pseudoHeaderSum(view, ip, 17, 10));
  view.setUint16(transport + 8, 0xffff - rest);
  completeTransportChecksum(u8, view, ip, transport, 10, 17);
  assert.equal(view.getUint16(transport + 6), 0xffff);
  assert.equal(transportChecksumOk(u8, view, ip, transport, 10, 17), true);
  view.setUint16(transport + 6, 0);
  assert.equal(transportChecksumOk(u8, view, ip, transport, 10, 17), false);
});

test("a partial checksum completed over its own field equals the whole one, as a network card would do it", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 20, maxLength: 99, size: "max" }),
      fc.constantFrom(4 as const, 6 as const),
      (payload, version) => {
        const { u8, view, ip } = packet(version, 6, payload, 77);
        const transport = ip + (version === 4 ? 20 : 40);
        assert.equal(writePartialChecksum(view, ip, transport, payload.length, 6), true);
        const card = ~plainSum(u8.slice(transport, transport + payload.length)) & 0xffff;
        completeTransportChecksum(u8, view, ip, transport, payload.length, 6);
        assert.equal(view.getUint16(transport + 16), card);
      },
    ),
  );
});

test("a segment too short for its checksum field and an unknown protocol are refused untouched", () => {
  const { u8, view, ip } = packet(4, 6, new Uint8Array(17), 9);
  const before = u8.slice();
  assert.equal(completeTransportChecksum(u8, view, ip, ip + 20, 17, 6), false);
  assert.equal(completeTransportChecksum(u8, view, ip, ip + 20, 17, 132), false);
  assert.equal(writePartialChecksum(view, ip, ip + 20, 17, 6), false);
  assert.equal(writePartialChecksum(view, ip, ip + 20, 17, 1), false);
  assert.equal(transportChecksumOk(u8, view, ip, ip + 20, 17, 6), false);
  assert.deepEqual(u8, before);
});
