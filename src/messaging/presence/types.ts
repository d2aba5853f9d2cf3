/**
 * Presence: whether the node, as its owner sees it, is online, away or offline, and when it was last heard. A node sends a signed beacon every 30 s to
 * those who watch it, and to nobody else. It serves 32 watchers itself; the others are told which of those pass the beacon on, and so forth: the cost
 * of being watched does not grow with the number of watchers, and because beacons are signed nobody in between can speak for it.
 * Source: docs/protocol.md, "Presence".
 */
import type { Random } from "../../base/random.ts";
import type { Signing } from "../membership/types.ts";

export const PresenceState = {
  /** Not watched, or no beacon yet. */
  UNKNOWN: "unknown",
  ONLINE: "online",
  /** It says so itself, or half of its time-out has passed without a beacon. */
  AWAY: "away",
  /** It said good-bye, or its time-out has passed. */
  OFFLINE: "offline",
} as const;
export type PresenceState = (typeof PresenceState)[keyof typeof PresenceState];

export interface PresenceView {
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  readonly state: PresenceState;
  /** Wall clock of this node at the last valid beacon; undefined: none yet. */
  readonly lastSeenMs: number | undefined;
  /** Free text of its owner, at most 128 UTF-8 bytes. */
  readonly note: string;
  /** When it counts as offline without another beacon, from the last one: 180,000–600,000. */
  readonly timeoutMs: number;
}

export type PresenceOutput =
  /** One frame for the channel DIRECT, types 56–63. */
  | { readonly kind: "send"; readonly to: Uint8Array; readonly frame: Uint8Array }
  | { readonly kind: "presence"; readonly view: PresenceView };

export interface PresenceDeps {
  readonly signing: Signing;
  readonly random: Random;
  isMember(nodeId: Uint8Array): boolean;
}

export interface PresenceOptions {
  /** @default 30000 */
  readonly beaconMs?: number;
  /** Watchers that this node serves, for its own beacon and for each that it passes on. @default 32 */
  readonly maxWatchers?: number;
  /** Nodes that this node watches; beyond: PRESENCE_FULL. @default 1024 */
  readonly maxWatched?: number;
}

/** Everything counted; values only grow, except the last two. */
export interface PresenceCounters {
  framesIn: number;
  framesOut: number;
  bytesIn: number;
  bytesOut: number;
  framesRefused: number;
  framesOverRate: number;
  signaturesRefused: number;
  beaconsSigned: number;
  beaconsTaken: number;
  beaconsOld: number;
  watchersRedirected: number;
  /** Peers cut off for a minute because they delivered too many bad signatures. */
  peersCutOff: number;
  watched: number;
  watchers: number;
}

export function newPresenceCounters(): PresenceCounters {
  return {
    framesIn: 0,
    framesOut: 0,
    bytesIn: 0,
    bytesOut: 0,
    framesRefused: 0,
    framesOverRate: 0,
    signaturesRefused: 0,
    beaconsSigned: 0,
    beaconsTaken: 0,
    beaconsOld: 0,
    watchersRedirected: 0,
    peersCutOff: 0,
    watched: 0,
    watchers: 0,
  };
}
