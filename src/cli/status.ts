/** weft status: this node, its network, its peers and what is wrong. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "@commander-js/extra-typings";
import type { StatusView } from "../api/control.ts";
import { add, client, createCommand, duration, print, show } from "./context.ts";
import { age, paint, shortId } from "./format.ts";
import { peerTable } from "./peer-table.ts";

const SEVERITY_STYLE = { info: "cyan", warning: "yellow", error: "red" } as const;

function render(status: StatusView, earlier?: { status: StatusView; elapsedMs: number }): string {
  const { node, network } = status;
  const head = [
    `${paint("bold", node.name)}  ${shortId(node.id)}  ${node.addresses.join("  ")}  ${node.mode === "tun" ? `interface ${node.interface}` : "agent (no interface)"}`,
    `network ${paint("bold", network.name)}  ${network.members} member${network.members === 1 ? "" : "s"}  ${network.ipv4}  ${network.ipv6}  roster confirmed ${
      network.rosterAgeMs === null ? "not yet" : `${age(network.rosterAgeMs)} ago`
    }${network.userData === "open" ? "" : `, user data ${network.userData}`}`,
    `reached at ${node.endpoints.length === 0 ? "–" : node.endpoints.join("  ")}  up ${age(node.uptimeMs)}  weft ${node.version}`,
  ];
  const health = status.health.map(
    (item) => `${paint(SEVERITY_STYLE[item.severity], item.severity)}: ${item.text}; ${item.remedy}`,
  );
  const peers = peerTable(
    status.peers,
    earlier === undefined ? undefined : { peers: earlier.status.peers, elapsedMs: earlier.elapsedMs },
  );
  return [...head, "", peers, ...(health.length === 0 ? [] : ["", ...health])].join("\n");
}

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "status",
      "show this node, its peers and what is wrong",
      "$ weft status\n$ weft status --watch\n$ weft status --json | jq '.peers[] | {name, rttMs}'",
    )
      .option("--watch [TIME]", "refresh until interrupted (default every 1s), with rates instead of totals")
      .action(async (options) => {
        const api = client(options);
        if (options.watch === undefined) {
          show(options, await api.status(), (status) => render(status));
          return;
        }
        const periodMs = Math.max(100, options.watch === true ? 1000 : duration(options.watch, "--watch"));
        let earlier: { status: StatusView; elapsedMs: number; atMs: number } | undefined;
        for (;;) {
          const status = await api.status();
          const atMs = performance.now();
          if (options.json === true) {
            print(JSON.stringify(status));
          } else {
            const view = render(
              status,
              earlier === undefined ? undefined : { status: earlier.status, elapsedMs: atMs - earlier.atMs },
            );
            if (process.stdout.isTTY) process.stdout.write("\x1b[H\x1b[2J");
            print(process.stdout.isTTY ? view : `${view}\n`);
          }
          earlier = { status, elapsedMs: 0, atMs };
          await sleep(periodMs);
        }
      }),
  );
}
