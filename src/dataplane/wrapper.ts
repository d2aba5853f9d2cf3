/**
 * Sends a train of sealed datagrams through a via: each is wrapped as inner kind 4 of the hop's session and sealed again, straight into one train of
 * equal datagrams to the hop's active path. To its caller it is a socket: same results, same errors.
 *
 * The label is written into the 8 bytes in front of each datagram, which are put back afterwards, so nothing is copied but by the sealing itself. The hop's own
 * path is never a via (NO_PATH): no nesting, no recursion. Base-size datagrams that do not fit the hop's path travel as fragments of its session; larger ones
 * are refused with EMSGSIZE, as a socket would. Nothing here allocates. Source: docs/protocol.md, "Vias".
 */
import { VirtualType } from "../base/endpoint.ts";
import { NAME_ECN, NAME_FAMILY, NAME_REMOTE } from "../base/name.ts";
import type { Slab } from "../base/slab.ts";
import type { Epoch } from "../session/epochs.ts";
import { DATA_OVERHEAD_BYTES, INNER_HEADER_BYTES, InnerKind, OUTER_IPV6_BYTES } from "../wire/data.ts";
import { TRANSIT_LABEL_BYTES } from "../wire/transit.ts";
import { ViaFailure } from "./messages.ts";
import type { PeerState } from "./peer.ts";
import type { Sealer } from "./sealer.ts";
import { EMSGSIZE, ENETUNREACH, MAX_BATCH_BYTES, type Sender } from "./sender.ts";
import { Counter, type PlaneStats } from "./stats.ts";
import type { Via, Vias } from "./vias.ts";

/** What sealing and label add to a datagram. */
export const WRAP_BYTES: number = DATA_OVERHEAD_BYTES + TRANSIT_LABEL_BYTES;
/** Largest datagram of a path of base MTU (1,280): it always gets through, in pieces if it must. */
export const BASE_DATAGRAM_BYTES: number = 1_280 - OUTER_IPV6_BYTES;
const HEAD_BYTES = INNER_HEADER_BYTES + TRANSIT_LABEL_BYTES;

export interface WrapperDeps {
  readonly slab: Slab;
  readonly vias: Vias;
  readonly peers: readonly (PeerState | undefined)[];
  readonly sender: Sender;
  readonly sealer: Sealer;
  readonly stats: PlaneStats;
  readonly needSession: (peer: PeerState) => void;
  readonly wantRekey: (peer: PeerState, epoch: Epoch) => void;
  readonly tooBig: (peer: PeerState, datagramBytes: number) => void;
  readonly rescheduled: (peer: PeerState) => void;
  /** Sends an inner message of the hop in pieces. @returns false when it was dropped */
  readonly sendFragments: (peer: PeerState, kind: number, offset: number, bytes: number) => boolean;
  readonly failed: (via: Via, code: number) => void;
}

export class Wrapper {
  readonly #deps: WrapperDeps;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #sender: Sender;
  readonly #wrapped: number;

  constructor(deps: WrapperDeps) {
    this.#deps = deps;
    this.#u8 = deps.slab.u8;
    this.#view = deps.slab.view;
    this.#sender = deps.sender;
    this.#wrapped = deps.slab.allocate(MAX_BATCH_BYTES + 4_096);
  }

  /** The via of a LABEL name block. */
  viaOf(name: number): Via | undefined {
    return this.#deps.vias.via(this.#view.getUint32(name + NAME_REMOTE + 12));
  }

  /** Largest datagram that this name's via takes whole; 0 when it leads nowhere now. */
  limitBytes(name: number): number {
    const via = this.viaOf(name);
    const hop = via === undefined ? undefined : this.#deps.peers[via.hop];
    return hop === undefined ? 0 : hop.maxPacketBytes - TRANSIT_LABEL_BYTES;
  }

  /** As UdpPort.send(), for a name of family LABEL. */
  send(offset: number, bytes: number, segmentBytes: number, name: number): number {
    const deps = this.#deps;
    const via = this.viaOf(name);
    if (via === undefined) return ENETUNREACH;
    const hop = deps.peers[via.hop];
    const epoch = hop?.sendEpoch;
    if (hop === undefined || epoch === undefined || hop.paths.active < 0) {
      if (hop !== undefined) deps.needSession(hop);
      deps.failed(via, ViaFailure.NO_PATH);
      return ENETUNREACH;
    }
    const hopName = hop.paths.activeName();
    if (this.#u8[hopName + NAME_FAMILY] === VirtualType.LABEL || !epoch.userData) {
      deps.failed(via, ViaFailure.NO_PATH);
      return ENETUNREACH;
    }
    if (segmentBytes + TRANSIT_LABEL_BYTES > hop.maxPacketBytes) {
      return segmentBytes > BASE_DATAGRAM_BYTES ? EMSGSIZE : this.#sendInPieces(via, hop, offset, bytes, segmentBytes);
    }
    // a train made for a direct path may outgrow one send by what wrapping adds
    const perSend = Math.max(1, Math.floor(MAX_BATCH_BYTES / (segmentBytes + WRAP_BYTES))) * segmentBytes;
    const ecn = this.#u8[name + NAME_ECN];
    for (let at = 0; at < bytes; at += perSend) {
      const part = bytes - at < perSend ? bytes - at : perSend;
      const result = this.#sendTrain(via, hop, epoch, hopName, offset + at, part, segmentBytes, ecn);
      if (result >= 0) continue;
      if (result === EMSGSIZE && segmentBytes <= BASE_DATAGRAM_BYTES) {
        return this.#sendInPieces(via, hop, offset + at, bytes - at, segmentBytes) < 0 && at === 0 ? result : bytes;
      }
      if (at === 0) return result;
      // the first part is gone already: the rest counts as lost on the way
      deps.stats.add(Counter.sendErrors, 1);
      return bytes;
    }
    return bytes;
  }

  /** Wraps and sends what fits one send. */
  #sendTrain(
    via: Via,
    hop: PeerState,
    epoch: Epoch,
    hopName: number,
    offset: number,
    bytes: number,
    segmentBytes: number,
    ecn: number,
  ): number {
    const deps = this.#deps;
    const view = this.#view;
    const target = this.#wrapped;
    let total = 0;
    let count = 0;
    for (let at = 0; at < bytes; at += segmentBytes) {
      const take = bytes - at < segmentBytes ? bytes - at : segmentBytes;
      const head = offset + at - HEAD_BYTES;
      const first = view.getInt32(head, true);
      const second = view.getInt32(head + INNER_HEADER_BYTES, true);
      view.setUint32(head, InnerKind.TRANSIT, true);
      view.setUint32(head + INNER_HEADER_BYTES, via.out, true);
      const sealed = deps.sealer.seal(epoch, head, take + TRANSIT_LABEL_BYTES, target + total);
      view.setInt32(head, first, true);
      view.setInt32(head + INNER_HEADER_BYTES, second, true);
      if (!sealed) {
        hop.sendEpoch = undefined;
        deps.needSession(hop);
        return ENETUNREACH;
      }
      total += take + WRAP_BYTES;
      count++;
    }
    if (epoch.blocksSealed >= epoch.rekeyBlocks && hop.rekeyToldFor !== epoch.epochId) {
      hop.rekeyToldFor = epoch.epochId;
      deps.wantRekey(hop, epoch);
    }
    this.#u8[hopName + NAME_ECN] = ecn;
    const result = this.#sender.sendOnce(target, total, segmentBytes + WRAP_BYTES, hopName);
    if (result < 0) {
      if (result === EMSGSIZE && count === 1) deps.tooBig(hop, segmentBytes + WRAP_BYTES);
      return result;
    }
    deps.stats.add(Counter.viaSent, count);
    this.#sender.delivered(hop, target, count, total, segmentBytes + WRAP_BYTES, ecn, true);
    return bytes;
  }

  /** The hop's path is smaller than the base: kind 9 of the hop's session. */
  #sendInPieces(via: Via, hop: PeerState, offset: number, bytes: number, segmentBytes: number): number {
    const view = this.#view;
    let sent = 0;
    for (let at = 0; at < bytes; at += segmentBytes) {
      const take = bytes - at < segmentBytes ? bytes - at : segmentBytes;
      const head = offset + at - TRANSIT_LABEL_BYTES;
      const saved = view.getInt32(head, true);
      view.setUint32(head, via.out, true);
      const done = this.#deps.sendFragments(hop, InnerKind.TRANSIT, head, take + TRANSIT_LABEL_BYTES);
      view.setInt32(head, saved, true);
      if (done) sent++;
    }
    if (sent === 0) return EMSGSIZE;
    this.#deps.stats.add(Counter.viaSent, sent);
    if (hop.paths.sent(this.#sender.nowMs, sent, bytes)) this.#deps.rescheduled(hop);
    return bytes;
  }
}
