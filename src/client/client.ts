/**
 * The typed client of the local API: `weft/client`. The weft command uses it; programs and agents may as well.
 *
 *   import { WeftClient } from "weft/client";
 *   const weft = WeftClient.local();
 *   await weft.send({ to: "nas", text: "done" });
 *   for await (const { event, data } of weft.subscribe("builds")) if (event === "message") console.log(data);
 *
 * Every route of /v1/openapi.json can be reached with `call` and `events`; the methods are the same with types. Errors of the daemon
 * arrive as the same WeftError it threw.
 */
import type { DeliveryView } from "../api/messaging/control.ts";
import type {
  InboxMessageView,
  InboxPage,
  InboxView,
  OutgoingView,
  RequestView,
  SendView,
  ServedRequestView,
  TrustName,
  TrustView,
} from "../api/messaging/direct-control.ts";
import type { PublishView, PubSubPeerView, TopicMessageView, TopicView } from "../api/messaging/pubsub-control.ts";
import { socketPathOf, stateDirectory } from "../api/paths.ts";
import type { ApiEvent, EventOptions } from "./events.ts";
import { NodeClient } from "./node-client.ts";

/** One of the two. */
export interface Payload {
  readonly text?: string | undefined;
  /** base64 */
  readonly data?: string | undefined;
}

/** Acts as a local agent; by default as the node itself, or as the agent of the token. */
interface AsAgent {
  readonly agent?: string | undefined;
}

export interface SendBody extends Payload, AsAgent {
  /** Name, id or address of a member; "AGENT@NODE" for an agent of it. */
  readonly to: string;
  /** What it is about; for a request, the name of what is asked. */
  readonly name?: string | undefined;
  /** How long to wait for an outcome. */
  readonly deadlineMs?: number | undefined;
}

export interface MessageBody extends SendBody {
  /** Acknowledged when it is on the receiver's disk. @default true */
  readonly durable?: boolean | undefined;
  /** Goes on for so long although the caller has been told "unknown". @default 0 */
  readonly keepMs?: number | undefined;
}

/** The daemon answers at the deadline at the latest; this is how much later the client stops to believe that. */
const GRACE_MS = 15_000;
const DEFAULT_DEADLINE_MS = 60_000;

type Follow = Pick<EventOptions, "lastEventId" | "signal" | "reconnect"> & AsAgent;

export class WeftClient extends NodeClient {
  /** The daemon of this machine. @param directory its state directory @default the one of the weft command */
  static local(directory?: string): WeftClient {
    return new WeftClient(socketPathOf(stateDirectory(directory)));
  }

  publish(topic: string, message: Payload & AsAgent): Promise<PublishView> {
    return this.call("POST", "/v1/topics/:topic/messages", { params: { topic }, body: message });
  }

  async topics(): Promise<readonly TopicView[]> {
    return (await this.call<{ topics: TopicView[] }>("GET", "/v1/topics")).topics;
  }

  /**
   * Events `ready`, `message`, and those that say what is missing; lasts over restarts of the daemon.
   * @param options with `ordered`, per publisher in sequence
   */
  subscribe(
    topic: string,
    { agent, ordered, ...options }: Follow & { readonly ordered?: boolean } = {},
  ): AsyncGenerator<ApiEvent<TopicMessageView>> {
    return this.events("/v1/topics/:topic/events", { ...options, params: { topic }, query: { agent, ordered } });
  }

  /** Messages that this node has kept of a topic, in the order of their arrival. @param after cursor of the last one known */
  async retained(topic: string, after = 0, limit = 100): Promise<readonly TopicMessageView[]> {
    const options = { params: { topic }, query: { after, limit } };
    return (await this.call<{ messages: TopicMessageView[] }>("GET", "/v1/topics/:topic/messages", options)).messages;
  }

  /** Scores of the peers in publish/subscribe. */
  async topicPeers(): Promise<readonly PubSubPeerView[]> {
    return (await this.call<{ peers: PubSubPeerView[] }>("GET", "/v1/pubsub/peers")).peers;
  }

  /** Resolves with an outcome, at the deadline at the latest. */
  send(message: MessageBody): Promise<SendView> {
    const { durable, keepMs } = message;
    return this.call("POST", "/v1/messages", {
      body: { ...asked(message), durable, keepMs },
      timeoutMs: patience(message),
    });
  }

  /** What became of a message. @param id of a SendView */
  messageStatus(id: string): Promise<SendView> {
    return this.call("GET", "/v1/messages/:id", { params: { id } });
  }

  /** Messages without an outcome, the outbox included. */
  async outgoing(): Promise<readonly OutgoingView[]> {
    return (await this.call<{ messages: OutgoingView[] }>("GET", "/v1/messages")).messages;
  }

  /** Asks a service of a member. @param signal cancels it there as well */
  request(request: SendBody, signal?: AbortSignal): Promise<RequestView> {
    return this.call("POST", "/v1/requests", { body: asked(request), signal, timeoutMs: patience(request) });
  }

  async inboxes(): Promise<readonly InboxView[]> {
    return (await this.call<{ inboxes: InboxView[] }>("GET", "/v1/inboxes")).inboxes;
  }

  /** @param after sequence; none: what is not acknowledged yet @param limit 1–999 */
  inbox(options: AsAgent & { readonly after?: number; readonly limit?: number } = {}): Promise<InboxPage> {
    return this.call("GET", "/v1/inbox", { query: { ...options } });
  }

  /** Everything up to that sequence is done with, and will not come again. */
  acknowledge(upTo: number, { agent }: AsAgent = {}): Promise<InboxView> {
    return this.call("POST", "/v1/inbox/acknowledge", { body: { upTo, agent } });
  }

  /** Messages as they come, from the first that is not acknowledged; the id of an event is its sequence. */
  followInbox({ agent, ...options }: Follow = {}): AsyncGenerator<ApiEvent<InboxMessageView>> {
    return this.events("/v1/inbox/messages", { ...options, query: { agent } });
  }

  /** Requests of that name come here as long as the loop runs: events `request` and `cancelled`. */
  serve(name: string, { agent, ...options }: Follow = {}): AsyncGenerator<ApiEvent<ServedRequestView>> {
    return this.events("/v1/services/:name/requests", { ...options, params: { name }, query: { agent } });
  }

  /** @param key of a served request @returns `taken` false when nobody waits for it any more */
  respond(key: string, { text, data, failed }: Payload & { readonly failed?: boolean }): Promise<{ taken: boolean }> {
    return this.call("POST", "/v1/responses", { body: { key, text, payload: data, failed } });
  }

  async trust(): Promise<readonly TrustView[]> {
    return (await this.call<{ nodes: TrustView[] }>("GET", "/v1/trust")).nodes;
  }

  setTrust(node: string, trust: TrustName): Promise<TrustView> {
    return this.call("PUT", "/v1/trust", { body: { node, trust } });
  }

  /** Why messages do, or do not, get to a peer. */
  delivery(peer: string): Promise<DeliveryView> {
    return this.call("GET", "/v1/messaging/delivery", { query: { peer } });
  }
}

/** What a message and a request have in common. */
function asked({ to, name, text, data, deadlineMs, agent }: SendBody): object {
  return { to, name, text, payload: data, deadlineMs, from: agent };
}

function patience({ deadlineMs = DEFAULT_DEADLINE_MS }: SendBody): number {
  return deadlineMs + GRACE_MS;
}
