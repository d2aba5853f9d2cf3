import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { concat } from "../../base/bytes.ts";
import {
  decodeExecRequest,
  encodeExecRecord,
  encodeExecRequest,
  EXEC_HEAD_BYTES,
  execBodyBytes,
  ExecRecord,
  ExecRecordReader,
} from "./exec-frames.ts";

test("a request survives the way, whatever its arguments", () => {
  const args = fc.array(fc.string({ unit: "grapheme", maxLength: 50 }), { maxLength: 64 });
  fc.assert(
    fc.property(args, (texts) => {
      const bytes = encodeExecRequest({ name: "backup-now", args: texts });
      const head = bytes.subarray(0, EXEC_HEAD_BYTES);
      assert.equal(execBodyBytes(head), bytes.length - EXEC_HEAD_BYTES);
      assert.deepEqual(decodeExecRequest(head, bytes.subarray(EXEC_HEAD_BYTES)), { name: "backup-now", args: texts });
    }),
  );
  assert.throws(() => encodeExecRequest({ name: "x", args: Array.from({ length: 65 }, () => "") }), RangeError);
  assert.throws(() => encodeExecRequest({ name: "x", args: ["a".repeat(70_000)] }), RangeError);
});

test("records come out as they went in, however the stream is cut; other bytes end it", () => {
  const record = fc.tuple(fc.constantFrom(ExecRecord.OUT, ExecRecord.ERR), fc.uint8Array({ maxLength: 300 }));
  const cuts = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 9 });
  fc.assert(
    fc.property(fc.array(record, { maxLength: 8 }), cuts, (sent, sizes) => {
      const stream = concat(...sent.map(([type, bytes]) => encodeExecRecord(type, bytes)));
      const reader = new ExecRecordReader();
      const got: [ExecRecord, Uint8Array][] = [];
      for (let at = 0, i = 0; at < stream.length; at += sizes[i++ % sizes.length])
        assert.ok(
          reader.add(stream.subarray(at, at + sizes[i % sizes.length]), (type, bytes) => got.push([type, bytes])),
        );
      assert.deepEqual(got, sent);
    }),
  );
  const fail = (): void => assert.fail("a record");
  assert.equal(new ExecRecordReader().add(Uint8Array.of(5, 0, 0, 0, 0, 0, 0, 0), fail), false);
  assert.equal(new ExecRecordReader().add(Uint8Array.of(1, 0, 0, 0, 1, 0, 1, 0), fail), false);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      new ExecRecordReader().add(bytes, () => undefined);
      decodeExecRequest(bytes.subarray(0, EXEC_HEAD_BYTES), bytes.subarray(EXEC_HEAD_BYTES));
    }),
  );
});
