/** weft mcp: the messaging tools for AI agents, by the Model Context Protocol over standard input and output. */
import type { Command } from "@commander-js/extra-typings";
import { add, client, createCommand } from "./context.ts";

const EXAMPLE = `$ weft mcp                                    # started by an MCP client, which speaks over stdin and stdout
{ "mcpServers": { "weft": { "command": "weft", "args": ["mcp"] } } }`;

export function register(program: Command): void {
  add(
    program,
    createCommand("mcp", "serve the messaging tools to AI agents (Model Context Protocol over stdio)", EXAMPLE).action(
      async (options) => {
        const { serveMcp } = await import("../mcp/server.ts");
        const api = client(options);
        // an agent that starts before the daemon learns it here, not at its first call
        await api.status();
        serveMcp(api);
        await new Promise((resolve) => process.stdin.once("close", resolve));
      },
    ),
  );
}
