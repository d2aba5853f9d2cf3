/** The networks that tests, demo and benchmarks run on, made of namespaces (namespaces.ts). */
import { Lab, type Host, type Link, type LinkOptions, type NatOptions } from "./namespaces.ts";

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
export async function routedHosts(names: readonly string[] = ["a", "b", "c"], options: LinkOptions = {}): Promise<RoutedHosts> {
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
export async function hostsBehindNat(nats: readonly NatOptions[] = [{}, {}], options: LinkOptions = {}): Promise<NattedHosts> {
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
