/** Prefixes behind members: announced, approved, used, taken over when a router fails, and no trace afterwards. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { RoutesView } from "../../src/api/host-control.ts";
import type { Host } from "../../lab/namespaces.ts";
import type { WeftNode } from "../../lab/network.ts";
import { sleep, until } from "../../lab/process.ts";
import { routedHosts, type RoutedHosts } from "../../lab/topologies.ts";
import { iperf, ping } from "../../lab/traffic.ts";
import { formatRoutePrefix, parseRoutePrefix } from "../../src/mesh/route-prefix.ts";
import { assertRestored, machineState, type MachineState } from "./machine-state.ts";
import { skip, withNetwork } from "./support.ts";

const PREFIX4 = "198.18.77.0/24";
const PREFIX6 = "fd77::/64";
const INSIDE4 = "198.18.77.10";
const INSIDE6 = "fd77::10";

interface Site extends RoutedHosts {
  /** A machine that is no member, behind both routers. */
  readonly inside: Host;
  readonly before: ReadonlyMap<string, MachineState>;
}

/** r1 and r2 both have a link to `inside`, which answers at an address of its own behind them. */
async function site(): Promise<Site> {
  const routed = await routedHosts(["r1", "r2", "c"]);
  const { lab, hosts } = routed;
  try {
    const inside = await lab.host("inside");
    await inside.ip("addr", "add", `${INSIDE4}/32`, "dev", "lo");
    await inside.ip("addr", "add", `${INSIDE6}/128`, "dev", "lo");
    for (const router of hosts.slice(0, 2)) {
      const link = await lab.link(router, inside);
      await router.ip("-4", "route", "add", PREFIX4, "via", link.b.address4);
      await router.ip("-6", "route", "add", PREFIX6, "via", link.b.address6);
    }
    const before = new Map<string, MachineState>();
    for (const host of hosts) before.set(host.name, await machineState(host));
    return { ...routed, inside, before };
  } catch (error) {
    await lab.close();
    throw error;
  }
}

async function uses(node: WeftNode, prefix: string, router: string | undefined): Promise<RoutesView> {
  return until(`${node.name} reaches ${prefix} through ${router ?? "nobody"}`, 10_000, async () => {
    const view = await node.api.routes();
    return view.routes.find((route) => route.prefix === prefix && route.active)?.node.name === router
      ? view
      : undefined;
  });
}

test(
  "subnet routers: approval, both families, longest prefix, takeover within a second, everything put back",
  { skip },
  async (t) => {
    await withNetwork(
      site,
      ({ hosts }) => hosts,
      async (network, { before, inside, links }) => {
        const [r1, r2, c] = [network.node("r1"), network.node("r2"), network.node("c")];
        const spareIsHealthy = (name: string): Promise<true> =>
          until(`${name} is a healthy spare`, 10_000, async () => {
            const found = (await c.api.routes()).routes.find(
              (route) => route.prefix === PREFIX4 && route.node.name === name,
            );
            return found?.health === "good" ? true : undefined;
          });
        await t.test("an announced prefix changes nothing before an admin has approved it", async () => {
          const mine = await r1.json<RoutesView>(["routes", "announce", PREFIX4]);
          assert.deepEqual(mine.own, [{ prefix: PREFIX4, approved: false, serving: false }]);
          await until("c hears of it", 5_000, async () =>
            (await c.api.routes()).routes.length === 1 ? true : undefined,
          );
          await uses(c, PREFIX4, undefined);
          assert.equal((await ping(c.host, INSIDE4, { count: 2, intervalMs: 20, graceMs: 300 })).received, 0);
          assert.doesNotMatch(await r1.host.must("nft", ["list", "ruleset"]), /masquerade/);
        });
        await t.test("approved, it is routed, and the inside sees the router's own address", async () => {
          await r1.weft(["routes", "announce", PREFIX6]);
          for (const prefix of [PREFIX4, PREFIX6])
            assert.equal((await r1.weft(["routes", "approve", "r1", prefix])).code, 0);
          await uses(c, PREFIX4, "r1");
          await uses(c, PREFIX6, "r1");
          for (const address of [INSIDE4, INSIDE6]) {
            await until(`${address} answers`, 3_000, async () =>
              (await ping(c.host, address, { count: 1, graceMs: 300 })).received === 1 ? true : undefined,
            );
            const echo = await ping(c.host, address, { count: 10, intervalMs: 20 });
            assert.equal(echo.received, 10, address);
          }
        });
        await t.test("the inside begins no connection to a member", async () => {
          const c4 = await c.address(4);
          const link = (await r1.host.ipJson("-4", "route", "get", INSIDE4))[0] ?? {};
          const device = (await inside.ipJson("-4", "route", "get", link["prefsrc"] as string))[0]?.["dev"] as string;
          const via = ["via", link["prefsrc"] as string, "dev", device, "src", INSIDE4];
          await inside.ip("route", "add", `${c4}/32`, ...via);
          const received = async (): Promise<number> =>
            (await ping(inside, c4, { count: 3, intervalMs: 20, graceMs: 300 })).received;
          assert.equal(await received(), 0);
          const table = /weft-nat-\w+/.exec(await r1.host.must("nft", ["list", "tables"]))?.[0] ?? "";
          await r1.host.must("nft", ["flush", "chain", "inet", table, "through"]);
          assert.equal(await received(), 3, "control: without the rule it could");
          await r1.json(["repair"]);
          assert.equal(await received(), 0);
          await inside.ip("route", "del", `${c4}/32`);
          assert.match(
            await c.host.ip("-4", "route", "show", "table", "all"),
            /unreachable 198\.18\.77\.0\/24 .*metric 9999/,
          );
        });
        await t.test("TCP flows through a router at its path's size", async () => {
          const tcp = await iperf(c.host, inside, INSIDE4, { seconds: 1 });
          assert.ok(tcp.bitsPerSecond > 20e6, `${tcp.bitsPerSecond} bit/s`);
        });
        await t.test("who accepts no routes has none, and no rule either", async () => {
          const off = await c.json<RoutesView>(["routes", "accept", "off"]);
          assert.ok(!off.accept && off.routes.every(({ active }) => !active));
          assert.doesNotMatch(await c.host.ip("rule", "show"), /fwmark/);
          assert.equal((await ping(c.host, INSIDE4, { count: 2, intervalMs: 20, graceMs: 300 })).received, 0);
          await c.json(["routes", "accept", "on"]);
          await uses(c, PREFIX4, "r1");
          assert.equal((await ping(c.host, INSIDE4, { count: 5, intervalMs: 20 })).received, 5);
        });
        await t.test("a longer prefix wins, whoever has the shorter one", async () => {
          await r2.weft(["routes", "announce", "198.18.77.8/29"]);
          await r1.weft(["routes", "approve", "r2", "198.18.77.8/29"]);
          await until("r2 is ready", 5_000, async () =>
            (await r2.api.routes()).own.every(({ serving }) => serving) ? true : undefined,
          );
          await uses(c, "198.18.77.8/29", "r2");
          const sent = async (name: string): Promise<number> =>
            (await c.status()).peers.find((peer) => peer.name === name)?.txBytes ?? 0;
          const was = await sent("r2");
          assert.equal((await ping(c.host, INSIDE4, { count: 50, intervalMs: 10, bytes: 1_000 })).received, 50);
          assert.ok((await sent("r2")) - was > 50_000, "the packets went to r2");
          await r2.weft(["routes", "withdraw", "198.18.77.8/29"]);
          await uses(c, "198.18.77.8/29", undefined);
          assert.equal((await ping(c.host, INSIDE4, { count: 5, intervalMs: 20 })).received, 5);
        });
        await t.test("a prefix that holds the router's own underlay address does not swallow the tunnel", async () => {
          const canonical = (text: string): string => formatRoutePrefix(parseRoutePrefix(text)!);
          const [network4, network6] = [canonical(links[0].network4), canonical(links[0].network6)];
          for (const prefix of [network4, network6]) {
            await r1.json(["routes", "announce", prefix]);
            await r1.json(["routes", "approve", "r1", prefix]);
            await uses(c, prefix, "r1");
          }
          await c.kill();
          await c.up();
          await uses(c, network4, "r1");
          assert.equal((await ping(c.host, INSIDE4, { count: 20, intervalMs: 20 })).received, 20);
          const peer = await c.peer("r1");
          assert.ok(
            peer.path.endpoint?.includes(r1.host.address4) === true ||
              peer.path.endpoint?.includes(r1.host.address6) === true,
          );
          // the same address without the underlay's mark goes through the tunnel
          assert.match(await c.host.ip("route", "get", r1.host.address4), /dev weft/);
          for (const prefix of [network4, network6]) await r1.json(["routes", "withdraw", prefix]);
        });
        await t.test("the router is killed: the other one takes over within a second", async () => {
          await r2.weft(["routes", "announce", PREFIX4]);
          await r1.weft(["routes", "approve", "r2", PREFIX4]);
          await spareIsHealthy("r2");
          await uses(c, PREFIX4, "r1");
          const pinging = ping(c.host, INSIDE4, { count: 250, intervalMs: 20, graceMs: 500 });
          await sleep(1_500);
          await r1.kill();
          const echo = await pinging;
          await uses(c, PREFIX4, "r2");
          assert.ok(echo.longestGapMs > 0 && echo.longestGapMs <= 1_000, `gap ${echo.longestGapMs} ms`);
          await r1.up();
          await spareIsHealthy("r1");
        });
        await t.test("a router that falls silent is left, and taken back when the other one falls silent", async () => {
          for (const [active, spare] of [
            [r2, r1],
            [r1, r2],
          ] as const) {
            await uses(c, PREFIX4, active.name);
            await spareIsHealthy(spare.name);
            const pinging = ping(c.host, INSIDE4, { count: 200, intervalMs: 20, graceMs: 500 });
            await sleep(1_000);
            active.daemon?.signal("SIGSTOP");
            const echo = await pinging;
            await uses(c, PREFIX4, spare.name);
            active.daemon?.signal("SIGCONT");
            // the spare has only just been awake again itself, so this is no measurement of a takeover
            assert.ok(echo.longestGapMs <= 2_000, `gap ${echo.longestGapMs} ms`);
          }
        });
        await t.test("killed, it sends packets for the site nowhere rather than by the default route", async () => {
          await c.kill();
          for (const address of [INSIDE4, INSIDE6])
            assert.match((await c.host.exec("ip", ["route", "get", address])).stderr, /No route to host/, address);
          await c.up();
        });
        await t.test("stopped, killed and repaired, every machine is as it was", async () => {
          await r2.weft(["down"]);
          await r2.daemon?.exited;
          await c.weft(["down"]);
          await c.daemon?.exited;
          await r1.kill();
          const { items } = await r1.json<{ items: { outcome: string; text: string }[] }>(["repair"]);
          assert.ok(
            items.some(({ outcome, text }) => outcome === "undone" && /nft table/.test(text)),
            JSON.stringify(items),
          );
          for (const node of [r1, r2, c]) await assertRestored(node.host, before.get(node.name) ?? {});
        });
      },
    );
  },
);
