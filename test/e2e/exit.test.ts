/**
 * Exits: everything goes through another member, nothing leaves in the clear (captured on the underlay) whatever dies, names are asked
 * through the exit, and every machine is afterwards what it was before, byte for byte.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { ExitView } from "../../src/api/host-control.ts";
import type { Host } from "../../lab/namespaces.ts";
import type { WeftNode } from "../../lab/network.ts";
import { sleep, until, type Daemon } from "../../lab/process.ts";
import { routedHosts, type RoutedHosts } from "../../lab/topologies.ts";
import { iperf, ping, WEFT_NODE } from "../../lab/traffic.ts";
import { assertRestored, machineState, type MachineState } from "./machine-state.ts";
import { skip, withNetwork } from "./support.ts";

const NAME_SERVER = new URL("../support/name-server.ts", import.meta.url).pathname;
const PORT = 9338;

interface World extends RoutedHosts {
  readonly web: Host;
  readonly before: ReadonlyMap<string, MachineState>;
}

/** Two exits, a client, and a machine out there that is no member and answers DNS. */
async function world(): Promise<World> {
  const routed = await routedHosts(["e1", "e2", "c", "web"]);
  try {
    const web = routed.hosts[3];
    for (const host of routed.hosts.slice(0, 3))
      writeFileSync(join(host.etc, "resolv.conf"), `# by hand\nnameserver ${web.address4}\n`);
    // a machine with a strict reverse-path filter is the hard case
    await routed.hosts[2].sysctl({ "net.ipv4.conf.all.rp_filter": 1, "net.ipv4.conf.eth0.rp_filter": 1 });
    const before = new Map<string, MachineState>();
    for (const host of routed.hosts) before.set(host.name, await machineState(host));
    await web.spawn(WEFT_NODE, [NAME_SERVER, web.address4, "192.0.2.77"]).waitFor(/^serving/, 10_000);
    return { ...routed, web, before };
  } catch (error) {
    await routed.lab.close();
    throw error;
  }
}

/** Everything that leaves on the client's wire but sealed datagrams and what a link needs to live. */
class LeakWatch {
  readonly #tcpdump: Daemon;

  private constructor(tcpdump: Daemon) {
    this.#tcpdump = tcpdump;
  }

  /** @param device of the router, towards `client` */
  static async start(router: Host, device: string, client: Host): Promise<LeakWatch> {
    const neighbours = "icmp6 and (ip6[40] >= 133 and ip6[40] <= 137 or ip6[40] == 143 or ip6[40] == 131)";
    // MLD comes behind a hop-by-hop header
    // the daemon's own search for neighbours and port mappings, which carries the mark as well
    const search = "udp and (port 5353 or port 1900 or port 5351)";
    const inwards = `dst host ${client.address4} or dst host ${client.address6}`;
    const filter = `not (${inwards}) and not arp and not (udp port ${PORT}) and not (${search}) and not (${neighbours}) and not (ip6 and ip6[6] == 0)`;
    const tcpdump = router.spawn("tcpdump", ["-i", device, "-n", "-l", "--immediate-mode", filter], { name: "leaks" });
    await tcpdump.waitFor(/listening on/, 10_000);
    return new LeakWatch(tcpdump);
  }

  /** Packets seen so far, one line each. */
  seen(): string[] {
    return this.#tcpdump.lines.filter((line) => /^\d\d:\d\d:\d\d\.\d+ IP6? /.test(line));
  }

  async stop(): Promise<void> {
    await this.#tcpdump.stop("SIGINT");
  }
}

async function usesExit(node: WeftNode, name: string | undefined): Promise<ExitView> {
  return until(`${node.name} goes through ${name ?? "some exit"}`, 10_000, async () => {
    const view = await node.api.exit();
    return view.active !== null && (name === undefined || view.active.name === name) ? view : undefined;
  });
}

async function offer(admin: WeftNode, exit: WeftNode): Promise<void> {
  await exit.json(["exit", "offer"]);
  for (const prefix of ["0.0.0.0/0", "::/0"]) await admin.json(["routes", "approve", exit.name, prefix]);
  await until(`${exit.name} is an exit`, 5_000, async () => {
    const { own } = await exit.api.routes();
    return own.length === 2 && own.every(({ serving }) => serving) ? true : undefined;
  });
}

test(
  "an exit carries everything; nothing leaves in the clear whatever dies; everything is put back",
  { skip },
  async (t) => {
    await withNetwork(
      world,
      ({ hosts }) => hosts.slice(0, 3),
      async (network, { router, links, web, before }) => {
        const [e1, e2, c] = [network.node("e1"), network.node("e2"), network.node("c")];
        const wire = links[2].b.device;
        let watch: LeakWatch;
        let active = e1;
        let spare = e2;
        await t.test("control: without an exit the wire shows the packets", async () => {
          watch = await LeakWatch.start(router, wire, c.host);
          assert.equal((await ping(c.host, web.address4, { count: 3, intervalMs: 20 })).received, 3);
          await until("the packets are seen", 3_000, () =>
            Promise.resolve(watch.seen().length >= 3 ? true : undefined),
          );
          await watch.stop();
        });
        await t.test("only an approved exit can be used", async () => {
          await e1.json(["exit", "offer"]);
          const refused = await c.weft(["exit", "use", "e1"]);
          assert.equal(refused.code, 1);
          assert.match(refused.stderr, /e1 offers no approved exit/);
          await offer(e1, e1);
          await offer(e1, e2);
          await until("c knows both", 5_000, async () =>
            (await c.api.exit()).candidates.length === 2 ? true : undefined,
          );
        });
        await t.test("both families go through the exit, and only sealed datagrams are on the wire", async () => {
          const view = await c.json<ExitView>(["exit", "use"]);
          assert.ok(view.guard && view.active !== null, JSON.stringify(view));
          [active, spare] = view.active.name === "e1" ? [e1, e2] : [e2, e1];
          watch = await LeakWatch.start(router, wire, c.host);
          for (const address of [web.address4, web.address6]) {
            assert.equal((await ping(c.host, address, { count: 10, intervalMs: 20 })).received, 10, address);
          }
          // members stay reachable as before
          assert.equal((await ping(c.host, await spare.address(4), { count: 5, intervalMs: 20 })).received, 5);
          assert.deepEqual(watch.seen(), []);
        });
        await t.test("TCP flows through the exit in both families and directions", async () => {
          for (const address of [web.address4, web.address6]) {
            for (const reverse of [false, true]) {
              const tcp = await iperf(c.host, web, address, { seconds: 1, reverse });
              assert.ok(tcp.bitsPerSecond > 10e6, `${address}: ${tcp.bitsPerSecond} bit/s`);
            }
          }
          assert.deepEqual(watch.seen(), []);
        });
        await t.test("names are asked through the exit, and the network's own are known", async () => {
          assert.match(await c.host.must("getent", ["ahosts", "www.example.test"]), /^192\.0\.2\.77 /m);
          assert.match(await c.host.must("getent", ["hosts", "e1.lab.weft"]), /e1\.lab\.weft/);
          assert.deepEqual(watch.seen(), []);
        });
        await t.test("a program that insists on another way out gets nowhere", async () => {
          await c.host.exec("ping", ["-n", "-c", "3", "-i", "0.1", "-W", "1", "-I", "eth0", web.address4]);
          await c.host.exec("ping", ["-n", "-c", "3", "-i", "0.1", "-W", "1", "-I", "eth0", web.address6]);
          assert.deepEqual(watch.seen(), []);
        });
        await t.test("the exit is killed: the other one takes over within a second", async () => {
          await until("the spare is healthy", 10_000, async () => {
            const found = (await c.api.routes()).routes.find(
              (route) => route.prefix === "0.0.0.0/0" && route.node.name === spare.name,
            );
            return found?.health === "good" ? true : undefined;
          });
          const pinging = ping(c.host, web.address4, { count: 200, intervalMs: 20, graceMs: 500 });
          await sleep(1_200);
          await active.kill();
          const echo = await pinging;
          await usesExit(c, spare.name);
          assert.ok(echo.longestGapMs > 0 && echo.longestGapMs <= 1_000, `gap ${echo.longestGapMs} ms`);
          assert.deepEqual(watch.seen(), []);
        });
        await t.test("with no exit left, nothing is answered and nothing leaks", async () => {
          await spare.kill();
          assert.equal((await ping(c.host, web.address4, { count: 50, intervalMs: 40, graceMs: 300 })).received, 0);
          await c.host.exec("getent", ["ahosts", "other.example.test"], { timeoutMs: 15_000 });
          assert.deepEqual(watch.seen(), []);
          const { health } = await c.status();
          assert.ok(
            health.some(({ code }) => code === "peer-unreachable" || code === "exit-missing" || code === "alone"),
          );
        });
        await t.test("the client's daemon is killed: the guard holds", async () => {
          await c.kill();
          for (const address of [web.address4, web.address6])
            assert.equal(
              (await ping(c.host, address, { count: 20, intervalMs: 20, graceMs: 300 })).received,
              0,
              address,
            );
          await c.host.exec("getent", ["ahosts", "third.example.test"], { timeoutMs: 15_000 });
          assert.deepEqual(watch.seen(), []);
        });
        await t.test("started again, it is closed before anything can leave, and works", async () => {
          await Promise.all([e1.up(), e2.up()]);
          const storm = c.host.spawn("ping", ["-n", "-i", "0.01", web.address4]);
          await c.up();
          await usesExit(c, undefined);
          await until("the exit carries again", 10_000, async () =>
            (await ping(c.host, web.address4, { count: 2, intervalMs: 20, graceMs: 300 })).received === 2
              ? true
              : undefined,
          );
          await storm.stop("SIGKILL");
          assert.deepEqual(watch.seen(), []);
        });
        await t.test("killed and repaired, the machine is as it was, and talks in the clear again", async () => {
          await c.kill();
          const { items } = await c.json<{ items: { outcome: string; text: string }[] }>(["repair"]);
          assert.ok(
            items.some(({ outcome, text }) => outcome === "undone" && /leak guard/.test(text)),
            JSON.stringify(items),
          );
          await assertRestored(c.host, before.get("c") ?? {});
          assert.equal((await ping(c.host, web.address4, { count: 3, intervalMs: 20 })).received, 3);
          assert.ok(watch.seen().length >= 3, "control: now it shows");
          assert.deepEqual(
            (await c.json<{ items: unknown[] }>(["repair"])).items,
            [],
            "nothing is left for a second time",
          );
        });
        await t.test("`exit off` and `down` put everything back as well", async () => {
          await c.up();
          await usesExit(c, undefined);
          const gateway = links[2].b.address4;
          const known = watch.seen().length;
          assert.equal(
            (await ping(c.host, gateway, { count: 3, intervalMs: 20, graceMs: 300 })).received,
            3,
            "through the exit",
          );
          assert.equal(watch.seen().length, known);
          await c.json(["exit", "use", "--allow-lan"]);
          assert.equal(
            (await ping(c.host, gateway, { count: 3, intervalMs: 20, graceMs: 300 })).received,
            3,
            "directly",
          );
          await until("the connected network is reached in the clear", 3_000, () =>
            Promise.resolve(watch.seen().length > known ? true : undefined),
          );
          assert.ok(
            watch
              .seen()
              .slice(known)
              .every((line) => line.includes(gateway)),
            "and nothing else",
          );
          const view = await c.json<ExitView>(["exit", "off"]);
          assert.deepEqual([view.guard, view.using], [false, null]);
          assert.equal((await ping(c.host, web.address4, { count: 3, intervalMs: 20 })).received, 3);
          for (const node of [c, e1, e2]) {
            assert.equal((await node.weft(["down"])).code, 0);
            assert.equal(await node.daemon?.exited, 0);
            await assertRestored(node.host, before.get(node.name) ?? {});
          }
          await watch.stop();
        });
      },
    );
  },
);
