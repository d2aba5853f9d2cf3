/** The IPv4 gateway of this host, and the address under which the gateway knows it; from `ip -j`, which needs no rights. */
import { runProgram } from "../run-program.ts";

export interface Gateway {
  /** Dotted IPv4. */
  readonly address: string;
  readonly device: string;
  /** Own address on the gateway's network. */
  readonly ownAddress: string;
}

interface RouteRow {
  readonly dst?: string;
  readonly gateway?: string;
  readonly dev?: string;
  readonly metric?: number;
  readonly prefsrc?: string;
}

/** @param skipInterface the node's own TUN @returns undefined when there is none @throws WeftError when `ip` does not work */
export async function readGateway(skipInterface: string | undefined): Promise<Gateway | undefined> {
  const routes = JSON.parse((await runProgram("ip", ["-j", "-4", "route", "show", "default"])) || "[]") as RouteRow[];
  const best = routes
    .filter((row) => row.gateway !== undefined && row.dev !== undefined && row.dev !== skipInterface)
    .toSorted((a, b) => (a.metric ?? 0) - (b.metric ?? 0))[0];
  if (best?.gateway === undefined || best.dev === undefined) return undefined;
  const ways = JSON.parse(
    (await runProgram("ip", ["-j", "-4", "route", "get", best.gateway, "oif", best.dev])) || "[]",
  ) as RouteRow[];
  const ownAddress = ways[0]?.prefsrc ?? best.prefsrc;
  return ownAddress === undefined ? undefined : { address: best.gateway, device: best.dev, ownAddress };
}
