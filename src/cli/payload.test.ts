import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { asPayload, inputLines } from "./payload.ts";

async function* pieces(bytes: Buffer, cuts: readonly number[]): AsyncGenerator<Buffer> {
  let at = 0;
  for (const cut of cuts.map((one) => one % (bytes.length + 1)).toSorted((a, b) => a - b)) {
    yield bytes.subarray(at, cut);
    at = cut;
  }
  yield bytes.subarray(at);
}

async function collect(lines: AsyncIterable<unknown>): Promise<unknown[]> {
  const all: unknown[] = [];
  for await (const line of lines) all.push(line);
  return all;
}

test("lines come out the same however the pipe cuts them", async () => {
  const line = fc.string({ unit: "grapheme", maxLength: 20 }).filter((text) => !/[\n\r]/.test(text));
  await fc.assert(
    fc.asyncProperty(fc.array(line), fc.constantFrom("\n", "\r\n"), fc.array(fc.nat(500)), async (lines, end, cuts) => {
      const bytes = Buffer.from(lines.map((text) => text + end).join(""));
      const expected = lines.map((text) => asPayload(Buffer.from(text)));
      assert.deepEqual(await collect(inputLines(1000, pieces(bytes, cuts))), expected);
    }),
    { numRuns: 100 },
  );
});

test("a last line without an end counts, bytes that are no text go as base64, and too long a line is an error", async () => {
  assert.deepEqual(await collect(inputLines(10, pieces(Buffer.from("a\n\nb"), []))), [
    { text: "a" },
    { text: "" },
    { text: "b" },
  ]);
  assert.deepEqual(await collect(inputLines(10, pieces(Buffer.from([0xff, 0x0a]), []))), [{ data: "/w==" }]);
  await assert.rejects(collect(inputLines(10, pieces(Buffer.from("x".repeat(11)), [3, 6]))), { code: "USAGE" });
});
