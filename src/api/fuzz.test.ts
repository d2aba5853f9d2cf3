/**
 * The API fuzzed from its own OpenAPI document: what the document allows reaches the node, what it does not allow never does, and whatever
 * is sent gets an answer in the documented form. Behind the API is a node that refuses every call, so that reaching it shows as its error.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { WeftError } from "../base/errors.ts";
import { nullLogger } from "../base/log.ts";
import type { NodeControl } from "./control.ts";
import { createApi } from "./server.ts";
import type { TokenControl } from "./token-control.ts";

interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | JsonSchema;
  readonly items?: JsonSchema;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
}

interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header";
  readonly required: boolean;
  readonly schema: JsonSchema;
}

interface Operation {
  readonly operationId: string;
  readonly security: readonly { readonly bearer: readonly string[] }[];
  readonly parameters: readonly Parameter[];
  readonly requestBody?: { readonly content: { readonly "application/json": { readonly schema: JsonSchema } } };
  readonly "x-events"?: unknown;
}

interface Document {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

/** A payload comes as one of these, never as both or neither: a rule between fields that the schemas leave to the handlers. */
const EITHER = ["data", "value", "payload"] as const;

/** Whatever is asked of it, it refuses with the code FAKE; parts of it are like it. */
function refusal(): unknown {
  return new Proxy(() => undefined, {
    get: (_, name) => (name === "then" ? undefined : refusal()),
    apply: () => {
      throw new WeftError("FAKE", "this node refuses", "none");
    },
  });
}

const api = createApi(refusal() as NodeControl, nullLogger, { tokens: refusal() as TokenControl });
const document = (await (await api.app.request("/v1/openapi.json", { headers: { host: "weft" } })).json()) as Document;
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
);
/** They ask nothing of the node, so they answer. */
const ANSWERED = new Set(["getOpenapiJson"]);

/** Values that the schema allows. */
function valid(schema: JsonSchema): fc.Arbitrary<unknown> {
  if (schema.const !== undefined) return fc.constant(schema.const);
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  const either = schema.anyOf ?? schema.oneOf;
  if (either !== undefined) return fc.oneof(...either.map(valid));
  if (Array.isArray(schema.type)) return fc.oneof(...schema.type.map((type: string) => valid({ ...schema, type })));
  switch (schema.type) {
    case "string": {
      const [least, most] = [schema.minLength ?? 0, schema.maxLength ?? 200];
      if (schema.pattern !== undefined) {
        return fc
          .stringMatching(new RegExp(schema.pattern))
          .filter((text) => text.length >= least && text.length <= most);
      }
      return fc.string({ unit: "binary-ascii", minLength: least, maxLength: Math.min(most, least + 60) });
    }
    case "integer":
      return fc.integer({
        min: Math.max(schema.minimum ?? 0, -(2 ** 31)),
        max: Math.min(schema.maximum ?? 2 ** 31, 2 ** 31),
      });
    case "number":
      return fc.double({ min: schema.minimum ?? 0, max: schema.maximum ?? 1e6, noNaN: true });
    case "boolean":
      return fc.boolean();
    case "null":
      return fc.constant(null);
    case "array":
      return fc.array(valid(schema.items ?? {}), {
        minLength: schema.minItems ?? 0,
        maxLength: Math.min(schema.maxItems ?? 5, (schema.minItems ?? 0) + 5),
      });
    case "object": {
      const { properties = {}, required = [], additionalProperties } = schema;
      const named = fc.record(
        Object.fromEntries(Object.entries(properties).map(([name, field]) => [name, valid(field)])),
        { requiredKeys: [...required] },
      );
      const other = EITHER.find((name) => Object.hasOwn(properties, name) && Object.hasOwn(properties, "text"));
      if (other !== undefined && required.length < Object.keys(properties).length) {
        return fc
          .tuple(named, valid(properties["text"]), valid(properties[other]), fc.boolean())
          .map(([value, text, data, isText]) => {
            const { text: _text, [other]: _data, ...rest } = value as Record<string, unknown>;
            return isText ? { ...rest, text } : { ...rest, [other]: data };
          });
      }
      if (typeof additionalProperties !== "object") return named;
      const others = fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), valid(additionalProperties), { maxKeys: 4 });
      return fc.tuple(others, named).map(([extra, value]) => ({ ...extra, ...value }));
    }
    default:
      return fc.constantFrom<unknown>("text", 1, true, null, [], {});
  }
}

/** Values that the schema does not allow; undefined when it allows everything. */
function invalid(schema: JsonSchema): fc.Arbitrary<unknown> | undefined {
  if (schema.type !== "object" || schema.additionalProperties !== false) return undefined;
  const whole = valid(schema) as fc.Arbitrary<Record<string, unknown>>;
  const ways: fc.Arbitrary<unknown>[] = [
    fc.constantFrom<unknown>(null, [], "text", 7, true, [{}]),
    fc
      .tuple(whole, fc.constantFrom("surprise", "__proto__", "constructor", ""))
      .map(([value, name]) => JSON.parse(`{${[`${JSON.stringify(name)}:1`, ...inner(value)].join(",")}}`) as unknown),
  ];
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const wrong = wrongValues(field);
    if (wrong.length > 0) {
      ways.push(fc.tuple(whole, fc.constantFrom(...wrong)).map(([value, other]) => ({ ...value, [name]: other })));
    }
    if (schema.required?.includes(name) === true) {
      ways.push(whole.map((value) => Object.fromEntries(Object.entries(value).filter(([key]) => key !== name))));
    }
  }
  return fc.oneof(...ways);
}

function inner(value: Record<string, unknown>): string[] {
  return Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${JSON.stringify(item)}`);
}

function wrongValues(field: JsonSchema): unknown[] {
  if (field.enum !== undefined || field.const !== undefined) return ["no such choice", 7, {}, []];
  const tooLong = field.maxLength === undefined || field.maxLength > 20_000 ? [] : ["x".repeat(field.maxLength + 1)];
  const tooShort = (field.minLength ?? 0) > 0 ? ["x".repeat((field.minLength ?? 1) - 1)] : [];
  switch (field.type) {
    case "string":
      return [
        7,
        true,
        {},
        ["text"],
        ...tooLong,
        ...tooShort,
        ...(field.pattern === undefined ? [] : ["\u0000 nothing \n like it"]),
      ];
    case "integer":
      return ["7", true, {}, 0.5, 1e300, ...(field.minimum === undefined ? [] : [field.minimum - 1])];
    case "number":
      return ["7", true, {}];
    case "boolean":
      return ["true", 1, {}];
    case "array":
      return [
        "text",
        7,
        {},
        ...(field.maxItems === undefined || field.maxItems > 1000
          ? []
          : [Array.from({ length: field.maxItems + 1 }, () => "x")]),
      ];
    default:
      return [];
  }
}

interface Answer {
  readonly status: number;
  readonly code: string | undefined;
  readonly message: string;
}

/** @param body as it is sent, or undefined for none */
async function send(method: string, path: string, body: string | undefined): Promise<Answer> {
  const response = await api.app.request(path, {
    method,
    headers: { host: "weft" },
    ...(body === undefined || method === "GET" ? {} : { body }),
  });
  if (response.headers.get("content-type")?.startsWith("application/json") !== true) {
    await response.body?.cancel();
    return { status: response.status, code: undefined, message: "" };
  }
  const value = (await response.json()) as Record<string, unknown>;
  if (response.status !== 200) {
    assert.deepEqual(Object.keys(value).toSorted(), ["code", "message", "remedy"]);
    for (const part of Object.values(value)) assert.ok(typeof part === "string" && part !== "");
  }
  return { status: response.status, code: value["code"] as string | undefined, message: String(value["message"]) };
}

/** Path and query filled in from the parameters of the operation. */
function places(path: string, parameters: readonly Parameter[]): fc.Arbitrary<string> {
  const named = parameters.filter((one) => one.in !== "header");
  const fields = named.map((one) =>
    one.required ? valid(one.schema) : fc.option(valid(one.schema), { nil: undefined }),
  );
  return fc.tuple(...fields).map((values) => {
    let filled = path;
    const query = new URLSearchParams();
    values.forEach((value, i) => {
      if (value === undefined) return;
      if (named[i].in === "path") filled = filled.replace(`{${named[i].name}}`, encodeURIComponent(String(value)));
      else for (const one of Array.isArray(value) ? value : [value]) query.append(named[i].name, String(one));
    });
    return query.size === 0 ? filled : `${filled}?${query.toString()}`;
  });
}

/** Dots alone are path segments that every URL parser resolves away. */
const usable = (path: string): boolean =>
  !path
    .split("?")[0]
    .split("/")
    .some((part) => /^(\.|%2e){1,2}$/i.test(part));

test("the document is OpenAPI 3.1 and has every route with its scope", () => {
  assert.match(document.openapi, /^3\.1\./);
  assert.equal(operations.length, api.routes.length);
  assert.equal(new Set(operations.map(({ operation }) => operation.operationId)).size, operations.length);
  for (const { operation } of operations) assert.equal(operation.security[0].bearer.length, 1);
  // a schema that is taken out of its place must not point to where it stood
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]*)"/g)].map((match) => match[1]);
  assert.deepEqual([...new Set(references)], ["#/components/schemas/Error"]);
  assert.ok(operations.length > 30, `only ${operations.length} operations: the document lost some`);
});

test("what the document allows reaches the node", async () => {
  for (const { path, method, operation } of operations) {
    const schema = operation.requestBody?.content["application/json"].schema;
    const input = fc.tuple(
      places(path, operation.parameters).filter(usable),
      schema === undefined ? fc.constant(undefined) : valid(schema),
    );
    await fc.assert(
      fc.asyncProperty(input, async ([where, body]) => {
        const answer = await send(method, where, body === undefined ? undefined : JSON.stringify(body));
        const said = `${operation.operationId}: ${answer.status} ${answer.code} ${answer.message}`;
        if (ANSWERED.has(operation.operationId) || operation["x-events"] !== undefined)
          assert.ok([200, 409].includes(answer.status), said);
        else assert.equal(answer.code, "FAKE", said);
      }),
      { numRuns: 15 },
    );
  }
});

test("what the document does not allow is refused with the name of the field, and never reaches the node", async () => {
  let bodies = 0;
  for (const { path, method, operation } of operations) {
    const schema = operation.requestBody?.content["application/json"].schema;
    const wrong = schema === undefined ? undefined : invalid(schema);
    if (wrong === undefined) continue;
    bodies++;
    await fc.assert(
      fc.asyncProperty(places(path, operation.parameters).filter(usable), wrong, async (where, body) => {
        const answer = await send(method, where, JSON.stringify(body));
        assert.equal(
          answer.code,
          "BAD_REQUEST",
          `${operation.operationId}: ${answer.status} ${answer.code} ${JSON.stringify(body)}`,
        );
        assert.match(answer.message, /: /);
      }),
      { numRuns: 40 },
    );
  }
  assert.ok(bodies > 10);
});

test("wrong queries are refused: unknown keys, keys given twice, values of another type", async () => {
  for (const { path, method, operation } of operations) {
    const queries = operation.parameters.filter((one) => one.in === "query");
    for (const { name, schema } of queries) {
      const filled = fc.sample(
        places(
          path,
          operation.parameters.filter((one) => one.in === "path" || (one.required && one.name !== name)),
        ).filter(usable),
        1,
      )[0];
      const join = filled.includes("?") ? "&" : "?";
      if (schema.type !== "array") {
        assert.equal(
          (await send(method, `${filled}${join}${name}=1&${name}=2`, "{}")).code,
          "BAD_REQUEST",
          operation.operationId,
        );
      }
      if (schema.type === "integer" || schema.type === "boolean") {
        for (const value of ["", "x", "1e3", "0x10", " 1", "TRUE", "99999999999999999999"]) {
          const answer = await send(method, `${filled}${join}${name}=${encodeURIComponent(value)}`, "{}");
          assert.equal(answer.code, "BAD_REQUEST", `${operation.operationId} ${name}=${value}`);
        }
      }
    }
  }
});

test("bytes that are no JSON object, deep nesting and long numbers get an answer below 500 from every route", async () => {
  const deep = (open: string, close: string): string => open.repeat(5000) + close.repeat(5000);
  const hostile = fc.oneof(
    fc.constantFrom(
      deep("[", "]"),
      deep('{"a":', "}"),
      `{"a":"${"[".repeat(500)}"}`,
      "\ufeff{}",
      '{"a":1e999}',
      '"\ud800"',
      "{}{}",
    ),
    fc.string({ unit: "binary", maxLength: 200 }),
    fc.json(),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...operations), hostile, async ({ path, method, operation }, body) => {
      const [where] = fc.sample(places(path, operation.parameters).filter(usable), 1);
      const answer = await send(method, where, body);
      assert.ok(answer.status < 500, `${operation.operationId}: ${answer.status} ${answer.message}`);
    }),
    { numRuns: 300 },
  );
});

test("no path makes the router fail", async () => {
  await fc.assert(
    fc.asyncProperty(fc.webPath(), fc.string({ unit: "binary", maxLength: 40 }), async (path, tail) => {
      for (const url of [
        path,
        `/v1/${encodeURIComponent(tail)}`,
        `/v1/status/%${tail.length}`,
        `/v1/whois?query=${encodeURIComponent(tail)}&%ff=%`,
      ]) {
        const answer = await send("GET", url.startsWith("/") ? url : `/${url}`, undefined);
        assert.ok(answer.status < 500, `${url}: ${answer.message}`);
      }
    }),
    { numRuns: 100 },
  );
});
