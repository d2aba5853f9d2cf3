/** Routes of the local API for names, subnet routes and exits; schemas beside them, because limits are part of the contract. */
import * as z from "zod/mini";
import { WeftError } from "../base/errors.ts";
import type { NodeControl } from "./control.ts";
import { flag, list, nodeReference, nothing, OBJECT, text } from "./fields.ts";
import type { HostControl } from "./host-control.ts";
import { defineRoute } from "./messaging/route.ts";
import type { AnyRoute } from "./messaging/route.ts";
import { dnsView, exitView, nodeRef, repairItem, routesView } from "./views.ts";

const announceBody = z.strictObject({ prefix: text(64, 1), on: flag() }, OBJECT);
const approveBody = z.strictObject({ node: nodeReference(), prefix: text(64, 1), approved: flag() }, OBJECT);
const switchBody = z.strictObject({ on: flag() }, OBJECT);
const useBody = z.strictObject(
  { nodes: z.optional(list(nodeReference(), 16)), allowLan: z.optional(flag()), off: z.optional(flag()) },
  OBJECT,
);

function need({ host }: NodeControl): HostControl {
  if (host === undefined) {
    throw new WeftError(
      "NO_INTERFACE",
      "this node has no interface, so it has no routes and names",
      "start it as root without --no-tun",
    );
  }
  return host;
}

export const HOST_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/routes",
    scope: "read",
    summary: "Prefixes behind members.",
    response: routesView,
    handler: ({ control }) => need(control).routes(),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/routes/announce",
    scope: "admin",
    summary: "Offers a prefix to the others, or takes the offer back.",
    body: announceBody,
    response: routesView,
    handler: ({ control, body: { prefix, on } }) => need(control).announce(prefix, on),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/routes/approve",
    scope: "admin",
    summary: "Lets a member route a prefix, or not any more.",
    body: approveBody,
    response: nodeRef,
    handler: ({ control, body: { node, prefix, approved } }) => need(control).approve(node, prefix, approved),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/routes/accept",
    scope: "admin",
    summary: "Uses routes of others, or not.",
    body: switchBody,
    response: routesView,
    handler: ({ control, body: { on } }) => need(control).acceptRoutes(on),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/exit",
    scope: "read",
    summary: "The exit in use and those that could be.",
    response: exitView,
    handler: ({ control }) => need(control).exit(),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/exit/use",
    scope: "admin",
    summary: "Sends everything through an exit, or not any more.",
    body: useBody,
    response: exitView,
    handler: ({ control, body: { nodes, allowLan, off } }) =>
      need(control).useExit(off === true ? undefined : { nodes: nodes ?? [], allowLan }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/exit/offer",
    scope: "admin",
    summary: "Offers this node as an exit, or not any more.",
    body: switchBody,
    response: exitView,
    handler: ({ control, body: { on } }) => need(control).offerExit(on),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/dns",
    scope: "read",
    summary: "Names of the network and how programs get them.",
    response: dnsView,
    handler: ({ control }) => need(control).dns(),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/repair",
    scope: "admin",
    summary: "Undoes every change to the machine and makes the wanted ones again.",
    body: nothing(),
    response: z.object({ items: z.array(repairItem) }),
    handler: async ({ control }) => ({ items: await need(control).repair() }),
  }),
];
