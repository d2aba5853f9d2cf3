/**
 * Nodes that have no UDP address in common: one has IPv4 only, the other IPv6 only, so all that is left is the channel. Real daemons
 * in one process, on loopback. What a real firewall and nginx do is in test/e2e/websocket.test.ts.
 */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createNode, initNetwork, type WeftNode } from "../../src/node/index.ts";

const root = mkdtempSync(join(tmpdir(), "weft-channels-"));
const running = new Set<WeftNode>();
after(async () => {
  for (const node of running) await node.stop();
  rmSync(root, { recursive: true });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

function configure(name: string, toml: string): string {
  const directory = join(root, name);
  mkdirSync(directory, { mode: 0o700, recursive: true });
  writeFileSync(join(directory, "weft.toml"), toml, { mode: 0o600 });
  return directory;
}

async function start(directory: string, name: string, listen: string, token?: string): Promise<WeftNode> {
  const config = { name, tun: false, listen: [listen], maxPeers: 16 } as const;
  const node = await createNode({ stateDirectory: directory, join: token, config });
  running.add(node);
  return node;
}

function metric(node: WeftNode, name: string, label: string): number {
  const found = node.control
    .metrics()
    .find((sample) => sample.name === name && Object.values(sample.labels).includes(label));
  assert.ok(found !== undefined, `${name} ${label}`);
  return found.value;
}

test("a node joins, is answered and comes back after restarts of either side, all over a channel", async () => {
  const port = await freePort();
  const oneAt = configure(
    "one",
    `endpoints = ["ws://127.0.0.1:${port}/weft"]\n[websocket]\nlisten = "127.0.0.1:${port}"\n`,
  );
  const twoAt = configure("two", "");
  await initNetwork({ stateDirectory: oneAt, network: "example", name: "one" });
  let one = await start(oneAt, "one", "127.0.0.1:0");
  const { token, warning } = await one.control.invite({});
  assert.equal(warning, null);
  const began = performance.now();
  let two = await start(twoAt, "two", "[::1]:0", token);
  assert.ok(performance.now() - began < 10_000);
  const check = async (): Promise<void> => {
    for (const [from, to] of [
      [two, "one"],
      [one, "two"],
    ] as const) {
      const echo = await from.control.ping(to, 10_000);
      assert.notEqual(echo.rttMs, null, to);
      assert.equal(echo.path.kind, "relay");
      assert.match(echo.path.endpoint ?? "", /^channel#\d+$/);
    }
  };
  await check();
  assert.equal((await two.control.ping("one", 5_000)).path.via, "127.0.0.1");
  assert.equal(metric(two, "weft_channels", "self"), 1);
  assert.ok(two.control.health().some(({ code }) => code === "udp-silent"));
  assert.equal(metric(one, "weft_channels", "other"), 1);
  assert.ok(metric(two, "weft_channel_datagrams_total", "tx") > 0);
  assert.deepEqual(
    one.control.status().node.endpoints.filter((text) => text.includes("ws:")),
    [`ws://127.0.0.1:${port}/weft`],
  );

  await two.stop();
  running.delete(two);
  two = await start(twoAt, "two", "[::1]:0");
  await check();

  await one.stop();
  running.delete(one);
  one = await start(oneAt, "one", "127.0.0.1:0");
  const deadline = performance.now() + 30_000;
  while ((await two.control.ping("one", 1_000)).rttMs === null)
    assert.ok(performance.now() < deadline, "30 s are over");
  await check();
});

test("an address that is taken, and an authority file that is none, end the start with what to do", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const taken = configure("five", `[websocket]\nlisten = "127.0.0.1:${port}"\n`);
  await initNetwork({ stateDirectory: taken, network: "example", name: "one" });
  await assert.rejects(start(taken, "one", "127.0.0.1:0"), { code: "CHANNEL_LISTEN" });
  server.close();
  const wrong = configure("six", `[websocket]\nca = "${join(taken, "weft.toml")}"\n`);
  await initNetwork({ stateDirectory: wrong, network: "example", name: "one" });
  await assert.rejects(start(wrong, "one", "127.0.0.1:0"), { code: "CONFIG_INVALID", message: /no certificate/ });
});
