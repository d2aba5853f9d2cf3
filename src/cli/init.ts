/** weft init: creates identity and network; this node becomes its first admin. */
import type { Command } from "@commander-js/extra-typings";
import { stateDirectory } from "../api/paths.ts";
import { add, createCommand, show } from "./context.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "init",
      "create an identity and a network; this node is its first admin",
      "$ weft init home --name nas\n$ weft init office --ipv4 10.20.0.0/16",
    )
      .argument("<NETWORK>", "name of the network: a–z, 0–9 and -")
      .option("--name <NODE>", "name of this node (default: the host's name)")
      .option("--ipv4 <CIDR>", "IPv4 prefix of the network (default: a free /16 of 100.64.0.0/10)")
      .action(async (network, options) => {
        const { initNetwork } = await import("../node/init.ts");
        const result = await initNetwork({
          stateDirectory: stateDirectory(options.state),
          network,
          name: options.name,
          ipv4: options.ipv4,
        });
        show(options, result, (made) =>
          [
            `network ${made.network.name} (${made.network.ipv4}, ${made.network.ipv6}) is ready; this node is ${made.node.name} ${made.node.addresses.join(" ")}`,
            `next: \`weft up\`, then \`weft invite\` for the next machine`,
          ].join("\n"),
        );
      }),
  );
}
