/**
 * The data plane: one object that owns TUN and UDP ports, keys, replay windows, paths and queues of all peers, and runs to completion.
 *
 * A turn: sleep in poll until something is ready or due → commands from the control thread → receive (at most 16 calls per family) →
 * TUN (at most 64 reads or 1 MiB) → blocked sockets and queues → timers. Bounded steps, so that neither direction starves the other.
 * Sans-I/O: ports, time and messages come in from outside; src/node runs it over Linux, the simulator and the tests over memory.
 * Nothing on the packet path allocates, awaits, logs or throws; commands, timers of handshakes and path changes may allocate.
 * Its parts are listed in engine-context.ts; this file composes them, takes turns and carries out commands.
 */
import { isIPv4Mapped } from "../base/endpoint.ts";
import { PeerPaths } from "../path/peer-paths.ts";
import type { Epoch, EpochTable } from "../session/epochs.ts";
import { InnerKind } from "../wire/data.ts";
import { SendBuffer } from "./adapt.ts";
import { Coalescer } from "./coalesce.ts";
import { Door } from "./door.ts";
import { EngineContext, type EngineDeps, type EngineOptions } from "./engine-context.ts";
import { IcmpErrors } from "./icmp-errors.ts";
import { Inbound } from "./inbound.ts";
import { InnerMessages } from "./inner-messages.ts";
import type { Command, PlaneSettings } from "./messages.ts";
import { Outbound } from "./outbound.ts";
import { PathWatch } from "./path-watch.ts";
import { PeerTimers } from "./peer-timers.ts";
import { PeerState } from "./peer.ts";
import { Ready } from "./ports.ts";
import { Punching } from "./punching.ts";
import { PacketQueues } from "./queues.ts";
import { RouteTable } from "./routes.ts";
import { Counter, PeerField, type PlaneStats, Stage } from "./stats.ts";
import { VirtualPaths } from "./virtual.ts";

const CALLS_PER_TURN = 16;
/** Small packets come one by one, so a turn takes enough of them to fill a batch; of super-packets it takes about sixteen. */
const READS_PER_TURN = 64;
const READ_BYTES_PER_TURN = 1 << 20;
const COMMANDS_PER_TURN = 64;
const QUEUE_BUDGET = 256;
const HOUSEKEEPING_MS = 100;
const IDLE_HOUSEKEEPING_MS = 1_000;
const MAX_ROUTES = 8_192;
/** Longest wait for a TUN that takes nothing. */
const TUN_WAIT_MS = 5;

export class Engine {
  readonly stats: PlaneStats;
  readonly outbound: Outbound;
  readonly inbound: Inbound;
  readonly epochs: EpochTable;
  readonly virtual: VirtualPaths;
  /** Set by the stop command; the owner leaves its loop. */
  stopped = false;

  readonly #context: EngineContext;
  readonly #deps: EngineDeps;
  readonly #options: EngineOptions;
  readonly #peers: (PeerState | undefined)[];
  readonly #routes = new RouteTable(MAX_ROUTES);
  readonly #local = new RouteTable(MAX_ROUTES);
  readonly #queues: PacketQueues;
  readonly #coalescer: Coalescer | undefined;
  readonly #icmp: IcmpErrors;
  readonly #door: Door;
  readonly #watch: PathWatch;
  readonly #inner: InnerMessages;
  readonly #timers: PeerTimers;
  readonly #punching: Punching;
  /** Slots; also of peers that are declared later. */
  #keepsOpen: ReadonlySet<number> = new Set();
  readonly #sendBuffer = new SendBuffer();
  #settings: PlaneSettings;
  #nextHousekeepingMs = 0;
  #housekeptBytes = 0;
  #moreUdp4 = false;
  #moreUdp6 = false;
  #moreTun = false;

  constructor(deps: EngineDeps, options: EngineOptions) {
    const context = new EngineContext(deps, options);
    this.#context = context;
    this.#deps = deps;
    this.#options = options;
    this.#settings = options.settings;
    this.stats = deps.stats;
    this.#peers = context.peers;
    this.epochs = context.epochs;
    const maxPacketBytes = Math.max(2_044, options.settings.underlayMtuBytes);
    this.#queues = new PacketQueues(deps.slab, deps.stats, maxPacketBytes);
    this.#icmp = new IcmpErrors(deps.slab, deps.tun, deps.stats);
    const needSession = (peer: PeerState): void => context.needSession(peer);
    const wantRekey = (peer: PeerState, epoch: Epoch): void =>
      context.emit({ kind: "wantRekey", peer: peer.slot, epochId: epoch.epochId });
    const tooBig = (peer: PeerState, datagramBytes: number): void => this.#watch.tooBig(peer, datagramBytes);
    const rescheduled = (peer: PeerState): void => context.schedulePaths(peer);
    this.outbound = new Outbound({
      slab: deps.slab,
      tun: deps.tun,
      udp: deps.udp,
      aead: deps.aead,
      stats: deps.stats,
      queues: this.#queues,
      routes: this.#routes,
      peers: this.#peers,
      needSession,
      epochs: this.epochs,
      wantRekey,
      icmpError: (reason, ip, bytes, mtuBytes) => this.#icmp.send(context.nowMs, reason, ip, bytes, mtuBytes),
      tooBig,
      rescheduled,
      sendFragments: (peer, offset, bytes, flags) => {
        this.#inner.sendFragments(peer, InnerKind.IP, flags, 0, offset, bytes);
      },
      virtual: (offset, bytes, segmentBytes, name) => this.virtual.send(offset, bytes, segmentBytes, name),
    });
    this.#coalescer =
      deps.tun === undefined
        ? undefined
        : new Coalescer(
            {
              u8: deps.slab.u8,
              view: deps.slab.view,
              tun: deps.tun,
              stats: deps.stats,
              waitWritable: () => void deps.poll.wait(Ready.TUN_WRITABLE, TUN_WAIT_MS),
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
      handshake: (offset, bytes, name) => this.#door.receive(offset, bytes, name),
      inner: (peer, epoch, kind, flags, aux, payload, bytes, name, datagramBytes) =>
        this.#inner.receive(peer, epoch, kind, flags, aux, payload, bytes, name, datagramBytes),
      transit: (peer, epoch, flags, payload, bytes, name) =>
        this.virtual.transit(peer, epoch, flags, payload, bytes, name),
      proof: (peer, epoch) => this.#watch.proof(peer, epoch),
      arrived: (peer) => this.#watch.arrived(peer),
    });
    this.virtual = new VirtualPaths({
      slab: deps.slab,
      stats: deps.stats,
      random: deps.random,
      peers: this.#peers,
      sender: this.outbound.sender,
      sealer: this.outbound.sealer,
      emit: deps.emit,
      eventLoad: deps.eventLoad,
      needSession,
      wantRekey,
      tooBig,
      rescheduled,
      sendFragments: (peer, kind, offset, bytes) => this.#inner.sendFragments(peer, kind, 0, 0, offset, bytes),
      sendInner: (peer, kind, flags, payload, bytes) =>
        peer.sendEpoch !== undefined &&
        this.outbound.sendInner(peer.sendEpoch, peer.paths.activeName(), kind, flags, 0, payload, bytes),
      nested: (offset, bytes, name) => this.inbound.nested(offset, bytes, name),
      endRun: () => this.inbound.endRun(),
      received: (offset, bytes, name) => this.inbound.datagram(offset, bytes, name),
      pathFailed: (name) => this.#watch.failed(name),
      pathGone: (name) => this.#watch.gone(name),
    });
    const { outbound, inbound, virtual } = this;
    const door = new Door(context, outbound);
    const watch = new PathWatch({ context, outbound, virtual, door, inner: () => this.#inner });
    const inner = new InnerMessages({
      context,
      outbound,
      inbound,
      virtual,
      coalescer: this.#coalescer,
      pong: (peer) => watch.pong(peer),
      pathChanged: (peer) => watch.changed(peer),
    });
    this.#door = door;
    this.#watch = watch;
    this.#inner = inner;
    this.#timers = new PeerTimers({ context, inner, watch, inbound, queues: this.#queues });
    this.#punching = new Punching({
      slab: deps.slab,
      random: deps.random,
      udp: deps.udp,
      shoot: (slot, name, payload, bytes) => {
        const peer = this.#peers[slot];
        if (peer === undefined || !inner.emitPath(peer, InnerKind.PROBE, name, payload, bytes)) return false;
        peer.paths.sentAside();
        return true;
      },
      isDirect: (slot) => this.#peers[slot]?.paths.isDirect === true,
      usesSocket: (id) => this.#peers.some((peer) => peer?.paths.usesSocket(id) === true),
    });
    this.#applySettings(options.settings);
  }

  get nowMs(): number {
    return this.#context.nowMs;
  }

  /** One turn; sleeps at most until the next deadline, 1 s at the longest. */
  turn(): void {
    const { poll, tun } = this.#deps;
    const context = this.#context;
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
      const due = Math.min(context.nextDeadlineMs, this.#nextHousekeepingMs, this.#punching.nextMs, paused);
      timeoutMs = Math.max(0, due - context.nowMs);
      if (timeoutMs > 0 && !this.#deps.park()) timeoutMs = 0;
    }
    this.stats.add(Counter.polls, 1);
    const ready = poll.wait(interest, timeoutMs);
    const startMs = this.#deps.clock();
    this.#tick(startMs);
    if ((ready & Ready.WAKE) !== 0) poll.clearWake();
    if (timeoutMs > 0) this.#deps.unpark();
    for (let i = 0; i < COMMANDS_PER_TURN; i++) {
      const command = this.#deps.nextCommand();
      if (command === undefined) break;
      this.#command(command);
      if (this.stopped) return;
    }
    outbound.flushRun();
    if ((ready & Ready.NETLINK) !== 0 && poll.drainNetlink()) this.#watch.addressesChanged();
    if ((ready & Ready.UDP4_ERROR) !== 0) this.#watch.drainErrors(4);
    if ((ready & Ready.UDP6_ERROR) !== 0) this.#watch.drainErrors(6);
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
      this.stats.record(Stage.UDP_TO_TUN, nowMs - context.nowMs);
      this.#tick(nowMs);
    }
    if ((ready & Ready.TUN) !== 0 || this.#moreTun) {
      this.#moreTun = outbound.drainTun(READS_PER_TURN, READ_BYTES_PER_TURN);
      const nowMs = this.#deps.clock();
      this.stats.record(Stage.TUN_TO_UDP, nowMs - context.nowMs);
      this.#tick(nowMs);
    }
    this.virtual.service((ready & Ready.UDP4_WRITABLE) !== 0, (ready & Ready.UDP6_WRITABLE) !== 0);
    outbound.service((ready & Ready.UDP4_WRITABLE) !== 0, (ready & Ready.UDP6_WRITABLE) !== 0, QUEUE_BUDGET);
    if (context.nowMs >= context.nextDeadlineMs) this.#timers.handleTimeout();
    if (context.nowMs >= this.#nextHousekeepingMs) this.#housekeeping();
    if (context.nowMs >= this.#punching.nextMs) this.#punching.handleTimeout(context.nowMs);
    this.virtual.flush();
    this.virtual.settle();
  }

  /** Zeroises all keys; nothing may be called afterwards. */
  close(): void {
    for (const peer of this.#peers) if (peer !== undefined) this.#removePeer(peer.slot);
    this.#punching.close();
    this.epochs.close();
    this.#door.close();
  }

  #waitsWritable(family: 4 | 6): boolean {
    return this.outbound.waitsWritable(family) || this.virtual.waitsWritable(family);
  }

  #tick(nowMs: number): void {
    this.#context.nowMs = nowMs;
    this.outbound.nowMs = nowMs;
    this.inbound.nowMs = nowMs;
    this.stats.clockMs = nowMs;
  }

  // ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #command(command: Command): void {
    const context = this.#context;
    const { nowMs } = context;
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
        this.epochs.install(nowMs, command.peer, command.epoch);
        context.schedule(command.peer, this.epochs.nextTimeout(command.peer));
        peer.paths.setRemoteMtu(nowMs, command.epoch.remoteMtuBytes);
        if (command.endpoint !== undefined) {
          // the initiator's address pair was proven by the response; the responder's is by the first packet that comes from it
          if (command.epoch.initiator) this.#watch.confirm(peer, command.endpoint);
          else this.#watch.expect(command.epoch.epochId, command.endpoint);
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
        this.epochs.retire(nowMs, command.peer, command.epochId, command.afterMs);
        this.inbound.forget();
        context.schedule(command.peer, this.epochs.nextTimeout(command.peer));
        this.#watch.forgetEpoch(command.epochId);
        return;
      case "inner":
        this.#inner.send(command.peer, command.epochId, command.innerKind, command.flags, command.aux, command.payload);
        return;
      case "transmit":
        this.#door.transmit(command.peer, command.to, command.datagram);
        return;
      case "candidates": {
        const peer = this.#peers[command.peer];
        context.candidates.set(command.peer, command.endpoints);
        for (const endpoint of command.endpoints) this.#door.noteKnown(endpoint);
        if (peer !== undefined) {
          peer.paths.setCandidates(nowMs, command.endpoints);
          context.schedulePaths(peer);
        }
        return;
      }
      case "ping":
        this.#watch.ping(command.peer, command.token);
        return;
      case "settings":
        this.#applySettings(command.settings);
        return;
      case "punch":
        this.#punching.order(nowMs, command);
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
          peer.paths.setKeepsOpen(nowMs, this.#keepsOpen.has(peer.slot));
          context.schedulePaths(peer);
        }
        return;
      case "raw":
        this.#door.sendForeign(command.to, command.datagram);
        return;
      case "paths":
        this.#watch.tell(command.peer, command.token);
        return;
      case "stop":
        this.stopped = true;
        return;
      default:
        this.virtual.command(command);
    }
  }

  #setPeer(slot: number, nodeId: Uint8Array): void {
    if (slot >= this.#peers.length) return;
    const { nowMs, candidates } = this.#context;
    if (this.#peers[slot] !== undefined) this.#removePeer(slot);
    const paths = new PeerPaths(
      { slab: this.#deps.slab, random: this.#deps.random },
      { localMtuBytes: this.#settings.underlayMtuBytes },
    );
    const peer = new PeerState(slot, nodeId, paths, this.stats.peerRow(slot));
    this.stats.clearPeer(slot);
    this.stats.cells[peer.row + PeerField.rttMs] = -1;
    this.#peers[slot] = peer;
    const endpoints = candidates.get(slot);
    if (endpoints !== undefined) paths.setCandidates(nowMs, endpoints);
    paths.setKeepsOpen(nowMs, this.#keepsOpen.has(slot));
  }

  #removePeer(slot: number): void {
    const peer = this.#peers[slot];
    if (peer === undefined) return;
    this.outbound.removePeer(peer);
    this.virtual.removePeer(peer);
    this.epochs.removePeer(slot);
    peer.paths.close();
    this.#inner.forget(slot);
    this.#punching.forget(slot);
    this.#peers[slot] = undefined;
    this.#context.candidates.delete(slot);
    this.#context.deadlines[slot] = Infinity;
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
    this.#watch.arrived(peer);
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
    for (const peer of this.#peers) peer?.paths.setLocalMtu(this.#context.nowMs, settings.underlayMtuBytes);
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #housekeeping(): void {
    const { nowMs } = this.#context;
    const stats = this.stats;
    this.#nextHousekeepingMs = nowMs + HOUSEKEEPING_MS;
    const overflowed = this.#deps.udp.overflowed;
    stats.set(Counter.receiveOverflow, overflowed[0] + overflowed[1]);
    this.#inner.housekeeping();
    this.virtual.housekeeping();
    this.#adaptSendBuffer(nowMs);
    if (this.#anySending()) return;
    // nothing moved: sleep longer until something does
    this.#nextHousekeepingMs = nowMs + IDLE_HOUSEKEEPING_MS;
  }

  #anySending(): boolean {
    const bytes = this.stats.get(Counter.udpTxBytes) + this.stats.get(Counter.udpRxBytes);
    const moved = bytes !== this.#housekeptBytes;
    this.#housekeptBytes = bytes;
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
}
