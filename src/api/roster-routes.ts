/** Routes of the local API for invites, requests, changes of members, policy, export and import; schemas beside them, because limits are part of the contract. */
import * as z from "zod/mini";
import type { NodeControl } from "./control.ts";
import { list, nodeReference, OBJECT, oneOf, text } from "./fields.ts";
import { defineRoute, need as needPart } from "./messaging/route.ts";
import type { AnyRoute } from "./messaging/route.ts";
import type { RosterControl } from "./roster-control.ts";
import { ROLES } from "./schemas.ts";
import { decisionView, importView, inviteInfoView, policyView, requestView, rosterView } from "./views.ts";

/** Statements in one import request: 40 of the longest fit a body. */
export const MAX_IMPORT_STATEMENTS = 40;

const endBody = z.strictObject({ id: text(64, 4), reason: z.optional(text(200)) }, OBJECT);
const approveBody = z.strictObject({ node: nodeReference(), name: z.optional(text(63, 1)) }, OBJECT);
const denyBody = z.strictObject({ node: nodeReference(), reason: z.optional(text(200)) }, OBJECT);
const memberBody = z.strictObject(
  {
    node: nodeReference(),
    name: z.optional(text(63, 1)),
    roles: z.optional(list(oneOf(ROLES), ROLES.length)),
    tags: z.optional(list(text(32, 1), 16)),
    expiresAt: z.optional(text(40, 1)),
  },
  OBJECT,
);
const policyBody = z.strictObject({ stale: oneOf(["allow", "refuse"]) }, OBJECT);
const importBody = z.strictObject(
  { network: text(64, 64), statements: list(text(1400, 1), MAX_IMPORT_STATEMENTS) },
  OBJECT,
);

function need({ roster }: NodeControl): RosterControl {
  return needPart(roster, "roster");
}

export const ROSTER_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/invites",
    scope: "admin",
    summary: "Invites and what became of them.",
    response: z.object({ invites: z.array(inviteInfoView) }),
    handler: ({ control }) => ({ invites: need(control).invites() }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/invites/end",
    scope: "admin",
    summary: "Ends an invite before its time.",
    body: endBody,
    response: inviteInfoView,
    handler: ({ control, body: { id, reason } }) => need(control).endInvite(id, reason ?? ""),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/requests",
    scope: "admin",
    summary: "Nodes that wait for an admin's decision.",
    response: z.object({ requests: z.array(requestView) }),
    handler: ({ control }) => ({ requests: need(control).requests() }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/requests/approve",
    scope: "admin",
    summary: "Lets a waiting node in.",
    body: approveBody,
    response: decisionView,
    handler: ({ control, body: { node, name } }) => need(control).approve(node, name),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/requests/deny",
    scope: "admin",
    summary: "Sends a waiting node away.",
    body: denyBody,
    response: decisionView,
    handler: ({ control, body: { node, reason } }) => need(control).deny(node, reason ?? ""),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/members",
    scope: "admin",
    summary: "Changes a member's name, roles, tags or end.",
    body: memberBody,
    response: decisionView,
    handler: ({ control, body }) => need(control).updateMember(body),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/roster",
    scope: "read",
    summary: "The signed roster at large.",
    response: rosterView,
    handler: ({ control }) => need(control).roster(),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/roster/export",
    scope: "admin",
    summary: "The whole roster as text.",
    response: z.object({ text: z.string() }),
    handler: ({ control }) => ({ text: need(control).exportRoster() }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/roster/import",
    scope: "admin",
    summary: "Takes in statements of an exported roster.",
    body: importBody,
    response: importView,
    handler: ({ control, body: { network, statements } }) => need(control).importRoster(network, statements),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/roster/policy",
    scope: "admin",
    summary: "Sets what nodes do while nobody confirms their roster.",
    body: policyBody,
    response: policyView,
    handler: ({ control, body: { stale } }) => need(control).setPolicy(stale),
  }),
];
