/**
 * What the control thread and the data-plane worker tell each other. Both directions are values of closed unions; the codec is in
 * messages-codec.ts and the carrier is an SPSC ring (base/ring.ts). Nothing here is shared memory: a message is a copy.
 */
import type { EpochKeys } from "../session/types.ts";

/** 18 bytes: v4-mapped address ‖ port u16 little-endian (base/endpoint.ts). */
export type EndpointBytes = Uint8Array;

/** One route: destination prefix to a peer slot. */
export interface RouteEntry {
  /** 16 bytes, IPv4 as v4-mapped with prefixBits counted from 96. */
  readonly prefix: Uint8Array;
  /** 0–128 */
  readonly prefixBits: number;
  readonly peer: number;
}

export interface PlaneSettings {
  readonly gso: boolean;
  readonly gro: boolean;
  readonly tso: boolean;
  /** Largest underlay IP packet of this host's interfaces, bytes. */
  readonly underlayMtuBytes: number;
  readonly tunMtuBytes: number;
}

/** Control thread → worker. */
export type Command =
  /** Declares or replaces a peer; slots are chosen by the control thread, below the plane's maxPeers. */
  | { readonly kind: "peer"; readonly peer: number; readonly nodeId: Uint8Array }
  /** Drops its sessions, keys, paths and queues at once. */
  | { readonly kind: "peerRemove"; readonly peer: number }
  /** Whole routing table (also the source check's table): longest prefix wins. Replaces the one before. */
  | { readonly kind: "routes"; readonly routes: readonly RouteEntry[] }
  /** Addresses and prefixes this node delivers to its own kernel. */
  | {
      readonly kind: "local";
      readonly prefixes: readonly { readonly prefix: Uint8Array; readonly prefixBits: number }[];
    }
  | {
      readonly kind: "install";
      readonly peer: number;
      readonly epoch: EpochKeys;
      readonly endpoint: EndpointBytes | undefined;
    }
  | { readonly kind: "activate"; readonly peer: number; readonly epochId: number }
  | { readonly kind: "retire"; readonly peer: number; readonly epochId: number; readonly afterMs: number }
  /** Seal one inner message; epochId 0 = the peer's current sending epoch (dropped and counted when there is none). */
  | {
      readonly kind: "inner";
      readonly peer: number;
      readonly epochId: number;
      readonly innerKind: number;
      readonly flags: number;
      readonly aux: number;
      readonly payload: Uint8Array;
    }
  /** Send a datagram as it is. `to` undefined: to every candidate of the peer and its active path. */
  | {
      readonly kind: "transmit";
      readonly peer: number;
      readonly to: EndpointBytes | undefined;
      readonly datagram: Uint8Array;
    }
  /** Addresses at which the peer may be reached, best first, at most 8; replaces the ones before (live paths stay). */
  | { readonly kind: "candidates"; readonly peer: number; readonly endpoints: readonly EndpointBytes[] }
  /** `weft ping`: send an on-demand probe on the active path (or all candidates); answered by a "pong" event with the same token. */
  | { readonly kind: "ping"; readonly peer: number; readonly token: number }
  | { readonly kind: "settings"; readonly settings: PlaneSettings }
  /**
   * Installs or replaces a via, the virtual endpoint (LABEL, pathKind, id): what is sent there goes to the peer `hop` under label `out`, and what comes
   * from it under label `in` comes from there. Labels are u32, not zero. Refused: more than 4,096, an unknown hop, a label in use (viaFailed).
   */
  | {
      readonly kind: "via";
      readonly id: number;
      readonly hop: number;
      readonly out: number;
      readonly in: number;
      /** 1 relay, 2 transit. */
      readonly pathKind: number;
    }
  | { readonly kind: "viaRemove"; readonly id: number }
  /** Forwards what comes from peer `from` under `label` to peer `to` under `out`; one direction. Replaces one of the same (label, from). */
  | {
      readonly kind: "forward";
      readonly label: number;
      readonly from: number;
      readonly to: number;
      readonly out: number;
      /** What `from` may send through this node on all its ways together, from now on; 0 = no limit. */
      readonly bytesPerSecond: number;
    }
  | { readonly kind: "forwardRemove"; readonly label: number; readonly from: number }
  /** A byte channel of the control thread exists from now on, or no more; at most 256. */
  | { readonly kind: "channel"; readonly id: number; readonly open: boolean }
  /** One datagram that came out of a channel, at most 9,216 bytes. */
  | { readonly kind: "channelIn"; readonly id: number; readonly datagram: Uint8Array }
  /** Sends a datagram of another protocol (STUN) from the underlay socket, at most 548 bytes; answers from there are believed for 5 s. */
  | { readonly kind: "raw"; readonly to: EndpointBytes; readonly datagram: Uint8Array }
  /** Asks for the figures of a peer's paths; answered by a "paths" event with the same token. */
  | { readonly kind: "paths"; readonly peer: number; readonly token: number }
  /**
   * Whether user data may flow: a node whose roster nobody has confirmed for a while asks first (mesh/freshness.ts). While held, packets wait as they do for a
   * session, and what comes in is dropped as NOT_READY; sessions, probes and control messages go on.
   */
  | { readonly kind: "hold"; readonly held: boolean }
  /** These peers' active paths are kept open while idle (path/mapping-life.ts), those of all others are not. */
  | { readonly kind: "keepOpen"; readonly peers: readonly number[] }
  /** Probes for hole punching (punching.ts): to every endpoint (plain), to the first from `count` sockets (fan) or at `count` ports (guess). */
  | {
      readonly kind: "punch";
      readonly peer: number;
      readonly mode: "plain" | "fan" | "guess";
      readonly endpoints: readonly EndpointBytes[];
      readonly count: number;
      /** Between rounds, or between two guesses. */
      readonly everyMs: number;
      readonly rounds: number;
    }
  | { readonly kind: "stop" };

/** Worker → control thread. */
export type PlaneEvent =
  | {
      readonly kind: "ready";
      readonly tunName: string;
      readonly port4: number;
      readonly port6: number;
      readonly offloads: number;
    }
  /** A handshake datagram (0x41–0x43) that passed the gate; `underLoad` is informational. */
  | { readonly kind: "handshake"; readonly from: EndpointBytes; readonly datagram: Uint8Array }
  /** An authenticated inner message of kind 2 control, 3 stream, 6 ratchet, or 0 keepalive under an epoch younger than 10 s. */
  | {
      readonly kind: "inner";
      readonly peer: number;
      readonly epochId: number;
      readonly innerKind: number;
      readonly flags: number;
      readonly aux: number;
      readonly payload: Uint8Array;
    }
  /** First authenticated packet under an epoch: the peer has the keys. */
  | { readonly kind: "proof"; readonly peer: number; readonly epochId: number }
  /** User data waits and there is no session (at most once per peer per 500 ms). */
  | { readonly kind: "needSession"; readonly peer: number }
  /** The sending epoch passed its block limit for rekeying. */
  | { readonly kind: "wantRekey"; readonly peer: number; readonly epochId: number }
  /** Sent data for 1.5 s and four round trips without receiving anything. */
  | { readonly kind: "silent"; readonly peer: number }
  /** The active path of a peer changed or got a new measured MTU; endpoint undefined = no path left. */
  | {
      readonly kind: "path";
      readonly peer: number;
      readonly endpoint: EndpointBytes | undefined;
      readonly mtuBytes: number;
    }
  /** An address by which the peer sees us. */
  | { readonly kind: "observed"; readonly peer: number; readonly endpoint: EndpointBytes }
  | {
      readonly kind: "pong";
      readonly peer: number;
      readonly token: number;
      readonly rttMs: number;
      readonly endpoint: EndpointBytes;
    }
  /** Interfaces, addresses or routes of the host changed. */
  | { readonly kind: "netlink" }
  /** A via does not lead on: `code` is a ViaFailure. It stays installed until it is removed, except for HOP_GONE and REFUSED. */
  | { readonly kind: "viaFailed"; readonly id: number; readonly code: number }
  /** A forward entry is gone: unused for 300 s, one of its peers was removed, the next node knows its label no more, or it was refused. */
  | { readonly kind: "forwardExpired"; readonly label: number; readonly from: number }
  | { readonly kind: "channelOut"; readonly id: number; readonly datagram: Uint8Array }
  /** A STUN message from an address that a `raw` went to lately. */
  | { readonly kind: "stun"; readonly from: EndpointBytes; readonly datagram: Uint8Array }
  | { readonly kind: "paths"; readonly peer: number; readonly token: number; readonly paths: readonly PlanePath[] }
  | { readonly kind: "log"; readonly level: "info" | "warn" | "error"; readonly text: string }
  /** `code` is a WeftError code, for failures at start ("TUN_DENIED", "PORT_BUSY", …). */
  | { readonly kind: "failed"; readonly code: string; readonly text: string; readonly remedy: string }
  | { readonly kind: "stopped" };

/** Why a via failed. 1 and 2 are the codes that nodes on the way send (wire/transit.ts). */
export const ViaFailure = {
  /** The next node does not know the label. */
  UNKNOWN_LABEL: 1,
  /** A node on the way has no session or no direct path to the one behind it. */
  NO_PATH: 2,
  /** The hop was removed from this node. */
  HOP_GONE: 3,
  /** Not installed: too many, no such peer, or a label in use. */
  REFUSED: 4,
} as const;

/** One path of a peer in a "paths" event. */
export interface PlanePath {
  readonly endpoint: EndpointBytes;
  /** Own address, 16 bytes, all zero = left to the kernel; socket 0 = the main one, others are of hole punching. */
  readonly local: Uint8Array;
  readonly socket: number;
  /** Carries data; carries a copy while delivery is in doubt. */
  readonly active: boolean;
  readonly duplicate: boolean;
  /** 0 untried, 1 probing, 2 alive, 3 dead; and why, for people. */
  readonly state: number;
  readonly reason: string;
  /** −1 when unknown. */
  readonly rttMs: number;
  /** 0–1 */
  readonly lossRatio: number;
  /** Underlay IP packet size in force. */
  readonly mtuBytes: number;
  /** Since the last authenticated packet; −1 = never. */
  readonly lastReceivedAgoMs: number;
}

/** Per-peer figures of a snapshot, read from shared statistics without stopping the worker. */
export interface PeerFigures {
  readonly txBytes: number;
  readonly rxBytes: number;
  readonly txPackets: number;
  readonly rxPackets: number;
  /** Active path: milliseconds, 0–1, bytes; rttMs −1 when unknown. */
  readonly rttMs: number;
  readonly lossRatio: number;
  readonly mtuBytes: number;
  /** Milliseconds since the last authenticated packet; −1 = never. */
  readonly lastDeliveryMs: number;
  readonly epochAgeMs: number;
  readonly cipher: number;
  readonly hybrid: boolean;
  /** Session usable for user data. */
  readonly established: boolean;
  readonly queuedPackets: number;
  /** Packets to and from this peer that were dropped, whatever the reason; of those from it, the ones with another member's source. */
  readonly droppedTx: number;
  readonly droppedRx: number;
  readonly spoofed: number;
  /** Delivery rate that the peer reports, bits per second; 0 = not measured. */
  readonly deliveryBps: number;
  /** What came from it and was handed on to others, bytes; and datagrams that were over its quota. */
  readonly forwardedBytes: number;
  readonly forwardDrops: number;
}

export interface PlaneOptions {
  /** undefined: agent node without TUN. */
  readonly tunName: string | undefined;
  /** Listen addresses as text; port 0 = any. family sockets that cannot be opened are left out, at least one must work. */
  readonly listen: readonly { readonly address: string; readonly port: number }[];
  /** X25519 public key of this node, for mac1. */
  readonly staticKey: Uint8Array;
  readonly settings: PlaneSettings;
  readonly maxPeers: number;
  /** SO_MARK of the underlay sockets; 0 = none. */
  readonly mark: number;
}

/** The worker as the control thread sees it (src/node/dataplane-handle.ts; tests may fake it). */
export interface DataplaneHandle {
  /** @returns false when the ring is full (the command is dropped and counted; callers retry on their next tick) */
  send(command: Command): boolean;
  peerFigures(peer: number): PeerFigures;
  /** Name → value of all plane-wide counters (packets, bytes, drops by reason as drop_NAME, histograms as name_bucket). */
  counters(): Map<string, number>;
  /** Stops the worker: command, eventfd, then waits at most 3 s. */
  stop(): Promise<void>;
}
/** Starts it; resolves on "ready", rejects with a WeftError on "failed". `onEvent` is called in ring order. */
export type StartDataplane = (options: PlaneOptions, onEvent: (event: PlaneEvent) => void) => Promise<DataplaneHandle>;
