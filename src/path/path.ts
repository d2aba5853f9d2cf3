/**
 * One path: what is known about reaching the peer at one remote address. A record with explicit fields; the rules that change it are in
 * peer-paths.ts. Everything is set in the constructor and in reset(), so all paths keep one shape.
 */
import { LossMeter } from "./loss.ts";
import { PathMtu } from "./pmtu.ts";
import { RateEstimator } from "./rate.ts";
import { RttEstimator } from "./rtt.ts";
import { PathKind } from "./select.ts";

/** What may be believed of a path. Only ALIVE paths carry data, save the last one a peer has. */
export const PathState = {
  /** Known, never probed. */
  UNTRIED: 0,
  /** Probed, no answer yet. */
  PROBING: 1,
  /** The peer answered through it (return routability). */
  ALIVE: 2,
  /** Stopped answering or delivering; tried again with back-off. */
  DEAD: 3,
} as const;
export type PathState = (typeof PathState)[keyof typeof PathState];

/** Why a path is in its state; for status and explain. */
export const PathReason = {
  CANDIDATE: 0,
  SEEN: 1,
  HANDSHAKE: 2,
  ANSWERED: 3,
  REPORTED: 4,
  UNANSWERED: 5,
  UNDELIVERED: 6,
  LOSSY: 7,
  VIA_FAILED: 8,
} as const;
export type PathReason = (typeof PathReason)[keyof typeof PathReason];
export const PATH_REASONS: readonly string[] = [
  "a candidate, not tried yet",
  "the peer sent from it, not proven yet",
  "proven by the handshake",
  "probes are answered",
  "the peer reports data on it",
  "probes are not answered",
  "data was not reported as received",
  "lost more than 30 % of the packets",
  "a node on the way cannot pass it on",
];

/** Figures of one path for status, a copy. */
export interface PathFigures {
  /** 18 bytes: v4-mapped address ‖ port u16. */
  readonly endpoint: Uint8Array;
  /** Own address, 16 bytes; all zero = left to the kernel. And the socket: 0 = the main one, others are of hole punching. */
  readonly local: Uint8Array;
  readonly socket: number;
  readonly active: boolean;
  /** Carries a copy while delivery on the active one is in doubt. */
  readonly duplicate: boolean;
  readonly state: PathState;
  readonly reason: string;
  /** Smoothed, 95th percentile and jitter, ms; −1 when unknown. */
  readonly rttMs: number;
  readonly rttP95Ms: number;
  readonly jitterMs: number;
  /** 0–1 */
  readonly lossRatio: number;
  /** Underlay IP packet size in force, and the largest a probe has verified (0 = none). */
  readonly mtuBytes: number;
  readonly verifiedMtuBytes: number;
  /** Delivery rate, bits per second; 0 = unknown. */
  readonly rateBps: number;
  /** CE-marked packets received, wraps at 65,536. */
  readonly ceCount: number;
  /** When something authenticated last came in on it; −1 = never. */
  readonly lastReceivedMs: number;
}

/** Not the global `Infinity`: to the optimiser that is an object, for whose sake every other result of an expression would be boxed too, at each packet. */
const NEVER_MS = 1 / 0;
const PATIENCE_MIN_MS = 20;
const PATIENCE_MAX_MS = 80;
/** On long paths, whose senders wait longer too, a share of the round trip. */
const PATIENCE_MAX_RTT_RATIO = 0.5;
const PATIENCE_LONG_MAX_MS = 160;
const PATIENCE_LIFE_MS = 3_000;

export class Path {
  /** Place in the set and slab offset of its name block, both for life. */
  readonly slot: number;
  readonly name: number;
  used = false;
  /** Our number of it on the wire, 1–65535. */
  id = 0;
  kind: PathKind = PathKind.DIRECT;
  state: PathState = PathState.UNTRIED;
  reason: PathReason = PathReason.CANDIDATE;
  /** Named by the control thread; `rank` is its place in that list. */
  candidate = false;
  rank = 0;
  /** Number of the attempt; answers to probes of an earlier one are late. */
  generation = 0;
  createdMs = 0;

  // Probing.
  nextProbeMs: number = Infinity;
  /** When the probe that waits for an answer is given up; Infinity = none waits. */
  answerDueMs: number = Infinity;
  /** Probes unanswered in a row, and failed attempts in a row. */
  misses = 0;
  attempts = 0;
  /** Answers still wanted before a failed path may be active again, and how often it failed lately. */
  probation = 0;
  failures = 0;
  failedMs: number = -Infinity;
  /** When data coming in on it while it was dead last made us ask it. */
  wokenMs: number = -Infinity;
  /** The peer has our id of this path (it answered a probe of this session), so it can report. */
  announced = false;

  // What we received on it.
  /** The peer's id of it, 0 = not learned yet. */
  remoteId = 0;
  highestEpoch = 0;
  highestCounter = 0;
  /** Of the run that came in last; a field, because as an argument it would be boxed. */
  arrivedCounter = 0;
  packets = 0;
  receivedBytes = 0;
  ceCount = 0;
  lastReceivedMs = -1;
  /** Probes, acks and reports of the run that received() is about to count. */
  controlPending = 0;
  reportDueMs: number = Infinity;
  peerTimestampUs = 0;
  peerTimestampAtMs = 0;

  // What we sent on it.
  lastSentMs = -1;
  /** Oldest data sent that no report covers, −1 = none. */
  unreportedSinceMs = -1;
  /** Allowance for late reports, 20–80 ms, on paths of more than 160 ms up to half the round trip and 160 ms. */
  patienceMs: number = PATIENCE_MIN_MS;
  patienceSinceMs = 0;
  /** Since when delivery is in doubt, −1 = it is not. */
  suspectSinceMs = -1;
  /** Last answer or report about it. */
  lastProvenMs = -1;
  /** Packets sent on other paths since its last report: they used up counters too. */
  elsewhere = 0;
  /** Counters below this were used before data came to this path: nothing can be said of them. */
  fromCounter = 0;
  /** A report that covers `fromCounter` has come, so the next can be held against it. */
  accounts = false;
  reportedPackets = -1;
  reportedCounter = -1;
  reportedAtMs = -1;
  echoUsedUs = 0;
  /** When heavy loss last had consequences. */
  lossActedMs: number = -Infinity;

  readonly rtt: RttEstimator = new RttEstimator();
  readonly loss: LossMeter = new LossMeter();
  readonly rate: RateEstimator = new RateEstimator();
  readonly mtu: PathMtu = new PathMtu();

  constructor(slot: number, name: number) {
    this.slot = slot;
    this.name = name;
  }

  /** Makes it a fresh path; the name block is the caller's to write. */
  reset(nowMs: number, id: number, limitBytes: number): void {
    this.used = true;
    this.id = id;
    this.kind = PathKind.DIRECT;
    this.state = PathState.UNTRIED;
    this.reason = PathReason.CANDIDATE;
    this.candidate = false;
    this.rank = 0;
    this.generation++;
    this.createdMs = nowMs;
    this.nextProbeMs = Infinity;
    this.answerDueMs = Infinity;
    this.misses = 0;
    this.attempts = 0;
    this.probation = 0;
    this.failures = 0;
    this.failedMs = -Infinity;
    this.wokenMs = -Infinity;
    this.announced = false;
    this.remoteId = 0;
    this.highestEpoch = 0;
    this.highestCounter = 0;
    this.arrivedCounter = 0;
    this.packets = 0;
    this.receivedBytes = 0;
    this.ceCount = 0;
    this.lastReceivedMs = -1;
    this.controlPending = 0;
    this.reportDueMs = Infinity;
    this.peerTimestampUs = 0;
    this.peerTimestampAtMs = 0;
    this.lastSentMs = -1;
    this.unreportedSinceMs = -1;
    this.suspectSinceMs = -1;
    this.lastProvenMs = -1;
    this.elsewhere = 0;
    this.fromCounter = 0;
    this.patienceMs = PATIENCE_MIN_MS;
    this.patienceSinceMs = nowMs;
    this.echoUsedUs = 0;
    this.lossActedMs = -Infinity;
    this.restartReports();
    this.rtt.reset();
    this.loss.reset();
    this.rate.reset();
    this.mtu.reset(limitBytes);
  }

  /** The next report is a new beginning: the peer may count from elsewhere, or other paths used the counters meanwhile. */
  restartReports(): void {
    this.reportedPackets = -1;
    this.reportedCounter = -1;
    this.reportedAtMs = -1;
    this.elsewhere = 0;
    this.accounts = false;
    this.loss.restart();
    this.rate.restart();
  }

  /** The peer's clock came with a message on this path; the next report echoes it. @param peerUs u32 that wraps */
  noteTimestamp(nowMs: number, peerUs: number): void {
    this.peerTimestampUs = peerUs;
    this.peerTimestampAtMs = nowMs;
  }

  /** May carry data by choice: proven, not in doubt, not on probation. */
  get eligible(): boolean {
    return this.used && this.state === PathState.ALIVE && this.probation === 0 && this.suspectSinceMs < 0;
  }

  /** Time between reports on this path, ms: clamp(RTT/4, 10, 50). */
  get reportIntervalMs(): number {
    const quarter = this.rtt.smoothedMs / 4;
    return quarter < 10 ? 10 : quarter > 50 ? 50 : quarter;
  }

  /** How long data may stay unreported before delivery is in doubt, ms; Infinity while the round trip is unknown. */
  get deliveryBoundMs(): number {
    const rttMs = this.rtt.smoothedMs;
    return rttMs < 0 || !this.announced ? NEVER_MS : rttMs + 2 * this.reportIntervalMs + this.patienceMs;
  }

  /**
   * The doubt was unfounded: an end that is short of processor time reports late. The allowance doubles, up to a bound that keeps a gap below
   * the shortest retransmission time-out of TCP, and halves again with every three quiet seconds.
   */
  falseAlarm(nowMs: number): void {
    const longMs = Math.min(PATIENCE_LONG_MAX_MS, this.rtt.smoothedMs * PATIENCE_MAX_RTT_RATIO);
    this.patienceMs = Math.min(Math.max(PATIENCE_MAX_MS, longMs), this.patienceMs * 2);
    this.patienceSinceMs = nowMs;
  }

  /** @see falseAlarm */
  calmDown(nowMs: number): void {
    if (this.patienceMs === PATIENCE_MIN_MS || nowMs - this.patienceSinceMs < PATIENCE_LIFE_MS) return;
    this.patienceMs = Math.max(PATIENCE_MIN_MS, this.patienceMs / 2);
    this.patienceSinceMs = nowMs;
  }
}

/** Events of a peer's paths since it was declared. */
export class PathCounters {
  probesSent = 0;
  /** Probes not sent because of the limit per second. */
  probesLimited = 0;
  probesAnswered = 0;
  /** Probes of the peer not answered because of the limit per second. */
  answersLimited = 0;
  acksReceived = 0;
  /** Answers to an earlier attempt, to a displaced probe, twice, or from another address. */
  acksLate = 0;
  reportsSent = 0;
  reportsReceived = 0;
  /** Reports older than one already seen, or about a path that is gone. */
  reportsStale = 0;
  /** Paths displaced by others, and addresses refused because none could be. */
  pathsEvicted = 0;
  pathsRefused = 0;
  /** Changes of the active path: the peer moved, delivery failed, a better one. */
  roams = 0;
  failovers = 0;
  upgrades = 0;
  /** Doubts about delivery that turned out wrong. */
  falseAlarms = 0;
  mtuHints = 0;
}
