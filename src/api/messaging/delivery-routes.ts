/** Routes that tell why messages get through, or not. */
import * as z from "zod/mini";
import { nodeReference, OBJECT } from "../fields.ts";
import { defineRoute, need } from "./route.ts";
import type { AnyRoute } from "./route.ts";
import type { DeliveryView } from "./control.ts";

const verdict = z.object({ code: z.string(), text: z.string(), remedy: z.string() });
const deliveryView: z.ZodMiniType<DeliveryView> = z.object({
  peer: z.object({ id: z.string(), name: z.string() }),
  delivers: z.boolean(),
  verdict,
  facts: z.array(
    z.object({
      part: z.string(),
      stage: z.string(),
      ok: z.boolean(),
      code: z.string(),
      text: z.string(),
      remedy: z.string(),
      figures: z.record(z.string(), z.number()),
    }),
  ),
});

export const DELIVERY_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/messaging/delivery",
    scope: "read",
    summary: "Why messages do, or do not, get to a peer, stage by stage.",
    query: z.strictObject({ peer: nodeReference() }, OBJECT),
    response: deliveryView,
    handler: ({ control, query }) => need(control.messaging, "messaging").delivery(query.peer),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/messaging/diagnostics",
    scope: "read",
    summary: "Figures of every part of messaging; those that count begin anew with another boot id.",
    response: z.object({ bootId: z.string(), parts: z.record(z.string(), z.unknown()) }),
    handler: ({ control }) => ({
      bootId: control.status().node.bootId,
      parts: need(control.messaging, "messaging").diagnostics(),
    }),
  }),
];
