/** weft peers: what is known of the way to every peer. */
import type { Command } from "@commander-js/extra-typings";
import type { PresenceView } from "../api/messaging/presence-control.ts";
import { WeftError } from "../base/errors.ts";
import type { WeftClient } from "../client/client.ts";
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
      const api = client(options);
      const peers = await api.peers();
      const presence = options.json === true ? new Map<string, string>() : await watched(api);
      show(options, { peers }, () => peerTable(peers, undefined, presence));
    }),
  );
}

/** By node id; nothing on a node that runs without messaging. */
async function watched(api: WeftClient): Promise<ReadonlyMap<string, string>> {
  try {
    const { peers } = await api.call<PresenceView>("GET", "/v1/presence");
    return new Map(peers.map(({ node, state }) => [node.id, state]));
  } catch (error) {
    if (error instanceof WeftError && error.code === "NOT_READY") return new Map();
    throw error;
  }
}
