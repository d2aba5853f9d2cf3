/** weft demo: a whole network on this machine. */
import type { Command } from "@commander-js/extra-typings";
import { runChild } from "./child.ts";
import { add, createCommand } from "./context.ts";

const EXAMPLE = `$ weft demo
$ weft demo --once

As root: three hosts in network namespaces behind a router, real daemons, real traffic. Without: three agent nodes on loopback.`;

export function register(program: Command): void {
  add(
    program,
    createCommand("demo", "build a network on this machine and use it", EXAMPLE)
      .option("--once", "end by itself, with exit code 0 or 1")
      .action(async (options) => {
        process.exitCode = await runChild("lab/demo.ts", [
          ...(options.once === true ? ["--once"] : []),
          ...(options.json === true ? ["--json"] : []),
        ]);
      }),
  );
}
