/** weft invite: makes a key with which others join. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand, duration, print, UsageError, wholeNumber } from "./context.ts";

export function register(program: Command): void {
  const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];
  add(
    program,
    createCommand(
      "invite",
      "make an invite (admins only): whoever has its token may join",
      "$ weft invite\n$ weft invite --uses 5 --expires 7d --json | jq -r .token > token.txt",
    )
      .option("--uses <N>", "how many nodes may join with it", "1")
      .option("--expires <TIME>", "how long it is valid: 30m, 1h, 7d", "1h")
      .option("--role <ROLE>", "role of those who join: member, admin; may be repeated", collect)
      .option("--no-qr", "no QR code on the terminal")
      .action(async (options) => {
        const expiresSeconds = Math.round(duration(options.expires, "--expires") / 1000);
        if (expiresSeconds < 1 || expiresSeconds > 365 * 86_400)
          throw new UsageError(`--expires ${options.expires} is not between 1 s and 365 d`, "correct it");
        const invite = await client(options).invite({
          uses: wholeNumber(options.uses, "--uses", 1, 10_000),
          expiresSeconds,
          roles: options.role,
        });
        if (invite.warning !== null) process.stderr.write(`weft: ${invite.warning}\n`);
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
        print(
          `\nfor ${invite.uses === 1 ? "one node" : `${invite.uses} nodes`}, until ${invite.expiresAt}. On the other machine: weft up --join -   and paste the token`,
        );
      }),
  );
}
