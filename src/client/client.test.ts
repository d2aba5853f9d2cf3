import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { WeftClient } from "./client.ts";
import { fillPath } from "./transport.ts";

const root = mkdtempSync(join(tmpdir(), "weft-client-"));
after(() => rmSync(root, { recursive: true }));

test("parameters and queries are escaped, lists repeat their key, and what is undefined is left out", () => {
  assert.equal(
    fillPath("/v1/topics/:topic/events", {
      params: { topic: "a/b?c ü" },
      query: { from: ["x&y", "z"], limit: 3, off: undefined },
    }),
    "/v1/topics/a%2Fb%3Fc%20%C3%BC/events?from=x%26y&from=z&limit=3",
  );
});

/** Answers like a daemon that is scripted: the n-th request gets the n-th script. */
async function scripted(
  scripts: readonly ((lastEventId: string | undefined) => {
    status: number;
    body: string;
    type?: string;
    stays?: boolean;
  })[],
): Promise<{ client: WeftClient; server: Server; asked: (string | undefined)[]; reached: () => number }> {
  const asked: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    const last = request.headers["last-event-id"] as string | undefined;
    const { status, body, type, stays } = (scripts[asked.length] ?? scripts[scripts.length - 1])(last);
    asked.push(last);
    response.writeHead(status, { "content-type": type ?? "text/event-stream" });
    response.write(body);
    if (stays !== true) response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    client: new WeftClient({ url: `http://127.0.0.1:${port}`, token: "t" }),
    server,
    asked,
    reached: () => asked.length,
  };
}

const event = (id: string, name: string, data: unknown): string =>
  `id: ${id}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
const refusal = (code: string): string => JSON.stringify({ code, message: "m", remedy: "r" });
const close = (server: Server): Promise<void> =>
  new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });

test("a stream that breaks goes on behind its last event, also over answers that pass", async () => {
  const { client, server, asked } = await scripted([
    () => ({ status: 200, body: event("r-1", "message", { n: 1 }) + event("r-2", "message", { n: 2 }) }),
    () => ({ status: 429, body: refusal("STREAMS_FULL"), type: "application/json" }),
    () => ({ status: 200, body: `: heartbeat\n\n${event("r-3", "message", { n: 3 })}`, stays: true }),
  ]);
  const heard: unknown[] = [];
  for await (const { data } of client.events("/v1/x")) {
    heard.push(data);
    if (heard.length === 3) break;
  }
  assert.deepEqual(heard, [{ n: 1 }, { n: 2 }, { n: 3 }]);
  assert.deepEqual(asked, [undefined, "r-2", "r-2"]);
  await close(server);
});

test("what the daemon refuses for good ends the stream with its error, at the first try and later", async () => {
  const never = await scripted([() => ({ status: 403, body: refusal("FORBIDDEN"), type: "application/json" })]);
  await assert.rejects(never.client.events("/v1/x").next(), { code: "FORBIDDEN", remedy: "r" });
  const later = await scripted([
    () => ({ status: 200, body: event("r-1", "message", {}) }),
    () => ({ status: 404, body: refusal("AGENT_UNKNOWN"), type: "application/json" }),
  ]);
  const stream = later.client.events("/v1/x");
  await stream.next();
  await assert.rejects(stream.next(), { code: "AGENT_UNKNOWN" });
  const broken = await scripted([() => ({ status: 200, body: `event: error\ndata: ${refusal("INTERNAL")}\n\n` })]);
  await assert.rejects(broken.client.events("/v1/x").next(), { code: "INTERNAL" });
  for (const { server } of [never, later, broken]) await close(server);
});

test("without a daemon it says so; told to wait, it waits for one", async () => {
  const socket = join(root, "none.sock");
  await assert.rejects(new WeftClient(socket).events("/v1/x").next(), { code: "DAEMON_DOWN" });
  const abort = new AbortController();
  const waiting = new WeftClient(socket).events("/v1/x", { reconnect: "always", signal: abort.signal }).next();
  setTimeout(() => abort.abort(), 30);
  assert.equal((await waiting).done, true);
});

test("an answer that is no answer of the daemon is an error with a remedy", async () => {
  const { client, server } = await scripted([() => ({ status: 502, body: "<html>", type: "text/html" })]);
  await assert.rejects(client.status(), { code: "API_FAILED", remedy: /weft version/ });
  await close(server);
  await assert.rejects(client.status(), { code: "DAEMON_DOWN", remedy: /\[api\] listen/ });
});
