/**
 * Batches of sealed datagrams to the kernel, and what happens when it refuses them. The last step of every way out: user packets (outbound.ts),
 * forwarded ones (forwarding.ts) and messages of our own.
 *
 * A batch holds datagrams of one peer, one name and one size (the last may be shorter) and leaves in one UDP_SEGMENT send. A send that would block
 * keeps the sealed batch: nothing may be added until the socket is writable (EAGAIN) or a pause is over (ENOBUFS). Messages of our own pass the batches;
 * while the socket is full they wait in a ring of 64. A name without a socket (NAME_FAMILY below 4) goes to `virtual`, which gives the same results.
 */
import { Drop } from "../base/drop.ts";
import { VirtualType } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_ECN, NAME_FAMILY, NAME_INTERFACE, NAME_LOCAL } from "../base/name.ts";
import type { Slab } from "../base/slab.ts";
import { DATA_OVERHEAD_BYTES } from "../wire/data.ts";
import type { PeerState } from "./peer.ts";
import type { UdpPort } from "./ports.ts";
import { Counter, PeerField, type PlaneStats } from "./stats.ts";

export const MAX_BATCH_BYTES = 65_000;
const GSO_REST_MS = 60_000;
const CONTROL_SLOTS = 64;
const CONTROL_SLOT_BYTES = 2_048;

const EIO = -5;
export const EAGAIN = -11;
const EINVAL = -22;
export const EMSGSIZE = -90;
export const ENOBUFS = -105;
/** There is no way to this virtual address: its via, channel, hop or the hop's path is missing. */
export const ENETUNREACH = -101;

/** One open GSO batch. */
export class Batch {
  readonly base: number;
  readonly maxBytes: number;
  readonly #u8: Uint8Array;
  /** Holds what other members sent to each other: counted apart from this node's own packets. */
  readonly isTransit: boolean;
  peer: PeerState | undefined = undefined;
  /** Copy of the name block the batch goes to. */
  readonly name: number;
  count = 0;
  bytes = 0;
  segmentBytes = 0;
  /** ECN bits of the packets inside, which the outer header carries too (RFC 6040). */
  ecn = 0;
  /** A shorter datagram ended the run. */
  ended = false;
  /** The kernel refused it for now; nothing may be added. */
  blocked = false;
  /** Family of the socket that has to become writable. */
  waitsFor = 4;
  /** > 0: paused by time (ENOBUFS) until then, not by writability. */
  pausedUntilMs = 0;
  noBuffersInRow = 0;
  gso = true;
  gsoRetryMs = 0;
  /** IP bytes inside, for statistics. */
  payloadBytes = 0;

  /** @throws WeftError SLAB_FULL */
  constructor(slab: Slab, maxBytes: number = MAX_BATCH_BYTES, isTransit: boolean = false) {
    this.#u8 = slab.u8;
    this.base = slab.allocate(MAX_BATCH_BYTES + 4_096);
    this.name = slab.allocate(NAME_BYTES);
    this.maxBytes = maxBytes;
    this.isTransit = isTransit;
  }

  /** May a datagram of this size join? @param gso trains may be sent at all */
  fits(peer: PeerState, datagramBytes: number, ecn: number, gso: boolean): boolean {
    if (this.count === 0) return true;
    return (
      this.peer === peer &&
      this.ecn === ecn &&
      !this.ended &&
      datagramBytes <= this.segmentBytes &&
      this.count < peer.burst.segments &&
      this.bytes + datagramBytes <= this.maxBytes &&
      gso &&
      this.gso
    );
  }

  /** Counts in a datagram that was just sealed to `base + bytes` and fits. @param name name block of where it goes, copied */
  append(peer: PeerState, name: number, datagramBytes: number, payloadBytes: number, ecn: number): void {
    if (this.count === 0) {
      this.peer = peer;
      this.segmentBytes = datagramBytes;
      this.ecn = ecn;
      this.#u8.copyWithin(this.name, name, name + NAME_BYTES);
      this.#u8[this.name + NAME_ECN] = ecn;
    } else if (datagramBytes < this.segmentBytes) {
      this.ended = true;
    }
    this.count++;
    this.bytes += datagramBytes;
    this.payloadBytes += payloadBytes;
  }

  /** True while it waits for this family's socket to become writable. */
  waitsWritable(family: 4 | 6): boolean {
    return this.blocked && this.pausedUntilMs === 0 && this.waitsFor === family;
  }

  /** When its pause ends; Infinity when there is none. */
  get pauseEndMs(): number {
    return this.blocked && this.pausedUntilMs > 0 ? this.pausedUntilMs : Infinity;
  }

  reset(): void {
    this.count = 0;
    this.bytes = 0;
    this.payloadBytes = 0;
    this.segmentBytes = 0;
    this.ended = false;
    this.blocked = false;
    this.pausedUntilMs = 0;
    this.peer = undefined;
  }
}

export interface SenderDeps {
  readonly slab: Slab;
  readonly udp: UdpPort;
  readonly stats: PlaneStats;
  /** A datagram of this size is too big for the peer's active path. */
  readonly tooBig: (peer: PeerState, datagramBytes: number) => void;
  /** The peer's paths want to be called earlier than before. */
  readonly rescheduled: (peer: PeerState) => void;
  /** Sends to a name without a socket. @returns bytes accepted or -errno, as UdpPort.send() */
  readonly virtual: (offset: number, bytes: number, segmentBytes: number, name: number) => number;
}

export class Sender {
  nowMs = 0;
  /** Runtime kill switch for UDP_SEGMENT. */
  gso = true;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #deps: SenderDeps;
  readonly #udp: UdpPort;
  readonly #stats: PlaneStats;
  readonly #controlBase: number;
  readonly #controlName: number;
  readonly #controlBytes = new Int32Array(CONTROL_SLOTS);
  #controlHead = 0;
  #controlCount = 0;
  /** Single datagrams refused with EMSGSIZE. */
  #tooBigCount = 0;
  /** Family of the socket used last. */
  #lastFamily = 4;

  constructor(deps: SenderDeps) {
    this.#deps = deps;
    this.#u8 = deps.slab.u8;
    this.#view = deps.slab.view;
    this.#udp = deps.udp;
    this.#stats = deps.stats;
    this.#controlBase = deps.slab.allocate(CONTROL_SLOTS * CONTROL_SLOT_BYTES);
    this.#controlName = deps.slab.allocate(CONTROL_SLOTS * NAME_BYTES);
  }

  /** Gives the batch to the kernel. @returns true when the batch is empty afterwards */
  send(batch: Batch): boolean {
    const peer = batch.peer as PeerState;
    const stats = this.#stats;
    let result: number;
    if (batch.count === 1 || (this.gso && batch.gso)) {
      result = this.sendOnce(batch.base, batch.bytes, batch.segmentBytes, batch.name);
    } else {
      return this.#sendOneByOne(batch);
    }
    if (result >= 0) {
      batch.noBuffersInRow = 0;
      if (batch.count > 1) stats.add(Counter.gsoSends, 1);
      this.#sent(batch, peer, batch.count, batch.bytes, batch.payloadBytes);
      batch.reset();
      return true;
    }
    if (result === EAGAIN) {
      stats.add(Counter.sendAgain, 1);
      batch.blocked = true;
      batch.waitsFor = this.#lastFamily;
      batch.pausedUntilMs = 0;
      return false;
    }
    if (result === ENOBUFS) {
      stats.add(Counter.sendNoBuffers, 1);
      // the socket polls writable all the same, so wait by time, longer each time it happens again
      batch.noBuffersInRow++;
      batch.blocked = true;
      batch.pausedUntilMs = this.nowMs + Math.min(5, 0.25 * batch.noBuffersInRow);
      return false;
    }
    stats.add(Counter.sendErrors, 1);
    if (batch.count > 1 && (result === EIO || result === EINVAL || result === EMSGSIZE)) {
      // No UDP_SEGMENT here, or the segments outgrew the interface: each datagram once by itself. Only in the first case does GSO rest for
      // a minute; in the second the single sends say EMSGSIZE and the path learns its MTU.
      const tooBig = this.#tooBigCount;
      const done = this.#sendOneByOne(batch);
      if (tooBig === this.#tooBigCount) {
        stats.add(Counter.gsoFallbacks, 1);
        batch.gso = false;
        batch.gsoRetryMs = this.nowMs + GSO_REST_MS;
      }
      return done;
    }
    if (result === EMSGSIZE) this.#deps.tooBig(peer, batch.segmentBytes);
    this.#lost(batch, result, batch.count);
    batch.reset();
    return true;
  }

  /** Throws the batch away because its peer goes. */
  discard(batch: Batch): void {
    if (batch.count > 0) {
      if (batch.isTransit) this.#stats.add(Counter.forwardLost, batch.count);
      else this.#stats.dropTx(Drop.REMOVED, batch.count);
    }
    batch.reset();
  }

  /** Sends the datagrams of a batch singly; what the kernel refuses for now stays. */
  #sendOneByOne(batch: Batch): boolean {
    const peer = batch.peer as PeerState;
    while (batch.count > 0) {
      const bytes = Math.min(batch.segmentBytes, batch.bytes);
      const result = this.sendOnce(batch.base, bytes, bytes, batch.name);
      if (result === EAGAIN || result === ENOBUFS) {
        batch.blocked = true;
        batch.waitsFor = this.#lastFamily;
        batch.pausedUntilMs = result === ENOBUFS ? this.nowMs + 1 : 0;
        this.#stats.add(result === ENOBUFS ? Counter.sendNoBuffers : Counter.sendAgain, 1);
        return false;
      }
      if (result >= 0) this.#sent(batch, peer, 1, bytes, bytes - DATA_OVERHEAD_BYTES);
      else {
        this.#stats.add(Counter.sendErrors, 1);
        if (result === EMSGSIZE) {
          this.#tooBigCount++;
          this.#deps.tooBig(peer, bytes);
        }
        this.#lost(batch, result, 1);
      }
      batch.count--;
      batch.bytes -= bytes;
      batch.payloadBytes -= bytes - DATA_OVERHEAD_BYTES;
      if (batch.count > 0) this.#u8.copyWithin(batch.base, batch.base + bytes, batch.base + bytes + batch.bytes);
    }
    batch.reset();
    return true;
  }

  #lost(batch: Batch, result: number, count: number): void {
    if (batch.isTransit) this.#stats.add(Counter.forwardLost, count);
    else this.#stats.dropTx(this.#reasonOf(batch, result), count);
  }

  /** A via or channel says more than a socket does. */
  #reasonOf(batch: Batch, result: number): Drop {
    if (this.#u8[batch.name + NAME_FAMILY] >= 4) return Drop.UDP_SEND;
    return result === ENETUNREACH ? Drop.NO_PATH : result === EMSGSIZE ? Drop.TOO_BIG : Drop.UDP_SEND;
  }

  /** One send; a stale sticky source or a pending socket error gets one more try. @returns bytes accepted or -errno */
  sendOnce(offset: number, bytes: number, segmentBytes: number, name: number): number {
    const family = this.#u8[name + NAME_FAMILY];
    if (family < 4) return this.#deps.virtual(offset, bytes, segmentBytes, name);
    this.#lastFamily = family;
    let result = this.#udp.send(offset, bytes, segmentBytes, name);
    if (result < 0 && result !== EAGAIN && result !== ENOBUFS && result !== EMSGSIZE && result !== EIO) {
      this.#u8.fill(0, name + NAME_LOCAL, name + NAME_LOCAL + 16);
      this.#view.setUint32(name + NAME_INTERFACE, 0, true);
      result = this.#udp.send(offset, bytes, segmentBytes, name);
    }
    if (result >= 0) {
      this.#stats.add(Counter.udpTxCalls, 1);
      this.#stats.add(Counter.udpTxDatagrams, segmentBytes === bytes ? 1 : Math.ceil(bytes / segmentBytes));
      this.#stats.add(Counter.udpTxBytes, bytes);
    }
    return result;
  }

  #sent(batch: Batch, peer: PeerState, packets: number, bytes: number, payloadBytes: number): void {
    if (batch.isTransit) this.#stats.add(Counter.forwarded, packets);
    else {
      const cells = this.#stats.cells;
      this.#stats.add(Counter.txPackets, packets);
      cells[peer.row + PeerField.txPackets] = cells[peer.row + PeerField.txPackets] + packets;
      cells[peer.row + PeerField.txBytes] = cells[peer.row + PeerField.txBytes] + payloadBytes;
    }
    this.delivered(peer, batch.base, packets, bytes, batch.segmentBytes, batch.ecn, batch.isTransit);
  }

  /**
   * Datagrams were given to the kernel for the peer's active path: its paths and clocks hear of it, and the second path gets a copy while delivery
   * on the first is in doubt (the replay window of the peer drops what arrives twice).
   * @param offset of the datagrams, still as sent @param isTransit they hold transit, which does not go through a via
   */
  delivered(
    peer: PeerState,
    offset: number,
    packets: number,
    bytes: number,
    segmentBytes: number,
    ecn: number,
    isTransit: boolean,
  ): void {
    const paths = peer.paths;
    const name = paths.duplicate >= 0 ? paths.nameOf(paths.duplicate) : 0;
    if (name !== 0 && !(isTransit && this.#u8[name + NAME_FAMILY] === VirtualType.LABEL)) {
      this.#u8[name + NAME_ECN] = ecn;
      const copied =
        this.#u8[name + NAME_FAMILY] < 4
          ? this.#deps.virtual(offset, bytes, segmentBytes, name)
          : this.#udp.send(offset, bytes, segmentBytes, name);
      this.#stats.add(copied >= 0 ? Counter.duplicated : Counter.sendErrors, copied >= 0 ? packets : 1);
    }
    const view = this.#view;
    const last = offset + (packets - 1) * segmentBytes;
    const index = view.getUint32(last + 4, true);
    const low = view.getUint32(last + 8, true);
    const high = view.getUint32(last + 12, true);
    if (paths.sent(this.nowMs, packets, bytes, index, low, high)) this.#deps.rescheduled(peer);
    peer.lastSentMs = this.nowMs;
    peer.unansweredReceiveMs = -1;
    if (peer.unansweredSendMs < 0) {
      peer.unansweredSendMs = this.nowMs;
      this.#deps.rescheduled(peer);
    }
  }

  /** Time passed or sockets became writable: tries a blocked batch again. */
  unblock(batch: Batch, writable4: boolean, writable6: boolean): void {
    if (!batch.gso && this.nowMs >= batch.gsoRetryMs) batch.gso = true;
    if (!batch.blocked) return;
    const writable = batch.waitsFor === 6 ? writable6 : writable4;
    if (batch.pausedUntilMs > 0 ? this.nowMs < batch.pausedUntilMs : !writable) return;
    batch.blocked = false;
    batch.pausedUntilMs = 0;
    if (batch.count > 0) this.send(batch);
  }

  // ── messages of our own ──────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Sends one datagram as it is, past all batches; waits in a small ring while the socket is full.
   * @param blocked a batch to the same socket is waiting @returns false when it was dropped (counted)
   */
  sendRaw(offset: number, bytes: number, name: number, blocked: boolean): boolean {
    // our own messages are not ECN-capable, whatever the block says, which may be the one a packet came with
    const ecn = this.#u8[name + NAME_ECN];
    this.#u8[name + NAME_ECN] = 0;
    const sent = this.#sendPast(offset, bytes, name, blocked);
    this.#u8[name + NAME_ECN] = ecn;
    return sent;
  }

  #sendPast(offset: number, bytes: number, name: number, blocked: boolean): boolean {
    if (!blocked || this.#controlCount === 0) {
      const result = this.sendOnce(offset, bytes, bytes, name);
      if (result >= 0) {
        this.#stats.add(Counter.txInternal, 1);
        return true;
      }
      if (result !== EAGAIN && result !== ENOBUFS) {
        this.#stats.add(Counter.sendErrors, 1);
        return false;
      }
    }
    if (this.#controlCount === CONTROL_SLOTS || bytes > CONTROL_SLOT_BYTES) {
      this.#stats.add(Counter.sendErrors, 1);
      return false;
    }
    const slot = (this.#controlHead + this.#controlCount++) % CONTROL_SLOTS;
    this.#u8.copyWithin(this.#controlBase + slot * CONTROL_SLOT_BYTES, offset, offset + bytes);
    this.#u8.copyWithin(this.#controlName + slot * NAME_BYTES, name, name + NAME_BYTES);
    this.#controlBytes[slot] = bytes;
    return true;
  }

  get hasControlWaiting(): boolean {
    return this.#controlCount > 0;
  }

  flushControl(): void {
    while (this.#controlCount > 0) {
      const slot = this.#controlHead;
      const bytes = this.#controlBytes[slot];
      const name = this.#controlName + slot * NAME_BYTES;
      const result = this.sendOnce(this.#controlBase + slot * CONTROL_SLOT_BYTES, bytes, bytes, name);
      // a full channel does not hold up what goes to the sockets
      if ((result === EAGAIN || result === ENOBUFS) && this.#u8[name + NAME_FAMILY] >= 4) return;
      this.#stats.add(result >= 0 ? Counter.txInternal : Counter.sendErrors, 1);
      this.#controlHead = (slot + 1) % CONTROL_SLOTS;
      this.#controlCount--;
    }
  }
}
