/**
 * The paths of one peer as a set: at most 8 records with their name blocks, who makes room for whom, and the changes of state that the rules
 * share (proven, failed, when to ask next). Owned by PeerPaths, which is the only one outside this folder to be used.
 */
import { isVirtualAddress, VirtualType } from "../base/endpoint.ts";
import {
  hasLocal,
  NAME_BYTES,
  NAME_FAMILY,
  NAME_INTERFACE,
  NAME_LOCAL,
  NAME_REMOTE,
  NAME_SOCKET,
  readName,
  sameLocal,
  sameRemote,
  writeName,
} from "../base/name.ts";
import type { Random } from "../base/random.ts";
import { DATA_OVERHEAD_BYTES, OUTER_IPV4_BYTES, OUTER_IPV6_BYTES } from "../wire/data.ts";
import { TRANSIT_LABEL_BYTES } from "../wire/transit.ts";
import { MappingLife } from "./mapping-life.ts";
import { MAX_PATHS, type PathMemory } from "./memory.ts";
import { Path, PathCounters, type PathFigures, PATH_REASONS, PathReason, PathState } from "./path.ts";
import { pathCost, PathKind, worthMoving } from "./select.ts";

export const ENDPOINT_BYTES = 18;
/** Fewer round trips say too little to leave a working path. */
export const SAMPLES_TO_COMPARE = 3;
export const PROBE_IN_USE_MS = 5_000;
export const PROBE_UPGRADING_MS = 1_000;
/** Without data for this long a peer is idle. */
const IN_USE_MS = 30_000;
const DEAD_RETRY_DOUBLINGS = 5;
const DEAD_RETRY_MAX_MS = 30_000;
/** A path not proven yet is not displaced by another unproven one for this long: its probe may still be answered. */
const YOUNG_MS = 1_000;
/** Answered probes in a row that a failed path owes, doubled for each further failure within a minute, at most three times. */
const PROBATION_ANSWERS = 3;
const PROBATION_DOUBLINGS = 3;
const FAILURE_MEMORY_MS = 60_000;

/** Takes what the paths want sent, as inner messages under the peer's newest epoch. */
export interface PathSink {
  /**
   * @param name name block to send to @param payload slab offset, valid during the call
   * @returns false when it was not sent (no session, or refused by the kernel)
   */
  emit(innerKind: number, name: number, payload: number, bytes: number): boolean;
}

export interface PathSetOptions {
  readonly localMtuBytes: number;
}

export class PathSet {
  readonly memory: PathMemory;
  readonly u8: Uint8Array;
  readonly view: DataView;
  readonly random: Random;
  readonly counters: PathCounters = new PathCounters();
  readonly paths: readonly Path[];
  active = -1;
  duplicate = -1;
  nextTimeoutMs: number = Infinity;
  /** Counter after that of the newest data sent, and the receiver index of its epoch. */
  nextCounter = 0;
  #sentIndex = 0;
  /** Last user data in either direction. */
  lastDataMs: number = -Infinity;
  /** A session exists or existed: before that nothing can be sealed. */
  live = false;
  /** The active path of an idle peer is kept open through the NATs on its way. */
  keepsOpen = false;
  readonly life: MappingLife = new MappingLife();
  readonly #names: number;
  /** Per slot, the address at which the peer sees us. */
  readonly #observed: Uint8Array = new Uint8Array(MAX_PATHS * ENDPOINT_BYTES);
  #observedSlot = -1;
  #localMtuBytes: number;
  #remoteMtuBytes = 0;
  #nextId: number;

  /** @throws WeftError SLAB_FULL */
  constructor(memory: PathMemory, random: Random, options: PathSetOptions) {
    this.memory = memory;
    this.u8 = memory.u8;
    this.view = memory.view;
    this.random = random;
    this.#localMtuBytes = options.localMtuBytes;
    this.#names = memory.takeNames();
    const paths: Path[] = [];
    for (let slot = 0; slot < MAX_PATHS; slot++) paths.push(new Path(slot, this.#names + slot * NAME_BYTES));
    this.paths = paths;
    this.#nextId = 1 + (random.u32() % 65_535);
  }

  close(): void {
    this.active = -1;
    this.duplicate = -1;
    this.nextTimeoutMs = Infinity;
    this.memory.giveNames(this.#names);
  }

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  wakeAt(atMs: number): void {
    if (atMs < this.nextTimeoutMs) this.nextTimeoutMs = atMs;
  }

  inUse(nowMs: number): boolean {
    return nowMs - this.lastDataMs <= IN_USE_MS;
  }

  /** User data moves. Hot. */
  noteData(nowMs: number): void {
    if (nowMs - this.lastDataMs > IN_USE_MS) this.#awake(nowMs);
    this.lastDataMs = nowMs;
  }

  /** Data went out under this counter. Hot. @param index the peer's name of the epoch; counters begin anew with each */
  noteCounter(index: number, low: number, high: number): void {
    const counter = high * 4294967296 + low;
    if (index !== this.#sentIndex) {
      this.#sentIndex = index;
      for (const path of this.paths) path.fromCounter = 0;
      this.nextCounter = counter + 1;
    } else if (counter >= this.nextCounter) this.nextCounter = counter + 1;
  }

  /** Data after idleness: what was known of the paths is old. */
  #awake(nowMs: number): void {
    if (!this.live) return;
    for (const path of this.paths) {
      if (!path.used) continue;
      path.attempts = 0;
      this.probeAt(path, path.slot === this.active ? nowMs : nowMs + this.random.unit() * 100);
    }
  }

  probeAt(path: Path, atMs: number): void {
    path.nextProbeMs = atMs;
    this.wakeAt(atMs);
  }

  /** When to ask again, from the state the path is in; jittered by a tenth. */
  scheduleProbe(nowMs: number, path: Path): void {
    const isActive = path.slot === this.active;
    let delayMs: number;
    if (!this.inUse(nowMs)) delayMs = isActive && this.keepsOpen ? this.life.intervalMs : Infinity;
    else if (path.state === PathState.DEAD && !isActive) {
      const doublings = Math.min(path.attempts, DEAD_RETRY_DOUBLINGS);
      delayMs = Math.min(DEAD_RETRY_MAX_MS, PROBE_UPGRADING_MS * 2 ** doublings);
    } else delayMs = this.#upgrading(path) ? PROBE_UPGRADING_MS : PROBE_IN_USE_MS;
    this.probeAt(path, nowMs + delayMs * (0.9 + 0.2 * this.random.unit()));
  }

  /** Not settled yet: unproven, on probation, hardly measured, or faster than the active one and held back by its loss only. */
  #upgrading(path: Path): boolean {
    if (path.state !== PathState.ALIVE || path.probation > 0 || path.rtt.samples < SAMPLES_TO_COMPARE) return true;
    if (this.active < 0 || path.slot === this.active) return false;
    const active = this.paths[this.active];
    return worthMoving(
      pathCost(path.kind, path.rtt.baselineMs, 0),
      pathCost(active.kind, active.rtt.baselineMs, active.loss.ratio),
    );
  }

  // ── changes of state ────────────────────────────────────────────────────────────────────────────────────────────────

  /** An answer, a report or the handshake showed that the path leads to the peer. */
  proven(nowMs: number, path: Path, reason: PathReason): void {
    path.lastProvenMs = nowMs;
    path.reason = reason;
    path.suspectSinceMs = -1;
    if (path.state === PathState.ALIVE) return;
    path.state = PathState.ALIVE;
    path.misses = 0;
    path.restartReports();
    path.unreportedSinceMs = -1;
    path.mtu.revive(nowMs);
    this.wakeAt(nowMs);
  }

  /** `path` has become narrower, perhaps at a place that others of its kind lead through, too: believed of them, and checked. */
  shareNarrow(nowMs: number, path: Path): void {
    for (const other of this.paths) {
      if (!other.used || other.kind !== path.kind || !other.mtu.hinted(nowMs, path.mtu.mtuBytes)) continue;
      this.wakeAt(other.mtu.nextMs);
    }
  }

  fail(nowMs: number, path: Path, reason: PathReason): void {
    const wasAlive = path.state === PathState.ALIVE;
    path.state = PathState.DEAD;
    path.reason = reason;
    path.attempts++;
    path.answerDueMs = Infinity;
    path.misses = 0;
    if (wasAlive) {
      const again = nowMs - path.failedMs < FAILURE_MEMORY_MS;
      path.failures = again ? Math.min(PROBATION_DOUBLINGS, path.failures + 1) : 0;
      path.failedMs = nowMs;
      path.probation = PROBATION_ANSWERS << path.failures;
    }
    this.scheduleProbe(nowMs, path);
  }

  /** A session begins: every untried path is asked, and peers that forgot us count anew. */
  begin(nowMs: number): void {
    this.live = true;
    for (const path of this.paths) {
      if (!path.used) continue;
      path.announced = false;
      path.unreportedSinceMs = -1;
      path.restartReports();
      if (path.state !== PathState.ALIVE && path.nextProbeMs === Infinity) this.probeAt(path, nowMs);
    }
  }

  // ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The path of this pair of addresses; where either leaves the local one open, the one of this remote address heard from last.
   * @param name name block @returns slot or −1
   */
  find(name: number): number {
    let open = -1;
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.paths[slot];
      if (!path.used || !sameRemote(this.view, path.name, name)) continue;
      if (sameLocal(this.view, path.name, name)) return slot;
      if (hasLocal(this.view, path.name) && hasLocal(this.view, name)) continue;
      if (open < 0 || path.lastReceivedMs > this.paths[open].lastReceivedMs) open = slot;
    }
    return open;
  }

  /** Another path leads to the same remote address, from another local one: without its source it would be the same path. */
  hasTwin(path: Path): boolean {
    return this.paths.some((other) => other !== path && other.used && sameRemote(this.view, other.name, path.name));
  }

  /** @param id our number of the path on the wire @returns slot or −1 */
  findId(id: number): number {
    if (id === 0) return -1;
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      if (this.paths[slot].used && this.paths[slot].id === id) return slot;
    }
    return -1;
  }

  /** For an address from which something authenticated came: an unknown one becomes a path and is asked at once. @returns slot or −1 */
  findOrAdopt(nowMs: number, name: number): number {
    const slot = this.find(name);
    if (slot >= 0) return slot;
    const adopted = this.adopt(nowMs, name, PathReason.SEEN);
    if (adopted >= 0) {
      this.live = true;
      this.probeAt(this.paths[adopted], nowMs);
    }
    return adopted;
  }

  /** Makes a path for a name not known yet, displacing one if it must. @returns slot or −1 (counted) */
  adopt(nowMs: number, name: number, reason: PathReason): number {
    let slot = -1;
    for (let i = 0; i < MAX_PATHS && slot < 0; i++) if (!this.paths[i].used) slot = i;
    if (slot < 0) {
      slot = this.#victim(nowMs, reason);
      if (slot < 0) {
        this.counters.pathsRefused++;
        return -1;
      }
      this.counters.pathsEvicted++;
      this.release(this.paths[slot]);
    }
    const path = this.paths[slot];
    path.reset(nowMs, this.#nextId, this.#limitBytes(name));
    path.kind = this.#kindOf(name);
    this.#nextId = (this.#nextId % 65_535) + 1;
    path.reason = reason;
    this.u8.copyWithin(path.name, name, name + NAME_BYTES);
    this.#observed.fill(0, slot * ENDPOINT_BYTES, (slot + 1) * ENDPOINT_BYTES);
    return slot;
  }

  /**
   * Whom a new path displaces: the dead longest unheard of first, then the oldest unproven one that had its second to answer, candidates last.
   * Never the active one, its stand-in, or a path that works.
   */
  #victim(nowMs: number, reason: PathReason): number {
    let victim = -1;
    let victimRank = Infinity;
    for (const path of this.paths) {
      if (path.slot === this.active || path.slot === this.duplicate || path.state === PathState.ALIVE) continue;
      let rank: number;
      if (path.state === PathState.DEAD) rank = Math.max(path.lastReceivedMs, path.createdMs);
      else if (reason !== PathReason.HANDSHAKE && nowMs - path.createdMs < YOUNG_MS) continue;
      else rank = (path.candidate ? 2e15 : 1e15) + path.createdMs + path.rank;
      if (rank < victimRank) {
        victim = path.slot;
        victimRank = rank;
      }
    }
    return victim;
  }

  release(path: Path): void {
    path.used = false;
    path.state = PathState.UNTRIED;
    path.nextProbeMs = Infinity;
    path.answerDueMs = Infinity;
    path.reportDueMs = Infinity;
    path.generation++;
    if (this.#observedSlot === path.slot) this.#observedSlot = -1;
  }

  // ── sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  setLocalMtu(nowMs: number, mtuBytes: number): void {
    this.#localMtuBytes = mtuBytes;
    this.#applyLimit(nowMs);
  }

  setRemoteMtu(nowMs: number, mtuBytes: number): void {
    this.#remoteMtuBytes = mtuBytes;
    this.#applyLimit(nowMs);
  }

  /** A via takes what its hop's path takes, less what wrapping adds: at best this. */
  #limitBytes(name: number): number {
    const ends = this.#remoteMtuBytes > 0 ? Math.min(this.#localMtuBytes, this.#remoteMtuBytes) : this.#localMtuBytes;
    const isVia = this.u8[name + NAME_FAMILY] === VirtualType.LABEL;
    return isVia ? ends - DATA_OVERHEAD_BYTES - TRANSIT_LABEL_BYTES : ends;
  }

  #kindOf(name: number): PathKind {
    const family = this.u8[name + NAME_FAMILY];
    if (family >= 4) return PathKind.DIRECT;
    if (family === VirtualType.CHANNEL) return PathKind.CHANNEL;
    return this.u8[name + NAME_REMOTE + 9] === 1 ? PathKind.RELAY : PathKind.TRANSIT;
  }

  #applyLimit(nowMs: number): void {
    for (const path of this.paths) {
      if (!path.used) continue;
      path.mtu.setLimit(nowMs, this.#limitBytes(path.name));
      if (path.state === PathState.ALIVE) this.wakeAt(path.mtu.nextMs);
    }
  }

  // ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Sends through a path; every message of ours uses up a counter that the other paths then miss. */
  emit(sink: PathSink, kind: number, path: Path, payload: number, bytes: number): boolean {
    if (!sink.emit(kind, path.name, payload, bytes)) return false;
    for (const other of this.paths) if (other !== path) other.elsewhere++;
    return true;
  }

  family(path: Path): number {
    return this.u8[path.name + NAME_FAMILY];
  }

  /** Outer IP and UDP headers on this path, bytes; a virtual path is reckoned as IPv6. */
  outerBytes(path: Path): number {
    return this.family(path) === 4 ? OUTER_IPV4_BYTES : OUTER_IPV6_BYTES;
  }

  /** Replies leave from the local address that the peer's packet came to. */
  stickSource(to: number, from: number): void {
    const view = this.view;
    for (let i = 0; i < 16; i += 4) {
      const word = view.getUint32(from + NAME_LOCAL + i, true);
      if (word !== view.getUint32(to + NAME_LOCAL + i, true)) view.setUint32(to + NAME_LOCAL + i, word, true);
    }
    view.setUint32(to + NAME_INTERFACE, view.getUint32(from + NAME_INTERFACE, true), true);
  }

  clearSource(path: Path): void {
    this.u8.fill(0, path.name + NAME_LOCAL, path.name + NAME_LOCAL + 16);
    this.view.setUint32(path.name + NAME_INTERFACE, 0, true);
  }

  /** @param endpoint 18 bytes @param at name block to write */
  writeName(endpoint: Uint8Array, at: number): void {
    writeName(this.u8, endpoint, at);
  }

  /** @param at offset of the 18 bytes by which the peer says it sees us on this path @returns false when that is another address than before */
  noteObserved(path: Path, at: number): boolean {
    // through a via or channel the peer sees no address of ours
    if (path.kind !== PathKind.DIRECT || isVirtualAddress(this.u8, at)) return true;
    const base = path.slot * ENDPOINT_BYTES;
    const isFirst = (this.#observed[base + 16] | this.#observed[base + 17]) === 0;
    let changed = false;
    for (let i = 0; i < ENDPOINT_BYTES; i++) {
      if (this.#observed[base + i] === this.u8[at + i]) continue;
      this.#observed[base + i] = this.u8[at + i]!;
      changed = true;
    }
    if (!changed) return true;
    this.#observedSlot = path.slot;
    return isFirst;
  }

  takeObserved(): Uint8Array | undefined {
    const slot = this.#observedSlot;
    if (slot < 0) return undefined;
    this.#observedSlot = -1;
    return this.#observed.slice(slot * ENDPOINT_BYTES, (slot + 1) * ENDPOINT_BYTES);
  }

  figures(): PathFigures[] {
    const all: PathFigures[] = [];
    for (const path of this.paths) {
      if (!path.used) continue;
      all.push({
        endpoint: readName(this.u8, path.name),
        local: this.u8.slice(path.name + NAME_LOCAL, path.name + NAME_LOCAL + 16),
        socket: this.view.getUint32(path.name + NAME_SOCKET, true),
        active: path.slot === this.active,
        duplicate: path.slot === this.duplicate,
        state: path.state,
        reason: PATH_REASONS[path.reason],
        rttMs: path.rtt.smoothedMs,
        rttP95Ms: path.rtt.p95Ms,
        jitterMs: path.rtt.samples > 0 ? path.rtt.variationMs : -1,
        lossRatio: path.loss.ratio,
        mtuBytes: path.mtu.mtuBytes,
        verifiedMtuBytes: path.mtu.verifiedBytes,
        rateBps: path.rate.bps,
        ceCount: path.ceCount,
        lastReceivedMs: path.lastReceivedMs,
      });
    }
    return all;
  }
}

/** Our clock on the wire: microseconds modulo 2^32, never 0 (which means "none"). */
export function timestampUs(nowMs: number): number {
  const us = Math.floor(nowMs * 1000) % 4294967296;
  return us === 0 ? 1 : us;
}
