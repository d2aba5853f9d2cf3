/**
 * What direct messages and their users tell each other. Three outcomes and no fourth:
 *   acknowledged  the receiver has it on disk (durable), or has admitted it (not durable)
 *   refused       certainly not delivered, now or later
 *   unknown       the deadline has passed; the peer is asked when it is back, and status(id) tells what it said
 * Source: docs/protocol.md, "Direct messages".
 */
import type { StoreOp } from "../store-types.ts";

export const MAX_PAYLOAD_BYTES: number = 1 << 20;
/** Of a request's or message's name, UTF-8. */
export const MAX_NAME_BYTES = 128;
/** Numbers of an incarnation that may be undecided at once, from the lowest to the highest. */
export const WINDOW = 4_096;

export type Outcome = "acknowledged" | "refused" | "unknown";

/** What a receiver says to a number, as it goes over the wire. Those below LATER are final and were on its disk first when the message was durable. */
export const Verdict = {
  ACKNOWLEDGED: 0,
  /** The inbox is full, or too many requests run. */
  BUSY: 1,
  BLOCKED: 2,
  /** The number is known with other bytes. */
  CONFLICT: 3,
  /** Below what the receiver remembers. */
  TOO_OLD: 4,
  TOO_BIG: 5,
  /** It had not come when the sender asked for it: it never will be delivered. */
  EXPIRED: 6,
  NO_INBOX: 7,
  /** Nobody serves requests of this name. */
  NO_SERVICE: 8,
  /** The receiver takes nothing from senders it does not know. */
  NOT_KNOWN: 9,
  /** Not final: the receiver has no room to remember the answer; ask again. */
  LATER: 64,
  /** Not final: the number counts in one run of the receiver, and this is another; the answer's boot is the one that runs. */
  WRONG_BOOT: 65,
  /** The receiver has restarted since and cannot know any more. */
  FORGOTTEN: 66,
} as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

/** Why it was not acknowledged; the first group comes from the receiver, the second from this node. */
export type Reason =
  | "busy"
  | "blocked"
  | "conflict"
  | "too-old"
  | "too-big"
  | "expired"
  | "no-inbox"
  | "no-service"
  | "not-known"
  /** Too much of this node's waits already. */
  | "busy-here"
  | "no-such-peer"
  /** The peer left while the message was on its way. */
  | "peer-gone"
  /** Unknown so far: the peer is asked as soon as it is there. */
  | "no-answer"
  /** Unknown for good: the receiver restarted (not durable), or did not come back in time. */
  | "receiver-restarted"
  | "never-resolved";

const REASONS: readonly (Reason | undefined)[] = [
  undefined,
  "busy",
  "blocked",
  "conflict",
  "too-old",
  "too-big",
  "expired",
  "no-inbox",
  "no-service",
  "not-known",
];

/** @returns undefined for ACKNOWLEDGED and for what is not final */
export function reasonOf(verdict: number): Reason | undefined {
  return REASONS[verdict];
}

export const MessageKind = { MESSAGE: 1, REQUEST: 2, RESPONSE: 3 } as const;
export type MessageKind = (typeof MessageKind)[keyof typeof MessageKind];

export type TrustLevel = "blocked" | "unknown" | "known" | "trusted";
export const TRUST_LEVELS: readonly TrustLevel[] = ["blocked", "unknown", "known", "trusted"];

/** An agent's 32-byte key; undefined: the node itself. */
export type AgentKey = Uint8Array | undefined;

export interface SendRequest {
  /** 32 bytes; this node's own id is a loopback. */
  readonly to: Uint8Array;
  readonly toAgent?: AgentKey;
  readonly fromAgent?: AgentKey;
  /** What it is about; up to MAX_NAME_BYTES of UTF-8. @default "" */
  readonly name?: string;
  /** Up to MAX_PAYLOAD_BYTES; not to be changed any more. */
  readonly payload: Uint8Array;
  /** How long the caller waits for an outcome. 1 ms – 1 h; clipped, and the result says so. @default 30000 */
  readonly deadlineMs?: number;
  /** Acknowledged when it is on the receiver's disk. @default true */
  readonly durable?: boolean;
  /** Durable ones only: goes on for so long although the caller has been told "unknown" (outbox). Up to maxKeepMs. @default 0 */
  readonly keepMs?: number;
}

/** Milliseconds by stage; NaN when it was not reached. */
export interface StageTimings {
  /** Until it was handed to a stream. */
  readonly openMs: number;
  /** Until QUIC had taken it. */
  readonly writeMs: number;
  /** At the receiver: until it was judged. */
  readonly admitMs: number;
  /** At the receiver: until it was on disk. */
  readonly commitMs: number;
  /** What is left: the way there and back. */
  readonly answerMs: number;
  readonly totalMs: number;
}

export interface SendResult {
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly to: Uint8Array;
  readonly outcome: Outcome;
  /** undefined when acknowledged. */
  readonly reason: Reason | undefined;
  /** False: a later status(id) may say more. */
  readonly isFinal: boolean;
  /** It is in the outbox and is still being delivered. */
  readonly isQueued: boolean;
  readonly attempts: number;
  readonly stages: StageTimings;
  /** The deadline that was used, when it is not the one asked for. */
  readonly clippedDeadlineMs: number | undefined;
}

/** What came for an inbox. */
export interface InboxEntry {
  /** Grows within an inbox, also across restarts; gaps mean nothing. */
  readonly sequence: number;
  /** 64 hexadecimal digits of an agent's key, or "" for the node's own. */
  readonly inbox: string;
  /** As the sender's result has it. */
  readonly id: string;
  readonly from: Uint8Array;
  readonly fromAgent: AgentKey;
  readonly name: string;
  readonly payload: Uint8Array;
  /** By the sender's clock. */
  readonly sentWallMs: number;
  readonly receivedWallMs: number;
  readonly durable: boolean;
}

export interface IncomingRequest {
  /** Names it to respond() and in `cancelled`. */
  readonly key: string;
  readonly from: Uint8Array;
  readonly fromAgent: AgentKey;
  readonly toAgent: AgentKey;
  readonly name: string;
  readonly payload: Uint8Array;
  /** When nobody waits for the answer any more, monotonic. */
  readonly deadlineAtMs: number;
}

export type RequestResult =
  | {
      readonly id: string;
      readonly outcome: "answered";
      readonly failed: boolean;
      readonly payload: Uint8Array;
      readonly totalMs: number;
    }
  | { readonly id: string; readonly outcome: "refused" | "unknown"; readonly reason: Reason; readonly totalMs: number };

/** "flushed" and "lost" as the links say; "full" and "gone" when they did not take it. */
export type Fate = "flushed" | "lost" | "full" | "gone";

export type DirectOutput =
  /** Its fate is wanted: handleFate(token). A token of 0 wants none. */
  | {
      readonly kind: "frame";
      readonly to: Uint8Array;
      readonly channel: number;
      readonly frame: Uint8Array;
      readonly token: number;
    }
  /** One transaction; handleCommitted(token) when it is on disk or has failed. */
  | { readonly kind: "commit"; readonly token: number; readonly ops: readonly StoreOp[] }
  | {
      readonly kind: "settled";
      readonly result: SendResult;
      /** The caller has been told before. */ readonly again: boolean;
    }
  | { readonly kind: "delivered"; readonly entry: InboxEntry }
  /** A copy for a mailbox: the peer is away. */
  | { readonly kind: "deposit"; readonly to: Uint8Array; readonly frame: Uint8Array; readonly expiresWallMs: number }
  | { readonly kind: "request"; readonly request: IncomingRequest }
  | { readonly kind: "cancelled"; readonly key: string }
  | { readonly kind: "answered"; readonly result: RequestResult };

export interface DirectOptions {
  /** Messages and bytes of an inbox; one sender may fill half of it. */
  readonly inboxMessages: number;
  readonly inboxBytes: number;
  /** All of this node's messages without an outcome, outbox included. */
  readonly outgoingBytes: number;
  /** May senders that this node does not know write to it? */
  readonly unknownSenders: "accept" | "refuse";
  /** What was not answered so soon goes to the outbox. */
  readonly outboxAfterMs: number;
  /** Longest keepMs. */
  readonly maxKeepMs: number;
  /** How long the fate of an unknown one is asked for. */
  readonly resolveMs: number;
}

export const DIRECT_DEFAULTS: DirectOptions = Object.freeze({
  inboxMessages: 65_536,
  inboxBytes: 256 << 20,
  outgoingBytes: 64 << 20,
  unknownSenders: "accept",
  outboxAfterMs: 250,
  maxKeepMs: 7 * 86_400_000,
  resolveMs: 7 * 86_400_000,
});

/** Values only grow. */
export interface DirectCounters {
  sent: number;
  acknowledged: number;
  refused: number;
  unknown: number;
  resolvedLater: number;
  retries: number;
  delivered: number;
  duplicates: number;
  refusedIncoming: number;
  conflicts: number;
  answersLate: number;
  badFrames: number;
  /** Frames of blocked senders beyond the rate at which they are answered, and numbers that found no room: to be remembered, or on the way to the disk. */
  dropped: number;
  commitsFailed: number;
  requestsOut: number;
  requestsIn: number;
  outboxStored: number;
  outboxRefused: number;
}

export function newDirectCounters(): DirectCounters {
  return {
    sent: 0,
    acknowledged: 0,
    refused: 0,
    unknown: 0,
    resolvedLater: 0,
    retries: 0,
    delivered: 0,
    duplicates: 0,
    refusedIncoming: 0,
    conflicts: 0,
    answersLate: 0,
    badFrames: 0,
    dropped: 0,
    commitsFailed: 0,
    requestsOut: 0,
    requestsIn: 0,
    outboxStored: 0,
    outboxRefused: 0,
  };
}
