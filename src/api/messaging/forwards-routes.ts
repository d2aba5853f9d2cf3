/**
 * Routes of forwards and SOCKS proxies. A token with the scope forward opens ports of loopback from 1024 on: what others on the network reach,
 * and what takes root, is opened by the unix socket and admins alone.
 */
import * as z from "zod/mini";
import { formatAddress, isIPv4Mapped, parseAddress } from "../../base/endpoint.ts";
import { WeftError } from "../../base/errors.ts";
import { nodeReference, OBJECT, text } from "../fields.ts";
import type { ForwardsControl, ForwardView, ProxyView } from "./forwards-control.ts";
import { defineRoute, need } from "./route.ts";
import type { AnyRoute, Caller } from "./route.ts";
import type { NodeControl } from "../control.ts";

const node = z.object({ id: z.string(), name: z.string() });
const figures = {
  listening: z.boolean(),
  error: z.nullable(z.string()),
  refusal: z.nullable(z.string()),
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

const FIRST_UNPRIVILEGED_PORT = 1_024;
const listen = text(64, 1);
const of = (control: NodeControl): ForwardsControl => need(control.messaging?.forwards, "forwards");

/** @param place as the part reads it: PORT on loopback, or ADDR:PORT; what it cannot read is refused there */
function mayListen(caller: Caller, place: string): void {
  if (caller.via === "socket" || caller.scopes.has("admin")) return;
  const colon = place.lastIndexOf(":");
  const port = Number(place.slice(colon + 1));
  const address = parseAddress(place.slice(0, Math.max(colon, 0)).replace(/^\[(.*)\]$/, "$1"));
  const isLoopback = colon === -1 || (address !== undefined && isLoopbackAddress(address));
  if (isLoopback && (port === 0 || port >= FIRST_UNPRIVILEGED_PORT)) return;
  throw new WeftError(
    "FORBIDDEN",
    `this token may not open ${place}: only ports of loopback from ${FIRST_UNPRIVILEGED_PORT} on`,
    "use the weft command on that machine, or a token with the scope admin",
  );
}

function isLoopbackAddress(address: Uint8Array): boolean {
  return formatAddress(address) === "::1" || (isIPv4Mapped(address) && address[12] === 127);
}

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
    handler: ({ control, caller, body }) => {
      mayListen(caller, body.listen);
      return of(control).addForward(body.listen, body.target);
    },
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
    handler: ({ control, caller, body }) => {
      mayListen(caller, body.listen);
      return of(control).addProxy(body.listen, body.via);
    },
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
