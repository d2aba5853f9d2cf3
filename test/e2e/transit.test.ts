/**
 * Two nodes that cannot reach each other in any way: their traffic goes through a member, through another one when that dies, and through a
 * beacon when members do not carry for others. How long each step took is reported, and judged by lab/scenarios/transit.ts.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Host } from "../../lab/namespaces.ts";
import { PingStream } from "../../lab/gaps.ts";
import { type NetworkOptions, type WeftNetwork, formNetwork } from "../../lab/network.ts";
import { sleep } from "../../lab/process.ts";
import { keepApart, reunite, type RoutedHosts, routedHosts } from "../../lab/topologies.ts";
import { iperf, ping, timeUntilAnswered } from "../../lab/traffic.ts";
import { assertConservation, skip, sum, withLab } from "./support.ts";

const FIRST_LIMIT_MS = 15_000;

/** @param names the founder first; a and b among them are kept apart */
async function withApart(
  names: readonly string[],
  options: NetworkOptions,
  body: (network: WeftNetwork, topology: RoutedHosts) => Promise<void>,
): Promise<void> {
  await withLab(
    () => routedHosts(names),
    async (topology) => {
      const host = (name: string): Host => topology.hosts[names.indexOf(name)];
      await keepApart(topology.router, host("a"), host("b"));
      const network = await formNetwork(topology.lab, topology.hosts, options);
      try {
        await body(network, topology);
      } catch (error) {
        if (error instanceof Error) error.message += `\n--- logs\n${network.logs(80)}`;
        throw error;
      }
    },
  );
}

test("a and b meet through c alone: ping, TCP and large packets, both ways", { skip, timeout: 120_000 }, async (t) => {
  await withApart(["c", "a", "b"], {}, async (network) => {
    const [a, b, c] = [network.node("a"), network.node("b"), network.node("c")];
    await a.peer("c");
    await b.peer("c");
    const firstMs = await timeUntilAnswered(a.host, await b.address(4), FIRST_LIMIT_MS);
    t.diagnostic(`first answer after ${Math.round(firstMs)} ms`);
    assert.ok(Number.isFinite(firstMs), "no answer");
    for (const [from, to] of [
      [a, "b"],
      [b, "a"],
    ] as const) {
      const seen = await from.peer(to, 5_000, ({ path, online }) => online && path.kind === "transit");
      assert.deepEqual(seen.path, { kind: "transit", endpoint: null, via: "c" });
    }
    for (const family of [4, 6] as const) {
      const echo = await ping(a.host, await b.address(family), { count: 50, intervalMs: 10 });
      assert.ok(echo.received >= echo.sent - 1, `${echo.received} of ${echo.sent}`);
      const large = await ping(b.host, await a.address(family), { count: 5, intervalMs: 20, bytes: 4_000 });
      assert.equal(large.received, large.sent);
    }
    const tcp = await iperf(a.host, b.host, await b.address(4), { seconds: 2 });
    t.diagnostic(`TCP ${Math.round(tcp.bitsPerSecond / 1e6)} Mbit/s`);
    assert.ok(tcp.bitsPerSecond > 10e6, `${tcp.bitsPerSecond} bit/s`);
    const pong = await a.json<{ replies: { path: { kind: string; via: string } }[] }>(["ping", "b", "--count", "1"]);
    assert.equal(pong.replies[0].path.kind, "transit");
    const carried = await c.metrics();
    assert.equal(sum(carried, "weft_tun_packets_total", 'direction="tx"'), 0, "c sees nothing of it");
    for (const peer of ["a", "b"]) {
      const bytes = sum(carried, "weft_peer_forwarded_bytes_total", `peer="${peer}"`);
      assert.ok(bytes > 10_000, `c counts ${bytes} bytes of ${peer} that it carried`);
    }
    for (const node of [a, b]) await assertConservation(node);
  });
});

test("c is killed while d offers another way: traffic goes on through d", { skip, timeout: 120_000 }, async (t) => {
  await withApart(["c", "d", "a", "b"], {}, async (network) => {
    const [a, b] = [network.node("a"), network.node("b")];
    for (const node of [a, b]) for (const other of ["c", "d"]) await node.peer(other);
    const address = await b.address(4);
    assert.ok(Number.isFinite(await timeUntilAnswered(a.host, address, FIRST_LIMIT_MS)), "no answer");
    const stream = PingStream.start(a.host, address);
    try {
      await sleep(5_000);
      const { path } = await a.peer("b", 5_000, (peer) => peer.path.kind === "transit");
      const between = network.node(path.via ?? "");
      const killedMs = Date.now();
      await between.kill();
      await sleep(4_000);
      const gapMs = stream.longestGapMs(killedMs, Date.now());
      t.diagnostic(`${between.name} killed: gap ${Math.round(gapMs)} ms`);
      const after = await a.peer("b", 5_000, (peer) => peer.path.kind === "transit" && peer.path.via !== between.name);
      assert.equal(after.path.via, between.name === "c" ? "d" : "c");
      assert.ok(gapMs < 4_000, `${gapMs} ms`);
    } finally {
      await stream.stop();
    }
  });
});

test("members that carry for nobody leave it to the beacon, which relays", { skip, timeout: 120_000 }, async (t) => {
  const config = (): string => "transit = false\n";
  await withLab(
    () => routedHosts(["c", "relay", "a", "b"]),
    async ({ lab, router, hosts }) => {
      const [c, relay, a, b] = hosts;
      await keepApart(router, a, b);
      const network = await formNetwork(lab, [c, a, b], { config });
      const { WeftNode } = await import("../../lab/network.ts");
      const beacon = new WeftNode({ host: relay, name: "relay", state: `${lab.folder}/state-relay`, config: config() });
      lab.onClose(async () => void (await beacon.stop()));
      try {
        const [na, nb] = [network.node("a"), network.node("b")];
        await na.peer("c");
        await nb.peer("c");
        const { token } = await network.admin.invite(["--role", "beacon"]);
        await beacon.join(token);
        await na.peer("relay");
        await nb.peer("relay");
        const firstMs = await timeUntilAnswered(na.host, await nb.address(4), FIRST_LIMIT_MS);
        t.diagnostic(`first answer after ${Math.round(firstMs)} ms`);
        assert.ok(Number.isFinite(firstMs), "no answer");
        const seen = await na.peer("b", 5_000, ({ path, online }) => online && path.kind === "relay");
        assert.equal(seen.path.via, "relay");
      } catch (error) {
        if (error instanceof Error)
          error.message += `\n--- logs\n${network.logs(60)}\n${beacon.daemon?.tail(60) ?? ""}`;
        throw error;
      }
    },
  );
});

test("a direct path that is cut: traffic goes on through c, and comes back", { skip, timeout: 120_000 }, async (t) => {
  await withLab(
    () => routedHosts(["c", "a", "b"]),
    async ({ lab, router, hosts }) => {
      const network = await formNetwork(lab, hosts);
      const [, hostA, hostB] = hosts;
      const [a, b] = [network.node("a"), network.node("b")];
      try {
        await network.allPairs();
        const stream = PingStream.start(hostA, await b.address(4));
        try {
          await sleep(6_000);
          await keepApart(router, hostA, hostB);
          const cutMs = Date.now();
          await sleep(4_000);
          const gapMs = stream.longestGapMs(cutMs, Date.now());
          t.diagnostic(`direct path cut: gap ${Math.round(gapMs)} ms`);
          const seen = await a.peer("b", 5_000, ({ path }) => path.kind === "transit");
          assert.equal(seen.path.via, "c");
          assert.ok(gapMs < 4_000, `${gapMs} ms`);
          await reunite(router);
          const backMs = Date.now();
          await a.peer("b", 60_000);
          await b.peer("a", 60_000);
          t.diagnostic(
            `direct again after ${Date.now() - backMs} ms, gap ${stream.longestGapMs(backMs, Date.now())} ms`,
          );
        } finally {
          await stream.stop();
        }
      } catch (error) {
        if (error instanceof Error) error.message += `\n--- logs\n${network.logs(80)}`;
        throw error;
      }
    },
  );
});
