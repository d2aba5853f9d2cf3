/**
 * Discovery against the programs of the field: coturn as STUN server, miniupnpd as a home router's PCP, NAT-PMP and UPnP IGD, and the LAN's
 * multicast. Every program runs in a namespace of its test.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { NetcheckView } from "../../src/api/netcheck-view.ts";
import { Lab, type Host, type Port } from "../../lab/namespaces.ts";
import { formNetwork, WeftNode } from "../../lab/network.ts";
import { sleep, until } from "../../lab/process.ts";
import { ensureTools, findTool } from "../../lab/tools.ts";
import { skip } from "./support.ts";

const WEFT_NODE = fileURLToPath(new URL("../../bin/weft-node", import.meta.url));

let missing: string | undefined;
before(async () => {
  if (skip !== false) return;
  try {
    await ensureTools(["turnserver", "miniupnpd"]);
  } catch (error) {
    missing = (error as Error).message;
  }
});

interface Site {
  readonly lab: Lab;
  readonly inside: Host;
  readonly router: Host;
  /** The router's ports: to the core and to the home. */
  readonly up: Port;
  readonly down: Port;
  readonly outside: Host;
}

/** inside (10/8) ── router ── core (11/8, public) ── outside, with a second public address on `outside`. */
async function site(): Promise<Site> {
  const lab = await Lab.create();
  try {
    const [core, router] = [await lab.router("core"), await lab.router("router")];
    const [inside, outside] = [await lab.host("inside"), await lab.host("outside")];
    const options = { range: "public", families: [4] } as const;
    const toOutside = await lab.link(outside, core, options);
    const up = await lab.link(router, core, options);
    const down = await lab.link(inside, router, { families: [4] });
    await outside.ip("route", "add", "default", "via", toOutside.b.address4);
    await router.ip("route", "add", "default", "via", up.b.address4);
    await inside.ip("route", "add", "default", "via", down.b.address4);
    return { lab, inside, router, up: up.a, down: down.b, outside };
  } catch (error) {
    await lab.close();
    throw error;
  }
}

function node(lab: Lab, host: Host, config: string): WeftNode {
  const made = new WeftNode({ host, name: host.name, state: join(lab.folder, `state-${host.name}`), config });
  lab.onClose(async () => void (await made.stop()));
  return made;
}

/** Asks again until the answer is the wanted one: sources look one after the other. */
function netcheck(of: WeftNode, what: string, ready: (view: NetcheckView) => boolean): Promise<NetcheckView> {
  let last: NetcheckView | undefined;
  return until(
    `${of.name}: ${what}`,
    30_000,
    async () => {
      last = await of.json<NetcheckView>(["netcheck", "--timeout", "9s"]);
      return ready(last) ? last : undefined;
    },
    500,
  ).catch((error: Error) => {
    error.message += `\n${JSON.stringify(last, null, 1)}\n${of.daemon?.tail() ?? ""}`;
    throw error;
  });
}

test(
  "coturn tells a node behind a NAT its endpoint and the kind of the NAT, easy and hard",
  { skip, timeout: 120_000 },
  async (t) => {
    if (missing !== undefined) return t.skip(missing);
    const { lab, inside, router, up, outside } = await site();
    try {
      const first = outside.address4;
      const second = first.replace(/\.1$/, ".9");
      await outside.ip("addr", "add", `${second}/24`, "dev", "eth0");
      await lab.nat(router, up);
      const server = outside.spawn(findTool("turnserver") as string, [
        "-n",
        "--stun-only",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        "--log-file=stdout",
        `--listening-ip=${first}`,
        `--listening-ip=${second}`,
        `--pidfile=${join(lab.folder, "turn.pid")}`,
        `--db=${join(lab.folder, "turn.db")}`,
      ]);
      await server.waitFor(/DB connection success/, 15_000);
      const one = node(lab, inside, `[discovery]\nstun = ["${first}:3478"]\nport_mapping = false\nlan = false\n`);
      await one.init("lab");
      await one.up();
      const easy = await netcheck(one, "an easy NAT", (view) => view.ipv4.mapping === "endpoint-independent");
      assert.deepEqual(easy.ipv4.seenAs, [`${up.address4}:9338`], "masquerade keeps the port");
      assert.equal(easy.ipv4.ports, "preserved");
      assert.equal(easy.udp, "works");
      assert.equal(easy.hairpin, false, "plain masquerade does not hairpin");
      assert.equal(easy.sources.find((source) => source.name === "stun")?.state, "working");
      assert.ok((await one.status()).node.endpoints.includes(`${up.address4}:9338`), "the endpoint is announced");

      await one.stop();
      await router.nft("delete table inet nat\n");
      await lab.nat(router, up, { random: true });
      // from another port: the router still remembers the mappings of the one before
      await one.up(["--listen", "0.0.0.0:9444"]);
      const hard = await netcheck(one, "a hard NAT", (view) => view.ipv4.mapping === "address-and-port-dependent");
      assert.ok(hard.ipv4.seenAs.length >= 3, JSON.stringify(hard.ipv4));
      assert.equal(hard.ipv4.ports, "random");

      await server.stop();
      const silent = await netcheck(one, "silence", (view) =>
        view.sources.some((source) => source.name === "stun" && source.state === "failing"),
      );
      assert.match(silent.sources.find((source) => source.name === "stun")?.text ?? "", /did not answer/);
      assert.equal((await one.weft(["status"])).code, 0);
    } finally {
      await lab.close();
    }
  },
);

/** The chains that miniupnpd fills. */
const ROUTER_RULES = (device: string): string => `
table inet weftlab {
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    jump upnp_forward
    iifname "${device}" drop
  }
  chain upnp_forward { }
  chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump upnp_prerouting; }
  chain upnp_prerouting { }
  chain postrouting { type nat hook postrouting priority srcnat; policy accept; jump upnp_postrouting; oifname "${device}" masquerade fully-random; }
  chain upnp_postrouting { }
}
`;

async function startMiniupnpd({ lab, router, up, down }: Site): Promise<void> {
  await router.nft(ROUTER_RULES(up.device));
  // Internet gateways are searched by multicast on the home's device.
  await router.ip("route", "add", "224.0.0.0/4", "dev", down.device);
  const file = join(lab.folder, "miniupnpd.conf");
  writeFileSync(
    file,
    [
      `ext_ifname=${up.device}`,
      `listening_ip=${down.device}`,
      "http_port=5000",
      "enable_natpmp=yes",
      "enable_upnp=yes",
      "force_igd_desc_v1=no",
      "secure_mode=yes",
      "upnp_table_name=weftlab",
      "upnp_nat_table_name=weftlab",
      "upnp_forward_chain=upnp_forward",
      "upnp_nat_chain=upnp_prerouting",
      "upnp_nat_postrouting_chain=upnp_postrouting",
      "min_lifetime=120",
      "max_lifetime=86400",
      "uuid=00000000-0000-4000-8000-000000000001",
      "system_uptime=yes",
      "allow 1024-65535 0.0.0.0/0 1024-65535",
      "",
    ].join("\n"),
  );
  const daemon = router.spawn(findTool("miniupnpd") as string, [
    "-d",
    "-f",
    file,
    "-P",
    join(lab.folder, "miniupnpd.pid"),
  ]);
  await daemon.waitFor(/HTTP listening|Listening for NAT-PMP|listening on/i, 10_000);
}

test(
  "the router maps a port by PCP, NAT-PMP and UPnP, others come in through it, and it is taken back",
  { skip, timeout: 180_000 },
  async (t) => {
    if (missing !== undefined) return t.skip(missing);
    const here = await site();
    const { lab, inside, router, up, outside } = here;
    try {
      await startMiniupnpd(here);
      const external = `${up.address4}:9338`;
      const rules = (): Promise<string> => router.must("nft", ["list", "chain", "inet", "weftlab", "upnp_prerouting"]);
      let founded = false;
      for (const protocol of ["pcp", "nat-pmp", "upnp"]) {
        const one = node(lab, inside, `[discovery]\nport_mapping = ["${protocol}"]\nlan = false\n`);
        if (!founded) await one.init("lab");
        founded = true;
        await one.up();
        const view = await netcheck(one, protocol, ({ portMapping }) => portMapping.protocol === protocol);
        assert.equal(view.portMapping.endpoint, external);
        assert.match(await rules(), /dnat/);
        assert.ok((await one.status()).node.endpoints.includes(external), "the mapping is announced");
        if (protocol === "pcp") {
          // the token names the mapped endpoint, and a stranger outside gets in through it
          const { token } = await one.invite();
          const other = node(lab, outside, "[discovery]\nport_mapping = false\nlan = false\n");
          await other.join(token);
          const peer = await other.peer("inside");
          assert.equal(peer.path.endpoint, external);
          await other.stop();
        }
        await one.stop();
        await until(`${protocol} takes its mapping back`, 5_000, async () =>
          /dnat/.test(await rules()) ? undefined : true,
        );
      }
    } finally {
      await lab.close();
    }
  },
);

/** Datagrams to the multicast group, as fast as they go, for three seconds. */
const FLOOD = `
const socket = require("node:dgram").createSocket("udp4");
socket.bind(0, () => {
  socket.setMulticastInterface(process.argv[1]);
  const endMs = performance.now() + 3000;
  const send = () => {
    if (performance.now() > endMs) { console.log("flooded"); socket.close(); return; }
    for (let i = 0; i < 100; i++) socket.send(Buffer.alloc(200, i), 5353, "224.0.0.251");
    setImmediate(send);
  };
  send();
});`;

test(
  "a flood on the LAN closes that source for a while and disturbs nothing else",
  { skip, timeout: 120_000 },
  async () => {
    const lab = await Lab.create();
    try {
      const [a, b] = [await lab.host("a"), await lab.host("b")];
      await lab.link(a, b, { families: [4] });
      const network = await formNetwork(lab, [a, b], { config: () => "[discovery]\nport_mapping = false\n" });
      await network.allPairs();
      const [one] = network.nodes;
      const flood = b.spawn(WEFT_NODE, ["-e", FLOOD, b.address4]);
      const pings = await one.json<{ lost: number }>(["ping", "b", "--count", "10", "--interval", "200ms"]);
      await flood.waitFor(/flooded/, 10_000);
      assert.equal(pings.lost, 0);
      const events = await one.metrics();
      const count = (event: string): number =>
        events.get(`weft_discovery_events_total{source="lan",event="${event}"}`) ?? Number.NaN;
      assert.ok(count("floods") >= 1, [...events.keys()].filter((key) => key.includes("discovery")).join("\n"));
      assert.ok(count("packets") <= 10_000, `${count("packets")} packets were looked at`);
      const view = await netcheck(one, "the LAN again", ({ sources }) =>
        sources.some((source) => source.name === "lan" && source.text.includes("1 member heard")),
      );
      assert.equal(view.sources.find((source) => source.name === "lan")?.state, "working");
    } finally {
      await lab.close();
    }
  },
);

for (const [what, lan, family] of [
  ["two hosts in one LAN find each other by multicast at addresses that nobody told them", true, 4],
  ["the same on a LAN of IPv6 alone", true, 6],
  ["negative control: without multicast they do not", false, 4],
] as const) {
  test(what, { skip, timeout: 120_000 }, async () => {
    const lab = await Lab.create();
    try {
      const [a, b] = [await lab.host("a"), await lab.host("b")];
      const link = await lab.link(a, b, { families: [family] });
      const config = (): string => `[discovery]\nport_mapping = false\nlan = ${lan}\n`;
      const network = await formNetwork(lab, [a, b], { config });
      await network.allPairs();
      await network.stop();
      // both move to another subnet: whatever they knew of each other is wrong now
      const prefix = family === 4 ? "192.168.77." : "fd77:1:2:3::";
      for (const [host, port, last] of [
        [a, link.a, 1],
        [b, link.b, 2],
      ] as const) {
        await host.ip("addr", "flush", "dev", port.device, "scope", "global");
        const more = family === 4 ? [] : ["nodad"];
        await host.ip("addr", "add", `${prefix}${last}/${family === 4 ? 24 : 64}`, "dev", port.device, ...more);
      }
      await Promise.all(network.nodes.map((one) => one.up()));
      if (lan) {
        const peer = await network.node("a").peer("b", 20_000);
        assert.equal(peer.path.endpoint, family === 4 ? `${prefix}2:9338` : `[${prefix}2]:9338`);
        const view = await network.node("b").json<NetcheckView>(["netcheck", "--timeout", "5s"]);
        const source = view.sources.find((one) => one.name === "lan");
        assert.match(source?.text ?? "", /announcing on eth0; 1 member heard/);
        const text = await network.node("b").weft(["netcheck", "--timeout", "2s"]);
        assert.match(text.stdout, /^IPv4 .*\nIPv6 .*\nUDP /);
        assert.match(text.stdout, /\nlan +working +announcing on eth0/);
      } else {
        await sleep(6_000);
        const { peers } = await network.node("a").status();
        assert.equal(peers[0].online, false);
      }
    } finally {
      await lab.close();
    }
  });
}
