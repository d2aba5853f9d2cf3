/**
 * Sessions with all peers: handshakes, the hybrid ratchet, rekeying, resends. Runs in the control thread; packets and time are arguments,
 * everything it wants done comes out of pollOutput(). Source: docs/protocol.md, "Handshake" and "Epochs, rekey, replay".
 *
 *   initiator                                                responder
 *   init ────────────────────────────────────────────────►   accept static key, timestamp; install classic, unproven
 *   install classic   ◄──────────────────────── response
 *   kind 6, public key under classic ────────────────────►   proof of classic; encapsulate; install hybrid, unproven
 *   install hybrid    ◄──── kind 6, ciphertext under classic
 *   keepalive under hybrid ──────────────────────────────►   proof: send under hybrid
 *   proof: send under hybrid  ◄────── keepalive under hybrid
 *
 * Guarantees: the live epoch is replaced only by one that the other side has proven; whatever arrives late, twice, out of order or forged
 * changes nothing; a key that is neither in the roster nor comes with a live invite leaves no state. Bounds: per peer one exchange in
 * each direction, 64 unproven joins in all.
 */
import { compare, concat, equal, utf8 } from "../base/bytes.ts";
import type { Now } from "../base/clock.ts";
import { Drop } from "../base/drop.ts";
import type { Random } from "../base/random.ts";
import { cookieKey, openCookie, SALT_BYTES } from "../crypto/cookie.ts";
import {
  EXPORTER_INFO,
  hybridKeys,
  KEM_CIPHERTEXT_BYTES,
  KEM_PUBLIC_KEY_BYTES,
  KemKeyPair,
  kemEncapsulate,
} from "../crypto/hybrid.ts";
import type { Identity } from "../crypto/identity.ts";
import { NoiseInitiator, NoiseResponder, type TransportKeys } from "../crypto/noise.ts";
import { constantTimeEqual, zeroise } from "../crypto/secret.ts";
import { InnerKind } from "../wire/data.ts";
import {
  COOKIE_RECEIVER,
  COOKIE_SALT,
  COOKIE_SEALED,
  HANDSHAKE_INIT_TYPE,
  HANDSHAKE_RESPONSE_TYPE,
  handshakeBytes,
  INIT_EPHEMERAL,
  INIT_MAC1,
  INIT_SENDER,
  RESPONSE_EPHEMERAL,
  RESPONSE_MAC1,
  RESPONSE_RECEIVER,
  RESPONSE_SENDER,
} from "../wire/handshake-sizes.ts";
import { Deadlines } from "./deadlines.ts";
import { Exchange, Stage } from "./exchange.ts";
import {
  decodePayload,
  encodeInit,
  encodePayload,
  encodeResponse,
  type HandshakePayload,
  mac1Offset,
  timestampWallMs,
  writeMacs,
} from "./handshake.ts";
import { type Attempt, PeerSession, type SessionPeer } from "./peer-session.ts";
import { DEFAULT_TIMES, jittered, rekeyAgeMs, type SessionTimes } from "./rekey.ts";
import { Capability, Cipher, type EndpointBytes, type SessionOutput } from "./types.ts";

/** Handshake timestamps, 12 bytes each, that outlive the process. */
export interface Timestamps {
  /** The newest accepted from this key. */
  last(staticKey: Uint8Array): Uint8Array | undefined;
  accept(staticKey: Uint8Array, timestamp: Uint8Array, now: Now): void;
  /** max(wall clock, persisted high-water + 1); every call gives a later one. */
  nextOwn(wallMs: number): Uint8Array;
}

export type { SessionPeer } from "./peer-session.ts";

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

/** Handshakes of joiners that have proven nothing yet. */
export const MAX_UNPROVEN_JOINS = 64;
const MAX_BAD_ANSWERS = 64;
const MAX_EPOCH_RECORDS = 16;
const MAX_REQUESTED_RESENDS = 32;
/** Resends of an init before the retry timer takes over. */
const QUICK_INITS = 2;
/** Blind repeats of the responder's last keepalive. */
const KEEPALIVE_REPEATS = 2;
const RATCHET_INDEX_BYTES = 4;
const PROLOGUE = utf8("weft/1");
const NO_PSK = new Uint8Array(32);
const EMPTY = new Uint8Array(0);

const NO_ANSWER = "no answer";
const NOT_AUTHENTIC = "its answers do not authenticate; do both ends have the same pre-shared key?";
const RATCHET_FAILED = "the post-quantum key exchange did not complete";
const NO_HYBRID = 'it offers no post-quantum key exchange, and pq = "require" is set here';
const BAD_KEY = "its key is not usable";

export class Sessions {
  readonly #deps: SessionsDeps;
  readonly #requireHybrid: boolean;
  readonly #capabilities: number;
  readonly #mtuBytes: number;
  readonly #bootId: number;
  readonly #times: SessionTimes;
  readonly #prologue: Uint8Array;
  readonly #peers = new Map<number, PeerSession>();
  readonly #deadlines = new Deadlines();
  readonly #outputs: SessionOutput[] = [];
  #outputAt = 0;
  /** Our sender indices of handshakes whose datagram may still be answered. */
  readonly #byIndex = new Map<number, { readonly session: PeerSession; readonly exchange: Exchange }>();
  /** Inits that we answered and whose initiator has not proven itself, by their ephemeral key in hex. */
  readonly #answered = new Map<string, { readonly session: PeerSession; readonly exchange: Exchange }>();
  /** Receiver indices of installed epochs. */
  readonly #indices = new Set<number>();
  #unprovenJoins = 0;
  #nextEpochId = 1;
  #lastNowMs = 0;

  constructor(deps: SessionsDeps, options: SessionsOptions) {
    this.#deps = deps;
    this.#requireHybrid = (options.pq ?? "require") === "require";
    this.#capabilities = options.capabilities ?? Capability.HYBRID;
    this.#mtuBytes = options.mtuBytes ?? 1500;
    this.#bootId = options.bootId >>> 0;
    this.#times = Object.freeze({ ...DEFAULT_TIMES, ...options.times });
    this.#prologue = concat(PROLOGUE, deps.networkId);
  }

  // ── the owner's calls ────────────────────────────────────────────────────────────────────────────────────────────────

  /** Wants a session: starts a handshake unless there is a session or a handshake already. */
  connect(now: Now, slot: number): void {
    const session = this.#session(slot);
    if (session === undefined || session.live !== undefined) return;
    this.#want(now, session);
  }

  /** Replaces the epoch; does nothing while a handshake of ours is under way. */
  rekey(now: Now, slot: number): void {
    const session = this.#session(slot);
    if (session !== undefined) this.#want(now, session);
  }

  /** Data was sent for 15 s and nothing came back: a handshake begins, the live epoch stays until another is proven. */
  handleSilence(now: Now, slot: number): void {
    this.rekey(now, slot);
  }

  /** Forgets the peer and its secrets. The owner tells the data plane itself. */
  removePeer(_now: Now, slot: number): void {
    const session = this.#peers.get(slot);
    if (session !== undefined) this.#forget(session);
  }

  /** Forgets every peer and its secrets. */
  close(): void {
    for (const session of this.#peers.values()) this.#forget(session);
  }

  /** The next thing to do; call until undefined after every other call. */
  pollOutput(): SessionOutput | undefined {
    const output = this.#outputs[this.#outputAt];
    if (output !== undefined) {
      this.#outputAt++;
      return output;
    }
    this.#outputs.length = 0;
    this.#outputAt = 0;
    return undefined;
  }

  /** When handleTimeout() is due, monotonic ms; Infinity when nothing waits. */
  nextTimeout(): number {
    return this.#deadlines.next();
  }

  handleTimeout(now: Now): void {
    this.#lastNowMs = now.nowMs;
    for (let slot = this.#deadlines.takeDue(now.nowMs); slot >= 0; slot = this.#deadlines.takeDue(now.nowMs)) {
      const session = this.#peers.get(slot);
      if (session === undefined) continue;
      this.#timers(now, session);
      if (this.#peers.has(slot)) this.#schedule(session);
    }
  }

  /** For status; a peer never heard of gives the state of one without a session. */
  state(slot: number, nowMs: number = this.#lastNowMs): SessionState {
    const session = this.#peers.get(slot);
    const live = session?.live;
    return {
      established: live !== undefined,
      connecting: session?.attempt !== undefined,
      hybrid: live?.hybrid ?? false,
      cipher: live?.cipher ?? 0,
      epochId: live?.epochId ?? 0,
      epochAgeMs: live === undefined ? -1 : nowMs - live.installedAtMs,
      initiator: live?.exchange.initiator ?? false,
      bootId: session?.bootId,
      remoteCapabilities: live?.exchange.remoteCapabilities ?? 0,
      remoteMtuBytes: live?.exchange.remoteMtuBytes ?? 0,
      lastError: session?.lastError ?? "",
    };
  }

  /** State held for peers and half-done handshakes, for tests and metrics. */
  counts(): {
    readonly peers: number;
    readonly pending: number;
    readonly answered: number;
    readonly unprovenJoins: number;
  } {
    return {
      peers: this.#peers.size,
      pending: this.#byIndex.size,
      answered: this.#answered.size,
      unprovenJoins: this.#unprovenJoins,
    };
  }

  // ── what arrives ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * One handshake datagram that passed the gate. @param datagram anything @param from where it came from, kept
   * @returns Drop.NONE, or why it changed nothing
   */
  handleHandshake(now: Now, datagram: Uint8Array, from: EndpointBytes): Drop {
    this.#lastNowMs = now.nowMs;
    const type = datagram[0] ?? 0;
    if (handshakeBytes(type) === 0) return Drop.BAD_TYPE;
    if (datagram.length !== handshakeBytes(type)) return Drop.SHORT;
    if (type === HANDSHAKE_INIT_TYPE) return this.#handleInit(now, datagram, from);
    if (type === HANDSHAKE_RESPONSE_TYPE) return this.#handleResponse(now, datagram, from);
    return this.#handleCookie(now, datagram);
  }

  /** The first packet under an epoch authenticated in the data plane. */
  handleProof(now: Now, slot: number, epochId: number): void {
    this.#lastNowMs = now.nowMs;
    const session = this.#peers.get(slot);
    const record = session?.epochs.get(epochId);
    if (session === undefined || record === undefined || record.proven) return;
    record.proven = true;
    this.#proven(now, session, record.exchange, epochId);
    if (this.#peers.has(slot)) this.#schedule(session);
  }

  /** An authenticated inner message: kind 6, or kind 0 under a young epoch. @param payload anything; kept for a while */
  handleInner(now: Now, slot: number, epochId: number, innerKind: number, payload: Uint8Array): void {
    // The data plane may report the message before the proof.
    this.handleProof(now, slot, epochId);
    const session = this.#peers.get(slot);
    const exchange = session?.epochs.get(epochId)?.exchange;
    if (session === undefined || exchange === undefined) return;
    if (innerKind === InnerKind.RATCHET && epochId === exchange.classicEpochId) {
      if (exchange.initiator) this.#handleRatchetAnswer(now, session, exchange, payload);
      else this.#handleRatchet(now, session, exchange, payload);
    } else if (innerKind === InnerKind.KEEPALIVE && epochId === exchange.finalEpochId && !exchange.initiator) {
      this.#answerKeepalive(session, exchange);
    }
    if (this.#peers.has(slot)) this.#schedule(session);
  }

  // ── initiator ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #want(now: Now, session: PeerSession): void {
    this.#lastNowMs = now.nowMs;
    if (session.attempt !== undefined) return;
    const incoming = session.incoming;
    const yieldUntilMs =
      incoming !== undefined && incoming.stage !== Stage.DONE ? incoming.startedAtMs + this.#times.yieldMs : 0;
    session.attempt = {
      startedAtMs: now.nowMs,
      giveUpAtMs: now.nowMs + this.#times.giveUpMs,
      retryAtMs: Math.max(now.nowMs, yieldUntilMs),
      retryMs: this.#times.retryMs,
      problem: NO_ANSWER,
    };
    this.#timers(now, session);
    this.#schedule(session);
  }

  /** Sends a fresh init, or the same one again while it is young. */
  #try(now: Now, session: PeerSession, attempt: Attempt): void {
    attempt.retryAtMs = now.nowMs + jittered(attempt.retryMs, this.#times.retryJitter, this.#deps.random);
    attempt.retryMs *= this.#times.retryFactor;
    const outgoing = session.outgoing;
    if (outgoing !== undefined && now.nowMs - outgoing.startedAtMs < this.#times.initLifeMs) {
      this.#refreshMacs(now, session, outgoing);
      this.#transmit(session, undefined, outgoing.datagram);
      return;
    }
    if (outgoing !== undefined) this.#abandon(session, outgoing);
    const { random, identity, timestamps } = this.#deps;
    const localIndex = this.#freshIndex();
    const ephemeral = random.bytes(32);
    const noise = new NoiseInitiator(this.#prologue, identity.staticKeys, session.peer.staticKey, ephemeral);
    zeroise(ephemeral);
    const message = noise.writeInit(this.#payload(timestamps.nextOwn(now.wallMs), session.peer.inviteId));
    if (message === undefined) {
      attempt.problem = BAD_KEY;
      return;
    }
    const exchange = new Exchange(
      true,
      compare(identity.nodeId, session.peer.nodeId) < 0,
      now.nowMs,
      localIndex,
      encodeInit(localIndex, message),
      undefined,
      noise,
    );
    this.#refreshMacs(now, session, exchange);
    session.outgoing = exchange;
    this.#byIndex.set(localIndex, { session, exchange });
    exchange.resend.start(now.nowMs, this.#times, QUICK_INITS);
    this.#transmit(session, undefined, exchange.datagram);
  }

  #handleResponse(now: Now, datagram: Uint8Array, from: EndpointBytes): Drop {
    const view = viewOf(datagram);
    const found = this.#byIndex.get(view.getUint32(RESPONSE_RECEIVER, true));
    if (found === undefined) return Drop.UNKNOWN_INDEX;
    const { session, exchange } = found;
    const noise = exchange.noise;
    if (exchange.stage !== Stage.INIT_SENT || noise === undefined) return Drop.UNEXPECTED;
    if (exchange.badAnswers >= MAX_BAD_ANSWERS) return Drop.TOO_MANY_PENDING;
    const plain = noise.readResponse(datagram.subarray(RESPONSE_EPHEMERAL, RESPONSE_MAC1), session.peer.psk ?? NO_PSK);
    if (plain === undefined) {
      exchange.badAnswers++;
      if (session.attempt !== undefined) session.attempt.problem = NOT_AUTHENTIC;
      return Drop.AUTH;
    }
    exchange.resend.stop();
    this.#learn(exchange, decodePayload(plain), view.getUint32(RESPONSE_SENDER, true), from);
    this.#byIndex.delete(exchange.localIndex);
    if (session.attempt !== undefined) session.attempt.problem = RATCHET_FAILED;
    const hybrid = (exchange.remoteCapabilities & this.#capabilities & Capability.HYBRID) !== 0;
    if (!hybrid && this.#requireHybrid) {
      this.#abandon(session, exchange);
      this.#giveUp(now, session, NO_HYBRID);
      return Drop.NONE;
    }
    this.#noticeBoot(session, exchange);
    this.#installClassic(
      now,
      session,
      exchange,
      noise.split(),
      noise.exportSecret(EXPORTER_INFO),
      noise.handshakeHash(),
    );
    if (!hybrid) {
      exchange.finalEpochId = exchange.classicEpochId;
      this.#use(now, session, exchange, exchange.finalEpochId);
      this.#confirm(now, session, exchange);
    } else {
      if (!this.#requireHybrid && session.live === undefined)
        this.#use(now, session, exchange, exchange.classicEpochId);
      exchange.kem = new KemKeyPair(this.#deps.random);
      exchange.hybridIndex = this.#freshIndex();
      exchange.ratchetOut = ratchetMessage(exchange.hybridIndex, exchange.kem.publicKey);
      exchange.stage = Stage.RATCHET_SENT;
      exchange.resend.start(now.nowMs, this.#times);
      this.#inner(session, exchange.classicEpochId, InnerKind.RATCHET, exchange.ratchetOut);
    }
    this.#schedule(session);
    return Drop.NONE;
  }

  #handleRatchetAnswer(now: Now, session: PeerSession, exchange: Exchange, payload: Uint8Array): void {
    const { kem, exporter, transcriptHash } = exchange;
    if (exchange.stage !== Stage.RATCHET_SENT || payload.length !== RATCHET_INDEX_BYTES + KEM_CIPHERTEXT_BYTES) return;
    if (kem === undefined || exporter === undefined || transcriptHash === undefined) return;
    const ciphertext = payload.subarray(RATCHET_INDEX_BYTES);
    const secret = kem.decapsulate(ciphertext);
    if (secret === undefined) return;
    const keys = hybridKeys(transcriptHash, kem.publicKey, ciphertext, exporter, secret);
    zeroise(secret);
    exchange.forgetSecrets();
    this.#installHybrid(now, session, exchange, keys, viewOf(payload).getUint32(0, true));
    if (session.live?.epochId !== exchange.classicEpochId) this.#retire(session, exchange.classicEpochId);
    this.#confirm(now, session, exchange);
  }

  /** Keepalives under the final epoch until something comes back under it. */
  #confirm(now: Now, session: PeerSession, exchange: Exchange): void {
    exchange.stage = Stage.CONFIRMING;
    exchange.resend.start(now.nowMs, this.#times);
    this.#inner(session, exchange.finalEpochId, InnerKind.KEEPALIVE, EMPTY);
  }

  #handleCookie(now: Now, datagram: Uint8Array): Drop {
    const found = this.#byIndex.get(viewOf(datagram).getUint32(COOKIE_RECEIVER, true));
    if (found === undefined) return Drop.UNKNOWN_INDEX;
    const { session, exchange } = found;
    const macAt = mac1Offset(exchange.datagram[0] as number);
    const cookie = openCookie(
      cookieKey(session.peer.staticKey),
      datagram.subarray(COOKIE_SALT, COOKIE_SALT + SALT_BYTES),
      exchange.datagram.subarray(macAt, macAt + 16),
      datagram.subarray(COOKIE_SEALED),
    );
    if (cookie === undefined) return Drop.AUTH;
    const same = session.cookie !== undefined && constantTimeEqual(session.cookie, cookie);
    session.cookie = cookie;
    session.cookieUntilMs = now.nowMs + this.#times.cookieMs;
    if (same || ++exchange.requestedResends > MAX_REQUESTED_RESENDS) return Drop.UNEXPECTED;
    this.#refreshMacs(now, session, exchange);
    this.#transmit(session, exchange.from, exchange.datagram);
    return Drop.NONE;
  }

  // ── responder ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #handleInit(now: Now, datagram: Uint8Array, from: EndpointBytes): Drop {
    const body = datagram.subarray(0, INIT_MAC1);
    const retained = this.#answered.get(ephemeralOf(datagram));
    if (retained !== undefined && equal(retained.exchange.answered as Uint8Array, body)) {
      return this.#answerAgain(now, retained.session, retained.exchange, from);
    }
    const { identity, timestamps } = this.#deps;
    const noise = new NoiseResponder(this.#prologue, identity.staticKeys);
    const message = datagram.subarray(INIT_EPHEMERAL, INIT_MAC1);
    const staticKey = noise.readInitStatic(message);
    const plain = staticKey === undefined ? undefined : noise.readInitPayload(message);
    if (staticKey === undefined || plain === undefined) return this.#refuse(noise, Drop.AUTH);
    const payload = decodePayload(plain);
    let peer = this.#deps.peerByStaticKey(staticKey);
    if (equal(staticKey, identity.staticKeys.publicKey)) return this.#refuse(noise, Drop.UNKNOWN_PEER);
    if (peer === undefined && payload.inviteId === undefined) return this.#refuse(noise, Drop.UNKNOWN_PEER);
    const last = timestamps.last(staticKey);
    if (last !== undefined && compare(payload.timestamp, last) <= 0) return this.#refuse(noise, Drop.STALE_TIMESTAMP);
    const joins = peer === undefined || this.#peers.get(peer.slot)?.unprovenJoin === true;
    if (peer === undefined) {
      if (this.#unprovenJoins >= MAX_UNPROVEN_JOINS) return this.#refuse(noise, Drop.TOO_MANY_PENDING);
      peer = this.#deps.provisionalPeer(staticKey, payload.inviteId as Uint8Array, timestampWallMs(payload.timestamp));
      if (peer === undefined) return this.#refuse(noise, Drop.UNKNOWN_PEER);
    }
    const session = this.#session(peer.slot);
    if (session === undefined) return this.#refuse(noise, Drop.UNKNOWN_PEER);
    timestamps.accept(staticKey, payload.timestamp, now);
    if (this.#requireHybrid && (payload.capabilities & Capability.HYBRID) === 0) {
      session.lastError = NO_HYBRID;
      return this.#refuse(noise, Drop.UNEXPECTED);
    }
    const unprovenJoin = joins && session.live === undefined;
    if (unprovenJoin && !session.unprovenJoin) {
      session.unprovenJoin = true;
      this.#unprovenJoins++;
    }
    return this.#respond(now, session, noise, payload, datagram, from);
  }

  #respond(
    now: Now,
    session: PeerSession,
    noise: NoiseResponder,
    payload: HandshakePayload,
    datagram: Uint8Array,
    from: EndpointBytes,
  ): Drop {
    const { random, identity, timestamps } = this.#deps;
    const ephemeral = random.bytes(32);
    const answer = this.#payload(timestamps.nextOwn(now.wallMs), undefined);
    const message = noise.writeResponse(answer, session.peer.psk ?? NO_PSK, ephemeral);
    zeroise(ephemeral);
    if (message === undefined) return this.#refuse(noise, Drop.AUTH);
    if (session.incoming !== undefined) this.#abandon(session, session.incoming);
    const localIndex = this.#freshIndex();
    const remoteIndex = viewOf(datagram).getUint32(INIT_SENDER, true);
    const exchange = new Exchange(
      false,
      compare(session.peer.nodeId, identity.nodeId) < 0,
      now.nowMs,
      localIndex,
      encodeResponse(localIndex, remoteIndex, message),
      datagram.slice(0, INIT_MAC1),
      undefined,
    );
    this.#learn(exchange, payload, remoteIndex, from);
    this.#refreshMacs(now, session, exchange);
    session.incoming = exchange;
    this.#byIndex.set(localIndex, { session, exchange });
    this.#answered.set(ephemeralOf(datagram), { session, exchange });
    exchange.deadlineMs = now.nowMs + (session.unprovenJoin ? this.#times.joinMs : this.#times.unprovenMs);
    exchange.resend.start(now.nowMs, this.#times);
    this.#installClassic(
      now,
      session,
      exchange,
      noise.split(),
      noise.exportSecret(EXPORTER_INFO),
      noise.handshakeHash(),
    );
    noise.destroy();
    this.#transmit(session, from, exchange.datagram);
    this.#schedule(session);
    return Drop.NONE;
  }

  #answerAgain(now: Now, session: PeerSession, exchange: Exchange, from: EndpointBytes): Drop {
    if (exchange.stage !== Stage.RESPONDED || ++exchange.requestedResends > MAX_REQUESTED_RESENDS)
      return Drop.UNEXPECTED;
    this.#refreshMacs(now, session, exchange);
    this.#transmit(session, from, exchange.datagram);
    return Drop.NONE;
  }

  #handleRatchet(now: Now, session: PeerSession, exchange: Exchange, payload: Uint8Array): void {
    if (exchange.ratchetIn !== undefined) {
      const again = exchange.stage === Stage.RATCHET_ANSWERED && equal(exchange.ratchetIn, payload);
      if (again) this.#inner(session, exchange.classicEpochId, InnerKind.RATCHET, exchange.ratchetOut as Uint8Array);
      return;
    }
    const { exporter, transcriptHash } = exchange;
    if (
      payload.length !== RATCHET_INDEX_BYTES + KEM_PUBLIC_KEY_BYTES ||
      exporter === undefined ||
      transcriptHash === undefined
    )
      return;
    const publicKey = payload.subarray(RATCHET_INDEX_BYTES);
    const encapsulated = kemEncapsulate(publicKey);
    if (encapsulated === undefined) return;
    const { ciphertext, secret } = encapsulated;
    const keys = hybridKeys(transcriptHash, publicKey, ciphertext, exporter, secret);
    zeroise(secret);
    exchange.forgetSecrets();
    exchange.ratchetIn = Uint8Array.from(payload);
    exchange.hybridIndex = this.#freshIndex();
    exchange.ratchetOut = ratchetMessage(exchange.hybridIndex, ciphertext);
    exchange.stage = Stage.RATCHET_ANSWERED;
    exchange.deadlineMs = now.nowMs + this.#times.unprovenMs;
    this.#installHybrid(now, session, exchange, keys, viewOf(payload).getUint32(0, true));
    exchange.resend.start(now.nowMs, this.#times);
    this.#inner(session, exchange.classicEpochId, InnerKind.RATCHET, exchange.ratchetOut);
  }

  /** The initiator repeats its keepalive until it hears one: so does it here, as often as it asks, within bounds. */
  #answerKeepalive(session: PeerSession, exchange: Exchange): void {
    if (exchange.stage !== Stage.DONE || ++exchange.requestedResends > MAX_REQUESTED_RESENDS) return;
    this.#inner(session, exchange.finalEpochId, InnerKind.KEEPALIVE, EMPTY);
  }

  // ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The peer has shown that it holds the keys of this epoch. */
  #proven(now: Now, session: PeerSession, exchange: Exchange, epochId: number): void {
    if (epochId === exchange.finalEpochId) {
      const waits = exchange.initiator ? Stage.CONFIRMING : Stage.RATCHET_ANSWERED;
      if (exchange.stage === waits) this.#complete(now, session, exchange);
      return;
    }
    if (exchange.initiator || exchange.stage !== Stage.RESPONDED) return;
    exchange.stage = Stage.PROVEN;
    exchange.resend.stop();
    exchange.deadlineMs = now.nowMs + this.#times.unprovenMs;
    this.#unanswer(exchange);
    this.#noticeBoot(session, exchange);
    if (session.unprovenJoin) {
      session.unprovenJoin = false;
      this.#unprovenJoins--;
    }
    const hybrid = (exchange.remoteCapabilities & this.#capabilities & Capability.HYBRID) !== 0;
    if (!hybrid) {
      exchange.finalEpochId = epochId;
      this.#complete(now, session, exchange);
    } else if (!this.#requireHybrid && session.live === undefined) {
      this.#use(now, session, exchange, epochId);
    }
  }

  /** The exchange has reached its final epoch, proven by the peer. */
  #complete(now: Now, session: PeerSession, exchange: Exchange): void {
    const epochId = exchange.finalEpochId;
    exchange.stage = Stage.DONE;
    exchange.deadlineMs = Infinity;
    exchange.resend.stop();
    exchange.forgetSecrets();
    const live = session.live;
    // Crossed: both began before either was done. Both sides then settle on the one begun by the smaller id, whatever order they saw.
    const crossed =
      live !== undefined && live.exchange.initiator !== exchange.initiator && exchange.startedAtMs < live.activatedAtMs;
    if (!crossed || exchange.begunBySmaller || live.exchange.stage !== Stage.DONE)
      this.#use(now, session, exchange, epochId);
    if (epochId !== exchange.classicEpochId) this.#retire(session, exchange.classicEpochId);
    exchange.ratchetIn = undefined;
    exchange.ratchetOut = undefined;
    if (!exchange.initiator) {
      this.#inner(session, epochId, InnerKind.KEEPALIVE, EMPTY);
      exchange.resend.start(now.nowMs, this.#times, KEEPALIVE_REPEATS);
    }
    const outgoing = session.outgoing;
    if (exchange.initiator) {
      session.outgoing = undefined;
      session.attempt = undefined;
    } else if (outgoing === undefined || outgoing.stage === Stage.INIT_SENT) {
      // The wish behind our own init is fulfilled; an answer that still comes is ignored and its responder forgets it.
      if (outgoing !== undefined) this.#abandon(session, outgoing);
      session.attempt = undefined;
    }
  }

  /** Sends under this epoch from now on; the others stay open for a while, except those of an exchange still under way. */
  #use(now: Now, session: PeerSession, exchange: Exchange, epochId: number): void {
    const record = session.epochs.get(epochId);
    if (record === undefined || session.live?.epochId === epochId) return;
    const rekey = session.live !== undefined;
    record.retired = false;
    session.live = {
      epochId,
      exchange,
      hybrid: record.hybrid,
      cipher: this.#cipher(exchange),
      installedAtMs: record.installedAtMs,
      activatedAtMs: now.nowMs,
    };
    session.rekeyAtMs = record.installedAtMs + rekeyAgeMs(exchange.initiator, this.#times, this.#deps.random);
    session.lastError = "";
    const peer = session.peer.slot;
    this.#outputs.push({ kind: "activate", peer, epochId });
    for (const [id, other] of session.epochs) {
      const underWay =
        other.exchange.stage !== Stage.DONE &&
        (other.exchange === session.outgoing || other.exchange === session.incoming);
      if (id !== epochId && !underWay) this.#retire(session, id);
    }
    this.#outputs.push({
      kind: "established",
      peer,
      epochId,
      hybrid: record.hybrid,
      initiator: exchange.initiator,
      rekey,
    });
  }

  #retire(session: PeerSession, epochId: number): void {
    const record = session.epochs.get(epochId);
    if (record === undefined || record.retired) return;
    record.retired = true;
    this.#outputs.push({ kind: "retire", peer: session.peer.slot, epochId, afterMs: this.#times.overlapMs });
  }

  /** Ends an exchange before its time. Epochs that may already carry data of the peer stay open like any replaced one. */
  #abandon(session: PeerSession, exchange: Exchange): void {
    if (exchange.stage !== Stage.DONE) {
      for (const id of [exchange.classicEpochId, exchange.finalEpochId])
        if (id !== session.live?.epochId) this.#retire(session, id);
    }
    if (exchange.stage !== Stage.DONE) exchange.stage = Stage.ABANDONED;
    exchange.resend.stop();
    exchange.deadlineMs = Infinity;
    exchange.forgetSecrets();
    this.#unanswer(exchange);
    if (this.#byIndex.get(exchange.localIndex)?.exchange === exchange) this.#byIndex.delete(exchange.localIndex);
    if (session.outgoing === exchange) session.outgoing = undefined;
    if (session.incoming === exchange) session.incoming = undefined;
  }

  /** No more answers to the init of this exchange. */
  #unanswer(exchange: Exchange): void {
    if (exchange.answered === undefined) return;
    this.#answered.delete(ephemeralOf(exchange.answered));
    this.#byIndex.delete(exchange.localIndex);
  }

  #giveUp(now: Now, session: PeerSession, reason: string): void {
    session.attempt = undefined;
    session.lastError = reason;
    if (session.outgoing !== undefined) this.#abandon(session, session.outgoing);
    if (session.live !== undefined) session.rekeyAtMs = now.nowMs + this.#times.rekeyAgainMs;
    this.#outputs.push({ kind: "failed", peer: session.peer.slot, reason });
  }

  #forget(session: PeerSession): void {
    if (session.outgoing !== undefined) this.#abandon(session, session.outgoing);
    if (session.incoming !== undefined) this.#abandon(session, session.incoming);
    for (const record of session.epochs.values()) this.#indices.delete(record.localIndex);
    if (session.unprovenJoin) this.#unprovenJoins--;
    zeroise(session.cookie);
    this.#peers.delete(session.peer.slot);
    this.#deadlines.set(session.peer.slot, Infinity);
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #timers(now: Now, session: PeerSession): void {
    const nowMs = now.nowMs;
    for (const [id, record] of session.epochs) {
      if (nowMs - record.installedAtMs < this.#times.maxAgeMs) continue;
      session.epochs.delete(id);
      this.#indices.delete(record.localIndex);
      if (session.live?.epochId === id) {
        session.live = undefined;
        session.rekeyAtMs = Infinity;
      }
    }
    const incoming = session.incoming;
    if (incoming !== undefined) {
      if (nowMs >= incoming.deadlineMs) {
        this.#abandon(session, incoming);
        if (session.unprovenJoin) {
          this.#outputs.push({
            kind: "failed",
            peer: session.peer.slot,
            reason: "the joining node did not complete its handshake",
          });
          this.#forget(session);
          return;
        }
      } else if (nowMs >= incoming.resend.dueMs && incoming.resend.fire(nowMs, this.#times) === "send") {
        this.#sendRetained(now, session, incoming);
      }
    }
    if (nowMs >= session.rekeyAtMs) {
      const mine = session.live?.exchange.initiator === true;
      if (mine || this.#deps.flowing?.(session.peer.slot) !== false) {
        session.rekeyAtMs = Infinity;
        if (session.live !== undefined) this.#want(now, session);
      } else {
        session.rekeyAtMs = nowMs + this.#times.retryMs;
      }
    }
    this.#outgoingTimers(now, session);
  }

  #outgoingTimers(now: Now, session: PeerSession): void {
    const nowMs = now.nowMs;
    const outgoing = session.outgoing;
    if (outgoing !== undefined && nowMs >= outgoing.resend.dueMs) {
      if (outgoing.resend.fire(nowMs, this.#times) === "send") {
        this.#sendRetained(now, session, outgoing);
      } else if (outgoing.stage !== Stage.INIT_SENT) {
        // The ratchet failed, by loss or by a wrong ciphertext: once more from the start, unless a session came about meanwhile.
        this.#abandon(session, outgoing);
        const attempt = session.attempt;
        if (attempt !== undefined) {
          attempt.retryAtMs = nowMs;
          if (session.live !== undefined && session.live.activatedAtMs > attempt.startedAtMs && session.live.hybrid)
            session.attempt = undefined;
        }
      }
    }
    const attempt = session.attempt;
    if (attempt === undefined) return;
    const waiting = session.outgoing === undefined || session.outgoing.stage === Stage.INIT_SENT;
    if (!waiting) return;
    if (nowMs >= attempt.giveUpAtMs) this.#giveUp(now, session, attempt.problem);
    else if (nowMs >= attempt.retryAtMs) this.#try(now, session, attempt);
  }

  #sendRetained(now: Now, session: PeerSession, exchange: Exchange): void {
    switch (exchange.stage) {
      case Stage.INIT_SENT:
      case Stage.RESPONDED:
        this.#refreshMacs(now, session, exchange);
        this.#transmit(session, exchange.from, exchange.datagram);
        return;
      case Stage.RATCHET_SENT:
      case Stage.RATCHET_ANSWERED:
        this.#inner(session, exchange.classicEpochId, InnerKind.RATCHET, exchange.ratchetOut as Uint8Array);
        return;
      case Stage.CONFIRMING:
      case Stage.DONE:
        this.#inner(session, exchange.finalEpochId, InnerKind.KEEPALIVE, EMPTY);
        return;
      default:
    }
  }

  #schedule(session: PeerSession): void {
    let next = session.rekeyAtMs;
    for (const record of session.epochs.values()) next = Math.min(next, record.installedAtMs + this.#times.maxAgeMs);
    const { incoming, outgoing, attempt } = session;
    if (incoming !== undefined) next = Math.min(next, incoming.deadlineMs, incoming.resend.dueMs);
    if (outgoing !== undefined) next = Math.min(next, outgoing.resend.dueMs);
    const waiting = outgoing === undefined || outgoing.stage === Stage.INIT_SENT;
    if (attempt !== undefined && waiting) next = Math.min(next, attempt.retryAtMs, attempt.giveUpAtMs);
    this.#deadlines.set(session.peer.slot, next);
  }

  // ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #session(slot: number): PeerSession | undefined {
    const known = this.#peers.get(slot);
    const peer = this.#deps.peerBySlot(slot);
    if (peer === undefined) return undefined;
    if (known !== undefined) {
      known.peer = peer;
      return known;
    }
    const session = new PeerSession(peer);
    this.#peers.set(slot, session);
    return session;
  }

  #refuse(noise: NoiseResponder, reason: Drop): Drop {
    noise.destroy();
    return reason;
  }

  #payload(timestamp: Uint8Array, inviteId: Uint8Array | undefined): Uint8Array {
    return encodePayload({
      timestamp,
      bootId: this.#bootId,
      capabilities: this.#capabilities,
      mtuBytes: this.#mtuBytes,
      inviteId,
    });
  }

  #learn(exchange: Exchange, payload: HandshakePayload, remoteIndex: number, from: EndpointBytes): void {
    exchange.remoteIndex = remoteIndex;
    exchange.remoteCapabilities = payload.capabilities;
    exchange.remoteMtuBytes = payload.mtuBytes;
    exchange.remoteBootId = payload.bootId;
    exchange.from = Uint8Array.from(from);
  }

  #noticeBoot(session: PeerSession, exchange: Exchange): void {
    const restarted = session.bootId !== undefined && session.bootId !== exchange.remoteBootId;
    session.bootId = exchange.remoteBootId;
    if (restarted) this.#outputs.push({ kind: "restarted", peer: session.peer.slot });
  }

  #cipher(exchange: Exchange): Cipher {
    const hardware = exchange.remoteCapabilities & this.#capabilities & Capability.HARDWARE_AES;
    return hardware !== 0 ? Cipher.AES_256_GCM : Cipher.CHACHA20_POLY1305;
  }

  #installClassic(
    now: Now,
    session: PeerSession,
    exchange: Exchange,
    keys: TransportKeys,
    exporter: Uint8Array,
    transcriptHash: Uint8Array,
  ): void {
    exchange.exporter = exporter;
    exchange.transcriptHash = transcriptHash;
    exchange.classicEpochId = this.#install(
      now,
      session,
      exchange,
      keys,
      exchange.localIndex,
      exchange.remoteIndex,
      false,
    );
  }

  #installHybrid(now: Now, session: PeerSession, exchange: Exchange, keys: TransportKeys, remoteIndex: number): void {
    exchange.finalEpochId = this.#install(now, session, exchange, keys, exchange.hybridIndex, remoteIndex, true);
  }

  #install(
    now: Now,
    session: PeerSession,
    exchange: Exchange,
    keys: TransportKeys,
    localIndex: number,
    remoteIndex: number,
    hybrid: boolean,
  ): number {
    const epochId = this.#nextEpochId++;
    this.#trimEpochs(session);
    session.epochs.set(epochId, {
      exchange,
      hybrid,
      localIndex,
      installedAtMs: now.nowMs,
      proven: false,
      retired: false,
    });
    this.#indices.add(localIndex);
    this.#outputs.push({
      kind: "install",
      peer: session.peer.slot,
      endpoint: hybrid ? undefined : exchange.from,
      epoch: {
        epochId,
        localIndex,
        remoteIndex,
        cipher: this.#cipher(exchange),
        sendKey: exchange.initiator ? keys.initiatorToResponder : keys.responderToInitiator,
        receiveKey: exchange.initiator ? keys.responderToInitiator : keys.initiatorToResponder,
        hybrid,
        userData: hybrid || !this.#requireHybrid,
        initiator: exchange.initiator,
        remoteCapabilities: exchange.remoteCapabilities,
        remoteMtuBytes: exchange.remoteMtuBytes,
      },
    });
    return epochId;
  }

  /** The data plane keeps 4 epochs of a peer; what is far older than those need not be remembered here. */
  #trimEpochs(session: PeerSession): void {
    for (const [id, record] of session.epochs) {
      if (session.epochs.size < MAX_EPOCH_RECORDS) return;
      if (id === session.live?.epochId || record.exchange === session.incoming || record.exchange === session.outgoing)
        continue;
      session.epochs.delete(id);
      this.#indices.delete(record.localIndex);
    }
  }

  #freshIndex(): number {
    for (;;) {
      const index = this.#deps.random.u32();
      if (index !== 0 && !this.#indices.has(index) && !this.#byIndex.has(index)) return index;
    }
  }

  #refreshMacs(now: Now, session: PeerSession, exchange: Exchange): void {
    if (now.nowMs >= session.cookieUntilMs) session.cookie = undefined;
    writeMacs(exchange.datagram, session.macKey, session.cookie);
  }

  #transmit(session: PeerSession, to: EndpointBytes | undefined, datagram: Uint8Array): void {
    this.#outputs.push({ kind: "transmit", peer: session.peer.slot, to, datagram: Uint8Array.from(datagram) });
  }

  #inner(session: PeerSession, epochId: number, innerKind: number, payload: Uint8Array): void {
    this.#outputs.push({ kind: "inner", peer: session.peer.slot, epochId, innerKind, payload });
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function ephemeralOf(init: Uint8Array): string {
  return init.subarray(INIT_EPHEMERAL, INIT_EPHEMERAL + 32).toHex();
}

function ratchetMessage(index: number, body: Uint8Array): Uint8Array {
  const message = new Uint8Array(RATCHET_INDEX_BYTES + body.length);
  viewOf(message).setUint32(0, index, true);
  message.set(body, RATCHET_INDEX_BYTES);
  return message;
}
