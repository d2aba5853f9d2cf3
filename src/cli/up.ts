/** weft up: runs the daemon in the foreground until SIGINT, SIGTERM or `weft down`. */
import { readFileSync } from "node:fs";
import type { Command } from "@commander-js/extra-typings";
import { stateDirectory } from "../api/paths.ts";
import { add, createCommand, UsageError } from "./context.ts";
import { write } from "./terminal.ts";

const EXAMPLE = `$ weft up
$ weft up --join @token.txt --name laptop
$ printf %s "$TOKEN" | weft up --join - --no-tun --listen 127.0.0.1:0

A token given as an argument is visible to every user of this machine in the list of processes: prefer @FILE or - (standard input).
Prints one line \`ready\` on stdout when the interface is up and, with --join, the roster is there. Logs go to stderr.`;

/** @throws UsageError when the file or standard input cannot be read or is empty */
function readToken(argument: string): string {
  const source = argument === "-" ? 0 : argument.startsWith("@") ? argument.slice(1) : undefined;
  if (source === undefined) return argument.trim();
  let text: string;
  try {
    text = readFileSync(source, "utf8").trim();
  } catch (error) {
    throw new UsageError(
      `cannot read the token: ${(error as Error).message}`,
      "give --join TOKEN, --join @FILE or --join - for standard input",
    );
  }
  if (text === "")
    throw new UsageError(
      `${source === 0 ? "standard input" : source} holds no token`,
      "take the one that `weft invite` printed",
    );
  return text;
}

export function register(program: Command): void {
  const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];
  add(
    program,
    createCommand("up", "run the daemon in the foreground", EXAMPLE)
      .option("--join <TOKEN|-|@FILE>", "join the network of this invite first")
      .option("--name <NODE>", "name of this node (default: the host's name)")
      .option(
        "--listen <ADDR:PORT>",
        "underlay address to listen on; may be repeated (default: port 9338 on all)",
        collect,
      )
      .option("--tun <NAME>", "name of the interface (default: weft0)")
      .option("--no-tun", "agent node: no interface, no privilege needed")
      .option(
        "--endpoint <HOST:PORT|URL>",
        "where others reach this node, or a wss:// URL for channels; may be repeated",
        collect,
      )
      .option("--log <LEVEL>", "debug, info, warn or error (default: info)")
      .action(async (options) => {
        const token = options.join === undefined ? undefined : readToken(options.join);
        const { LOG_LEVELS } = await import("../node/log.ts");
        const level = LOG_LEVELS.find((known) => known === options.log);
        if (options.log !== undefined && level === undefined)
          throw new UsageError(`--log "${options.log}" is no level`, `use one of ${LOG_LEVELS.join(", ")}`);
        const { runDaemon } = await import("../node/daemon.ts");
        process.exitCode = await runDaemon({
          stateDirectory: stateDirectory(options.state),
          token,
          overrides: {
            name: options.name,
            listen: options.listen,
            endpoints: options.endpoint,
            tun: options.tun,
            logLevel: level,
          },
          onReady: (status) =>
            write(
              options.json === true
                ? `${JSON.stringify({ ready: true, node: status.node, network: status.network })}\n`
                : "ready\n",
            ),
        });
      }),
  );
}
