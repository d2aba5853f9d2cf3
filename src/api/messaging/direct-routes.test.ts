import assert from "node:assert/strict";
import { test } from "node:test";
import type { NodeControl } from "../control.ts";
import { DIRECT_ROUTES } from "./direct-routes.ts";
import type { Call, Caller, LiveSource } from "./route.ts";

test("a service without a client is given up long before a client that only listens would be", async () => {
  const route = DIRECT_ROUTES.find(({ path }) => path === "/v1/services/:name/requests");
  assert.ok(route?.kind === "stream");
  const caller: Caller = { via: "socket", id: "socket", scopes: new Set(), agent: undefined };
  const call = { control: {} as NodeControl, caller, params: { name: "add" }, query: {} };
  const source = (await route.open(call as unknown as Call<never, never>)) as LiveSource;
  assert.equal(source.lingerMs, 15_000);
});
