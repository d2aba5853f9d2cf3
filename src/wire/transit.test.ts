import assert from "node:assert/strict";
import { test } from "node:test";
import { Drop } from "../base/drop.ts";
import { SeededRandom } from "../base/random.ts";
import { decodeTransit, encodeTransitError, TRANSIT_FLAG_ERROR, TransitError, TransitHeader } from "./transit.ts";

test("an error is read as it was written", () => {
  const view = new DataView(new ArrayBuffer(16));
  const out = new TransitHeader();
  const bytes = encodeTransitError(view, 3, 0xfedc_ba98, TransitError.NO_PATH);
  assert.equal(decodeTransit(view, 3, bytes, TRANSIT_FLAG_ERROR, out), Drop.NONE);
  assert.deepEqual({ ...out }, { label: 0xfedc_ba98, isError: true, code: TransitError.NO_PATH });
});

test("a label in front of a datagram", () => {
  const view = new DataView(new ArrayBuffer(16));
  const out = new TransitHeader();
  view.setUint32(0, 7, true);
  assert.equal(decodeTransit(view, 0, 5, 0, out), Drop.NONE);
  assert.deepEqual({ ...out }, { label: 7, isError: false, code: 0 });
  assert.equal(decodeTransit(view, 0, 4, 0, out), Drop.BAD_INNER, "nothing behind the label");
  assert.equal(decodeTransit(view, 0, 5, 1, out), Drop.BAD_INNER, "an unknown flag");
  assert.equal(decodeTransit(view, 0, 5, 3, out), Drop.BAD_INNER);
  view.setUint32(0, 0, true);
  assert.equal(decodeTransit(view, 0, 5, 0, out), Drop.BAD_INNER, "zero is no label");
});

test("whatever comes in, the answer is a reason and nothing outside is read", () => {
  const random = new SeededRandom(5);
  const out = new TransitHeader();
  for (let i = 0; i < 5_000; i++) {
    const bytes = random.bytes(random.u32() % 12);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const reason = decodeTransit(view, 0, bytes.length, random.u32() % 4, out);
    assert.ok(reason === Drop.NONE || reason === Drop.BAD_INNER);
  }
});
