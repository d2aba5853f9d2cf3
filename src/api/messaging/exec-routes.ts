/** Routes of programs of other nodes. */
import * as z from "zod/mini";
import { base64, flag, list, nodeReference, nothing, OBJECT, text, whole } from "../fields.ts";
import type { NodeControl } from "../control.ts";
import type { ExecControl, ExecOutput, ExecStarted } from "./exec-control.ts";
import { defineRoute, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";

const started: z.ZodMiniType<ExecStarted> = z.object({
  key: z.string(),
  node: z.object({ id: z.string(), name: z.string() }),
});
const output: z.ZodMiniType<ExecOutput> = z.object({
  chunks: z.array(z.object({ stream: z.enum(["out", "err"]), data: z.string() })),
  next: z.number(),
  exit: z.nullable(
    z.object({ code: z.nullable(z.number()), signal: z.nullable(z.number()), reason: z.nullable(z.string()) }),
  ),
});
const keyed = z.strictObject({ key: text(32, 1) }, OBJECT);
const of = (control: NodeControl): ExecControl => need(control.messaging?.exec, "execution");

export const EXEC_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/exec",
    scope: "exec",
    summary: "What this node may run on a member.",
    query: z.strictObject({ node: nodeReference() }, OBJECT),
    response: z.object({ commands: z.array(z.string()) }),
    handler: async ({ control, query }) => ({ commands: await of(control).commands(query.node) }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/exec",
    scope: "exec",
    summary: "Runs a program of a member that its configuration allows; the output is read from the run.",
    body: z.strictObject(
      {
        node: nodeReference(),
        command: text(64, 1),
        args: z.optional(list(text(4_096), 64)),
        input: z.optional(flag()),
      },
      OBJECT,
    ),
    response: started,
    handler: ({ control, body }) => of(control).run(body),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/exec/:key",
    scope: "exec",
    summary: "Output of a run from a position on; waits for some.",
    params: keyed,
    query: z.strictObject({ after: whole(0, Number.MAX_SAFE_INTEGER), waitMs: z.optional(whole(0, 30_000)) }, OBJECT),
    response: output,
    handler: ({ control, params, query }) => of(control).read(params.key, query.after, query.waitMs ?? 0),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/exec/:key/input",
    scope: "exec",
    summary: "Bytes for the standard input of a run; answered when there is room for more.",
    params: keyed,
    body: z.strictObject({ data: base64(32_768), end: z.optional(flag()) }, OBJECT),
    response: nothing(),
    handler: async ({ control, params, body }) => {
      await of(control).input(params.key, body.data, body.end === true);
      return {};
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/exec/:key/stop",
    scope: "exec",
    summary: "Ends a run, and with it the program.",
    params: keyed,
    response: nothing(),
    handler: ({ control, params }) => {
      of(control).stop(params.key);
      return {};
    },
  }),
];
