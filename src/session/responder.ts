/**
 * The responder's side of a handshake: who may begin one, the retained response, the ratchet. Source: docs/protocol.md, "Handshake".
 * A static key that is neither in the roster nor comes with a live invite leaves no state; ML-KEM is not touched before the static key is
 * accepted and the initiator has proven the classic epoch.
 */
import { compare, equal } from "../base/bytes.ts";
import type { Now } from "../base/clock.ts";
import { Drop } from "../base/drop.ts";
import { EXPORTER_INFO, hybridKeys, KEM_PUBLIC_KEY_BYTES, kemEncapsulate } from "../crypto/hybrid.ts";
import { NoiseResponder } from "../crypto/noise.ts";
import { zeroise } from "../crypto/secret.ts";
import { InnerKind } from "../wire/data.ts";
import { INIT_EPHEMERAL, INIT_MAC1, INIT_SENDER } from "../wire/handshake-sizes.ts";
import { EMPTY, MAX_REQUESTED_RESENDS, NO_HYBRID, NO_PSK, type SessionCore } from "./core.ts";
import { Exchange, Stage } from "./exchange.ts";
import {
  decodePayload,
  encodeRatchet,
  encodeResponse,
  ephemeralOf,
  type HandshakePayload,
  RATCHET_INDEX_BYTES,
  timestampWallMs,
  viewOf,
} from "./handshake.ts";
import type { PeerSession } from "./peer-session.ts";
import { Capability, type EndpointBytes } from "./types.ts";

/** Handshakes of joiners that have proven nothing yet. */
export const MAX_UNPROVEN_JOINS = 64;

export class Responder {
  readonly #core: SessionCore;

  constructor(core: SessionCore) {
    this.#core = core;
  }

  handleInit(now: Now, datagram: Uint8Array, from: EndpointBytes): Drop {
    const body = datagram.subarray(0, INIT_MAC1);
    const retained = this.#core.answered.get(ephemeralOf(datagram));
    if (retained !== undefined && equal(retained.exchange.answered as Uint8Array, body)) {
      return this.#answerAgain(now, retained.session, retained.exchange, from);
    }
    const { identity, timestamps } = this.#core.deps;
    const noise = new NoiseResponder(this.#core.prologue, identity.staticKeys);
    const message = datagram.subarray(INIT_EPHEMERAL, INIT_MAC1);
    const staticKey = noise.readInitStatic(message);
    const plain = staticKey === undefined ? undefined : noise.readInitPayload(message);
    if (staticKey === undefined || plain === undefined) return this.#refuse(noise, Drop.AUTH);
    const payload = decodePayload(plain);
    let peer = this.#core.deps.peerByStaticKey(staticKey);
    if (equal(staticKey, identity.staticKeys.publicKey)) return this.#refuse(noise, Drop.UNKNOWN_PEER);
    if (peer === undefined && payload.inviteId === undefined) return this.#refuse(noise, Drop.UNKNOWN_PEER);
    const last = timestamps.last(staticKey);
    if (last !== undefined && compare(payload.timestamp, last) <= 0) return this.#refuse(noise, Drop.STALE_TIMESTAMP);
    const joins = peer === undefined || this.#core.peers.get(peer.slot)?.unprovenJoin === true;
    const lacksHybrid = this.#core.requireHybrid && (payload.capabilities & Capability.HYBRID) === 0;
    if (peer === undefined) {
      // nobody gets a slot for a handshake that cannot succeed
      if (lacksHybrid) return this.#refuse(noise, Drop.UNEXPECTED);
      if (this.#core.unprovenJoins >= MAX_UNPROVEN_JOINS) return this.#refuse(noise, Drop.TOO_MANY_PENDING);
      peer = this.#core.deps.provisionalPeer(
        staticKey,
        payload.inviteId as Uint8Array,
        timestampWallMs(payload.timestamp),
      );
      if (peer === undefined) return this.#refuse(noise, Drop.UNKNOWN_PEER);
    }
    const session = this.#core.session(peer.slot);
    if (session === undefined) return this.#refuse(noise, Drop.UNKNOWN_PEER);
    timestamps.accept(staticKey, payload.timestamp, now);
    if (lacksHybrid) {
      session.lastError = NO_HYBRID;
      return this.#refuse(noise, Drop.UNEXPECTED);
    }
    const unprovenJoin = joins && session.live === undefined;
    if (unprovenJoin && !session.unprovenJoin) {
      session.unprovenJoin = true;
      this.#core.unprovenJoins++;
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
    const { random, identity, timestamps } = this.#core.deps;
    const ephemeral = random.bytes(32);
    const answer = this.#core.payload(timestamps.nextOwn(now.wallMs), undefined);
    const message = noise.writeResponse(answer, session.peer.psk ?? NO_PSK, ephemeral);
    zeroise(ephemeral);
    if (message === undefined) return this.#refuse(noise, Drop.AUTH);
    if (session.incoming !== undefined) this.#core.abandon(session, session.incoming);
    const localIndex = this.#core.freshIndex();
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
    this.#core.learn(exchange, payload, remoteIndex, from);
    this.#core.refreshMacs(now, session, exchange);
    session.incoming = exchange;
    this.#core.byIndex.set(localIndex, { session, exchange });
    this.#core.answered.set(ephemeralOf(datagram), { session, exchange });
    exchange.deadlineMs = now.nowMs + (session.unprovenJoin ? this.#core.times.joinMs : this.#core.times.unprovenMs);
    exchange.resend.start(now.nowMs, this.#core.times);
    this.#core.installClassic(
      now,
      session,
      exchange,
      noise.split(),
      noise.exportSecret(EXPORTER_INFO),
      noise.handshakeHash(),
    );
    noise.destroy();
    this.#core.transmit(session, from, exchange.datagram);
    this.#core.schedule(session);
    return Drop.NONE;
  }

  #answerAgain(now: Now, session: PeerSession, exchange: Exchange, from: EndpointBytes): Drop {
    if (exchange.stage !== Stage.RESPONDED || ++exchange.requestedResends > MAX_REQUESTED_RESENDS)
      return Drop.UNEXPECTED;
    this.#core.refreshMacs(now, session, exchange);
    this.#core.transmit(session, from, exchange.datagram);
    return Drop.NONE;
  }

  handleRatchet(now: Now, session: PeerSession, exchange: Exchange, payload: Uint8Array): void {
    if (exchange.ratchetIn !== undefined) {
      const again = exchange.stage === Stage.RATCHET_ANSWERED && equal(exchange.ratchetIn, payload);
      if (again)
        this.#core.inner(session, exchange.classicEpochId, InnerKind.RATCHET, exchange.ratchetOut as Uint8Array);
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
    exchange.hybridIndex = this.#core.freshIndex();
    exchange.ratchetOut = encodeRatchet(exchange.hybridIndex, ciphertext);
    exchange.stage = Stage.RATCHET_ANSWERED;
    exchange.deadlineMs = now.nowMs + this.#core.times.unprovenMs;
    this.#core.installHybrid(now, session, exchange, keys, viewOf(payload).getUint32(0, true));
    exchange.resend.start(now.nowMs, this.#core.times);
    this.#core.inner(session, exchange.classicEpochId, InnerKind.RATCHET, exchange.ratchetOut);
  }

  /** The initiator repeats its keepalive until it hears one: so does it here, as often as it asks, within bounds. */
  answerKeepalive(session: PeerSession, exchange: Exchange): void {
    if (exchange.stage !== Stage.DONE || ++exchange.requestedResends > MAX_REQUESTED_RESENDS) return;
    this.#core.inner(session, exchange.finalEpochId, InnerKind.KEEPALIVE, EMPTY);
  }

  #refuse(noise: NoiseResponder, reason: Drop): Drop {
    noise.destroy();
    return reason;
  }
}
