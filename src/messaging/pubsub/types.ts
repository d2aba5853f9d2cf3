/**
 * What publish/subscribe takes and gives: names, options, outputs, events, counters. Values only; the machine is pubsub.ts.
 * Source: docs/protocol.md, "Publish/subscribe".
 */
import type { Random } from "../../base/random.ts";

/** A peer as the machines name it: its node id in lower-case hexadecimal. */
export type PeerKey = string;

export const MAX_PAYLOAD_BYTES = 65_536;
/** Eager links of a topic, at most. */
export const MAX_EAGER = 12;
/** Lazy links of a topic, at most. */
export const MAX_LAZY = 10;

/** Who is known to subscribe to what; the directory room keeps it. */
export interface TopicDirectory {
  /** Up to `count` members that subscribe to the topic, chosen at random from a bounded sample; never this node itself. */
  sample(topic: string, count: number): readonly PeerKey[];
}

export interface PubSubDeps {
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  readonly random: Random;
  readonly directory: TopicDirectory;
  /** Signature of this node, purpose "publish". @returns 64 bytes */
  sign(body: Uint8Array): Uint8Array;
  /** @param publisher 32 bytes from a frame: anything may be in it */
  isMember(publisher: Uint8Array): boolean;
  /**
   * Checks a signature, at once or later.
   * @returns the verdict; undefined: it comes through PubSub.verified() with the same id
   */
  verify(id: number, publisher: Uint8Array, body: Uint8Array, signature: Uint8Array): boolean | undefined;
  /** Round trip to a peer; undefined when nothing is known. */
  rttMs(peer: PeerKey): number | undefined;
}

export interface PubSubOptions {
  /** Topics this node takes part in; beyond: TOPIC_LIMIT. @default 1024 */
  readonly maxTopics?: number;
  /** Bytes of messages kept in memory per topic for those who missed them. @default 4194304 */
  readonly cacheBytesPerTopic?: number;
  /** Bytes of messages kept in memory over all topics. @default 67108864 */
  readonly cacheBytes?: number;
  /** Messages kept in memory per topic. @default 8192 */
  readonly cacheMessagesPerTopic?: number;
  /** Bytes of received frames that wait for their turn. @default 8388608 */
  readonly receiveBytes?: number;
  /** Frames that wait for their turn. @default 8192 */
  readonly receiveFrames?: number;
  /** Signatures that are being checked at once. @default 1024 */
  readonly maxVerifying?: number;
  /** Distance between two comparisons of a topic with some neighbour. @default 30000 */
  readonly compareIntervalMs?: number;
  /** Distance between two looks for new neighbours. @default 60000 */
  readonly refreshIntervalMs?: number;
  /** Outputs "retain" and "read" are followed. @default false */
  readonly hasLog?: boolean;
  /** Negative control for tests: everybody known is an eager link, nothing is ever pruned. @default false */
  readonly hasFullView?: boolean;
}

/** Which frames go first, and which are given up first (from the last). */
export const SendPriority = { CONTROL: 0, PUSH: 1, ANSWER: 2, CHATTER: 3 } as const;
export type SendPriority = (typeof SendPriority)[keyof typeof SendPriority];

/** A frame in the transport's hands; given back with PubSub.sent(). */
export interface SendTicket {
  readonly peer: PeerKey;
  /** Hexadecimal topic id. */
  readonly topic: string;
  readonly frame: Uint8Array;
  readonly priority: SendPriority;
  readonly queuedAtMs: number;
  sentAtMs: number;
  isTimedOut: boolean;
  isDone: boolean;
}

export type SendFate = "flushed" | "lost" | "full" | "gone";

export type PubSubOutput =
  | { readonly kind: "send"; readonly ticket: SendTicket }
  /** The subscription has events now and had none before. */
  | { readonly kind: "wake"; readonly subscription: number }
  /** A message that is new here, for the retained log. */
  | { readonly kind: "retain"; readonly message: ReceivedMessage; readonly frame: Uint8Array }
  /** Read these from the retained log, then call PubSub.logRead(). */
  | { readonly kind: "read"; readonly read: LogRead }
  /** Takes part in the topic from now on, or does not any more: for the directory. */
  | { readonly kind: "follow"; readonly topic: string; readonly role: FollowRole }
  | { readonly kind: "unfollow"; readonly topic: string }
  | { readonly kind: "log"; readonly level: "info" | "warn"; readonly text: string };

export type FollowRole = "subscriber" | "volunteer" | "source";

/** Messages that a peer asks for and that are not in memory any more. */
export interface LogRead {
  readonly topic: string;
  readonly ref: string;
  readonly from: number;
  readonly to: number;
  readonly peer: PeerKey;
  /** Clock before which nothing is wanted. */
  readonly since: number;
}

/** A verified message. */
export interface ReceivedMessage {
  readonly topic: string;
  /** 32 bytes, node id */
  readonly publisher: Uint8Array;
  /** 32 bytes, of the agent that published; undefined: the node itself */
  readonly agent: Uint8Array | undefined;
  /** Of the publisher's stream, hexadecimal; with the sequence it names the message in its topic. */
  readonly ref: string;
  /** Of the publisher's stream; sequences start anew in each. */
  readonly epoch: number;
  /** From 1, without holes in an epoch. */
  readonly sequence: number;
  /** Hybrid logical clock, 1/1024 ms since 1970. */
  readonly hlc: number;
  readonly payload: Uint8Array;
  /** Grows with every message that arrives here, also over restarts. */
  readonly cursor: number;
}

export type SubscriberEvent =
  | { readonly kind: "message"; readonly message: ReceivedMessage }
  /** This subscriber was too slow: so many of its oldest events are gone. */
  | { readonly kind: "dropped"; readonly count: number }
  /** Order was asked for, and these are not coming. */
  | {
      readonly kind: "gap";
      readonly publisher: Uint8Array;
      readonly epoch: number;
      readonly from: number;
      readonly to: number;
    }
  /** It wanted to go on after a cursor that is not remembered any more. */
  | { readonly kind: "missed"; readonly after: number };

export interface SubscribeOptions {
  /** Per publisher in sequence, with gaps reported. @default false */
  readonly isOrdered?: boolean;
  /** Events that wait for the subscriber; beyond, its oldest go. @default 1024 */
  readonly maxEvents?: number;
  /** @default 4194304 */
  readonly maxBytes?: number;
  /** Go on after this cursor. */
  readonly after?: number;
}

/** Everything counted; values only grow. */
export interface PubSubCounters {
  published: number;
  publishedBytes: number;
  deliveries: number;
  duplicates: number;
  /** Came after an IWANT. */
  pulled: number;
  /** Came by comparing with a neighbour. */
  recovered: number;
  forwards: number;
  payloadBytesSent: number;
  controlBytesSent: number;
  announced: number;
  wanted: number;
  answered: number;
  notAvailable: number;
  grafts: number;
  graftsRefused: number;
  prunes: number;
  compares: number;
  abandoned: number;
  invalidFrames: number;
  invalidSignatures: number;
  unknownPublishers: number;
  tooOld: number;
  fromFuture: number;
  refused: number;
  unknownTopics: number;
  receiveShedNormal: number;
  receiveShedBulk: number;
  receiveShedChatter: number;
  sendShed: number;
  sendTimeouts: number;
  coolings: number;
  recoveries: number;
  subscriberDropped: number;
  subscriberGaps: number;
  subscriberLate: number;
  streamsForgotten: number;
  cacheEvicted: number;
}

export function newPubSubCounters(): PubSubCounters {
  return {
    published: 0,
    publishedBytes: 0,
    deliveries: 0,
    duplicates: 0,
    pulled: 0,
    recovered: 0,
    forwards: 0,
    payloadBytesSent: 0,
    controlBytesSent: 0,
    announced: 0,
    wanted: 0,
    answered: 0,
    notAvailable: 0,
    grafts: 0,
    graftsRefused: 0,
    prunes: 0,
    compares: 0,
    abandoned: 0,
    invalidFrames: 0,
    invalidSignatures: 0,
    unknownPublishers: 0,
    tooOld: 0,
    fromFuture: 0,
    refused: 0,
    unknownTopics: 0,
    receiveShedNormal: 0,
    receiveShedBulk: 0,
    receiveShedChatter: 0,
    sendShed: 0,
    sendTimeouts: 0,
    coolings: 0,
    recoveries: 0,
    subscriberDropped: 0,
    subscriberGaps: 0,
    subscriberLate: 0,
    streamsForgotten: 0,
    cacheEvicted: 0,
  };
}
