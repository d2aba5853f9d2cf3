/** Everything of a lab host that Weft may change, as text: compared byte for byte before and after. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Host } from "../../lab/namespaces.ts";
import { until } from "../../lab/process.ts";

export type MachineState = Readonly<Record<string, string>>;

/** Routes of all tables, rules, kernel parameters, nftables, resolver files. */
export async function machineState(host: Host): Promise<MachineState> {
  const withoutClocks = (text: string): string => text.replaceAll(/ expires \S+/g, "");
  return {
    routes4: await host.ip("-4", "route", "show", "table", "all"),
    routes6: withoutClocks(await host.ip("-6", "route", "show", "table", "all")),
    rules4: await host.ip("-4", "rule", "show"),
    rules6: await host.ip("-6", "rule", "show"),
    // unreadable ones (stable_secret) make grep end with 2
    sysctls: (
      await host.exec("sh", [
        "-c",
        "grep -rs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward | sort",
      ])
    ).stdout,
    nftables: await host.must("nft", ["list", "ruleset"]),
    hosts: readFileSync(join(host.etc, "hosts"), "latin1"),
    resolver: readFileSync(join(host.etc, "resolv.conf"), "latin1"),
  };
}

/** The host is as it was. The kernel removes an interface a moment after its process. */
export async function assertRestored(host: Host, before: MachineState): Promise<void> {
  assert.ok((before["sysctls"] ?? "").length > 1_000, "control: the parameters were read");
  let now: MachineState = {};
  await until(`${host.name} is as before`, 5_000, async () => {
    now = await machineState(host);
    return JSON.stringify(now) === JSON.stringify(before) ? true : undefined;
  }).catch(() => undefined);
  for (const [what, text] of Object.entries(before)) assert.equal(now[what], text, `${what} of ${host.name}`);
}
