/** Routes of the replicated task lists. */
import * as z from "zod/mini";
import { OBJECT, oneOf, text, whole } from "../fields.ts";
import type { NodeControl } from "../control.ts";
import { spaceSchema } from "./kv-routes.ts";
import { agentOf, defineRoute, defineStream, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";
import type { TasksControl, TaskView } from "./tasks-control.ts";

const STATES = ["open", "done", "failed"] as const;
const MAX_CLAIM_SECONDS = 86_400;
const DEFAULT_CLAIM_SECONDS = 600;
const DEFAULT_SETTLE_MS = 500;

const node = z.object({ id: z.string(), name: z.string() });
const taskView: z.ZodMiniType<TaskView> = z.object({
  id: z.string(),
  title: z.string(),
  body: z.string(),
  state: z.enum(STATES),
  result: z.string(),
  finishedBy: z.nullable(node),
  claim: z.nullable(z.object({ node, agent: z.string(), until: z.string(), mine: z.boolean() })),
  author: node,
  changedAt: z.string(),
});
const listParams = z.strictObject({ list: text(64, 1) }, OBJECT);
const taskParams = z.strictObject({ list: text(64, 1), id: text(16, 4) }, OBJECT);
const agent = z.optional(text(64, 1));
const agentBody = z.strictObject({ agent }, OBJECT);
const of = (control: NodeControl): TasksControl => need(control.messaging?.tasks, "task lists");

export const TASK_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/tasks",
    scope: "tasks",
    summary: "Task lists that this node replicates.",
    response: z.object({ lists: z.array(spaceSchema) }),
    handler: ({ control }) => ({ lists: of(control).lists() }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/tasks/:list",
    scope: "tasks",
    summary: "All tasks of a list, the one that was changed longest ago first.",
    params: listParams,
    query: agentBody,
    response: z.object({ tasks: z.array(taskView) }),
    handler: async ({ control, caller, params, query }) => ({
      tasks: await of(control).list(params.list, agentOf(caller, query.agent)),
    }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/tasks/:list",
    scope: "tasks",
    summary: "Adds a task.",
    params: listParams,
    body: z.strictObject({ title: text(512, 1), body: z.optional(text(12_000)), agent }, OBJECT),
    response: taskView,
    maxBodyBytes: 131_072,
    handler: ({ control, caller, params, body }) =>
      of(control).add(params.list, body.title, body.body ?? "", agentOf(caller, body.agent)),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/tasks/:list/claim",
    scope: "tasks",
    summary: "Claims the oldest open task that nobody has claimed.",
    params: listParams,
    body: z.strictObject(
      { agent, seconds: z.optional(whole(1, MAX_CLAIM_SECONDS)), settleMs: z.optional(whole(0, 10_000)) },
      OBJECT,
    ),
    response: taskView,
    handler: ({ control, caller, params, body }) =>
      of(control).claim(
        params.list,
        undefined,
        agentOf(caller, body.agent),
        (body.seconds ?? DEFAULT_CLAIM_SECONDS) * 1000,
        body.settleMs ?? DEFAULT_SETTLE_MS,
      ),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/tasks/:list/close",
    scope: "tasks",
    summary: "This node does not replicate the list any more; others keep it.",
    params: listParams,
    response: spaceSchema,
    handler: ({ control, params }) => of(control).close(params.list),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/tasks/:list/:id",
    scope: "tasks",
    summary: "One task.",
    params: taskParams,
    query: agentBody,
    response: taskView,
    handler: ({ control, caller, params, query }) =>
      of(control).get(params.list, params.id, agentOf(caller, query.agent)),
  }),
  defineRoute({
    method: "PUT",
    path: "/v1/tasks/:list/:id",
    scope: "tasks",
    summary: "Changes the text of a task.",
    params: taskParams,
    body: z.strictObject({ title: z.optional(text(512, 1)), body: z.optional(text(12_000)), agent }, OBJECT),
    response: taskView,
    maxBodyBytes: 131_072,
    handler: ({ control, caller, params, body }) =>
      of(control).edit(params.list, params.id, body.title, body.body, agentOf(caller, body.agent)),
  }),
  defineRoute({
    method: "DELETE",
    path: "/v1/tasks/:list/:id",
    scope: "tasks",
    summary: "Removes a task.",
    params: taskParams,
    response: taskView,
    handler: ({ control, params }) => of(control).remove(params.list, params.id),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/tasks/:list/:id/claim",
    scope: "tasks",
    summary: "Claims a task for a time, or renews the claim; answered when claims of others had time to come.",
    params: taskParams,
    body: z.strictObject(
      { agent, seconds: z.optional(whole(1, MAX_CLAIM_SECONDS)), settleMs: z.optional(whole(0, 10_000)) },
      OBJECT,
    ),
    response: taskView,
    handler: ({ control, caller, params, body }) =>
      of(control).claim(
        params.list,
        params.id,
        agentOf(caller, body.agent),
        (body.seconds ?? DEFAULT_CLAIM_SECONDS) * 1000,
        body.settleMs ?? DEFAULT_SETTLE_MS,
      ),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/tasks/:list/:id/release",
    scope: "tasks",
    summary: "Gives a claim back.",
    params: taskParams,
    body: agentBody,
    response: taskView,
    handler: ({ control, caller, params, body }) =>
      of(control).release(params.list, params.id, agentOf(caller, body.agent)),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/tasks/:list/:id/finish",
    scope: "tasks",
    summary: "Says that a task is done or failed, or opens it again.",
    params: taskParams,
    body: z.strictObject({ state: oneOf(STATES), result: z.optional(text(12_000)), agent }, OBJECT),
    response: taskView,
    maxBodyBytes: 131_072,
    handler: ({ control, caller, params, body }) =>
      of(control).finish(params.list, params.id, agentOf(caller, body.agent), body.state, body.result ?? ""),
  }),
  defineStream({
    path: "/v1/tasks/:list/events",
    scope: "tasks",
    summary: "Changes of the tasks of a list, here and on other nodes.",
    params: listParams,
    query: agentBody,
    events: { task: z.object({ id: z.string(), task: z.nullable(taskView) }) },
    open: ({ control, caller, params, query }) => {
      const agent = agentOf(caller, query.agent);
      return {
        kind: "live",
        key: `tasks/${params.list}/${agent}`,
        start: (emit) => of(control).watch(params.list, agent, (event) => emit({ event: "task", data: event })),
      };
    },
  }),
];
