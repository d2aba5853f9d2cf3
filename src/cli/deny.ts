/** weft deny: turns a waiting node away; every admin then refuses it under the same invite. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, show } from "./context.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "deny",
      "turn a node away that waits for approval (admins only)",
      '$ weft deny laptop --reason "ask Ana for the office network"',
    )
      .argument("<NODE>", "name or id, as `weft requests` shows them")
      .option("--reason <TEXT>", "shown to the node, and written into the roster", "")
      .action(async (node, options) => {
        show(
          options,
          await client(options).deny(node, options.reason),
          (denied) => `denied ${denied.name}; it can ask again with an invite made from now on`,
        );
      }),
  );
}
