import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encode } from "cborg";
import { decodeCanonicalCbor, decodeCbor, encodeCbor } from "./cbor.ts";
import {
  type ControlMessage,
  type JoinAnswer,
  type JoinRequest,
  ControlFault,
  decodeControl,
  encodeControl,
  MAX_CONTROL_BYTES,
  MAX_HASHES,
  MAX_KNOWN,
  MAX_RANGES,
  MAX_SEEK,
  packWires,
} from "./control.ts";

const bytes = (length: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: length, maxLength: length });
const clock: fc.Arbitrary<number> = fc.maxSafeNat();
const fingerprint = fc.record({ count: fc.nat(100_000), fingerprint: bytes(16) }, { noNullPrototype: true });
const text = (max: number): fc.Arbitrary<string> => fc.string({ maxLength: max });

function record<T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> {
  return fc.record(model, { noNullPrototype: true });
}

const joinRequest: fc.Arbitrary<JoinRequest> = record({
  type: fc.constant("join" as const),
  networkId: bytes(32),
  nodeId: bytes(32),
  name: text(63),
  exactName: fc.boolean(),
  inviteId: bytes(8),
  wallMs: clock,
  signature: bytes(64),
});

const joinAnswer: fc.Arbitrary<JoinAnswer> = fc.oneof(
  record({
    type: fc.constant("answer" as const),
    ok: fc.constant(true as const),
    admission: bytes(32),
    inviteId: bytes(8),
  }),
  record({
    type: fc.constant("answer" as const),
    ok: fc.constant(false as const),
    inviteId: bytes(8),
    code: text(64),
    text: text(200),
    remedy: text(200),
    details: fc.dictionary(
      text(32).filter((key) => key !== "__proto__"),
      fc.oneof(fc.integer(), text(40)),
      { maxKeys: 4, noNullPrototype: true },
    ),
  }),
);

const message: fc.Arbitrary<ControlMessage> = fc.oneof(
  record({
    type: fc.constant("hello" as const),
    buildId: text(64),
    protocol: fc.tuple(fc.nat(65_535), fc.nat(65_535)),
    capabilities: fc.nat(0xffffffff),
    name: text(63),
  }),
  record({
    type: fc.constant("digest" as const),
    roster: fingerprint,
    endpoints: fingerprint,
    isAnswer: fc.boolean(),
  }),
  fc
    .tuple(fc.uniqueArray(clock, { minLength: 1, maxLength: MAX_RANGES + 1 }), fingerprint)
    .map(([clocks, digest]): ControlMessage => {
      const [lower, ...uppers] = clocks.toSorted((a, b) => a - b) as [number, ...number[]];
      return { type: "ranges", lower, ranges: uppers.map((upper) => ({ upper, ...digest })) };
    }),
  record({
    type: fc.constant("have" as const),
    lower: fc.nat(1000),
    upper: clock.map((value) => value + 1001 - (value > 1e15 ? 1002 : 0)),
    from: bytes(32),
    below: fc.option(bytes(32), { nil: undefined }),
    hashes: fc.array(bytes(32), { maxLength: MAX_HASHES }),
  }),
  record({ type: fc.constant("want" as const), hashes: fc.array(bytes(32), { maxLength: MAX_HASHES }) }),
  record({
    type: fc.constant("statements" as const),
    wires: fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }),
  }),
  record({
    type: fc.constant("endpoints" as const),
    wires: fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }),
  }),
  record({
    type: fc.constant("known" as const),
    from: bytes(8),
    below: fc.option(bytes(8), { nil: undefined }),
    entries: fc.array(record({ idPrefix: bytes(8), hlc: clock }), { maxLength: MAX_KNOWN }),
  }),
  record({ type: fc.constant("seek" as const), idPrefixes: fc.array(bytes(8), { maxLength: MAX_SEEK }) }),
  joinRequest,
  joinAnswer,
  record({ type: fc.constant("joinVia" as const), staticKey: bytes(32), request: joinRequest }),
  record({ type: fc.constant("answerVia" as const), staticKey: bytes(32), answer: joinAnswer }),
  record({ type: fc.constant("leave" as const), wire: fc.uint8Array({ maxLength: 1024 }) }),
  record({ type: fc.constant("left" as const), hash: bytes(32) }),
  fc.constant({ type: "bye" as const }),
);

test("every message survives encoding and decoding", () => {
  fc.assert(
    fc.property(message, (original) => {
      const encoded = encodeControl(original);
      assert.ok(encoded.length <= MAX_CONTROL_BYTES);
      assert.deepEqual(decodeControl(encoded), original);
    }),
    { numRuns: 1500 },
  );
});

test("the longest lists fit one message", () => {
  const hash = new Uint8Array(32);
  const big = Number.MAX_SAFE_INTEGER;
  const wires = [new Uint8Array(1024)];
  const ranges = Array.from({ length: MAX_RANGES }, (_, i) => ({
    upper: big - MAX_RANGES + i,
    count: big,
    fingerprint: new Uint8Array(16),
  }));
  const hashes = Array.from({ length: MAX_HASHES }, () => hash);
  const entries = Array.from({ length: MAX_KNOWN }, () => ({ idPrefix: new Uint8Array(8), hlc: big }));
  const longest: ControlMessage[] = [
    { type: "ranges", lower: 1, ranges },
    { type: "have", lower: 1, upper: big, from: hash, below: hash, hashes },
    { type: "known", from: new Uint8Array(8), below: new Uint8Array(8), entries },
    { type: "seek", idPrefixes: Array.from({ length: MAX_SEEK }, () => new Uint8Array(8)) },
    { type: "statements", wires },
    { type: "leave", wire: wires[0] },
  ];
  for (const one of longest) assert.deepEqual(decodeControl(encodeControl(one)), one);
});

test("wires are packed so that each group fits, in order and without loss", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(1024), { maxLength: 60 }), (lengths) => {
      const wires = lengths.map((length, i) => new Uint8Array(length).fill(i));
      const groups = packWires(wires);
      assert.deepEqual(groups.flat(), wires);
      for (const group of groups)
        assert.ok(encodeControl({ type: "statements", wires: group }).length <= MAX_CONTROL_BYTES);
    }),
  );
});

test("hostile bytes are a counted fault and never an exception", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1300 }), (raw) => {
      const decoded = decodeControl(raw);
      if (typeof decoded === "object") assert.ok(decoded.type.length > 0);
    }),
    { numRuns: 3000 },
  );
  fc.assert(
    fc.property(message, fc.nat(), fc.nat(255), fc.nat(), (original, at, value, cut) => {
      const raw = encodeControl(original);
      raw[at % raw.length] = value;
      decodeControl(raw);
      decodeControl(raw.subarray(0, cut % raw.length));
    }),
    { numRuns: 2000 },
  );
});

test("any CBOR value in any field is survived", () => {
  const types = [
    "hello",
    "digest",
    "ranges",
    "have",
    "want",
    "statements",
    "endpoints",
    "known",
    "seek",
    "join",
    "answer",
    "leave",
    "left",
    "bye",
  ];
  const fields = [
    "t",
    "b",
    "p",
    "c",
    "n",
    "r",
    "e",
    "a",
    "l",
    "u",
    "f",
    "o",
    "h",
    "s",
    "net",
    "node",
    "name",
    "inv",
    "wall",
    "sig",
    "ok",
    "hash",
    "code",
    "text",
    "fix",
    "d",
  ];
  const value = fc.oneof(
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.string({ maxLength: 9 }),
    fc.uint8Array({ maxLength: 40 }),
  );
  const nested = fc.oneof(
    value,
    fc.array(fc.oneof(value, fc.array(value, { maxLength: 3 })), { maxLength: 4 }),
    fc.dictionary(fc.string(), value, { maxKeys: 3, noNullPrototype: true }),
  );
  fc.assert(
    fc.property(
      fc.constantFrom(...types),
      fc.dictionary(fc.constantFrom(...fields), nested, { noNullPrototype: true }),
      (type, map) => {
        const decoded = decodeControl(encode({ ...map, t: type }));
        assert.ok(decoded === ControlFault.MALFORMED || typeof decoded === "object");
      },
    ),
    { numRuns: 2000 },
  );
});

test("unknown types are told apart from malformed ones, and unknown fields are ignored", () => {
  assert.equal(decodeControl(encode({ t: "teleport", x: 1 })), ControlFault.UNKNOWN_TYPE);
  assert.equal(decodeControl(encode({ x: 1 })), ControlFault.MALFORMED);
  assert.equal(decodeControl(encode(["bye"])), ControlFault.MALFORMED);
  assert.equal(decodeControl(new Uint8Array(0)), ControlFault.MALFORMED);
  assert.deepEqual(decodeControl(encode({ t: "bye", later: [1] })), { type: "bye" });
  assert.equal(decodeControl(encode({ t: "bye", pad: new Uint8Array(1200) })), ControlFault.MALFORMED);
});

test("ranges that do not ascend are malformed", () => {
  const ranges = [9, 9].map((upper) => ({ upper, count: 0, fingerprint: new Uint8Array(16) }));
  assert.equal(decodeControl(encodeControl({ type: "ranges", lower: 1, ranges })), ControlFault.MALFORMED);
});

test("CBOR: depth, duplicates, tags, floats, indefinite lengths and trailing bytes are refused before or while decoding", () => {
  const refused = [
    "a2616101616102", // duplicate key
    "c101", // tag
    "f93c00", // float
    "fb3ff0000000000000",
    "f7", // undefined
    "9f01ff", // indefinite array
    "5f4101ff",
    "0101", // two items
    "1801", // integer not in its shortest form
    "a10102", // key that is no text
    "a161", // cut off
    "1bffffffffffffffff", // above 2^53 − 1
    "9bffffffffffffffff", // array longer than everything
    "7affffffff61",
    "81".repeat(9) + "00", // nine levels
    "ff",
    "",
  ];
  for (const hex of refused) assert.equal(decodeCbor(Uint8Array.fromHex(hex), 100), undefined, hex);
  assert.ok(decodeCbor(Uint8Array.fromHex("81".repeat(7) + "00"), 100) !== undefined);
  assert.equal(decodeCbor(new Uint8Array(200).fill(0x81), 1000), undefined);
  assert.equal(decodeCbor(encodeCbor({ a: 1 }), 3), undefined);
});

test("CBOR: the canonical decoder takes exactly what the encoder makes", () => {
  const value = { b: 1, a: new Uint8Array([1, 2]), list: ["x", null, true, -5, { z: 0 }] };
  const encoded = encodeCbor(value);
  assert.deepEqual(decodeCanonicalCbor(encoded, 100), value);
  // the same map with its keys in another order
  assert.ok(decodeCbor(Uint8Array.fromHex("a2616201616102"), 100) !== undefined);
  assert.equal(decodeCanonicalCbor(Uint8Array.fromHex("a2616201616102"), 100), undefined);
  // text that is not UTF-8
  assert.equal(decodeCanonicalCbor(Uint8Array.fromHex("61ff"), 100), undefined);
});
