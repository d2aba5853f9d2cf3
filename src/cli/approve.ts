/** weft approve: lets a waiting node in. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, show } from "./context.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "approve",
      "let a node in that waits for approval (admins only)",
      "$ weft requests\n$ weft approve laptop\n$ weft approve w1abcdef --name kitchen",
    )
      .argument("<NODE>", "name or id, as `weft requests` shows them")
      .option("--name <NAME>", "name it gets instead of the one it asked for")
      .action(async (node, options) => {
        show(
          options,
          await client(options).approve(node, options.name),
          (member) => `${member.name} is a member now (${member.addresses.join(", ")})`,
        );
      }),
  );
}
