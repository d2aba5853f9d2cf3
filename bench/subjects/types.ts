/** What a benchmark compares: one way to carry packets between two hosts, with everything it needs to be started and watched. */
import type { Host } from "../../lab/namespaces.ts";
import type { TwoHosts } from "../../lab/topologies.ts";

export interface Side {
  readonly host: Host;
  /** Address inside the tunnel (for plain veth: of the link). */
  readonly address: string;
  readonly device: string;
  /** The process that carries the packets; undefined when the kernel does. */
  readonly pid: number | undefined;
}

export interface Tunnel {
  readonly a: Side;
  readonly b: Side;
  /** MTU of the tunnel device, as the product sets it by itself. */
  readonly mtuBytes: number;
  /** UDP port of side b on the underlay; undefined when there is none. */
  readonly portB: number | undefined;
  /** Ends its processes; namespaces stay. */
  stop(): Promise<void>;
}

export type Found = { readonly version: string } | { readonly why: string };

export interface Subject {
  /** Short name, as in --subjects. */
  readonly name: string;
  /** Whether it can be measured here. */
  find(): Promise<Found>;
  /** @param index makes addresses and ports differ between subjects that run side by side, 0–15 */
  start(hosts: TwoHosts, index: number): Promise<Tunnel>;
}

/** Overlay addresses of subject `index`: 10.200.INDEX.1 and .2. */
export function overlay(index: number): { readonly prefix: string; readonly a: string; readonly b: string } {
  return { prefix: `10.200.${index}.0/24`, a: `10.200.${index}.1`, b: `10.200.${index}.2` };
}

/** Underlay UDP port of both sides of subject `index`. */
export function underlayPort(index: number): number {
  return 51_820 + index;
}

export async function deviceMtu(host: Host, device: string): Promise<number> {
  const links = await host.ipJson("link", "show", "dev", device);
  return Number(links[0]?.["mtu"]);
}
