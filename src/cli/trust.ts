/** weft trust: whose direct messages this node takes. */
import type { Command } from "@commander-js/extra-typings";
import type { TrustName, TrustView } from "../api/messaging/direct-control.ts";
import { add, client, createCommand, show, UsageError } from "./context.ts";
import { table } from "./format.ts";

const LEVELS: readonly TrustName[] = ["blocked", "unknown", "known", "trusted"];
const EXAMPLE = `$ weft trust                       # everybody who wrote or was written to
$ weft trust mallory blocked       # its messages are refused from now on
$ weft trust mallory known`;

export function register(program: Command): void {
  add(
    program,
    createCommand("trust", "see and change whose direct messages this node takes", EXAMPLE)
      .argument("[NODE]", "name, id or address of a member; none lists all")
      .argument("[LEVEL]", LEVELS.join(", "))
      .action(async (node, level, options) => {
        const api = client(options);
        if (node === undefined) {
          const nodes = await api.trust();
          return show(options, { nodes }, describe);
        }
        const trust = LEVELS.find((one) => one === level);
        if (trust === undefined)
          throw new UsageError(`"${level ?? ""}" is no level of trust`, `use one of ${LEVELS.join(", ")}`);
        show(options, await api.setTrust(node, trust), (view) => `${view.node.name} is ${view.trust}`);
      }),
  );
}

function describe({ nodes }: { readonly nodes: readonly TrustView[] }): string {
  if (nodes.length === 0) return "nobody has written to this node, and it has written to nobody";
  const rows = nodes.map(({ node, trust }) => [node.name === "" ? node.id : node.name, trust]);
  return table(["NODE", "TRUST"], rows);
}
