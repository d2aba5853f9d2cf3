/**
 * The `weft` command. Only the file of the command that was asked for is loaded, and that loads its heavy parts when it runs, so
 * that `weft --help` and the short commands start fast.
 */
import { Command, CommanderError } from "@commander-js/extra-typings";
import { weftVersion } from "../api/paths.ts";
import { Exit, reportError, UsageError } from "./context.ts";

interface CommandModule {
  readonly register: (program: Command) => void;
}

const COMMANDS: Readonly<Record<string, () => Promise<CommandModule>>> = {
  init: () => import("./init.ts"),
  up: () => import("./up.ts"),
  down: () => import("./down.ts"),
  leave: () => import("./leave.ts"),
  invite: () => import("./invite.ts"),
  requests: () => import("./requests.ts"),
  approve: () => import("./approve.ts"),
  deny: () => import("./deny.ts"),
  revoke: () => import("./revoke.ts"),
  members: () => import("./members.ts"),
  roster: () => import("./roster.ts"),
  status: () => import("./status.ts"),
  peers: () => import("./peers.ts"),
  presence: () => import("./presence.ts"),
  ip: () => import("./ip.ts"),
  whois: () => import("./whois.ts"),
  ping: () => import("./ping.ts"),
  explain: () => import("./explain.ts"),
  netcheck: () => import("./netcheck.ts"),
  routes: () => import("./routes.ts"),
  exit: () => import("./exit.ts"),
  dns: () => import("./dns.ts"),
  repair: () => import("./repair.ts"),
  agents: () => import("./agents.ts"),
  groups: () => import("./groups.ts"),
  history: () => import("./history.ts"),
  kv: () => import("./kv.ts"),
  tasks: () => import("./tasks.ts"),
  pub: () => import("./pub.ts"),
  sub: () => import("./sub.ts"),
  send: () => import("./send.ts"),
  inbox: () => import("./inbox.ts"),
  request: () => import("./request.ts"),
  trust: () => import("./trust.ts"),
  files: () => import("./files.ts"),
  forward: () => import("./forward.ts"),
  socks: () => import("./socks.ts"),
  exec: () => import("./exec.ts"),
  token: () => import("./token.ts"),
  mcp: () => import("./mcp.ts"),
  doctor: () => import("./doctor.ts"),
  bench: () => import("./bench.ts"),
  demo: () => import("./demo.ts"),
  version: () => import("./version.ts"),
};

const FOOTER = `
Every command takes --state DIR, --json and --help (with an example).

Exit codes:
  0  done
  1  failed; one line on stderr says what and what to do
  2  wrong usage or configuration
  3  no daemon is running, or no permission to talk to it
  4  no such node, request, token …
  5  sent, and nobody knows whether it arrived

A first network:
  $ weft init home                     # on the first machine
  $ weft up &
  $ weft invite                        # prints a token
  $ weft up --join @token.txt          # on the second machine`;

async function main(argv: readonly string[]): Promise<number> {
  const program = new Command("weft")
    .description("One encrypted private network for machines and software agents.")
    .version(weftVersion(), "-V, --version", "print the version")
    // options belong to the command, or the part of one, that they stand behind
    .enablePositionalOptions()
    .configureHelp({ showGlobalOptions: false })
    .addHelpText("after", FOOTER);
  const wanted = argv.find((word) => !word.startsWith("-"));
  const one = wanted === undefined || wanted === "help" ? undefined : COMMANDS[wanted];
  const modules = await Promise.all(one === undefined ? Object.values(COMMANDS).map((load) => load()) : [one()]);
  for (const module of modules) module.register(program);
  for (const command of [program, ...program.commands.flatMap((one) => [one, ...one.commands])]) {
    command.exitOverride().configureOutput({ writeErr: () => undefined, outputError: () => undefined });
  }
  if (argv.length === 0) {
    program.outputHelp();
    return Exit.USAGE;
  }
  try {
    await program.parseAsync(argv, { from: "user" });
    return typeof process.exitCode === "number" ? process.exitCode : Exit.OK;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return Exit.OK;
      const what = error.message.replace(/^error: /, "").replaceAll("\n", " ");
      return reportError(new UsageError(what, `see \`weft ${one === undefined ? "" : `${wanted} `}--help\``), argv);
    }
    return reportError(error, argv);
  }
}

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  // `weft … | head` closes early; that is no failure
  if (error.code === "EPIPE") process.exit(0);
});
process.exitCode = await main(process.argv.slice(2));
