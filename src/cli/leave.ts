/** weft leave: tells the members, forgets the network, keeps the identity. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, confirm, createCommand, Exit, print, show } from "./context.ts";
import { waitUntilGone } from "./down.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand("leave", "leave the network and stop; the identity is kept", "$ weft leave --yes")
      .option("--yes", "do not ask")
      .action(async (options) => {
        const api = client(options);
        const { network, node } = await api.status();
        const last = node.roles.includes("admin") && network.members === 1;
        const question = `${node.name} leaves ${network.name}${last ? ", which ends with it" : ""}. Sure?`;
        if (!(await confirm(question, options.yes === true))) {
          print("nothing was changed");
          process.exitCode = Exit.FAILURE;
          return;
        }
        await api.leave();
        await waitUntilGone(api);
        show(options, { left: network.name }, (result) => `left ${result.left}`);
      }),
  );
}
