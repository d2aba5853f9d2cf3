/**
 * The messaging tools for AI agents. Names and descriptions are their interface: they say when to use a tool and what its answer means. Waiting
 * is bounded, because a tool call holds the model.
 */
import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import type { FilesView, TransferView } from "../api/messaging/files-control.ts";
import type { WeftClient } from "../client/client.ts";
import { defineTool } from "./tool.ts";
import type { Tool } from "./tool.ts";

const MAX_WAIT_SECONDS = 60;
const MAX_PAYLOAD_CHARACTERS = 1 << 20;
const MAX_EVENTS = 200;
const POLL_MS = 250;
/** For a stream to stand. */
const OPEN_MS = 10_000;
/** What the daemon has kept for the client comes within this, also without a wait. */
const BUFFERED_MS = 200;
const ENDED: ReadonlySet<TransferView["state"]> = new Set(["done", "failed", "refused", "cancelled"]);

const peer = z.string().min(1).max(256).describe("Name, id or overlay address of a member");
const topic = z.string().min(1).max(128).describe('Name of a topic, such as "builds"');
const text = z.string().describe("What to send, as text");
const agent = z.string().min(1).max(64).optional().describe("Local agent to act as; by default the node itself");
const wait = (seconds: number): z.ZodDefault<z.ZodNumber> => z.number().min(0).max(MAX_WAIT_SECONDS).default(seconds);

interface Heard {
  readonly event: string;
  readonly id: string | undefined;
  readonly data: unknown;
}

/**
 * Reads a stream for a while, which begins when the stream stands.
 * @returns what came, and where to go on
 */
async function listen(
  client: WeftClient,
  path: string,
  given: {
    readonly params?: Readonly<Record<string, string>>;
    readonly query?: Readonly<Record<string, string | undefined>>;
    readonly after: string | null | undefined;
    readonly waitSeconds: number;
    readonly limit: number;
  },
  signal: AbortSignal,
): Promise<{ events: Heard[]; next: string | null }> {
  const events: Heard[] = [];
  let next = given.after ?? null;
  const over = new AbortController();
  let timer = setTimeout(() => over.abort(), OPEN_MS);
  const stop = AbortSignal.any([signal, over.signal]);
  const stream = client.events(path, {
    params: given.params,
    query: given.query,
    lastEventId: given.after ?? undefined,
    signal: stop,
    reconnect: false,
  });
  try {
    for await (const { event, id, data } of stream) {
      next = id ?? next;
      if (event === "ready") {
        clearTimeout(timer);
        timer = setTimeout(() => over.abort(), Math.max(BUFFERED_MS, milliseconds(given.waitSeconds)));
      } else events.push({ event, id, data });
      if (events.length >= given.limit) break;
    }
  } catch (error) {
    if (!stop.aborted) throw error;
  } finally {
    clearTimeout(timer);
  }
  return { events, next };
}

export const TOOLS: readonly Tool[] = [
  defineTool({
    name: "weft_status",
    title: "Node and network",
    description: "This node, its network, and what is not well with a remedy for each.",
    input: z.object({}),
    isReadOnly: true,
    run: async (client) => {
      const { node, network, health } = await client.status();
      return { node, network, health };
    },
  }),
  defineTool({
    name: "weft_peers",
    title: "Members of the network",
    description: "Members with their names, addresses, roles, tags, and whether they are online now.",
    input: z.object({}),
    isReadOnly: true,
    run: async (client) => ({ members: await client.members() }),
  }),
  defineTool({
    name: "weft_why_not_delivered",
    title: "Why messages do not arrive",
    description:
      "Facts about delivery to one member, stage by stage, with one verdict and its remedy. Use it after a refused or unknown outcome.",
    input: z.object({ peer }),
    isReadOnly: true,
    run: (client, { peer }) => client.delivery(peer),
  }),
  defineTool({
    name: "weft_publish",
    title: "Publish to a topic",
    description:
      "Publishes one text to everybody who subscribes to the topic now. There is no receipt; use weft_send for one member and a receipt.",
    input: z.object({ topic, text: text.max(65_536), agent }),
    isReadOnly: false,
    run: (client, { topic, ...message }) => client.publish(topic, message),
  }),
  defineTool({
    name: "weft_subscribe",
    title: "Read a topic",
    description:
      "Subscribes to a topic and returns what is published within the wait. Call it again with `after` = the `next` of the last answer to miss nothing in between (within two minutes). An event `gap` says that something was missed.",
    input: z.object({
      topic,
      after: z.string().max(128).nullish().describe("`next` of the last answer"),
      waitSeconds: wait(10),
      limit: z.number().int().min(1).max(MAX_EVENTS).default(50),
      agent,
    }),
    isReadOnly: true,
    run: (client, { topic, agent, ...given }, signal) =>
      listen(
        client,
        "/v1/topics/:topic/events",
        { ...given, after: given.after, params: { topic }, query: { agent } },
        signal,
      ),
  }),
  defineTool({
    name: "weft_topics",
    title: "Topics",
    description: "Topics that this node takes part in, with figures.",
    input: z.object({}),
    isReadOnly: true,
    run: async (client) => ({ topics: await client.topics() }),
  }),
  defineTool({
    name: "weft_send",
    title: "Send a direct message",
    description:
      "Sends one text to one member (or AGENT@NODE) and waits for its outcome. acknowledged: the receiver has it on disk. refused: certainly not delivered. unknown: it may have arrived or still may; ask weft_message_status later instead of sending it again.",
    input: z.object({
      to: peer,
      text: text.max(MAX_PAYLOAD_CHARACTERS),
      topic: z.string().max(128).optional().describe("What it is about"),
      waitSeconds: wait(20),
      agent,
    }),
    isReadOnly: false,
    run: (client, { topic, waitSeconds, ...message }) =>
      client.send({ ...message, name: topic, deadlineMs: milliseconds(waitSeconds) }),
  }),
  defineTool({
    name: "weft_message_status",
    title: "What became of a message",
    description: "The outcome of a message by the id that weft_send gave.",
    input: z.object({ id: z.string().min(1).max(64) }),
    isReadOnly: true,
    run: (client, { id }) => client.messageStatus(id),
  }),
  defineTool({
    name: "weft_inbox",
    title: "Read the inbox",
    description:
      "Direct messages that are not acknowledged yet, oldest first. With waitSeconds it waits for new ones when there are none. They come again until weft_inbox_done is called with the sequence of the last one that was worked on.",
    input: z.object({
      after: z.number().int().min(0).optional().describe("Only messages behind this sequence"),
      limit: z.number().int().min(1).max(MAX_EVENTS).default(50),
      waitSeconds: wait(0),
      agent,
    }),
    isReadOnly: true,
    run: async (client, { after, limit, waitSeconds, agent }, signal) => {
      const given = { limit, ...(after === undefined ? {} : { after }), ...(agent === undefined ? {} : { agent }) };
      const page = await client.inbox(given);
      if (page.messages.length > 0 || waitSeconds === 0) return page;
      // the first one that comes ends the wait; it and what came with it are in the inbox then
      const from = String(after ?? page.cursor);
      await listen(client, "/v1/inbox/messages", { query: { agent }, after: from, waitSeconds, limit: 1 }, signal);
      return client.inbox(given);
    },
  }),
  defineTool({
    name: "weft_inbox_done",
    title: "Messages are done with",
    description: "Everything in the inbox up to that sequence is done with and will not come again.",
    input: z.object({ upTo: z.number().int().min(0), agent }),
    isReadOnly: false,
    run: (client, { upTo, agent }) => client.acknowledge(upTo, { agent }),
  }),
  defineTool({
    name: "weft_request",
    title: "Ask a service",
    description:
      "Asks the service `name` of one member (or AGENT@NODE) and waits for its answer. refused: it certainly did not run. unknown: it may have run.",
    input: z.object({
      to: peer,
      name: z.string().min(1).max(128).describe("Name of the service"),
      text: text.max(MAX_PAYLOAD_CHARACTERS).default(""),
      waitSeconds: wait(30),
      agent,
    }),
    isReadOnly: false,
    run: (client, { waitSeconds, ...request }, signal) =>
      client.request({ ...request, deadlineMs: milliseconds(waitSeconds) }, signal),
  }),
  defineTool({
    name: "weft_serve_next",
    title: "Wait for a request",
    description:
      "Serves requests named `name`: returns those that came within the wait. Answer each with weft_respond and its key before its leftMs are over. Call it again with `after` = the `next` of the last answer to miss none.",
    input: z.object({
      name: z.string().min(1).max(128),
      after: z.string().max(128).nullish(),
      waitSeconds: wait(20),
      limit: z.number().int().min(1).max(MAX_EVENTS).default(1),
      agent,
    }),
    isReadOnly: true,
    run: (client, { name, agent, ...given }, signal) =>
      listen(
        client,
        "/v1/services/:name/requests",
        { ...given, after: given.after, params: { name }, query: { agent } },
        signal,
      ),
  }),
  defineTool({
    name: "weft_respond",
    title: "Answer a request",
    description: "Answers a request that weft_serve_next returned. taken false: nobody waits for it any more.",
    input: z.object({
      key: z.string().min(1).max(256),
      text: text.max(MAX_PAYLOAD_CHARACTERS),
      failed: z.boolean().default(false),
    }),
    isReadOnly: false,
    run: (client, { key, ...answer }) => client.respond(key, answer),
  }),
  defineTool({
    name: "weft_files",
    title: "Files",
    description: "Files that this node shares, transfers with their progress, and where received files are.",
    input: z.object({}),
    isReadOnly: true,
    run: (client) => client.call<FilesView>("GET", "/v1/files"),
  }),
  defineTool({
    name: "weft_file_get",
    title: "Fetch a file",
    description: "Fetches a file by its id from the members that have it, into the directory for received files.",
    input: z.object({
      id: z.string().min(1).max(64).describe('File id, such as "f1…"'),
      from: z.array(peer).max(32).optional().describe("Members to fetch from; by default all are asked"),
    }),
    isReadOnly: false,
    run: (client, body) => client.call<TransferView>("POST", "/v1/files/get", { body }),
  }),
  defineTool({
    name: "weft_file_status",
    title: "How far a transfer is",
    description:
      "Progress and state of one transfer by its key; with waitSeconds it waits until the transfer has ended.",
    input: z.object({ key: z.string().min(1).max(64), waitSeconds: wait(0) }),
    isReadOnly: true,
    run: async (client, { key, waitSeconds }, signal) => {
      const untilMs = performance.now() + waitSeconds * 1000;
      for (;;) {
        const view = await client.call<TransferView>("GET", "/v1/files/transfers/:key", { params: { key } });
        if (ENDED.has(view.state) || performance.now() >= untilMs || signal.aborted) return view;
        await sleep(POLL_MS, undefined, { signal }).catch(() => undefined);
      }
    },
  }),
];

function milliseconds(seconds: number): number {
  return Math.max(1, Math.round(seconds * 1000));
}
