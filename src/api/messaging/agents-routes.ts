/** Routes of agents. */
import * as z from "zod/mini";
import { flag, list, OBJECT, text } from "../fields.ts";
import type { NodeControl } from "../control.ts";
import type { AgentPlaceView, AgentsControl, AgentView } from "./agents-control.ts";
import { agentOf, checkUnbound, defineRoute, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";

const node = z.object({ id: z.string(), name: z.string() });
const agentView: z.ZodMiniType<AgentView> = z.object({
  id: z.string(),
  name: z.string(),
  movedTo: z.nullable(node),
  leaseUntil: z.string(),
  access: z.object({ open: z.boolean(), allowed: z.array(z.string()) }),
});
const placeView: z.ZodMiniType<AgentPlaceView> = z.object({
  id: z.string(),
  name: z.string(),
  node,
  leaseUntil: z.string(),
});
const params = z.strictObject({ agent: text(64, 1) }, OBJECT);
const of = (control: NodeControl): AgentsControl => need(control.messaging?.agents, "agents");

export const AGENT_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/agents",
    scope: "read",
    summary: "Agents of this node, and those of others that it has heard of.",
    response: z.object({ agents: z.array(agentView), known: z.array(placeView) }),
    handler: ({ control }) => ({ agents: of(control).agents(), known: of(control).known() }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/agents",
    scope: "agents",
    summary: "Creates an agent with a key, an inbox and an access list of its own.",
    body: z.strictObject({ name: text(64, 1) }, OBJECT),
    response: agentView,
    handler: ({ control, caller, body }) => {
      checkUnbound(caller, "cannot make agents");
      return of(control).create(body.name);
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/agents/import",
    scope: "agents",
    summary: "Takes over an agent by its secret; the node that had it stops when it hears of that.",
    body: z.strictObject({ name: text(64, 1), secret: text(128, 1) }, OBJECT),
    response: agentView,
    handler: ({ control, caller, body }) => {
      checkUnbound(caller, "cannot take over agents");
      return of(control).import(body.name, body.secret);
    },
  }),
  defineRoute({
    method: "GET",
    path: "/v1/agents/find",
    scope: "read",
    summary: "On which node an agent lives.",
    query: z.strictObject({ agent: text(320, 1) }, OBJECT),
    response: placeView,
    handler: ({ control, query }) => of(control).find(query.agent),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/agents/:agent/access",
    scope: "agents",
    summary: "Who may write to an agent: everybody, or those of a list.",
    params,
    body: z.strictObject({ open: flag(), allowed: z.optional(list(text(320, 1), 256)) }, OBJECT),
    response: agentView,
    handler: ({ control, caller, params, body }) =>
      of(control).setAccess(agentOf(caller, params.agent), body.open, body.allowed ?? []),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/agents/:agent/export",
    scope: "admin",
    summary: "The agent's secret, with which another node can take it over.",
    params,
    response: z.object({ secret: z.string() }),
    handler: ({ control, caller, params }) => ({ secret: of(control).export(agentOf(caller, params.agent)) }),
  }),
  defineRoute({
    method: "DELETE",
    path: "/v1/agents/:agent",
    scope: "agents",
    summary: "Removes an agent and its key.",
    params,
    response: agentView,
    handler: ({ control, caller, params }) => of(control).remove(agentOf(caller, params.agent)),
  }),
];
