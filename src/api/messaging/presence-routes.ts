/** Routes of presence. */
import * as z from "zod/mini";
import type { NodeControl } from "../control.ts";
import { nodeReference, OBJECT, oneOf, text } from "../fields.ts";
import type { OwnPresenceView, PeerPresenceView, PresenceControl } from "./presence-control.ts";
import { defineRoute, defineStream, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";

const STATES = ["online", "away"] as const;
const ownView: z.ZodMiniType<OwnPresenceView> = z.object({ state: oneOf(STATES), note: z.string() });
const peerView: z.ZodMiniType<PeerPresenceView> = z.object({
  node: z.object({ id: z.string(), name: z.string() }),
  state: oneOf(["unknown", "online", "away", "offline"]),
  lastSeen: z.nullable(z.string()),
  note: z.string(),
  timeoutSeconds: z.number(),
});

const of = (control: NodeControl): PresenceControl => need(control.messaging?.presence, "presence");

export const PRESENCE_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/presence",
    scope: "read",
    summary: "What this node says of itself, and the nodes that it watches.",
    response: z.object({ self: ownView, peers: z.array(peerView) }),
    handler: ({ control }) => of(control).view(),
  }),
  defineRoute({
    method: "PUT",
    path: "/v1/presence",
    scope: "admin",
    summary: "Sets what this node says of itself to those who watch it.",
    body: z.strictObject({ state: oneOf(STATES), note: z.optional(text(128)) }, OBJECT),
    response: ownView,
    handler: ({ control, body }) => of(control).set(body.state, body.note ?? ""),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/presence/watch",
    scope: "subscribe",
    summary: "Watches a node's presence; kept over restarts.",
    body: z.strictObject({ peer: nodeReference() }, OBJECT),
    response: peerView,
    handler: ({ control, body }) => of(control).watch(body.peer),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/presence/unwatch",
    scope: "subscribe",
    summary: "Watches a node's presence no more.",
    body: z.strictObject({ peer: nodeReference() }, OBJECT),
    response: peerView,
    handler: ({ control, body }) => of(control).unwatch(body.peer),
  }),
  defineStream({
    path: "/v1/presence/events",
    scope: "read",
    summary: "Changes of state of the nodes that this one watches.",
    events: { presence: peerView },
    open: ({ control }) => ({
      kind: "live",
      key: "presence",
      start: (emit) => of(control).onChange((data) => emit({ event: "presence", data })),
    }),
  }),
];
