/** Routes of groups. */
import * as z from "zod/mini";
import { WeftError } from "../../base/errors.ts";
import { base64, flag, list, nodeReference, OBJECT, text, whole } from "../fields.ts";
import type { NodeControl } from "../control.ts";
import type { CardView, GroupsControl, GroupView } from "./groups-control.ts";
import { historyMessage } from "./history-routes.ts";
import { agentOf, defineRoute, defineStream, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";

const MAX_MESSAGE_BYTES = 65_392;
const ROLES = ["admin", "member"] as const;

const node = z.object({ id: z.string(), name: z.string() });
const groupView: z.ZodMiniType<GroupView> = z.object({
  id: z.string(),
  name: z.string(),
  epoch: z.number(),
  role: z.enum(["admin", "member", "none"]),
  members: z.array(z.object({ id: z.string(), name: z.string(), role: z.enum(ROLES), until: z.string() })),
  changedAt: z.string(),
});
const cardView: z.ZodMiniType<CardView> = z.object({
  group: z.string(),
  name: z.string(),
  node,
  role: z.enum(ROLES),
  epoch: z.number(),
  until: z.string(),
  issuer: node,
  valid: z.boolean(),
  verdict: z.enum(["valid", "expired", "issuer-unknown", "issuer-no-admin", "not-member", "other-role"]),
});
const params = z.strictObject({ group: text(64, 1) }, OBJECT);
const of = (control: NodeControl): GroupsControl => need(control.messaging?.groups, "groups");

export const GROUP_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/groups",
    scope: "groups",
    summary: "Groups that this node knows.",
    response: z.object({ groups: z.array(groupView) }),
    handler: ({ control }) => ({ groups: of(control).groups() }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/groups",
    scope: "groups",
    summary: "Creates a group; this node is its first admin.",
    body: z.strictObject({ name: text(64, 1), nodes: z.optional(list(nodeReference(), 127)) }, OBJECT),
    response: groupView,
    handler: ({ control, body }) => of(control).create(body.name, body.nodes ?? []),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/groups/cards/verify",
    scope: "groups",
    summary: "What a card says, and whether it holds.",
    body: z.strictObject({ card: text(1024, 1) }, OBJECT),
    response: cardView,
    handler: ({ control, body }) => of(control).verifyCard(body.card),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/groups/:group",
    scope: "groups",
    summary: "One group.",
    params,
    response: groupView,
    handler: ({ control, params }) => of(control).group(params.group),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/groups/:group/members",
    scope: "groups",
    summary: "Adds a member, or changes its role; the group gets a new key.",
    params,
    body: z.strictObject({ node: nodeReference(), admin: z.optional(flag()) }, OBJECT),
    response: groupView,
    handler: ({ control, params, body }) => of(control).add(params.group, body.node, body.admin ?? false),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/groups/:group/remove",
    scope: "groups",
    summary: "Removes a member: the group gets a new key, and it can read nothing that is said from now on.",
    params,
    body: z.strictObject({ node: nodeReference() }, OBJECT),
    response: groupView,
    handler: ({ control, params, body }) => of(control).remove(params.group, body.node),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/groups/:group/leave",
    scope: "groups",
    summary: "This node leaves the group and forgets its keys.",
    params,
    response: groupView,
    handler: ({ control, params }) => of(control).leave(params.group),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/groups/:group/messages",
    scope: "groups",
    summary: "Sends a sealed message to all members, as text or as base64; answered when it is on disk here.",
    params,
    body: z.strictObject(
      {
        text: z.optional(text(MAX_MESSAGE_BYTES)),
        payload: z.optional(base64(MAX_MESSAGE_BYTES)),
        agent: z.optional(text(64, 1)),
      },
      OBJECT,
    ),
    response: z.object({ id: z.string(), epoch: z.number() }),
    maxBodyBytes: 524_288,
    handler: ({ control, caller, params, body }) => {
      if ((body.text === undefined) === (body.payload === undefined))
        throw new WeftError("BAD_REQUEST", "a message is either text or payload", "give one of them");
      const bytes =
        body.text === undefined ? Uint8Array.fromBase64(body.payload!) : new TextEncoder().encode(body.text);
      return of(control).send(params.group, bytes, agentOf(caller, body.agent));
    },
  }),
  defineRoute({
    method: "GET",
    path: "/v1/groups/:group/messages",
    scope: "groups",
    summary: "Messages of a group in the order in which they came: after an id, or the latest ones.",
    params,
    query: z.strictObject(
      { after: z.optional(whole(0, Number.MAX_SAFE_INTEGER)), limit: z.optional(whole(1, 500)) },
      OBJECT,
    ),
    response: z.object({ messages: z.array(historyMessage) }),
    handler: async ({ control, params, query }) => ({
      messages: await of(control).messages(params.group, query.after, query.limit ?? 100),
    }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/groups/:group/card",
    scope: "groups",
    summary: "The expiring proof that a node (else this one) is in the group, as text.",
    params,
    query: z.strictObject({ node: z.optional(nodeReference()) }, OBJECT),
    response: z.object({ card: z.string() }),
    handler: ({ control, params, query }) => ({ card: of(control).card(params.group, query.node) }),
  }),
  defineStream({
    path: "/v1/groups/:group/events",
    scope: "groups",
    summary: "Messages of a group as they come; a client that comes back gets what it missed.",
    params,
    events: { message: historyMessage },
    open: ({ control, params }) => {
      const groups = of(control);
      groups.group(params.group);
      // a new client begins with what comes next
      let start: number | undefined;
      return {
        kind: "stored",
        async read(after, limit) {
          if (after === undefined) start ??= (await groups.messages(params.group, undefined, 1)).at(-1)?.id ?? 0;
          const from = after === undefined || !/^\d{1,16}$/.test(after) ? (start ?? 0) : Number(after);
          const messages = await groups.messages(params.group, from, Math.max(1, Math.min(500, limit)));
          return { events: messages.map((one) => ({ event: "message", id: String(one.id), data: one })) };
        },
        watch: (more) => groups.watch(params.group, more),
      };
    },
  }),
];
