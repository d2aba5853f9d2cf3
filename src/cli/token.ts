/** weft token: bearer tokens for programs that reach the local API over TCP. */
import type { Command } from "@commander-js/extra-typings";
import { SCOPES } from "../api/messaging/route.ts";
import type { Scope } from "../api/messaging/route.ts";
import type { NewTokenView, TokenView } from "../api/token-control.ts";
import { add, client, createCommand, duration, print, show, UsageError } from "./context.ts";
import { table } from "./format.ts";

const DAY_MS = 86_400_000;
const EXAMPLE = `$ weft token create dashboard --scope read
$ weft token create bot --scope send --scope inbox --agent helper --expires 30d --json | jq -r .token > bot.token
$ weft token list
$ weft token revoke bot

A token works where weft.toml says [api] listen = "127.0.0.1:9339"; the unix socket needs none.
Scopes: ${SCOPES.join(", ")} (admin includes all).`;

export function register(program: Command): void {
  const token = createCommand("token", "make, list and revoke tokens for the local API", EXAMPLE)
    .enablePositionalOptions()
    .action((options) => list(options));
  token.addCommand(creating());
  token.addCommand(createCommand("list", "list the tokens", "$ weft token list").action((options) => list(options)));
  token.addCommand(revoking());
  add(program, token);
}

function creating(): Command {
  const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];
  return createCommand("create", "make a token; it is shown this one time", EXAMPLE)
    .argument("<NAME>", "what it is for")
    .option("--scope <SCOPE>", "what it may do; may be repeated (default: read)", collect)
    .option("--agent <AGENT>", "the only agent it may act as")
    .option("--expires <TIME>", "how long it is valid: 1h, 30d (default: until it is revoked)")
    .action(async (name, options) => {
      const scopes = (options.scope ?? ["read"]).map((wanted) => {
        const scope = SCOPES.find((known) => known === wanted);
        if (scope === undefined)
          throw new UsageError(`--scope "${wanted}" is no scope`, `use some of ${SCOPES.join(", ")}`);
        return scope satisfies Scope;
      });
      const expiresMs = options.expires === undefined ? undefined : duration(options.expires, "--expires");
      if (expiresMs !== undefined && (expiresMs < 1000 || expiresMs > 3650 * DAY_MS))
        throw new UsageError(`--expires ${options.expires} is not between 1 s and 3650 d`, "correct it");
      const made = await client(options).createToken({
        name,
        scopes,
        agent: options.agent,
        expiresSeconds: expiresMs === undefined ? undefined : Math.round(expiresMs / 1000),
      });
      show(options, made, (view: NewTokenView) => view.token);
    }) as unknown as Command;
}

function revoking(): Command {
  return createCommand("revoke", "end a token at once", "$ weft token revoke bot")
    .argument("<TOKEN>", "its name or id")
    .action(async (id, options) => {
      show(options, await client(options).revokeToken(id), (view: TokenView) => `the token ${view.name} is void`);
    }) as unknown as Command;
}

async function list(options: { readonly state?: string | undefined; readonly json?: true | undefined }): Promise<void> {
  const found = await client(options).tokens();
  if (options.json === true) return print(JSON.stringify(found, null, 2));
  if (found.tokens.length > 0) {
    const rows = found.tokens.map((view) => [
      view.id,
      view.name,
      view.scopes.join(","),
      view.agent ?? "any",
      view.expiresAt?.slice(0, 10) ?? "never",
      view.lastUsedAt?.slice(0, 16).replace("T", " ") ?? "not in this run",
    ]);
    print(table(["ID", "NAME", "SCOPES", "AGENT", "EXPIRES", "USED"], rows));
  } else print("there is no token");
  print(
    found.address === null
      ? 'The daemon listens on its unix socket alone; tokens need [api] listen = "127.0.0.1:9339" in weft.toml.'
      : `The daemon listens on http://${found.address}.`,
  );
}
