/**
 * The data plane: one object that owns TUN and UDP ports, keys, replay windows, paths and queues of all peers, and runs to completion.
 *
 * A turn: sleep in poll until something is ready or due → commands from the control thread → receive (at most 16 calls per family) →
 * TUN (at most 64 reads or 1 MiB) → blocked sockets and queues → timers. Bounded steps, so that neither direction starves the other.
 * Sans-I/O: ports, time and messages come in from outside; src/node runs it over Linux, the simulator and the tests over memory.
 * Nothing on the packet path allocates, awaits, logs or throws; commands, timers of handshakes and path changes may allocate.
 */
import { Drop } from "../base/drop.ts";
import { isIPv4Mapped, isVirtualAddress } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, readName, writeName } from "../base/name.ts";
import type { Random } from "../base/random.ts";
import type { Slab } from "../base/slab.ts";
import { PeerPaths } from "../path/peer-paths.ts";
import { PMTU_BASE_BYTES } from "../path/pmtu.ts";
import { type Epoch, EpochTable } from "../session/epochs.ts";
import { Fragmenter } from "../session/fragments.ts";
import { HandshakeGate } from "../session/gate.ts";
import { DATA_OVERHEAD_BYTES, InnerKind, OUTER_IPV4_BYTES, OUTER_IPV6_BYTES } from "../wire/data.ts";
import { DatagramClass, classify } from "../wire/demux.ts";
import { adaptToPath, fitReplayWindow, SendBuffer } from "./adapt.ts";
import { Coalescer } from "./coalesce.ts";
import { IcmpErrors } from "./icmp-errors.ts";
import { Inbound } from "./inbound.ts";
import type { Command, EndpointBytes, PlaneEvent, PlaneSettings } from "./messages.ts";
import { Outbound } from "./outbound.ts";
import { PeerState } from "./peer.ts";
import { Pings } from "./pings.ts";
import { type AeadPort, type MacPort, type PollPort, Ready, type TunPort, type UdpPort } from "./ports.ts";
import { Punching } from "./punching.ts";
import { PacketQueues } from "./queues.ts";
import { RouteTable } from "./routes.ts";
import { Counter, PeerField, type PlaneStats, Stage } from "./stats.ts";
import { STUN_MAX_BYTES, StunDoor } from "./stun-door.ts";
import { VirtualPaths } from "./virtual.ts";

const CALLS_PER_TURN = 16;
/** Small packets come one by one, so a turn takes enough of them to fill a batch; of super-packets it takes about sixteen. */
const READS_PER_TURN = 64;
const READ_BYTES_PER_TURN = 1 << 20;
const QUEUE_BUDGET = 256;
const KEEPALIVE_AFTER_MS = 10_000;
/** Reports come every 50 ms at the latest while data flows, so this much silence (and four round trips) means that the peer forgot us. */
const SILENT_AFTER_MS = 1_500;
const SILENT_AGAIN_MS = 5_000;
const NEED_SESSION_AGAIN_MS = 500;
const WAITING_MAX_MS = 10_000;
const HOUSEKEEPING_MS = 100;
const MAX_ROUTES = 8_192;
const EMSGSIZE = 90;

export interface EngineDeps {
  readonly slab: Slab;
  readonly tun: TunPort | undefined;
  readonly udp: UdpPort;
  readonly poll: PollPort;
  readonly aead: AeadPort;
  readonly mac: MacPort;
  readonly random: Random;
  readonly stats: PlaneStats;
  /** Monotonic milliseconds, fractional; read once or twice a turn. */
  readonly clock: () => number;
  /** Takes an event for the control thread. @returns false when its ring is full (counted here) */
  readonly emit: (event: PlaneEvent) => boolean;
  /** How full the ring to the control thread is, 0–1. */
  readonly eventLoad: () => number;
  /** The next command, if one waits. */
  readonly nextCommand: () => Command | undefined;
  /** Announces that the worker is about to sleep. @returns false when a command came in meanwhile, so it must not */
  readonly park: () => boolean;
  readonly unpark: () => void;
}

export interface EngineOptions {
  readonly maxPeers: number;
  /** X25519 public key of this node, 32 bytes. */
  readonly staticKey: Uint8Array;
  readonly settings: PlaneSettings;
  readonly hasUdp4: boolean;
  readonly hasUdp6: boolean;
}

export class Engine {
  readonly stats: PlaneStats;
  readonly outbound: Outbound;
  readonly inbound: Inbound;
  readonly epochs: EpochTable;
  readonly virtual: VirtualPaths;
  /** Set by the stop command; the owner leaves its loop. */
  stopped = false;

  readonly #deps: EngineDeps;
  readonly #options: EngineOptions;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #peers: (PeerState | undefined)[];
  readonly #routes = new RouteTable(MAX_ROUTES);
  readonly #local = new RouteTable(MAX_ROUTES);
  readonly #queues: PacketQueues;
  readonly #coalescer: Coalescer | undefined;
  readonly #icmp: IcmpErrors;
  readonly #gate: HandshakeGate;
  readonly #fragmenter: Fragmenter;
  readonly #stun: StunDoor;
  readonly #punching: Punching;
  /** Slots; also of peers that are declared later. */
  #keepsOpen: ReadonlySet<number> = new Set();
  readonly #candidates = new Map<number, readonly EndpointBytes[]>();
  /** Where an epoch's handshake answer went: its first authenticated packet from there proves the address. */
  readonly #expected = new Map<number, EndpointBytes>();
  readonly #deadlines: Float64Array;
  readonly #scratchName: number;
  readonly #scratch: number;
  readonly #pings = new Pings();
  readonly #sendBuffer = new SendBuffer();
  #settings: PlaneSettings;
  #nowMs: number;
  #nextDeadlineMs = 0;
  #nextHousekeepingMs = 0;
  #moreUdp4 = false;
  #moreUdp6 = false;
  #moreTun = false;

  constructor(deps: EngineDeps, options: EngineOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#settings = options.settings;
    this.#u8 = deps.slab.u8;
    this.#view = deps.slab.view;
    this.stats = deps.stats;
    this.#nowMs = deps.clock();
    this.#peers = Array.from({ length: options.maxPeers }, () => undefined);
    this.#deadlines = new Float64Array(options.maxPeers).fill(Infinity);
    const maxPacketBytes = Math.max(2_044, options.settings.underlayMtuBytes);
    this.#queues = new PacketQueues(deps.slab, deps.stats, maxPacketBytes);
    this.epochs = new EpochTable(deps.aead, { maxPeers: options.maxPeers });
    this.#icmp = new IcmpErrors(deps.slab, deps.tun, deps.stats);
    this.#scratchName = deps.slab.allocate(NAME_BYTES);
    this.#scratch = deps.slab.allocate(16_384);
    this.outbound = new Outbound({
      slab: deps.slab,
      tun: deps.tun,
      udp: deps.udp,
      aead: deps.aead,
      stats: deps.stats,
      queues: this.#queues,
      routes: this.#routes,
      peers: this.#peers,
      needSession: (peer) => this.#needSession(peer),
      epochs: this.epochs,
      wantRekey: (peer, epoch) => this.#emit({ kind: "wantRekey", peer: peer.slot, epochId: epoch.epochId }),
      icmpError: (reason, ip, bytes, mtuBytes) => this.#icmp.send(this.#nowMs, reason, ip, bytes, mtuBytes),
      tooBig: (peer, datagramBytes) => this.#tooBig(peer, datagramBytes),
      rescheduled: (peer) => this.#schedulePaths(peer),
      sendFragments: (peer, offset, bytes, flags) => {
        this.#sendFragments(peer, InnerKind.IP, flags, 0, offset, bytes);
      },
      virtual: (offset, bytes, segmentBytes, name) => this.virtual.send(offset, bytes, segmentBytes, name),
    });
    this.#coalescer =
      deps.tun === undefined
        ? undefined
        : new Coalescer(
            {
              u8: this.#u8,
              view: this.#view,
              tun: deps.tun,
              stats: deps.stats,
              waitWritable: () => void deps.poll.wait(Ready.TUN_WRITABLE, 5),
            },
            { tcp: false, udp: false },
          );
    this.inbound = new Inbound({
      slab: deps.slab,
      udp: deps.udp,
      aead: deps.aead,
      stats: deps.stats,
      epochs: this.epochs,
      routes: this.#routes,
      local: this.#local,
      peers: this.#peers,
      coalescer: this.#coalescer,
      handshake: (offset, bytes, name) => this.#handshake(offset, bytes, name),
      inner: (peer, epoch, kind, flags, aux, payload, bytes, name, datagramBytes) =>
        this.#inner(peer, epoch, kind, flags, aux, payload, bytes, name, datagramBytes),
      transit: (peer, epoch, flags, payload, bytes, name) =>
        this.virtual.transit(peer, epoch, flags, payload, bytes, name),
      proof: (peer, epoch) => this.#proof(peer, epoch),
      arrived: (peer) => this.#arrived(peer),
    });
    this.#stun = new StunDoor(deps.slab);
    this.virtual = new VirtualPaths({
      slab: deps.slab,
      stats: deps.stats,
      random: deps.random,
      peers: this.#peers,
      sender: this.outbound.sender,
      sealer: this.outbound.sealer,
      emit: deps.emit,
      eventLoad: deps.eventLoad,
      needSession: (peer) => this.#needSession(peer),
      wantRekey: (peer, epoch) => this.#emit({ kind: "wantRekey", peer: peer.slot, epochId: epoch.epochId }),
      tooBig: (peer, datagramBytes) => this.#tooBig(peer, datagramBytes),
      rescheduled: (peer) => this.#schedulePaths(peer),
      sendFragments: (peer, kind, offset, bytes) => this.#sendFragments(peer, kind, 0, 0, offset, bytes),
      sendInner: (peer, kind, flags, payload, bytes) =>
        peer.sendEpoch !== undefined &&
        this.outbound.sendInner(peer.sendEpoch, peer.paths.activeName(), kind, flags, 0, payload, bytes),
      nested: (offset, bytes, name) => this.inbound.nested(offset, bytes, name),
      endRun: () => this.inbound.endRun(),
      received: (offset, bytes, name) => this.inbound.datagram(offset, bytes, name),
      pathFailed: (name) => this.#pathFailed(name),
      pathGone: (name) => this.#pathGone(name),
    });
    this.#fragmenter = new Fragmenter(deps.slab);
    this.#gate = new HandshakeGate(
      { slab: deps.slab, mac: deps.mac, random: deps.random },
      { staticKey: options.staticKey },
    );
    this.#punching = new Punching({
      slab: deps.slab,
      random: deps.random,
      udp: deps.udp,
      shoot: (slot, name, payload, bytes) => {
        const peer = this.#peers[slot];
        if (peer === undefined || !this.#emitPath(peer, InnerKind.PROBE, name, payload, bytes)) return false;
        peer.paths.sentAside();
        return true;
      },
      isDirect: (slot) => this.#peers[slot]?.paths.isDirect === true,
      usesSocket: (id) => this.#peers.some((peer) => peer?.paths.usesSocket(id) === true),
    });
    this.#applySettings(options.settings);
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** One turn; sleeps at most until the next deadline, 1 s at the longest. */
  turn(): void {
    const { poll, tun } = this.#deps;
    const outbound = this.outbound;
    this.stats.add(Counter.turns, 1);
    let interest = Ready.WAKE | Ready.NETLINK;
    if (this.#options.hasUdp4) interest |= Ready.UDP4 | Ready.UDP4_ERROR;
    if (this.#options.hasUdp6) interest |= Ready.UDP6 | Ready.UDP6_ERROR;
    if (tun !== undefined) interest |= Ready.TUN;
    if (this.#waitsWritable(4)) interest |= Ready.UDP4_WRITABLE;
    if (this.#waitsWritable(6)) interest |= Ready.UDP6_WRITABLE;
    let timeoutMs = 0;
    const busy = this.#moreUdp4 || this.#moreUdp6 || this.#moreTun || outbound.hasRunnableBacklog;
    if (!busy) {
      const paused = Math.min(outbound.pauseEndMs, this.virtual.pauseEndMs);
      const due = Math.min(this.#nextDeadlineMs, this.#nextHousekeepingMs, this.#punching.nextMs, paused);
      timeoutMs = Math.max(0, due - this.#nowMs);
      if (timeoutMs > 0 && !this.#deps.park()) timeoutMs = 0;
    }
    this.stats.add(Counter.polls, 1);
    const ready = poll.wait(interest, timeoutMs);
    const startMs = this.#deps.clock();
    this.#tick(startMs);
    if ((ready & Ready.WAKE) !== 0) poll.clearWake();
    if (timeoutMs > 0) this.#deps.unpark();
    for (let i = 0; i < 64; i++) {
      const command = this.#deps.nextCommand();
      if (command === undefined) break;
      this.#command(command);
      if (this.stopped) return;
    }
    if ((ready & Ready.NETLINK) !== 0 && poll.drainNetlink()) this.#addressesChanged();
    if ((ready & Ready.UDP4_ERROR) !== 0) this.#drainErrors(4);
    if ((ready & Ready.UDP6_ERROR) !== 0) this.#drainErrors(6);
    let received = false;
    if ((ready & Ready.UDP4) !== 0 || this.#moreUdp4) {
      this.#moreUdp4 = this.inbound.drain(4, CALLS_PER_TURN);
      received = true;
    }
    if ((ready & Ready.UDP6) !== 0 || this.#moreUdp6) {
      this.#moreUdp6 = this.inbound.drain(6, CALLS_PER_TURN);
      received = true;
    }
    if (received) {
      this.virtual.flush();
      const nowMs = this.#deps.clock();
      this.stats.record(Stage.UDP_TO_TUN, nowMs - this.#nowMs);
      this.#tick(nowMs);
    }
    if ((ready & Ready.TUN) !== 0 || this.#moreTun) {
      this.#moreTun = outbound.drainTun(READS_PER_TURN, READ_BYTES_PER_TURN);
      const nowMs = this.#deps.clock();
      this.stats.record(Stage.TUN_TO_UDP, nowMs - this.#nowMs);
      this.#tick(nowMs);
    }
    this.virtual.service((ready & Ready.UDP4_WRITABLE) !== 0, (ready & Ready.UDP6_WRITABLE) !== 0);
    outbound.service((ready & Ready.UDP4_WRITABLE) !== 0, (ready & Ready.UDP6_WRITABLE) !== 0, QUEUE_BUDGET);
    if (this.#nowMs >= this.#nextDeadlineMs) this.#deadlinesPassed();
    if (this.#nowMs >= this.#nextHousekeepingMs) this.#housekeeping();
    if (this.#nowMs >= this.#punching.nextMs) this.#punching.handleTimeout(this.#nowMs);
    this.virtual.flush();
    this.virtual.settle();
  }

  /** Zeroises all keys; nothing may be called afterwards. */
  close(): void {
    for (const peer of this.#peers) if (peer !== undefined) this.#removePeer(peer.slot);
    this.#punching.close();
    this.epochs.close();
    this.#gate.destroy();
  }

  #waitsWritable(family: 4 | 6): boolean {
    return this.outbound.waitsWritable(family) || this.virtual.waitsWritable(family);
  }

  #tick(nowMs: number): void {
    this.#nowMs = nowMs;
    this.outbound.nowMs = nowMs;
    this.inbound.nowMs = nowMs;
    this.stats.clockMs = nowMs;
  }

  #emit(event: PlaneEvent): void {
    if (!this.#deps.emit(event)) this.stats.add(Counter.eventsRefused, 1);
  }

  // ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #command(command: Command): void {
    switch (command.kind) {
      case "peer":
        this.#setPeer(command.peer, command.nodeId);
        return;
      case "peerRemove":
        this.#removePeer(command.peer);
        return;
      case "routes":
        this.#routes.load(command.routes);
        this.#routesChanged();
        return;
      case "local":
        this.#local.load(command.prefixes.map(({ prefix, prefixBits }) => ({ prefix, prefixBits, peer: 0 })));
        for (const { prefix, prefixBits } of command.prefixes) {
          if (prefixBits === 128) this.#icmp.setOwnAddress(prefix, isIPv4Mapped(prefix));
        }
        this.#routesChanged();
        return;
      case "install": {
        const peer = this.#peers[command.peer];
        if (peer === undefined) return;
        this.epochs.install(this.#nowMs, command.peer, command.epoch);
        this.#schedule(command.peer, this.epochs.nextTimeout(command.peer));
        peer.paths.setRemoteMtu(this.#nowMs, command.epoch.remoteMtuBytes);
        if (command.endpoint !== undefined) {
          // the initiator's address pair was proven by the response; the responder's is by the first packet that comes from it
          if (command.epoch.initiator) this.#confirm(peer, command.endpoint);
          else this.#expected.set(command.epoch.epochId, command.endpoint);
        }
        this.inbound.forget();
        return;
      }
      case "activate": {
        const peer = this.#peers[command.peer];
        const epoch = this.epochs.activate(command.peer, command.epochId);
        if (peer !== undefined && epoch !== undefined) this.#activate(peer, epoch);
        return;
      }
      case "retire":
        this.epochs.retire(this.#nowMs, command.peer, command.epochId, command.afterMs);
        this.inbound.forget();
        this.#schedule(command.peer, this.epochs.nextTimeout(command.peer));
        this.#expected.delete(command.epochId);
        return;
      case "inner":
        this.#sendInnerCommand(
          command.peer,
          command.epochId,
          command.innerKind,
          command.flags,
          command.aux,
          command.payload,
        );
        return;
      case "transmit":
        this.#transmit(command.peer, command.to, command.datagram);
        return;
      case "candidates": {
        const peer = this.#peers[command.peer];
        this.#candidates.set(command.peer, command.endpoints);
        for (const endpoint of command.endpoints) this.#gate.noteKnown(endpoint);
        if (peer !== undefined) {
          peer.paths.setCandidates(this.#nowMs, command.endpoints);
          this.#schedulePaths(peer);
        }
        return;
      }
      case "ping":
        this.#ping(command.peer, command.token);
        return;
      case "settings":
        this.#applySettings(command.settings);
        return;
      case "punch":
        this.#punching.order(this.#nowMs, command);
        return;
      case "hold":
        this.outbound.held = command.held;
        this.inbound.held = command.held;
        if (!command.held) for (const peer of this.#peers) if (peer !== undefined) this.outbound.released(peer);
        return;
      case "keepOpen":
        this.#keepsOpen = new Set(command.peers);
        for (const peer of this.#peers) {
          if (peer === undefined) continue;
          peer.paths.setKeepsOpen(this.#nowMs, this.#keepsOpen.has(peer.slot));
          this.#schedulePaths(peer);
        }
        return;
      case "raw":
        this.#sendForeign(command.to, command.datagram);
        return;
      case "paths":
        this.#tellPaths(command.peer, command.token);
        return;
      case "stop":
        this.stopped = true;
        return;
      default:
        this.virtual.command(command);
    }
  }

  #tellPaths(slot: number, token: number): void {
    const nowMs = this.#nowMs;
    const paths = (this.#peers[slot]?.paths.figures() ?? []).map((path) => ({
      endpoint: path.endpoint,
      active: path.active,
      duplicate: path.duplicate,
      state: path.state,
      reason: path.reason,
      rttMs: path.rttMs,
      lossRatio: path.lossRatio,
      mtuBytes: path.mtuBytes,
      lastReceivedAgoMs: path.lastReceivedMs < 0 ? -1 : Math.max(0, nowMs - path.lastReceivedMs),
    }));
    this.#emit({ kind: "paths", peer: slot, token, paths });
  }

  /** A datagram of another protocol, as it is. */
  #sendForeign(to: EndpointBytes, datagram: Uint8Array): void {
    if (datagram.length === 0 || datagram.length > STUN_MAX_BYTES || isVirtualAddress(to)) {
      this.stats.add(Counter.sendErrors, 1);
      return;
    }
    this.#u8.set(datagram, this.#scratch);
    this.#stun.asked(this.#nowMs, to);
    this.stats.add(Counter.rawSent, 1);
    this.outbound.sendRaw(this.#scratch, datagram.length, writeName(this.#u8, to, this.#scratchName));
  }

  #setPeer(slot: number, nodeId: Uint8Array): void {
    if (slot >= this.#peers.length) return;
    if (this.#peers[slot] !== undefined) this.#removePeer(slot);
    const paths = new PeerPaths(
      { slab: this.#deps.slab, random: this.#deps.random },
      { localMtuBytes: this.#settings.underlayMtuBytes },
    );
    const peer = new PeerState(slot, nodeId, paths, this.stats.peerRow(slot));
    this.stats.clearPeer(slot);
    this.stats.cells[peer.row + PeerField.rttMs] = -1;
    this.#peers[slot] = peer;
    const candidates = this.#candidates.get(slot);
    if (candidates !== undefined) paths.setCandidates(this.#nowMs, candidates);
    paths.setKeepsOpen(this.#nowMs, this.#keepsOpen.has(slot));
  }

  #removePeer(slot: number): void {
    const peer = this.#peers[slot];
    if (peer === undefined) return;
    this.outbound.removePeer(peer);
    this.virtual.removePeer(peer);
    this.epochs.removePeer(slot);
    peer.paths.close();
    this.#fragmenter.forget(slot);
    this.#punching.forget(slot);
    this.#peers[slot] = undefined;
    this.#candidates.delete(slot);
    this.#deadlines[slot] = Infinity;
    this.stats.clearPeer(slot);
    this.inbound.forget();
  }

  #routesChanged(): void {
    this.outbound.forgetRoutes();
    this.inbound.forget();
    for (const peer of this.#peers) if (peer !== undefined) peer.checkedSource4 = -1;
  }

  #activate(peer: PeerState, epoch: Epoch): void {
    peer.sendEpoch = epoch;
    const cells = this.stats.cells;
    cells[peer.row + PeerField.epochStartedMs] = epoch.installedAtMs;
    cells[peer.row + PeerField.cipher] = epoch.cipher;
    cells[peer.row + PeerField.hybrid] = epoch.hybrid ? 1 : 0;
    cells[peer.row + PeerField.established] = 1;
    this.inbound.forget();
    this.outbound.released(peer);
    this.#arrived(peer);
  }

  #applySettings(settings: PlaneSettings): void {
    this.#settings = settings;
    this.outbound.sender.gso = settings.gso;
    this.#deps.udp.setGro(settings.gro);
    if (this.#coalescer !== undefined) {
      const offloads = this.#deps.tun?.offloads ?? 0;
      this.#coalescer.tcp = settings.tso && (offloads & 2) !== 0;
      this.#coalescer.udp = settings.tso && (offloads & 0x20) !== 0;
    }
    for (const peer of this.#peers) peer?.paths.setLocalMtu(this.#nowMs, settings.underlayMtuBytes);
  }

  // ── sending our own messages ─────────────────────────────────────────────────────────────────────────────────────────

  #transmit(slot: number, to: EndpointBytes | undefined, datagram: Uint8Array): void {
    if (datagram.length > 2_048) return;
    this.#u8.set(datagram, this.#scratch);
    this.#gate.noteSent(this.#scratch, datagram.length);
    if (to !== undefined) {
      this.outbound.sendRaw(this.#scratch, datagram.length, writeName(this.#u8, to, this.#scratchName));
      return;
    }
    const peer = this.#peers[slot];
    if (peer !== undefined && peer.paths.active >= 0) {
      this.outbound.sendRaw(this.#scratch, datagram.length, peer.paths.activeName());
    }
    for (const endpoint of this.#candidates.get(slot) ?? []) {
      this.outbound.sendRaw(this.#scratch, datagram.length, writeName(this.#u8, endpoint, this.#scratchName));
    }
  }

  #sendInnerCommand(
    slot: number,
    epochId: number,
    kind: number,
    flags: number,
    aux: number,
    payload: Uint8Array,
  ): void {
    const peer = this.#peers[slot];
    const epoch = peer === undefined ? undefined : epochId === 0 ? peer.sendEpoch : this.epochs.byId(slot, epochId);
    if (peer === undefined || epoch === undefined || payload.length > 9_000) {
      this.stats.dropTx(Drop.NO_SESSION, 0);
      this.stats.add(Counter.sendErrors, 1);
      return;
    }
    this.#u8.set(payload, this.#scratch);
    if (peer.paths.active < 0) {
      this.stats.add(Counter.sendErrors, 1);
      return;
    }
    if (payload.length > peer.maxPacketBytes)
      this.#sendFragments(peer, kind, flags, aux, this.#scratch, payload.length, epoch);
    else this.outbound.sendInner(epoch, peer.paths.activeName(), kind, flags, aux, this.#scratch, payload.length);
    peer.lastSentMs = this.#nowMs;
  }

  #sendFragments(
    peer: PeerState,
    kind: number,
    flags: number,
    aux: number,
    offset: number,
    bytes: number,
    epoch: Epoch | undefined = peer.sendEpoch,
  ): boolean {
    if (epoch === undefined || peer.paths.active < 0) return false;
    const fragmenter = this.#fragmenter;
    const parts = fragmenter.split(peer.nextFragmentId++ >>> 0, kind, flags, offset, bytes, peer.maxPacketBytes);
    if (parts === 0) {
      this.stats.dropTx(Drop.TOO_BIG, kind === InnerKind.IP ? 1 : 0);
      return false;
    }
    let sent = true;
    for (let i = 0; i < parts; i++) {
      const at = fragmenter.partOffset[i];
      const length = fragmenter.partBytes[i];
      const name = peer.paths.activeName();
      sent = this.outbound.sendInner(epoch, name, InnerKind.FRAGMENT, 0, aux, at, length) && sent;
      this.stats.add(Counter.fragmentsSent, 1);
    }
    if (kind !== InnerKind.IP) return sent;
    if (sent) this.stats.add(Counter.txPackets, 1);
    else this.stats.dropTx(Drop.UDP_SEND, 1);
    return sent;
  }

  /** Probes, acks and reports that the paths of a peer want sent. */
  #emitPath(peer: PeerState, kind: number, name: number, payload: number, bytes: number): boolean {
    const epoch = peer.sendEpoch ?? this.epochs.newest(peer.slot);
    if (epoch === undefined) return false;
    return this.outbound.sendInner(epoch, name, kind, 0, 0, payload, bytes);
  }

  #ping(slot: number, token: number): void {
    const peer = this.#peers[slot];
    if (peer === undefined) return;
    if (peer.sendEpoch === undefined) {
      this.#needSession(peer);
      return;
    }
    const id = peer.paths.ping(this.#nowMs, this.#sinkOf(peer));
    if (id < 0) return;
    this.#pings.add(slot, id, token);
    peer.unansweredReceiveMs = -1;
  }

  // ── what comes in ────────────────────────────────────────────────────────────────────────────────────────────────────

  #handshake(offset: number, bytes: number, name: number): void {
    const stats = this.stats;
    const kind = classify(this.#u8[offset]);
    if (kind === DatagramClass.STUN) return this.#stunMessage(offset, bytes, name);
    if (kind !== DatagramClass.HANDSHAKE) {
      stats.dropRx(Drop.BAD_TYPE, 1);
      return;
    }
    this.#gate.setLoad(this.#nowMs, this.#deps.eventLoad());
    const reason = this.#gate.judge(this.#nowMs, offset, bytes, name);
    if (this.#gate.replyBytes > 0) {
      this.outbound.sendRaw(this.#gate.replyOffset, this.#gate.replyBytes, name);
      stats.add(Counter.cookieReplies, 1);
    }
    if (reason !== Drop.NONE) {
      stats.dropRx(reason, 1);
      return;
    }
    const datagram = this.#u8.slice(offset, offset + bytes);
    if (this.#deps.emit({ kind: "handshake", from: readName(this.#u8, name), datagram }))
      stats.add(Counter.rxInternal, 1);
    else stats.dropRx(Drop.CONTROL_FULL, 1);
  }

  #stunMessage(offset: number, bytes: number, name: number): void {
    const reason = this.#stun.judge(this.#nowMs, offset, bytes, name);
    if (reason !== Drop.NONE) return this.stats.dropRx(reason, 1);
    const datagram = this.#u8.slice(offset, offset + bytes);
    if (!this.#deps.emit({ kind: "stun", from: readName(this.#u8, name), datagram })) {
      return this.stats.dropRx(Drop.CONTROL_FULL, 1);
    }
    this.stats.add(Counter.rxInternal, 1);
    this.stats.add(Counter.stunReceived, 1);
  }

  #inner(
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
    const stats = this.stats;
    let reason: number = Drop.NONE;
    switch (kind) {
      case InnerKind.PROBE:
        reason = peer.paths.handleProbe(this.#nowMs, name, payload, bytes, datagramBytes, this.#sinkOf(peer));
        break;
      case InnerKind.PROBE_ACK:
        reason = peer.paths.handleProbeAck(this.#nowMs, name, payload, bytes, this.#sinkOf(peer));
        if (reason === Drop.NONE) this.#pong(peer);
        break;
      case InnerKind.REPORT:
        reason = peer.paths.handleReport(this.#nowMs, name, payload, bytes, this.#sinkOf(peer));
        break;
      case InnerKind.FRAGMENT: {
        stats.add(Counter.fragmentsReceived, 1);
        const whole = this.#fragmenter.add(this.#nowMs, peer.slot, payload, bytes);
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
          payload: this.#u8.slice(payload, payload + bytes),
        };
        if (!this.#deps.emit(event)) reason = Drop.CONTROL_FULL;
        break;
      }
      default:
        reason = Drop.BAD_INNER;
    }
    if (reason === Drop.NONE) stats.add(Counter.rxInternal, 1);
    else stats.dropRx(reason, 1);
    this.#pathChanged(peer);
  }

  /** The datagram that completed a message counts as what the message is. */
  #reassembled(peer: PeerState, epoch: Epoch, bytes: number, aux: number, name: number, datagramBytes: number): void {
    const at = this.#fragmenter.wholeOffset;
    const kind = this.#fragmenter.wholeKind;
    const flags = this.#fragmenter.wholeFlags;
    if (kind === InnerKind.TRANSIT && !this.inbound.isNested) {
      this.virtual.transit(peer, epoch, flags, at, bytes, name);
      this.inbound.endRun();
      this.#coalescer?.flush();
      return;
    }
    if (kind !== InnerKind.IP) {
      this.#inner(peer, epoch, kind, flags, aux, at, bytes, name, datagramBytes);
      return;
    }
    this.inbound.userPacket(peer, epoch, at, bytes, flags, name);
    this.#coalescer?.flush();
  }

  #proof(peer: PeerState, epoch: Epoch): void {
    const expected = this.#expected.get(epoch.epochId);
    if (expected !== undefined) {
      this.#expected.delete(epoch.epochId);
      peer.paths.confirmIfSeen(this.#nowMs, writeName(this.#u8, expected, this.#scratchName));
    }
    this.#emit({ kind: "proof", peer: peer.slot, epochId: epoch.epochId });
    this.#pathChanged(peer);
  }

  #confirm(peer: PeerState, endpoint: EndpointBytes): void {
    peer.paths.confirm(this.#nowMs, writeName(this.#u8, endpoint, this.#scratchName));
    this.#pathChanged(peer);
    this.outbound.released(peer);
  }

  /** A datagram was refused as too big for the active path; a via knows how much it takes. */
  #tooBig(peer: PeerState, datagramBytes: number): void {
    const { paths } = peer;
    const limitBytes = paths.active < 0 ? 0 : this.virtual.limitBytes(paths.activeName());
    const mtuBytes = Math.max(PMTU_BASE_BYTES, limitBytes + OUTER_IPV6_BYTES);
    const known = limitBytes > 0 && limitBytes < datagramBytes;
    if (!known || !paths.mtuError(this.#nowMs, paths.activeName(), mtuBytes)) paths.tooBig(this.#nowMs, datagramBytes);
    this.#pathChanged(peer);
    this.#schedulePaths(peer);
  }

  #pathFailed(name: number): void {
    for (const peer of this.#peers) {
      if (peer === undefined || !peer.paths.failed(this.#nowMs, name)) continue;
      this.#pathChanged(peer);
      this.#schedulePaths(peer);
    }
  }

  #pathGone(name: number): void {
    for (const peer of this.#peers) {
      if (peer === undefined || !peer.paths.remove(this.#nowMs, name)) continue;
      this.#pathChanged(peer);
      this.#schedulePaths(peer);
    }
  }

  /** Called after packets of a peer were accepted: paths may want to answer, timers may have moved. */
  #arrived(peer: PeerState): void {
    if (peer.paths.active !== peer.toldPath) this.#pathChanged(peer);
    this.#schedulePaths(peer);
    if (peer.unansweredReceiveMs >= 0) this.#schedule(peer.slot, peer.unansweredReceiveMs + KEEPALIVE_AFTER_MS);
  }

  #pong(peer: PeerState): void {
    const paths = peer.paths;
    this.#pings.answered(peer.slot, paths.lastAckId, (token) => {
      const endpoint = readName(this.#u8, paths.nameOf(paths.lastAckPath));
      this.#emit({ kind: "pong", peer: peer.slot, token, rttMs: paths.lastAckRttMs, endpoint });
    });
  }

  /** Publishes the active path where it, its MTU or its figures changed. */
  #pathChanged(peer: PeerState): void {
    const paths = peer.paths;
    const active = paths.active;
    const cells = this.stats.cells;
    const mtuBytes = active >= 0 ? paths.mtuBytes : 0;
    cells[peer.row + PeerField.rttMs] = active >= 0 ? paths.rttMs : -1;
    cells[peer.row + PeerField.lossRatio] = active >= 0 ? paths.lossRatio : 0;
    cells[peer.row + PeerField.mtuBytes] = mtuBytes;
    cells[peer.row + PeerField.rateBps] = paths.rateBps;
    adaptToPath(peer, this.#nowMs, this.stats);
    const outerBytes =
      active >= 0 && this.#u8[paths.activeName() + NAME_FAMILY] !== 4 ? OUTER_IPV6_BYTES : OUTER_IPV4_BYTES;
    const innerBytes = active >= 0 ? paths.innerBytes(DATA_OVERHEAD_BYTES) : peer.maxPacketBytes;
    const observed = paths.takeObserved();
    if (observed !== undefined) this.#emit({ kind: "observed", peer: peer.slot, endpoint: observed });
    const same = active === peer.toldPath && innerBytes === peer.maxPacketBytes && mtuBytes === peer.toldMtuBytes;
    if (same && !paths.takeActiveChanged()) return;
    peer.toldPath = active;
    peer.toldMtuBytes = mtuBytes;
    peer.maxPacketBytes = innerBytes;
    if (active >= 0) this.outbound.released(peer);
    if (active >= 0) this.#gate.noteKnown(readName(this.#u8, paths.activeName()));
    this.#emit({
      kind: "path",
      peer: peer.slot,
      endpoint: active >= 0 ? readName(this.#u8, paths.activeName()) : undefined,
      // what the routes are to follow: the largest inner packet, in terms of this path
      mtuBytes: active >= 0 ? innerBytes + DATA_OVERHEAD_BYTES + outerBytes : 0,
    });
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #schedule(slot: number, atMs: number): void {
    if (atMs < this.#deadlines[slot]) {
      this.#deadlines[slot] = atMs;
      if (atMs < this.#nextDeadlineMs) this.#nextDeadlineMs = atMs;
    }
  }

  #schedulePaths(peer: PeerState): void {
    this.#schedule(peer.slot, peer.paths.nextTimeoutMs);
    if (peer.unansweredSendMs >= 0) this.#schedule(peer.slot, peer.unansweredSendMs + this.#silenceMs(peer));
  }

  #silenceMs(peer: PeerState): number {
    return SILENT_AFTER_MS + 4 * Math.max(0, peer.paths.rttMs);
  }

  #deadlinesPassed(): void {
    const deadlines = this.#deadlines;
    const nowMs = this.#nowMs;
    let next = Infinity;
    for (let slot = 0; slot < deadlines.length; slot++) {
      if (deadlines[slot] <= nowMs) this.#peerTimers(slot);
      const at = deadlines[slot];
      if (at < next) next = at;
    }
    this.#nextDeadlineMs = next;
  }

  #peerTimers(slot: number): void {
    this.#deadlines[slot] = Infinity;
    const peer = this.#peers[slot];
    if (peer === undefined) return;
    const nowMs = this.#nowMs;
    peer.paths.handleTimeout(nowMs, this.#sinkOf(peer));
    this.#pathChanged(peer);
    fitReplayWindow(peer, nowMs, this.stats);
    let next = Math.min(peer.paths.nextTimeoutMs, this.epochs.handleTimeout(nowMs, slot));
    if (peer.sendEpoch !== undefined && !peer.sendEpoch.live) {
      peer.sendEpoch = undefined;
      this.stats.cells[peer.row + PeerField.established] = 0;
    }
    this.inbound.forget();
    if (peer.unansweredReceiveMs >= 0) {
      const at = peer.unansweredReceiveMs + KEEPALIVE_AFTER_MS;
      if (at > nowMs) next = Math.min(next, at);
      else {
        peer.unansweredReceiveMs = -1;
        this.#emitPath(peer, InnerKind.KEEPALIVE, peer.paths.activeName(), this.#scratch, 0);
        peer.lastSentMs = nowMs;
      }
    }
    if (peer.unansweredSendMs >= 0) {
      const at = Math.max(peer.unansweredSendMs + this.#silenceMs(peer), peer.silentMs + SILENT_AGAIN_MS);
      if (at > nowMs) next = Math.min(next, at);
      else {
        peer.silentMs = nowMs;
        next = Math.min(next, nowMs + SILENT_AGAIN_MS);
        this.#emit({ kind: "silent", peer: slot });
      }
    }
    if (peer.sendEpoch === undefined && peer.queue.packets > 0) {
      this.#queues.expire(peer.queue, nowMs - WAITING_MAX_MS);
      this.stats.cells[peer.row + PeerField.queued] = peer.queue.packets;
      if (peer.queue.packets > 0) {
        this.#needSession(peer);
        next = Math.min(next, nowMs + 1_000);
      }
    }
    this.#schedule(slot, next);
  }

  #housekeeping(): void {
    const nowMs = this.#nowMs;
    const stats = this.stats;
    this.#nextHousekeepingMs = nowMs + HOUSEKEEPING_MS;
    const overflowed = this.#deps.udp.overflowed;
    stats.set(Counter.receiveOverflow, overflowed[0] + overflowed[1]);
    this.#fragmenter.expire(nowMs);
    this.virtual.housekeeping();
    this.#adaptSendBuffer(nowMs);
    if (this.#anySending()) return;
    // nothing moved: sleep longer until something does
    this.#nextHousekeepingMs = nowMs + 1_000;
  }

  #lastTurnBytes = 0;
  #anySending(): boolean {
    const bytes = this.stats.get(Counter.udpTxBytes) + this.stats.get(Counter.udpRxBytes);
    const moved = bytes !== this.#lastTurnBytes;
    this.#lastTurnBytes = bytes;
    return moved;
  }

  #adaptSendBuffer(nowMs: number): void {
    let deliveredBps = 0;
    for (const peer of this.#peers) if (peer !== undefined) deliveredBps += peer.paths.rateBps;
    const blocked = this.outbound.isBlocked(4) || this.outbound.isBlocked(6);
    const bytes = this.#sendBuffer.update(nowMs, this.stats.get(Counter.udpTxBytes), deliveredBps, blocked);
    if (bytes === 0) return;
    if (this.#options.hasUdp4) this.#deps.udp.setSendBuffer(4, Math.ceil(bytes / 2));
    if (this.#options.hasUdp6) this.#deps.udp.setSendBuffer(6, Math.ceil(bytes / 2));
  }

  #needSession(peer: PeerState): void {
    if (this.#nowMs - peer.needSessionMs < NEED_SESSION_AGAIN_MS) return;
    peer.needSessionMs = this.#nowMs;
    this.#emit({ kind: "needSession", peer: peer.slot });
    this.#schedule(peer.slot, this.#nowMs + 1_000);
  }

  #addressesChanged(): void {
    for (const peer of this.#peers) {
      if (peer === undefined) continue;
      peer.paths.addressesChanged(this.#nowMs);
      this.#schedulePaths(peer);
    }
    this.#emit({ kind: "netlink" });
  }

  #drainErrors(family: 4 | 6): void {
    const udp = this.#deps.udp;
    for (let i = 0; i < 64 && udp.takeError(family) > 0; i++) {
      this.stats.add(Counter.socketErrors, 1);
      if (udp.error.errno !== EMSGSIZE || udp.error.info < 576) continue;
      for (const peer of this.#peers) {
        if (peer === undefined || !peer.paths.mtuError(this.#nowMs, udp.error.name, udp.error.info)) continue;
        this.#pathChanged(peer);
        this.#schedulePaths(peer);
      }
    }
  }

  /** PeerPaths writes through this; one object for all peers, aimed before each call. */
  #sinkPeer: PeerState | undefined = undefined;
  readonly #sink = {
    emit: (kind: number, name: number, payload: number, bytes: number): boolean =>
      this.#sinkPeer === undefined ? false : this.#emitPath(this.#sinkPeer, kind, name, payload, bytes),
  };
  #sinkOf(peer: PeerState): { readonly emit: (kind: number, name: number, payload: number, bytes: number) => boolean } {
    this.#sinkPeer = peer;
    return this.#sink;
  }
}
