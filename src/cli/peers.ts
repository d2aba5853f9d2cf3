/** weft peers: what is known of the way to every peer. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, show } from "./context.ts";
import { peerTable } from "./peer-table.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "peers",
      "list the peers with path, RTT, loss, PMTU, cipher",
      "$ weft peers\n$ weft peers --json | jq '.peers[].path'",
    ).action(async (options) => {
      show(options, { peers: await client(options).peers() }, ({ peers }) => peerTable(peers));
    }),
  );
}
