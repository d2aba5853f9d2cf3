import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { WeftError } from "../base/errors.ts";
import { nullLogger } from "../base/log.ts";
import { WeftClient } from "../client/client.ts";
import type { MetricSample, NodeControl, StatusView } from "./control.ts";
import type { ExplainView } from "./explain-view.ts";
import { formatPrometheus } from "./prometheus.ts";
import { createApi, MAX_BODY_BYTES, serveApi } from "./server.ts";

const root = mkdtempSync(join(tmpdir(), "weft-api-"));
after(() => rmSync(root, { recursive: true }));

const STATUS = { node: { name: "a" }, network: { name: "home" }, peers: [], health: [] } as unknown as StatusView;

/** Records what it is asked. */
class FakeControl implements NodeControl {
  readonly asked: unknown[] = [];
  status = (): StatusView => STATUS;
  peers = (): never[] => [];
  members = (): never[] => [];
  health = (): never[] => [];
  doctor = (): never[] => [];
  metrics = (): MetricSample[] => [
    { name: "weft_x_total", type: "counter", help: "X.", labels: { peer: 'a"b' }, value: 3 },
  ];
  invite: NodeControl["invite"] = (body) => {
    this.asked.push(body);
    return Promise.resolve({
      id: "00",
      token: "t",
      expiresAt: "2030-01-01T00:00:00.000Z",
      uses: body.uses ?? 1,
      warning: null,
    });
  };
  revoke: NodeControl["revoke"] = (node, reason) => {
    this.asked.push([node, reason]);
    return Promise.reject(new WeftError("NODE_UNKNOWN", `no member is called "${node}"`, "weft members lists them"));
  };
  leave = (): Promise<void> => Promise.resolve();
  down = (): Promise<void> => Promise.resolve();
  whois: NodeControl["whois"] = (query) =>
    query === "a" ? { id: "w1", name: "a", addresses: [], roles: [], self: true } : undefined;
  explain: NodeControl["explain"] = (peer) => {
    this.asked.push(peer);
    return Promise.resolve({ peer: { id: "w2", name: peer } } as unknown as ExplainView);
  };
  ping: NodeControl["ping"] = (peer, timeoutMs) => {
    this.asked.push([peer, timeoutMs]);
    return Promise.reject(new Error("a defect"));
  };
}

test("client and server agree on every route, and the socket is for user and group alone", async () => {
  const control = new FakeControl();
  const path = join(root, "one.sock");
  const server = await serveApi(control, path, nullLogger);
  const client = new WeftClient(path);
  try {
    assert.equal(statSync(path).mode & 0o777, 0o660);
    assert.deepEqual(await client.status(), STATUS);
    assert.deepEqual(await client.peers(), []);
    assert.deepEqual(await client.members(), []);
    assert.deepEqual(await client.health(), []);
    assert.deepEqual(await client.doctor(), []);
    assert.equal((await client.whois("a")).name, "a");
    assert.equal((await client.explain("some node")).peer.name, "some node");
    assert.equal((await client.invite({ uses: 3 })).uses, 3);
    assert.match(await client.metrics(), /^weft_x_total\{peer="a\\"b"\} 3$/m);
    await client.leave();
    await client.down();
    await assert.rejects(client.whois("nobody"), { code: "NODE_UNKNOWN" });
    await assert.rejects(client.revoke("x", "lost"), { code: "NODE_UNKNOWN", remedy: "weft members lists them" });
    assert.deepEqual(control.asked, ["some node", { uses: 3 }, ["x", "lost"]]);
  } finally {
    await server.close();
  }
  await assert.rejects(client.status(), { code: "DAEMON_DOWN", remedy: /weft up/ });
});

test("a socket left by a killed daemon is replaced", async () => {
  const path = join(root, "stale.sock");
  const first = await serveApi(new FakeControl(), path, nullLogger);
  const second = await serveApi(new FakeControl(), path, nullLogger);
  assert.deepEqual(await new WeftClient(path).status(), STATUS);
  await second.close();
  await first.close();
});

test("a path too long for a socket is an error with a remedy", async () => {
  await assert.rejects(serveApi(new FakeControl(), join(root, "x".repeat(120)), nullLogger), {
    code: "SOCKET_PATH",
    remedy: /--state/,
  });
});

async function post(
  control: NodeControl,
  path: string,
  body: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; value: Record<string, unknown> }> {
  const { app } = createApi(control, nullLogger);
  const response = await app.request(path, { method: "POST", body, headers: { host: "weft", ...headers } });
  return { status: response.status, value: (await response.json()) as Record<string, unknown> };
}

test("bodies that do not fit the schema are refused with the name of the field and never reach the node", async () => {
  const control = new FakeControl();
  const cases: [string, string, RegExp][] = [
    ["/v1/invite", '{"uses":0}', /^uses: /],
    ["/v1/invite", '{"uses":"1"}', /^uses: /],
    ["/v1/invite", '{"roles":["king"]}', /^roles\.0: /],
    ["/v1/invite", '{"surprise":1}', /surprise/],
    ["/v1/revoke", "{}", /^node: /],
    ["/v1/ping", '{"peer":"a","timeoutMs":1e9}', /^timeoutMs: /],
    ["/v1/ping", "[]", /^body: /],
    ["/v1/down", "not json", /not JSON/],
  ];
  for (const [path, body, message] of cases) {
    const { status, value } = await post(control, path, body);
    assert.equal(status, 400, body);
    assert.equal(value["code"], "BAD_REQUEST");
    assert.match(value["message"] as string, message);
    assert.equal(typeof value["remedy"], "string");
  }
  assert.deepEqual(control.asked, []);
});

test("whatever is sent is answered with JSON and a status below 500", async () => {
  await fc.assert(
    fc.asyncProperty(fc.constantFrom("/v1/invite", "/v1/down", "/v1/nothing"), fc.string(), async (path, body) => {
      const { status, value } = await post(new FakeControl(), path, body);
      assert.ok(status < 500);
      assert.equal(typeof value, "object");
    }),
    { numRuns: 60 },
  );
});

test("too large a body, a foreign Host and an Origin are refused", async () => {
  const control = new FakeControl();
  const large = JSON.stringify({ node: "x".repeat(MAX_BODY_BYTES) });
  assert.equal((await post(control, "/v1/revoke", large)).status, 413);
  assert.equal((await post(control, "/v1/down", "{}", { host: "evil.example" })).status, 403);
  assert.equal((await post(control, "/v1/down", "{}", { origin: "https://evil.example" })).status, 403);
});

test("a defect in the node is an INTERNAL error, not a broken connection", async () => {
  const { status, value } = await post(new FakeControl(), "/v1/ping", '{"peer":"a"}');
  assert.equal(status, 500);
  assert.equal(value["code"], "INTERNAL");
});

test("a large body over the socket is cut off while it arrives", async () => {
  const path = join(root, "large.sock");
  const server = await serveApi(new FakeControl(), path, nullLogger);
  try {
    const status = await new Promise<number>((resolve) => {
      const outgoing = request({ socketPath: path, path: "/v1/revoke", method: "POST", headers: { host: "weft" } });
      outgoing.on("response", (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      outgoing.on("error", () => resolve(413));
      for (let i = 0; i < 64; i++) outgoing.write("x".repeat(16_384));
      outgoing.end();
    });
    assert.equal(status, 413);
  } finally {
    await server.close();
  }
});

test("samples of one metric stand together under one HELP and TYPE, histograms are cumulative", () => {
  const text = formatPrometheus([
    { name: "weft_a_total", type: "counter", help: "A.", labels: { x: "1" }, value: 1 },
    {
      name: "weft_h_seconds",
      type: "histogram",
      help: "H.",
      labels: {},
      value: 3,
      sum: 0.5,
      buckets: [
        [0.001, 1],
        [Infinity, 3],
      ],
    },
    { name: "weft_a_total", type: "counter", help: "A.", labels: { x: "2\n" }, value: 2 },
  ]);
  assert.equal(
    text,
    `# HELP weft_a_total A.
# TYPE weft_a_total counter
weft_a_total{x="1"} 1
weft_a_total{x="2\\n"} 2
# HELP weft_h_seconds H.
# TYPE weft_h_seconds histogram
weft_h_seconds_bucket{le="0.001"} 1
weft_h_seconds_bucket{le="+Inf"} 3
weft_h_seconds_sum 0.5
weft_h_seconds_count 3
`,
  );
});
