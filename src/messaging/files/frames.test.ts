import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { concat } from "../../base/bytes.ts";
import {
  type Answer,
  ANSWER_HEADER_BYTES,
  AnswerReader,
  decodeDescription,
  decodeOffer,
  decodeRequest,
  decodeStatus,
  encodeOffer,
  encodeRequest,
  encodeStatus,
  FileCode,
  FileRequest,
  OFFER_HEADER_BYTES,
  offerNameBytes,
  OfferState,
  REQUEST_BYTES,
  STATUS_BYTES,
  writeAnswerHeader,
} from "./frames.ts";
import { numberedName, safeFileName } from "./names.ts";

const id = new Uint8Array(32).fill(9);

function answer(type: number, code: FileCode, index: number, bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(ANSWER_HEADER_BYTES + bytes.length);
  out.set(bytes, ANSWER_HEADER_BYTES);
  writeAnswerHeader(out, type, code, index, bytes.length);
  return out;
}

const newReader = (): AnswerReader => new AnswerReader((bytes) => new Uint8Array(bytes));

test("answers come out as they went in, however the stream is cut", () => {
  const one = fc.record(
    { index: fc.nat(0xffffffff), bytes: fc.uint8Array({ maxLength: 600 }) },
    { noNullPrototype: true },
  );
  const cuts = fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 10 });
  fc.assert(
    fc.property(fc.array(one, { maxLength: 6 }), cuts, (sent, sizes) => {
      const stream = concat(...sent.map(({ index, bytes }) => answer(FileRequest.CHUNKS, FileCode.OK, index, bytes)));
      const got: Answer[] = [];
      const reader = newReader();
      for (let at = 0, i = 0; at < stream.length; at += sizes[i++ % sizes.length]) {
        assert.ok(reader.add(stream.subarray(at, at + sizes[i % sizes.length]), (each) => got.push(each)));
      }
      assert.deepEqual(
        got.map(({ index, prefixed }) => ({ index, bytes: prefixed.subarray(1) })),
        sent,
      );
      assert.ok(got.every(({ prefixed }) => prefixed[0] === 0));
    }),
  );
});

test("a length beyond what its type may have ends the stream before memory is taken", () => {
  for (const [type, code, length] of [
    [FileRequest.CHUNKS, FileCode.OK, 262_145],
    [FileRequest.PAGE, FileCode.OK, 131_073],
    [FileRequest.DESCRIBE, FileCode.OK, 40_000],
    [FileRequest.CHUNKS, FileCode.GONE, 1],
    [9, FileCode.OK, 0],
  ] as const) {
    const header = new Uint8Array(ANSWER_HEADER_BYTES);
    writeAnswerHeader(header, type, code, 0, length);
    const reader = new AnswerReader(() => assert.fail("memory was taken"));
    assert.equal(
      reader.add(header, () => assert.fail("an answer")),
      false,
    );
  }
});

test("no bytes make a decoder fail, and what it takes it would write the same", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 330 }), (bytes) => {
      const request = decodeRequest(bytes.subarray(0, REQUEST_BYTES));
      if (request !== undefined) assert.deepEqual(encodeRequest(request), bytes.subarray(0, REQUEST_BYTES));
      const status = decodeStatus(bytes.subarray(0, STATUS_BYTES));
      if (status !== undefined) assert.equal(encodeStatus(status).length, STATUS_BYTES);
      decodeDescription(bytes);
      decodeOffer(bytes.subarray(0, OFFER_HEADER_BYTES), bytes.subarray(OFFER_HEADER_BYTES));
      newReader().add(bytes, () => undefined);
    }),
  );
  const request = { type: FileRequest.CHUNKS, first: 7, count: 64, id };
  assert.deepEqual(decodeRequest(encodeRequest(request)), request);
  assert.equal(decodeRequest(encodeRequest({ ...request, count: 65 })), undefined);
  assert.equal(decodeRequest(encodeRequest({ ...request, count: 0 })), undefined);
  const status = { state: OfferState.FETCHING, code: 0, haveBytes: 2 ** 40 + 3 };
  assert.deepEqual(decodeStatus(encodeStatus(status)), status);
});

test("an offer survives the way", () => {
  const offer = { id, sizeBytes: 5_000_000_000, name: "grüße.tar.gz" };
  const bytes = encodeOffer(offer);
  const head = bytes.subarray(0, OFFER_HEADER_BYTES);
  assert.equal(offerNameBytes(head), bytes.length - OFFER_HEADER_BYTES);
  assert.deepEqual(decodeOffer(head, bytes.subarray(OFFER_HEADER_BYTES)), offer);
});

test("names of others stay in the directory and are seen", () => {
  for (const [from, to] of [
    ["report.pdf", "report.pdf"],
    ["../../etc/passwd", "passwd"],
    ["C:\\x\\..\\a b.txt", "a b.txt"],
    [".bashrc", "_bashrc"],
    ["..", "_"],
    ["a\u0000b\u202Efdp.exe\n", "abfdp.exe"],
    ["", "file"],
    ["dir/", "file"],
  ])
    assert.equal(safeFileName(from), to);
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 120 }), (text) => {
      const name = safeFileName(text);
      assert.ok(name.length > 0 && Buffer.byteLength(name) <= 200);
      assert.doesNotMatch(name, /[/\\\0]|^\./);
    }),
  );
  assert.equal(numberedName("a.tar.gz", 3), "a.tar (3).gz");
  assert.equal(numberedName("a", 2), "a (2)");
  assert.equal(numberedName(".x", 2), ".x (2)");
});
