/**
 * Inner messages that are not user packets: those of the control thread and of the paths on their way out, in pieces where they do not fit, and all kinds as
 * they come in: answered here (probes, acks, reports, fragments) or handed to the control thread.
 */
import { CopyPool } from "../base/copy-pool.ts";
import { Drop } from "../base/drop.ts";
import type { PathSink } from "../path/path-set.ts";
import type { Epoch } from "../session/epochs.ts";
import { Fragmenter } from "../session/fragments.ts";
import { InnerKind } from "../wire/data.ts";
import type { Coalescer } from "./coalesce.ts";
import type { EngineContext } from "./engine-context.ts";
import type { Inbound } from "./inbound.ts";
import type { PlaneEvent } from "./messages.ts";
import type { Outbound } from "./outbound.ts";
import type { PeerState } from "./peer.ts";
import { Counter } from "./stats.ts";
import type { VirtualPaths } from "./virtual.ts";

const MAX_COMMAND_BYTES = 9_000;

export interface InnerMessagesDeps {
  readonly context: EngineContext;
  readonly outbound: Outbound;
  readonly inbound: Inbound;
  readonly virtual: VirtualPaths;
  readonly coalescer: Coalescer | undefined;
  /** A probe of the peer was answered; its paths may have changed. */
  readonly pong: (peer: PeerState) => void;
  readonly pathChanged: (peer: PeerState) => void;
}

export class InnerMessages {
  readonly #context: EngineContext;
  readonly #deps: InnerMessagesDeps;
  readonly #outbound: Outbound;
  readonly #fragmenter: Fragmenter;
  /** Datagrams of streams go into a ring at once. */
  readonly #copies = new CopyPool();

  constructor(deps: InnerMessagesDeps) {
    this.#context = deps.context;
    this.#deps = deps;
    this.#outbound = deps.outbound;
    this.#fragmenter = new Fragmenter(deps.context.deps.slab);
  }

  forget(slot: number): void {
    this.#fragmenter.forget(slot);
  }

  housekeeping(): void {
    this.#fragmenter.expire(this.#context.nowMs);
  }

  // ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** One message of the control thread. @param epochId 0 = the sending epoch */
  send(slot: number, epochId: number, kind: number, flags: number, aux: number, payload: Uint8Array): void {
    const { peers, epochs, stats, u8, scratch, nowMs } = this.#context;
    const peer = peers[slot];
    const epoch = peer === undefined ? undefined : epochId === 0 ? peer.sendEpoch : epochs.byId(slot, epochId);
    if (peer === undefined || epoch === undefined || payload.length > MAX_COMMAND_BYTES) {
      stats.dropTx(Drop.NO_SESSION, 0);
      stats.add(Counter.sendErrors, 1);
      return;
    }
    u8.set(payload, scratch);
    if (peer.paths.active < 0) {
      stats.add(Counter.sendErrors, 1);
      return;
    }
    if (payload.length > peer.maxPacketBytes)
      this.sendFragments(peer, kind, flags, aux, scratch, payload.length, epoch);
    else if (kind === InnerKind.STREAM)
      this.#outbound.sendInRun(peer, epoch, peer.paths.activeName(), kind, flags, aux, scratch, payload.length);
    else this.#outbound.sendInner(epoch, peer.paths.activeName(), kind, flags, aux, scratch, payload.length);
    peer.lastSentMs = nowMs;
  }

  /** @returns false when some piece was not sent */
  sendFragments(
    peer: PeerState,
    kind: number,
    flags: number,
    aux: number,
    offset: number,
    bytes: number,
    epoch: Epoch | undefined = peer.sendEpoch,
  ): boolean {
    if (epoch === undefined || peer.paths.active < 0) return false;
    const { stats } = this.#context;
    const fragmenter = this.#fragmenter;
    const parts = fragmenter.split(peer.nextFragmentId++ >>> 0, kind, flags, offset, bytes, peer.maxPacketBytes);
    if (parts === 0) {
      stats.dropTx(Drop.TOO_BIG, kind === InnerKind.IP ? 1 : 0);
      return false;
    }
    let sent = true;
    for (let i = 0; i < parts; i++) {
      const at = fragmenter.partOffset[i];
      const length = fragmenter.partBytes[i];
      const name = peer.paths.activeName();
      sent = this.#outbound.sendInner(epoch, name, InnerKind.FRAGMENT, 0, aux, at, length) && sent;
      stats.add(Counter.fragmentsSent, 1);
    }
    if (kind !== InnerKind.IP) return sent;
    if (sent) stats.add(Counter.txPackets, 1);
    else stats.dropTx(Drop.UDP_SEND, 1);
    return sent;
  }

  /** Probes, acks and reports that the paths of a peer want sent. */
  emitPath(peer: PeerState, kind: number, name: number, payload: number, bytes: number): boolean {
    const epoch = peer.sendEpoch ?? this.#context.epochs.newest(peer.slot);
    if (epoch === undefined) return false;
    return this.#outbound.sendInner(epoch, name, kind, 0, 0, payload, bytes);
  }

  /** PeerPaths writes through this; one object for all peers, aimed before each call. */
  #sinkPeer: PeerState | undefined = undefined;
  readonly #sink: PathSink = {
    emit: (kind, name, payload, bytes) =>
      this.#sinkPeer === undefined ? false : this.emitPath(this.#sinkPeer, kind, name, payload, bytes),
  };
  sinkOf(peer: PeerState): PathSink {
    this.#sinkPeer = peer;
    return this.#sink;
  }

  // ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

  receive(
    peer: PeerState,
    epoch: Epoch,
    kind: number,
    flags: number,
    aux: number,
    payload: number,
    bytes: number,
    name: number,
    datagramBytes: number,
  ): void {
    const { stats, nowMs, u8, deps } = this.#context;
    let reason: number = Drop.NONE;
    switch (kind) {
      case InnerKind.PROBE:
        reason = peer.paths.handleProbe(nowMs, name, payload, bytes, datagramBytes, this.sinkOf(peer));
        break;
      case InnerKind.PROBE_ACK:
        reason = peer.paths.handleProbeAck(nowMs, name, payload, bytes, this.sinkOf(peer));
        if (reason === Drop.NONE) this.#deps.pong(peer);
        break;
      case InnerKind.REPORT:
        reason = peer.paths.handleReport(nowMs, name, payload, bytes, this.sinkOf(peer));
        break;
      case InnerKind.FRAGMENT: {
        stats.add(Counter.fragmentsReceived, 1);
        const whole = this.#fragmenter.add(nowMs, peer.slot, payload, bytes);
        if (whole > 0) return this.#reassembled(peer, epoch, whole, aux, name, datagramBytes);
        reason = -whole;
        break;
      }
      case InnerKind.KEEPALIVE:
      case InnerKind.CONTROL:
      case InnerKind.STREAM:
      case InnerKind.RATCHET: {
        const event: PlaneEvent = {
          kind: "inner",
          peer: peer.slot,
          epochId: epoch.epochId,
          innerKind: kind,
          flags,
          aux,
          payload:
            kind === InnerKind.STREAM
              ? this.#copies.copy(u8, payload, payload + bytes)
              : u8.slice(payload, payload + bytes),
        };
        if (!deps.emit(event)) reason = Drop.CONTROL_FULL;
        break;
      }
      default:
        reason = Drop.BAD_INNER;
    }
    if (reason === Drop.NONE) stats.add(Counter.rxInternal, 1);
    else stats.dropRx(reason, 1);
    this.#deps.pathChanged(peer);
  }

  /** The datagram that completed a message counts as what the message is. */
  #reassembled(peer: PeerState, epoch: Epoch, bytes: number, aux: number, name: number, datagramBytes: number): void {
    const { inbound, virtual, coalescer } = this.#deps;
    const at = this.#fragmenter.wholeOffset;
    const kind = this.#fragmenter.wholeKind;
    const flags = this.#fragmenter.wholeFlags;
    if (kind === InnerKind.TRANSIT && !inbound.isNested) {
      virtual.transit(peer, epoch, flags, at, bytes, name);
      inbound.endRun();
      coalescer?.flush();
      return;
    }
    if (kind !== InnerKind.IP) {
      this.receive(peer, epoch, kind, flags, aux, at, bytes, name, datagramBytes);
      return;
    }
    inbound.userPacket(peer, epoch, at, bytes, flags, name);
    coalescer?.flush();
  }
}
