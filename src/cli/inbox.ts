/** weft inbox: direct messages that came, until they are acknowledged. */
import type { Command } from "@commander-js/extra-typings";
import type { InboxMessageView } from "../api/messaging/direct-control.ts";
import { add, client, createCommand, print, wholeNumber } from "./context.ts";
import { shownText } from "./payload.ts";
import { oneLine } from "./terminal.ts";

const EXAMPLE = `$ weft inbox                       # what was not acknowledged yet
$ weft inbox --acknowledge         # the same, and then it is done with
$ weft inbox --follow --json | while read -r message; do …; done
$ weft inbox --done 42             # everything up to sequence 42 is done with`;

export function register(program: Command): void {
  add(
    program,
    createCommand("inbox", "read direct messages", EXAMPLE)
      .option("--follow", "go on with messages as they come; with --json one line for each")
      .option("--acknowledge", "what was printed is done with and will not come again")
      .option("--done <SEQUENCE>", "everything up to this one is done with")
      .option("--limit <N>", "print at most so many", "100")
      .option("--agent <AGENT>", "inbox of this local agent (default: the node's)")
      .action(async (options) => {
        const api = client(options);
        const { agent } = options;
        if (options.done !== undefined) {
          const view = await api.acknowledge(wholeNumber(options.done, "--done", 0, 2 ** 53 - 1), { agent });
          return print(options.json === true ? JSON.stringify(view, null, 2) : `${view.messages} messages are left`);
        }
        if (options.follow === true) {
          for await (const { event, data } of api.followInbox({ agent })) {
            if (event !== "message") continue;
            print(options.json === true ? JSON.stringify(forJson(data)) : describe(data));
            // only when it is out: what nobody saw comes again
            if (options.acknowledge === true) await api.acknowledge(data.sequence, { agent });
          }
          return;
        }
        const limit = wholeNumber(options.limit, "--limit", 1, 999);
        const page = await api.inbox({ limit, ...(agent === undefined ? {} : { agent }) });
        if (options.json === true) {
          print(
            JSON.stringify({ messages: page.messages.map(forJson), cursor: page.cursor, more: page.more }, null, 2),
          );
        } else if (page.messages.length === 0) print("no new messages");
        else {
          for (const message of page.messages) print(describe(message));
          if (page.more) print(`… and more (weft inbox --acknowledge goes on)`);
        }
        const last = page.messages.at(-1);
        if (options.acknowledge === true && last !== undefined) await api.acknowledge(last.sequence, { agent });
      }),
  );
}

/** `from` is the name and `topic` what it is about: those two are the contract of `inbox --json`. */
function forJson(message: InboxMessageView): object {
  const { from, name, ...rest } = message;
  return { ...rest, from: from.name, fromId: from.id, topic: name };
}

export function describe(message: InboxMessageView): string {
  const time = message.receivedAt.slice(0, 19).replace("T", " ");
  const about = message.name === "" ? "" : ` [${oneLine(message.name)}]`;
  // a second line cannot look like a message of somebody else
  const body = shownText(message.text, message.payload).replaceAll("\n", "\n    ");
  return `${message.sequence}  ${time}  ${message.from.name}${about}: ${body}`;
}
