/** weft revoke: removes a member for good. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, confirm, createCommand, Exit, print, show } from "./context.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "revoke",
      "remove a member (admins only); its sessions end at once",
      '$ weft revoke old-laptop --reason "lost on a train" --yes',
    )
      .argument("<NODE>", "name, id or address")
      .option("--reason <TEXT>", "written into the roster", "")
      .option("--yes", "do not ask")
      .action(async (node, options) => {
        const api = client(options);
        const target = await api.whois(node);
        if (
          !(await confirm(
            `Revoke ${target.name} (${target.addresses.join(", ")})? It can come back only with a fresh identity.`,
            options.yes === true,
          ))
        ) {
          print("nothing was changed");
          process.exitCode = Exit.FAILURE;
          return;
        }
        show(options, await api.revoke(target.id, options.reason), (result) => `revoked ${result.name}`);
      }),
  );
}
