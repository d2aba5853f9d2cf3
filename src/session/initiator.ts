/**
 * The initiator's side of a handshake: init, response, ratchet answer, cookies. Source: docs/protocol.md, "Handshake".
 * Everything that arrives may be forged; what does not authenticate changes nothing but a bounded counter.
 */
import { compare } from "../base/bytes.ts";
import type { Now } from "../base/clock.ts";
import { Drop } from "../base/drop.ts";
import { cookieKey, MAC_BYTES, openCookie, SALT_BYTES } from "../crypto/cookie.ts";
import { EXPORTER_INFO, hybridKeys, KEM_CIPHERTEXT_BYTES, KemKeyPair } from "../crypto/hybrid.ts";
import { NoiseInitiator } from "../crypto/noise.ts";
import { constantTimeEqual, zeroise } from "../crypto/secret.ts";
import { InnerKind } from "../wire/data.ts";
import {
  COOKIE_RECEIVER,
  COOKIE_SALT,
  COOKIE_SEALED,
  RESPONSE_EPHEMERAL,
  RESPONSE_MAC1,
  RESPONSE_RECEIVER,
  RESPONSE_SENDER,
} from "../wire/handshake-sizes.ts";
import { EMPTY, MAX_REQUESTED_RESENDS, NO_HYBRID, NO_PSK, type SessionCore } from "./core.ts";
import { Exchange, Stage } from "./exchange.ts";
import { decodePayload, encodeInit, encodeRatchet, mac1Offset, RATCHET_INDEX_BYTES, viewOf } from "./handshake.ts";
import type { Attempt, PeerSession } from "./peer-session.ts";
import { jittered } from "./rekey.ts";
import type { EndpointBytes } from "./types.ts";

const MAX_BAD_ANSWERS = 64;
/** Resends of an init before the retry timer takes over. */
const QUICK_INITS = 2;
const NOT_AUTHENTIC = "its answers do not authenticate; do both ends have the same pre-shared key?";
const RATCHET_FAILED = "the post-quantum key exchange did not complete";
const BAD_KEY = "its key is not usable";

export class Initiator {
  readonly #core: SessionCore;

  constructor(core: SessionCore) {
    this.#core = core;
  }

  /** Sends a fresh init, or the same one again while it is young. */
  try(now: Now, session: PeerSession, attempt: Attempt): void {
    attempt.retryAtMs = now.nowMs + jittered(attempt.retryMs, this.#core.times.retryJitter, this.#core.deps.random);
    attempt.retryMs *= this.#core.times.retryFactor;
    const outgoing = session.outgoing;
    if (outgoing !== undefined && now.nowMs - outgoing.startedAtMs < this.#core.times.initLifeMs) {
      this.#core.refreshMacs(now, session, outgoing);
      this.#core.transmit(session, undefined, outgoing.datagram);
      return;
    }
    if (outgoing !== undefined) this.#core.abandon(session, outgoing);
    const { random, identity, timestamps } = this.#core.deps;
    const localIndex = this.#core.freshIndex();
    const ephemeral = random.bytes(32);
    const noise = new NoiseInitiator(this.#core.prologue, identity.staticKeys, session.peer.staticKey, ephemeral);
    zeroise(ephemeral);
    const message = noise.writeInit(this.#core.payload(timestamps.nextOwn(now.wallMs), session.peer.inviteId));
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
    this.#core.refreshMacs(now, session, exchange);
    session.outgoing = exchange;
    this.#core.byIndex.set(localIndex, { session, exchange });
    exchange.resend.start(now.nowMs, this.#core.times, QUICK_INITS);
    this.#core.transmit(session, undefined, exchange.datagram);
  }

  handleResponse(now: Now, datagram: Uint8Array, from: EndpointBytes): Drop {
    const view = viewOf(datagram);
    const found = this.#core.byIndex.get(view.getUint32(RESPONSE_RECEIVER, true));
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
    this.#core.learn(exchange, decodePayload(plain), view.getUint32(RESPONSE_SENDER, true), from);
    this.#core.byIndex.delete(exchange.localIndex);
    if (session.attempt !== undefined) session.attempt.problem = RATCHET_FAILED;
    const hybrid = this.#core.bothHybrid(exchange);
    if (!hybrid && this.#core.requireHybrid) {
      this.#core.abandon(session, exchange);
      this.#core.giveUp(now, session, NO_HYBRID);
      return Drop.NONE;
    }
    this.#core.noticeBoot(session, exchange);
    this.#core.installClassic(
      now,
      session,
      exchange,
      noise.split(),
      noise.exportSecret(EXPORTER_INFO),
      noise.handshakeHash(),
    );
    if (!hybrid) {
      exchange.finalEpochId = exchange.classicEpochId;
      this.#core.use(now, session, exchange, exchange.finalEpochId);
      this.#confirm(now, session, exchange);
    } else {
      if (!this.#core.requireHybrid && session.live === undefined)
        this.#core.use(now, session, exchange, exchange.classicEpochId);
      exchange.kem = new KemKeyPair(this.#core.deps.random);
      exchange.hybridIndex = this.#core.freshIndex();
      exchange.ratchetOut = encodeRatchet(exchange.hybridIndex, exchange.kem.publicKey);
      exchange.stage = Stage.RATCHET_SENT;
      exchange.resend.start(now.nowMs, this.#core.times);
      this.#core.inner(session, exchange.classicEpochId, InnerKind.RATCHET, exchange.ratchetOut);
    }
    this.#core.schedule(session);
    return Drop.NONE;
  }

  handleRatchetAnswer(now: Now, session: PeerSession, exchange: Exchange, payload: Uint8Array): void {
    const { kem, exporter, transcriptHash } = exchange;
    if (exchange.stage !== Stage.RATCHET_SENT || payload.length !== RATCHET_INDEX_BYTES + KEM_CIPHERTEXT_BYTES) return;
    if (kem === undefined || exporter === undefined || transcriptHash === undefined) return;
    const ciphertext = payload.subarray(RATCHET_INDEX_BYTES);
    const secret = kem.decapsulate(ciphertext);
    if (secret === undefined) return;
    const keys = hybridKeys(transcriptHash, kem.publicKey, ciphertext, exporter, secret);
    zeroise(secret);
    exchange.forgetSecrets();
    this.#core.installHybrid(now, session, exchange, keys, viewOf(payload).getUint32(0, true));
    if (session.live?.epochId !== exchange.classicEpochId) this.#core.retire(session, exchange.classicEpochId);
    this.#confirm(now, session, exchange);
  }

  /** Keepalives under the final epoch until something comes back under it. */
  #confirm(now: Now, session: PeerSession, exchange: Exchange): void {
    exchange.stage = Stage.CONFIRMING;
    exchange.confirmedAtMs = now.nowMs;
    exchange.resend.start(now.nowMs, this.#core.times);
    this.#core.inner(session, exchange.finalEpochId, InnerKind.KEEPALIVE, EMPTY);
  }

  handleCookie(now: Now, datagram: Uint8Array): Drop {
    const found = this.#core.byIndex.get(viewOf(datagram).getUint32(COOKIE_RECEIVER, true));
    if (found === undefined) return Drop.UNKNOWN_INDEX;
    const { session, exchange } = found;
    const macAt = mac1Offset(exchange.datagram[0]);
    const cookie = openCookie(
      cookieKey(session.peer.staticKey),
      datagram.subarray(COOKIE_SALT, COOKIE_SALT + SALT_BYTES),
      exchange.datagram.subarray(macAt, macAt + MAC_BYTES),
      datagram.subarray(COOKIE_SEALED),
    );
    if (cookie === undefined) return Drop.AUTH;
    const same = session.cookie !== undefined && constantTimeEqual(session.cookie, cookie);
    session.cookie = cookie;
    session.cookieUntilMs = now.nowMs + this.#core.times.cookieMs;
    if (same || ++exchange.requestedResends > MAX_REQUESTED_RESENDS) return Drop.UNEXPECTED;
    this.#core.refreshMacs(now, session, exchange);
    this.#core.transmit(session, exchange.from, exchange.datagram);
    return Drop.NONE;
  }
}
