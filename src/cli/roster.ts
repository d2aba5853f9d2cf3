/** weft roster: what all members agree on, in figures; its policy; as text out and in. */
import { readFileSync, writeFileSync } from "node:fs";
import type { Command } from "@commander-js/extra-typings";
import type { WeftClient } from "../client/client.ts";
import type { ImportView, RosterView } from "../api/roster-control.ts";
import { add, client, createCommand, print, show, UsageError } from "./context.ts";
import { age } from "./format.ts";
import { write } from "./terminal.ts";

/** Statements in one request of an import. */
const BATCH = 40;

export function register(program: Command): void {
  const roster = createCommand(
    "roster",
    "show, export or import the signed statements that make up the network",
    "$ weft roster\n$ weft roster export home.roster\n$ weft roster import home.roster\n$ weft roster policy --stale refuse",
  )
    // options behind a subcommand belong to it
    .enablePositionalOptions()
    .action(async (options) => {
      show(options, await client(options).roster(), describe);
    });
  roster.addCommand(exporting());
  roster.addCommand(importing());
  roster.addCommand(policy());
  add(program, roster);
}

function describe(view: RosterView): string {
  const final = view.checkpointAt === null ? "none yet" : view.checkpointAt.slice(0, 19).replace("T", " ");
  const waiting = view.proposals === 0 ? "" : `, ${view.proposals} waiting for other admins`;
  return [
    `network      ${view.network}`,
    `statements   ${view.statements} (${view.voids} without effect), fingerprint ${view.fingerprint}`,
    `confirmed    ${view.ageMs === null ? "not by another member in this run" : `by another member ${age(view.ageMs)} ago`}`,
    `checkpoint   ${final}; ${view.unsettled} statements since${waiting}`,
    `policy       ${view.policy.version === 0 ? "default" : `version ${view.policy.version}`}: stale = ${view.policy.stale}`,
    `user data    ${view.userData}`,
  ].join("\n");
}

function exporting(): Command {
  return createCommand(
    "export",
    "write the whole roster as text",
    "$ weft roster export > home.roster\n$ weft roster export home.roster",
  )
    .argument("[FILE]", "where to (default: standard output)")
    .action(async (file, options) => {
      const text = await client(options).exportRoster();
      const statements = text.split("\n").filter((line) => line.startsWith("statement ")).length;
      if (file === undefined && options.json !== true) {
        write(text);
        return;
      }
      if (file !== undefined) writeFileSync(file, text);
      show(
        options,
        { statements, file: file ?? null, ...(file === undefined ? { text } : {}) },
        () => `${statements} statements written to ${file}`,
      );
    }) as unknown as Command;
}

function importing(): Command {
  return createCommand(
    "import",
    "take statements of this network from a file; every one is verified",
    "$ weft roster import home.roster\n$ ssh other weft roster export | weft roster import -",
  )
    .argument("<FILE>", "as `weft roster export` wrote it; - for standard input")
    .action(async (file, options) => {
      let text: string;
      try {
        text = readFileSync(file === "-" ? 0 : file, "utf8");
      } catch (error) {
        throw new UsageError(
          `cannot read the roster: ${(error as Error).message}`,
          "name a file, or - for standard input",
        );
      }
      const { parseRosterText } = await import("../node/roster-file.ts");
      const { networkId, wires } = parseRosterText(text);
      const result = await importAll(client(options), Buffer.from(networkId).toString("hex"), wires);
      show(options, result, summary);
    }) as unknown as Command;
}

async function importAll(api: WeftClient, network: string, wires: readonly Uint8Array[]): Promise<ImportView> {
  let [added, known, waiting] = [0, 0, 0];
  const refused: Record<string, number> = {};
  for (let at = 0; at < Math.max(1, wires.length); at += BATCH) {
    const batch = wires.slice(at, at + BATCH).map((wire) => Buffer.from(wire).toString("base64"));
    const part = await api.importRoster(network, batch);
    added += part.added;
    known += part.known;
    waiting += part.waiting;
    for (const [why, count] of Object.entries(part.refused)) refused[why] = (refused[why] ?? 0) + count;
  }
  return { added, known, waiting, refused };
}

function summary(result: ImportView): string {
  const lines = [`${result.added} statements taken, ${result.known} were known`];
  if (result.waiting > 0) lines.push(`${result.waiting} wait for statements that are not here`);
  for (const [why, count] of Object.entries(result.refused)) lines.push(`${count} refused: ${why}`);
  return lines.join("\n");
}

function policy(): Command {
  return createCommand(
    "policy",
    "show or set the rules for the whole network (setting: admins only)",
    "$ weft roster policy\n$ weft roster policy --stale refuse     # a node that nobody confirms carries no user data",
  )
    .option("--stale <RULE>", "allow or refuse user data while no other member confirms the roster")
    .action(async (options) => {
      const api = client(options);
      const { stale } = options;
      if (stale !== undefined && stale !== "allow" && stale !== "refuse")
        throw new UsageError(`--stale "${stale}" is no rule`, "use allow or refuse");
      const view = stale === undefined ? (await api.roster()).policy : await api.setPolicy(stale);
      if (options.json === true) print(JSON.stringify(view, null, 2));
      else print(`${view.version === 0 ? "default" : `version ${view.version}`}: stale = ${view.stale}`);
    });
}
