/** Routes of publish/subscribe. */
import * as z from "zod/mini";
import type { NodeControl } from "../control.ts";
import { flag, OBJECT, payloadOf, payloadShape, text, whole } from "../fields.ts";
import type { PublishView, PubSubControl, PubSubPeerView, TopicMessageView, TopicView } from "./pubsub-control.ts";
import { agentOf, type AnyRoute, defineRoute, defineStream, need } from "./route.ts";

const MAX_PAYLOAD_BYTES = 65_536;
const MAX_BODY_BYTES = 524_288;

const node = z.object({ id: z.string(), name: z.string() });
const topicView: z.ZodMiniType<TopicView> = z.object({
  topic: z.string(),
  role: z.enum(["subscriber", "volunteer", "publisher"]),
  subscribers: z.number(),
  eager: z.number(),
  lazy: z.number(),
  publishers: z.number(),
  cached: z.number(),
  missing: z.number(),
});
const publishView: z.ZodMiniType<PublishView> = z.object({
  id: z.string(),
  topic: z.string(),
  sequence: z.number(),
  neighbours: z.number(),
});
const messageView: z.ZodMiniType<TopicMessageView> = z.object({
  id: z.string(),
  topic: z.string(),
  from: node,
  agent: z.nullable(z.string()),
  sequence: z.number(),
  publishedAt: z.string(),
  cursor: z.number(),
  text: z.nullable(z.string()),
  data: z.string(),
});
const peerView: z.ZodMiniType<PubSubPeerView> = z.object({
  peer: node,
  score: z.number(),
  sends: z.number(),
  timeouts: z.number(),
  firstDeliveries: z.number(),
  invalidFrames: z.number(),
  cooled: z.array(z.string()),
});
const params = z.strictObject({ topic: text(256, 1) }, OBJECT);
const agent = z.optional(text(128, 1));

const of = (control: NodeControl): PubSubControl => need(control.messaging?.pubsub, "publish/subscribe");

export const PUBSUB_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "GET",
    path: "/v1/topics",
    scope: "read",
    summary: "Topics that this node takes part in.",
    response: z.object({ topics: z.array(topicView) }),
    handler: ({ control }) => ({ topics: of(control).topics() }),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/topics/:topic/messages",
    scope: "publish",
    summary: "Publishes one message to everybody who subscribes to the topic.",
    params,
    body: z.strictObject({ ...payloadShape(MAX_PAYLOAD_BYTES), agent }, OBJECT),
    response: publishView,
    maxBodyBytes: MAX_BODY_BYTES,
    handler: ({ control, caller, params, body }) =>
      of(control).publish(agentOf(caller, body.agent), params.topic, payloadOf(body, MAX_PAYLOAD_BYTES)),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/topics/:topic/messages",
    scope: "subscribe",
    summary: "Retained messages of a topic in the order of their arrival here.",
    params,
    query: z.strictObject(
      { after: z.optional(whole(0, Number.MAX_SAFE_INTEGER)), limit: z.optional(whole(1, 1000)), agent },
      OBJECT,
    ),
    response: z.object({ messages: z.array(messageView) }),
    handler: async ({ control, caller, params, query }) => {
      agentOf(caller, query.agent);
      return { messages: await of(control).messages(params.topic, query.after ?? 0, query.limit ?? 100) };
    },
  }),
  defineRoute({
    method: "GET",
    path: "/v1/pubsub/peers",
    scope: "read",
    summary: "What publish/subscribe thinks of the peers: scores, time-outs, topics for which they are spared.",
    response: z.object({ peers: z.array(peerView) }),
    handler: ({ control }) => ({ peers: of(control).peers() }),
  }),
  defineStream({
    path: "/v1/topics/:topic/events",
    scope: "subscribe",
    summary: "Subscribes to a topic for as long as the stream is open; with `ordered`, per publisher in sequence.",
    params,
    query: z.strictObject({ ordered: z.optional(flag()), agent }, OBJECT),
    events: {
      message: messageView,
      missing: z.object({ from: node, first: z.number(), last: z.number() }),
      dropped: z.object({ count: z.number() }),
    },
    open: ({ control, caller, params, query }) => {
      agentOf(caller, query.agent);
      const isOrdered = query.ordered === true;
      return {
        kind: "live",
        key: `topics/${params.topic}/${isOrdered ? "ordered" : "any"}`,
        start: (emit) => of(control).subscribe(params.topic, isOrdered, emit),
      };
    },
  }),
];
