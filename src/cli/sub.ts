/** weft sub: what is published to topics, as it comes; comes back by itself when the daemon was restarted. */
import type { Command } from "@commander-js/extra-typings";
import type { Gap } from "../api/messaging/route.ts";
import type { ApiEvent } from "../client/events.ts";
import { add, client, createCommand, print, wholeNumber } from "./context.ts";
import { shownText } from "./payload.ts";
import { notice } from "./terminal.ts";

const EXAMPLE = `$ weft sub builds
$ weft sub builds alerts --json | jq -r 'select(.event == "message") | .text'
$ weft sub builds --count 1 && echo green`;

export function register(program: Command): void {
  add(
    program,
    createCommand("sub", "print what is published to topics", EXAMPLE)
      .argument("<TOPIC...>", "names of topics")
      .option("--count <N>", "end after so many messages")
      .option("--ordered", "per publisher in sequence")
      .option("--agent <AGENT>", "local agent that subscribes (default: the node)")
      .action(async (topics, options) => {
        const api = client(options);
        const most = options.count === undefined ? Infinity : wholeNumber(options.count, "--count", 1, 2 ** 31);
        const done = new AbortController();
        const given = { agent: options.agent, ordered: options.ordered === true };
        let count = 0;
        const follow = async (topic: string): Promise<void> => {
          for await (const event of api.subscribe(topic, { ...given, signal: done.signal })) {
            if (event.event !== "message") {
              if (options.json === true) {
                if (event.event !== "ready") print(JSON.stringify({ ...event.data, event: event.event, topic }));
              } else tell(topic, event);
              continue;
            }
            if (count >= most) return;
            count++;
            const { text, data } = event.data;
            if (options.json === true) print(JSON.stringify({ ...event.data, event: "message" }));
            else print(`${topics.length > 1 ? `${topic}: ` : ""}${shownText(text, data)}`);
            if (count >= most) done.abort();
          }
        };
        try {
          await Promise.all(topics.map(follow));
        } finally {
          done.abort();
        }
      }),
  );
}

/** What is missing goes to standard error, so that a pipe has messages alone. */
function tell(topic: string, event: ApiEvent): void {
  if (event.event === "ready") return;
  const { missed, reason } = event.data as Partial<Gap>;
  const what =
    event.event !== "gap"
      ? `${event.event}: ${JSON.stringify(event.data)}`
      : missed === null || missed === undefined
        ? "messages may be missing: the daemon was restarted"
        : `${missed} messages are missing: ${reason === "slow" ? "this reader is too slow" : "this reader was away for too long"}`;
  notice(`${topic}: ${what}`);
}
