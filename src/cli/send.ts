/** weft send: one message to one member, with an outcome. */
import type { Command } from "@commander-js/extra-typings";
import type { SendView } from "../api/messaging/direct-control.ts";
import { add, client, createCommand, duration, Exit, show, UsageError } from "./context.ts";
import { milliseconds, path } from "./format.ts";
import { readPayload, whileBusy } from "./payload.ts";

const MAX_BYTES = 1 << 20;
const HOUR_MS = 3_600_000;
const EXAMPLE = `$ weft send nas "backup is done"
$ make 2>&1 | weft send builder@nas --topic builds
$ weft send laptop @report.txt --deadline 5s --keep 1d     # goes on for a day if the laptop is away
$ weft send --status 5f0c…                                 # what became of it

Exit codes: 0 acknowledged, 1 refused (certainly not delivered), 5 unknown (it may have arrived, or still may).`;

/** @returns milliseconds @throws UsageError */
export function deadline(text: string, option: string, mostMs: number): number {
  const ms = Math.round(duration(text, option));
  if (ms < 1 || ms > mostMs)
    throw new UsageError(`${option} ${text} is not between 1 ms and ${mostMs / HOUR_MS} h`, "correct it");
  return ms;
}

export function register(program: Command): void {
  add(
    program,
    createCommand("send", "send a message to a member and wait for its receipt", EXAMPLE)
      .argument("[TO]", "name, id or address of a member, or AGENT@NODE")
      .argument("[TEXT]", "what to send, @FILE, or - for standard input (default)")
      .option("--topic <TEXT>", "what it is about")
      .option("--deadline <TIME>", "how long to wait for the receipt, at most 1h", "30s")
      .option("--keep <TIME>", "goes on for so long when there is no receipt in time, at most 7d")
      .option("--no-durable", "the receipt does not wait for the receiver's disk")
      .option("--agent <AGENT>", "local agent that sends (default: the node)")
      .option("--status <ID>", "show what became of a message instead")
      .action(async (to, text, options) => {
        const api = client(options);
        if (options.status !== undefined) return finish(options, await api.messageStatus(options.status));
        if (to === undefined) throw new UsageError("TO is missing", "see `weft send --help`");
        const payload = await readPayload(text, MAX_BYTES);
        const view = await whileBusy(() =>
          api.send({
            to,
            ...payload,
            name: options.topic,
            deadlineMs: deadline(options.deadline, "--deadline", HOUR_MS),
            keepMs: options.keep === undefined ? undefined : deadline(options.keep, "--keep", 168 * HOUR_MS),
            durable: options.durable,
            agent: options.agent,
          }),
        );
        finish(options, view);
      }),
  );
}

function finish(options: { readonly json?: true | undefined }, view: SendView): void {
  show(options, view, describe);
  if (view.outcome === "refused") process.exitCode = Exit.FAILURE;
  if (view.outcome === "unknown") process.exitCode = Exit.UNKNOWN;
}

function describe(view: SendView): string {
  const { to, outcome, reason, stages } = view;
  if (outcome === "acknowledged") return `${to.name} has it (${milliseconds(stages.totalMs)}, ${path(view.path)})`;
  if (outcome === "refused") return `${to.name} does not have it: ${reason}`;
  const more = view.queued ? "; it is still being delivered" : view.final ? "" : "; it is being found out";
  return `nobody knows whether ${to.name} has it: ${reason}${more} (weft send --status ${view.id})`;
}
