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
 * - Without data for 30 s nothing is sent, unless a keepalive is configured.
 *
 * Paths belong to the slot numbers 0–7 and own name blocks in the slab. `received` and `sent` do not allocate. Call order per received run
 * of packets: handleProbe/handleProbeAck/handleReport for the packets in it, then received() for the run.
 */
import { Drop } from "../base/drop.ts";
import {
  NAME_BYTES,
  NAME_FAMILY,
  NAME_INTERFACE,
  NAME_LOCAL,
  NAME_PORT,
  NAME_REMOTE,
  NAME_SCOPE,
  sameRemote,
} from "../base/name.ts";
import type { Random } from "../base/random.ts";
import type { Slab } from "../base/slab.ts";
import { innerPayloadBytes, InnerKind, OUTER_IPV4_BYTES, OUTER_IPV6_BYTES } from "../wire/data.ts";
import {
  decodeProbe,
  decodeProbeAck,
  encodeProbe,
  encodeProbeAck,
  Probe,
  PROBE_ACK_BYTES,
  PROBE_ACK_OBSERVED,
  PROBE_FLAG_MTU,
  PROBE_MIN_BYTES,
  ProbeAck,
} from "../wire/probe.ts";
import { decodeReport, encodeReport, Report, REPORT_BYTES } from "../wire/report.ts";
import { TokenBucket } from "./bucket.ts";
import { MAX_PATHS, PathMemory } from "./memory.ts";
import { Path, PathCounters, type PathFigures, PATH_REASONS, PathReason, PathState } from "./path.ts";
import { PMTU_BASE_BYTES } from "./pmtu.ts";
import { ProbeTable } from "./probe-table.ts";
import { pathCost, worthMoving } from "./select.ts";

const ENDPOINT_BYTES = 18;
/** Without data for this long a peer is idle. */
const IN_USE_MS = 30_000;
const PROBE_IN_USE_MS = 5_000;
const PROBE_UPGRADING_MS = 1_000;
const DEAD_RETRY_MAX_MS = 30_000;
const MISSES_UNTIL_DEAD = 3;
const ANSWER_MIN_MS = 200;
const ANSWER_MAX_MS = 1_000;
const ANSWER_UNKNOWN_MS = 250;
const PROBES_PER_SECOND = 20;
const PROBES_BURST = 40;
const ANSWERS_PER_SECOND = 60;
const ANSWERS_BURST = 80;
/** A path not proven yet is not displaced by another unproven one for this long: its probe may still be answered. */
const YOUNG_MS = 1_000;
/** Answered probes in a row that a failed path owes, doubled for each failure within a minute, at most 8 times. */
const PROBATION_ANSWERS = 3;
const FAILURE_MEMORY_MS = 60_000;
/** Fewer round trips say too little to leave a working path. */
const SAMPLES_TO_COMPARE = 3;
const FOLLOW_JITTER_MS = 50;
const CONFIRM_FRESH_MS = 1_000;
const REPORT_REORDER_MS = 1_000;
const ECN_CE = 3;

export interface PeerPathsDeps {
  readonly slab: Slab;
  readonly random: Random;
}

/** Resolved once; every field has a default. */
export interface PeerPathsOptions {
  /** Largest underlay IP packet of this host's interfaces, bytes. @default 1280 */
  readonly localMtuBytes?: number;
  /** Keep NAT mappings of an idle peer's active path open this often, ms; 0 = never. @default 0 */
  readonly keepaliveMs?: number;
}

/** Takes what the paths want sent, as inner messages under the peer's newest epoch. */
export interface PathSink {
  /**
   * @param name name block to send to @param payload slab offset, valid during the call
   * @returns false when it was not sent (no session, or refused by the kernel)
   */
  emit(innerKind: number, name: number, payload: number, bytes: number): boolean;
}

export class PeerPaths {
  /** Slot that carries data, −1 = none yet. A dead path stays active until another one is proven. */
  active = -1;
  /** Slot that carries a copy of all data while delivery on `active` is in doubt, −1 = none. */
  duplicate = -1;
  /** When handleTimeout() wants to be called; Infinity = never. Any call may lower it. */
  nextTimeoutMs: number = Infinity;
  /** Of the last answered probe: its number (as ping() returned), round trip and path slot. */
  lastAckId = 0;
  lastAckRttMs = -1;
  lastAckPath = -1;
  readonly counters: PathCounters = new PathCounters();

  readonly #memory: PathMemory;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #random: Random;
  readonly #keepaliveMs: number;
  readonly #names: number;
  readonly #paths: readonly Path[];
  readonly #probes: ProbeTable;
  readonly #probeBucket: TokenBucket = new TokenBucket(PROBES_PER_SECOND, PROBES_BURST);
  readonly #answerBucket: TokenBucket = new TokenBucket(ANSWERS_PER_SECOND, ANSWERS_BURST);
  /** Per slot, the address at which the peer sees us (18 bytes each). */
  readonly #observed: Uint8Array = new Uint8Array(MAX_PATHS * ENDPOINT_BYTES);
  #observedSlot = -1;
  #localMtuBytes: number;
  #remoteMtuBytes = 0;
  #nextId: number;
  #lastSlot = 0;
  /** A session exists or existed: before that nothing can be sealed. */
  #live = false;
  #closed = false;
  #lastDataMs = -Infinity;
  #activeChanged = false;
  #moveAtMs = Infinity;
  /** Newest data packet of the peer, and the path it came on. */
  #newestEpoch = 0;
  #newestCounter = -1;
  #newestSlot = -1;
  #followSlot = -1;
  #followAtMs = 0;
  readonly #probe: Probe = new Probe();
  readonly #ack: ProbeAck = new ProbeAck();
  readonly #report: Report = new Report();

  /** @throws WeftError SLAB_FULL */
  constructor(deps: PeerPathsDeps, options: PeerPathsOptions = {}) {
    this.#memory = PathMemory.of(deps.slab);
    this.#u8 = this.#memory.u8;
    this.#view = this.#memory.view;
    this.#random = deps.random;
    this.#localMtuBytes = options.localMtuBytes ?? PMTU_BASE_BYTES;
    this.#keepaliveMs = options.keepaliveMs ?? 0;
    this.#names = this.#memory.takeNames();
    const paths: Path[] = [];
    for (let slot = 0; slot < MAX_PATHS; slot++) paths.push(new Path(this.#names + slot * NAME_BYTES));
    this.#paths = paths;
    this.#probes = new ProbeTable(deps.random);
    this.#nextId = 1 + (deps.random.u32() % 65_535);
  }

  /** Gives its name blocks back; nothing may be called afterwards. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.active = -1;
    this.duplicate = -1;
    this.nextTimeoutMs = Infinity;
    this.#memory.giveNames(this.#names);
  }

  // ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Name block of the active path; 0 when there is none. */
  activeName(): number {
    return this.active < 0 ? 0 : this.#paths[this.active]!.name;
  }

  /** @param slot 0–7 @returns slab offset of its name block */
  nameOf(slot: number): number {
    return this.#paths[slot]!.name;
  }

  /** Smoothed round trip of the active path, ms; −1 = unknown. */
  get rttMs(): number {
    return this.active < 0 ? -1 : this.#paths[this.active]!.rtt.smoothedMs;
  }

  get rttP95Ms(): number {
    return this.active < 0 ? -1 : this.#paths[this.active]!.rtt.p95Ms;
  }

  get jitterMs(): number {
    return this.active < 0 ? 0 : this.#paths[this.active]!.rtt.variationMs;
  }

  /** Loss of the active path, 0–1. */
  get lossRatio(): number {
    return this.active < 0 ? 0 : this.#paths[this.active]!.loss.ratio;
  }

  /** Largest underlay IP packet for the active path, bytes. */
  get mtuBytes(): number {
    return this.active < 0 ? PMTU_BASE_BYTES : this.#paths[this.active]!.mtu.mtuBytes;
  }

  /** Delivery rate of the active path, bits per second; 0 = unknown. */
  get rateBps(): number {
    return this.active < 0 ? 0 : this.#paths[this.active]!.rate.bps;
  }

  /** True once after each change of the active path. */
  takeActiveChanged(): boolean {
    const changed = this.#activeChanged;
    this.#activeChanged = false;
    return changed;
  }

  /** The address (18 bytes, a copy) by which the peer sees us, once after each change. */
  takeObserved(): Uint8Array | undefined {
    const slot = this.#observedSlot;
    if (slot < 0) return undefined;
    this.#observedSlot = -1;
    return this.#observed.slice(slot * ENDPOINT_BYTES, (slot + 1) * ENDPOINT_BYTES);
  }

  /** A copy of every path's figures, for status and explain. */
  figures(): PathFigures[] {
    const all: PathFigures[] = [];
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (!path.used) continue;
      const endpoint = new Uint8Array(ENDPOINT_BYTES);
      endpoint.set(this.#u8.subarray(path.name + NAME_REMOTE, path.name + NAME_REMOTE + 16));
      endpoint.set(this.#u8.subarray(path.name + NAME_PORT, path.name + NAME_PORT + 2), 16);
      all.push({
        endpoint,
        active: slot === this.active,
        state: path.state,
        reason: PATH_REASONS[path.reason]!,
        rttMs: path.rtt.smoothedMs,
        rttP95Ms: path.rtt.p95Ms,
        jitterMs: path.rtt.samples > 0 ? path.rtt.variationMs : -1,
        lossRatio: path.loss.ratio,
        mtuBytes: path.mtu.mtuBytes,
        verifiedMtuBytes: path.mtu.verifiedBytes,
        rateBps: path.rate.bps,
        ceCount: path.ceCount,
      });
    }
    return all;
  }

  // ── what the owner knows ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Addresses at which the peer may be reached, best first; more than 8 are ignored. Those not named any more are forgotten unless they live.
   * @param endpoints 18 bytes each, copied
   */
  setCandidates(nowMs: number, endpoints: readonly Uint8Array[]): void {
    for (const path of this.#paths) path.candidate = false;
    const count = Math.min(MAX_PATHS, endpoints.length);
    const slots: number[] = [];
    const name = this.#memory.scratchName;
    for (let rank = 0; rank < count; rank++) {
      this.#writeName(endpoints[rank]!, name);
      const slot = this.#find(name);
      slots.push(slot);
      if (slot >= 0) this.#paths[slot]!.candidate = true;
    }
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      const lives = path.state === PathState.ALIVE || path.state === PathState.PROBING;
      if (path.used && !path.candidate && slot !== this.active && !lives) this.#release(slot);
    }
    for (let rank = 0; rank < count; rank++) {
      this.#writeName(endpoints[rank]!, name);
      let slot = slots[rank]!;
      if (slot < 0) {
        slot = this.#adopt(nowMs, name, PathReason.CANDIDATE);
        if (slot < 0) continue;
        this.#paths[slot]!.candidate = true;
        if (this.#live) this.#probeAt(this.#paths[slot]!, nowMs);
      }
      this.#paths[slot]!.rank = rank;
    }
  }

  /** The handshake proved this address: its response came from there. @param name name block, copied */
  confirm(nowMs: number, name: number): void {
    let slot = this.#find(name);
    if (slot < 0) slot = this.#adopt(nowMs, name, PathReason.HANDSHAKE);
    if (slot < 0) return;
    this.#begin(nowMs);
    this.#lastDataMs = nowMs;
    const path = this.#paths[slot]!;
    path.probation = 0;
    this.#proven(nowMs, path, PathReason.HANDSHAKE);
    path.misses = 0;
    path.answerDueMs = Infinity;
    this.#probeAt(path, nowMs);
    const current = this.active < 0 ? undefined : this.#paths[this.active]!;
    const currentFresh =
      current !== undefined &&
      current.eligible &&
      nowMs - Math.max(current.lastReceivedMs, current.lastProvenMs) < CONFIRM_FRESH_MS;
    if (!currentFresh) this.#activate(slot);
  }

  /** confirm(), but only for an address from which the peer has already sent: the responder's proof. */
  confirmIfSeen(nowMs: number, name: number): void {
    const slot = this.#find(name);
    if (slot >= 0 && this.#paths[slot]!.lastReceivedMs >= 0) this.confirm(nowMs, name);
  }

  /** This host's addresses, interfaces or routes changed: forget sticky sources and ask every path again now. */
  addressesChanged(nowMs: number): void {
    for (const path of this.#paths) {
      if (!path.used) continue;
      this.#u8.fill(0, path.name + NAME_LOCAL, path.name + NAME_LOCAL + 16);
      this.#view.setUint32(path.name + NAME_INTERFACE, 0, true);
      path.generation++;
      path.misses = 0;
      path.attempts = 0;
      path.answerDueMs = Infinity;
      path.rtt.forgetBaseline();
      if (path.state === PathState.DEAD) path.state = PathState.PROBING;
      if (!this.#live) continue;
      this.#probeAt(path, nowMs);
      if (path.state === PathState.ALIVE) path.mtu.verify(nowMs);
    }
  }

  setLocalMtu(nowMs: number, mtuBytes: number): void {
    this.#localMtuBytes = mtuBytes;
    this.#applyLimit(nowMs);
  }

  /** The peer's MTU hint of the handshake. */
  setRemoteMtu(nowMs: number, mtuBytes: number): void {
    this.#remoteMtuBytes = mtuBytes;
    this.#applyLimit(nowMs);
  }

  /** The kernel refused a datagram of this size (EMSGSIZE) on the active path. @param datagramBytes UDP payload */
  tooBig(nowMs: number, datagramBytes: number): void {
    if (this.active < 0) return;
    const path = this.#paths[this.active]!;
    path.mtu.refused(nowMs, datagramBytes + this.#outerBytes(path));
    this.#wakeAt(path.mtu.nextMs);
  }

  /** The error queue named a next-hop MTU. @param name destination that failed @returns true when a path of this peer was lowered */
  mtuError(nowMs: number, name: number, mtuBytes: number): boolean {
    const slot = this.#find(name);
    if (slot < 0) return false;
    const path = this.#paths[slot]!;
    if (!path.mtu.hinted(nowMs, mtuBytes)) return false;
    this.counters.mtuHints++;
    this.#wakeAt(path.mtu.nextMs);
    return true;
  }

  // ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Authenticated packets came in from this name: a run under one epoch in one receive. Hot; no allocation.
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
    let slot = this.#lastSlot;
    if (!this.#paths[slot]!.used || !sameRemote(this.#view, this.#paths[slot]!.name, name)) {
      slot = this.#findOrAdopt(nowMs, name);
      if (slot < 0) return -1;
      this.#lastSlot = slot;
    }
    const path = this.#paths[slot]!;
    const counter = high * 4294967296 + low;
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
    this.#stickSource(path.name, name);
    if (data <= 0) return slot;
    if (nowMs - this.#lastDataMs > IN_USE_MS) this.#awake(nowMs);
    this.#lastDataMs = nowMs;
    if (path.reportDueMs === Infinity && path.remoteId !== 0) {
      path.reportDueMs = nowMs + path.reportIntervalMs;
      if (path.reportDueMs < this.nextTimeoutMs) this.nextTimeoutMs = path.reportDueMs;
    }
    if (epochId > this.#newestEpoch || (epochId === this.#newestEpoch && counter > this.#newestCounter)) {
      this.#newestEpoch = epochId;
      this.#newestCounter = counter;
      this.#newestSlot = slot;
      if (slot !== this.active) this.#considerFollowing(nowMs, slot);
    }
    return slot;
  }

  /**
   * User data was handed to the kernel for the active path (and `duplicate`, if any). Hot; no allocation.
   * @returns true when nextTimeoutMs became earlier
   */
  sent(nowMs: number, packets: number, bytes: number): boolean {
    void bytes;
    if (this.active < 0) return false;
    if (nowMs - this.#lastDataMs > IN_USE_MS) this.#awake(nowMs);
    this.#lastDataMs = nowMs;
    const before = this.nextTimeoutMs;
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (slot !== this.active && slot !== this.duplicate) {
        path.elsewhere += packets;
        continue;
      }
      path.lastSentMs = nowMs;
      if (path.unreportedSinceMs < 0) path.unreportedSinceMs = nowMs;
    }
    const path = this.#paths[this.active]!;
    if (path.suspectSinceMs < 0) this.#wakeAt(path.unreportedSinceMs + path.deliveryBoundMs);
    return this.nextTimeoutMs < before;
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
    const probe = this.#probe;
    const malformed = decodeProbe(this.#view, payload, bytes, probe);
    if (malformed !== Drop.NONE) return malformed;
    const slot = this.#findOrAdopt(nowMs, name);
    if (slot < 0) return Drop.NO_PATH;
    const path = this.#paths[slot]!;
    path.controlPending++;
    path.lastReceivedMs = nowMs;
    path.remoteId = probe.pathId;
    this.#noteTimestamp(nowMs, path, probe.timestampUs);
    if (!this.#answerBucket.take(nowMs, 1)) {
      this.counters.answersLimited++;
      return Drop.RATE_LIMIT;
    }
    this.#stickSource(path.name, name);
    const scratch = this.#memory.scratch;
    const port = this.#view.getUint16(path.name + NAME_PORT, true);
    encodeProbeAck(
      this.#view,
      scratch,
      probe,
      path.name + NAME_REMOTE,
      port,
      datagramBytes & 0xffff,
      timestampUs(nowMs),
    );
    if (this.#emit(sink, InnerKind.PROBE_ACK, path, scratch, PROBE_ACK_BYTES)) this.counters.probesAnswered++;
    return Drop.NONE;
  }

  /**
   * The answer to one of our probes: proves the path it was sent on, if it came back on that path and belongs to the present attempt.
   * @returns BAD_INNER, UNEXPECTED (late, unknown or from elsewhere), or NONE with lastAck… set
   */
  handleProbeAck(nowMs: number, name: number, payload: number, bytes: number, sink: PathSink): Drop {
    const ack = this.#ack;
    const malformed = decodeProbeAck(this.#view, payload, bytes, ack);
    if (malformed !== Drop.NONE) return malformed;
    const slot = this.#find(name);
    if (slot >= 0) this.#paths[slot]!.controlPending++;
    const entry = this.#probes.take(ack.transactionLow, ack.transactionHigh);
    if (entry < 0 || slot < 0 || this.#probes.slot(entry) !== slot) {
      this.counters.acksLate++;
      return Drop.UNEXPECTED;
    }
    const path = this.#paths[slot]!;
    if (this.#probes.generation(entry) !== path.generation || ack.pathId !== path.id) {
      this.counters.acksLate++;
      return Drop.UNEXPECTED;
    }
    this.counters.acksReceived++;
    const rttMs = nowMs - this.#probes.sentMs(entry);
    const sizeBytes = this.#probes.sizeBytes(entry);
    path.lastReceivedMs = nowMs;
    path.announced = true;
    path.misses = 0;
    path.attempts = 0;
    this.#noteObserved(slot, payload + PROBE_ACK_OBSERVED);
    this.#noteTimestamp(nowMs, path, ack.timestampUs);
    if (sizeBytes > 0) {
      const whole = ack.datagramBytes + this.#outerBytes(path);
      if (whole === sizeBytes) path.mtu.answered(nowMs, sizeBytes);
    } else {
      path.rtt.add(nowMs, rttMs);
      path.loss.addProbe(true);
      path.answerDueMs = Infinity;
    }
    this.lastAckId = this.#probes.id(entry);
    this.lastAckRttMs = rttMs;
    this.lastAckPath = slot;
    const wasProven = path.state === PathState.ALIVE;
    if (path.probation > 0) path.probation--;
    if (
      path.state === PathState.DEAD &&
      path.suspectSinceMs >= 0 &&
      this.#probes.sentMs(entry) >= path.suspectSinceMs
    ) {
      // Asked in the moment of doubt and answered: it was a false alarm.
      this.counters.falseAlarms++;
      path.probation = 0;
    }
    if (slot === this.active && path.suspectSinceMs >= 0 && this.#probes.sentMs(entry) >= path.suspectSinceMs) {
      this.#trustAgain(nowMs, path);
    }
    this.#proven(nowMs, path, PathReason.ANSWERED);
    this.#scheduleProbe(nowMs, path);
    if (!wasProven && slot !== this.active && this.#newestSlot === slot && path.eligible) {
      this.counters.roams++;
      this.#activate(slot);
    }
    this.#choose(nowMs);
    this.#runMtu(nowMs, path, sink);
    return Drop.NONE;
  }

  /** What the peer received on one of our paths. @returns BAD_INNER, UNEXPECTED (stale), or NONE */
  handleReport(nowMs: number, name: number, payload: number, bytes: number, sink: PathSink): Drop {
    void sink;
    const report = this.#report;
    const malformed = decodeReport(this.#view, payload, bytes, report);
    if (malformed !== Drop.NONE) return malformed;
    const arrivalSlot = this.#find(name);
    if (arrivalSlot >= 0) {
      this.#paths[arrivalSlot]!.controlPending++;
      this.#noteTimestamp(nowMs, this.#paths[arrivalSlot]!, report.timestampUs);
    }
    const slot = this.#byId(report.pathId);
    if (slot < 0) {
      this.counters.reportsStale++;
      return Drop.UNEXPECTED;
    }
    const path = this.#paths[slot]!;
    if (report.packets < path.reportedPackets) {
      if (nowMs - path.reportedAtMs < REPORT_REORDER_MS) {
        this.counters.reportsStale++;
        return Drop.UNEXPECTED;
      }
      // Nobody reorders by a second: the peer counts anew.
      path.restartReports();
    }
    this.counters.reportsReceived++;
    if (arrivalSlot === slot && report.echoUs !== 0 && report.echoUs !== path.echoUsedUs) {
      path.echoUsedUs = report.echoUs;
      const sampleUs = (timestampUs(nowMs) - report.echoUs - report.holdUs) >>> 0;
      path.rtt.add(nowMs, sampleUs / 1000);
    }
    const progress = report.packets > path.reportedPackets;
    if (progress) this.#delivered(nowMs, slot, report);
    return Drop.NONE;
  }

  /** Asks the active path now, or every path when there is none. @returns number of the (first) probe for lastAckId, or −1 */
  ping(nowMs: number, sink: PathSink): number {
    let first = -1;
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (!path.used || (this.active >= 0 && slot !== this.active)) continue;
      const id = this.#sendProbe(nowMs, slot, 0, sink);
      if (first < 0) first = id;
    }
    return first;
  }

  // ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Sends what is due and judges what is overdue; sets nextTimeoutMs. */
  handleTimeout(nowMs: number, sink: PathSink): void {
    if (this.#closed) return;
    const inUse = this.#inUse(nowMs);
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (!path.used) continue;
      if (nowMs >= path.reportDueMs) this.#sendReport(nowMs, slot, sink);
      if (nowMs >= path.answerDueMs) this.#unanswered(nowMs, slot);
      if (nowMs >= path.nextProbeMs) this.#probeDue(nowMs, slot, sink);
      if (inUse && path.state === PathState.ALIVE) this.#runMtu(nowMs, path, sink);
    }
    this.#judgeDelivery(nowMs, sink);
    this.#reschedule(nowMs);
  }

  #reschedule(nowMs: number): void {
    let next = this.#moveAtMs;
    const inUse = this.#inUse(nowMs);
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (!path.used) continue;
      next = Math.min(next, path.reportDueMs, path.nextProbeMs, path.answerDueMs);
      if (inUse && path.state === PathState.ALIVE) next = Math.min(next, path.mtu.nextMs);
    }
    if (this.active >= 0) {
      const path = this.#paths[this.active]!;
      if (path.unreportedSinceMs >= 0 && path.suspectSinceMs < 0) {
        next = Math.min(next, path.unreportedSinceMs + path.deliveryBoundMs);
      }
    }
    this.nextTimeoutMs = next;
  }

  #wakeAt(atMs: number): void {
    if (atMs < this.nextTimeoutMs) this.nextTimeoutMs = atMs;
  }

  #inUse(nowMs: number): boolean {
    return nowMs - this.#lastDataMs <= IN_USE_MS;
  }

  // ── probing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #probeAt(path: Path, atMs: number): void {
    path.nextProbeMs = atMs;
    this.#wakeAt(atMs);
  }

  /** A session begins: every untried path is asked, and peers that forgot us count anew. */
  #begin(nowMs: number): void {
    this.#live = true;
    for (const path of this.#paths) {
      if (!path.used) continue;
      path.announced = false;
      path.unreportedSinceMs = -1;
      path.restartReports();
      if (path.state !== PathState.ALIVE && path.nextProbeMs === Infinity) this.#probeAt(path, nowMs);
    }
  }

  /** Data after idleness: what was known of the paths is old. */
  #awake(nowMs: number): void {
    if (!this.#live) return;
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (!path.used) continue;
      path.attempts = 0;
      this.#probeAt(path, slot === this.active ? nowMs : nowMs + this.#random.unit() * 100);
    }
  }

  /** When to ask again, from the state the path is in. */
  #scheduleProbe(nowMs: number, path: Path): void {
    const isActive = this.active >= 0 && this.#paths[this.active] === path;
    let delayMs: number;
    if (!this.#inUse(nowMs)) delayMs = isActive && this.#keepaliveMs > 0 ? this.#keepaliveMs : Infinity;
    else if (path.state === PathState.DEAD) {
      delayMs = isActive
        ? PROBE_UPGRADING_MS
        : Math.min(DEAD_RETRY_MAX_MS, PROBE_UPGRADING_MS * 2 ** Math.min(path.attempts, 5));
    } else if (path.state !== PathState.ALIVE || path.probation > 0 || path.rtt.samples < SAMPLES_TO_COMPARE) {
      delayMs = PROBE_UPGRADING_MS;
    } else delayMs = PROBE_IN_USE_MS;
    this.#probeAt(path, nowMs + delayMs * (0.9 + 0.2 * this.#random.unit()));
  }

  #probeDue(nowMs: number, slot: number, sink: PathSink): void {
    const path = this.#paths[slot]!;
    if (path.state === PathState.DEAD) {
      // A new attempt: what was asked before is late from now on.
      path.generation++;
      path.misses = 0;
      path.state = PathState.PROBING;
    } else if (path.state === PathState.UNTRIED) path.state = PathState.PROBING;
    this.#scheduleProbe(nowMs, path);
    if (this.#sendProbe(nowMs, slot, 0, sink) < 0) return;
    if (path.answerDueMs === Infinity) {
      const rttMs = path.rtt.smoothedMs;
      const waitMs =
        rttMs < 0
          ? Math.min(ANSWER_MAX_MS, ANSWER_UNKNOWN_MS * 2 ** path.misses)
          : Math.min(ANSWER_MAX_MS, Math.max(ANSWER_MIN_MS, 2 * rttMs + 4 * path.rtt.variationMs));
      path.answerDueMs = nowMs + waitMs;
      this.#wakeAt(path.answerDueMs);
    }
  }

  /** @returns the probe's number, or −1 when it was not sent */
  #sendProbe(nowMs: number, slot: number, sizeBytes: number, sink: PathSink): number {
    if (!this.#probeBucket.take(nowMs, 1)) {
      this.counters.probesLimited++;
      return -1;
    }
    const path = this.#paths[slot]!;
    const entry = this.#probes.add(nowMs, slot, path.generation, sizeBytes);
    const probe = this.#probe;
    probe.transactionLow = this.#probes.low(entry);
    probe.transactionHigh = this.#probes.high(entry);
    probe.timestampUs = timestampUs(nowMs);
    probe.pathId = path.id;
    probe.flags = sizeBytes > 0 ? PROBE_FLAG_MTU : 0;
    const bytes = sizeBytes > 0 ? innerPayloadBytes(sizeBytes, this.#u8[path.name + NAME_FAMILY]!) : PROBE_MIN_BYTES;
    const scratch = this.#memory.scratch;
    encodeProbe(this.#u8, this.#view, scratch, probe, bytes);
    if (!this.#emit(sink, InnerKind.PROBE, path, scratch, bytes)) {
      this.#probes.drop(entry);
      return -1;
    }
    this.counters.probesSent++;
    return this.#probes.id(entry);
  }

  #unanswered(nowMs: number, slot: number): void {
    const path = this.#paths[slot]!;
    path.answerDueMs = Infinity;
    path.loss.addProbe(false);
    path.misses++;
    // Data that the peer reports proves more than a lost probe disproves.
    if (nowMs - path.lastProvenMs < ANSWER_MAX_MS && path.state === PathState.ALIVE)
      path.misses = Math.min(path.misses, 1);
    if (path.misses < MISSES_UNTIL_DEAD) {
      if (this.#inUse(nowMs)) this.#probeAt(path, nowMs);
      return;
    }
    this.#fail(nowMs, slot, PathReason.UNANSWERED);
    this.#choose(nowMs);
  }

  #fail(nowMs: number, slot: number, reason: PathReason): void {
    const path = this.#paths[slot]!;
    const wasAlive = path.state === PathState.ALIVE;
    path.state = PathState.DEAD;
    path.reason = reason;
    path.attempts++;
    path.answerDueMs = Infinity;
    path.misses = 0;
    if (wasAlive) {
      path.failures = nowMs - path.failedMs < FAILURE_MEMORY_MS ? Math.min(3, path.failures + 1) : 0;
      path.failedMs = nowMs;
      path.probation = PROBATION_ANSWERS << path.failures;
    }
    this.#scheduleProbe(nowMs, path);
  }

  #proven(nowMs: number, path: Path, reason: PathReason): void {
    path.lastProvenMs = nowMs;
    path.reason = reason;
    path.suspectSinceMs = -1;
    if (path.state === PathState.ALIVE) return;
    path.state = PathState.ALIVE;
    path.misses = 0;
    path.restartReports();
    path.unreportedSinceMs = -1;
    path.mtu.verify(nowMs);
    this.#wakeAt(nowMs);
  }

  #runMtu(nowMs: number, path: Path, sink: PathSink): void {
    const slot = this.#paths.indexOf(path);
    for (;;) {
      const size = path.mtu.poll(nowMs, path.rtt.smoothedMs);
      if (size === 0) break;
      const limited = this.counters.probesLimited;
      this.#sendProbe(nowMs, slot, size, sink);
      if (this.counters.probesLimited !== limited) {
        path.mtu.postpone(nowMs + 250);
        break;
      }
    }
    this.#wakeAt(path.mtu.nextMs);
  }

  // ── delivery ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #sendReport(nowMs: number, slot: number, sink: PathSink): void {
    const path = this.#paths[slot]!;
    path.reportDueMs = Infinity;
    if (path.remoteId === 0) return;
    const report = this.#report;
    report.pathId = path.remoteId;
    report.ceCount = path.ceCount;
    report.highestCounter = path.highestCounter;
    report.packets = path.packets;
    report.receivedBytes = path.receivedBytes;
    report.timestampUs = timestampUs(nowMs);
    report.echoUs = path.peerTimestampUs;
    report.holdUs = report.echoUs === 0 ? 0 : Math.floor((nowMs - path.peerTimestampAtMs) * 1000) >>> 0;
    const scratch = this.#memory.scratch;
    encodeReport(this.#view, scratch, report);
    // On the path it is about, whose peer's end is evidently there; also on ours where that differs or is in doubt.
    if (this.#emit(sink, InnerKind.REPORT, path, scratch, REPORT_BYTES)) this.counters.reportsSent++;
    let other = this.active === slot ? this.duplicate : this.active;
    if (other < 0 && this.active === slot && path.suspectSinceMs >= 0) other = this.#warm(slot);
    if (other < 0 || other === slot) return;
    if (this.#emit(sink, InnerKind.REPORT, this.#paths[other]!, scratch, REPORT_BYTES)) this.counters.reportsSent++;
  }

  #delivered(nowMs: number, slot: number, report: Report): void {
    const path = this.#paths[slot]!;
    const first = path.reportedPackets < 0;
    const counters = report.highestCounter - path.reportedCounter;
    // A smaller counter is another epoch's: only the packets of one epoch can be compared with its counters.
    if (!first && counters >= 0 && slot === this.active) {
      path.loss.add(Math.max(0, counters - path.elsewhere), report.packets - path.reportedPackets);
    }
    path.elsewhere = 0;
    path.rate.add(nowMs, report.receivedBytes, report.timestampUs);
    path.reportedPackets = report.packets;
    path.reportedCounter = report.highestCounter;
    path.reportedAtMs = nowMs;
    path.misses = 0;
    // What was sent less than the shortest round trip ago cannot be covered by this report; the rest is taken as covered.
    const horizonMs = nowMs - Math.max(0, path.rtt.baselineMs);
    if (path.lastSentMs <= horizonMs) path.unreportedSinceMs = -1;
    else if (path.unreportedSinceMs < horizonMs) path.unreportedSinceMs = horizonMs;
    if (path.state === PathState.DEAD || path.state === PathState.PROBING) return;
    if (path.state === PathState.ALIVE) {
      path.lastProvenMs = nowMs;
      path.reason = PathReason.REPORTED;
    }
    if (slot === this.duplicate) {
      this.#failOver(nowMs);
      return;
    }
    if (path.suspectSinceMs >= 0) this.#trustAgain(nowMs, path);
    if (path.loss.failing && slot === this.active) this.#lossy(nowMs, path);
  }

  #trustAgain(nowMs: number, path: Path): void {
    path.suspectSinceMs = -1;
    this.counters.falseAlarms++;
    if (this.#paths[this.active] === path) {
      this.duplicate = -1;
      this.#moveAtMs = Infinity;
      path.unreportedSinceMs = path.lastSentMs > nowMs - Math.max(0, path.rtt.baselineMs) ? nowMs : -1;
    }
  }

  /** More than 30 % lost: another path if one does better, and perhaps it is only the large packets. */
  #lossy(nowMs: number, path: Path): void {
    path.mtu.verify(nowMs);
    this.#wakeAt(nowMs);
    const warm = this.#warm(this.active);
    if (warm < 0 || this.#paths[warm]!.loss.ratio >= path.loss.ratio) return;
    const old = this.active;
    this.counters.failovers++;
    this.#activate(warm);
    this.#fail(nowMs, old, PathReason.LOSSY);
  }

  /** Doubt, duplicate, move: see the header. */
  #judgeDelivery(nowMs: number, sink: PathSink): void {
    if (this.active < 0) return;
    const path = this.#paths[this.active]!;
    if (this.duplicate >= 0) {
      if (nowMs >= this.#moveAtMs) this.#failOver(nowMs);
      return;
    }
    if (path.unreportedSinceMs < 0 || nowMs < path.unreportedSinceMs + path.deliveryBoundMs) return;
    if (path.suspectSinceMs < 0) {
      path.suspectSinceMs = nowMs;
      this.#sendProbe(nowMs, this.active, 0, sink);
      if (path.answerDueMs === Infinity) {
        path.answerDueMs = nowMs + Math.min(ANSWER_MAX_MS, Math.max(ANSWER_MIN_MS, 2 * path.rtt.smoothedMs));
      }
      const warm = this.#warm(this.active);
      if (warm >= 0) {
        this.duplicate = warm;
        const standby = this.#paths[warm]!;
        standby.unreportedSinceMs = -1;
        this.#moveAtMs = nowMs + path.reportIntervalMs;
        return;
      }
      // Nowhere to go yet: ask everything else at once.
      for (const other of this.#paths) {
        if (other.used && other !== path && other.state !== PathState.ALIVE) this.#probeAt(other, nowMs);
      }
    }
  }

  #failOver(nowMs: number): void {
    const old = this.active;
    const to = this.duplicate;
    const suspectSinceMs = this.#paths[old]!.suspectSinceMs;
    this.counters.failovers++;
    this.#activate(to);
    this.#fail(nowMs, old, PathReason.UNDELIVERED);
    // An answer to the probe of the moment of doubt still clears it.
    this.#paths[old]!.suspectSinceMs = suspectSinceMs;
    this.#probeAt(this.#paths[old]!, nowMs + PROBE_UPGRADING_MS);
  }

  // ── choosing ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The best path to fall back to. @returns slot or −1 */
  #warm(besides: number): number {
    let best = -1;
    let bestCost = Infinity;
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (slot === besides || !path.eligible) continue;
      const cost = pathCost(path.kind, path.rtt.baselineMs, path.loss.ratio);
      if (best < 0 || cost < bestCost) {
        best = slot;
        bestCost = cost;
      }
    }
    return best;
  }

  /** Moves to a clearly better path, or from a dead one to any proven one. */
  #choose(nowMs: number): void {
    const current = this.active < 0 ? undefined : this.#paths[this.active]!;
    if (current === undefined || current.state !== PathState.ALIVE) {
      let to = this.#warm(this.active);
      // Any port in a storm: a path on probation still beats a dead one.
      for (let slot = 0; to < 0 && slot < MAX_PATHS; slot++) {
        if (slot !== this.active && this.#paths[slot]!.used && this.#paths[slot]!.state === PathState.ALIVE) to = slot;
      }
      if (to < 0) return;
      if (current !== undefined) this.counters.failovers++;
      this.#activate(to);
      return;
    }
    if (current.suspectSinceMs >= 0) return;
    const best = this.#warm(this.active);
    if (best < 0) return;
    const path = this.#paths[best]!;
    if (path.rtt.samples < SAMPLES_TO_COMPARE) return;
    const cost = pathCost(path.kind, path.rtt.baselineMs, path.loss.ratio);
    if (!worthMoving(cost, pathCost(current.kind, current.rtt.baselineMs, current.loss.ratio))) return;
    // The peer may be moving at this moment: the next packet decides, not an old figure.
    if (nowMs - path.lastProvenMs > PROBE_IN_USE_MS) return;
    this.counters.upgrades++;
    this.#activate(best);
  }

  /**
   * The peer's newest data comes on a proven path that is not ours. It may just prefer another one, so we follow only when nothing speaks for
   * our own any more, and after a random delay, or both sides could swap for ever.
   */
  #considerFollowing(nowMs: number, slot: number): void {
    const path = this.#paths[slot]!;
    if (!path.eligible || this.active < 0) return;
    const current = this.#paths[this.active]!;
    const boundMs = Math.max(60, current.rtt.smoothedMs + 2 * current.reportIntervalMs + 20);
    if (nowMs - Math.max(current.lastProvenMs, current.lastReceivedMs) < boundMs) {
      this.#followSlot = -1;
      return;
    }
    if (this.#followSlot !== slot) {
      this.#followSlot = slot;
      this.#followAtMs = nowMs + this.#random.unit() * FOLLOW_JITTER_MS;
      return;
    }
    if (nowMs < this.#followAtMs) return;
    this.counters.roams++;
    this.#activate(slot);
    this.#probeAt(current, nowMs);
  }

  #activate(slot: number): void {
    this.#followSlot = -1;
    this.duplicate = -1;
    this.#moveAtMs = Infinity;
    if (slot === this.active) return;
    if (this.active >= 0) this.#paths[this.active]!.unreportedSinceMs = -1;
    this.active = slot;
    this.#activeChanged = true;
    // Counters were used up elsewhere meanwhile.
    this.#paths[slot]!.restartReports();
  }

  // ── the table of paths ──────────────────────────────────────────────────────────────────────────────────────────────

  #find(name: number): number {
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (path.used && sameRemote(this.#view, path.name, name)) return slot;
    }
    return -1;
  }

  #findOrAdopt(nowMs: number, name: number): number {
    const slot = this.#find(name);
    if (slot >= 0) return slot;
    const adopted = this.#adopt(nowMs, name, PathReason.SEEN);
    if (adopted >= 0) {
      this.#live = true;
      this.#probeAt(this.#paths[adopted]!, nowMs);
    }
    return adopted;
  }

  #byId(id: number): number {
    if (id === 0) return -1;
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      if (this.#paths[slot]!.used && this.#paths[slot]!.id === id) return slot;
    }
    return -1;
  }

  /** Makes a path for a name not known yet, displacing one if it must. @returns slot or −1 (counted) */
  #adopt(nowMs: number, name: number, reason: PathReason): number {
    let slot = -1;
    for (let i = 0; i < MAX_PATHS && slot < 0; i++) if (!this.#paths[i]!.used) slot = i;
    if (slot < 0) {
      slot = this.#victim(nowMs, reason);
      if (slot < 0) {
        this.counters.pathsRefused++;
        return -1;
      }
      this.counters.pathsEvicted++;
      this.#release(slot);
    }
    const path = this.#paths[slot]!;
    path.reset(nowMs, this.#nextId, this.#limitBytes());
    this.#nextId = (this.#nextId % 65_535) + 1;
    path.reason = reason;
    this.#u8.copyWithin(path.name, name, name + NAME_BYTES);
    this.#observed.fill(0, slot * ENDPOINT_BYTES, (slot + 1) * ENDPOINT_BYTES);
    return slot;
  }

  /**
   * Whom a new path displaces: the dead longest unheard of first, then the oldest unproven one that had its second to answer (configured
   * candidates only for something better than a rumour). Never the active one, its stand-in, or a path that works.
   */
  #victim(nowMs: number, reason: PathReason): number {
    let victim = -1;
    let victimRank = Infinity;
    for (let slot = 0; slot < MAX_PATHS; slot++) {
      const path = this.#paths[slot]!;
      if (slot === this.active || slot === this.duplicate || path.state === PathState.ALIVE) continue;
      let rank: number;
      if (path.state === PathState.DEAD) rank = Math.max(path.lastReceivedMs, path.createdMs);
      else if (reason !== PathReason.HANDSHAKE && nowMs - path.createdMs < YOUNG_MS) continue;
      else rank = (path.candidate ? 2e15 : 1e15) + path.createdMs + path.rank;
      if (rank < victimRank) {
        victim = slot;
        victimRank = rank;
      }
    }
    return victim;
  }

  #release(slot: number): void {
    const path = this.#paths[slot]!;
    path.used = false;
    path.state = PathState.UNTRIED;
    path.nextProbeMs = Infinity;
    path.answerDueMs = Infinity;
    path.reportDueMs = Infinity;
    path.generation++;
    if (this.#newestSlot === slot) this.#newestSlot = -1;
    if (this.#followSlot === slot) this.#followSlot = -1;
    if (this.#observedSlot === slot) this.#observedSlot = -1;
  }

  #limitBytes(): number {
    return this.#remoteMtuBytes > 0 ? Math.min(this.#localMtuBytes, this.#remoteMtuBytes) : this.#localMtuBytes;
  }

  #applyLimit(nowMs: number): void {
    for (const path of this.#paths) {
      if (!path.used) continue;
      path.mtu.setLimit(nowMs, this.#limitBytes());
      if (path.state === PathState.ALIVE) this.#wakeAt(path.mtu.nextMs);
    }
  }

  /** Sends through a path; every message of ours uses up a counter that the other paths then miss. */
  #emit(sink: PathSink, kind: number, path: Path, payload: number, bytes: number): boolean {
    if (!sink.emit(kind, path.name, payload, bytes)) return false;
    for (const other of this.#paths) if (other !== path) other.elsewhere++;
    return true;
  }

  #outerBytes(path: Path): number {
    return this.#u8[path.name + NAME_FAMILY] === 6 ? OUTER_IPV6_BYTES : OUTER_IPV4_BYTES;
  }

  #noteTimestamp(nowMs: number, path: Path, peerUs: number): void {
    path.peerTimestampUs = peerUs;
    path.peerTimestampAtMs = nowMs;
  }

  #noteObserved(slot: number, at: number): void {
    const base = slot * ENDPOINT_BYTES;
    let changed = false;
    for (let i = 0; i < ENDPOINT_BYTES; i++) {
      if (this.#observed[base + i] === this.#u8[at + i]) continue;
      this.#observed[base + i] = this.#u8[at + i]!;
      changed = true;
    }
    if (changed) this.#observedSlot = slot;
  }

  /** Replies leave from the local address that the peer's packet came to. */
  #stickSource(to: number, from: number): void {
    const view = this.#view;
    for (let i = 0; i < 16; i += 4) {
      const word = view.getUint32(from + NAME_LOCAL + i, true);
      if (word !== view.getUint32(to + NAME_LOCAL + i, true)) view.setUint32(to + NAME_LOCAL + i, word, true);
    }
    view.setUint32(to + NAME_INTERFACE, view.getUint32(from + NAME_INTERFACE, true), true);
  }

  #writeName(endpoint: Uint8Array, at: number): void {
    const u8 = this.#u8;
    u8.fill(0, at, at + NAME_BYTES);
    u8.set(endpoint.subarray(0, 16), at + NAME_REMOTE);
    u8.set(endpoint.subarray(16, 18), at + NAME_PORT);
    let zeros = 0;
    while (zeros < 10 && endpoint[zeros] === 0) zeros++;
    u8[at + NAME_FAMILY] = zeros === 10 && endpoint[10] === 0xff && endpoint[11] === 0xff ? 4 : 6;
    this.#view.setUint32(at + NAME_SCOPE, 0, true);
  }
}

/** Our clock on the wire: microseconds modulo 2^32, never 0 (which means "none"). */
function timestampUs(nowMs: number): number {
  const us = Math.floor(nowMs * 1000) % 4294967296;
  return us === 0 ? 1 : us;
}
