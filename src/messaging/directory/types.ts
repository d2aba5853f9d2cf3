/**
 * The directory: who subscribes to a topic, and on which node an agent lives. Nobody knows all subscribers; each node knows a bounded, changing, random
 * sample of every topic it follows, so that its traffic depends neither on the number of members nor on that of a topic's subscribers.
 *
 *   key        32 bytes: topicKey(name), or an agent's public key
 *   record     a subscriber's signed, versioned, expiring word that it takes part
 *   meeting    the three members whose ids are nearest to the key by rendezvous hashing: every follower shows its record there and takes a
 *              sample with it. They keep 64 records per topic, and the more ask, the rarer they are told to come again
 *   shuffle    followers exchange eight records of their samples with one of the sample (after Cyclon; Voulgaris, Gavidia, van Steen 2005): once a minute per
 *              topic at first, then every five, and at most four a second over all topics
 *
 * Source: docs/protocol.md, "Directory".
 */
import type { Random } from "../../base/random.ts";
import type { Liveness, Signing } from "../membership/types.ts";

export const KEY_BYTES = 32;
/** UTF-8 bytes of a topic's name. */
export const MAX_TOPIC_BYTES = 256;

/** What a follower of a topic is to the others. */
export const TopicRole = {
  /** Takes part and is found. */
  SUBSCRIBER: 1,
  /** Carries the topic without wanting it; is found. */
  VOLUNTEER: 2,
  /** Only looks for subscribers, to publish to them; is not found and signs nothing. */
  VISITOR: 0,
} as const;
export type TopicRole = (typeof TopicRole)[keyof typeof TopicRole];

/** The face for publish/subscribe. Topics by name; every call is synchronous and cheap, answers come from what is known now. */
export interface TopicDirectory {
  /**
   * Begins or goes on to follow; the first sample comes within a round trip or two, told by onSubscribers. Calling again changes the role.
   * @throws WeftError TOPIC_INVALID (empty, or above MAX_TOPIC_BYTES), TOPICS_FULL (above DirectoryOptions.maxTopics)
   */
  follow(topic: string, role: TopicRole): void;
  /** Stops following. The others are told at once when it was found, else its record expires. */
  unfollow(topic: string): void;
  /**
   * Up to `count` other nodes that subscribe or volunteer, each once, in random order, those believed lost last; [] when the topic is not followed.
   */
  sample(topic: string, count: number): Uint8Array[];
  /** How many subscribers are known here; at most DirectoryOptions.sampleSize whatever their true number. */
  known(topic: string): number;
  /**
   * Something was asked of that node as a subscriber and it was none (it refused, or could not be reached): not sampled again until a newer record of it
   * comes.
   */
  notThere(topic: string, nodeId: Uint8Array): void;
  /** Tells of records that are new or gone, at most once per topic and 100 ms. @returns stops it */
  onSubscribers(listener: (topic: string) => void): () => void;
}

/** Where an agent lives, as its lease says. */
export interface AgentPlace {
  /** 32 bytes, the agent's key. */
  readonly agent: Uint8Array;
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  /** Grows with every move or renewal. */
  readonly version: number;
  readonly expiresAtMs: number;
  /** The signed lease as it was given. */
  readonly lease: Uint8Array;
}

/** The face for agents. */
export interface AgentDirectory {
  /** This node hosts the agent from now on; renewed until withdrawn. @param lease at most 1,024 bytes; openLease() must accept it */
  announce(lease: Uint8Array): void;
  withdraw(agent: Uint8Array): void;
  /** What is known now, without asking anybody. */
  whereIs(agent: Uint8Array): AgentPlace | undefined;
  /** Asks the agent's meeting nodes; undefined: nobody knew within the time-out (3 s by default). */
  locate(agent: Uint8Array, timeoutMs?: number): Promise<AgentPlace | undefined>;
}

/** Checks signatures and form of an agent's lease; src/messaging/agents has the real one. @param bytes anything */
export type OpenLease = (bytes: Uint8Array, wallMs: number) => Omit<AgentPlace, "lease"> | undefined;

export type DirectoryOutput =
  /** One frame for the channel DIRECT, types 48–55. */
  | { readonly kind: "send"; readonly to: Uint8Array; readonly frame: Uint8Array }
  /** sample() of that topic has changed. */
  | { readonly kind: "subscribers"; readonly topic: string }
  | { readonly kind: "located"; readonly agent: Uint8Array; readonly place: AgentPlace | undefined };

export interface DirectoryDeps {
  readonly signing: Signing;
  readonly random: Random;
  /** 32 bytes */
  readonly networkId: Uint8Array;
  isMember(nodeId: Uint8Array): boolean;
  /** Node ids of all members; asked after membersChanged() only. */
  members(): readonly Uint8Array[];
  liveness(nodeId: Uint8Array): Liveness;
  readonly openLease: OpenLease;
}

export interface DirectoryOptions {
  /** Topics that this node follows. @default 4096 */
  readonly maxTopics?: number;
  /** Records known per followed topic. @default 64 */
  readonly sampleSize?: number;
  /** Topics for which this node is a meeting node; beyond, one of the visitor with the most goes. @default 4096 */
  readonly maxMeetings?: number;
  /** Life of a record; it is signed anew after a third of it. @default 1800000 */
  readonly recordLifeMs?: number;
  /** Between two shuffles of a topic, at first; five times that when nothing new comes. @default 60000 */
  readonly shuffleMs?: number;
}

/** Everything counted; values only grow, except the last four. */
export interface DirectoryCounters {
  framesIn: number;
  framesOut: number;
  bytesIn: number;
  bytesOut: number;
  framesRefused: number;
  framesOverRate: number;
  recordsAccepted: number;
  recordsRefused: number;
  recordsExpired: number;
  recordsEvicted: number;
  signaturesRefused: number;
  visits: number;
  visitsServed: number;
  shuffles: number;
  lookups: number;
  lookupsFailed: number;
  meetingsEvicted: number;
  /** Peers cut off for a minute because they delivered too many bad signatures. */
  peersCutOff: number;
  topics: number;
  records: number;
  meetings: number;
  agents: number;
}

export function newDirectoryCounters(): DirectoryCounters {
  return {
    framesIn: 0,
    framesOut: 0,
    bytesIn: 0,
    bytesOut: 0,
    framesRefused: 0,
    framesOverRate: 0,
    recordsAccepted: 0,
    recordsRefused: 0,
    recordsExpired: 0,
    recordsEvicted: 0,
    signaturesRefused: 0,
    visits: 0,
    visitsServed: 0,
    shuffles: 0,
    lookups: 0,
    lookupsFailed: 0,
    meetingsEvicted: 0,
    peersCutOff: 0,
    topics: 0,
    records: 0,
    meetings: 0,
    agents: 0,
  };
}
