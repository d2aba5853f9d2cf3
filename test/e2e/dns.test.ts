/** The network's names: asked over the overlay, found by ordinary programs, following the roster, refused to strangers. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { DnsView } from "../../src/api/host-control.ts";
import type { Host } from "../../lab/namespaces.ts";
import { WeftNode } from "../../lab/network.ts";
import { until } from "../../lab/process.ts";
import { routedHosts } from "../../lab/topologies.ts";
import { WEFT_NODE } from "../../lab/traffic.ts";
import { skip, withNetwork } from "./support.ts";

const ASK = new URL("../support/ask-name.ts", import.meta.url).pathname;

async function ask(from: Host, server: string, type: string, name: string): Promise<string> {
  return (await from.must(WEFT_NODE, [ASK, server, type, name])).trim();
}

test(
  "names of members: A, AAAA, PTR, SRV, through the system's own lookup, and gone with the member",
  { skip },
  async (t) => {
    await withNetwork(
      async () => {
        const routed = await routedHosts(["a", "b", "x"]);
        return { ...routed, before: readFileSync(join(routed.hosts[0].etc, "hosts"), "latin1") };
      },
      ({ hosts }) => hosts.slice(0, 2),
      async (network, { lab, hosts, before }) => {
        const [a, b] = [network.node("a"), network.node("b")];
        const x = hosts[2];
        const [a4, a6, b4, b6] = [await a.address(4), await a.address(6), await b.address(4), await b.address(6)];
        await t.test("asked over the overlay, both families", async () => {
          for (const server of [a4, a6]) {
            assert.equal(await ask(b.host, server, "A", "b.lab.weft"), JSON.stringify([b4]));
            assert.equal(await ask(b.host, server, "AAAA", "A.LAB.WEFT"), JSON.stringify([a6]));
            assert.equal(await ask(b.host, server, "PTR", b6), JSON.stringify(["b.lab.weft"]));
            assert.equal(await ask(b.host, server, "PTR", a4), JSON.stringify(["a.lab.weft"]));
          }
          assert.equal(await ask(b.host, a4, "A", "nobody.lab.weft"), "ENOTFOUND");
          assert.equal(await ask(b.host, a4, "MX", "b.lab.weft"), "ENODATA");
          assert.match(await ask(b.host, a4, "A", "example.org"), /^EREFUSED$/);
        });
        await t.test("ordinary programs find them", async () => {
          assert.match(
            await a.host.must("getent", ["ahostsv4", "b.lab.weft"]),
            new RegExp(`^${b4.replaceAll(".", "\\.")} `),
          );
          const view = await a.json<DnsView>(["dns"]);
          assert.equal(view.mode, "hosts");
          assert.deepEqual(view.servers, [a4, a6]);
        });
        await t.test("an announced service has its SRV record everywhere", async () => {
          await b.weft(["down"]);
          await b.daemon?.exited;
          writeFileSync(join(b.state, "weft.toml"), '[dns]\nservices = ["_http._tcp:8080"]\n');
          await b.up();
          await until("a knows it", 10_000, async () =>
            (await ask(a.host, a4, "SRV", "_http._tcp.lab.weft")).includes('"port":8080') ? true : undefined,
          );
          assert.match(await ask(a.host, a4, "SRV", "_http._tcp.b.lab.weft"), /"name":"b\.lab\.weft"/);
        });
        await t.test("a stranger on the underlay is not answered", async () => {
          await x.ip(
            "route",
            "add",
            `${a4}/32`,
            "via",
            (await x.ipJson("route", "show", "default"))[0]?.["gateway"] as string,
          );
          await lab.hosts.find(({ name }) => name === "router")?.ip("route", "add", `${a4}/32`, "via", a.host.address4);
          assert.match(await ask(x, a4, "A", "b.lab.weft"), /^ETIMEOUT$/);
          assert.match(await a.host.must("nft", ["list", "ruleset"]), /ip daddr \S+ counter packets [1-9]/);
        });
        await t.test("nor is a neighbour that takes a member's address as its own", async () => {
          const asked = async (): Promise<number> => (await a.json<DnsView>(["dns"])).counters["queries"] ?? 0;
          for (const device of ["all", "eth0"])
            await a.host.must("sysctl", ["-qw", `net.ipv4.conf.${device}.rp_filter=0`]);
          await x.ip("addr", "add", `${b4}/32`, "dev", "lo");
          const via = (await x.ipJson("route", "show", "default"))[0]?.["gateway"] as string;
          await x.ip("route", "replace", `${a4}/32`, "via", via, "src", b4);
          const before = await asked();
          assert.match(await ask(x, a4, "A", "b.lab.weft"), /^ETIMEOUT$/);
          assert.equal(await asked(), before);
          assert.match(await a.host.must("nft", ["list", "ruleset"]), /ip saddr \S+ counter packets [1-9]/);
          await x.ip("addr", "del", `${b4}/32`, "dev", "lo");
          await x.ip("route", "replace", `${a4}/32`, "via", via);
        });
        await t.test("who joins has a name at once, who is revoked loses it", async () => {
          const c = new WeftNode({ host: x, name: "c", state: join(lab.folder, "state-c") });
          network.nodes.push(c);
          await x.ip("route", "del", `${a4}/32`);
          await c.join((await a.invite()).token);
          const c4 = await c.address(4);
          for (const node of [a, b]) {
            await until(`${node.name} knows c`, 5_000, async () =>
              (await node.host.exec("getent", ["ahostsv4", "c.lab.weft"])).stdout.startsWith(c4) ? true : undefined,
            );
          }
          assert.equal((await a.weft(["revoke", "c", "--yes"])).code, 0);
          await until("the name is gone", 5_000, async () =>
            (await ask(b.host, await b.address(4), "A", "c.lab.weft")) === "ENOTFOUND" ? true : undefined,
          );
          await until("it is gone from hosts", 3_000, async () =>
            (await b.host.exec("getent", ["hosts", "c.lab.weft"])).stdout === "" ? true : undefined,
          );
        });
        await t.test("after stop the hosts file is as it was", async () => {
          await a.weft(["down"]);
          await a.daemon?.exited;
          assert.equal(readFileSync(join(a.host.etc, "hosts"), "latin1"), before);
        });
      },
    );
  },
);
