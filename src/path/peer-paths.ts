/**
 * The paths to one peer: which addresses lead there, which of them carries data, and how each is doing. Sans-I/O; runs in the data worker.
 * Source: docs/protocol.md, "Paths".
 *
 * - At most 8 paths. Whoever is authenticated may make one known by sending from it; only an answered probe (or the handshake) makes it
 *   usable, so a replayed or spoofed source never moves traffic.
 * - Data goes to `active`. It moves when the peer moved (the newest data came from a path just proven), when delivery fails (reports, not
 *   pongs: unreported for RTT + 2 intervals + 20 ms sends on `duplicate` too, one more interval moves), or when another path is clearly better.
 * - Every answer is at most as large as its question; probes and answers are limited per second and counted.
 * - A path carries the number of its attempt: late answers to an earlier one are counted and change nothing.
 * - Without data for 30 s nothing is sent, unless the path is to be kept open (setKeepsOpen, mapping-life.ts).
 *
 * Rooms: path-set.ts owns the records, prober.ts asks and answers, delivery.ts reports and notices black holes, chooser.ts decides. Call order
 * per received run of packets: handleProbe/handleProbeAck/handleReport for the packets in it, then received() for the run.
 */
import type { Drop } from "../base/drop.ts";
import { NAME_FAMILY, NAME_SOCKET, sameLocal, sameRemote } from "../base/name.ts";
import type { Random } from "../base/random.ts";
import type { Slab } from "../base/slab.ts";
import { Chooser } from "./chooser.ts";
import { Delivery } from "./delivery.ts";
import { MAX_PATHS, PathMemory } from "./memory.ts";
import { type PathCounters, type PathFigures, PathReason, PathState } from "./path.ts";
import { PathSet, type PathSink } from "./path-set.ts";
import { PMTU_BASE_BYTES } from "./pmtu.ts";
import { Prober } from "./prober.ts";

/** A path heard from this recently is not left for another one only because a handshake ran there. */
const CONFIRM_FRESH_MS = 1_000;
const ECN_CE = 3;

export interface PeerPathsDeps {
  readonly slab: Slab;
  readonly random: Random;
}

/** Resolved once; every field has a default. */
export interface PeerPathsOptions {
  /** Largest underlay IP packet of this host's interfaces, bytes. @default 1280 */
  readonly localMtuBytes?: number;
}

export class PeerPaths {
  readonly #set: PathSet;
  readonly #chooser: Chooser;
  readonly #prober: Prober;
  readonly #delivery: Delivery;
  #lastSlot = 0;
  #closed = false;

  /** @throws WeftError SLAB_FULL */
  constructor(deps: PeerPathsDeps, options: PeerPathsOptions = {}) {
    this.#set = new PathSet(PathMemory.of(deps.slab), deps.random, {
      localMtuBytes: options.localMtuBytes ?? PMTU_BASE_BYTES,
    });
    this.#chooser = new Chooser(this.#set);
    this.#prober = new Prober(this.#set, this.#chooser);
    this.#delivery = new Delivery(this.#set, this.#chooser, this.#prober);
  }

  /** Gives its name blocks back; nothing may be called afterwards. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#set.close();
  }

  // ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Slot that carries data, −1 = none yet. A dead path stays active until another one is proven. */
  get active(): number {
    return this.#set.active;
  }

  /** Slot that carries a copy of all data (the same datagrams) while delivery on `active` is in doubt, −1 = none. */
  get duplicate(): number {
    return this.#set.duplicate;
  }

  /** When handleTimeout() wants to be called; Infinity = never. Any call may lower it. */
  get nextTimeoutMs(): number {
    return this.#set.nextTimeoutMs;
  }

  /** Of the last answered probe: its number (as ping() returned), round trip and path slot. */
  get lastAckId(): number {
    return this.#prober.lastAckId;
  }
  get lastAckRttMs(): number {
    return this.#prober.lastAckRttMs;
  }
  get lastAckPath(): number {
    return this.#prober.lastAckPath;
  }

  get counters(): PathCounters {
    return this.#set.counters;
  }

  /** Name block of the active path; 0 when there is none. */
  activeName(): number {
    const set = this.#set;
    return set.active < 0 ? 0 : set.paths[set.active].name;
  }

  /** A packet left under this peer's counters on none of the paths (a punch): it is not lost on any of them. */
  sentAside(): void {
    for (const path of this.#set.paths) path.elsewhere++;
  }

  /** Data goes straight to an underlay address of the peer, and that path is alive. */
  get isDirect(): boolean {
    const { active, paths, view } = this.#set;
    return (
      active >= 0 && paths[active].state === PathState.ALIVE && view.getUint8(paths[active].name + NAME_FAMILY) >= 4
    );
  }

  /** Some path lives on that extra socket. @param id as in NAME_SOCKET */
  usesSocket(id: number): boolean {
    const set = this.#set;
    return set.paths.some(
      (path) => path.used && path.state === PathState.ALIVE && set.view.getUint32(path.name + NAME_SOCKET, true) === id,
    );
  }

  /** @param slot 0–7 @returns slab offset of its name block */
  nameOf(slot: number): number {
    return this.#set.paths[slot].name;
  }

  /** Smoothed round trip of the active path, ms; −1 = unknown. */
  get rttMs(): number {
    const set = this.#set;
    return set.active < 0 ? -1 : set.paths[set.active].rtt.smoothedMs;
  }

  /** Loss of the active path, 0–1. */
  get lossRatio(): number {
    const set = this.#set;
    return set.active < 0 ? 0 : set.paths[set.active].loss.ratio;
  }

  /** Largest underlay IP packet for the active path, bytes. */
  get mtuBytes(): number {
    const set = this.#set;
    return set.active < 0 ? PMTU_BASE_BYTES : set.paths[set.active].mtu.mtuBytes;
  }

  /**
   * Largest packet inside the tunnel, bytes: what fits the active path and, so that a change of path does not have to shrink what is already
   * under way, every other usable path of a kind as good that takes at least nine tenths of that. A way through others, which takes a little less, is kept in
   * reserve only: it may not cost a direct path its size.
   * @param overheadBytes of sealing, without the outer IP and UDP headers
   */
  innerBytes(overheadBytes: number): number {
    const set = this.#set;
    if (set.active < 0) return PMTU_BASE_BYTES - overheadBytes;
    const current = set.paths[set.active];
    const own = current.mtu.mtuBytes - set.outerBytes(current) - overheadBytes;
    let least = own;
    for (const path of set.paths) {
      if (!path.used || path.state !== PathState.ALIVE || path.kind > current.kind) continue;
      const bytes = path.mtu.mtuBytes - set.outerBytes(path) - overheadBytes;
      if (bytes < least && bytes >= own * 0.9) least = bytes;
    }
    return least;
  }

  /** True while something says that the active path itself is the limit: it loses packets, or they queue up in it. */
  get isLimited(): boolean {
    const set = this.#set;
    if (set.active < 0) return false;
    const path = set.paths[set.active];
    return path.loss.ratio > 0.001 || path.rtt.smoothedMs > 2 * path.rtt.baselineMs + 5;
  }

  /** Delivery rate of the active path, bits per second; 0 = unknown. */
  get rateBps(): number {
    const set = this.#set;
    return set.active < 0 ? 0 : set.paths[set.active].rate.bps;
  }

  /** True once after each change of the active path. */
  takeActiveChanged(): boolean {
    const { changed } = this.#chooser;
    this.#chooser.changed = false;
    return changed;
  }

  /** The address (18 bytes, a copy) by which the peer sees us, once after each change. */
  takeObserved(): Uint8Array | undefined {
    return this.#set.takeObserved();
  }

  /** A copy of every path's figures, for status and explain. */
  figures(): PathFigures[] {
    return this.#set.figures();
  }

  // ── what the owner knows ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Addresses at which the peer may be reached, best first; more than 8 are ignored. Those not named any more are forgotten unless they live.
   * @param endpoints 18 bytes each, copied
   */
  setCandidates(nowMs: number, endpoints: readonly Uint8Array[]): void {
    const set = this.#set;
    const name = set.memory.scratchName;
    const count = Math.min(MAX_PATHS, endpoints.length);
    for (const path of set.paths) path.candidate = false;
    for (let rank = 0; rank < count; rank++) {
      set.writeName(endpoints[rank], name);
      const slot = set.find(name);
      if (slot >= 0) set.paths[slot].candidate = true;
    }
    for (const path of set.paths) {
      const lives = path.state === PathState.ALIVE || path.state === PathState.PROBING;
      if (!path.used || path.candidate || path.slot === set.active || lives) continue;
      set.release(path);
      this.#chooser.forget(path.slot);
    }
    for (let rank = 0; rank < count; rank++) {
      set.writeName(endpoints[rank], name);
      let slot = set.find(name);
      if (slot < 0) {
        slot = set.adopt(nowMs, name, PathReason.CANDIDATE);
        if (slot < 0) continue;
        if (set.live) set.probeAt(set.paths[slot], nowMs);
      }
      set.paths[slot].candidate = true;
      set.paths[slot].rank = rank;
    }
  }

  /** The handshake proved this address: its response came from there. @param name name block, copied */
  confirm(nowMs: number, name: number): void {
    const set = this.#set;
    let slot = set.find(name);
    if (slot < 0) slot = set.adopt(nowMs, name, PathReason.HANDSHAKE);
    if (slot < 0) return;
    set.begin(nowMs);
    set.lastDataMs = nowMs;
    const path = set.paths[slot];
    path.probation = 0;
    set.proven(nowMs, path, PathReason.HANDSHAKE);
    path.misses = 0;
    path.answerDueMs = Infinity;
    set.probeAt(path, nowMs);
    const current = set.active < 0 ? undefined : set.paths[set.active];
    const heardMs = current === undefined ? -Infinity : Math.max(current.lastReceivedMs, current.lastProvenMs);
    if (current === undefined || !current.eligible || nowMs - heardMs >= CONFIRM_FRESH_MS) this.#chooser.activate(slot);
  }

  /** confirm(), but only for an address from which the peer has already sent: the responder's proof. */
  confirmIfSeen(nowMs: number, name: number): void {
    const slot = this.#set.find(name);
    if (slot >= 0 && this.#set.paths[slot].lastReceivedMs >= 0) this.confirm(nowMs, name);
  }

  /**
   * The path of this name is known not to deliver (a node on the way said so): data moves at once, and it is asked again with back-off.
   * @returns true when there is such a path and it was alive
   */
  failed(nowMs: number, name: number): boolean {
    const set = this.#set;
    const slot = set.find(name);
    if (slot < 0 || set.paths[slot].state !== PathState.ALIVE) return false;
    set.fail(nowMs, set.paths[slot], PathReason.VIA_FAILED);
    this.#chooser.left(nowMs, slot);
    return true;
  }

  /** The name leads nowhere any more: its path is forgotten, also an active one. @returns true when there was one */
  remove(nowMs: number, name: number): boolean {
    const set = this.#set;
    const slot = set.find(name);
    if (slot < 0) return false;
    set.fail(nowMs, set.paths[slot], PathReason.VIA_FAILED);
    this.#chooser.left(nowMs, slot);
    if (set.active === slot) this.#chooser.deactivate();
    set.release(set.paths[slot]);
    this.#chooser.forget(slot);
    return true;
  }

  /** This host's addresses, interfaces or routes changed: forget sticky sources and ask every path again now. */
  addressesChanged(nowMs: number): void {
    const set = this.#set;
    for (const path of set.paths) {
      if (!path.used) continue;
      if (!set.hasTwin(path)) set.clearSource(path);
      path.generation++;
      path.misses = 0;
      path.attempts = 0;
      path.answerDueMs = Infinity;
      path.rtt.forgetBaseline();
      if (path.state === PathState.DEAD) path.state = PathState.PROBING;
      if (!set.live) continue;
      set.probeAt(path, nowMs);
      if (path.state === PathState.ALIVE) path.mtu.verify(nowMs);
    }
  }

  /** Whether NAT mappings of the active path are to be kept open while the peer is idle: for neighbours, which have to be found any time. */
  setKeepsOpen(nowMs: number, keepsOpen: boolean): void {
    const set = this.#set;
    if (set.keepsOpen === keepsOpen) return;
    set.keepsOpen = keepsOpen;
    if (keepsOpen && set.active >= 0 && set.live) set.scheduleProbe(nowMs, set.paths[set.active]);
  }

  setLocalMtu(nowMs: number, mtuBytes: number): void {
    this.#set.setLocalMtu(nowMs, mtuBytes);
  }

  /** The peer's MTU hint of the handshake. */
  setRemoteMtu(nowMs: number, mtuBytes: number): void {
    this.#set.setRemoteMtu(nowMs, mtuBytes);
  }

  /** The kernel refused a datagram of this size (EMSGSIZE) on the active path. @param datagramBytes UDP payload */
  tooBig(nowMs: number, datagramBytes: number): void {
    const set = this.#set;
    if (set.active < 0) return;
    const path = set.paths[set.active];
    path.mtu.refused(nowMs, datagramBytes + set.outerBytes(path));
    set.wakeAt(path.mtu.nextMs);
  }

  /** The error queue named a next-hop MTU. @param name destination that failed @returns true when a path of this peer was lowered */
  mtuError(nowMs: number, name: number, mtuBytes: number): boolean {
    const set = this.#set;
    const slot = set.find(name);
    if (slot < 0) return false;
    const path = set.paths[slot];
    if (!path.mtu.hinted(nowMs, mtuBytes)) return false;
    set.counters.mtuHints++;
    set.wakeAt(path.mtu.nextMs);
    set.shareNarrow(nowMs, path);
    return true;
  }

  // ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Authenticated packets came in from this name: a run under one epoch in one receive. Hot; no allocation for a known address.
   * @param bytes of all their datagrams @param low @param high counter of the newest of them @param ecn outer ECN bits
   * @param epochId larger = newer; counters are compared within one epoch only
   * @returns path slot, or −1 when the address is unknown and no path could be made for it (counted)
   */
  received(
    nowMs: number,
    name: number,
    packets: number,
    bytes: number,
    low: number,
    high: number,
    ecn: number,
    epochId: number,
  ): number {
    const set = this.#set;
    let path = set.paths[this.#lastSlot];
    if (!path.used || !sameRemote(set.view, path.name, name) || !sameLocal(set.view, path.name, name)) {
      const slot = set.findOrAdopt(nowMs, name);
      if (slot < 0) return -1;
      this.#lastSlot = slot;
      path = set.paths[slot]!;
    }
    const counter = high * 4294967296 + low;
    path.arrivedCounter = counter;
    path.lastReceivedMs = nowMs;
    path.packets += packets;
    path.receivedBytes += bytes;
    if (ecn === ECN_CE) path.ceCount = (path.ceCount + packets) & 0xffff;
    if (epochId > path.highestEpoch) {
      path.highestEpoch = epochId;
      path.highestCounter = counter;
    } else if (epochId === path.highestEpoch && counter > path.highestCounter) {
      path.highestCounter = counter;
    }
    const data = packets - path.controlPending;
    path.controlPending = 0;
    set.stickSource(path.name, name);
    if (data <= 0) return path.slot;
    set.noteData(nowMs);
    this.#delivery.dataFrom(nowMs, path);
    this.#chooser.dataFrom(nowMs, path, epochId);
    return path.slot;
  }

  /**
   * User data was handed to the kernel for the active path (and `duplicate`, if any). Hot; no allocation.
   * @param index receiver index of its epoch @param low @param high counter of one of its packets; without them moves are not told apart
   * @returns true when nextTimeoutMs became earlier
   */
  sent(nowMs: number, packets: number, _bytes: number, index = 0, low = 0, high = 0): boolean {
    const set = this.#set;
    if (set.active < 0) return false;
    const before = set.nextTimeoutMs;
    if (index !== 0) set.noteCounter(index, low, high);
    set.noteData(nowMs);
    this.#delivery.dataTo(nowMs, packets);
    return set.nextTimeoutMs < before;
  }

  // ── messages of the peer ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Answers a probe through the path it came on. @param payload slab offset @param datagramBytes whole UDP payload as received
   * @returns BAD_INNER, RATE_LIMIT, NO_PATH (address refused), or NONE
   */
  handleProbe(
    nowMs: number,
    name: number,
    payload: number,
    bytes: number,
    datagramBytes: number,
    sink: PathSink,
  ): Drop {
    return this.#prober.handleProbe(nowMs, name, payload, bytes, datagramBytes, sink);
  }

  /** @returns BAD_INNER, UNEXPECTED (late, unknown or from elsewhere), or NONE with lastAck… set */
  handleProbeAck(nowMs: number, name: number, payload: number, bytes: number, sink: PathSink): Drop {
    return this.#prober.handleProbeAck(nowMs, name, payload, bytes, sink);
  }

  /** What the peer received on one of our paths. @returns BAD_INNER, UNEXPECTED (stale), or NONE */
  handleReport(nowMs: number, name: number, payload: number, bytes: number, _sink: PathSink): Drop {
    return this.#delivery.handleReport(nowMs, name, payload, bytes);
  }

  /** Asks the active path now, or every path when there is none. @returns number of the (first) probe for lastAckId, or −1 */
  ping(nowMs: number, sink: PathSink): number {
    const set = this.#set;
    let first = -1;
    for (const path of set.paths) {
      if (!path.used || (set.active >= 0 && path.slot !== set.active)) continue;
      const id = this.#prober.send(nowMs, path, 0, sink);
      if (first < 0) first = id;
    }
    return first;
  }

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Sends what is due and judges what is overdue; sets nextTimeoutMs. */
  handleTimeout(nowMs: number, sink: PathSink): void {
    const set = this.#set;
    if (this.#closed) return;
    for (const path of set.paths) {
      if (!path.used) continue;
      this.#delivery.handleTimeout(nowMs, path, sink);
      this.#prober.handleTimeout(nowMs, path, sink);
    }
    this.#delivery.judge(nowMs, sink);
    const inUse = set.inUse(nowMs);
    let next = this.#delivery.nextMs();
    for (const path of set.paths) {
      if (!path.used) continue;
      next = Math.min(next, path.reportDueMs, path.nextProbeMs, path.answerDueMs);
      if (inUse && path.state === PathState.ALIVE) next = Math.min(next, path.mtu.nextMs);
    }
    set.nextTimeoutMs = next;
  }
}
