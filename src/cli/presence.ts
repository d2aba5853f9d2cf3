/** weft presence: who is online, away or offline, as they say themselves. */
import type { Command } from "@commander-js/extra-typings";
import type { OwnPresenceView, PeerPresenceView, PresenceView } from "../api/messaging/presence-control.ts";
import type { WeftClient } from "../client/client.ts";
import { add, client, type CommonOptions, createCommand, print, show, UsageError } from "./context.ts";
import { age, paint, table } from "./format.ts";

const EXAMPLE = `$ weft presence                          # this node, and those it watches
$ weft presence watch nas                # from now on, also after a restart
$ weft presence unwatch nas
$ weft presence away "back at two"       # what those who watch this node see
$ weft presence online
$ weft presence follow                   # changes as they come`;

const COLOURS = { online: "green", away: "yellow", offline: "gray", unknown: "gray" } as const;

export function register(program: Command): void {
  add(
    program,
    createCommand("presence", "who is online, away or offline; what this node says of itself", EXAMPLE)
      .argument("[ACTION]", "watch, unwatch, online, away or follow; none lists")
      .argument("[WHAT]", "for watch and unwatch a member; for online and away a note of at most 128 bytes")
      .action(async (action, what, options) => run(client(options), action ?? "list", what, options)),
  );
}

async function run(api: WeftClient, action: string, what: string | undefined, options: CommonOptions): Promise<void> {
  switch (action) {
    case "list":
      return show(options, await api.call<PresenceView>("GET", "/v1/presence"), describe);
    case "watch":
    case "unwatch": {
      if (what === undefined) throw new UsageError("the member is missing", `weft presence ${action} NAME`);
      const path = action === "watch" ? "/v1/presence/watch" : "/v1/presence/unwatch";
      const peer = await api.call<PeerPresenceView>("POST", path, { body: { peer: what } });
      return show(options, peer, () =>
        action === "watch" ? `${peer.node.name} is watched` : `${peer.node.name} is not watched any more`,
      );
    }
    case "online":
    case "away": {
      const own = await api.call<OwnPresenceView>("PUT", "/v1/presence", { body: { state: action, note: what ?? "" } });
      return show(options, own, ownLine);
    }
    case "follow":
      for await (const { event, data } of api.events<PeerPresenceView>("/v1/presence/events")) {
        if (options.json === true) print(JSON.stringify({ event, data }));
        else if (event === "presence")
          print(`${data.node.name}\t${data.state}${data.note === "" ? "" : `\t${oneLine(data.note)}`}`);
        else if (event === "gap") print("(changes are missing here: list again)");
      }
      return;
    default:
      throw new UsageError(`"${action}" is no action`, "use watch, unwatch, online, away or follow");
  }
}

function describe({ self, peers }: PresenceView): string {
  const own = ownLine(self);
  if (peers.length === 0) return `${own}\nnobody is watched; \`weft presence watch NAME\` begins`;
  const rows = peers.map((peer) => [
    peer.node.name,
    paint(COLOURS[peer.state], peer.state),
    peer.lastSeen === null ? "–" : `${age(Math.max(0, Date.now() - Date.parse(peer.lastSeen)))} ago`,
    oneLine(peer.note),
  ]);
  return `${own}\n${table(["NODE", "STATE", "LAST SEEN", "NOTE"], rows)}`;
}

function ownLine(self: OwnPresenceView): string {
  return `this node: ${self.state}${self.note === "" ? "" : ` (${oneLine(self.note)})`}`;
}

/** Somebody else wrote it: nothing in it moves the cursor. */
function oneLine(text: string): string {
  return text.replace(/\p{C}+/gu, " ");
}
