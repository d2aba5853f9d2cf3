/** Routes of direct messages, requests, inboxes and trust. Source: docs/guide.md, "The local API". */
import * as z from "zod/mini";
import { WeftError } from "../../base/errors.ts";
import { base64, flag, nodeReference, OBJECT, oneOf, text, whole } from "../fields.ts";
import type { NodeControl } from "../control.ts";
import type {
  DirectControl,
  InboxMessageView,
  InboxView,
  OutgoingView,
  RequestView,
  SendArguments,
  SendView,
  ServedRequestView,
  TrustView,
} from "./direct-control.ts";
import { agentOf, defineRoute, defineStream, need } from "./route.ts";
import type { AnyRoute, Caller, StoredEvent } from "./route.ts";

const MAX_PAYLOAD_BYTES = 1_048_576;
const MAX_BODY_BYTES = 6_400_000;
const MAX_DEADLINE_MS = 3_600_000;
const MAX_KEEP_MS = 604_800_000;
const SERVICE_LINGER_MS = 15_000;

const node = z.object({ id: z.string(), name: z.string() });
const sendView: z.ZodMiniType<SendView> = z.object({
  id: z.string(),
  to: node,
  outcome: z.enum(["acknowledged", "refused", "unknown"]),
  reason: z.nullable(z.string()),
  final: z.boolean(),
  queued: z.boolean(),
  attempts: z.number(),
  path: z.object({
    kind: z.enum(["direct", "relay", "transit", "none"]),
    endpoint: z.nullable(z.string()),
    via: z.nullable(z.string()),
  }),
  stages: z.object({
    openMs: z.nullable(z.number()),
    writeMs: z.nullable(z.number()),
    admitMs: z.nullable(z.number()),
    commitMs: z.nullable(z.number()),
    answerMs: z.nullable(z.number()),
    totalMs: z.nullable(z.number()),
  }),
  clippedDeadlineMs: z.nullable(z.number()),
});
const outgoingView: z.ZodMiniType<OutgoingView> = z.object({
  id: z.string(),
  to: node,
  state: z.enum(["delivering", "asking"]),
  attempts: z.number(),
  bytes: z.number(),
  createdAt: z.string(),
});
const requestView: z.ZodMiniType<RequestView> = z.object({
  id: z.string(),
  outcome: z.enum(["answered", "failed", "refused", "unknown"]),
  reason: z.nullable(z.string()),
  payload: z.nullable(z.string()),
  text: z.nullable(z.string()),
  totalMs: z.number(),
});
const messageView: z.ZodMiniType<InboxMessageView> = z.object({
  sequence: z.number(),
  id: z.string(),
  from: node,
  fromAgent: z.nullable(z.string()),
  name: z.string(),
  payload: z.string(),
  text: z.nullable(z.string()),
  sentAt: z.string(),
  receivedAt: z.string(),
  durable: z.boolean(),
});
const inboxView: z.ZodMiniType<InboxView> = z.object({
  agent: z.string(),
  messages: z.number(),
  bytes: z.number(),
  cursor: z.number(),
  last: z.number(),
});
const servedView: z.ZodMiniType<ServedRequestView> = z.object({
  key: z.string(),
  from: node,
  fromAgent: z.nullable(z.string()),
  name: z.string(),
  payload: z.string(),
  text: z.nullable(z.string()),
  leftMs: z.number(),
});
const TRUST_NAMES = ["blocked", "unknown", "known", "trusted"] as const;
const trustView: z.ZodMiniType<TrustView> = z.object({ node, trust: z.enum(TRUST_NAMES) });

const agent = z.optional(text(128, 1));
const id = text(64, 1);
const sequence = whole(0, Number.MAX_SAFE_INTEGER);
const payload = { text: z.optional(text(MAX_PAYLOAD_BYTES)), payload: z.optional(base64(MAX_PAYLOAD_BYTES)) };
const sendBody = z.strictObject(
  {
    to: nodeReference(),
    from: agent,
    name: z.optional(text(128)),
    ...payload,
    deadlineMs: z.optional(whole(1, MAX_DEADLINE_MS)),
    durable: z.optional(flag()),
    keepMs: z.optional(whole(0, MAX_KEEP_MS)),
  },
  OBJECT,
);
const requestBody = z.strictObject(
  {
    to: nodeReference(),
    from: agent,
    name: text(128, 1),
    ...payload,
    deadlineMs: z.optional(whole(1, MAX_DEADLINE_MS)),
  },
  OBJECT,
);

const of = (control: NodeControl): DirectControl => need(control.messaging?.direct, "direct messages");

/** @throws WeftError BAD_REQUEST when there is not exactly one of them */
function bytesOf(body: { text?: string | undefined; payload?: string | undefined }): Uint8Array {
  if ((body.text === undefined) === (body.payload === undefined))
    throw new WeftError("BAD_REQUEST", "what is sent is either text or payload", "give one of them");
  return body.payload === undefined ? new TextEncoder().encode(body.text) : Uint8Array.fromBase64(body.payload);
}

function argumentsOf(caller: Caller, body: z.output<typeof sendBody>): SendArguments {
  const { from, to, name = "", deadlineMs, durable, keepMs } = body;
  return { from: agentOf(caller, from), to, name, payload: bytesOf(body), deadlineMs, durable, keepMs };
}

function eventOf(message: InboxMessageView): StoredEvent {
  return { event: "message", data: message, id: String(message.sequence) };
}

export const DIRECT_ROUTES: readonly AnyRoute[] = [
  defineRoute({
    method: "POST",
    path: "/v1/messages",
    scope: "send",
    summary: "Sends a message to a node or agent and waits for its outcome: acknowledged, refused or unknown.",
    body: sendBody,
    response: sendView,
    maxBodyBytes: MAX_BODY_BYTES,
    handler: ({ control, caller, body }) => of(control).send(argumentsOf(caller, body)),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/messages",
    scope: "read",
    summary: "Messages of this node that have no outcome yet, the outbox included; at most 1,000.",
    response: z.object({ messages: z.array(outgoingView) }),
    handler: ({ control, caller }) => ({ messages: of(control).outgoing(caller.agent) }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/messages/:id",
    scope: "send",
    summary: "What is known of a message that was sent.",
    params: z.strictObject({ id }, OBJECT),
    response: sendView,
    handler: ({ control, caller, params }) => {
      const found = of(control).status(params.id, caller.agent);
      if (found === undefined)
        throw new WeftError(
          "MESSAGE_UNKNOWN",
          `nothing is known of the message ${params.id}`,
          "outcomes are kept for a day",
        );
      return found;
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/requests",
    scope: "send",
    summary: "Asks a service of a node or agent and waits for its answer; hanging up cancels it.",
    body: requestBody,
    response: requestView,
    maxBodyBytes: MAX_BODY_BYTES,
    handler: ({ control, caller, body, signal }) => of(control).request(argumentsOf(caller, body), signal),
  }),
  defineStream({
    path: "/v1/services/:name/requests",
    scope: "inbox",
    summary: "Serves requests of that name: each comes as an event and is answered by its key.",
    params: z.strictObject({ name: text(128, 1) }, OBJECT),
    query: z.strictObject({ agent }, OBJECT),
    events: { request: servedView, cancelled: z.object({ key: z.string() }) },
    open: ({ control, caller, params, query }) => {
      const as = agentOf(caller, query.agent);
      return {
        kind: "live",
        key: `services/${as}/${params.name}`,
        // its name is taken, and requests wait in vain, as long as it goes on without a client
        lingerMs: SERVICE_LINGER_MS,
        start: (emit) =>
          of(control).serve(
            as,
            params.name,
            (request) => emit({ event: "request", data: request }),
            (key) => emit({ event: "cancelled", data: { key } }),
          ),
      };
    },
  }),
  defineRoute({
    method: "POST",
    path: "/v1/responses",
    scope: "inbox",
    summary: "Answers a request that is served here.",
    body: z.strictObject({ key: text(256, 1), ...payload, failed: z.optional(flag()) }, OBJECT),
    response: z.object({ key: z.string(), /* false: nobody waits for it any more */ taken: z.boolean() }),
    maxBodyBytes: MAX_BODY_BYTES,
    handler: ({ control, caller, body }) => ({
      key: body.key,
      taken: of(control).respond(body.key, bytesOf(body), body.failed ?? false, caller.agent),
    }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/inboxes",
    scope: "read",
    summary: "Inboxes of this node and how full they are.",
    response: z.object({ inboxes: z.array(inboxView) }),
    handler: ({ control, caller }) => ({ inboxes: of(control).inboxes(caller.agent) }),
  }),
  defineRoute({
    method: "GET",
    path: "/v1/inbox",
    scope: "inbox",
    summary: "A page of an inbox, from the cursor or behind a given message.",
    query: z.strictObject({ agent, after: z.optional(sequence), limit: z.optional(whole(1, 999)) }, OBJECT),
    response: z.object({ messages: z.array(messageView), cursor: z.number(), more: z.boolean() }),
    handler: ({ control, caller, query }) =>
      of(control).inbox(agentOf(caller, query.agent), query.after, query.limit ?? 100),
  }),
  defineRoute({
    method: "POST",
    path: "/v1/inbox/acknowledge",
    scope: "inbox",
    summary: "Everything up to a message is done with and forgotten; answered when that is on disk.",
    body: z.strictObject({ agent, upTo: sequence }, OBJECT),
    response: inboxView,
    handler: ({ control, caller, body }) => of(control).acknowledge(agentOf(caller, body.agent), body.upTo),
  }),
  defineStream({
    path: "/v1/inbox/messages",
    scope: "inbox",
    summary: "Messages of an inbox from the cursor on, as they come; they stay until they are acknowledged.",
    query: z.strictObject({ agent }, OBJECT),
    events: { message: messageView },
    open: ({ control, caller, query }) => {
      const as = agentOf(caller, query.agent);
      const direct = of(control);
      return {
        kind: "stored",
        read: async (after, limit) => {
          const from = after === undefined || !/^\d{1,16}$/.test(after) ? undefined : Number(after);
          const page = await direct.inbox(as, from, Math.max(1, Math.min(999, limit)));
          return { events: page.messages.map(eventOf) };
        },
        watch: (more) => direct.watchInbox(as, more),
      };
    },
  }),
  defineRoute({
    method: "GET",
    path: "/v1/trust",
    scope: "read",
    summary: "How this node regards those it writes to or hears from.",
    response: z.object({ nodes: z.array(trustView) }),
    handler: ({ control }) => ({ nodes: of(control).trust() }),
  }),
  defineRoute({
    method: "PUT",
    path: "/v1/trust",
    scope: "admin",
    summary: "Blocks a node, or calls it known or trusted; answered when that is on disk.",
    body: z.strictObject({ node: nodeReference(), trust: oneOf(TRUST_NAMES) }, OBJECT),
    response: trustView,
    handler: ({ control, body }) => of(control).setTrust(body.node, body.trust),
  }),
];
