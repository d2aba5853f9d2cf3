/** weft members: the roster. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, show } from "./context.ts";
import { paint, shortId, table } from "./format.ts";

export function register(program: Command): void {
  add(
    program,
    createCommand(
      "members",
      "list the members of the network",
      "$ weft members\n$ weft members --json | jq '.members[].name'",
    ).action(async (options) => {
      show(options, { members: await client(options).members() }, ({ members }) =>
        table(
          ["MEMBER", "ID", "ADDRESSES", "ROLES", "STATE", "SINCE", "UNTIL"],
          members.map((member) => [
            member.name,
            shortId(member.id),
            member.addresses.join(" "),
            member.roles.join(" "),
            member.self ? "this node" : member.online ? paint("green", "online") : paint("gray", "offline"),
            member.admittedAt.slice(0, 16).replace("T", " "),
            member.expiresAt?.slice(0, 16).replace("T", " ") ?? "–",
          ]),
        ),
      );
    }),
  );
}
