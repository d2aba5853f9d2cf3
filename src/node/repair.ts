/** `weft repair` without a daemon: undoes what a killed one left on this machine, from its journal. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { RepairItem } from "../api/host-control.ts";
import { nullLogger } from "../base/log.ts";
import { Journal, JOURNAL_NAME } from "./journal.ts";
import { StateDirectory } from "./state-dir.ts";
import { describeChange, hostMachine, SystemChanges } from "./system-changes.ts";
import type { Machine } from "./system-changes.ts";

/**
 * Undoes everything, the leak guard too.
 * @param stateDirectory absolute @param run for tests @returns what became of each change, newest first @throws WeftError STATE_LOCKED while a daemon runs
 */
export async function repairMachine(stateDirectory: string, run?: Machine["run"]): Promise<readonly RepairItem[]> {
  if (!existsSync(join(stateDirectory, JOURNAL_NAME))) return [];
  const directory = new StateDirectory(stateDirectory);
  try {
    const machine = run === undefined ? hostMachine() : { ...hostMachine(), run };
    const journal = await Journal.open(stateDirectory, machine.scope);
    try {
      const results = await new SystemChanges({ journal, machine, log: nullLogger }).undo();
      return results.map(({ outcome, change, text }) => ({
        outcome,
        text: outcome === "failed" ? text : describeChange(change),
      }));
    } finally {
      await journal.close();
    }
  } finally {
    directory.close();
  }
}
