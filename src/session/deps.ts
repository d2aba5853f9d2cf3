/** What the session machine needs from its owner and what it shows of itself. Source: docs/protocol.md, "Sessions". */
import type { Now } from "../base/clock.ts";
import type { Random } from "../base/random.ts";
import type { Identity } from "../crypto/identity.ts";
import type { SessionPeer } from "./peer-session.ts";
import type { SessionTimes } from "./rekey.ts";
import type { Cipher } from "./types.ts";

/** Handshake timestamps, 12 bytes each, that outlive the process. */
export interface Timestamps {
  /** The newest accepted from this key. */
  last(staticKey: Uint8Array): Uint8Array | undefined;
  accept(staticKey: Uint8Array, timestamp: Uint8Array, now: Now): void;
  /** max(wall clock, persisted high-water + 1); every call gives a later one. */
  nextOwn(wallMs: number): Uint8Array;
}

export interface SessionsDeps {
  readonly identity: Identity;
  /** 32 bytes */
  readonly networkId: Uint8Array;
  readonly random: Random;
  readonly timestamps: Timestamps;
  peerByStaticKey(staticKey: Uint8Array): SessionPeer | undefined;
  peerBySlot(slot: number): SessionPeer | undefined;
  /** Called once static key and invite id are authenticated and fresh. @returns a slot for the joiner, or undefined to refuse it */
  provisionalPeer(staticKey: Uint8Array, inviteId: Uint8Array, timestampWallMs: number): SessionPeer | undefined;
  /** True when something was received from the peer lately; asked before a responder takes a rekey over. @default always true */
  flowing?(slot: number): boolean;
}

export interface SessionsOptions {
  /** "require": user data waits for the hybrid epoch. "prefer": it starts under the classic one. @default "require" */
  readonly pq?: "require" | "prefer";
  /** Capability bits announced. @default Capability.HYBRID */
  readonly capabilities?: number;
  /** Largest underlay IP packet this node can receive, bytes. @default 1500 */
  readonly mtuBytes?: number;
  /** Random number of this process run. */
  readonly bootId: number;
  readonly times?: Partial<SessionTimes>;
}

export interface SessionState {
  /** User data may flow. */
  readonly established: boolean;
  /** A handshake of ours is under way. */
  readonly connecting: boolean;
  readonly hybrid: boolean;
  readonly cipher: Cipher | 0;
  readonly epochId: number;
  /** −1 without an epoch. */
  readonly epochAgeMs: number;
  readonly initiator: boolean;
  readonly bootId: number | undefined;
  readonly remoteCapabilities: number;
  readonly remoteMtuBytes: number;
  /** One line for a person; empty when nothing failed since the last success. */
  readonly lastError: string;
}
