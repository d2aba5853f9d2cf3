/** weft history: messages of this node and its groups, searchable. */
import type { Command } from "@commander-js/extra-typings";
import type { HistoryFigures, HistoryMessageView } from "../api/messaging/history-control.ts";
import { add, client, createCommand, show, wholeNumber } from "./context.ts";
import { bytes } from "./format.ts";
import { oneLine } from "./terminal.ts";

const EXAMPLE = `$ weft history                        # the latest messages
$ weft history deploy fail*           # with both words; * stands for any ending
$ weft history '"out of memory"'      # a phrase
$ weft history --limit 500 --json`;

export function register(program: Command): void {
  add(
    program,
    createCommand("history", "search the messages of this node and its groups", EXAMPLE)
      .argument("[WORDS...]", "words that must all be there")
      .option("--agent <NAME>", "whose messages (default: node)")
      .option("--before <ID>", "older than that message")
      .option("--limit <N>", "at most so many, 1 to 500", "50")
      .action(async (words, options) => {
        const query = {
          search: words.join(" "),
          agent: options.agent,
          before: options.before === undefined ? undefined : wholeNumber(options.before, "--before", 0, 2 ** 53 - 1),
          limit: wholeNumber(options.limit, "--limit", 1, 500),
        };
        const found = await client(options).call<{ messages: HistoryMessageView[]; kept: HistoryFigures }>(
          "GET",
          "/v1/history",
          { query },
        );
        show(options, found, ({ messages, kept }) =>
          messages.length === 0
            ? `no messages (${kept.messages} are kept, ${bytes(kept.bytes)})`
            : messages.toReversed().map(messageLine).join("\n"),
        );
      }),
  );
}

export function messageLine(message: HistoryMessageView): string {
  const where =
    message.conversation === "" ? "" : ` ${message.kind === "group" ? "#" : "/"}${oneLine(message.conversation)}`;
  const agent = message.fromAgent === "" ? "" : `/${oneLine(message.fromAgent.slice(0, 16))}`;
  const to = message.to === null ? "" : ` → ${message.to.name}`;
  const text =
    message.text === null
      ? `(${bytes(Buffer.from(message.payload, "base64").length)})`
      : message.text.replaceAll("\n", "\n    ");
  return `${message.at.slice(0, 19).replace("T", " ")}  ${message.from.name}${agent}${to}${where}: ${text}`;
}
