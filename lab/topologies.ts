/** The networks that tests, demo and benchmarks run on, made of namespaces (namespaces.ts). */
import { fileURLToPath } from "node:url";
import type { LinkSettings } from "./link-model.ts";
import { Lab, type Host, type Link, type LinkOptions, type NatOptions } from "./namespaces.ts";
import type { Daemon } from "./process.ts";

const WEFT_NODE = fileURLToPath(new URL("../bin/weft-node", import.meta.url));
const IMPAIRMENT = fileURLToPath(new URL("./impairment.ts", import.meta.url));

export interface TwoHosts {
  readonly lab: Lab;
  readonly a: Host;
  readonly b: Host;
  readonly link: Link;
}

/** a ── b, one veth pair. */
export async function twoHosts(options: LinkOptions = {}): Promise<TwoHosts> {
  const lab = await Lab.create();
  try {
    const a = await lab.host("a");
    const b = await lab.host("b");
    return { lab, a, b, link: await lab.link(a, b, options) };
  } catch (error) {
    await lab.close();
    throw error;
  }
}

export interface RoutedHosts {
  readonly lab: Lab;
  readonly router: Host;
  /** In the order of the names given. */
  readonly hosts: readonly Host[];
  /** links[i] joins hosts[i] (port `a`) to the router (port `b`). */
  readonly links: readonly Link[];
}

/** Every host on a link of its own to one router, which is everybody's default route. */
export async function routedHosts(
  names: readonly string[] = ["a", "b", "c"],
  options: LinkOptions = {},
): Promise<RoutedHosts> {
  const lab = await Lab.create();
  try {
    const router = await lab.router("router");
    const hosts: Host[] = [];
    const links: Link[] = [];
    for (const name of names) {
      const host = await lab.host(name);
      const link = await lab.link(host, router, options);
      await host.defaultRoute(link.b);
      hosts.push(host);
      links.push(link);
    }
    return { lab, router, hosts, links };
  } catch (error) {
    await lab.close();
    throw error;
  }
}

/** The router drops everything between the two, until reunite(). @param table name of the rules @default "apart" */
export async function keepApart(router: Host, a: Host, b: Host, table = "apart"): Promise<void> {
  const rules = [
    ["ip", a.address4, b.address4],
    ["ip", b.address4, a.address4],
    ["ip6", a.address6, b.address6],
    ["ip6", b.address6, a.address6],
  ].map(([family, from, to]) => `${family} saddr ${from} ${family} daddr ${to} drop;`);
  await router.nft(
    `table inet ${table} { chain forward { type filter hook forward priority -5; ${rules.join(" ")} }; }`,
  );
}

/** Undoes keepApart(). */
export async function reunite(router: Host, table = "apart"): Promise<void> {
  await router.must("nft", ["delete", "table", "inet", table]);
}

export interface NattedHosts {
  readonly lab: Lab;
  /** Reachable from everywhere. */
  readonly outside: Host;
  /** Each behind a NAT router of its own. */
  readonly inside: readonly Host[];
  readonly nats: readonly Host[];
  readonly core: Host;
}

/** One public host, and one host behind each of the NATs, all meeting at a core router. */
export async function hostsBehindNat(
  nats: readonly NatOptions[] = [{}, {}],
  options: LinkOptions = {},
): Promise<NattedHosts> {
  const lab = await Lab.create();
  try {
    const core = await lab.router("core");
    const outside = await lab.host("outside");
    await outside.defaultRoute((await lab.link(outside, core, options)).b);
    const inside: Host[] = [];
    const routers: Host[] = [];
    for (const [index, nat] of nats.entries()) {
      const router = await lab.router(`nat${index}`);
      const host = await lab.host(`in${index}`);
      const up = await lab.link(router, core, options);
      await router.defaultRoute(up.b);
      await host.defaultRoute((await lab.link(host, router, options)).b);
      await lab.nat(router, up.a, nat);
      inside.push(host);
      routers.push(router);
    }
    return { lab, outside, inside, nats: routers, core };
  } catch (error) {
    await lab.close();
    throw error;
  }
}

/** The running impairment router of a topology. */
export class Impairment {
  readonly #daemon: Daemon;
  readonly #devices: ReadonlyMap<Host | Link, string>;

  constructor(daemon: Daemon, devices: ReadonlyMap<Host | Link, string>) {
    this.#daemon = daemon;
    this.#devices = devices;
  }

  /** Changes settings of the direction from one host, or one of its links, to another; without them of all directions. */
  async set(settings: Partial<LinkSettings>, from?: Host | Link, to?: Host | Link): Promise<void> {
    const name = (end: Host | Link | undefined): string | undefined =>
      end === undefined ? undefined : this.#devices.get(end);
    await this.#daemon.ask({ from: name(from), to: name(to), set: settings });
  }

  /** Counters by direction ("imp0>imp1") and of the router itself ("router"). */
  async counters(): Promise<Record<string, Record<string, number>>> {
    const answer = await this.#daemon.ask({ show: true });
    return answer["counters"] as Record<string, Record<string, number>>;
  }
}

export interface ImpairedHosts extends RoutedHosts {
  readonly impairment: Impairment;
}

export interface ImpairmentOptions extends LinkOptions {
  /** @default 1 */
  readonly seed?: number;
  /** Packets that may be under way at once, in all directions together. @default 32_768 */
  readonly maxPackets?: number;
}

/** routedHosts() whose router is the impairment program: everything between two hosts goes through it (see impairment.ts). */
export async function impairedHosts(
  names: readonly string[] = ["a", "b"],
  settings: Partial<LinkSettings> = {},
  options: ImpairmentOptions = {},
): Promise<ImpairedHosts> {
  const routed = await routedHosts(names, options);
  try {
    const ends = routed.links.map((link, index) => ({ host: routed.hosts[index], link }));
    const impairment = await startImpairment(routed.router, ends, options);
    await impairment.set(settings);
    return { ...routed, impairment };
  } catch (error) {
    await routed.lab.close();
    throw error;
  }
}

/** Makes a router's links go through the impairment program. A host with several links stands for its first one in Impairment.set(). */
async function startImpairment(
  router: Host,
  ends: readonly { readonly host: Host; readonly link: Link }[],
  options: ImpairmentOptions,
): Promise<Impairment> {
  const mtu = String(options.mtuBytes ?? 1_500);
  const args = ["--seed", String(options.seed ?? 1), "--max-packet", mtu];
  args.push("--max-packets", String(options.maxPackets ?? 32_768));
  const devices = new Map<Host | Link, string>();
  for (const [index, { host, link }] of ends.entries()) {
    if (!devices.has(host)) devices.set(host, `imp${index}`);
    devices.set(link, `imp${index}`);
    args.push("--device", `imp${index}=${link.network4},${link.network6}`);
    const addresses = [link.b.address4, link.b.address6].filter((address) => address !== "");
    if (index === 0) for (const address of addresses) args.push("--address", address);
  }
  // The program's ICMP errors come from the router's own address, and enter through a device.
  await router.sysctl({ "net.ipv4.conf.all.accept_local": 1 });
  const daemon = router.spawn(WEFT_NODE, [IMPAIRMENT, ...args], { name: "impairment" });
  await daemon.waitFor(/"ready"/, 10_000);
  for (const [index, { link }] of ends.entries()) {
    const device = `imp${index}`;
    const table = String(100 + index);
    // A queue long enough for bursts while the program is off the processor: what is lost here would not be counted as an impairment.
    await router.ip("link", "set", device, "mtu", mtu, "txqueuelen", "20000", "addrgenmode", "none", "up");
    for (const family of ["-4", "-6"]) {
      await router.ip(family, "route", "add", "default", "dev", device, "table", table);
      await router.ip(family, "rule", "add", "iif", link.b.device, "lookup", table);
    }
  }
  return new Impairment(daemon, devices);
}

export interface TwoWayHosts {
  readonly lab: Lab;
  readonly router: Host;
  readonly a: Host;
  readonly b: Host;
  /** Addresses of b: the one with the shorter way first. */
  readonly addresses: readonly [string, string];
  readonly impairment: Impairment;
}

/**
 * a has one address and b two, so there are two address pairs: one with `rttMs`, the other with `extraMs` more. All through the
 * impairment router, IPv4 only.
 */
export async function twoWayHosts(rttMs: number, extraMs: number): Promise<TwoWayHosts> {
  const options: ImpairmentOptions = { families: [4] };
  const { lab, router, hosts, links } = await routedHosts(["a", "b"], options);
  try {
    const [a, b] = hosts as [Host, Host];
    const [first, second] = links as [Link, Link];
    const third = await lab.link(b, router, options);
    // What comes in through the second link is answered through the first.
    await b.sysctl({ "net.ipv4.conf.all.rp_filter": 0, [`net.ipv4.conf.${third.a.device}.rp_filter`]: 0 });
    const ends = [
      { host: a, link: first },
      { host: b, link: second },
      { host: b, link: third },
    ];
    const impairment = await startImpairment(router, ends, options);
    await impairment.set({ delayMs: rttMs / 2 });
    await impairment.set({ delayMs: rttMs / 2 + extraMs }, first, third);
    return { lab, router, a, b, addresses: [second.a.address4, third.a.address4], impairment };
  } catch (error) {
    await lab.close();
    throw error;
  }
}
