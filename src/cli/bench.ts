/** weft bench: the benchmarks of bench/, in network namespaces of their own. */
import type { Command } from "@commander-js/extra-typings";
import { runChild } from "./child.ts";
import { add, createCommand } from "./context.ts";

const EXAMPLE = `$ weft bench tunnel
$ weft bench tunnel --json

Measured on this machine, between network namespaces it makes and removes: TCP with 1, 4 and 8 streams in both directions, UDP with
64 and 1,200 bytes, ping idle and loaded, CPU seconds per GB, resident memory. Running networks are not touched. Needs root.`;

export function register(program: Command): void {
  add(
    program,
    createCommand("bench", "measure the tunnel on this machine", EXAMPLE)
      .argument("[ARGUMENTS...]", "which benchmark and its arguments", ["tunnel"])
      .allowUnknownOption()
      .action(async (args, options) => {
        process.exitCode = await runChild("bench/main.ts", [...args, ...(options.json === true ? ["--json"] : [])]);
      }),
  );
}
