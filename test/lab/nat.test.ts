/** Routers of every kind, told apart from inside with plain UDP sockets; what reaches whom; nothing that should not. Needs root. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { whyNoNamespaces, type Host } from "../../lab/namespaces.ts";
import { DEPENDENCES, type Dependence } from "../../lab/nat-model.ts";
import type { NatClass } from "../../lab/nat-probe.ts";
import {
  Internet,
  SITE_KIND_NAMES,
  SITE_KINDS,
  type Site,
  type SiteKind,
  type SiteKindName,
} from "../../lab/nat-sites.ts";
import { WEFT_NODE } from "../../lab/traffic.ts";

const skip = whyNoNamespaces() ?? false;
const PROBE = fileURLToPath(new URL("../../lab/nat-probe.ts", import.meta.url));
const PORTS = ["3478", "3479"];

interface World {
  readonly internet: Internet;
  readonly server: Host;
  readonly classify: (host: Host) => Promise<NatClass>;
}

/** An internet with a probe server that has two addresses and two ports. */
async function withWorld(body: (world: World) => Promise<void>): Promise<void> {
  const internet = await Internet.create();
  try {
    const server = await internet.publicHost("server");
    const second = server.address4.replace(/\.\d+$/, ".9");
    await server.ip("addr", "add", `${second}/24`, "dev", server.ports[0]?.device ?? "");
    const args = [server.address4, second, ...PORTS];
    await server.spawn(WEFT_NODE, [PROBE, "serve", ...args], { name: "probe" }).waitFor(/^serving/, 10_000);
    const classify = async (host: Host): Promise<NatClass> =>
      JSON.parse(await host.must(WEFT_NODE, [PROBE, "classify", ...args])) as NatClass;
    await body({ internet, server, classify });
  } finally {
    await internet.lab.close();
  }
}

test("every mapping with every filtering is what the probes find", { skip }, async () => {
  await withWorld(async ({ internet, classify }) => {
    let number = 0;
    for (const mapping of DEPENDENCES) {
      for (const filtering of DEPENDENCES) {
        const ports = number % 2 === 0 ? "preserve" : "random";
        const hairpin = number % 4 < 2;
        const kind: SiteKind = {
          ...SITE_KINDS["full-cone"],
          translation: { by: "program", settings: { mapping, filtering, ports, hairpin } },
        };
        const site = await internet.customSite(`n${number++}`, kind);
        const [host] = site.hosts;
        assert.ok(host !== undefined && site.program !== undefined);
        const seen = await classify(host);
        assert.deepEqual([seen.mapping, seen.filtering, seen.keepsPort], [mapping, filtering, ports === "preserve"]);
        // A packet that comes back in may only come from an external endpoint.
        if (seen.hairpin) assert.ok(seen.hairpinSource?.startsWith(`${site.externals[0]}:`), `${seen.hairpinSource}`);
        if (!hairpin) assert.equal(seen.hairpin, false);
        else if (mapping === "endpoint-independent") assert.equal(seen.hairpin, true);
        assert.ok(seen.external.every((one) => one.startsWith(`${site.externals[0]}:`)));
        const counters = await site.program.counters();
        assert.equal(counters["writeFailed"], 0);
        assert.ok((counters["outbound"] ?? 0) > 0 && (counters["inbound"] ?? 0) > 0);
        if (filtering !== "endpoint-independent") assert.ok((counters["filtered"] ?? 0) > 0);
        const lost = ["malformed", "fragment", "noRoute", "full"].map((name) => counters[name]);
        assert.deepEqual(lost, [0, 0, 0, 0]);
        await site.program.stop();
      }
    }
  });
});

test("the sites of the grid are what their names say", { skip }, async () => {
  const independent: Dependence = "endpoint-independent";
  const both: Dependence = "address-and-port-dependent";
  const expected: Partial<Record<SiteKindName, readonly [Dependence, Dependence, boolean]>> = {
    firewall: [independent, both, true],
    "full-cone": [independent, independent, true],
    restricted: [independent, "address-dependent", false],
    "port-restricted": [independent, both, false],
    linux: [independent, both, true],
    double: [independent, both, false],
    "address-dependent": ["address-dependent", both, false],
    symmetric: [both, both, false],
    "linux-random": [both, both, false],
  };
  await withWorld(async ({ internet, server, classify }) => {
    const sites: (readonly [SiteKindName, Site])[] = [];
    for (const name of SITE_KIND_NAMES) sites.push([name, await internet.site(name, name)]);
    const check = async (name: SiteKindName, { kind, hosts }: Site): Promise<void> => {
      const [host] = hosts;
      const [address, other] = kind.families.includes(4)
        ? [server.address4, server.address6]
        : [server.address6, server.address4];
      // The first packet may go before the neighbours know each other.
      const few = ["-c3", "-i0.3", "-W1"];
      await host.must("ping", [...few, address]);
      const reached = await host.exec("ping", [...few, other]);
      assert.equal(reached.code === 0, kind.families.length === 2, `${name}: the other family`);
      const seen = await classify(host).catch((error: unknown) => String(error));
      const wanted = expected[name];
      if (wanted === undefined)
        assert.match(String(seen), name === "ipv6" ? /ENETUNREACH|no answer/ : /no answer from/);
      else if (typeof seen === "string") assert.fail(`${name}: ${seen}`);
      else assert.deepEqual([seen.mapping, seen.filtering, seen.keepsPort], wanted, name);
    };
    await Promise.all(sites.map(([name, site]) => check(name, site)));
    for (const [name, { kind, hosts, uplink, carrier }] of sites) {
      const [host] = hosts;
      const inside = kind.families.includes(4) ? host.address4 : host.address6;
      // Nobody comes in unasked, even when the core knows the way.
      const way = carrier?.router.address4 ?? uplink.address4;
      if (kind.translation.by !== "none") await internet.core.ip("route", "replace", `${inside}/32`, "via", way);
      const stranger = await server.exec("ping", ["-c2", "-i0.2", "-W0.2", inside]);
      assert.notEqual(stranger.code, 0, `${name} let a stranger in`);
    }
  });
});

test(
  "several external addresses are used, TCP passes, and a translator that forgot lets nothing in",
  { skip },
  async () => {
    await withWorld(async ({ internet, server, classify }) => {
      const site = await internet.customSite("many", {
        ...SITE_KINDS.symmetric,
        translation: {
          by: "program",
          settings: { mapping: "address-and-port-dependent", pooling: "arbitrary", ports: "random" },
          addresses: 8,
        },
      });
      const [host] = site.hosts;
      assert.ok(host !== undefined && site.program !== undefined);
      const seen = await classify(host);
      assert.ok(seen.external.every((one) => site.externals.includes(one.split(":")[0] ?? "")));
      assert.ok(new Set(seen.external.map((one) => one.split(":")[0])).size > 1, seen.external.join(" "));
      const listener = server.spawn("iperf3", ["-s", "-1", "-p", "5300", "--forceflush"]);
      await listener.waitFor(/listening/i, 5_000);
      await host.must("iperf3", ["-c", server.address4, "-p", "5300", "-n", "1M"]);
      assert.ok(((await site.program.counters())["mappings"] ?? 0) > 0);
      await site.program.forget();
      assert.equal((await site.program.counters())["mappings"], 0);
    });
  },
);

test("two hosts of one site meet on its LAN, and two sites of one carrier through its hairpin", { skip }, async () => {
  await withWorld(async ({ internet, classify }) => {
    const site = await internet.site("home", "port-restricted", { hosts: 2 });
    const [one, two] = site.hosts;
    assert.ok(one !== undefined && two !== undefined);
    await one.must("ping", ["-c1", "-W2", two.address4]);
    assert.equal((await classify(two)).mapping, "endpoint-independent");
    for (const hairpin of [true, false]) {
      const carrier = await internet.carrier(`carrier${hairpin}`, { hairpin });
      const [left] = (await internet.site(`left${hairpin}`, "linux", { carrier })).hosts;
      const [right] = (await internet.site(`right${hairpin}`, "linux", { carrier })).hosts;
      assert.ok(left !== undefined && right !== undefined);
      await classify(right);
      // Both sockets of the probe are behind the same carrier, one translator further in.
      assert.equal((await classify(left)).hairpin, hairpin);
      await carrier.program.stop();
    }
  });
});
