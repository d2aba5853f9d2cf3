/**
 * Peers to TUN: receive trains of datagrams, open, check, merge, write.
 *
 * Stages and owners: the UDP port owns the receive buffers until its next receive(); packets are opened in place and stay there until the
 * coalescer has written them, so the coalescer is flushed before each receive. Ordering: as received. Before authentication
 * a datagram costs a type check, one index lookup, the replay check and the AEAD; handshakes go through the gate. When full: the TUN's
 * back-pressure pauses receiving; the ring to the control thread refuses and counts.
 */
import { Drop } from "../base/drop.ts";
import { isVirtualAddress } from "../base/endpoint.ts";
import { NAME_ECN, NAME_FAMILY, NAME_REMOTE } from "../base/name.ts";
import type { Slab } from "../base/slab.ts";
import type { Epoch, EpochTable } from "../session/epochs.ts";
import type { Coalescer } from "./coalesce.ts";
import { ipv4HeaderChecksum } from "../wire/checksum.ts";
import {
  DATA_HEADER_BYTES,
  DATA_MIN_BYTES,
  DATA_TYPE,
  INNER_FLAG_PARTIAL_CHECKSUM,
  INNER_HEADER_BYTES,
  InnerKind,
  TAG_BYTES,
} from "../wire/data.ts";
import { TcpFlag } from "../wire/tcp.ts";
import { clampSyn } from "./mss.ts";
import type { PeerState } from "./peer.ts";
import type { AeadPort, UdpPort } from "./ports.ts";
import type { RouteTable } from "./routes.ts";
import { Counter, PeerField, type PlaneStats } from "./stats.ts";

const TCP = 6;
const UDP = 17;
const EAGAIN = -11;
const ECN_ECT1 = 1;
const ECN_ECT0 = 2;
const ECN_CE = 3;
/** Under an epoch this young a keepalive is part of the handshake, and the session wants to hear of it. */
const YOUNG_EPOCH_MS = 10_000;

export interface InboundDeps {
  readonly slab: Slab;
  readonly udp: UdpPort;
  readonly aead: AeadPort;
  readonly stats: PlaneStats;
  readonly epochs: EpochTable;
  /** Who owns a source address. */
  readonly routes: RouteTable;
  /** What this node delivers to its own kernel. */
  readonly local: RouteTable;
  readonly peers: readonly (PeerState | undefined)[];
  /** undefined on an agent node: user packets are dropped as NOT_FOR_US. */
  readonly coalescer: Coalescer | undefined;
  /** A handshake or STUN-like datagram; judged by the gate. */
  readonly handshake: (offset: number, bytes: number, name: number) => void;
  /** An authenticated inner message other than an IP packet; keepalives only under a young epoch. */
  readonly inner: (
    peer: PeerState,
    epoch: Epoch,
    kind: number,
    flags: number,
    aux: number,
    payload: number,
    bytes: number,
    name: number,
    datagramBytes: number,
  ) => void;
  /** An authenticated inner message of kind 4: transit. */
  readonly transit: (
    peer: PeerState,
    epoch: Epoch,
    flags: number,
    payload: number,
    bytes: number,
    name: number,
  ) => void;
  /** First authenticated packet under an epoch. */
  readonly proof: (peer: PeerState, epoch: Epoch) => void;
  /** Path state of the peer changed or may have changed because of this packet. */
  readonly arrived: (peer: PeerState) => void;
}

export class Inbound {
  nowMs = 0;
  /** No user data is taken although there is a session. */
  held = false;
  /** Messages to ask for in one receive: few while long trains come, more while single datagrams do. */
  #messages4 = 4;
  #messages6 = 4;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #deps: InboundDeps;
  readonly #udp: UdpPort;
  readonly #aead: AeadPort;
  readonly #stats: PlaneStats;
  readonly #epochs: EpochTable;
  #lastIndex = -1;
  #lastEpoch: Epoch | undefined = undefined;
  /** Destination found to be ours last, as u32; −1 = none (0 is an address that anybody can write). */
  #lastLocal4 = -1;
  /** The packet just opened was the first under its epoch. */
  #newlyProven = false;
  /** A datagram that came inside another one is being handled: inside it there may not be a third. */
  #isNested = false;
  #nestedIndex = -1;
  #nestedEpoch: Epoch | undefined = undefined;
  // the run of nested packets under one epoch from one name that the path has not been told of yet
  #runEpoch: Epoch | undefined = undefined;
  #runName = 0;
  #runPackets = 0;
  #runBytes = 0;
  #runLow = 0;
  #runHigh = 0;

  constructor(deps: InboundDeps) {
    this.#deps = deps;
    this.#u8 = deps.slab.u8;
    this.#view = deps.slab.view;
    this.#udp = deps.udp;
    this.#aead = deps.aead;
    this.#stats = deps.stats;
    this.#epochs = deps.epochs;
  }

  /** Epochs or routes changed: cached answers are void. */
  forget(): void {
    this.#lastIndex = -1;
    this.#lastEpoch = undefined;
    this.#nestedIndex = -1;
    this.#nestedEpoch = undefined;
    this.#lastLocal4 = -1;
  }

  get isNested(): boolean {
    return this.#isNested;
  }

  /** Receives at most `maxCalls` times. @returns true when the socket may hold more */
  drain(family: 4 | 6, maxCalls: number): boolean {
    const udp = this.#udp;
    const stats = this.#stats;
    const coalescer = this.#deps.coalescer;
    for (let call = 0; call < maxCalls; call++) {
      const want = family === 4 ? this.#messages4 : this.#messages6;
      const count = udp.receive(family, want);
      if (count < 0) {
        if (count !== EAGAIN) stats.add(Counter.receiveErrors, 1);
        return false;
      }
      stats.add(Counter.udpRxCalls, 1);
      let bytes = 0;
      for (let i = 0; i < count; i++) {
        const total = udp.messageBytes[i];
        bytes += total;
        const name = udp.messageName[i];
        if (this.#u8[name + NAME_FAMILY] === 6 && isVirtualAddress(this.#u8, name + NAME_REMOTE)) {
          // the discard prefix names our own vias: nothing on a wire may come from there
          this.#refuse(total, udp.messageSegmentBytes[i]);
        } else this.#handleMessage(udp.messageOffset[i], total, udp.messageSegmentBytes[i], name);
      }
      if (coalescer !== undefined) coalescer.flush();
      const next = bytes > count * 16_384 ? 2 : bytes > count * 4_096 ? 4 : 16;
      if (family === 4) this.#messages4 = next;
      else this.#messages6 = next;
      if (count < want) return false;
    }
    return true;
  }

  #refuse(total: number, segmentBytes: number): void {
    const datagrams = segmentBytes > 0 ? Math.ceil(total / segmentBytes) : 1;
    this.#stats.add(Counter.udpRxBytes, total);
    this.#stats.add(Counter.udpRxDatagrams, datagrams);
    this.#stats.dropRx(Drop.UNEXPECTED, datagrams);
  }

  /** One datagram that came another way than through a socket. @param name its name block, the caller's */
  datagram(offset: number, bytes: number, name: number): void {
    this.#handleMessage(offset, bytes, 0, name);
    this.#deps.coalescer?.flush();
  }

  /**
   * A datagram that came inside another one, which was counted on its way in; this one is judged for it.
   * @param name of the via that it came through; the same block for all of a run
   */
  nested(start: number, bytes: number, name: number): void {
    const u8 = this.#u8;
    if (u8[start] !== DATA_TYPE) {
      this.#deps.handshake(start, bytes, name);
      return;
    }
    const epoch = this.#openNested(start, bytes);
    if (epoch === undefined) return;
    const low = this.#view.getUint32(start + 8, true);
    const high = this.#view.getUint32(start + 12, true);
    // the run that ends here is another epoch's and proves nothing
    const isProof = this.#newlyProven;
    this.#newlyProven = false;
    if (epoch !== this.#runEpoch) {
      this.#endRun();
      this.#runEpoch = epoch;
      this.#runName = name;
      this.#runLow = low;
      this.#runHigh = high;
    } else if (high > this.#runHigh || (high === this.#runHigh && low > this.#runLow)) {
      this.#runLow = low;
      this.#runHigh = high;
    }
    this.#runPackets++;
    this.#runBytes += bytes;
    if (isProof) {
      this.#newlyProven = true;
      this.#endRun();
    }
    this.#isNested = true;
    this.#dispatch(epoch, start + DATA_HEADER_BYTES, bytes - DATA_HEADER_BYTES - TAG_BYTES, name, bytes);
    this.#isNested = false;
  }

  /** The name block of nested packets is about to change, or the message that they came in is done: the path hears of the run. */
  endRun(): void {
    if (this.#runEpoch !== undefined) this.#endRun();
  }

  #endRun(): void {
    const epoch = this.#runEpoch;
    const packets = this.#runPackets;
    const bytes = this.#runBytes;
    this.#runEpoch = undefined;
    this.#runPackets = 0;
    this.#runBytes = 0;
    if (epoch !== undefined) this.#arrived(epoch, this.#runName, packets, bytes, this.#runLow, this.#runHigh);
  }

  /** One message of the kernel: one datagram or a train of equal ones. */
  #handleMessage(offset: number, total: number, segmentBytes: number, name: number): void {
    const u8 = this.#u8;
    const stats = this.#stats;
    stats.add(Counter.udpRxBytes, total);
    if (total === 0) {
      stats.add(Counter.udpRxDatagrams, 1);
      stats.dropRx(Drop.SHORT, 1);
      return;
    }
    const step = segmentBytes > 0 ? segmentBytes : total;
    // of consecutive packets under one epoch the path is told once
    let runEpoch: Epoch | undefined;
    let runPackets = 0;
    let runBytes = 0;
    let runLow = 0;
    let runHigh = 0;
    for (let at = 0; at < total; at += step) {
      const bytes = total - at < step ? total - at : step;
      const start = offset + at;
      stats.add(Counter.udpRxDatagrams, 1);
      const type = u8[start];
      if (type !== DATA_TYPE) {
        this.#deps.handshake(start, bytes, name);
        continue;
      }
      const epoch = this.#open(start, bytes);
      if (epoch === undefined) continue;
      const low = this.#view.getUint32(start + 8, true);
      const high = this.#view.getUint32(start + 12, true);
      // the run that ends here is another epoch's and proves nothing
      const isProof = this.#newlyProven;
      this.#newlyProven = false;
      if (epoch !== runEpoch) {
        if (runEpoch !== undefined) this.#arrived(runEpoch, name, runPackets, runBytes, runLow, runHigh);
        runEpoch = epoch;
        runPackets = 0;
        runBytes = 0;
        runLow = low;
        runHigh = high;
      } else if (high > runHigh || (high === runHigh && low > runLow)) {
        runLow = low;
        runHigh = high;
      }
      runPackets++;
      runBytes += bytes;
      if (isProof) {
        // the session hears of the proof before it sees what the packet says
        this.#newlyProven = true;
        this.#arrived(epoch, name, runPackets, runBytes, runLow, runHigh);
        runEpoch = undefined;
      }
      this.#dispatch(epoch, start + DATA_HEADER_BYTES, bytes - DATA_HEADER_BYTES - TAG_BYTES, name, bytes);
    }
    if (runEpoch !== undefined) this.#arrived(runEpoch, name, runPackets, runBytes, runLow, runHigh);
    if (this.#runEpoch !== undefined) this.#endRun();
  }

  /** @returns true for a datagram that has the fixed part of a data packet; others are counted */
  #isData(start: number, bytes: number): boolean {
    if (bytes >= DATA_MIN_BYTES && this.#view.getUint32(start, true) === DATA_TYPE) return true;
    this.#stats.dropRx(bytes < DATA_MIN_BYTES ? Drop.SHORT : Drop.BAD_TYPE, 1);
    return false;
  }

  /** #open() with a cache of its own: outer and nested packets come in turns. */
  #openNested(start: number, bytes: number): Epoch | undefined {
    if (!this.#isData(start, bytes)) return undefined;
    const index = this.#view.getUint32(start + 4, true);
    let epoch = this.#nestedEpoch;
    if (index !== this.#nestedIndex) {
      epoch = this.#epochs.lookup(index);
      if (epoch !== undefined) {
        this.#nestedIndex = index;
        this.#nestedEpoch = epoch;
      }
    }
    if (epoch === undefined) {
      this.#stats.dropRx(Drop.UNKNOWN_INDEX, 1);
      return undefined;
    }
    return this.#openUnder(epoch, start, bytes);
  }

  /** Authenticates and decrypts in place. @returns the epoch, or undefined when dropped (counted) */
  #open(start: number, bytes: number): Epoch | undefined {
    if (!this.#isData(start, bytes)) return undefined;
    const stats = this.#stats;
    const index = this.#view.getUint32(start + 4, true);
    let epoch = this.#lastEpoch;
    if (index !== this.#lastIndex) {
      epoch = this.#epochs.lookup(index);
      if (epoch === undefined) {
        stats.dropRx(Drop.UNKNOWN_INDEX, 1);
        return undefined;
      }
      this.#lastIndex = index;
      this.#lastEpoch = epoch;
    }
    if (epoch === undefined) return undefined;
    return this.#openUnder(epoch, start, bytes);
  }

  #openUnder(epoch: Epoch, start: number, bytes: number): Epoch | undefined {
    const stats = this.#stats;
    const low = this.#view.getUint32(start + 8, true);
    const high = this.#view.getUint32(start + 12, true);
    const reason = epoch.replay.check(low, high);
    if (reason !== Drop.NONE) {
      stats.dropRx(reason, 1);
      return undefined;
    }
    const cipher = start + DATA_HEADER_BYTES;
    if (!this.#aead.open(epoch.openHandle, low, high, cipher, bytes - DATA_HEADER_BYTES - TAG_BYTES, cipher)) {
      stats.dropRx(Drop.AUTH, 1);
      return undefined;
    }
    epoch.replay.mark(low, high);
    if (!epoch.proven) {
      epoch.proven = true;
      this.#newlyProven = true;
    }
    return epoch;
  }

  #arrived(epoch: Epoch, name: number, packets: number, bytes: number, low: number, high: number): void {
    const peer = this.#deps.peers[epoch.peer];
    if (peer === undefined) return;
    epoch.lastOpenedMs = this.nowMs;
    peer.lastReceivedMs = this.nowMs;
    peer.unansweredSendMs = -1;
    const cells = this.#stats.cells;
    cells[peer.row + PeerField.lastReceivedMs] = this.nowMs;
    peer.paths.received(this.nowMs, name, packets, bytes, low, high, this.#u8[name + NAME_ECN] & 3, epoch.epochId);
    if (this.#newlyProven) {
      this.#newlyProven = false;
      this.#deps.proof(peer, epoch);
    }
    this.#deps.arrived(peer);
  }

  /** @param inner offset of the inner header @param bytes of the plaintext, inner header included */
  #dispatch(epoch: Epoch, inner: number, bytes: number, name: number, datagramBytes: number): void {
    const u8 = this.#u8;
    const peer = this.#deps.peers[epoch.peer];
    if (peer === undefined) {
      this.#stats.dropRx(Drop.REMOVED, 1);
      return;
    }
    const kind = u8[inner];
    if (kind === InnerKind.IP) {
      this.#userPacket(peer, epoch, inner + INNER_HEADER_BYTES, bytes - INNER_HEADER_BYTES, u8[inner + 1], name);
      return;
    }
    if (kind === InnerKind.TRANSIT) {
      const payload = inner + INNER_HEADER_BYTES;
      if (this.#isNested) this.#stats.dropRx(Drop.BAD_INNER, 1);
      else this.#deps.transit(peer, epoch, u8[inner + 1], payload, bytes - INNER_HEADER_BYTES, name);
      return;
    }
    if (kind === InnerKind.KEEPALIVE && this.nowMs - epoch.installedAtMs > YOUNG_EPOCH_MS) {
      this.#stats.add(Counter.rxInternal, 1);
      return;
    }
    this.#deps.inner(
      peer,
      epoch,
      kind,
      u8[inner + 1],
      this.#view.getUint16(inner + 2, true),
      inner + INNER_HEADER_BYTES,
      bytes - INNER_HEADER_BYTES,
      name,
      datagramBytes,
    );
  }

  /** Judges one opened IP packet and hands it to the coalescer. Also called for reassembled fragments. */
  #userPacket(peer: PeerState, epoch: Epoch, ip: number, bytes: number, flags: number, name: number): void {
    let reason = this.#judge(peer, epoch, ip, bytes, flags);
    const outerEcn = this.#u8[name + NAME_ECN] & 3;
    if (outerEcn !== 0 && reason === Drop.NONE) reason = this.#applyEcn(ip, outerEcn);
    if (reason !== Drop.NONE) {
      this.#stats.dropRx(reason, 1);
      const cells = this.#stats.cells;
      cells[peer.row + PeerField.dropsRx] = cells[peer.row + PeerField.dropsRx] + 1;
      if (reason === Drop.SPOOFED) cells[peer.row + PeerField.spoofed] = cells[peer.row + PeerField.spoofed] + 1;
      return;
    }
    const cells = this.#stats.cells;
    cells[peer.row + PeerField.rxPackets] = cells[peer.row + PeerField.rxPackets] + 1;
    cells[peer.row + PeerField.rxBytes] = cells[peer.row + PeerField.rxBytes] + bytes;
    if (peer.unansweredReceiveMs < 0) peer.unansweredReceiveMs = this.nowMs;
    (this.#deps.coalescer as Coalescer).add(ip, bytes, (flags & INNER_FLAG_PARTIAL_CHECKSUM) !== 0);
  }

  /** Entry for packets that were not opened in place: reassembled fragments. 10 bytes in front of `ip` must be free. */
  userPacket(peer: PeerState, epoch: Epoch, ip: number, bytes: number, flags: number, name: number): void {
    this.#userPacket(peer, epoch, ip, bytes, flags, name);
  }

  /** RFC 6040 section 4.2, figure 4: congestion marked on the way shows inside; a packet that cannot bear the mark is dropped instead. */
  #applyEcn(ip: number, outer: number): Drop {
    const u8 = this.#u8;
    const ipv4 = u8[ip] >>> 4 === 4;
    const second = u8[ip + 1];
    const inner = ipv4 ? second & 3 : (second >>> 4) & 3;
    if (inner === 0) return outer === ECN_CE ? Drop.CONGESTION : Drop.NONE;
    if (inner === ECN_CE || (outer !== ECN_CE && !(outer === ECN_ECT1 && inner === ECN_ECT0))) return Drop.NONE;
    if (ipv4) {
      u8[ip + 1] = (second & ~3) | outer;
      const header = (u8[ip] & 15) * 4;
      this.#view.setUint16(ip + 10, ipv4HeaderChecksum(this.#view, ip, header));
    } else {
      u8[ip + 1] = (second & ~0x30) | (outer << 4);
    }
    return Drop.NONE;
  }

  #judge(peer: PeerState, epoch: Epoch, ip: number, bytes: number, flags: number): Drop {
    const u8 = this.#u8;
    const view = this.#view;
    if (!epoch.userData || this.held) return Drop.NOT_READY;
    if (bytes < 20) return Drop.BAD_IP;
    const version = u8[ip] >>> 4;
    let transportAt = 0;
    let protocol = 0;
    let fragmented = false;
    if (version === 4) {
      transportAt = (u8[ip] & 15) * 4;
      if (transportAt < 20 || transportAt > bytes || view.getUint16(ip + 2) !== bytes) return Drop.BAD_IP;
      protocol = u8[ip + 9];
      fragmented = (view.getUint16(ip + 6) & 0x3fff) !== 0;
      const source = view.getUint32(ip + 12);
      if (source !== peer.checkedSource4) {
        if (this.#deps.routes.lookup4(source) !== peer.slot) return Drop.SPOOFED;
        peer.checkedSource4 = source;
      }
      const destination = view.getUint32(ip + 16);
      if (destination !== this.#lastLocal4) {
        if (this.#deps.local.lookup4(destination) < 0) return Drop.NOT_FOR_US;
        this.#lastLocal4 = destination;
      }
    } else if (version === 6) {
      if (bytes < 40 || view.getUint16(ip + 4) + 40 !== bytes) return Drop.BAD_IP;
      transportAt = 40;
      protocol = u8[ip + 6];
      if (this.#deps.routes.lookup6(view, ip + 8) !== peer.slot) return Drop.SPOOFED;
      if (this.#deps.local.lookup6(view, ip + 24) < 0) return Drop.NOT_FOR_US;
    } else {
      return Drop.BAD_IP;
    }
    if ((flags & INNER_FLAG_PARTIAL_CHECKSUM) !== 0) {
      if (fragmented) return Drop.BAD_INNER;
      if (protocol === TCP) {
        if (bytes < transportAt + 20) return Drop.BAD_INNER;
      } else if (protocol !== UDP || bytes < transportAt + 8) return Drop.BAD_INNER;
    }
    if (protocol === TCP && (u8[ip + transportAt + 13] & TcpFlag.SYN) !== 0)
      clampSyn(view, ip, transportAt, bytes, (flags & INNER_FLAG_PARTIAL_CHECKSUM) !== 0, peer);
    return this.#deps.coalescer === undefined ? Drop.NOT_FOR_US : Drop.NONE;
  }
}
