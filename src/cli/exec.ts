/**
 * weft exec: runs a program of another node that its configuration allows. Standard input goes with it when it is a pipe or a file; output and
 * exit code come back as if it ran here.
 */
import { fstatSync } from "node:fs";
import type { Command } from "@commander-js/extra-typings";
import type { ExecExit, ExecOutput, ExecStarted } from "../api/messaging/exec-control.ts";
import type { WeftClient } from "../client/client.ts";
import { WeftError } from "../base/errors.ts";
import { add, client, createCommand, Exit, print, show } from "./context.ts";
import { oneLine } from "./terminal.ts";

const EXAMPLE = `$ weft exec nas                        # what this node may run there
$ weft exec nas uptime
$ tar c photos | weft exec nas store    # standard input goes with it
$ weft exec nas log -- -n 20            # behind -- options are the program's

On the other node, in weft.toml:  [exec.uptime]
                                  run = ["/usr/bin/uptime"]
                                  peers = ["laptop"]`;

const WAIT_MS = 25_000;
const INPUT_BYTES = 32_768;
const SIGNAL_EXIT = 128;

export function register(program: Command): void {
  add(
    program,
    createCommand("exec", "run an allowed program of another node", EXAMPLE)
      .argument("<NODE>", "name, id or overlay address")
      .argument("[COMMAND]", "as the node's configuration calls it; none lists")
      .argument("[ARGS...]", "passed as they are, if the configuration lets any")
      .action(async (node, command, args, options) => {
        const api = client(options);
        if (command === undefined) {
          const found = await api.call<{ commands: string[] }>("GET", "/v1/exec", { query: { node } });
          return show(options, found, ({ commands }) =>
            commands.length === 0 ? `this node may run nothing on ${node}` : commands.map(oneLine).join("\n"),
          );
        }
        const input = hasInput();
        const { key } = await api.call<ExecStarted>("POST", "/v1/exec", { body: { node, command, args, input } });
        const stop = (): void => {
          void api.call("POST", "/v1/exec/:key/stop", { params: { key } }).catch(() => undefined);
        };
        process.once("SIGINT", stop);
        process.once("SIGTERM", stop);
        if (input) void feed(api, key).catch(() => undefined);
        const kept = { out: "", err: "" };
        const exit = await follow(api, key, (stream, bytes) => {
          if (options.json === true) kept[stream] += bytes.toString();
          else (stream === "out" ? process.stdout : process.stderr).write(bytes);
        });
        stop();
        process.stdin.destroy();
        if (options.json === true) print(JSON.stringify({ ...exit, ...kept }, null, 2));
        process.exitCode = exit.code ?? (exit.signal === null ? Exit.FAILURE : SIGNAL_EXIT + exit.signal);
        if (exit.reason !== null)
          throw new WeftError(
            "EXEC_FAILED",
            `${node}: ${exit.reason}`,
            `see \`weft exec ${node}\` and the audit lines in its log`,
          );
      }),
  );
}

function hasInput(): boolean {
  try {
    const found = fstatSync(0);
    return found.isFIFO() || found.isFile() || found.isSocket();
  } catch {
    return false;
  }
}

async function follow(
  api: WeftClient,
  key: string,
  take: (stream: "out" | "err", bytes: Buffer) => void,
): Promise<ExecExit> {
  for (let after = 0; ;) {
    const { chunks, next, exit } = await api.call<ExecOutput>("GET", "/v1/exec/:key", {
      params: { key },
      query: { after, waitMs: WAIT_MS },
    });
    after = next;
    for (const { stream, data } of chunks) take(stream, Buffer.from(data, "base64"));
    if (exit !== null) return exit;
  }
}

async function feed(api: WeftClient, key: string): Promise<void> {
  const post = (data: string, end: boolean): Promise<unknown> =>
    api.call("POST", "/v1/exec/:key/input", { params: { key }, body: { data, end } });
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; at += INPUT_BYTES)
      await post(chunk.subarray(at, at + INPUT_BYTES).toString("base64"), false);
  }
  await post("", true);
}
