/**
 * From the bytes of a request to what a handler gets: bounded first, then parsed, then validated. Every refusal is BAD_REQUEST with the
 * name of the field; nothing here throws anything else on any input.
 */
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import type { Schema } from "./messaging/route.ts";

/** Deeper JSON is refused before it is parsed: code behind may walk values recursively. */
const MAX_DEPTH = 32;

/** @returns true when brackets and braces outside of strings nest deeper than `most` */
export function isDeeperThan(json: string, most: number): boolean {
  let depth = 0;
  for (let at = 0; at < json.length; at++) {
    switch (json.charCodeAt(at)) {
      case 0x22: // quote: on to the one that ends the string
        for (at++; at < json.length && json.charCodeAt(at) !== 0x22; at++) if (json.charCodeAt(at) === 0x5c) at++;
        break;
      case 0x5b:
      case 0x7b:
        if (++depth > most) return true;
        break;
      case 0x5d:
      case 0x7d:
        depth--;
        break;
    }
  }
  return false;
}

/** @throws WeftError BAD_REQUEST */
export function parseJson(json: string): unknown {
  if (isDeeperThan(json, MAX_DEPTH)) {
    throw new WeftError("BAD_REQUEST", `the body nests deeper than ${MAX_DEPTH}`, "send a flatter JSON object");
  }
  try {
    return json === "" ? {} : JSON.parse(json);
  } catch (cause) {
    throw new WeftError("BAD_REQUEST", "the body is not JSON", "send a JSON object", { cause });
  }
}

/** @throws WeftError BAD_REQUEST naming the field */
export function validate<T extends Schema>(schema: T, value: unknown): z.output<T> {
  const result = z.safeParse(schema, value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue?.path.join(".") || "body";
  const what = issue?.code === "unrecognized_keys" ? `unknown field "${issue.keys[0]}"` : issue?.message;
  throw new WeftError(
    "BAD_REQUEST",
    `${where}: ${what}`,
    "see `weft COMMAND --help` or /v1/openapi.json for what is accepted",
  );
}

type FieldKind = "text" | "number" | "boolean" | "list";

function kindOf(schema: Schema): FieldKind {
  const { def } = schema._zod as unknown as { def: { type: string; innerType?: Schema } };
  if (def.innerType !== undefined) return kindOf(def.innerType);
  if (def.type === "number" || def.type === "int") return "number";
  return def.type === "boolean" ? "boolean" : def.type === "array" ? "list" : "text";
}

function shapeOf(schema: Schema): Readonly<Record<string, Schema>> {
  return (schema._zod as unknown as { def: { shape?: Record<string, Schema> } }).def.shape ?? {};
}

function convert(kind: FieldKind, values: readonly string[]): unknown {
  if (kind === "list") return values;
  const [first] = values;
  // a key given twice is for lists alone: two readers of one request must not see different values
  if (values.length > 1) return values;
  if (kind === "number" && /^-?\d{1,15}(\.\d{1,6})?$/.test(first)) return Number(first);
  if (kind === "boolean" && (first === "true" || first === "false")) return first === "true";
  return first;
}

/** Path parameters and query values are text; the schema says which are numbers, booleans or lists. @throws WeftError BAD_REQUEST */
export function validateText<T extends Schema>(
  schema: T,
  values: Readonly<Record<string, string | readonly string[]>>,
): z.output<T> {
  const shape = shapeOf(schema);
  const entries = Object.entries(values).map(([key, value]) => {
    const all = typeof value === "string" ? [value] : value;
    return [key, convert(Object.hasOwn(shape, key) ? kindOf(shape[key]) : "text", all)] as const;
  });
  return validate(schema, Object.fromEntries(entries));
}
