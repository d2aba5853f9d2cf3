/** What the local API may ask about direct messages, requests, inboxes and trust. Fields may be added, never renamed. */
import type { PathView } from "../control.ts";

export interface NodeRef {
  readonly id: string;
  readonly name: string;
}

/** Milliseconds; null when the message did not get that far, or nothing is known of it (any more). */
export interface StagesView {
  readonly openMs: number | null;
  readonly writeMs: number | null;
  readonly admitMs: number | null;
  readonly commitMs: number | null;
  readonly answerMs: number | null;
  readonly totalMs: number | null;
}

/** There are three outcomes and no fourth. */
export interface SendView {
  readonly id: string;
  readonly to: NodeRef;
  /** acknowledged: the receiver has it · refused: certainly not delivered · unknown: nobody can say (yet) */
  readonly outcome: "acknowledged" | "refused" | "unknown";
  /** null when acknowledged; else busy, blocked, expired, no-such-peer, no-answer, … */
  readonly reason: string | null;
  /** False: ask for the status later. */
  readonly final: boolean;
  /** Still being delivered, from the outbox. */
  readonly queued: boolean;
  readonly attempts: number;
  readonly path: PathView;
  readonly stages: StagesView;
  /** The deadline that was used when it is not the one asked for. */
  readonly clippedDeadlineMs: number | null;
}

export interface SendArguments {
  /** Agent of this node that sends; "node" is the node itself. */
  readonly from: string;
  /** Name, id or address of a member; "AGENT@NODE" for an agent of it. */
  readonly to: string;
  /** What it is about, or the name of what is asked. */
  readonly name: string;
  readonly payload: Uint8Array;
  readonly deadlineMs?: number | undefined;
  readonly durable?: boolean | undefined;
  readonly keepMs?: number | undefined;
}

export interface OutgoingView {
  readonly id: string;
  readonly to: NodeRef;
  /** delivering: it still may arrive · asking: its deadline has passed, the peer is asked what became of it */
  readonly state: "delivering" | "asking";
  readonly attempts: number;
  readonly bytes: number;
  readonly createdAt: string;
}

export interface RequestView {
  readonly id: string;
  /** answered: by the service · failed: by the service, the payload says why · refused: certainly not run · unknown: nobody can say */
  readonly outcome: "answered" | "failed" | "refused" | "unknown";
  readonly reason: string | null;
  /** base64; null without an answer. */
  readonly payload: string | null;
  /** The same as text; null when it is not UTF-8. */
  readonly text: string | null;
  readonly totalMs: number;
}

export interface InboxMessageView {
  /** Position in the inbox; acknowledge the last one that was worked on. */
  readonly sequence: number;
  /** The same for sender and receiver, and never twice in an inbox. */
  readonly id: string;
  readonly from: NodeRef;
  /** Key of the sending agent, null: the node itself. */
  readonly fromAgent: string | null;
  readonly name: string;
  /** base64 */
  readonly payload: string;
  readonly text: string | null;
  /** RFC 3339, by the sender's clock. */
  readonly sentAt: string;
  readonly receivedAt: string;
  readonly durable: boolean;
}

export interface InboxView {
  readonly agent: string;
  readonly messages: number;
  readonly bytes: number;
  /** Everything up to it was acknowledged. */
  readonly cursor: number;
  /** The last message that can be read. */
  readonly last: number;
}

export interface InboxPage {
  readonly messages: readonly InboxMessageView[];
  readonly cursor: number;
  /** There are more than the limit. */
  readonly more: boolean;
}

/** A request of a peer that runs here. */
export interface ServedRequestView {
  /** For the response. */
  readonly key: string;
  readonly from: NodeRef;
  readonly fromAgent: string | null;
  readonly name: string;
  readonly payload: string;
  readonly text: string | null;
  /** Nobody waits longer. */
  readonly leftMs: number;
}

export type TrustName = "blocked" | "unknown" | "known" | "trusted";

export interface TrustView {
  readonly node: NodeRef;
  readonly trust: TrustName;
}

export interface DirectControl {
  /** Resolves with an outcome, at the deadline at the latest. @throws WeftError NODE_UNKNOWN, AGENT_UNKNOWN */
  send(message: SendArguments): Promise<SendView>;
  /**
   * Undefined: not known here (any more).
   * @param id of a SendView @param agent only if that agent sent it, in this run of the daemon
   */
  status(id: string, agent?: string): SendView | undefined;
  /** Without an outcome, at most 1,000. @param agent only those that it sent, in this run of the daemon */
  outgoing(agent?: string): readonly OutgoingView[];
  /** @param signal cancels it @throws WeftError NODE_UNKNOWN, AGENT_UNKNOWN */
  request(request: SendArguments, signal: AbortSignal): Promise<RequestView>;
  /** @param agent its inbox alone @throws WeftError AGENT_UNKNOWN */
  inboxes(agent?: string): readonly InboxView[];
  /** @param after a sequence; undefined: the cursor @param limit 1–1000 @throws WeftError AGENT_UNKNOWN */
  inbox(agent: string, after: number | undefined, limit: number): Promise<InboxPage>;
  /** The application has done with everything up to `upTo`; it is on disk when this resolves. @throws WeftError AGENT_UNKNOWN */
  acknowledge(agent: string, upTo: number): Promise<InboxView>;
  /** @param more called when there may be something new @returns ends it @throws WeftError AGENT_UNKNOWN */
  watchInbox(agent: string, more: () => void): () => void;
  /**
   * Requests of that name come to `listener` from now on.
   * @param cancelled the key of one that nobody waits for any more @returns ends it @throws WeftError SERVICE_TAKEN, AGENT_UNKNOWN
   */
  serve(
    agent: string,
    name: string,
    listener: (request: ServedRequestView) => void,
    cancelled: (key: string) => void,
  ): () => void;
  /** @param agent only if the request is to that agent @returns false when nobody waits for it (any more) @throws WeftError AGENT_UNKNOWN */
  respond(key: string, payload: Uint8Array, failed: boolean, agent?: string): boolean;
  /** Of every node that was written to or has written. */
  trust(): readonly TrustView[];
  /** On disk when this resolves. @throws WeftError NODE_UNKNOWN */
  setTrust(node: string, trust: TrustName): Promise<TrustView>;
}
