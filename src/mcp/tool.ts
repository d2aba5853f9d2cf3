/** What a tool is, and how it becomes one of an MCP server: arguments are validated before, errors are told to the model with their remedy. */
import type { McpServer } from "@modelcontextprotocol/server";
import type * as z from "zod";
import { WeftError } from "../base/errors.ts";
import type { WeftClient } from "../client/client.ts";

export interface Tool {
  readonly name: string;
  readonly title: string;
  /** For the model: what it does, when to use it, what the answer means. */
  readonly description: string;
  readonly input: z.ZodObject;
  /** Changes nothing. */
  readonly isReadOnly: boolean;
  readonly run: (client: WeftClient, given: never, signal: AbortSignal) => Promise<object>;
}

export interface ToolOptions {
  /** What `--files-root` names: files below it may be sent and shared; undefined: none. */
  readonly filesRoot?: string | undefined;
}

export function defineTool<S extends z.ZodObject>(
  tool: Omit<Tool, "input" | "run"> & {
    readonly input: S;
    readonly run: (client: WeftClient, given: z.output<S>, signal: AbortSignal) => Promise<object>;
  },
): Tool {
  return tool;
}

export function addTool(server: McpServer, client: WeftClient, tool: Tool): void {
  const run = tool.run as (client: WeftClient, given: unknown, signal: AbortSignal) => Promise<object>;
  server.registerTool(
    tool.name,
    {
      title: tool.title,
      description: tool.description,
      inputSchema: tool.input,
      // what goes to other members reaches beyond this machine
      annotations: { readOnlyHint: tool.isReadOnly, destructiveHint: false, openWorldHint: !tool.isReadOnly },
    },
    async (given, context) => {
      try {
        const value = await run(client, given, context.mcpReq.signal);
        return {
          content: [{ type: "text", text: JSON.stringify(value, null, 2) }],
          structuredContent: value,
        };
      } catch (error) {
        if (!(error instanceof WeftError)) throw error;
        return { isError: true, content: [{ type: "text", text: `${error.code}: ${error.message}; ${error.remedy}` }] };
      }
    },
  );
}
