/** weft whois: which member an address, name or id belongs to. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, show } from "./context.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "whois",
      "say which member an address, name or id belongs to",
      "$ weft whois 100.64.0.2\n$ weft whois nas --json",
    )
      .argument("<ADDR|NAME>", "overlay address, name or id")
      .action(async (query, options) => {
        show(options, await client(options).whois(query), (found) =>
          [
            `name       ${found.name}${found.self ? " (this node)" : ""}`,
            `id         ${found.id}`,
            `addresses  ${found.addresses.join("  ")}`,
            `roles      ${found.roles.join(" ")}`,
          ].join("\n"),
        );
      }),
  );
}
