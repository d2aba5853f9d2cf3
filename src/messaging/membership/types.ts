/**
 * What the membership overlay gives to and takes from its owner. Values only; the machine is overlay.ts.
 *
 * The roster says who *may* take part; the overlay says who does at this moment. Each node keeps a small symmetric active view (connected, probed)
 * and a larger passive view (known, not connected), so that its traffic does not depend on how many members there are.
 * Source: docs/protocol.md, "Membership"; HyParView (Leitão, Pereira, Rodrigues 2007); SWIM (Das, Gupta, Motivala 2002);
 * Lifeguard (Dadgar, Phillips, Currey 2018).
 */
import type { Random } from "../../base/random.ts";

/** This node's key and the check of others', bound to one network and with a purpose in every signature ("weft/1 KIND"). */
export interface Signing {
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  /** @returns 64 bytes */
  sign(kind: string, body: Uint8Array): Uint8Array;
  /** Anything may be in the arguments. */
  verify(nodeId: Uint8Array, kind: string, body: Uint8Array, signature: Uint8Array): boolean;
}

/** What is believed of a member; a hearsay belief about a neighbour is only ever a reason to ask it. */
export const Liveness = {
  /** Nothing was heard of it, or so long ago that it was forgotten. */
  UNKNOWN: "unknown",
  ALIVE: "alive",
  /** Did not answer; it has time to object. */
  SUSPECT: "suspect",
  DEAD: "dead",
  /** It said that it goes. */
  LEFT: "left",
} as const;
export type Liveness = (typeof Liveness)[keyof typeof Liveness];

/** Why a neighbour left the active view. */
export const DownReason = {
  /** It or this node has made room for another; it is well. */
  EVICTED: "evicted",
  FAILED: "failed",
  LEFT: "left",
  /** No member any more. */
  REMOVED: "removed",
} as const;
export type DownReason = (typeof DownReason)[keyof typeof DownReason];

export type OverlayOutput =
  /** One frame for the channel MEMBERSHIP. What is not delivered is repeated by the machine's own timers. */
  | { readonly kind: "send"; readonly to: Uint8Array; readonly frame: Uint8Array }
  /** It is in the active view now. */
  | { readonly kind: "up"; readonly nodeId: Uint8Array }
  | { readonly kind: "down"; readonly nodeId: Uint8Array; readonly reason: DownReason }
  /** Belief about any member, neighbour or not. */
  | { readonly kind: "liveness"; readonly nodeId: Uint8Array; readonly liveness: Liveness };

export interface OverlayDeps {
  readonly signing: Signing;
  readonly random: Random;
  /** 32 bytes. Is it a member of the roster (this node itself is)? */
  isMember(nodeId: Uint8Array): boolean;
  /** Members in the roster, this node included. */
  memberCount(): number;
  /** A member chosen uniformly at random, never this node; undefined: there is none. */
  randomMember(): Uint8Array | undefined;
  /** Round trip to it as the session measures it; undefined: not known. */
  rttMs(nodeId: Uint8Array): number | undefined;
}

export interface OverlayOptions {
  /** @default 30000 */
  readonly shuffleMs?: number;
  /** Each neighbour is probed about once in this time. @default 10000 */
  readonly probeMs?: number;
  /** Steps of a join. @default 6 */
  readonly activeWalk?: number;
  /** Step of a join at which the node enters passive views. @default 3 */
  readonly passiveWalk?: number;
  /** Neighbours that are asked to probe for this node. @default 3 */
  readonly indirectProbes?: number;
  /** Overrides the rule clamp(⌈2 ln N⌉, 8, 12); for tests. */
  readonly activeSize?: number;
}

/** Everything counted; values only grow. */
export interface OverlayCounters {
  framesIn: number;
  framesOut: number;
  bytesIn: number;
  bytesOut: number;
  /** Malformed, of an unknown type, or from nobody of the roster. */
  framesRefused: number;
  /** Above the sender's rate. */
  framesOverRate: number;
  signaturesRefused: number;
  joins: number;
  neighboursUp: number;
  neighboursDown: number;
  evictions: number;
  neighboursRefused: number;
  shuffles: number;
  probes: number;
  probesFailed: number;
  indirectProbes: number;
  suspicions: number;
  refutations: number;
  deaths: number;
  rumoursDropped: number;
  beliefsEvicted: number;
  /** Peers cut off for a minute because they delivered too many bad signatures. */
  peersCutOff: number;
}

export function newOverlayCounters(): OverlayCounters {
  return {
    framesIn: 0,
    framesOut: 0,
    bytesIn: 0,
    bytesOut: 0,
    framesRefused: 0,
    framesOverRate: 0,
    signaturesRefused: 0,
    joins: 0,
    neighboursUp: 0,
    neighboursDown: 0,
    evictions: 0,
    neighboursRefused: 0,
    shuffles: 0,
    probes: 0,
    probesFailed: 0,
    indirectProbes: 0,
    suspicions: 0,
    refutations: 0,
    deaths: 0,
    rumoursDropped: 0,
    beliefsEvicted: 0,
    peersCutOff: 0,
  };
}

/** What other parts may ask of the overlay; src/node/messaging/membership.ts has the running one. */
export interface OverlayView {
  /** Node ids of the active view, 32 bytes each. */
  active(): readonly Uint8Array[];
  passive(): readonly Uint8Array[];
  liveness(nodeId: Uint8Array): Liveness;
}

/** clamp(⌈2 ln N⌉, 8, 12) @param members in the roster, this node included */
export function activeViewSize(members: number): number {
  return Math.min(12, Math.max(8, Math.ceil(2 * Math.log(Math.max(1, members)))));
}

/** Passive entries per active one. */
export const PASSIVE_FACTOR = 8;
