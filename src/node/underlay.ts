/**
 * What this host's interfaces say about the underlay: addresses at which others may reach this node, the MTU, and the prefixes a
 * new network must not collide with. Read with `ip -j` (iproute2), or from os.networkInterfaces() where that is missing.
 */
import { lookup } from "node:dns/promises";
import { networkInterfaces } from "node:os";
import type { Endpoint } from "../base/endpoint.ts";
import { parseAddress } from "../base/endpoint.ts";
import { parseHostPort } from "./config.ts";
import { runProgram } from "./run-program.ts";

const DEFAULT_MTU_BYTES = 1500;
const MAX_ADDRESSES = 32;

export interface HostAddress {
  readonly interface: string;
  readonly address: string;
  /** Bits of the subnet; undefined = not known. */
  readonly prefixBits?: number;
  readonly loopback: boolean;
}

export interface HostNetwork {
  readonly addresses: readonly HostAddress[];
  /** Largest MTU of an interface that is up and not loopback, bytes; 1,500 when unknown. */
  readonly mtuBytes: number;
}

interface IpAddressRow {
  readonly ifname?: string;
  readonly mtu?: number;
  readonly flags?: readonly string[];
  readonly addr_info?: readonly {
    readonly local?: string;
    readonly prefixlen?: number;
    readonly scope?: string;
    readonly temporary?: boolean;
    readonly deprecated?: boolean;
    readonly tentative?: boolean;
    readonly dadfailed?: boolean;
  }[];
}

/** @param skipInterface the node's own TUN, whose addresses are overlay */
export async function readHostNetwork(skipInterface: string | undefined): Promise<HostNetwork> {
  let rows: IpAddressRow[];
  try {
    rows = JSON.parse(await runProgram("ip", ["-j", "address", "show", "up"])) as IpAddressRow[];
  } catch {
    return fromNode(skipInterface);
  }
  const addresses: HostAddress[] = [];
  let mtuBytes = 0;
  for (const row of rows) {
    const name = row.ifname;
    if (name === undefined || name === skipInterface) continue;
    const loopback = row.flags?.includes("LOOPBACK") === true;
    if (!loopback && row.mtu !== undefined && (row.addr_info?.length ?? 0) > 0) mtuBytes = Math.max(mtuBytes, row.mtu);
    for (const info of row.addr_info ?? []) {
      if (info.local === undefined || info.deprecated === true || info.tentative === true || info.dadfailed === true)
        continue;
      if (!isUsable(info.local)) continue;
      const subnet = info.prefixlen === undefined ? {} : { prefixBits: info.prefixlen };
      addresses.push({ interface: name, address: info.local, ...subnet, loopback });
    }
  }
  return { addresses: addresses.slice(0, MAX_ADDRESSES), mtuBytes: mtuBytes === 0 ? DEFAULT_MTU_BYTES : mtuBytes };
}

function fromNode(skipInterface: string | undefined): HostNetwork {
  const addresses: HostAddress[] = [];
  for (const [name, infos] of Object.entries(networkInterfaces())) {
    if (name === skipInterface) continue;
    for (const info of infos ?? []) {
      if (!isUsable(info.address)) continue;
      const bits = Number(info.cidr?.split("/")[1] ?? NaN);
      const subnet = Number.isInteger(bits) ? { prefixBits: bits } : {};
      addresses.push({ interface: name, address: info.address, ...subnet, loopback: info.internal });
    }
  }
  return { addresses: addresses.slice(0, MAX_ADDRESSES), mtuBytes: DEFAULT_MTU_BYTES };
}

/** Link-local addresses need a scope that means nothing to others. */
function isUsable(address: string): boolean {
  return parseAddress(address) !== undefined && !/^fe[89ab]/i.test(address) && !address.startsWith("169.254.");
}

/** IPv4 prefixes of this host's routes, such as "10.0.0.0/8"; empty when `ip` is missing. */
export async function readRoutedPrefixes(): Promise<readonly string[]> {
  try {
    const rows = JSON.parse(await runProgram("ip", ["-j", "-4", "route", "show", "table", "all"])) as {
      dst?: string;
      type?: string;
    }[];
    return rows
      .filter((row) => row.type === undefined || row.type === "unicast" || row.type === "local")
      .map((row) => row.dst ?? "")
      .filter((prefix) => /^\d+\.\d+\.\d+\.\d+(\/\d+)?$/.test(prefix) && !prefix.startsWith("127."));
  } catch {
    return [];
  }
}

export interface OwnEndpointsInput {
  /** HOST:PORT of the configuration. */
  readonly configured: readonly string[];
  readonly listen: readonly { readonly address: string; readonly port: number }[];
  /** Ports really bound, 0 = that family is not. */
  readonly port4: number;
  readonly port6: number;
  readonly host: HostNetwork;
  /** Addresses inside the overlay, which never are candidates. */
  readonly isOverlay: (address: string) => boolean;
}

/** Configured ones first (names resolved), then what the interfaces offer; without duplicates. */
export async function ownEndpoints(input: OwnEndpointsInput): Promise<Endpoint[]> {
  const found = new Map<string, Endpoint>();
  const addOne = (address: string, port: number): void => {
    if (port !== 0 && !input.isOverlay(address)) found.set(`${address} ${port}`, { address, port });
  };
  for (const text of input.configured) {
    const parsed = parseHostPort(text);
    if (parsed === undefined) continue;
    for (const address of await resolveHost(parsed.host)) addOne(address, parsed.port);
  }
  for (const entry of input.listen) {
    const six = entry.address.includes(":");
    const port = six ? input.port6 : input.port4;
    if (entry.address !== "0.0.0.0" && entry.address !== "::") {
      addOne(entry.address, port);
      continue;
    }
    for (const host of input.host.addresses) {
      if (!host.loopback && host.address.includes(":") === six) addOne(host.address, port);
    }
  }
  return [...found.values()];
}

/** @returns addresses of a DNS name, or the address itself; empty when it does not resolve now (it is tried again at each refresh) */
async function resolveHost(host: string): Promise<readonly string[]> {
  if (parseAddress(host) !== undefined) return [host];
  try {
    return (await lookup(host, { all: true })).map((result) => result.address).filter(isUsable);
  } catch {
    return [];
  }
}
