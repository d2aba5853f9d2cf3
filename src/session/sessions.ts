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
import type { Now } from "../base/clock.ts";
import { Drop } from "../base/drop.ts";
import { InnerKind } from "../wire/data.ts";
import { HANDSHAKE_INIT_TYPE, HANDSHAKE_RESPONSE_TYPE, handshakeBytes } from "../wire/handshake-sizes.ts";
import { EMPTY, SessionCore } from "./core.ts";
import type { SessionsDeps, SessionsOptions, SessionState } from "./deps.ts";
import { type Exchange, Stage } from "./exchange.ts";
import { Initiator } from "./initiator.ts";
import type { PeerSession } from "./peer-session.ts";
import { Responder } from "./responder.ts";
import type { EndpointBytes, SessionOutput } from "./types.ts";

export type { SessionsDeps, SessionsOptions, SessionState, Timestamps } from "./deps.ts";
export type { SessionPeer } from "./peer-session.ts";

const NO_ANSWER = "no answer";

export class Sessions {
  readonly #core: SessionCore;
  readonly #initiator: Initiator;
  readonly #responder: Responder;
  #outputAt = 0;
  #lastNowMs = 0;

  constructor(deps: SessionsDeps, options: SessionsOptions) {
    this.#core = new SessionCore(deps, options);
    this.#initiator = new Initiator(this.#core);
    this.#responder = new Responder(this.#core);
  }

  // ── the owner's calls ────────────────────────────────────────────────────────────────────────────────────────────────

  /** Wants a session: starts a handshake unless there is a session or a handshake already. */
  connect(now: Now, slot: number): void {
    const session = this.#core.session(slot);
    if (session === undefined || session.live !== undefined) return;
    this.#want(now, session);
  }

  /** There is a new way to the peer: an init that waits for its answer goes out again now, and soon after. */
  hurry(now: Now, slot: number): void {
    const session = this.#core.peers.get(slot);
    const attempt = session?.attempt;
    if (session === undefined || attempt === undefined || now.nowMs >= attempt.giveUpAtMs) return;
    attempt.retryAtMs = now.nowMs;
    attempt.retryMs = this.#core.times.retryMs;
    this.#timers(now, session);
    this.#core.schedule(session);
  }

  /** Replaces the epoch; does nothing while a handshake of ours is under way. */
  rekey(now: Now, slot: number): void {
    const session = this.#core.session(slot);
    if (session !== undefined) this.#want(now, session);
  }

  /** Data was sent for a while and nothing came back: a handshake begins, the live epoch stays until another is proven. */
  handleSilence(now: Now, slot: number): void {
    this.rekey(now, slot);
  }

  /** Ends the session: keys are thrown away on both planes, the peer stays known, and the next connect() begins anew. */
  disconnect(_now: Now, slot: number): void {
    const session = this.#core.peers.get(slot);
    if (session === undefined) return;
    for (const epochId of session.epochs.keys())
      this.#core.outputs.push({ kind: "retire", peer: slot, epochId, afterMs: 0 });
    this.#core.forget(session);
  }

  /** Forgets the peer and its secrets. The owner tells the data plane itself. */
  removePeer(_now: Now, slot: number): void {
    const session = this.#core.peers.get(slot);
    if (session !== undefined) this.#core.forget(session);
  }

  /** Forgets every peer and its secrets. */
  close(): void {
    for (const session of this.#core.peers.values()) this.#core.forget(session);
  }

  /** The next thing to do; call until undefined after every other call. */
  pollOutput(): SessionOutput | undefined {
    const output = this.#core.outputs[this.#outputAt];
    if (output !== undefined) {
      this.#outputAt++;
      return output;
    }
    this.#core.outputs.length = 0;
    this.#outputAt = 0;
    return undefined;
  }

  /** When handleTimeout() is due, monotonic ms; Infinity when nothing waits. */
  nextTimeout(): number {
    return this.#core.deadlines.next();
  }

  handleTimeout(now: Now): void {
    this.#lastNowMs = now.nowMs;
    for (
      let slot = this.#core.deadlines.takeDue(now.nowMs);
      slot >= 0;
      slot = this.#core.deadlines.takeDue(now.nowMs)
    ) {
      const session = this.#core.peers.get(slot);
      if (session === undefined) continue;
      this.#timers(now, session);
      if (this.#core.peers.has(slot)) this.#core.schedule(session);
    }
  }

  /** For status; a peer never heard of gives the state of one without a session. */
  state(slot: number, nowMs: number = this.#lastNowMs): SessionState {
    const session = this.#core.peers.get(slot);
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
      peers: this.#core.peers.size,
      pending: this.#core.byIndex.size,
      answered: this.#core.answered.size,
      unprovenJoins: this.#core.unprovenJoins,
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
    if (type === HANDSHAKE_INIT_TYPE) return this.#responder.handleInit(now, datagram, from);
    if (type === HANDSHAKE_RESPONSE_TYPE) return this.#initiator.handleResponse(now, datagram, from);
    return this.#initiator.handleCookie(now, datagram);
  }

  /** The first packet under an epoch authenticated in the data plane. */
  handleProof(now: Now, slot: number, epochId: number): void {
    this.#lastNowMs = now.nowMs;
    const session = this.#core.peers.get(slot);
    const record = session?.epochs.get(epochId);
    if (session === undefined || record === undefined || record.proven) return;
    record.proven = true;
    this.#proven(now, session, record.exchange, epochId);
    if (this.#core.peers.has(slot)) this.#core.schedule(session);
  }

  /** An authenticated inner message: kind 6, or kind 0 under a young epoch. @param payload anything; kept for a while */
  handleInner(now: Now, slot: number, epochId: number, innerKind: number, payload: Uint8Array): void {
    // The data plane may report the message before the proof.
    this.handleProof(now, slot, epochId);
    const session = this.#core.peers.get(slot);
    const exchange = session?.epochs.get(epochId)?.exchange;
    if (session === undefined || exchange === undefined) return;
    if (innerKind === InnerKind.RATCHET && epochId === exchange.classicEpochId) {
      if (exchange.initiator) this.#initiator.handleRatchetAnswer(now, session, exchange, payload);
      else this.#responder.handleRatchet(now, session, exchange, payload);
    } else if (innerKind === InnerKind.KEEPALIVE && epochId === exchange.finalEpochId && !exchange.initiator) {
      this.#responder.answerKeepalive(session, exchange);
    }
    if (this.#core.peers.has(slot)) this.#core.schedule(session);
  }

  #want(now: Now, session: PeerSession): void {
    this.#lastNowMs = now.nowMs;
    if (session.attempt !== undefined) return;
    const incoming = session.incoming;
    const yieldUntilMs =
      incoming !== undefined && incoming.stage !== Stage.DONE ? incoming.startedAtMs + this.#core.times.yieldMs : 0;
    session.attempt = {
      startedAtMs: now.nowMs,
      giveUpAtMs: now.nowMs + this.#core.times.giveUpMs,
      retryAtMs: Math.max(now.nowMs, yieldUntilMs),
      retryMs: this.#core.times.retryMs,
      problem: NO_ANSWER,
    };
    this.#timers(now, session);
    this.#core.schedule(session);
  }

  /** The peer has shown that it holds the keys of this epoch. */
  #proven(now: Now, session: PeerSession, exchange: Exchange, epochId: number): void {
    if (epochId === exchange.finalEpochId) {
      const waits = exchange.initiator ? Stage.CONFIRMING : Stage.RATCHET_ANSWERED;
      if (exchange.stage === waits) this.#core.complete(now, session, exchange);
      return;
    }
    if (exchange.initiator || exchange.stage !== Stage.RESPONDED) return;
    exchange.stage = Stage.PROVEN;
    exchange.resend.stop();
    exchange.deadlineMs = now.nowMs + this.#core.times.unprovenMs;
    this.#core.unanswer(exchange);
    this.#core.noticeBoot(session, exchange);
    if (session.unprovenJoin) {
      session.unprovenJoin = false;
      this.#core.unprovenJoins--;
    }
    const hybrid = this.#core.bothHybrid(exchange);
    if (!hybrid) {
      exchange.finalEpochId = epochId;
      this.#core.complete(now, session, exchange);
    } else if (!this.#core.requireHybrid && session.live === undefined) {
      this.#core.use(now, session, exchange, epochId);
    }
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #timers(now: Now, session: PeerSession): void {
    const nowMs = now.nowMs;
    for (const [id, record] of session.epochs) {
      if (nowMs - record.installedAtMs < this.#core.times.maxAgeMs) continue;
      this.#core.dropEpoch(session, id);
      if (session.live?.epochId === id) {
        session.live = undefined;
        session.rekeyAtMs = Infinity;
      }
    }
    const incoming = session.incoming;
    if (incoming !== undefined) {
      if (nowMs >= incoming.deadlineMs) {
        this.#core.abandon(session, incoming);
        if (session.unprovenJoin) {
          this.#core.outputs.push({
            kind: "failed",
            peer: session.peer.slot,
            reason: "the joining node did not complete its handshake",
          });
          this.#core.forget(session);
          return;
        }
      } else if (nowMs >= incoming.resend.dueMs && incoming.resend.fire(nowMs, this.#core.times) === "send") {
        this.#sendRetained(now, session, incoming);
      }
    }
    if (nowMs >= session.rekeyAtMs) {
      const mine = session.live?.exchange.initiator === true;
      if (mine || this.#core.deps.flowing?.(session.peer.slot) !== false) {
        session.rekeyAtMs = Infinity;
        if (session.live !== undefined) this.#want(now, session);
      } else {
        session.rekeyAtMs = nowMs + this.#core.times.retryMs;
      }
    }
    this.#outgoingTimers(now, session);
  }

  #outgoingTimers(now: Now, session: PeerSession): void {
    const nowMs = now.nowMs;
    const outgoing = session.outgoing;
    if (outgoing !== undefined && nowMs >= outgoing.resend.dueMs) {
      if (outgoing.resend.fire(nowMs, this.#core.times) === "send") {
        this.#sendRetained(now, session, outgoing);
      } else if (outgoing.stage !== Stage.INIT_SENT) {
        // The ratchet failed, by loss or by a wrong ciphertext: once more from the start, unless a session came about meanwhile.
        this.#core.abandon(session, outgoing);
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
    if (nowMs >= attempt.giveUpAtMs) this.#core.giveUp(now, session, attempt.problem);
    else if (nowMs >= attempt.retryAtMs) this.#initiator.try(now, session, attempt);
  }

  #sendRetained(now: Now, session: PeerSession, exchange: Exchange): void {
    switch (exchange.stage) {
      case Stage.INIT_SENT:
      case Stage.RESPONDED:
        this.#core.refreshMacs(now, session, exchange);
        this.#core.transmit(session, exchange.from, exchange.datagram);
        return;
      case Stage.RATCHET_SENT:
      case Stage.RATCHET_ANSWERED:
        this.#core.inner(session, exchange.classicEpochId, InnerKind.RATCHET, exchange.ratchetOut as Uint8Array);
        return;
      case Stage.CONFIRMING:
      case Stage.DONE:
        this.#core.inner(session, exchange.finalEpochId, InnerKind.KEEPALIVE, EMPTY);
        return;
      default:
    }
  }
}
