import assert from "node:assert/strict";
import { test } from "node:test";
import type { NodeControl } from "../control.ts";
import { FORWARD_ROUTES } from "./forwards-routes.ts";
import type { Call, Caller, Scope } from "./route.ts";

const token = (...scopes: Scope[]): Caller => ({ via: "token", id: "x", scopes: new Set(scopes), agent: undefined });
const SOCKET: Caller = { via: "socket", id: "socket", scopes: new Set(), agent: undefined };

/** Calls both routes that open a listener. @returns places that reached the part */
function open(caller: Caller, listen: string): string[] {
  const opened: string[] = [];
  const take = (place: string): void => void opened.push(place);
  const control = { messaging: { forwards: { addForward: take, addProxy: take } } } as unknown as NodeControl;
  for (const path of ["/v1/forwards", "/v1/socks"]) {
    const route = FORWARD_ROUTES.find((one) => one.kind === "route" && one.method === "POST" && one.path === path);
    assert.ok(route?.kind === "route");
    route.handler({ control, caller, body: { listen, target: "nas:80" } } as unknown as Call<never, never, never>);
  }
  return opened;
}

test("a token with the scope forward opens unprivileged ports of loopback and nothing else", () => {
  for (const listen of ["8080", "0", "1024", "127.0.0.1:8080", "127.9.9.9:0", "[::1]:8080", "[::ffff:127.0.0.1]:8080"])
    assert.deepEqual(open(token("forward"), listen), [listen, listen]);
  for (const listen of [
    "80",
    "1023",
    "127.0.0.1:22",
    "[::1]:443",
    "0.0.0.0:8080",
    "[::]:8080",
    "10.0.0.5:8080",
    "[::ffff:0.0.0.0]:8080",
    "x",
  ])
    assert.throws(() => open(token("forward"), listen), { code: "FORBIDDEN", remedy: /scope admin/ }, listen);
});

test("the unix socket and admins open any", () => {
  for (const caller of [SOCKET, token("admin")])
    for (const listen of ["80", "0.0.0.0:8080"]) assert.deepEqual(open(caller, listen), [listen, listen]);
});
