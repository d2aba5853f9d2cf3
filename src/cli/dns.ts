/** weft dns: the names of the network and how this machine learns them. */
import type { Command } from "@commander-js/extra-typings";
import type { DnsView } from "../api/host-control.ts";
import { add, client, createCommand, show } from "./context.ts";
import { table } from "./format.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "dns",
      "show the network's names and how this machine learns them",
      "$ weft dns\n$ dig @$(weft ip | head -1) nas.home.weft",
    ).action(async (options) => show(options, await client(options).dns(), describe)),
  );
}

const SETUPS: Readonly<Record<string, string>> = {
  resolved: "systemd-resolved asks it for these names",
  resolvconf: "resolvconf knows it for these names",
  hosts: "the names are in /etc/hosts",
  off: "nothing on this machine was set up",
};

function describe(view: DnsView): string {
  const lines = [
    view.servers.length === 0 ? `${view.domain}: no server` : `${view.domain}: answered on ${view.servers.join(", ")}`,
    SETUPS[view.mode] ?? view.mode,
  ];
  if (view.forwarders.length > 0) lines.push(`other names go to ${view.forwarders.join(", ")}`);
  lines.push(
    ...view.problems,
    "",
    table(
      ["NAME", "ADDRESSES"],
      view.names.map(({ name, addresses }) => [name, addresses.join(", ")]),
    ),
  );
  return lines.join("\n");
}
