/**
 * An internet in miniature: one core router, hosts with public addresses, and sites whose routers translate or filter as the kinds of
 * routers do that people have at home, in offices and at carriers.
 *
 *   const internet = await Internet.create();
 *   const server = await internet.publicHost("server");
 *   const home = await internet.site("home", "port-restricted");
 *   await home.hosts[0].must("ping", ["-c1", server.address4]);
 *   await internet.lab.close();
 *
 * Public addresses are of 11/8 and 2a57::/16, so that no filter takes them for private ones. All translated sites have the same inside
 * network, 192.168.1.0/24, as homes have: .1 is the router, .10 the first host. What a site's router does not let in, it drops silently.
 */
import { fileURLToPath } from "node:url";
import { Lab, type Host, type Link, type Port } from "./namespaces.ts";
import type { NatSettings } from "./nat-model.ts";
import { LabError, type Daemon } from "./process.ts";

const WEFT_NODE = fileURLToPath(new URL("../bin/weft-node", import.meta.url));
const NAT = fileURLToPath(new URL("./nat.ts", import.meta.url));
const DEVICE = "nat0";
const TABLE = "100";
const LAN = "192.168.1";
/** The first external address of a translator in its uplink's network; the router's own is .1. */
const FIRST_EXTERNAL = 101;

/** How a site's router translates: by the program of nat.ts, by the kernel, or not at all. */
export type Translation =
  | { readonly by: "program"; readonly settings: Partial<NatSettings>; readonly addresses?: number }
  | { readonly by: "kernel"; readonly random: boolean }
  | { readonly by: "none" };

export interface SiteKind {
  readonly about: string;
  readonly translation: Translation;
  /** True when an external endpoint cannot be told in advance, because it depends on the destination. */
  readonly hard: boolean;
  /** False: UDP does not pass. */
  readonly udp: boolean;
  readonly families: readonly (4 | 6)[];
  /** Behind a translator of the carrier as well. */
  readonly carrier: boolean;
}

export const SITE_KIND_NAMES = [
  "firewall",
  "full-cone",
  "restricted",
  "port-restricted",
  "linux",
  "double",
  "address-dependent",
  "symmetric",
  "linux-random",
  "udp-blocked",
  "ipv6",
] as const;
export type SiteKindName = (typeof SITE_KIND_NAMES)[number];

const plain = { hard: false, udp: true, families: [4], carrier: false } as const;
const APD = "address-and-port-dependent";

/** The kinds of sites that the grid pairs with each other. */
export const SITE_KINDS: Readonly<Record<SiteKindName, SiteKind>> = {
  firewall: {
    ...plain,
    about: "public addresses of both families, only answers come in",
    translation: { by: "none" },
    families: [4, 6],
  },
  "full-cone": {
    ...plain,
    about: "one mapping for all, open to all",
    translation: { by: "program", settings: { filtering: "endpoint-independent" } },
  },
  restricted: {
    ...plain,
    about: "one mapping for all, open to addresses that were sent to",
    translation: { by: "program", settings: { filtering: "address-dependent", ports: "random" } },
  },
  "port-restricted": {
    ...plain,
    about: "one mapping for all, open to endpoints that were sent to",
    translation: { by: "program", settings: { ports: "random" } },
  },
  linux: { ...plain, about: "nft masquerade: ports are kept", translation: { by: "kernel", random: false } },
  double: {
    ...plain,
    about: "nft masquerade behind a carrier's translator, both with one mapping for all",
    translation: { by: "kernel", random: false },
    carrier: true,
  },
  "address-dependent": {
    ...plain,
    about: "a mapping for every destination address",
    translation: { by: "program", settings: { mapping: "address-dependent", filtering: APD, ports: "random" } },
    hard: true,
  },
  symmetric: {
    ...plain,
    about: "a mapping for every destination, random ports",
    translation: { by: "program", settings: { mapping: APD, filtering: APD, ports: "random" } },
    hard: true,
  },
  "linux-random": {
    ...plain,
    about: "nft masquerade fully-random: a mapping for every destination",
    translation: { by: "kernel", random: true },
    hard: true,
  },
  "udp-blocked": {
    ...plain,
    about: "nft masquerade, and UDP is dropped",
    translation: { by: "kernel", random: false },
    udp: false,
  },
  ipv6: { ...plain, about: "IPv6 only, only answers come in", translation: { by: "none" }, families: [6] },
};

/** A running translator program. */
export class NatProgram {
  readonly #daemon: Daemon;

  constructor(daemon: Daemon) {
    this.#daemon = daemon;
  }

  /** By name: see NatTranslator and NatTable; `read`, `written`, `writeFailed` of the device. */
  async counters(): Promise<Record<string, number>> {
    return (await this.#daemon.ask({ show: true }))["counters"] as Record<string, number>;
  }

  /** All mappings are lost, as after a restart of the router. */
  async forget(): Promise<void> {
    await this.#daemon.ask({ forget: true });
  }

  async stop(): Promise<void> {
    await this.#daemon.stop("SIGTERM");
  }
}

export interface Site {
  readonly name: string;
  readonly kind: SiteKind;
  readonly router: Host;
  readonly hosts: readonly Host[];
  /** The router's port to the outside. */
  readonly uplink: Port;
  /** External IPv4 addresses, when the site translates. */
  readonly externals: readonly string[];
  readonly program: NatProgram | undefined;
  readonly carrier: Carrier | undefined;
}

/** A carrier's translator: sites attach to it instead of to the core. */
export interface Carrier {
  readonly router: Host;
  readonly externals: readonly string[];
  readonly program: NatProgram;
}

export interface SiteOptions {
  /** Hosts on the site's LAN, which is a bridge when there are several. @default 1 */
  readonly hosts?: number;
  /** Behind this one; a kind with a carrier gets one of its own without. */
  readonly carrier?: Carrier;
}

export class Internet {
  readonly lab: Lab;
  readonly core: Host;

  private constructor(lab: Lab, core: Host) {
    this.lab = lab;
    this.core = core;
  }

  static async create(): Promise<Internet> {
    const lab = await Lab.create();
    try {
      return new Internet(lab, await lab.router("core"));
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  /** A host at the core with public addresses of both families and nothing in front of it. */
  async publicHost(name: string, families: readonly (4 | 6)[] = [4, 6]): Promise<Host> {
    const host = await this.lab.host(name);
    const link = await this.lab.link(host, this.core, { range: "public", families });
    await host.defaultRoute(link.b);
    return host;
  }

  /** A carrier's translator (RFC 6888 asks for one mapping for all; ports are random as many subscribers share them). */
  async carrier(name: string, settings: Partial<NatSettings> = {}): Promise<Carrier> {
    const router = await this.lab.router(name);
    const up = await this.lab.link(router, this.core, { range: "public", families: [4] });
    await router.defaultRoute(up.b);
    const { program, externals } = await translate(router, up, this.core, "100.64.0.0/10", {
      ports: "random",
      ...settings,
    });
    return { router, program, externals };
  }

  /** A site with hosts NAME0, NAME1, …; NAME alone when there is one. */
  async site(name: string, kindName: SiteKindName, options: SiteOptions = {}): Promise<Site> {
    return this.customSite(name, SITE_KINDS[kindName], options);
  }

  async customSite(name: string, kind: SiteKind, options: SiteOptions = {}): Promise<Site> {
    const { lab, core } = this;
    const carrier = options.carrier ?? (kind.carrier ? await this.carrier(`${name}-carrier`) : undefined);
    const upstream = carrier?.router ?? core;
    const router = await lab.router(`${name}-router`);
    const range = carrier === undefined ? "public" : "shared";
    const up = await lab.link(router, upstream, { range, families: kind.families });
    await router.defaultRoute(up.b);
    if (carrier !== undefined) await upstream.ip("rule", "add", "iif", up.b.device, "lookup", TABLE);
    const names = Array.from({ length: options.hosts ?? 1 }, (_, index) =>
      (options.hosts ?? 1) === 1 ? name : `${name}${index}`,
    );
    const { translation } = kind;
    let program: NatProgram | undefined;
    let externals: readonly string[] = [];
    let hosts: Host[] = [];
    if (translation.by === "none") {
      for (const one of names) hosts.push(await this.#exposed(one, router, up, kind));
      await router.nft(answersOnly(up.a.device));
    } else {
      const lan = await makeLan(lab, router, names);
      ({ hosts } = lan);
      if (translation.by === "kernel") {
        await lab.nat(router, up.a, { random: translation.random });
        externals = [up.a.address4];
      } else {
        const made = await translate(router, up, upstream, `${LAN}.0/24`, translation.settings, translation.addresses);
        ({ program, externals } = made);
        await router.ip("rule", "add", "iif", lan.device, "lookup", TABLE);
      }
    }
    if (!kind.udp)
      await router.nft(
        `table inet block { chain noudp { type filter hook forward priority -10; meta l4proto udp drop; }
}`,
      );
    return { name, kind, router, hosts, uplink: up.a, externals, program, carrier };
  }

  /** The core drops everything between two addresses, or the ranges they name ("11.1.2.0/24"), in both directions. @returns undoes it */
  async block(one: string, other: string): Promise<() => Promise<void>> {
    const table = `block${this.#blocks++}`;
    const ip = one.includes(":") ? "ip6" : "ip";
    await this.core.nft(`
table inet ${table} { chain forward {
  type filter hook forward priority -5;
  ${ip} saddr ${one} ${ip} daddr ${other} drop;
  ${ip} saddr ${other} ${ip} daddr ${one} drop;
}
}`);
    return async () => void (await this.core.must("nft", ["delete", "table", "inet", table]));
  }
  #blocks = 0;

  /** A host with public addresses of its own behind the site's router. */
  async #exposed(name: string, router: Host, up: Link, kind: SiteKind): Promise<Host> {
    const host = await this.lab.host(name);
    const link = await this.lab.link(host, router, { range: "public", families: kind.families });
    await host.defaultRoute(link.b);
    if (kind.families.includes(4)) await this.core.ip("route", "add", link.network4, "via", up.a.address4);
    if (kind.families.includes(6)) await this.core.ip("-6", "route", "add", link.network6, "via", up.a.address6);
    return host;
  }
}

function answersOnly(outside: string): string {
  return `table inet firewall { chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "${outside}" ct state new drop;
    iifname "${outside}" ct state invalid drop;
  }
}`;
}

/** Hosts in one inside network. @returns the router's device on it, a bridge when there are several */
async function makeLan(
  lab: Lab,
  router: Host,
  names: readonly string[],
): Promise<{ readonly hosts: Host[]; readonly device: string }> {
  const hosts: Host[] = [];
  let device = "";
  if (names.length > 1) {
    device = "lan0";
    await router.ip("link", "add", device, "type", "bridge", "forward_delay", "0");
    await router.ip("link", "set", device, "up");
  }
  for (const [index, name] of names.entries()) {
    const host = await lab.host(name);
    const link = await lab.link(host, router, { families: [] });
    const address4 = `${LAN}.${10 + index}`;
    await host.ip("addr", "add", `${address4}/24`, "dev", link.a.device);
    if (names.length > 1) await router.ip("link", "set", link.b.device, "master", device);
    else device = link.b.device;
    await host.ip("route", "add", "default", "via", `${LAN}.1`, "dev", link.a.device, "onlink");
    host.ports[0] = { ...link.a, address4 };
    hosts.push(host);
  }
  await router.ip("addr", "add", `${LAN}.1/24`, "dev", device);
  return { hosts, device };
}

/** Starts the translator on a router and leads the packets for its external addresses to it. Rules for the inside are the caller's. */
async function translate(
  router: Host,
  up: Link,
  upstream: Host,
  inside: string,
  settings: Partial<NatSettings>,
  count = 1,
): Promise<{ readonly program: NatProgram; readonly externals: readonly string[] }> {
  if (count < 1 || count > 100) throw new LabError("ADDRESSES", `${count} external addresses: use 1 to 100`);
  const base = up.a.address4.replace(/\.\d+$/, "");
  const externals = Array.from({ length: count }, (_, index) => `${base}.${FIRST_EXTERNAL + index}`);
  const daemon = router.spawn(WEFT_NODE, [NAT, ...natArguments(inside, externals, settings)], {
    name: `${router.name}:nat`,
  });
  await daemon.waitFor(/"ready"/, 10_000);
  await router.ip("link", "set", DEVICE, "txqueuelen", "20000", "addrgenmode", "none", "up");
  await router.ip("route", "add", "default", "dev", DEVICE, "table", TABLE);
  for (const external of externals) {
    await router.ip("route", "add", `${external}/32`, "dev", DEVICE);
    await upstream.ip("route", "add", `${external}/32`, "via", up.a.address4);
  }
  // What comes from outside goes into the translator or nowhere, also when somebody outside knows an inside address.
  await router.nft(`table inet translated { chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "${up.a.device}" oifname != "${DEVICE}" drop;
  }
}`);
  return { program: new NatProgram(daemon), externals };
}

function natArguments(inside: string, externals: readonly string[], settings: Partial<NatSettings>): string[] {
  const args = ["--device", DEVICE, "--inside", inside];
  for (const external of externals) args.push("--outside", external);
  if (settings.mapping !== undefined) args.push("--mapping", settings.mapping);
  if (settings.filtering !== undefined) args.push("--filtering", settings.filtering);
  if (settings.ports !== undefined) args.push("--ports", settings.ports);
  if (settings.pooling !== undefined) args.push("--pooling", settings.pooling);
  if (settings.hairpin !== undefined) args.push("--hairpin", settings.hairpin ? "on" : "off");
  if (settings.udpTimeoutMs !== undefined) args.push("--udp-timeout-ms", String(settings.udpTimeoutMs));
  if (settings.inboundRefresh === true) args.push("--inbound-refresh");
  return args;
}
