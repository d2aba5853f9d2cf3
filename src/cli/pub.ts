/** weft pub: publishes to a topic; from a pipe, every line is a message. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, print, show } from "./context.ts";
import { inputLines, readPayload, whileBusy } from "./payload.ts";

const MAX_BYTES = 65_536;
const EXAMPLE = `$ weft pub builds "main is green"
$ tail -f app.log | weft pub logs
$ weft pub pictures @photo.jpg`;

export function register(program: Command): void {
  add(
    program,
    createCommand("pub", "publish to everybody who subscribes to a topic", EXAMPLE)
      .argument("<TOPIC>", "name of the topic")
      .argument("[TEXT]", "what to publish, or @FILE; without it every line of standard input is a message")
      .option("--whole", "all of standard input is one message")
      .option("--agent <AGENT>", "local agent that publishes (default: the node)")
      .action(async (topic, text, options) => {
        const api = client(options);
        if (text !== undefined || options.whole === true || process.stdin.isTTY) {
          const payload = await readPayload(text, MAX_BYTES);
          const view = await whileBusy(() => api.publish(topic, { ...payload, agent: options.agent }));
          return show(options, view, () => `published to ${topic}`);
        }
        let count = 0;
        for await (const payload of inputLines(MAX_BYTES)) {
          const view = await whileBusy(() => api.publish(topic, { ...payload, agent: options.agent }));
          count++;
          if (options.json === true) print(JSON.stringify(view));
        }
        if (options.json !== true) print(`published ${count} messages to ${topic}`);
      }),
  );
}
