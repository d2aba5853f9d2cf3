/** Routes of forwards and SOCKS proxies. */
import * as z from "zod/mini";
import { nodeReference, OBJECT, text } from "../fields.ts";
import type { ForwardsControl, ForwardView, ProxyView } from "./forwards-control.ts";
import { defineRoute, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";
import type { NodeControl } from "../control.ts";

const node = z.object({ id: z.string(), name: z.string() });
const figures = {
  listening: z.boolean(),
  error: z.nullable(z.string()),
  connections: z.number(),
  failures: z.number(),
  bytesUp: z.number(),
  bytesDown: z.number(),
};
const forwardView: z.ZodMiniType<ForwardView> = z.object({
  listen: z.string(),
  node,
  host: z.string(),
  port: z.number(),
  ...figures,
});
const proxyView: z.ZodMiniType<ProxyView> = z.object({ listen: z.string(), via: z.nullable(node), ...figures });

const listen = text(64, 1);
const of = (control: NodeControl): ForwardsControl => need(control.messaging?.forwards, "forwards");

export const FORWARD_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/forwards",
    scope: "forward",
    summary: "Ports of this machine that lead to members.",
    response: z.object({ forwards: z.array(forwardView) }),
    handler: ({ control }) => ({ forwards: of(control).forwards() }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/forwards",
    scope: "forward",
    summary: "Lets a port of this machine lead to a port of a member; it is kept over restarts.",
    body: z.strictObject({ listen, target: text(384, 3) }, OBJECT),
    response: forwardView,
    handler: ({ control, body }) => of(control).addForward(body.listen, body.target),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/forwards/stop",
    scope: "forward",
    summary: "Closes a forward; connections that are open go on.",
    body: z.strictObject({ listen }, OBJECT),
    response: forwardView,
    handler: ({ control, body }) => of(control).removeForward(body.listen),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/socks",
    scope: "forward",
    summary: "SOCKS5 proxies of this machine.",
    response: z.object({ proxies: z.array(proxyView) }),
    handler: ({ control }) => ({ proxies: of(control).proxies() }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/socks",
    scope: "forward",
    summary: "Opens a SOCKS5 proxy to the members; it is kept over restarts.",
    body: z.strictObject({ listen, via: z.optional(nodeReference()) }, OBJECT),
    response: proxyView,
    handler: ({ control, body }) => of(control).addProxy(body.listen, body.via),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/socks/stop",
    scope: "forward",
    summary: "Closes a SOCKS5 proxy; connections that are open go on.",
    body: z.strictObject({ listen }, OBJECT),
    response: proxyView,
    handler: ({ control, body }) => of(control).removeProxy(body.listen),
  }),
];
