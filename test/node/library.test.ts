import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { WeftNode } from "../../src/node/index.ts";
import { createNode, initNetwork } from "../../src/node/index.ts";

const root = mkdtempSync(join(tmpdir(), "weft-library-"));
const running = new Set<WeftNode>();
after(async () => {
  for (const node of running) await node.stop();
  rmSync(root, { recursive: true });
});

async function start(name: string, join_?: string, testing: { commitDelayMs?: number } = {}): Promise<WeftNode> {
  const node = await createNode({
    stateDirectory: join(root, name),
    join: join_,
    config: { name, tun: false, listen: ["127.0.0.1:0"], maxPeers: 16 },
    testing,
  });
  running.add(node);
  return node;
}

test("several nodes live in one process; they join, echo, restart, and a revoked one ends with the reason", async () => {
  await initNetwork({ stateDirectory: join(root, "one"), network: "example", name: "one" });
  // a slow disk delays no handshake
  const one = await start("one", undefined, { commitDelayMs: 100 });
  const { token } = await one.control.invite({ uses: 2 });
  const two = await start("two", token);
  const three = await start("three", token);
  for (const [from, to] of [
    [one, "two"],
    [two, "one"],
    [two, "three"],
    [three, "two"],
  ] as const) {
    assert.notEqual((await from.control.ping(to, 5000)).rttMs, null, to);
  }
  await assert.rejects(createNode({ stateDirectory: join(root, "two"), config: { tun: false } }), {
    code: "STATE_LOCKED",
  });
  await assert.rejects(two.control.ping("two", 100), { code: "PING_SELF" });

  await two.stop();
  assert.equal(await two.closed, undefined);
  // the token is used up by now, and not needed
  const again = await start("two", token);
  assert.notEqual((await again.control.ping("one", 5000)).rttMs, null);
  const metrics = again.control.metrics();
  for (const name of ["weft_udp_datagrams_total", "weft_drops_total", "weft_stage_seconds", "weft_peer_online"]) {
    assert.ok(
      metrics.some((sample) => sample.name === name),
      name,
    );
  }

  assert.equal((await one.control.revoke("three", "lost")).name, "three");
  assert.equal((await three.closed)?.code, "REVOKED");
  assert.equal(one.control.status().network.members, 2);
  await again.control.leave();
  assert.equal(await again.closed, undefined);
  assert.equal(one.control.status().network.members, 1);

  // the same identity may come back, although its handshake timestamps ran ahead of the clock
  const back = await start("two", (await one.control.invite({})).token);
  assert.equal(back.control.status().network.members, 2);
});

test("a node that cannot start leaves its state directory free", async () => {
  const broken = { stateDirectory: join(root, "broken"), config: { tun: false, listen: ["203.0.113.1:1"] } } as const;
  await initNetwork({ stateDirectory: broken.stateDirectory, network: "broken", name: "x" });
  await assert.rejects(createNode(broken), { remedy: /--listen/ });
  await assert.rejects(createNode(broken), { remedy: /--listen/ });
});

test("the example of the guide runs as it stands there", () => {
  const file = new URL("../../docs/examples/two-nodes.ts", import.meta.url).pathname;
  const out = execFileSync(process.execPath, ["--disable-warning=ExperimentalWarning", file], {
    encoding: "utf8",
    timeout: 30_000,
  });
  assert.match(
    out,
    /^one answered in \d+\.\d\d ms, direct 127\.0\.0\.1:\d+\n(two|one): aes-256-gcm|chacha20-poly1305, hybrid true/m,
  );
});
