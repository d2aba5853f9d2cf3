/**
 * Inner kind 4 as it comes in: what ends here is handed to `nested` as a datagram from the via's name, what goes on is sealed for the next node with the next
 * label, and errors find the via or the entry that they are about.
 *
 * Stages: label look-up (cached while the same comes again) → the sender's quota → sealing straight from the receive buffer into one open batch, which leaves as one train
 * when the next datagram does not fit it, or at flush(). While the socket is full the batch waits and what comes meanwhile is dropped (QUEUE_FULL): a
 * forwarder keeps no queue for others. Every datagram is counted once on the way in: as taken, as ending here, or as a drop. No node sends a packet back to
 * where it came from. Nothing on the way of a datagram allocates. Source: docs/protocol.md, "Vias".
 */
import { Drop } from "../base/drop.ts";
import { VirtualType } from "../base/endpoint.ts";
import { NAME_ECN, NAME_FAMILY } from "../base/name.ts";
import type { Slab } from "../base/slab.ts";
import { TokenBucket } from "../path/bucket.ts";
import type { Epoch } from "../session/epochs.ts";
import { DATA_OVERHEAD_BYTES, INNER_HEADER_BYTES, InnerKind } from "../wire/data.ts";
import {
  decodeTransit,
  encodeTransitError,
  TRANSIT_ERROR_BYTES,
  TRANSIT_FLAG_ERROR,
  TRANSIT_LABEL_BYTES,
  TransitError,
  TransitHeader,
} from "../wire/transit.ts";
import type { PeerState } from "./peer.ts";
import type { Sealer } from "./sealer.ts";
import { Batch, type Sender } from "./sender.ts";
import { Counter, PeerField, type PlaneStats } from "./stats.ts";
import { type Forward, FORWARD_LAST_USED_MS, type Via, type Vias } from "./vias.ts";
import { BASE_DATAGRAM_BYTES } from "./wrapper.ts";

const ERRORS_PER_SECOND = 100;
const ERRORS_BURST = 50;

export interface ForwardingDeps {
  readonly slab: Slab;
  readonly vias: Vias;
  readonly peers: readonly (PeerState | undefined)[];
  readonly sender: Sender;
  readonly sealer: Sealer;
  readonly stats: PlaneStats;
  /** A datagram that came through a via: it is judged as one from the via's name. */
  readonly nested: (via: Via, offset: number, bytes: number, ecn: number) => void;
  readonly needSession: (peer: PeerState) => void;
  readonly wantRekey: (peer: PeerState, epoch: Epoch) => void;
  /** Sends an inner message to the peer in pieces. @returns false when it was dropped */
  readonly sendFragments: (peer: PeerState, kind: number, offset: number, bytes: number) => boolean;
  /** Seals and sends one inner message of our own. */
  readonly sendInner: (peer: PeerState, kind: number, flags: number, payload: number, bytes: number) => boolean;
  readonly failed: (via: Via, code: number) => void;
  readonly expired: (forward: Forward) => void;
}

export class Forwarding {
  nowMs = 0;
  readonly batch: Batch;
  readonly #deps: ForwardingDeps;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #vias: Vias;
  readonly #stats: PlaneStats;
  readonly #header = new TransitHeader();
  readonly #errors: TokenBucket = new TokenBucket(ERRORS_PER_SECOND, ERRORS_BURST);
  readonly #scratch: number;
  // the look-up made last
  #version = -1;
  #lastFrom = -1;
  #lastLabel = 0;
  #lastEntry = -1;

  constructor(deps: ForwardingDeps) {
    this.#deps = deps;
    this.#u8 = deps.slab.u8;
    this.#view = deps.slab.view;
    this.#vias = deps.vias;
    this.#stats = deps.stats;
    this.batch = new Batch(deps.slab, undefined, true);
    this.#scratch = deps.slab.allocate(64) + INNER_HEADER_BYTES;
  }

  /**
   * One opened inner message of kind 4. @param payload,bytes behind its inner header; anything may be in it
   * @param name where it came from, for its ECN bits
   */
  handle(peer: PeerState, epoch: Epoch, flags: number, payload: number, bytes: number, name: number): void {
    const header = this.#header;
    if (!epoch.userData) return this.#drop(Drop.NOT_READY);
    const malformed = decodeTransit(this.#view, payload, bytes, flags, header);
    if (malformed !== Drop.NONE) return this.#drop(malformed);
    const label = header.label;
    if (header.isError) return this.#error(peer, label, header.code);
    let entry = this.#lastEntry;
    if (label !== this.#lastLabel || peer.slot !== this.#lastFrom || this.#version !== this.#vias.version) {
      entry = this.#vias.incoming(peer.slot, label);
      this.#lastEntry = entry;
      this.#lastLabel = label;
      this.#lastFrom = peer.slot;
      this.#version = this.#vias.version;
    }
    const ecn = this.#u8[name + NAME_ECN] & 3;
    const via = this.#vias.viaOf(entry);
    if (via !== undefined) {
      this.#stats.add(Counter.viaReceived, 1);
      this.#deps.nested(via, payload + TRANSIT_LABEL_BYTES, bytes - TRANSIT_LABEL_BYTES, ecn);
      return;
    }
    const forward = this.#vias.forwardOf(entry);
    if (forward === undefined) {
      this.#sendError(peer, label, TransitError.UNKNOWN_LABEL);
      return this.#drop(Drop.UNKNOWN_LABEL);
    }
    this.#forward(peer, forward, payload, bytes, ecn);
  }

  /** Sends what is batched. */
  flush(): void {
    if (this.batch.count > 0 && !this.batch.blocked) this.#deps.sender.send(this.batch);
  }

  /** Its peer goes: what is batched for it is lost. */
  removePeer(peer: PeerState): void {
    if (this.batch.peer === peer) this.#deps.sender.discard(this.batch);
  }

  #drop(reason: Drop): void {
    this.#stats.dropRx(reason, 1);
  }

  #forward(from: PeerState, forward: Forward, payload: number, bytes: number, ecn: number): void {
    const to = this.#deps.peers[forward.to];
    const epoch = to?.sendEpoch;
    const name = to === undefined || to.paths.active < 0 ? 0 : to.paths.activeName();
    if (
      to === undefined ||
      epoch === undefined ||
      !epoch.userData ||
      name === 0 ||
      this.#u8[name + NAME_FAMILY] === VirtualType.LABEL
    ) {
      this.#sendError(from, forward.label, TransitError.NO_PATH);
      if (to !== undefined && epoch === undefined) this.#deps.needSession(to);
      return this.#drop(Drop.NO_PATH);
    }
    if (!forward.quota.take(this.nowMs, bytes)) return this.#overQuota(from);
    forward.state[FORWARD_LAST_USED_MS] = this.nowMs;
    this.#view.setUint32(payload, forward.out, true);
    if (bytes > to.maxPacketBytes) return this.#inPieces(from, to, payload, bytes);
    const batch = this.batch;
    const datagramBytes = bytes + DATA_OVERHEAD_BYTES;
    if (!batch.blocked && !batch.fits(to, datagramBytes, ecn, this.#deps.sender.gso)) this.#deps.sender.send(batch);
    if (batch.blocked) return this.#drop(Drop.QUEUE_FULL);
    const plain = payload - INNER_HEADER_BYTES;
    this.#view.setUint32(plain, InnerKind.TRANSIT, true);
    if (!this.#deps.sealer.seal(epoch, plain, bytes, batch.base + batch.bytes)) {
      to.sendEpoch = undefined;
      this.#deps.needSession(to);
      return this.#drop(Drop.KEY_EXPIRED);
    }
    if (epoch.blocksSealed >= epoch.rekeyBlocks && to.rekeyToldFor !== epoch.epochId) {
      to.rekeyToldFor = epoch.epochId;
      this.#deps.wantRekey(to, epoch);
    }
    batch.append(to, name, datagramBytes, bytes, ecn);
    this.#taken(from, bytes);
  }

  #taken(from: PeerState, bytes: number): void {
    const { cells } = this.#stats;
    cells[Counter.rxInternal] += 1;
    cells[Counter.forwardTaken] += 1;
    cells[Counter.forwardedBytes] += bytes - TRANSIT_LABEL_BYTES;
    cells[from.row + PeerField.forwardedBytes] += bytes - TRANSIT_LABEL_BYTES;
  }

  #overQuota(from: PeerState): void {
    this.#stats.cells[from.row + PeerField.forwardDrops] += 1;
    this.#drop(Drop.QUOTA);
  }

  /** Too big for the next path: base-size ones go on in pieces, of larger ones the source's PMTU discovery learns. */
  #inPieces(from: PeerState, to: PeerState, payload: number, bytes: number): void {
    if (bytes - TRANSIT_LABEL_BYTES > BASE_DATAGRAM_BYTES) return this.#drop(Drop.TOO_BIG);
    this.#taken(from, bytes);
    const sent = this.#deps.sendFragments(to, InnerKind.TRANSIT, payload, bytes);
    this.#stats.add(sent ? Counter.forwarded : Counter.forwardLost, 1);
  }

  // ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Tells the peer that what it sends under this label goes nowhere. */
  #sendError(peer: PeerState, label: number, code: number): void {
    if (peer.sendEpoch === undefined || peer.paths.active < 0) return;
    // an error inside a via would be nested; the sender learns of it by silence
    if (this.#u8[peer.paths.activeName() + NAME_FAMILY] === VirtualType.LABEL) return;
    if (!this.#errors.take(this.nowMs)) {
      this.#stats.add(Counter.transitErrorsLimited, 1);
      return;
    }
    encodeTransitError(this.#view, this.#scratch, label, code);
    if (this.#deps.sendInner(peer, InnerKind.TRANSIT, TRANSIT_FLAG_ERROR, this.#scratch, TRANSIT_ERROR_BYTES)) {
      this.#stats.add(Counter.transitErrorsSent, 1);
    }
  }

  /** The peer says that it cannot hand on what we send it under this label. */
  #error(peer: PeerState, label: number, code: number): void {
    const entry = this.#vias.outgoing(peer.slot, label);
    const via = this.#vias.viaOf(entry);
    const forward = this.#vias.forwardOf(entry);
    if (via === undefined && forward === undefined) return this.#drop(Drop.UNEXPECTED);
    this.#stats.add(Counter.rxInternal, 1);
    this.#stats.add(Counter.transitErrorsReceived, 1);
    if (via !== undefined) this.#deps.failed(via, code);
    if (forward === undefined) return;
    const from = this.#deps.peers[forward.from];
    if (from !== undefined) this.#sendError(from, forward.label, code);
    this.#vias.removeForward(forward.from, forward.label);
    this.#deps.expired(forward);
  }
}
