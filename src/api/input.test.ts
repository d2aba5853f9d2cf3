import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import * as z from "zod/mini";
import { flag, list, OBJECT, payloadOf, payloadView, text, whole } from "./fields.ts";
import { isDeeperThan, parseJson, validateText } from "./input.ts";

/** The plain way: parse, then walk. */
function depthOf(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  return 1 + Math.max(0, ...Object.values(value).map(depthOf));
}

test("nesting is counted as a walk over the parsed value counts it, whatever stands in strings", () => {
  const tricky = fc.constantFrom("[", "{", '"', "\\", '\\"', "]}", "\\\\", '"[{');
  const value = fc.letrec((tie) => ({
    any: fc.oneof(
      { depthSize: "large" },
      tricky,
      fc.integer(),
      fc.array(tie("any"), { maxLength: 3 }),
      fc.dictionary(tricky, tie("any"), { maxKeys: 3 }),
    ),
  })).any;
  fc.assert(
    fc.property(value, fc.nat(12), (given, most) => {
      assert.equal(isDeeperThan(JSON.stringify(given), most), depthOf(given) > most);
    }),
    { numRuns: 500 },
  );
});

test("what is no JSON, or nests too deep, is BAD_REQUEST and nothing else", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (given) => {
      try {
        parseJson(given);
      } catch (error) {
        assert.equal((error as { code?: string }).code, "BAD_REQUEST");
      }
    }),
  );
  assert.throws(() => parseJson("[".repeat(1_000_000)), { code: "BAD_REQUEST", message: /deeper/ });
});

test("values of a query become what the schema says, strictly", () => {
  const schema = z.strictObject(
    {
      limit: z.optional(whole(1, 9)),
      on: z.optional(flag()),
      from: z.optional(list(text(5), 3)),
      name: z.optional(text(5)),
    },
    OBJECT,
  );
  assert.deepEqual(validateText(schema, { limit: ["7"], on: ["false"], from: ["a", "b"], name: "7" }), {
    limit: 7,
    on: false,
    from: ["a", "b"],
    name: "7",
  });
  for (const wrong of [
    { limit: ["07x"] },
    { limit: ["1", "2"] },
    { limit: [""] },
    { limit: ["0x1"] },
    { on: ["1"] },
    { name: ["a", "b"] },
    { other: ["1"] },
  ])
    assert.throws(
      () => validateText(schema, wrong as Record<string, string[]>),
      { code: "BAD_REQUEST" },
      JSON.stringify(wrong),
    );
});

test("a payload comes back as it went in, as text when it is text; both or none is refused", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), fc.string({ unit: "grapheme" }), (bytes, written) => {
      assert.deepEqual(payloadOf({ data: payloadView(bytes).data }, 60), bytes);
      const view = payloadView(payloadOf({ text: written }, 1000));
      assert.equal(view.text, written);
    }),
  );
  assert.equal(payloadView(Uint8Array.of(0xff)).text, null);
  assert.throws(() => payloadOf({}, 10), { code: "BAD_REQUEST" });
  assert.throws(() => payloadOf({ text: "a", data: "" }, 10), { code: "BAD_REQUEST" });
  assert.throws(() => payloadOf({ text: "ü".repeat(6) }, 10), { code: "TOO_LARGE" });
});
