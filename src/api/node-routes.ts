/** Routes of the local API about the node, its peers and its membership at large. */
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import { OBJECT } from "./fields.ts";
import { defineRoute } from "./messaging/route.ts";
import type { AnyRoute } from "./messaging/route.ts";
import { emptyBody, inviteBody, netcheckBody, pingBody, revokeBody, whoisQuery } from "./schemas.ts";
import {
  doctorFact,
  explainView,
  healthItem,
  inviteView,
  memberView,
  netcheckView,
  nodeRef,
  peerView,
  pingView,
  statusView,
  whoisView,
} from "./views.ts";

export const NODE_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/status",
    scope: "read",
    summary: "The node, its network, its peers and its health.",
    response: statusView,
    handler: ({ control }) => control.status(),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/peers",
    scope: "read",
    summary: "What is known of the way to every peer.",
    response: z.object({ peers: z.array(peerView) }),
    handler: ({ control }) => ({ peers: control.peers() }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/members",
    scope: "read",
    summary: "The members of the network.",
    response: z.object({ members: z.array(memberView) }),
    handler: ({ control }) => ({ members: control.members() }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/health",
    scope: "read",
    summary: "What is not well, and what to do.",
    response: z.object({ health: z.array(healthItem) }),
    handler: ({ control }) => ({ health: control.health() }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/doctor",
    scope: "read",
    summary: "Facts about the machine that matter to the node.",
    response: z.object({ facts: z.array(doctorFact) }),
    handler: ({ control }) => ({ facts: control.doctor() }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/whois",
    scope: "read",
    summary: "The member with a name, id or address.",
    query: whoisQuery,
    response: whoisView,
    handler: ({ control, query: { query } }) => {
      const found = control.whois(query);
      if (found === undefined) {
        throw new WeftError("NODE_UNKNOWN", `no member has the name, id or address "${query}"`, "see `weft members`");
      }
      return found;
    },
  }),
  defineRoute({
    method: "GET",
    path: "/v1/explain",
    scope: "read",
    summary: "Every path to a peer, and why the one in use is in use.",
    query: whoisQuery,
    response: explainView,
    handler: ({ control, query: { query } }) => control.explain(query),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/netcheck",
    scope: "read",
    summary: "Looks where this node is as seen from outside.",
    body: netcheckBody,
    response: netcheckView,
    handler: async ({ control, body: { timeoutMs } }) => {
      const view = await control.netcheck?.(timeoutMs ?? 10_000);
      if (view === undefined) throw new WeftError("NOT_READY", "this node does not look around", "start it first");
      return view;
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/ping",
    scope: "read",
    summary: "One echo through the encrypted session.",
    body: pingBody,
    response: pingView,
    handler: ({ control, body: { peer, timeoutMs } }) => control.ping(peer, timeoutMs ?? 2000),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/invite",
    scope: "admin",
    summary: "Makes an invite.",
    body: inviteBody,
    response: inviteView,
    handler: ({ control, body }) => control.invite(body),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/revoke",
    scope: "admin",
    summary: "Removes a member.",
    body: revokeBody,
    response: nodeRef,
    handler: ({ control, body: { node, reason } }) => control.revoke(node, reason ?? ""),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/leave",
    scope: "admin",
    summary: "Leaves the network and stops.",
    body: emptyBody,
    response: z.strictObject({}, OBJECT),
    handler: async ({ control }) => {
      await control.leave();
      return {};
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/down",
    scope: "admin",
    summary: "Stops the daemon.",
    body: emptyBody,
    response: z.strictObject({}, OBJECT),
    handler: async ({ control }) => {
      await control.down();
      return {};
    },
  }),
];
