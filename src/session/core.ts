/**
 * What the two roles of a handshake share: the peers, the indices in use, the outputs, and the moves of an epoch through its life
 * (install, use, retire). One object per Sessions; src/session/initiator.ts and responder.ts act on it.
 */
import { concat, utf8 } from "../base/bytes.ts";
import type { Now } from "../base/clock.ts";
import type { TransportKeys } from "../crypto/noise.ts";
import { zeroise } from "../crypto/secret.ts";
import { InnerKind } from "../wire/data.ts";
import { Deadlines } from "./deadlines.ts";
import type { SessionsDeps, SessionsOptions } from "./deps.ts";
import { type Exchange, Stage } from "./exchange.ts";
import { encodePayload, ephemeralOf, type HandshakePayload, writeMacs } from "./handshake.ts";
import { type Live, PeerSession } from "./peer-session.ts";
import { DEFAULT_TIMES, rekeyAgeMs, type SessionTimes } from "./rekey.ts";
import { Capability, Cipher, type EndpointBytes, type SessionOutput } from "./types.ts";

export const EMPTY: Uint8Array = new Uint8Array(0);
export const NO_PSK: Uint8Array = new Uint8Array(32);
export const NO_HYBRID = 'it offers no post-quantum key exchange, and pq = "require" is set here';
/** Resends of one message on the peer's request, per exchange. */
export const MAX_REQUESTED_RESENDS = 32;
const MAX_EPOCH_RECORDS = 16;
/** Blind repeats of the responder's last keepalive. */
const KEEPALIVE_REPEATS = 2;
const PROLOGUE = utf8("weft/1");

/** An exchange and whose it is. */
export interface Pending {
  readonly session: PeerSession;
  readonly exchange: Exchange;
}

export class SessionCore {
  readonly deps: SessionsDeps;
  readonly times: SessionTimes;
  readonly requireHybrid: boolean;
  readonly prologue: Uint8Array;
  readonly peers: Map<number, PeerSession> = new Map();
  readonly deadlines: Deadlines = new Deadlines();
  readonly outputs: SessionOutput[] = [];
  /** Our sender indices of handshakes whose datagram may still be answered. */
  readonly byIndex: Map<number, Pending> = new Map();
  /** Inits that we answered and whose initiator has not proven itself, by their ephemeral key in hex. */
  readonly answered: Map<string, Pending> = new Map();
  unprovenJoins = 0;
  readonly #capabilities: number;
  readonly #mtuBytes: number;
  readonly #bootId: number;
  /** Receiver indices of installed epochs. */
  readonly #indices = new Set<number>();
  #nextEpochId = 1;

  constructor(deps: SessionsDeps, options: SessionsOptions) {
    this.deps = deps;
    this.requireHybrid = (options.pq ?? "require") === "require";
    this.#capabilities = options.capabilities ?? Capability.HYBRID;
    this.#mtuBytes = options.mtuBytes ?? 1500;
    this.#bootId = options.bootId >>> 0;
    this.times = Object.freeze({ ...DEFAULT_TIMES, ...options.times });
    this.prologue = concat(PROLOGUE, deps.networkId);
  }

  /** The peer's state, made when there is none. @returns undefined when the owner does not know the slot */
  session(slot: number): PeerSession | undefined {
    const known = this.peers.get(slot);
    const peer = this.deps.peerBySlot(slot);
    if (peer === undefined) return undefined;
    if (known !== undefined) {
      known.peer = peer;
      return known;
    }
    const session = new PeerSession(peer);
    this.peers.set(slot, session);
    return session;
  }

  /** Our handshake payload, 40 bytes. */
  payload(timestamp: Uint8Array, inviteId: Uint8Array | undefined): Uint8Array {
    return encodePayload({
      timestamp,
      bootId: this.#bootId,
      capabilities: this.#capabilities,
      mtuBytes: this.#mtuBytes,
      inviteId,
    });
  }

  /** Takes over what the peer said of itself. */
  learn(exchange: Exchange, payload: HandshakePayload, remoteIndex: number, from: EndpointBytes): void {
    exchange.remoteIndex = remoteIndex;
    exchange.remoteCapabilities = payload.capabilities;
    exchange.remoteMtuBytes = payload.mtuBytes;
    exchange.remoteBootId = payload.bootId;
    exchange.from = Uint8Array.from(from);
  }

  /** Both ends know the hybrid exchange. */
  bothHybrid(exchange: Exchange): boolean {
    return (exchange.remoteCapabilities & this.#capabilities & Capability.HYBRID) !== 0;
  }

  /** Another boot id than before: the peer restarted. Only for an authenticated, fresh message. */
  noticeBoot(session: PeerSession, exchange: Exchange): void {
    const restarted = session.bootId !== undefined && session.bootId !== exchange.remoteBootId;
    session.bootId = exchange.remoteBootId;
    if (restarted) this.outputs.push({ kind: "restarted", peer: session.peer.slot });
  }

  /** A random index that no epoch or handshake of ours has. */
  freshIndex(): number {
    for (;;) {
      const index = this.deps.random.u32();
      if (index !== 0 && !this.#indices.has(index) && !this.byIndex.has(index)) return index;
    }
  }

  /** Begins receiving under the keys of the Noise handshake. @param exporter,transcriptHash for the ratchet; owned by the exchange */
  installClassic(
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

  /** Begins receiving under the keys of the ratchet. */
  installHybrid(now: Now, session: PeerSession, exchange: Exchange, keys: TransportKeys, remoteIndex: number): void {
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
    this.outputs.push({
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
        userData: hybrid || !this.requireHybrid,
        initiator: exchange.initiator,
        remoteCapabilities: exchange.remoteCapabilities,
        remoteMtuBytes: exchange.remoteMtuBytes,
      },
    });
    return epochId;
  }

  /** Sends under this epoch from now on; the others stay open for a while, except those of an exchange still under way. */
  use(now: Now, session: PeerSession, exchange: Exchange, epochId: number): void {
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
    // it comes to use with its classic keys, and again with its hybrid ones
    if (!rekey) exchange.isFirst = true;
    const ageMs = rekeyAgeMs(exchange.initiator, exchange.isFirst, this.times, this.deps.random);
    session.rekeyAtMs = record.installedAtMs + ageMs;
    session.lastError = "";
    const peer = session.peer.slot;
    this.outputs.push({ kind: "activate", peer, epochId });
    for (const [id, other] of session.epochs) {
      const underWay =
        other.exchange.stage !== Stage.DONE &&
        (other.exchange === session.outgoing || other.exchange === session.incoming);
      if (id !== epochId && !underWay) this.retire(session, id);
    }
    this.outputs.push({
      kind: "established",
      peer,
      epochId,
      hybrid: record.hybrid,
      initiator: exchange.initiator,
      rekey,
    });
  }

  /** The exchange has reached its final epoch, proven by the peer. */
  complete(now: Now, session: PeerSession, exchange: Exchange): void {
    const epochId = exchange.finalEpochId;
    exchange.stage = Stage.DONE;
    exchange.deadlineMs = Infinity;
    exchange.resend.stop();
    exchange.forgetSecrets();
    if (!this.#yields(session.live, exchange)) this.use(now, session, exchange, epochId);
    if (epochId !== exchange.classicEpochId) this.retire(session, exchange.classicEpochId);
    exchange.ratchetIn = undefined;
    exchange.ratchetOut = undefined;
    if (!exchange.initiator) {
      this.inner(session, epochId, InnerKind.KEEPALIVE, EMPTY);
      exchange.resend.start(now.nowMs, this.times, KEEPALIVE_REPEATS);
    }
    const outgoing = session.outgoing;
    if (exchange.initiator) {
      session.outgoing = undefined;
      session.attempt = undefined;
    } else if (outgoing === undefined || outgoing.stage === Stage.INIT_SENT) {
      // The wish behind our own init is fulfilled; an answer that still comes is ignored and its responder forgets it.
      if (outgoing !== undefined) this.abandon(session, outgoing);
      session.attempt = undefined;
    }
  }

  /**
   * Whether a completed exchange leaves the sending to the live epoch: both were begun before either was done (crossed), and the live one was
   * begun by the smaller id. Both sides have to judge alike: a responder is done when it uses the epoch, which the initiator cannot see;
   * so on the initiator's side its confirmation counts, without which the responder cannot have been done.
   */
  #yields(live: Live | undefined, exchange: Exchange): boolean {
    if (live === undefined || live.exchange.initiator === exchange.initiator) return false;
    if (live.exchange.stage !== Stage.DONE) return false;
    const doneAtMs = live.exchange.initiator ? live.exchange.confirmedAtMs : live.activatedAtMs;
    return exchange.startedAtMs < doneAtMs && !exchange.begunBySmaller;
  }

  /** Stops receiving under an epoch once its overlap has passed. */
  retire(session: PeerSession, epochId: number): void {
    const record = session.epochs.get(epochId);
    if (record === undefined || record.retired) return;
    record.retired = true;
    this.outputs.push({ kind: "retire", peer: session.peer.slot, epochId, afterMs: this.times.overlapMs });
  }

  /** Ends an exchange before its time. Epochs that may already carry data of the peer stay open like any replaced one. */
  abandon(session: PeerSession, exchange: Exchange): void {
    if (exchange.stage !== Stage.DONE) {
      for (const id of [exchange.classicEpochId, exchange.finalEpochId])
        if (id !== session.live?.epochId) this.retire(session, id);
    }
    if (exchange.stage !== Stage.DONE) exchange.stage = Stage.ABANDONED;
    exchange.resend.stop();
    exchange.deadlineMs = Infinity;
    exchange.forgetSecrets();
    this.unanswer(exchange);
    if (this.byIndex.get(exchange.localIndex)?.exchange === exchange) this.byIndex.delete(exchange.localIndex);
    if (session.outgoing === exchange) session.outgoing = undefined;
    if (session.incoming === exchange) session.incoming = undefined;
  }

  /** No more answers to the init of this exchange. */
  unanswer(exchange: Exchange): void {
    if (exchange.answered === undefined) return;
    this.answered.delete(ephemeralOf(exchange.answered));
    this.byIndex.delete(exchange.localIndex);
  }

  /** Forgets an epoch that the data plane has destroyed by now. */
  dropEpoch(session: PeerSession, epochId: number): void {
    const record = session.epochs.get(epochId);
    if (record !== undefined) this.#indices.delete(record.localIndex);
    session.epochs.delete(epochId);
  }

  /** The wish for a session ends without one. */
  giveUp(now: Now, session: PeerSession, reason: string): void {
    session.attempt = undefined;
    session.lastError = reason;
    if (session.outgoing !== undefined) this.abandon(session, session.outgoing);
    if (session.live !== undefined) session.rekeyAtMs = now.nowMs + this.times.rekeyAgainMs;
    this.outputs.push({ kind: "failed", peer: session.peer.slot, reason });
  }

  /** Drops everything known of a peer. */
  forget(session: PeerSession): void {
    if (session.outgoing !== undefined) this.abandon(session, session.outgoing);
    if (session.incoming !== undefined) this.abandon(session, session.incoming);
    for (const record of session.epochs.values()) this.#indices.delete(record.localIndex);
    if (session.unprovenJoin) this.unprovenJoins--;
    zeroise(session.cookie);
    this.peers.delete(session.peer.slot);
    this.deadlines.set(session.peer.slot, Infinity);
  }

  /** Sets the peer's next deadline from all that it waits for. */
  schedule(session: PeerSession): void {
    let next = session.rekeyAtMs;
    for (const record of session.epochs.values()) next = Math.min(next, record.installedAtMs + this.times.maxAgeMs);
    const { incoming, outgoing, attempt } = session;
    if (incoming !== undefined) next = Math.min(next, incoming.deadlineMs, incoming.resend.dueMs);
    if (outgoing !== undefined) next = Math.min(next, outgoing.resend.dueMs);
    const waiting = outgoing === undefined || outgoing.stage === Stage.INIT_SENT;
    if (attempt !== undefined && waiting) next = Math.min(next, attempt.retryAtMs, attempt.giveUpAtMs);
    this.deadlines.set(session.peer.slot, next);
  }

  /** mac1 and, while a cookie is fresh, mac2 of our message. */
  refreshMacs(now: Now, session: PeerSession, exchange: Exchange): void {
    if (now.nowMs >= session.cookieUntilMs) session.cookie = undefined;
    writeMacs(exchange.datagram, session.macKey, session.cookie);
  }

  transmit(session: PeerSession, to: EndpointBytes | undefined, datagram: Uint8Array): void {
    this.outputs.push({ kind: "transmit", peer: session.peer.slot, to, datagram: Uint8Array.from(datagram) });
  }

  inner(session: PeerSession, epochId: number, innerKind: number, payload: Uint8Array): void {
    this.outputs.push({ kind: "inner", peer: session.peer.slot, epochId, innerKind, payload });
  }

  #cipher(exchange: Exchange): Cipher {
    const hardware = exchange.remoteCapabilities & this.#capabilities & Capability.HARDWARE_AES;
    return hardware !== 0 ? Cipher.AES_256_GCM : Cipher.CHACHA20_POLY1305;
  }

  /** The data plane keeps 4 epochs of a peer; what is far older than those need not be remembered here. */
  #trimEpochs(session: PeerSession): void {
    for (const [id, record] of session.epochs) {
      if (session.epochs.size < MAX_EPOCH_RECORDS) return;
      if (id === session.live?.epochId || record.exchange === session.incoming || record.exchange === session.outgoing)
        continue;
      this.dropEpoch(session, id);
    }
  }
}
