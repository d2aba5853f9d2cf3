import assert from "node:assert/strict";
import { test } from "node:test";
import { nullLogger } from "../../base/log.ts";
import type { NodeControl } from "../control.ts";
import { createApi } from "../server.ts";
import type { Caller } from "./route.ts";

/** What reached the part, as "METHOD ARGUMENTS". */
const reached: string[] = [];
const part = (): unknown =>
  new Proxy(
    {},
    {
      get:
        (_, name) =>
        (...given: unknown[]) => {
          reached.push(`${String(name)} ${given.filter((one) => typeof one === "string").join(" ")}`);
          return [];
        },
    },
  );
const control = { metrics: () => [], messaging: { agents: part(), direct: part() } } as unknown as NodeControl;
const { app } = createApi(control, nullLogger);

/** @returns the status, and what reached the part */
async function ask(agent: string | undefined, method: string, path: string, body?: object): Promise<[number, string]> {
  // the scopes are not what is tested here
  const caller: Caller = { via: "socket", id: "x", scopes: new Set(["admin"]), agent };
  reached.length = 0;
  const request = new Request(`http://weft${path}`, { method, ...(body && { body: JSON.stringify(body) }) });
  const { status } = await app.fetch(request, { caller });
  return [status, reached.join("; ")];
}

test("a caller bound to one agent changes, exports and removes no other one, and makes none", async () => {
  for (const [method, path, body] of [
    ["POST", "/v1/agents/ada/access", { open: true }],
    ["POST", "/v1/agents/ada/export", undefined],
    ["DELETE", "/v1/agents/ada", undefined],
  ] as const) {
    assert.deepEqual(await ask("bob", method, path, body), [403, ""], path);
    for (const agent of ["ada", undefined]) {
      const [status, called] = await ask(agent, method, path, body);
      assert.equal(status, 200);
      assert.match(called, /^\w+ ada/);
    }
  }
  for (const [path, body] of [
    ["/v1/agents", { name: "bob" }],
    ["/v1/agents/import", { name: "bob", secret: "s" }],
  ] as const) {
    assert.deepEqual(await ask("bob", "POST", path, body), [403, ""], path);
    assert.match((await ask(undefined, "POST", path, body))[1], /^\w+ bob/);
  }
});

test("messages, outcomes, inboxes and answers of a caller bound to an agent are that agent's", async () => {
  for (const [path, one, all] of [
    ["/v1/messages", "outgoing bob", "outgoing "],
    ["/v1/messages/77", "status 77 bob", "status 77"],
    ["/v1/inboxes", "inboxes bob", "inboxes "],
  ]) {
    assert.equal((await ask("bob", "GET", path))[1], one);
    assert.equal((await ask(undefined, "GET", path))[1], all);
  }
  const answer = { key: "k", text: "x" };
  assert.equal((await ask("bob", "POST", "/v1/responses", answer))[1], "respond k bob");
  assert.equal((await ask(undefined, "POST", "/v1/responses", answer))[1], "respond k");
});
