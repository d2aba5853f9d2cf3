/** Two nodes, a and b, and the four ways in which they may have to talk, each with real daemons. */
import type { Host, Lab } from "../namespaces.ts";
import { Internet } from "../nat-sites.ts";
import { formNetwork, type WeftNetwork } from "../network.ts";
import { keepApart, routedHosts, twoHosts } from "../topologies.ts";

export const WAYS = ["direct", "nat", "relay", "transit"] as const;
export type Way = (typeof WAYS)[number];

/** What a path's kind must be on each way. */
export const KIND_OF_WAY = { direct: "direct", nat: "direct", relay: "relay", transit: "transit" } as const;

export interface WayWorld {
  readonly lab: Lab;
  /** Nodes a and b, and whoever helps them. */
  readonly network: WeftNetwork;
}

/** Member of a network that carries for others. */
export const RELAY_CONFIG = "relay = true\n";

/** Builds the way and a network whose nodes a and b are up; nothing is awaited between them. */
export async function openWay(way: Way): Promise<WayWorld> {
  if (way === "direct") {
    const { lab, a, b } = await twoHosts();
    return withNetwork(lab, () => formNetwork(lab, [a, b]));
  }
  if (way === "transit") {
    const { lab, hosts, router } = await routedHosts(["c", "d", "a", "b"]);
    return withNetwork(lab, async () => {
      const [, , a, b] = hosts as [Host, Host, Host, Host];
      await keepApart(router, a, b);
      return formNetwork(lab, hosts);
    });
  }
  const internet = await Internet.create();
  return withNetwork(internet.lab, async () => {
    const beacon = await internet.publicHost("beacon", [4]);
    const kind = way === "nat" ? "port-restricted" : "symmetric";
    const [a] = (await internet.site("a", kind)).hosts;
    const b = way === "nat" ? await internet.publicHost("b", [4]) : (await internet.site("b", kind)).hosts[0];
    if (a === undefined || b === undefined) throw new Error("a site has no host");
    const config = (host: Host): string | undefined => (host === beacon && way === "relay" ? RELAY_CONFIG : undefined);
    return formNetwork(internet.lab, [beacon, a, b], { config });
  });
}

async function withNetwork(lab: Lab, build: () => Promise<WeftNetwork>): Promise<WayWorld> {
  try {
    return { lab, network: await build() };
  } catch (error) {
    await lab.close();
    throw error;
  }
}
