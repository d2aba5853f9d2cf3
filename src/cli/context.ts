/** What all commands share: common options, exit codes, the client, output, and the one line an error becomes. */
import { Command } from "@commander-js/extra-typings";
import { WeftClient } from "../client/client.ts";
import { socketPathOf, stateDirectory } from "../api/paths.ts";
import { WeftError } from "../base/errors.ts";
import { notice, write } from "./terminal.ts";

export const Exit = { OK: 0, FAILURE: 1, USAGE: 2, NO_DAEMON: 3, NOT_FOUND: 4, UNKNOWN: 5 } as const;

const EXIT_OF_CODE: Readonly<Record<string, number>> = {
  USAGE: Exit.USAGE,
  BAD_REQUEST: Exit.USAGE,
  CONFIG_INVALID: Exit.USAGE,
  FORWARD_BAD: Exit.USAGE,
  FILE_ID: Exit.USAGE,
  EXEC_BAD: Exit.USAGE,
  DAEMON_DOWN: Exit.NO_DAEMON,
  API_DENIED: Exit.NO_DAEMON,
  NODE_UNKNOWN: Exit.NOT_FOUND,
  REQUEST_UNKNOWN: Exit.NOT_FOUND,
  INVITE_UNKNOWN: Exit.NOT_FOUND,
  KEY_UNKNOWN: Exit.NOT_FOUND,
  TASK_UNKNOWN: Exit.NOT_FOUND,
  TASK_NONE: Exit.NOT_FOUND,
  GROUP_UNKNOWN: Exit.NOT_FOUND,
  AGENT_UNKNOWN: Exit.NOT_FOUND,
  TRANSFER_UNKNOWN: Exit.NOT_FOUND,
  FILE_UNKNOWN: Exit.NOT_FOUND,
  FORWARD_UNKNOWN: Exit.NOT_FOUND,
  MESSAGE_UNKNOWN: Exit.NOT_FOUND,
  TOKEN_UNKNOWN: Exit.NOT_FOUND,
};

export class UsageError extends WeftError {
  constructor(message: string, remedy: string) {
    super("USAGE", message, remedy);
  }
}

/** A type, not an interface: commander wants something with an index signature. */
export type CommonOptions = {
  state?: string | undefined;
  json?: true | undefined;
  debug?: true | undefined;
};

/** A command with the options every command has. @param example shell lines shown at the end of its help */
export function createCommand(name: string, summary: string, example: string): Command<[], CommonOptions> {
  return new Command(name)
    .description(summary)
    .option("--state <DIR>", "state directory (default: /var/lib/weft for root, else $XDG_STATE_HOME/weft)")
    .option("--json", "print JSON")
    .option("--debug", "show a stack trace when something fails")
    .allowExcessArguments(false)
    .addHelpText(
      "after",
      `\nExample:\n${example
        .split("\n")
        .map((line) => `  ${line}`)
        .join("\n")}`,
    );
}

export function add(program: Command, command: { readonly commands: readonly unknown[] }): void {
  program.addCommand(command as unknown as Command);
}

export function client(options: CommonOptions): WeftClient {
  return new WeftClient(socketPathOf(stateDirectory(options.state)));
}

export function print(text: string): void {
  write(`${text}\n`);
}

/** One value for machines or text for people. */
export function show<T>(options: CommonOptions, value: T, human: (value: T) => string): void {
  print(options.json === true ? JSON.stringify(value, null, 2) : human(value));
}

/** Prints the one line (and with --json the same as JSON on stdout). @returns the exit code */
export function reportError(error: unknown, argv: readonly string[]): number {
  const known = error instanceof WeftError ? error : undefined;
  const message = known?.message ?? (error instanceof Error ? error.message : String(error));
  const remedy = known?.remedy ?? "run it again with --debug and report what it prints";
  const code = known?.code ?? "INTERNAL";
  notice(`${message}; ${remedy}`.replace(/\s*\n\s*/g, " "));
  if (argv.includes("--json")) print(JSON.stringify({ error: { code, message, remedy } }, null, 2));
  if (argv.includes("--debug") && error instanceof Error) write(`${error.stack ?? ""}\n`, process.stderr);
  return EXIT_OF_CODE[code] ?? Exit.FAILURE;
}

/** Asks on the terminal; without one `--yes` is needed. @throws UsageError */
export async function confirm(question: string, yes: boolean): Promise<boolean> {
  if (yes) return true;
  if (!process.stdin.isTTY || !process.stderr.isTTY)
    throw new UsageError("this needs a confirmation and there is no terminal to ask on", "add --yes");
  const { createInterface } = await import("node:readline/promises");
  const reader = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await reader.question(`${question} [y/N] `)).trim());
  } finally {
    reader.close();
  }
}

/** A whole number in a range. @throws UsageError naming the option */
export function wholeNumber(text: string, option: string, low: number, high: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < low || value > high)
    throw new UsageError(`${option} "${text}" is no whole number from ${low} to ${high}`, "correct it");
  return value;
}

const DURATION_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** "90s", "15m", "1h", "7d"; a plain number counts seconds. @returns milliseconds @throws UsageError naming the option */
export function duration(text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text);
  if (match === null)
    throw new UsageError(`${option} "${text}" is no duration`, "write for example 30s, 15m, 1h or 7d");
  return Number(match[1]) * DURATION_UNITS[match[2] ?? "s"];
}
