/** weft repair: puts back what Weft has changed on this machine. */
import type { Command } from "@commander-js/extra-typings";
import type { RepairItem } from "../api/host-control.ts";
import { stateDirectory } from "../api/paths.ts";
import { WeftError } from "../base/errors.ts";
import { add, client, createCommand, Exit, show } from "./context.ts";

const WORDS: Readonly<Record<string, string>> = {
  undone: "put back",
  gone: "was not there any more",
  foreign: "left: somebody else has changed it since",
  failed: "FAILED",
};

const EXAMPLE = `$ weft repair

Without a daemon: undoes what a killed one has left (routes, rules, kernel parameters, nft tables, resolver configuration) and opens the leak guard.
With one: undoes it and sets everything up again as it should be.`;

export function register(program: Command): void {
  add(
    program,
    createCommand("repair", "put back what Weft has changed on this machine", EXAMPLE).action(async (options) => {
      const items = await repair(options.state, () => client(options).repair());
      show(options, { items }, () =>
        items.length === 0
          ? "nothing to put back"
          : items.map(({ outcome, text }) => `${text}: ${WORDS[outcome] ?? outcome}`).join("\n"),
      );
      if (items.some(({ outcome }) => outcome === "failed")) process.exitCode = Exit.FAILURE;
    }),
  );
}

async function repair(
  state: string | undefined,
  ask: () => Promise<readonly RepairItem[]>,
): Promise<readonly RepairItem[]> {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof WeftError) || error.code !== "DAEMON_DOWN") throw error;
  }
  const { repairMachine } = await import("../node/repair.ts");
  return repairMachine(stateDirectory(state));
}
