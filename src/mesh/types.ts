/**
 * What MeshNode gives to and takes from its owner: members, operations, outputs. Values only; the machine is mesh-node.ts.
 * Peers are named by their 32-byte X25519 static key, because a joining node is known by nothing else; members also have their
 * 32-byte node id. Source: docs/protocol.md, "Roster" and "Join".
 */
import type { Random } from "../base/random.ts";
import type { MeshKeys, Signer } from "./keys.ts";

export const ROLES = ["member", "admin", "beacon", "router", "exit"] as const;
export type Role = (typeof ROLES)[number];

/** One member as the roster resolves it. Every field is the same on every node that holds the same statements. */
export interface Member {
  /** 32 bytes, Ed25519 public key. */
  readonly nodeId: Uint8Array;
  /** 32 bytes, X25519 form of nodeId. */
  readonly staticKey: Uint8Array;
  /** DNS label, unique in the network. */
  readonly name: string;
  /** The name that was asked for, when a clash gave it a suffix; else the same as `name`. */
  readonly requestedName: string;
  /** Dotted, unique, inside the network's prefix. */
  readonly ipv4: string;
  /** RFC 5952 text, derived from network id and node id. */
  readonly ipv6: string;
  readonly roles: readonly Role[];
  readonly tags: readonly string[];
  /** Wall-clock milliseconds after which the membership ends; undefined: never. The owner of the clock judges it. */
  readonly expiresAtMs: number | undefined;
  /** Wall-clock milliseconds at which its admission was signed. */
  readonly admittedAtMs: number;
  /** 32 bytes, hash of the admission (the genesis for the founder). */
  readonly admission: Uint8Array;
}

export interface MeshDeps {
  /** This node's own key; crypto/identity.ts has the real one. */
  readonly identity: Signer;
  /** @default systemKeys of keys.ts */
  readonly keys?: MeshKeys;
  readonly random: Random;
}

export interface MeshOptions {
  /** Build id sent in the hello. @default "dev" */
  readonly buildId?: string;
  /** Lowest and highest protocol version spoken. @default [1, 1] */
  readonly protocol?: readonly [number, number];
  /** Capability bits of session/types.ts, shown to peers. @default 0 */
  readonly capabilities?: number;
  /** Digest exchange with connected peers, milliseconds. @default 60000 */
  readonly digestIntervalMs?: number;
  /** Gives up joining after this long without an answer. @default 60000 */
  readonly joinTimeoutMs?: number;
  /** Life of this node's endpoint messages. @default 86400000 */
  readonly endpointLifeMs?: number;
  /** @default 2048 */
  readonly maxMembers?: number;
  /** @default 8192 */
  readonly maxStatements?: number;
}

export interface CreateNetworkOptions {
  readonly network: string;
  /** Name of this node. */
  readonly name: string;
  /** IPv4 prefix such as "10.20.0.0/16"; undefined: one out of 100.64.0.0/10 that collides with none of `avoid`. */
  readonly ipv4?: string | undefined;
  /** IPv4 prefixes of this host's interfaces and routes. */
  readonly avoid?: readonly string[];
}

export interface CreateInviteOptions {
  /** 1–10,000. @default 1 */
  readonly uses?: number;
  /** Life in milliseconds, at most a year. @default 3600000 */
  readonly expiresMs?: number;
  /** @default [] (member) */
  readonly roles?: readonly Role[];
  /** At most 16 of at most 32 characters. @default [] */
  readonly tags?: readonly string[];
}

export interface CreatedInvite {
  readonly token: string;
  /** 8 bytes: the first bytes of the invite's public key. */
  readonly inviteId: Uint8Array;
  readonly expiresAtMs: number;
  readonly uses: number;
}

export const InviteState = { LIVE: "live", EXPIRED: "expired", USED_UP: "used-up", REVOKED: "revoked" } as const;
export type InviteState = (typeof InviteState)[keyof typeof InviteState];

export interface InviteInfo {
  readonly inviteId: Uint8Array;
  readonly state: InviteState;
  readonly uses: number;
  readonly used: number;
  readonly expiresAtMs: number;
  /** When it ceased to be live; undefined while it is. */
  readonly endedAtMs: number | undefined;
  readonly roles: readonly Role[];
  readonly tags: readonly string[];
  readonly issuer: Uint8Array;
}

/** Codes of a refused or failed join; each comes with one line for a person and a remedy. */
export const JoinCode = {
  EXPIRED: "invite-expired",
  USED_UP: "invite-used-up",
  REVOKED: "invite-revoked",
  UNKNOWN_INVITE: "invite-unknown",
  BAD_SIGNATURE: "bad-signature",
  WRONG_NETWORK: "wrong-network",
  CLOCK_OFF: "clock-off",
  NAME_TAKEN: "name-taken",
  NAME_INVALID: "name-invalid",
  NODE_REVOKED: "node-revoked",
  KEY_REFUSED: "key-refused",
  NETWORK_FULL: "network-full",
  NOT_ADMIN: "not-admin",
  NO_ADMIN: "no-admin-reachable",
  BAD_ROSTER: "bad-roster",
  PROTOCOL: "protocol-version",
  /** For a reason that this version has no code for. */
  REFUSED: "refused",
} as const;
export type JoinCode = (typeof JoinCode)[keyof typeof JoinCode];

export interface JoinOptions {
  /** Wanted name of this node. */
  readonly name: string;
  /** Refuse instead of taking a suffix when the name is taken. @default false */
  readonly exactName?: boolean;
}

/** What a peer said about itself after its session came up. */
export interface PeerHello {
  readonly buildId: string;
  readonly protocol: readonly [number, number];
  readonly capabilities: number;
  readonly name: string;
}

export type MeshOutput =
  /** Send one control message (inner kind 2) to that peer; dropped silently when it has no session. At most 1,200 bytes. */
  | {
      readonly kind: "send";
      readonly staticKey: Uint8Array;
      readonly nodeId: Uint8Array | undefined;
      readonly bytes: Uint8Array;
    }
  /** Write to the store; `hash` (32 bytes) is the key. Statements are never deleted. */
  | { readonly kind: "persistStatement"; readonly hash: Uint8Array; readonly bytes: Uint8Array }
  /** Members in `removed` lose their sessions by the dropPeer that follows. A provisional peer found in `added` is a member now. */
  | {
      readonly kind: "rosterChanged";
      readonly added: readonly Member[];
      readonly removed: readonly Member[];
      readonly changed: readonly Member[];
    }
  /** candidates(nodeId) has changed. */
  | { readonly kind: "endpointsChanged"; readonly nodeId: Uint8Array }
  /** Open a session (single-flight; candidates() has the addresses). `inviteId` (8 bytes) goes into the handshake while joining. */
  | {
      readonly kind: "dial";
      readonly nodeId: Uint8Array;
      readonly staticKey: Uint8Array;
      readonly inviteId: Uint8Array | undefined;
    }
  | { readonly kind: "joinProgress"; readonly text: string }
  | { readonly kind: "joinResult"; readonly result: JoinResult }
  /** Drop its sessions and keys at once. */
  | {
      readonly kind: "dropPeer";
      readonly staticKey: Uint8Array;
      readonly nodeId: Uint8Array | undefined;
      readonly reason: string;
    }
  /** The peer said good-bye: it is stopping, not failing. */
  | { readonly kind: "peerStopping"; readonly staticKey: Uint8Array; readonly nodeId: Uint8Array | undefined }
  /** This node is no member any more; `by` is undefined when it left by itself. */
  | { readonly kind: "selfRemoved"; readonly reason: string; readonly by: Uint8Array | undefined }
  /** leave() is done: true when at least one member has confirmed it. */
  | { readonly kind: "left"; readonly delivered: boolean }
  | { readonly kind: "log"; readonly level: "debug" | "info" | "warn"; readonly text: string };

export type JoinResult =
  | { readonly ok: true; readonly member: Member; readonly network: string }
  | {
      readonly ok: false;
      readonly code: JoinCode;
      readonly text: string;
      readonly remedy: string;
      readonly details: Readonly<Record<string, string | number>>;
    };

/** Everything counted; all values only grow. */
export interface MeshCounters {
  controlReceived: number;
  controlMalformed: number;
  controlUnknownType: number;
  controlRefusedSender: number;
  controlRateLimited: number;
  statementsAccepted: number;
  statementsDuplicate: number;
  statementsRefused: number;
  statementsPendingEvicted: number;
  endpointsAccepted: number;
  endpointsRefused: number;
  endpointsEvicted: number;
  digestsSent: number;
  digestsReceived: number;
  joinsAccepted: number;
  joinsRefused: number;
  outputsDropped: number;
}

export function newMeshCounters(): MeshCounters {
  return {
    controlReceived: 0,
    controlMalformed: 0,
    controlUnknownType: 0,
    controlRefusedSender: 0,
    controlRateLimited: 0,
    statementsAccepted: 0,
    statementsDuplicate: 0,
    statementsRefused: 0,
    statementsPendingEvicted: 0,
    endpointsAccepted: 0,
    endpointsRefused: 0,
    endpointsEvicted: 0,
    digestsSent: 0,
    digestsReceived: 0,
    joinsAccepted: 0,
    joinsRefused: 0,
    outputsDropped: 0,
  };
}
