/** weft requests: nodes that wait for an admin's decision. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, show } from "./context.ts";
import { shortId, table } from "./format.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "requests",
      "list the nodes that wait for approval (admins only)",
      "$ weft requests\n$ weft requests --json | jq -r '.requests[].id'",
    ).action(async (options) => {
      show(options, { requests: await client(options).requests() }, ({ requests }) =>
        requests.length === 0
          ? "nobody waits for approval"
          : table(
              ["NODE", "ID", "INVITE", "GETS", "SINCE", "STATE", "VIA"],
              requests.map((request) => [
                request.name,
                shortId(request.id),
                request.invite,
                [...request.roles, ...request.tags.map((tag) => `#${tag}`)].join(" ") || "member",
                request.askedAt.slice(0, 19).replace("T", " "),
                request.waiting ? "waiting" : "gone quiet",
                request.via ?? "–",
              ]),
            ),
      );
    }),
  );
}
