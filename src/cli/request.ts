/** weft request: asks a service of a member and prints its answer. */
import type { Command } from "@commander-js/extra-typings";
import type { RequestView } from "../api/messaging/direct-control.ts";
import { add, client, createCommand, Exit, print } from "./context.ts";
import { readPayload, whileBusy } from "./payload.ts";
import { deadline } from "./send.ts";
import { notice, writeBytes } from "./terminal.ts";

const MAX_BYTES = 1 << 20;
const EXAMPLE = `$ weft request nas disk-usage
$ echo '{"job": 7}' | weft request builder@ci run --deadline 10m

Exit codes: 0 answered, 1 the service failed or refused, 5 unknown (it may have run).`;

export function register(program: Command): void {
  add(
    program,
    createCommand("request", "ask a service of a member and wait for its answer", EXAMPLE)
      .argument("<TO>", "name, id or address of a member, or AGENT@NODE")
      .argument("<NAME>", "name of the service")
      .argument("[TEXT]", "what to ask, @FILE, or - for standard input (default: nothing)")
      .option("--deadline <TIME>", "how long to wait, at most 1h", "30s")
      .option("--agent <AGENT>", "local agent that asks (default: the node)")
      .action(async (to, name, text, options) => {
        const api = client(options);
        const payload =
          text === undefined && process.stdin.isTTY ? { text: "" } : await readPayload(text ?? "-", MAX_BYTES);
        const deadlineMs = deadline(options.deadline, "--deadline", 3_600_000);
        const given = { to, name, ...payload, deadlineMs, agent: options.agent };
        // ^C cancels it there as well
        const stop = new AbortController();
        process.once("SIGINT", () => stop.abort());
        const view = await whileBusy(() => api.request(given, stop.signal));
        if (options.json === true) print(JSON.stringify(view, null, 2));
        else await answer(view);
        if (view.outcome === "failed" || view.outcome === "refused") process.exitCode = Exit.FAILURE;
        if (view.outcome === "unknown") process.exitCode = Exit.UNKNOWN;
      }),
  );
}

/** The answer as it is, for pipes. */
async function answer(view: RequestView): Promise<void> {
  if (view.outcome === "refused" || view.outcome === "unknown") {
    notice(`${view.outcome === "refused" ? "it did not run" : "nobody knows whether it ran"}: ${view.reason}`);
    return;
  }
  const bytes = Buffer.from(view.payload ?? "", "base64");
  await writeBytes(bytes, view.outcome === "failed" ? process.stderr : process.stdout);
}
