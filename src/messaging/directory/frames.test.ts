import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  decodeDirectory,
  type DirectoryFrame,
  DirectoryType,
  encodeDirectory,
  MAX_LEASE_BYTES,
  MAX_LIFE_S,
  MAX_RECORDS,
  RecordRole,
} from "./frames.ts";

const key = fc.uint8Array({ minLength: 32, maxLength: 32 });
const record = fc.record({
  node: key,
  version: fc.maxSafeNat(),
  lifeS: fc.nat(MAX_LIFE_S),
  role: fc.constantFrom(...Object.values(RecordRole)),
  signature: fc.uint8Array({ minLength: 64, maxLength: 64 }),
});
const one = fc.array(record, { maxLength: 1 });
const many = fc.array(record, { maxLength: MAX_RECORDS });
const query = fc.nat(0xffffffff);

const frame: fc.Arbitrary<DirectoryFrame> = fc.oneof(
  fc.record({ type: fc.constant(DirectoryType.VISIT), key, records: one }),
  fc.record({ type: fc.constant(DirectoryType.VISITED), key, againS: query, records: many }),
  fc.record({ type: fc.constant(DirectoryType.SHUFFLE), key, records: many }),
  fc.record({ type: fc.constant(DirectoryType.SHUFFLED), key, follows: fc.boolean(), records: many }),
  fc.record({ type: fc.constant(DirectoryType.WITHDRAW), key, records: one }),
  fc.record({
    type: fc.constant(DirectoryType.LEASE),
    lease: fc.uint8Array({ minLength: 1, maxLength: MAX_LEASE_BYTES }),
  }),
  fc.record({ type: fc.constant(DirectoryType.LOCATE), query, agent: key }),
  fc.record({
    type: fc.constant(DirectoryType.LOCATED),
    query,
    agent: key,
    lease: fc.uint8Array({ maxLength: MAX_LEASE_BYTES }),
  }),
);

test("every frame is read as it was written", () => {
  fc.assert(
    fc.property(frame, (written) =>
      assert.deepEqual(decodeDirectory(encodeDirectory(written)), structuredClone(written)),
    ),
  );
});

test("noise is a frame within the bounds or nothing, never an exception", () => {
  fc.assert(
    fc.property(fc.integer({ min: 47, max: 57 }), fc.uint8Array({ maxLength: 2500 }), (type, noise) => {
      const read = decodeDirectory(Uint8Array.of(type, ...noise));
      if (read !== undefined && "records" in read) assert.ok(read.records.length <= MAX_RECORDS);
      if (read !== undefined && "lease" in read) assert.ok(read.lease.length <= MAX_LEASE_BYTES);
    }),
    { numRuns: 1000 },
  );
});

test("a record that would live too long or has an unknown role makes the frame none", () => {
  const good = {
    node: new Uint8Array(32),
    version: 1,
    lifeS: 60,
    role: RecordRole.SUBSCRIBER,
    signature: new Uint8Array(64),
  };
  const read = (change: object): DirectoryFrame | undefined =>
    decodeDirectory(
      encodeDirectory({ type: DirectoryType.SHUFFLE, key: new Uint8Array(32), records: [{ ...good, ...change }] }),
    );
  assert.notEqual(read({}), undefined);
  assert.equal(read({ lifeS: MAX_LIFE_S + 1 }), undefined);
  assert.equal(read({ role: 3 }), undefined);
});
