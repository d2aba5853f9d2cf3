/** weft mcp: the messaging tools for AI agents, by the Model Context Protocol over standard input and output. */
import { readFileSync } from "node:fs";
import type { Command } from "@commander-js/extra-typings";
import { WeftError } from "../base/errors.ts";
import { WeftClient } from "../client/client.ts";
import { add, client, createCommand, UsageError } from "./context.ts";
import type { CommonOptions } from "./context.ts";

const EXAMPLE = `$ weft mcp                                    # started by an MCP client, which speaks over stdin and stdout
{ "mcpServers": { "weft": { "command": "weft", "args": ["mcp"] } } }
{ "mcpServers": { "weft": { "command": "weft",
    "args": ["mcp", "--url", "http://127.0.0.1:9339", "--token-file", "/home/me/weft.token", "--files-root", "/home/me/outbox"] } } }

Over the socket it may do everything that you may. With --url it may do what its token allows; make one with
\`weft token create NAME --scope … --agent …\`. The token comes from --token-file or from WEFT_TOKEN, never from the command line.`;

const MAX_TOKEN_BYTES = 4_096;

interface McpOptions extends CommonOptions {
  readonly url?: string | undefined;
  readonly tokenFile?: string | undefined;
}

export function register(program: Command): void {
  add(
    program,
    createCommand("mcp", "serve the messaging tools to AI agents (Model Context Protocol over stdio)", EXAMPLE)
      .option("--url <URL>", "the daemon's [api] listen, with the rights of a token instead of all")
      .option("--token-file <FILE>", "file with the token (default: the environment variable WEFT_TOKEN)")
      .option("--files-root <DIR>", "files below it may be sent and shared; without it none")
      .action(async (options) => {
        const { serveMcp } = await import("../mcp/server.ts");
        const api = mcpClient(options, process.env["WEFT_TOKEN"]);
        // an agent that starts before the daemon learns it here, not at its first call
        await api.status().catch((error: unknown) => {
          // the daemon is there and the token is valid: it need not be one that may read
          if (!(error instanceof WeftError && error.code === "FORBIDDEN" && options.url !== undefined)) throw error;
        });
        serveMcp(api, { filesRoot: options.filesRoot });
        await new Promise((resolve) => process.stdin.once("close", resolve));
      }),
  );
}

/** A token that would not be used is an error: its owner believes in its bounds. @throws UsageError */
export function mcpClient(options: McpOptions, inherited: string | undefined): WeftClient {
  const { url, tokenFile } = options;
  if (url === undefined) {
    if (tokenFile !== undefined || inherited !== undefined)
      throw new UsageError(
        "there is a token and no --url, and over the socket no token bounds what agents may do",
        "add --url http://127.0.0.1:PORT, or leave out --token-file and WEFT_TOKEN",
      );
    return client(options);
  }
  const token = tokenFile === undefined ? inherited : readToken(tokenFile);
  if (token === undefined || token === "")
    throw new UsageError("--url needs a token", "name its file with --token-file, or set WEFT_TOKEN");
  if (!URL.canParse(url)) throw new UsageError(`--url "${url}" is no URL`, "see `weft token list`");
  return new WeftClient({ url, token });
}

function readToken(file: string): string {
  let text: string;
  try {
    text = readFileSync(file, "utf8").trim();
  } catch (cause) {
    throw new UsageError(`cannot read --token-file: ${(cause as Error).message}`, "name a file that you may read");
  }
  if (text.length > MAX_TOKEN_BYTES || !/^[A-Za-z0-9_-]+$/.test(text))
    throw new UsageError(`${file} holds no token`, "write what `weft token create` printed into it, and nothing else");
  return text;
}
