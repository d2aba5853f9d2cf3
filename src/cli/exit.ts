/** weft exit: sends everything through another member, or offers that to the others. */
import type { Command } from "@commander-js/extra-typings";
import type { ExitView } from "../api/host-control.ts";
import { add, client, createCommand, show, UsageError } from "./context.ts";
import { milliseconds, table } from "./format.ts";

const EXAMPLE = `$ weft exit                        # what there is
$ weft exit offer                  # on the exit; an admin approves: weft routes approve NODE 0.0.0.0/0
$ weft exit use office             # everything goes through office
$ weft exit use office home        # either, whichever works
$ weft exit use --allow-lan        # any exit; networks this machine is connected to stay reachable
$ weft exit off

While an exit is used the leak guard lets nothing leave this machine outside the tunnel, even when the daemon is killed.
It opens with \`weft exit off\`, \`weft down\` or \`weft repair\`.`;

export function register(program: Command): void {
  add(
    program,
    createCommand("exit", "send everything through another member", EXAMPLE)
      .argument("[ACTION]", "use, off, offer or withdraw; none shows")
      .argument("[NODE...]", "exits that may be used; none: any")
      .option("--allow-lan", "keep directly connected networks reachable")
      .action(async (action, nodes, options) => {
        const api = client(options);
        switch (action) {
          case undefined:
            return show(options, await api.exit(), describe);
          case "use":
            return show(options, await api.useExit({ nodes, allowLan: options.allowLan === true }), describe);
          case "off":
            return show(options, await api.useExit(undefined), describe);
          case "offer":
          case "withdraw":
            return show(options, await api.offerExit(action === "offer"), describe);
          default:
            throw new UsageError(`"${action}" is no action`, "use use, off, offer or withdraw");
        }
      }),
  );
}

function describe(view: ExitView): string {
  const lines: string[] = [];
  if (view.using === null) lines.push("no exit is used");
  else if (view.active === null)
    lines.push("no exit can be reached: nothing leaves this machine (weft exit off opens up)");
  else
    lines.push(`everything goes through ${view.active.name}${view.allowLan ? ", except to connected networks" : ""}`);
  if (view.guard) lines.push("the leak guard is closed");
  if (view.offering)
    lines.push(view.approved ? "this node is an exit" : "this node offers an exit; an admin has not approved it");
  if (view.candidates.length > 0) {
    const rows = view.candidates.map((candidate) => [
      candidate.node.name,
      candidate.online ? "online" : "offline",
      milliseconds(candidate.rttMs),
      candidate.active ? "in use" : "",
    ]);
    lines.push("", table(["EXIT", "STATE", "RTT", ""], rows, [2]));
  }
  return lines.join("\n");
}
