/** Forwards, files, SOCKS and execution between real nodes without an interface, used through the local API as the weft command does. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { ExecOutput, ExecStarted } from "../../src/api/messaging/exec-control.ts";
import type { TransferView } from "../../src/api/messaging/files-control.ts";
import type { ForwardView } from "../../src/api/messaging/forwards-control.ts";
import { type ApiServer, serveApi } from "../../src/api/server.ts";
import { nullLogger } from "../../src/base/log.ts";
import { WeftClient } from "../../src/client/index.ts";
import { createNode, initNetwork, type WeftNode } from "../../src/node/index.ts";

const root = mkdtempSync(join(tmpdir(), "weft-services-"));
const nodes: WeftNode[] = [];
const servers: ApiServer[] = [];
after(async () => {
  for (const server of servers) await server.close();
  for (const node of nodes) await node.stop();
  rmSync(root, { recursive: true });
});

async function start(name: string, toml: string, token?: string): Promise<{ node: WeftNode; api: WeftClient }> {
  const stateDirectory = join(root, name);
  mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  writeFileSync(join(stateDirectory, "weft.toml"), toml);
  const node = await createNode({
    stateDirectory,
    join: token,
    config: { name, tun: false, listen: ["127.0.0.1:0"], maxPeers: 16 },
  });
  nodes.push(node);
  const socket = join(stateDirectory, "weft.sock");
  servers.push(await serveApi(node.control, socket, nullLogger));
  return { node, api: new WeftClient(socket) };
}

async function done(api: WeftClient, begun: Promise<TransferView>): Promise<TransferView> {
  const { key } = await begun;
  for (;;) {
    const view = await api.call<TransferView>("GET", "/v1/files/transfers/:key", { params: { key } });
    if (["done", "failed", "refused", "cancelled"].includes(view.state)) return view;
    await sleep(10);
  }
}

await initNetwork({ stateDirectory: join(root, "one"), network: "example", name: "one" });
const one = await start("one", "");
const { token } = await one.node.control.invite({ uses: 2 });
const two = await start(
  "two",
  `
[forward]
allow = [{ peers = ["one"], targets = ["loopback:*"] }]
[files]
# what is to be shared again must not lie in the state directory
directory = "${join(root, "received")}"
[exec.greet]
run = ["/bin/echo", "hello"]
peers = ["one"]
arguments = 1
`,
  token,
);
const three = await start("three", "[files]\naccept = false\n", token);

const web = createServer((_, response) => response.end("served by two"));
await new Promise<void>((resolve) => web.listen(0, "127.0.0.1", resolve));
after(() => web.close());
const webPort = (web.address() as AddressInfo).port;

test("a port of one machine is a port of another, for who may", async () => {
  const made = await one.api.call<ForwardView>("POST", "/v1/forwards", {
    body: { listen: "0", target: `two:${webPort}` },
  });
  assert.equal(await (await fetch(`http://${made.listen}/`)).text(), "served by two");
  const other = await three.api.call<ForwardView>("POST", "/v1/forwards", {
    body: { listen: "0", target: `two:${webPort}` },
  });
  await assert.rejects(fetch(`http://${other.listen}/`));
  assert.match(await two.api.metrics(), /weft_forward_served_total\{result="not_allowed"\} 1/);
});

test("a file goes to a member, and from two members at once to a third", async () => {
  const bytes = randomBytes(12 << 20);
  const path = join(root, "original");
  writeFileSync(path, bytes);
  const sent = await done(one.api, one.api.call("POST", "/v1/files/send", { body: { path, to: "two" } }));
  assert.equal(sent.state, "done", sent.error ?? "");
  const refused = await done(one.api, one.api.call("POST", "/v1/files/send", { body: { path, to: "three" } }));
  assert.equal(refused.state, "refused");
  const shared = await done(one.api, one.api.call("POST", "/v1/files/share", { body: { path } }));
  const copy = join(root, "received/original");
  const again = await done(two.api, two.api.call("POST", "/v1/files/share", { body: { path: copy } }));
  assert.equal(again.id, shared.id);
  const target = join(root, "fetched");
  const got = await done(
    three.api,
    three.api.call("POST", "/v1/files/get", { body: { id: shared.id, from: ["one", "two"], path: target } }),
  );
  assert.equal(got.state, "done", got.error ?? "");
  assert.ok(readFileSync(target).equals(bytes));
});

test("an allowed program runs on another node, and no other one", async () => {
  assert.deepEqual(await one.api.call("GET", "/v1/exec", { query: { node: "two" } }), { commands: ["greet"] });
  assert.deepEqual(await three.api.call("GET", "/v1/exec", { query: { node: "two" } }), { commands: [] });
  const run = async (api: WeftClient): Promise<ExecOutput> => {
    const body = { node: "two", command: "greet", args: ["you; id"] };
    const { key } = await api.call<ExecStarted>("POST", "/v1/exec", { body });
    let output: ExecOutput;
    do
      output = await api.call<ExecOutput>("GET", "/v1/exec/:key", {
        params: { key },
        query: { after: 0, waitMs: 5_000 },
      });
    while (output.exit === null);
    return output;
  };
  const { chunks, exit } = await run(one.api);
  assert.equal(chunks.map(({ data }) => Buffer.from(data, "base64").toString()).join(""), "hello you; id\n");
  assert.deepEqual(exit, { code: 0, signal: null, reason: null });
  assert.match((await run(three.api)).exit?.reason ?? "", /no such command/);
});

test("what the API is given is checked before it reaches a part", async () => {
  const bad = { code: "BAD_REQUEST" };
  await assert.rejects(one.api.call("POST", "/v1/forwards", { body: { listen: "1" } }), bad);
  await assert.rejects(one.api.call("POST", "/v1/files/get", { body: { id: "f1" } }), bad);
  await assert.rejects(one.api.call("POST", "/v1/exec", { body: { node: "two", command: "x", shell: true } }), bad);
  await assert.rejects(one.api.call("GET", "/v1/files/transfers/:key", { params: { key: "none" } }), {
    code: "TRANSFER_UNKNOWN",
  });
});
