/**
 * What MeshNode gives to and takes from its owner: members, operations, outputs. Values only; the machine is mesh-node.ts.
 * Peers are named by their 32-byte X25519 static key, because a joining node is known by nothing else; members also have their
 * 32-byte node id. Source: docs/protocol.md, "Roster" and "Join".
 */
import type { Random } from "../base/random.ts";
import type { CborMap } from "./cbor.ts";
import type { MeshKeys, Signer } from "./keys.ts";
import type { IdleMessage } from "./control.ts";
import type { PunchControl } from "./punch/messages.ts";
import type { RoutingMessage } from "./routing/messages.ts";

export const ROLES = ["member", "admin", "beacon", "router", "exit"] as const;
export type Role = (typeof ROLES)[number];

/** What a node does with user data while nobody confirms its roster. */
export type StaleRule = "allow" | "refuse";

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

/** A prefix that an admin lets a member route; of members that count now only. */
export interface ApprovedRoute {
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  /** "10.20.0.0/24", "fd12::/64", "0.0.0.0/0"; host bits zero, one text for each prefix. */
  readonly prefix: string;
  readonly family: 4 | 6;
  /** 4 or 16 bytes */
  readonly address: Uint8Array;
  readonly bits: number;
  readonly approvedAtMs: number;
  /** Node id of the admin. */
  readonly approvedBy: Uint8Array;
}

/** Rules for the whole network, as the latest `policy` statement has them. */
export interface NetworkPolicy {
  /** 0: nobody has set one. */
  readonly version: number;
  readonly stale: StaleRule;
  /** For parts that define rules of their own. */
  readonly rules: CborMap;
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
  /** The owner has streams: what is missing in bulk goes out as output `bulk`. @default false */
  readonly bulkStreams?: boolean;
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
  /** Whoever comes with it waits until an admin has decided. @default false */
  readonly approve?: boolean;
  /** Memberships under it end this long after their admission, at most ten years. @default never */
  readonly lifeMs?: number | undefined;
}

/** What an admin changes about a member; what is left out stays. */
export interface MemberUpdate {
  readonly name?: string | undefined;
  /** The whole new set. Adding or leaving out "admin" makes or unmakes an admin. */
  readonly roles?: readonly Role[] | undefined;
  readonly tags?: readonly string[] | undefined;
  /** Wall-clock milliseconds; null: the membership does not end by itself. */
  readonly expiresAtMs?: number | null | undefined;
}

/** A node that waits for an admin's decision. */
export interface JoinRequestInfo {
  readonly nodeId: Uint8Array;
  readonly name: string;
  readonly inviteId: Uint8Array;
  readonly roles: readonly Role[];
  readonly tags: readonly string[];
  /** Wall-clock milliseconds of its first request here. */
  readonly askedAtMs: number;
  /** True while it keeps asking. */
  readonly isWaiting: boolean;
  /** Node id of the beacon it asks through; undefined: it has a session with this node. */
  readonly via: Uint8Array | undefined;
}

/** What became of statements that were imported. */
export interface ImportResult {
  readonly added: number;
  readonly known: number;
  /** Wait for parents that are not here. */
  readonly waiting: number;
  /** Reason → how many. */
  readonly refused: ReadonlyMap<string, number>;
}

/** The roster in figures, for people. */
export interface RosterInfo {
  readonly statements: number;
  readonly heads: number;
  /** 16 bytes; the same on every member that holds the same statements. */
  readonly fingerprint: Uint8Array;
  /** Wall-clock milliseconds of the last final checkpoint; undefined: there is none. */
  readonly finalAtMs: number | undefined;
  /** Statements that no final checkpoint has below it. */
  readonly unsettled: number;
  /** Proposals that wait for the consent of other admins. */
  readonly proposals: number;
  readonly voids: number;
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
  readonly approve: boolean;
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
  /** Not a refusal: an admin has to decide first. */
  PENDING: "approval-pending",
  DENIED: "denied",
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
  /**
   * Send these control messages in one stream, in order; answered by bulkDone(). Only with MeshOptions.bulkStreams.
   * At most 1,200 bytes each.
   */
  | {
      readonly kind: "bulk";
      readonly staticKey: Uint8Array;
      readonly nodeId: Uint8Array;
      readonly messages: readonly Uint8Array[];
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
  /** approvedRoutes() has changed. */
  | { readonly kind: "routesChanged" }
  /** policy() has changed. */
  | { readonly kind: "policyChanged" }
  /** User data may flow, waits until a member has confirmed the roster, or is refused by the network's policy. */
  | { readonly kind: "userData"; readonly state: UserDataState }
  /** That provisional peer waits for a decision: it may stay connected so long. */
  | { readonly kind: "keepJoiner"; readonly staticKey: Uint8Array; readonly forMs: number }
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
  /** A member says that its session with this node is of no use to it, or agrees to end it. */
  | { readonly kind: "idle"; readonly staticKey: Uint8Array; readonly message: IdleMessage }
  /** Another member said something about hole punching; its endpoints are dialable ones only. */
  | { readonly kind: "punch"; readonly nodeId: Uint8Array; readonly message: PunchControl }
  /** For the routing machine: another member said it through its session. */
  | { readonly kind: "routing"; readonly nodeId: Uint8Array; readonly message: RoutingMessage }
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

/** See freshness.ts. */
export const UserDataState = { OPEN: "open", HELD: "held", REFUSED: "refused" } as const;
export type UserDataState = (typeof UserDataState)[keyof typeof UserDataState];

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
  joinsRelayed: number;
  requestsEvicted: number;
  checkpointsProposed: number;
  checkpointVotes: number;
  rosterHolds: number;
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
    joinsRelayed: 0,
    requestsEvicted: 0,
    checkpointsProposed: 0,
    checkpointVotes: 0,
    rosterHolds: 0,
    outputsDropped: 0,
  };
}
