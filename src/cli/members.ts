/** weft members: the members, and changes of what the roster says about one. */
import type { Command } from "@commander-js/extra-typings";
import type { MemberView } from "../api/control.ts";
import { add, client, createCommand, duration, show, UsageError } from "./context.ts";
import { paint, shortId, table } from "./format.ts";

export function register(program: Command): void {
  const members = createCommand(
    "members",
    "list the members of the network, or change one",
    "$ weft members\n$ weft members --json | jq '.members[].name'\n$ weft members set laptop --role admin --tag office",
  )
    // options behind "set" belong to it
    .enablePositionalOptions()
    .action(async (options) => {
      show(options, { members: await client(options).members() }, ({ members: all }) =>
        table(["MEMBER", "ID", "ADDRESSES", "ROLES", "TAGS", "STATE", "SINCE", "UNTIL"], all.map(row)),
      );
    });
  members.addCommand(change());
  add(program, members);
}

function row(member: MemberView): string[] {
  const clash = member.name === member.requestedName ? "" : ` (asked for ${member.requestedName})`;
  return [
    member.name + clash,
    shortId(member.id),
    member.addresses.join(" "),
    member.roles.join(" "),
    member.tags.join(" ") || "–",
    member.self ? "this node" : member.online ? paint("green", "online") : paint("gray", "offline"),
    member.admittedAt.slice(0, 16).replace("T", " "),
    member.expiresAt?.slice(0, 16).replace("T", " ") ?? "–",
  ];
}

function change(): Command {
  const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];
  return createCommand(
    "set",
    "change name, roles, tags or expiry of a member (admins only)",
    "$ weft members set laptop --name desk\n$ weft members set relay1 --role beacon\n$ weft members set guest --expires 7d",
  )
    .argument("<NODE>", "name, id or address")
    .option("--name <NAME>", "new name")
    .option(
      "--role <ROLE>",
      "all its roles from now on: member (none), admin, beacon, router, exit; may be repeated",
      collect,
    )
    .option("--tag <TAG>", "all its tags from now on; may be repeated", collect)
    .option("--no-tags", "no tags any more")
    .option("--expires <TIME>", "the membership ends after 30m, 7d …, or never")
    .action(async (node, options) => {
      const { name, role: roles } = options;
      const tags = options.tags ? options.tag : [];
      if (name === undefined && roles === undefined && tags === undefined && options.expires === undefined)
        throw new UsageError("nothing to change", "give --name, --role, --tag, --no-tags or --expires");
      const expiresAt =
        options.expires === undefined || options.expires === "never"
          ? options.expires
          : new Date(Date.now() + duration(options.expires, "--expires")).toISOString();
      const changed = await client(options).updateMember({ node, name, roles, tags, expiresAt });
      show(options, changed, (member) => `changed ${member.name}`);
    }) as unknown as Command;
}
