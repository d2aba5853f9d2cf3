/** weft invite: makes a key with which others join; lists and ends those that exist. */
import type { Command } from "@commander-js/extra-typings";
import type { WeftClient } from "../client/client.ts";
import type { InviteInfoView } from "../api/roster-control.ts";
import {
  add,
  client,
  type CommonOptions,
  createCommand,
  duration,
  print,
  show,
  UsageError,
  wholeNumber,
} from "./context.ts";
import { table } from "./format.ts";
import { notice } from "./terminal.ts";

const DAY_MS = 86_400_000;

export function register(program: Command): void {
  const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];
  add(
    program,
    createCommand(
      "invite",
      "make an invite (admins only): whoever has its token may join",
      [
        "$ weft invite",
        "$ weft invite --uses 5 --expires 7d --json | jq -r .token > token.txt",
        "$ weft invite --approve --tag guest     # then: weft requests, weft approve NODE",
        "$ weft invite --list",
        "$ weft invite --end 3f2a9c01",
      ].join("\n"),
    )
      .option("--uses <N>", "how many nodes may join with it", "1")
      .option("--expires <TIME>", "how long it is valid: 30m, 1h, 7d", "1h")
      .option("--role <ROLE>", "role of those who join: member, admin, beacon, router, exit; may be repeated", collect)
      .option("--tag <TAG>", "tag of those who join; may be repeated", collect)
      .option("--approve", "whoever joins with it waits for `weft approve`")
      .option("--member-expires <TIME>", "memberships under it end this long after joining (default: never)")
      .option("--list", "show the invites of this network")
      .option("--end <ID>", "end an invite, so that nobody can join with it any more")
      .option("--no-qr", "no QR code on the terminal")
      .action(async (options) => {
        const api = client(options);
        if (options.list === true) return list(api, options);
        if (options.end !== undefined) return end(api, options, options.end);
        const expiresMs = duration(options.expires, "--expires");
        if (expiresMs < 1000 || expiresMs > 365 * DAY_MS)
          throw new UsageError(`--expires ${options.expires} is not between 1 s and 365 d`, "correct it");
        const lifeMs =
          options.memberExpires === undefined ? undefined : duration(options.memberExpires, "--member-expires");
        if (lifeMs !== undefined && (lifeMs < 1000 || lifeMs > 3650 * DAY_MS))
          throw new UsageError(`--member-expires ${options.memberExpires} is not between 1 s and 3650 d`, "correct it");
        const invite = await api.invite({
          uses: wholeNumber(options.uses, "--uses", 1, 10_000),
          expiresSeconds: Math.round(expiresMs / 1000),
          roles: options.role,
          tags: options.tag,
          approve: options.approve,
          lifeSeconds: lifeMs === undefined ? undefined : Math.round(lifeMs / 1000),
        });
        if (invite.warning !== null) notice(invite.warning);
        if (options.json === true) {
          print(JSON.stringify(invite, null, 2));
          return;
        }
        print(invite.token);
        if (!process.stdout.isTTY) return;
        if (options.qr) {
          const { renderUnicodeCompact } = await import("uqr");
          print(renderUnicodeCompact(invite.token, { ecc: "L" }));
        }
        const whom = invite.uses === 1 ? "one node" : `${invite.uses} nodes`;
        const next = options.approve === true ? "; then here: weft requests" : "";
        print(
          `\ninvite ${invite.id} for ${whom}, until ${invite.expiresAt}. On the other machine: weft up --join -   and paste the token${next}`,
        );
      }),
  );
}

async function list(api: WeftClient, options: CommonOptions): Promise<void> {
  show(options, { invites: await api.invites() }, ({ invites }) =>
    invites.length === 0 ? "no invites" : table(["INVITE", "STATE", "USED", "UNTIL", "GIVES", "BY"], invites.map(row)),
  );
}

function row(invite: InviteInfoView): string[] {
  const gives = [...invite.roles, ...invite.tags.map((tag) => `#${tag}`), ...(invite.approve ? ["(approval)"] : [])];
  const until = (invite.endedAt ?? invite.expiresAt).slice(0, 16).replace("T", " ");
  return [invite.id, invite.state, `${invite.used}/${invite.uses}`, until, gives.join(" ") || "member", invite.issuer];
}

async function end(api: WeftClient, options: CommonOptions, id: string): Promise<void> {
  show(options, await api.endInvite(id, ""), (invite) => `invite ${invite.id} has ended (${invite.state})`);
}
