import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { Drop } from "../base/drop.ts";
import { endpointFromBytes } from "../base/endpoint.ts";
import { decodeStun, encodeBindingRequest, StunClass, StunMessage } from "./stun.ts";

const hex = (text: string): Uint8Array => Uint8Array.fromHex(text.replaceAll(/\s+/g, ""));

/** RFC 5769 section 2, password "VOkJxbRl1RmTxUk/WvJxBt". */
const REQUEST = hex(`
  00010058 2112a442 b7e7a701 bc34d686 fa87dfae
  80220010 5354554e 20746573 7420636c 69656e74  00240004 6e0001ff  80290008 932ff9b1 51263b36
  00060009 6576746a 3a683676 59202020  00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2  80280004 e57a3bcf`);
const RESPONSE_4 = hex(`
  0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
  8022000b 74657374 20766563 746f7220  00200008 0001a147 e112a643
  00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7  80280004 c07d4c96`);
const RESPONSE_6 = hex(`
  01010048 2112a442 b7e7a701 bc34d686 fa87dfae
  8022000b 74657374 20766563 746f7220  00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
  00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41  80280004 c8fb0b4c`);
/** Section 2.4, user "マトリックス", realm "example.org", password "TheMatrIX". */
const LONG_TERM = hex(`
  00010060 2112a442 78ad3433 c6ad72c0 29da412e
  00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000  0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341
  0014000b 6578616d 706c652e 6f726700  00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666`);

/** HMAC-SHA1 over the message up to MESSAGE-INTEGRITY, with a length that counts that attribute (RFC 8489 section 14.5). */
function integrityHolds(bytes: Uint8Array, offset: number, key: string | Uint8Array): boolean {
  const covered = bytes.slice(0, offset);
  new DataView(covered.buffer).setUint16(2, offset - 20 + 24);
  const expected = createHmac("sha1", key).update(covered).digest();
  return expected.equals(bytes.subarray(offset + 4, offset + 24));
}

function decoded(bytes: Uint8Array): StunMessage {
  const out = new StunMessage();
  assert.equal(decodeStun(bytes, out), Drop.NONE);
  return out;
}

/** Attribute bytes with padding. */
function attribute(type: number, value: Uint8Array): Uint8Array {
  const out = new Uint8Array(4 + ((value.length + 3) & ~3));
  new DataView(out.buffer).setUint16(0, type);
  new DataView(out.buffer).setUint16(2, value.length);
  out.set(value, 4);
  return out;
}

function message(type: number, ...attributes: readonly Uint8Array[]): Uint8Array {
  const body = Buffer.concat(attributes);
  const out = new Uint8Array(20 + body.length);
  const view = new DataView(out.buffer);
  view.setUint16(0, type);
  view.setUint16(2, body.length);
  view.setUint32(4, 0x2112a442);
  out.set(body, 20);
  return out;
}

test("the sample request of RFC 5769 is read, its fingerprint and integrity hold", () => {
  const out = decoded(REQUEST);
  assert.equal(out.class, StunClass.REQUEST);
  assert.equal(out.transactionId.toHex(), "b7e7a701bc34d686fa87dfae");
  assert.equal(out.hasFingerprint, true);
  assert.equal(out.unknownRequired, 0);
  assert.ok(integrityHolds(REQUEST, out.integrityOffset, "VOkJxbRl1RmTxUk/WvJxBt"));
});

test("the sample responses of RFC 5769 tell the mapped addresses", () => {
  for (const [bytes, expected] of [
    [RESPONSE_4, { address: "192.0.2.1", port: 32853 }],
    [RESPONSE_6, { address: "2001:db8:1234:5678:11:2233:4455:6677", port: 32853 }],
  ] as const) {
    const out = decoded(bytes);
    assert.equal(out.class, StunClass.SUCCESS);
    assert.equal(out.hasMapped, true);
    assert.deepEqual(endpointFromBytes(out.mapped), expected);
    assert.equal(out.hasFingerprint, true);
    assert.ok(integrityHolds(bytes, out.integrityOffset, "VOkJxbRl1RmTxUk/WvJxBt"));
  }
});

test("the sample request with long-term credentials is read", () => {
  const out = decoded(LONG_TERM);
  const key = createHash("md5").update("マトリックス:example.org:TheMatrIX").digest();
  assert.ok(integrityHolds(LONG_TERM, out.integrityOffset, key));
  assert.equal(out.hasFingerprint, false);
});

test("a changed byte breaks the fingerprint", () => {
  const out = new StunMessage();
  for (let i = 8; i < RESPONSE_4.length - 8; i++) {
    const bytes = RESPONSE_4.slice();
    bytes[i] ^= 1;
    assert.notEqual(decodeStun(bytes, out), Drop.NONE, `byte ${i}`);
  }
});

test("a request carries its transaction id and a fingerprint that others would accept", () => {
  const id = Uint8Array.from({ length: 12 }, (_, i) => i + 1);
  const bytes = encodeBindingRequest(id);
  assert.equal(bytes.length, 28);
  const out = decoded(bytes);
  assert.equal(out.class, StunClass.REQUEST);
  assert.deepEqual(out.transactionId, id);
  assert.equal(new DataView(bytes.buffer).getUint32(24), (crc32(bytes.subarray(0, 20)) ^ 0x5354554e) >>> 0);
});

test("XOR-MAPPED-ADDRESS wins over MAPPED-ADDRESS, whichever comes first", () => {
  const plain = attribute(0x0001, hex("0001 1000 0a000001"));
  const xor = attribute(0x0020, hex("0001 a147 e112a643"));
  for (const order of [
    [plain, xor],
    [xor, plain],
  ]) {
    const out = decoded(message(0x0101, ...order));
    assert.deepEqual(endpointFromBytes(out.mapped), { address: "192.0.2.1", port: 32853 });
  }
  assert.deepEqual(endpointFromBytes(decoded(message(0x0101, plain)).mapped), { address: "10.0.0.1", port: 4096 });
});

test("the server's other address and an error are told, and an attribute that must be understood is named", () => {
  const other = decoded(message(0x0101, attribute(0x802c, hex("0001 0d97 c6336402"))));
  assert.equal(other.hasOther, true);
  assert.deepEqual(endpointFromBytes(other.other), { address: "198.51.100.2", port: 3479 });
  const error = decoded(message(0x0111, attribute(0x0009, hex("00000414"))));
  assert.equal(error.class, StunClass.ERROR);
  assert.equal(error.errorCode, 420);
  assert.equal(decoded(message(0x0101, attribute(0x7777, hex("00")))).unknownRequired, 0x7777);
  assert.equal(decoded(message(0x0101, attribute(0xc777, hex("00")))).unknownRequired, 0);
});

test("malformed messages are refused by reason", () => {
  const out = new StunMessage();
  const is = (bytes: Uint8Array, reason: Drop): void => assert.equal(decodeStun(bytes, out), reason);
  is(new Uint8Array(19), Drop.SHORT);
  is(message(0x0003), Drop.BAD_TYPE);
  is(message(0x2001), Drop.BAD_TYPE);
  is(new Uint8Array(20), Drop.BAD_TYPE);
  is(RESPONSE_4.subarray(0, -4), Drop.SHORT);
  is(message(0x0101, attribute(0x0020, hex("0003 a147 e112a643"))), Drop.BAD_INNER);
  is(message(0x0101, attribute(0x0020, hex("0002 a147 e112a643"))), Drop.BAD_INNER);
  is(message(0x0101, attribute(0x8028, hex("00000000"))), Drop.AUTH);
  is(message(0x0101, ...Array.from({ length: 40 }, () => attribute(0x8022, new Uint8Array(4)))), Drop.BAD_INNER);
  const over = message(0x0101, attribute(0x0020, hex("0001 a147 e112a643")));
  over[23] = 200;
  is(over, Drop.BAD_INNER);
});

test("no bytes make the decoder throw", () => {
  const out = new StunMessage();
  const anything = fc.oneof(
    fc.uint8Array({ maxLength: 600 }),
    fc.uint8Array({ maxLength: 120 }).map((body) => message(0x0101, body.subarray(0, body.length & ~3))),
  );
  fc.assert(fc.property(anything, (bytes) => void decodeStun(bytes, out)));
});
