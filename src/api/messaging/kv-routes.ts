/** Routes of the replicated key-value store. */
import * as z from "zod/mini";
import { WeftError } from "../../base/errors.ts";
import { base64, OBJECT, text, whole } from "../fields.ts";
import type { NodeControl } from "../control.ts";
import type { KvChange, KvControl, KvEntryView, SpaceView } from "./kv-control.ts";
import { defineRoute, defineStream, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";

const MAX_VALUE_BYTES = 65_536;

const node = z.object({ id: z.string(), name: z.string() });
export const spaceSchema: z.ZodMiniType<SpaceView> = z.object({
  name: z.string(),
  keys: z.number(),
  bytes: z.number(),
  replicas: z.number(),
});
const entryView: z.ZodMiniType<KvEntryView> = z.object({
  key: z.string(),
  value: z.string(),
  text: z.nullable(z.string()),
  author: node,
  changedAt: z.string(),
});
const changeView: z.ZodMiniType<KvChange> = z.object({
  key: z.string(),
  value: z.nullable(z.string()),
  text: z.nullable(z.string()),
  author: node,
  changedAt: z.string(),
});
const params = z.strictObject({ space: text(64, 1) }, OBJECT);
const key = text(256, 1);
const of = (control: NodeControl): KvControl => need(control.messaging?.kv, "key-value store");

function unknownKey(name: string): WeftError {
  return new WeftError("KEY_UNKNOWN", `"${name}" has no value here`, "see weft kv list");
}

export const KV_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/kv",
    scope: "kv",
    summary: "Key-value spaces that this node replicates.",
    response: z.object({ spaces: z.array(spaceSchema) }),
    handler: ({ control }) => ({ spaces: of(control).spaces() }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/kv/:space/entries",
    scope: "kv",
    summary: "A page of the keys of a space and their values, in the order of the keys.",
    params,
    query: z.strictObject(
      { prefix: z.optional(text(256)), after: z.optional(text(256)), limit: z.optional(whole(1, 1000)) },
      OBJECT,
    ),
    response: z.object({ entries: z.array(entryView), more: z.boolean() }),
    handler: ({ control, params, query }) =>
      of(control).list(params.space, query.prefix ?? "", query.after ?? "", query.limit ?? 100),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/kv/:space/value",
    scope: "kv",
    summary: "The value of a key.",
    params,
    query: z.strictObject({ key }, OBJECT),
    response: entryView,
    handler: async ({ control, params, query }) => {
      const entry = await of(control).get(params.space, query.key);
      if (entry === undefined) throw unknownKey(query.key);
      return entry;
    },
  }),
  defineRoute({
    method: "PUT",
    path: "/v1/kv/:space/value",
    scope: "kv",
    summary: "Gives a key a value, as text or as base64; answered when it is on disk here.",
    params,
    body: z.strictObject(
      { key, text: z.optional(text(MAX_VALUE_BYTES)), value: z.optional(base64(MAX_VALUE_BYTES)) },
      OBJECT,
    ),
    response: entryView,
    maxBodyBytes: 524_288,
    handler: ({ control, params, body }) => {
      if ((body.text === undefined) === (body.value === undefined))
        throw new WeftError("BAD_REQUEST", "a value is either text or value", "give one of them");
      const bytes = body.text === undefined ? Uint8Array.fromBase64(body.value!) : new TextEncoder().encode(body.text);
      return of(control).set(params.space, body.key, bytes);
    },
  }),
  defineRoute({
    method: "DELETE",
    path: "/v1/kv/:space/value",
    scope: "kv",
    summary: "Deletes a key.",
    params,
    query: z.strictObject({ key }, OBJECT),
    response: z.object({ key: z.string(), deleted: z.boolean() }),
    handler: async ({ control, params, query }) => ({
      key: query.key,
      deleted: await of(control).delete(params.space, query.key),
    }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/kv/:space/close",
    scope: "kv",
    summary: "This node does not replicate the space any more; others keep it.",
    params,
    response: spaceSchema,
    handler: ({ control, params }) => of(control).close(params.space),
  }),
  defineStream({
    path: "/v1/kv/:space/changes",
    scope: "kv",
    summary: "Changes of the keys of a space, here and on other nodes.",
    params,
    query: z.strictObject({ prefix: z.optional(text(256)) }, OBJECT),
    events: { change: changeView },
    open: ({ control, params, query }) => ({
      kind: "live",
      key: `kv/${params.space}/${query.prefix ?? ""}`,
      start: (emit) =>
        of(control).watch(params.space, query.prefix ?? "", (change) => emit({ event: "change", data: change })),
    }),
  }),
];
