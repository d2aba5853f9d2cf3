/** Routes of the message history. */
import * as z from "zod/mini";
import { OBJECT, text, whole } from "../fields.ts";
import type { HistoryMessageView } from "./history-control.ts";
import { agentOf, defineRoute, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";

export const historyMessage: z.ZodMiniType<HistoryMessageView> = z.object({
  id: z.number(),
  kind: z.string(),
  conversation: z.string(),
  agent: z.string(),
  from: z.object({ id: z.string(), name: z.string() }),
  to: z.nullable(z.object({ id: z.string(), name: z.string() })),
  fromAgent: z.string(),
  at: z.string(),
  text: z.nullable(z.string()),
  payload: z.string(),
});

export const HISTORY_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/history",
    scope: "history",
    summary:
      "Messages of this node and its groups, sent and received, the latest first; with a search text only those that have its words.",
    query: z.strictObject(
      {
        search: z.optional(text(256)),
        agent: z.optional(text(128, 1)),
        before: z.optional(whole(0, Number.MAX_SAFE_INTEGER)),
        limit: z.optional(whole(1, 500)),
      },
      OBJECT,
    ),
    response: z.object({
      messages: z.array(historyMessage),
      kept: z.object({ messages: z.number(), bytes: z.number(), maxMessages: z.number(), maxBytes: z.number() }),
    }),
    handler: async ({ control, caller, query }) => {
      const history = need(control.messaging?.history, "message history");
      const agent = agentOf(caller, query.agent);
      const messages = await history.search(query.search ?? "", agent, query.before, query.limit ?? 50);
      return { messages, kept: history.figures() };
    },
  }),
];
