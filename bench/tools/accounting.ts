/**
 * Where packets of a tunnel may be lost, counted: by Weft itself (its metrics), by the kernel's devices, queues and sockets around it.
 * Two snapshots around a load tell how many were dropped where; a loss that no counter explains is a defect.
 */
import type { WeftNode } from "../../lab/network.ts";
import type { Host } from "../../lab/namespaces.ts";
import { must } from "../../lab/process.ts";
import type { Tunnel } from "../subjects/types.ts";

/** Name of the place → packets dropped there. */
export type Drops = ReadonlyMap<string, number>;

interface WeftNodes {
  readonly nodeA?: WeftNode;
  readonly nodeB?: WeftNode;
}

/** All drop counters of both ends; those of Weft only when the tunnel is one. */
export async function countDrops(tunnel: Tunnel & WeftNodes): Promise<Drops> {
  const drops = new Map<string, number>();
  for (const [end, side, node] of [
    ["a", tunnel.a, tunnel.nodeA],
    ["b", tunnel.b, tunnel.nodeB],
  ] as const) {
    await countKernel(drops, end, side.host, side.device);
    if (node !== undefined)
      for (const [name, value] of weftDrops(await node.metrics())) drops.set(`${end} weft ${name}`, value);
  }
  return drops;
}

/** Weft's own drop counters out of its metrics: "rx auth" → packets. */
export function weftDrops(metrics: ReadonlyMap<string, number>): Map<string, number> {
  const drops = new Map<string, number>();
  for (const [name, value] of metrics) {
    const labels = /^weft_drops_total\{(.*)\}$/.exec(name)?.[1];
    const reason = labels === undefined ? undefined : /reason="([^"]*)"/.exec(labels)?.[1];
    if (reason !== undefined) drops.set(`${/direction="([^"]*)"/.exec(labels ?? "")?.[1] ?? "any"} ${reason}`, value);
  }
  drops.set("rx receive_overflow", metrics.get("weft_udp_receive_overflow_total") ?? 0);
  return drops;
}

/** What was added from one snapshot to the next, without zeros. */
export function dropsSince(before: Drops, after: Drops): Map<string, number> {
  const added = new Map<string, number>();
  for (const [name, value] of after) {
    const difference = value - (before.get(name) ?? 0);
    if (difference > 0) added.set(name, difference);
  }
  return added;
}

export function total(drops: Drops): number {
  return [...drops.values()].reduce((sum, value) => sum + value, 0);
}

/** "3 a weft tx queue_full, 1 b socket": largest first. */
export function describeDrops(drops: Drops): string {
  const list = [...drops].toSorted((x, y) => y[1] - x[1]);
  return list.length === 0 ? "none" : list.map(([name, count]) => `${count} ${name}`).join(", ");
}

async function countKernel(drops: Map<string, number>, end: string, host: Host, tunnelDevice: string): Promise<void> {
  for (const link of JSON.parse(await must("ip", ["-n", host.namespace, "-j", "-s", "link"])) as LinkStatistics[]) {
    if (link.ifname === "lo") continue;
    const place = link.ifname === tunnelDevice ? "tun" : link.ifname;
    drops.set(`${end} ${place} device rx`, link.stats64.rx.dropped);
    drops.set(`${end} ${place} device tx`, link.stats64.tx.dropped);
  }
  const queues = JSON.parse(await host.must("tc", ["-j", "-s", "qdisc", "show"])) as QueueStatistics[];
  for (const queue of queues) {
    // A tbf holds an inner queue that reports the same drops once more.
    if (queue.root === true)
      drops.set(`${end} ${queue.dev === tunnelDevice ? "tun" : queue.dev} qdisc ${queue.kind}`, queue.drops ?? 0);
  }
  const snmp = await host.must("cat", ["/proc/net/snmp"]);
  const [names = [], values = []] = [...snmp.matchAll(/^Udp: (.*)$/gm)].map((match) => match[1].split(" "));
  drops.set(`${end} udp sockets`, Number(values[names.indexOf("RcvbufErrors")]));
}

interface LinkStatistics {
  readonly ifname: string;
  readonly stats64: { readonly rx: { readonly dropped: number }; readonly tx: { readonly dropped: number } };
}

interface QueueStatistics {
  readonly kind: string;
  readonly dev: string;
  readonly root?: boolean;
  readonly drops?: number;
}
