/**
 * TUN to peers: read super-packets, find the peer, split, seal, send.
 *
 * Stages and owners: one TUN read lands in #tunBuffer; segments are made in place, back to front of nothing: the headers of segment
 * i+1 are written over the already sealed tail of segment i. Each is sealed into the batch of the kind of name it goes to (IPv4, IPv6, via, channel; sender.ts);
 * a batch holds datagrams of one peer and one size and leaves in one UDP_SEGMENT send. Ordering: packets of one peer leave in the order in which
 * they were read; probes, reports and rekeys may overtake (sendInner).
 * When full: a send that would block keeps its sealed batch and marks the batch blocked; from then on segments go to the peer's queue
 * (queues.ts: bounded, CoDel) until the socket is writable or the pause is over; nothing is lost silently.
 */
import { Drop } from "../base/drop.ts";
import { NAME_ECN, NAME_FAMILY } from "../base/name.ts";
import { VirtualType } from "../base/endpoint.ts";
import type { Slab } from "../base/slab.ts";
import type { Epoch, EpochTable } from "../session/epochs.ts";
import { Capability } from "../session/types.ts";
import { completeTransportChecksum, fold, ipv4HeaderChecksum } from "../wire/checksum.ts";
import { DATA_OVERHEAD_BYTES, INNER_FLAG_PARTIAL_CHECKSUM, INNER_HEADER_BYTES, InnerKind } from "../wire/data.ts";
import { TcpFlag } from "../wire/tcp.ts";
import { clampSyn } from "./mss.ts";
import type { PeerState } from "./peer.ts";
import { type AeadPort, type TunPort, type UdpPort, VNET_HEADER_BYTES } from "./ports.ts";
import type { PacketQueues } from "./queues.ts";
import type { RouteTable } from "./routes.ts";
import { Sealer } from "./sealer.ts";
import { Batch, EAGAIN, ENOBUFS, Sender } from "./sender.ts";
import { Counter, PeerField, type PlaneStats } from "./stats.ts";

const TCP = 6;
const UDP = 17;
const TUN_READ_BYTES = 65_536 + VNET_HEADER_BYTES;
/** Room in front of a TUN read for the inner header of the first segment (it lies in the vnet header, parsed by then). */
const TUN_HEADROOM = 64;
const MAX_HEADER_BYTES = 120;
/** What wrapping adds to a batch of 64 is not to make it larger than one send. */
const VIA_BATCH_BYTES = 62_000;

/** After a burst that the kernel did not take whole. */
const RUN_REST_MS = 60_000;

const GSO_NONE = 0;
const GSO_TCPV4 = 1;
const GSO_TCPV6 = 4;
const GSO_UDP_L4 = 5;
const NEEDS_CSUM = 1;

export interface OutboundDeps {
  readonly slab: Slab;
  readonly tun: TunPort | undefined;
  readonly udp: UdpPort;
  readonly aead: AeadPort;
  readonly stats: PlaneStats;
  readonly queues: PacketQueues;
  readonly routes: RouteTable;
  readonly peers: readonly (PeerState | undefined)[];
  /** A packet needs a session (rate-limited by the callee). */
  readonly needSession: (peer: PeerState) => void;
  readonly epochs: EpochTable;
  /** The sending epoch passed its rekey limit. */
  readonly wantRekey: (peer: PeerState, epoch: Epoch) => void;
  /** An IP packet at `ip` cannot go out: answer with an ICMP error into the overlay. */
  readonly icmpError: (reason: Drop, ip: number, bytes: number, mtuBytes: number) => void;
  /** The kernel says a datagram of this path is too big. */
  readonly tooBig: (peer: PeerState, datagramBytes: number) => void;
  /** The peer's paths want to be called earlier than before. */
  readonly rescheduled: (peer: PeerState) => void;
  /** IPv6 packets ≤ 1,280 bytes that do not fit the path go out as fragments (kind 9). */
  readonly sendFragments: (peer: PeerState, offset: number, bytes: number, innerFlags: number) => void;
  /** Sends to a name without a socket: a via or a channel. @returns bytes accepted or -errno */
  readonly virtual: (offset: number, bytes: number, segmentBytes: number, name: number) => number;
}

export class Outbound {
  readonly sender: Sender;
  readonly sealer: Sealer;
  readonly batch4: Batch;
  readonly batch6: Batch;
  readonly batchVia: Batch;
  readonly batchChannel: Batch;
  /** Datagrams of streams between sendInRun() and flushRun(); empty otherwise. */
  readonly #run: Batch;
  #runName = 0;
  /** User data waits although there is a session. */
  held = false;

  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #deps: OutboundDeps;
  readonly #tun: TunPort | undefined;
  readonly #stats: PlaneStats;
  readonly #tunBuffer: number;
  readonly #headerSave: number;
  readonly #innerPlain: number;
  readonly #innerSealed: number;
  #nowMs = 0;
  /** Round-robin ring of peers with a queue. */
  readonly #backlog: Int32Array;
  #backlogHead = 0;
  #backlogCount = 0;
  /** The last service() could serve nobody. */
  #stalled = false;
  /** Cache of the last route lookup for IPv4. */
  #lastDestination = -1;
  #lastPeer: PeerState | undefined = undefined;

  constructor(deps: OutboundDeps) {
    const slab = deps.slab;
    this.#deps = deps;
    this.#u8 = slab.u8;
    this.#view = slab.view;
    this.#tun = deps.tun;
    this.#stats = deps.stats;
    this.sender = new Sender(deps);
    this.sealer = new Sealer(slab, deps.aead, deps.epochs);
    this.#tunBuffer = slab.allocate(TUN_HEADROOM + TUN_READ_BYTES + 64) + TUN_HEADROOM;
    this.#headerSave = slab.allocate(MAX_HEADER_BYTES);
    this.batch4 = new Batch(slab);
    this.batch6 = new Batch(slab);
    this.batchVia = new Batch(slab, VIA_BATCH_BYTES);
    this.batchChannel = new Batch(slab);
    this.#run = new Batch(slab);
    this.#innerPlain = slab.allocate(16_384);
    this.#innerSealed = slab.allocate(16_384);
    this.#backlog = new Int32Array(deps.peers.length);
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  set nowMs(value: number) {
    this.#nowMs = value;
    this.sender.nowMs = value;
    this.#deps.epochs.nowMs = value;
  }

  /** The routes or peers changed: cached answers are void. */
  forgetRoutes(): void {
    this.#lastDestination = -1;
    this.#lastPeer = undefined;
  }

  /** A peer goes away: its batch and queue are thrown away and counted. */
  removePeer(peer: PeerState): void {
    this.forgetRoutes();
    for (const batch of [this.batch4, this.batch6, this.batchVia, this.batchChannel]) {
      if (batch.peer === peer) this.sender.discard(batch);
    }
    this.#deps.queues.clear(peer.queue, Drop.REMOVED);
    this.#stats.cells[peer.row + PeerField.queued] = 0;
  }

  /** True while this family's socket takes nothing. */
  isBlocked(family: 4 | 6): boolean {
    return family === 4 ? this.batch4.blocked : this.batch6.blocked;
  }

  /**
   * Reads and handles super-packets until one of the bounds, then sends what is batched.
   * @returns true when the TUN may hold more
   */
  drainTun(maxReads: number, maxBytes: number): boolean {
    const tun = this.#tun;
    if (tun === undefined) return false;
    const stats = this.#stats;
    let reads = 0;
    let left = maxBytes;
    for (; reads < maxReads && left > 0; reads++) {
      const bytes = tun.read(this.#tunBuffer, TUN_READ_BYTES);
      if (bytes <= 0) {
        if (bytes !== EAGAIN) stats.add(Counter.tunReadErrors, 1);
        this.flush();
        return false;
      }
      left -= bytes;
      stats.add(Counter.tunRxReads, 1);
      this.#handleTunPacket(this.#tunBuffer, bytes);
    }
    this.flush();
    return true;
  }

  /** Sends the open batches as far as the kernel takes them. */
  flush(): void {
    if (this.batch4.count > 0 && !this.batch4.blocked) this.sender.send(this.batch4);
    if (this.batch6.count > 0 && !this.batch6.blocked) this.sender.send(this.batch6);
    if (this.batchVia.count > 0 && !this.batchVia.blocked) this.sender.send(this.batchVia);
    if (this.batchChannel.count > 0 && !this.batchChannel.blocked) this.sender.send(this.batchChannel);
  }

  /** The batch for datagrams to this name. */
  batchOf(name: number): Batch {
    const family = this.#u8[name + NAME_FAMILY];
    if (family === 4) return this.batch4;
    if (family === 6) return this.batch6;
    return family === VirtualType.LABEL ? this.batchVia : this.batchChannel;
  }

  /** A socket is writable again, or time passed: retry what is blocked, then serve the queues, at most `budget` packets. */
  service(writable4: boolean, writable6: boolean, budget: number): void {
    this.sender.unblock(this.batch4, writable4, writable6);
    this.sender.unblock(this.batch6, writable4, writable6);
    this.sender.unblock(this.batchVia, writable4, writable6);
    this.sender.unblock(this.batchChannel, writable4, writable6);
    this.sender.flushControl();
    let left = budget;
    let rounds = this.#backlogCount;
    while (rounds > 0 && left > 0) {
      rounds--;
      const slot = this.#backlog[this.#backlogHead];
      this.#backlogHead = (this.#backlogHead + 1) % this.#backlog.length;
      this.#backlogCount--;
      const peer = this.#deps.peers[slot];
      if (peer === undefined || !peer.backlogged) continue;
      peer.backlogged = false;
      const before = left;
      left -= this.#serveQueue(peer, Math.min(left, 64));
      if (peer.queue.packets > 0 && peer.sendEpoch !== undefined && peer.paths.active >= 0) {
        this.#enlist(peer);
        if (before !== left) rounds = Math.min(rounds + 1, this.#backlogCount);
      }
    }
    // nothing could be served, so every batch that the backlog wants is blocked: writability or the end of a pause wakes us
    this.#stalled = left === budget;
    this.flush();
  }

  /** True when service() has something to do that waits for neither writability nor a pause. */
  get hasRunnableBacklog(): boolean {
    return this.#backlogCount > 0 && !this.#stalled;
  }

  /** When a pause after ENOBUFS ends; Infinity when there is none. */
  get pauseEndMs(): number {
    const real = Math.min(this.batch4.pauseEndMs, this.batch6.pauseEndMs);
    return Math.min(real, this.batchVia.pauseEndMs, this.batchChannel.pauseEndMs);
  }

  /** True while something waits for this family's socket to become writable. */
  waitsWritable(family: 4 | 6): boolean {
    if (this.batch4.waitsWritable(family) || this.batch6.waitsWritable(family)) return true;
    if (this.batchVia.waitsWritable(family)) return true;
    return this.sender.hasControlWaiting && !(family === 4 ? this.batch4 : this.batch6).blocked;
  }

  /** A session or path came up: what waited for it may go. */
  released(peer: PeerState): void {
    this.#stalled = false;
    if (peer.queue.packets > 0 && !this.held) this.#enlist(peer);
  }

  /**
   * Seals one inner message of our own (probe, report, control, keepalive) and sends it at once, past all queues.
   * @param payload slab offset, `bytes` long (≤ 9,000) @param name name block to send to
   * @returns false when it was dropped (counted)
   */
  sendInner(
    epoch: Epoch,
    name: number,
    kind: number,
    flags: number,
    aux: number,
    payload: number,
    bytes: number,
  ): boolean {
    const u8 = this.#u8;
    const view = this.#view;
    const plain = this.#innerPlain;
    u8[plain] = kind;
    u8[plain + 1] = flags;
    view.setUint16(plain + 2, aux, true);
    if (bytes > 0) u8.copyWithin(plain + 4, payload, payload + bytes);
    if (!this.sealer.seal(epoch, plain, bytes, this.#innerSealed)) return false;
    return this.sendRaw(this.#innerSealed, bytes + DATA_OVERHEAD_BYTES, name);
  }

  /**
   * Like sendInner(), for datagrams of streams, which come in bursts: those of one peer and path leave in one send, at the latest with flushRun(), which the
   * turn calls when it has taken its commands.
   */
  sendInRun(
    peer: PeerState,
    epoch: Epoch,
    name: number,
    kind: number,
    flags: number,
    aux: number,
    payload: number,
    bytes: number,
  ): boolean {
    const u8 = this.#u8;
    const run = this.#run;
    const datagramBytes = bytes + DATA_OVERHEAD_BYTES;
    if (run.count > 0 && (this.#runName !== name || !run.fits(peer, datagramBytes, 0, true))) this.flushRun();
    if (!run.gso && this.#nowMs >= run.gsoRetryMs) run.gso = true;
    if (u8[name + NAME_FAMILY] < 4 || !this.sender.gso || !run.gso)
      return this.sendInner(epoch, name, kind, flags, aux, payload, bytes);
    const plain = this.#innerPlain;
    u8[plain] = kind;
    u8[plain + 1] = flags;
    this.#view.setUint16(plain + 2, aux, true);
    if (bytes > 0) u8.copyWithin(plain + 4, payload, payload + bytes);
    if (!this.sealer.seal(epoch, plain, bytes, run.base + run.bytes)) return false;
    run.append(peer, name, datagramBytes, 0, 0);
    // our own messages are not ECN-capable
    u8[run.name + NAME_ECN] = 0;
    this.#runName = name;
    return true;
  }

  /** Sends what sendInRun() has gathered; what cannot go in one send goes singly, as sendRaw() does. */
  flushRun(): void {
    const run = this.#run;
    if (run.count === 0) return;
    const blocked = this.batchOf(run.name).blocked;
    const result = blocked ? EAGAIN : this.sender.sendOnce(run.base, run.bytes, run.segmentBytes, run.name);
    if (result >= 0) {
      this.#stats.add(Counter.txInternal, run.count);
      if (run.count > 1) this.#stats.add(Counter.gsoSends, 1);
    } else {
      if (run.count > 1 && result !== EAGAIN && result !== ENOBUFS) {
        // no UDP_SEGMENT here, or the datagrams outgrew the interface: singly for a while
        this.#stats.add(Counter.gsoFallbacks, 1);
        run.gso = false;
        run.gsoRetryMs = this.#nowMs + RUN_REST_MS;
      }
      for (let at = 0; at < run.bytes; at += run.segmentBytes)
        this.sender.sendRaw(run.base + at, Math.min(run.segmentBytes, run.bytes - at), run.name, blocked);
    }
    run.reset();
  }

  /** Sends one datagram as it is, past all queues; waits in a small ring while the socket is full. */
  sendRaw(offset: number, bytes: number, name: number): boolean {
    return this.sender.sendRaw(offset, bytes, name, this.batchOf(name).blocked);
  }

  /** One read of the TUN: vnet header at `at`, IP packet behind it. */
  #handleTunPacket(at: number, bytes: number): void {
    const u8 = this.#u8;
    const view = this.#view;
    const stats = this.#stats;
    const ip = at + VNET_HEADER_BYTES;
    const length = bytes - VNET_HEADER_BYTES;
    stats.add(Counter.tunRxBytes, length > 0 ? length : 0);
    const needsChecksum = (u8[at] & NEEDS_CSUM) !== 0;
    const gsoType = u8[at + 1] & 0x7f;
    const version = length >= 20 ? u8[ip] >>> 4 : 0;
    let ipBytes = 0;
    let protocol = 0;
    let peer: PeerState | undefined;
    if (version === 4) {
      ipBytes = (u8[ip] & 15) * 4;
      protocol = u8[ip + 9];
      const destination = view.getUint32(ip + 16);
      if (destination === this.#lastDestination) peer = this.#lastPeer;
      else {
        const slot = this.#deps.routes.lookup4(destination);
        peer = slot >= 0 ? this.#deps.peers[slot] : undefined;
        if (peer !== undefined) {
          this.#lastDestination = destination;
          this.#lastPeer = peer;
        } else if (destination >= 0xe0000000) return this.#dropRead(Drop.NOT_UNICAST, 1);
      }
    } else if (version === 6 && length >= 40) {
      ipBytes = 40;
      protocol = u8[ip + 6];
      // multicast, and link-local by link-local
      if (u8[ip + 24] === 0xff || u8[ip + 24] === 0xfe) return this.#dropRead(Drop.NOT_UNICAST, 1);
      const slot = this.#deps.routes.lookup6(view, ip + 24);
      peer = slot >= 0 ? this.#deps.peers[slot] : undefined;
    }
    if (ipBytes < 20 || ipBytes > length) return this.#dropRead(Drop.BAD_IP, 1);
    const transport = ip + ipBytes;
    if (gsoType === GSO_NONE) {
      if (peer === undefined) {
        this.#deps.icmpError(Drop.NO_ROUTE, ip, length, 0);
        return this.#dropRead(Drop.NO_ROUTE, 1);
      }
      stats.add(Counter.tunRxPackets, 1);
      let flags = 0;
      if (needsChecksum) {
        // the fields of the vnet header count only when they name the checksum of the header behind a plain IP header
        const plain = protocol === TCP || protocol === UDP;
        const unfragmented = version === 6 || (view.getUint16(ip + 6) & 0x3fff) === 0;
        const minimum = protocol === TCP ? 20 : 8;
        if (
          plain &&
          unfragmented &&
          length >= ipBytes + minimum &&
          view.getUint16(at + 6, true) === ipBytes &&
          view.getUint16(at + 8, true) === (protocol === TCP ? 16 : 6)
        ) {
          if (peer.sendEpoch === undefined || (peer.sendEpoch.remoteCapabilities & Capability.PARTIAL_CHECKSUM) !== 0) {
            flags = INNER_FLAG_PARTIAL_CHECKSUM;
          } else {
            completeTransportChecksum(u8, view, ip, transport, length - ipBytes, protocol);
          }
        } else if (!this.#completeAt(ip, length, view.getUint16(at + 6, true), view.getUint16(at + 8, true))) {
          stats.dropTx(Drop.BAD_OFFLOAD, 1);
          return;
        }
      }
      if (protocol === TCP && (u8[transport + 13] & TcpFlag.SYN) !== 0)
        clampSyn(view, ip, ipBytes, length, flags !== 0, peer);
      this.#emit(peer, ip, length, flags, 0);
      return;
    }
    this.#handleSuperPacket(peer, at, ip, length, version, ipBytes, protocol, gsoType, needsChecksum);
  }

  /** Splits one super-packet in place and hands on its segments. */
  #handleSuperPacket(
    peer: PeerState | undefined,
    at: number,
    ip: number,
    length: number,
    version: number,
    ipBytes: number,
    protocol: number,
    gsoType: number,
    needsChecksum: boolean,
  ): void {
    const u8 = this.#u8;
    const view = this.#view;
    const stats = this.#stats;
    const transport = ip + ipBytes;
    const segmentBytes = view.getUint16(at + 4, true);
    const isTcp = protocol === TCP;
    let transportBytes = 8;
    if (isTcp && length >= ipBytes + 20) transportBytes = (u8[transport + 12] >>> 4) * 4;
    const headerBytes = ipBytes + transportBytes;
    const payloadBytes = length - headerBytes;
    const typeFits =
      (gsoType === GSO_TCPV4 && version === 4 && isTcp) ||
      (gsoType === GSO_TCPV6 && version === 6 && isTcp) ||
      (gsoType === GSO_UDP_L4 && protocol === UDP);
    if (
      !typeFits ||
      !needsChecksum ||
      segmentBytes === 0 ||
      payloadBytes <= 0 ||
      headerBytes > MAX_HEADER_BYTES ||
      transportBytes < 8
    ) {
      return this.#dropRead(Drop.BAD_OFFLOAD, 1);
    }
    const segments = Math.ceil(payloadBytes / segmentBytes);
    if (peer === undefined) {
      this.#deps.icmpError(Drop.NO_ROUTE, ip, Math.min(length, headerBytes + segmentBytes), 0);
      return this.#dropRead(Drop.NO_ROUTE, segments);
    }
    stats.add(Counter.tunRxPackets, segments);
    const epoch = peer.sendEpoch;
    const partial = epoch === undefined || (epoch.remoteCapabilities & Capability.PARTIAL_CHECKSUM) !== 0;
    const flags = partial ? INNER_FLAG_PARTIAL_CHECKSUM : 0;
    const save = this.#headerSave;
    const headerWords = headerBytes & ~3;
    u8.copyWithin(save, ip, ip + headerBytes);
    const sequence = isTcp ? view.getUint32(transport + 4) : 0;
    const tcpFlags = isTcp ? u8[transport + 13] : 0;
    const identification = version === 4 ? view.getUint16(ip + 4) : 0;
    // of the IPv4 header sum only length and identification differ between segments
    let constantSum = 0;
    if (version === 4) {
      view.setUint16(ip + 2, 0);
      view.setUint16(ip + 4, 0);
      constantSum = ~ipv4HeaderChecksum(view, ip, ipBytes) & 0xffff;
    }
    for (let done = 0, i = 0; done < payloadBytes; done += segmentBytes, i++) {
      const take = payloadBytes - done < segmentBytes ? payloadBytes - done : segmentBytes;
      const last = done + take >= payloadBytes;
      const head = ip + done;
      if (done > 0) {
        let at = 0;
        for (; at < headerWords; at += 4) view.setUint32(head + at, view.getUint32(save + at, true), true);
        for (; at < headerBytes; at++) u8[head + at] = u8[save + at];
      }
      const total = headerBytes + take;
      const t = head + ipBytes;
      if (version === 4) {
        const id = (identification + i) & 0xffff;
        view.setUint16(head + 2, total);
        view.setUint16(head + 4, id);
        view.setUint16(head + 10, ~fold(constantSum + total + id) & 0xffff);
      } else {
        view.setUint16(head + 4, total - 40);
      }
      if (isTcp) {
        view.setUint32(t + 4, (sequence + done) >>> 0);
        // FIN and PSH belong to the last segment, CWR to the first
        u8[t + 13] = (last ? tcpFlags : tcpFlags & ~0x09) & (i > 0 ? ~0x80 : 0xff);
      } else {
        view.setUint16(t + 4, 8 + take);
      }
      if (!partial) completeTransportChecksum(u8, view, head, t, total - ipBytes, protocol);
      this.#emit(peer, head, total, flags, segmentBytes);
    }
  }

  /** One packet of wire size at `ip`, in front of which 4 bytes are free: seal it into the batch, or queue it. */
  #emit(peer: PeerState, ip: number, bytes: number, flags: number, aux: number): void {
    const epoch = peer.sendEpoch;
    const paths = peer.paths;
    const plain = ip - INNER_HEADER_BYTES;
    this.#u8[plain] = InnerKind.IP;
    this.#u8[plain + 1] = flags;
    this.#view.setUint16(plain + 2, aux, true);
    if (epoch === undefined || paths.active < 0 || this.held) {
      this.#queue(peer, plain, bytes, true);
      if (epoch === undefined || paths.active < 0) this.#deps.needSession(peer);
      return;
    }
    if (bytes > peer.maxPacketBytes) return this.#tooBig(peer, plain, bytes, flags);
    const name = paths.activeName();
    const batch = this.batchOf(name);
    if (batch.blocked || peer.queue.packets > 0) {
      this.#queue(peer, plain, bytes, false);
      return;
    }
    const ecn = this.#ecnOf(ip);
    if (!batch.fits(peer, bytes + DATA_OVERHEAD_BYTES, ecn, this.sender.gso) && !this.sender.send(batch)) {
      this.#queue(peer, plain, bytes, false);
      return;
    }
    this.#sealInto(batch, peer, epoch, name, plain, bytes, ecn);
  }

  #ecnOf(ip: number): number {
    const second = this.#u8[ip + 1];
    return this.#u8[ip] >>> 4 === 4 ? second & 3 : (second >>> 4) & 3;
  }

  #sealInto(
    batch: Batch,
    peer: PeerState,
    epoch: Epoch,
    name: number,
    plain: number,
    bytes: number,
    ecn: number,
  ): void {
    const datagramBytes = bytes + DATA_OVERHEAD_BYTES;
    if (!this.sealer.seal(epoch, plain, bytes, batch.base + batch.bytes)) {
      this.#stats.dropTx(Drop.KEY_EXPIRED, 1);
      peer.sendEpoch = undefined;
      this.#deps.needSession(peer);
      return;
    }
    if (epoch.blocksSealed >= epoch.rekeyBlocks && peer.rekeyToldFor !== epoch.epochId) {
      peer.rekeyToldFor = epoch.epochId;
      this.#deps.wantRekey(peer, epoch);
    }
    batch.append(peer, name, datagramBytes, bytes, ecn);
  }

  #serveQueue(peer: PeerState, budget: number): number {
    const queues = this.#deps.queues;
    const queue = peer.queue;
    const epoch = peer.sendEpoch;
    if (epoch === undefined || peer.paths.active < 0 || this.held) return 0;
    let served = 0;
    while (served < budget) {
      const name = peer.paths.activeName();
      const batch = this.batchOf(name);
      if (batch.blocked) break;
      if (!queues.dequeue(queue, this.nowMs)) break;
      const bytes = queues.out.bytes;
      const plain = queues.out.offset;
      if (bytes > peer.maxPacketBytes) {
        this.#tooBig(peer, plain, bytes, this.#u8[plain + 1]);
        queues.release(queue);
        continue;
      }
      const ecn = this.#ecnOf(plain + INNER_HEADER_BYTES);
      if (!batch.fits(peer, bytes + DATA_OVERHEAD_BYTES, ecn, this.sender.gso) && !this.sender.send(batch)) break;
      this.#sealInto(batch, peer, epoch, name, plain, bytes, ecn);
      queues.release(queue);
      served++;
      if (peer.sendEpoch === undefined) break;
    }
    this.#stats.cells[peer.row + PeerField.queued] = queue.packets;
    return served;
  }

  #queue(peer: PeerState, plain: number, bytes: number, waiting: boolean): void {
    const dropped = this.#deps.queues.enqueue(peer.queue, this.nowMs, plain, bytes, waiting);
    if (dropped !== Drop.NONE) {
      const cells = this.#stats.cells;
      cells[peer.row + PeerField.dropsTx] = cells[peer.row + PeerField.dropsTx] + 1;
      return;
    }
    this.#stats.cells[peer.row + PeerField.queued] = peer.queue.packets;
    if (!waiting) this.#enlist(peer);
  }

  #enlist(peer: PeerState): void {
    if (peer.backlogged) return;
    this.#stalled = false;
    peer.backlogged = true;
    this.#backlog[(this.#backlogHead + this.#backlogCount) % this.#backlog.length] = peer.slot;
    this.#backlogCount++;
  }

  #tooBig(peer: PeerState, plain: number, bytes: number, flags: number): void {
    const ip = plain + INNER_HEADER_BYTES;
    if (this.#u8[ip] >>> 4 === 6 && bytes <= 1_280) {
      this.#deps.sendFragments(peer, ip, bytes, flags);
      return;
    }
    this.#deps.icmpError(Drop.TOO_BIG, ip, bytes, peer.maxPacketBytes);
    this.#stats.dropTx(Drop.TOO_BIG, 1);
  }

  /** A super-packet or packet that never became wire packets. */
  #dropRead(reason: Drop, packets: number): void {
    this.#stats.add(Counter.tunRxPackets, packets);
    this.#stats.dropTx(reason, packets);
  }

  /** Completes a checksum at any place the kernel named, for example behind extension headers. */
  #completeAt(ip: number, length: number, start: number, offset: number): boolean {
    if (start < 20 || start + offset + 2 > length) return false;
    const u8 = this.#u8;
    const view = this.#view;
    // the field holds the pseudo-header sum; summing over it from csum_start gives the whole one
    let sum = 0;
    let i = ip + start;
    const end = ip + length;
    for (; i + 1 < end; i += 2) sum += view.getUint16(i);
    if (i < end) sum += u8[i] << 8;
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    const checksum = ~sum & 0xffff;
    view.setUint16(ip + start + offset, checksum === 0 ? 0xffff : checksum);
    return true;
  }
}
