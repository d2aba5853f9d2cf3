/** weft netcheck: what the network outside looks like from here, and what every way of finding out says. */
import type { Command } from "@commander-js/extra-typings";
import type { NatView, NetcheckView } from "../api/netcheck-view.ts";
import { add, client, createCommand, duration, show } from "./context.ts";
import { milliseconds, paint, table } from "./format.ts";

function render(view: NetcheckView): string {
  const nat = (name: string, one: NatView, addresses: readonly string[]): string =>
    `${paint("bold", name)}  ${addresses.length === 0 ? "no address" : one.text}`;
  const mapping =
    view.portMapping.protocol === null ? "none" : `${view.portMapping.protocol}, ${view.portMapping.endpoint}`;
  const lines = [
    nat("IPv4", view.ipv4, view.addresses.ipv4),
    nat("IPv6", view.ipv6, view.addresses.ipv6),
    `UDP ${view.udp}  port mapping ${mapping}  hairpin ${view.hairpin === null ? "unknown" : view.hairpin ? "yes" : "no"}`,
    "",
    table(
      ["SOURCE", "STATE", "FOUND"],
      view.sources.map((one) => [one.name, state(one.state), one.text]),
    ),
  ];
  if (view.beacons.length > 0) {
    lines.push(
      "",
      table(
        ["BEACON", "RTT"],
        view.beacons.map((one) => [one.name, one.rttMs === null ? paint("red", "no answer") : milliseconds(one.rttMs)]),
      ),
    );
  }
  return lines.join("\n");
}

function state(name: string): string {
  if (name === "working") return paint("green", name);
  return name === "failing" || name === "hung" ? paint("yellow", name) : name;
}

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "netcheck",
      "show the NAT, the addresses seen from outside, and what each discovery source says",
      "$ weft netcheck\n$ weft netcheck --json | jq '.ipv4'",
    )
      .option("-W, --timeout <TIME>", "let the sources look for at most this long", "10s")
      .action(async (options) => {
        const timeoutMs = Math.min(30_000, Math.max(1, Math.round(duration(options.timeout, "--timeout"))));
        show(options, await client(options).netcheck(timeoutMs), render);
      }),
  );
}
