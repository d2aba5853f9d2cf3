/**
 * What the routing machine gives to and takes from its owner. Values only; the machine is routing.ts.
 * Nodes are named by their 32-byte node id everywhere. Source: docs/protocol.md, "Routing through members".
 */
import type { Random } from "../../base/random.ts";
import type { RoutingMessage } from "./messages.ts";

/** Values of the path kind in a virtual endpoint. */
export const PathKind = { RELAY: 1, TRANSIT: 2 } as const;
export type PathKind = (typeof PathKind)[keyof typeof PathKind];

/** Purposes of the signatures made here; each is its own domain (crypto/identity.ts). */
export const RoutingSignature = { FOUND: "found", NEAR: "near" } as const;
export type RoutingSignature = (typeof RoutingSignature)[keyof typeof RoutingSignature];

export interface RoutingDeps {
  /** 32 bytes: this node. */
  readonly nodeId: Uint8Array;
  readonly random: Random;
  /** @returns 64 bytes, by this node */
  sign(kind: RoutingSignature, body: Uint8Array): Uint8Array;
  /** @param signature 64 bytes; anything may be in it */
  verify(nodeId: Uint8Array, kind: RoutingSignature, body: Uint8Array, signature: Uint8Array): boolean;
  isMember(nodeId: Uint8Array): boolean;
  /** The roster gives the node the role beacon. */
  isBeacon(nodeId: Uint8Array): boolean;
  /** The allow-list: whether that member may use this node as transit. */
  mayTransit(requester: Uint8Array): boolean;
}

export interface RoutingOptions {
  /** Forward for any two members, as beacons do anyway. @default false */
  readonly relay?: boolean;
  /** Bytes per second that one neighbour may send through this node, on all its ways together; 0 = no limit. @default 50000000 */
  readonly forwardBytesPerSecond?: number;
  /** Paths kept for one neighbour, as the end that asked. @default 128 */
  readonly maxForwardsPerNode?: number;
  /** Paths kept in all. @default 4096 */
  readonly maxForwards?: number;
}

export type RoutingOutput =
  /** Send to a neighbour with which a session exists; dropped silently when it has gone. */
  | { readonly kind: "send"; readonly nodeId: Uint8Array; readonly message: RoutingMessage }
  /** Datagrams for `target` may be wrapped under `out` to `hop`, and come back from it under `in`. */
  | {
      readonly kind: "via";
      readonly id: number;
      readonly target: Uint8Array;
      readonly hop: Uint8Array;
      readonly out: number;
      readonly in: number;
      readonly pathKind: PathKind;
    }
  | { readonly kind: "viaRemove"; readonly id: number }
  /** What comes from `from` under `label` goes to `to` under `out`. */
  | {
      readonly kind: "forward";
      readonly label: number;
      readonly from: Uint8Array;
      readonly to: Uint8Array;
      readonly out: number;
      /** What `from` may send through this node on all its ways together; 0 = no limit. */
      readonly bytesPerSecond: number;
    }
  | { readonly kind: "forwardRemove"; readonly label: number; readonly from: Uint8Array }
  /** candidates(nodeId) has changed. */
  | { readonly kind: "candidatesChanged"; readonly nodeId: Uint8Array };

/** One way to a target, for status and explanations. */
export interface ViaView {
  readonly id: number;
  readonly kind: "relay" | "transit";
  /** Sessions on the way: 2 with one member between. */
  readonly hops: number;
  /** 32 bytes: the first member on the way. */
  readonly viaNodeId: Uint8Array;
  /** settling: the other end has asked for it and is about to use it. */
  readonly state: "ready" | "settling";
  readonly reason: string;
}

/** How the search for a target stands. */
export interface SearchView {
  /** Lookups since the target was last found. */
  readonly attempts: number;
  /** Monotonic time of the last and the next one; Infinity: none is due. */
  readonly lastAtMs: number;
  readonly nextAtMs: number;
  /** Neighbours that were asked in the last one. */
  readonly asked: number;
}

/** Everything counted; all values only grow. */
export interface RoutingCounters {
  lookupsSent: number;
  lookupsReceived: number;
  lookupsAnswered: number;
  lookupsForwarded: number;
  /** Not from a member with a direct session, or with a path that cannot be. */
  lookupsRefused: number;
  /** More than one per neighbour and target in its time, or over a quota. */
  lookupsLimited: number;
  /** The allow-list does not have the requester. */
  lookupsForbidden: number;
  /** Seen before, or out of hops. */
  lookupsEnded: number;
  searchesRefused: number;
  foundReceived: number;
  /** To nothing that was asked, or too late. */
  foundUnknown: number;
  foundForged: number;
  viasInstalled: number;
  viasFailed: number;
  forwardsInstalled: number;
  forwardsRefused: number;
  forwardsEnded: number;
  neighbourDigestsSent: number;
  neighbourDigestsReceived: number;
  neighbourDigestsRefused: number;
}

export function newRoutingCounters(): RoutingCounters {
  return {
    lookupsSent: 0,
    lookupsReceived: 0,
    lookupsAnswered: 0,
    lookupsForwarded: 0,
    lookupsRefused: 0,
    lookupsLimited: 0,
    lookupsForbidden: 0,
    lookupsEnded: 0,
    searchesRefused: 0,
    foundReceived: 0,
    foundUnknown: 0,
    foundForged: 0,
    viasInstalled: 0,
    viasFailed: 0,
    forwardsInstalled: 0,
    forwardsRefused: 0,
    forwardsEnded: 0,
    neighbourDigestsSent: 0,
    neighbourDigestsReceived: 0,
    neighbourDigestsRefused: 0,
  };
}
