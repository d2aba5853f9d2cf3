/** The networks that tests, demo and benchmarks run on, made of namespaces (namespaces.ts). */
import { fileURLToPath } from "node:url";
import type { LinkSettings } from "./link-model.ts";
import { Lab, type Host, type Link, type LinkOptions, type NatOptions } from "./namespaces.ts";
import { LabError, type Daemon } from "./process.ts";

const WEFT_NODE = fileURLToPath(new URL("../bin/weft-node", import.meta.url));
const IMPAIRMENT = fileURLToPath(new URL("./impairment.ts", import.meta.url));
const ANSWER_MS = 5_000;

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
  readonly #devices: ReadonlyMap<Host, string>;

  constructor(daemon: Daemon, devices: ReadonlyMap<Host, string>) {
    this.#daemon = daemon;
    this.#devices = devices;
  }

  /** Changes settings of the direction from one host to another; without hosts of all directions. */
  async set(settings: Partial<LinkSettings>, from?: Host, to?: Host): Promise<void> {
    const name = (host: Host | undefined): string | undefined =>
      host === undefined ? undefined : this.#devices.get(host);
    await this.#ask({ from: name(from), to: name(to), set: settings });
  }

  /** Counters by direction ("imp0>imp1") and of the router itself ("router"). */
  async counters(): Promise<Record<string, Record<string, number>>> {
    const answer = await this.#ask({ show: true });
    return answer["counters"] as Record<string, Record<string, number>>;
  }

  #ask(command: Record<string, unknown>): Promise<Record<string, unknown>> {
    return new Promise((resolve, reject) => {
      const finish = (act: () => void): void => {
        clearTimeout(timer);
        stop();
        act();
      };
      const stop = this.#daemon.watch((line) => {
        if (line === undefined)
          finish(() => reject(new LabError("IMPAIRMENT", `impairment router ended\n${this.#daemon.tail()}`)));
        else if (line.startsWith("{")) {
          const answer = JSON.parse(line) as Record<string, unknown>;
          if (answer["error"] === undefined) finish(() => resolve(answer));
          else finish(() => reject(new LabError("IMPAIRMENT", String(answer["error"]))));
        }
      });
      const timer = setTimeout(
        () => finish(() => reject(new LabError("IMPAIRMENT", `no answer within ${ANSWER_MS} ms`))),
        ANSWER_MS,
      );
      this.#daemon.write(JSON.stringify(command));
    });
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
  const { lab, router, hosts, links } = routed;
  try {
    const mtu = options.mtuBytes ?? 1_500;
    const args = [
      "--seed",
      String(options.seed ?? 1),
      "--max-packet",
      String(mtu),
      "--max-packets",
      String(options.maxPackets ?? 32_768),
    ];
    const devices = new Map<Host, string>();
    for (const [index, link] of links.entries()) {
      devices.set(hosts[index], `imp${index}`);
      args.push("--device", `imp${index}=${link.network4},${link.network6}`);
      if (index === 0) args.push("--address", link.b.address4, "--address", link.b.address6);
    }
    // The program's ICMP errors come from the router's own address, and enter through a device.
    await router.sysctl({ "net.ipv4.conf.all.accept_local": 1 });
    const daemon = router.spawn(WEFT_NODE, [IMPAIRMENT, ...args], { name: "impairment" });
    await daemon.waitFor(/"ready"/, 10_000);
    for (const [index, link] of links.entries()) {
      const device = `imp${index}`;
      const table = String(100 + index);
      // A queue long enough for bursts while the program is off the processor: what is lost here would not be counted as an impairment.
      await router.ip("link", "set", device, "mtu", String(mtu), "txqueuelen", "20000", "addrgenmode", "none", "up");
      for (const family of ["-4", "-6"]) {
        await router.ip(family, "route", "add", "default", "dev", device, "table", table);
        await router.ip(family, "rule", "add", "iif", link.b.device, "lookup", table);
      }
    }
    const impairment = new Impairment(daemon, devices);
    await impairment.set(settings);
    return { ...routed, impairment };
  } catch (error) {
    await lab.close();
    throw error;
  }
}
