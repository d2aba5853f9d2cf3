/**
 * What is remembered of one peer between handshakes: at most one exchange in each direction, the epochs handed out, the live one, and the
 * wish for a session that is being worked on. Plain state; src/session/sessions.ts moves it.
 */
import { macKey } from "../crypto/cookie.ts";
import type { Exchange } from "./exchange.ts";
import type { Cipher } from "./types.ts";

export interface SessionPeer {
  /** Below the data plane's maxPeers; stable while the peer is known. */
  readonly slot: number;
  /** 32 bytes */
  readonly nodeId: Uint8Array;
  /** X25519, 32 bytes */
  readonly staticKey: Uint8Array;
  /** The operator's pre-shared key, 32 bytes, or undefined. */
  readonly psk: Uint8Array | undefined;
  /** 8 bytes sent in our inits while we join through this peer, else undefined. */
  readonly inviteId: Uint8Array | undefined;
}

/** An epoch that was installed and not known to be gone. */
export interface EpochRecord {
  readonly exchange: Exchange;
  readonly hybrid: boolean;
  readonly localIndex: number;
  readonly installedAtMs: number;
  proven: boolean;
  retired: boolean;
}

export interface Live {
  readonly epochId: number;
  readonly exchange: Exchange;
  readonly hybrid: boolean;
  readonly cipher: Cipher;
  readonly installedAtMs: number;
  readonly activatedAtMs: number;
}

/** A wish for a session or a rekey, until it is fulfilled or given up. */
export interface Attempt {
  readonly startedAtMs: number;
  readonly giveUpAtMs: number;
  retryAtMs: number;
  retryMs: number;
  problem: string;
}

export class PeerSession {
  /** As the owner knows it now; psk and invite id may change. */
  peer: SessionPeer;
  readonly macKey: Uint8Array;
  /** Known through an invite only, and nothing proven yet. */
  unprovenJoin = false;
  outgoing: Exchange | undefined = undefined;
  incoming: Exchange | undefined = undefined;
  attempt: Attempt | undefined = undefined;
  live: Live | undefined = undefined;
  readonly epochs: Map<number, EpochRecord> = new Map();
  rekeyAtMs: number = Infinity;
  bootId: number | undefined = undefined;
  cookie: Uint8Array | undefined = undefined;
  cookieUntilMs: number = -Infinity;
  lastError = "";

  constructor(peer: SessionPeer) {
    this.peer = peer;
    this.macKey = macKey(peer.staticKey);
  }
}
