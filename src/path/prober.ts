/**
 * Questions and answers: sends probes when they are due, answers the peer's, judges what comes back and what does not, and runs the PMTU
 * probes. Both directions are limited per second; paths that nobody has proven get only what the proven ones leave.
 * Source: docs/protocol.md, "Paths"; layouts in wire/probe.ts.
 */
import { Drop } from "../base/drop.ts";
import { NAME_PORT, NAME_REMOTE } from "../base/name.ts";
import { innerPayloadBytes, InnerKind } from "../wire/data.ts";
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
import { TokenBucket } from "./bucket.ts";
import type { Chooser } from "./chooser.ts";
import { type Path, PathReason, PathState } from "./path.ts";
import { type PathSet, type PathSink, timestampUs } from "./path-set.ts";
import { ProbeTable } from "./probe-table.ts";
import { PathKind } from "./select.ts";

const PROBES_PER_SECOND = 20;
const PROBES_BURST = 40;
const PROBES_RESERVED = 20;
/** What questions about sizes leave for those about life. */
const MTU_RESERVED = 6;
const ANSWERS_PER_SECOND = 60;
const ANSWERS_BURST = 80;
/** A probe was not sent: over its rate; refused by the kernel, or without a session. */
const LIMITED = -1;
const REFUSED = -2;
const MISSES_UNTIL_DEAD = 3;
const ANSWER_MIN_MS = 200;
const ANSWER_MAX_MS = 1_000;
const ANSWER_UNKNOWN_MS = 250;
const MTU_LIMITED_MS = 250;

export class Prober {
  /** Of the last answered probe: its number, round trip and path slot. */
  lastAckId = 0;
  lastAckRttMs = -1;
  lastAckPath = -1;
  readonly #set: PathSet;
  readonly #chooser: Chooser;
  readonly #waiting: ProbeTable;
  readonly #questions: TokenBucket = new TokenBucket(PROBES_PER_SECOND, PROBES_BURST);
  readonly #answers: TokenBucket = new TokenBucket(ANSWERS_PER_SECOND, ANSWERS_BURST);
  readonly #probe: Probe = new Probe();
  readonly #ack: ProbeAck = new ProbeAck();

  constructor(set: PathSet, chooser: Chooser) {
    this.#set = set;
    this.#chooser = chooser;
    this.#waiting = new ProbeTable(set.random);
  }

  /** Answers a probe through the path it came on. @returns BAD_INNER, RATE_LIMIT, NO_PATH or NONE */
  handleProbe(
    nowMs: number,
    name: number,
    payload: number,
    bytes: number,
    datagramBytes: number,
    sink: PathSink,
  ): Drop {
    const set = this.#set;
    const probe = this.#probe;
    const malformed = decodeProbe(set.view, payload, bytes, probe);
    if (malformed !== Drop.NONE) return malformed;
    const slot = set.findOrAdopt(nowMs, name);
    if (slot < 0) return Drop.NO_PATH;
    const path = set.paths[slot];
    path.controlPending++;
    path.lastReceivedMs = nowMs;
    path.remoteId = probe.pathId;
    path.noteTimestamp(nowMs, probe.timestampUs);
    const isSmaller = datagramBytes + set.outerBytes(path) < path.mtu.mtuBytes;
    if ((probe.flags & PROBE_FLAG_MTU) !== 0 && isSmaller && path.state === PathState.ALIVE) {
      // the peer looks for a size below the one sent from here: what is too large for its packets may be so for ours
      path.mtu.suspect(nowMs);
      set.wakeAt(path.mtu.nextMs);
    }
    if (!this.#answers.take(nowMs)) {
      set.counters.answersLimited++;
      return Drop.RATE_LIMIT;
    }
    set.stickSource(path.name, name);
    const { scratch, zeros } = set.memory;
    const isDirect = path.kind === PathKind.DIRECT;
    encodeProbeAck(
      set.view,
      scratch,
      probe,
      // where a virtual path comes from is our own affair
      isDirect ? path.name + NAME_REMOTE : zeros,
      isDirect ? set.view.getUint16(path.name + NAME_PORT, true) : 0,
      datagramBytes & 0xffff,
      timestampUs(nowMs),
    );
    if (set.emit(sink, InnerKind.PROBE_ACK, path, scratch, PROBE_ACK_BYTES)) set.counters.probesAnswered++;
    return Drop.NONE;
  }

  /**
   * The answer to one of our probes: proves the path it was sent on, if it came back on that path and belongs to the present attempt.
   * @returns BAD_INNER, UNEXPECTED (late, unknown or from elsewhere), or NONE with lastAck… set
   */
  handleProbeAck(nowMs: number, name: number, payload: number, bytes: number, sink: PathSink): Drop {
    const set = this.#set;
    const ack = this.#ack;
    const malformed = decodeProbeAck(set.view, payload, bytes, ack);
    if (malformed !== Drop.NONE) return malformed;
    const slot = set.find(name);
    if (slot >= 0) set.paths[slot].controlPending++;
    const entry = this.#waiting.take(ack.transactionLow, ack.transactionHigh);
    if (entry < 0 || slot < 0 || this.#waiting.slot(entry) !== slot) {
      set.counters.acksLate++;
      return Drop.UNEXPECTED;
    }
    const path = set.paths[slot];
    if (this.#waiting.generation(entry) !== path.generation || ack.pathId !== path.id) {
      set.counters.acksLate++;
      return Drop.UNEXPECTED;
    }
    set.counters.acksReceived++;
    const sentMs = this.#waiting.sentMs(entry);
    this.lastAckId = this.#waiting.id(entry);
    this.lastAckRttMs = nowMs - sentMs;
    this.lastAckPath = slot;
    path.lastReceivedMs = nowMs;
    path.announced = true;
    path.misses = 0;
    path.attempts = 0;
    const isSame = set.noteObserved(path, payload + PROBE_ACK_OBSERVED);
    if (set.keepsOpen && slot === set.active && !set.inUse(nowMs)) set.life.answered(isSame);
    path.noteTimestamp(nowMs, ack.timestampUs);
    const sizeBytes = this.#waiting.sizeBytes(entry);
    if (sizeBytes > 0) {
      // Truncated on the way or not: only what arrived whole has been shown to pass.
      if (ack.datagramBytes + set.outerBytes(path) === sizeBytes) path.mtu.answered(nowMs, sizeBytes);
    } else {
      path.rtt.add(nowMs, this.lastAckRttMs);
      path.loss.addProbe(true);
      path.answerDueMs = Infinity;
    }
    this.#rehabilitate(nowMs, path, sentMs);
    this.#runMtuInUse(nowMs, path, sink);
    return Drop.NONE;
  }

  /** What an answer means for a path's standing. @param sentMs when the question was asked */
  #rehabilitate(nowMs: number, path: Path, sentMs: number): void {
    const set = this.#set;
    const wasTrusted = path.state === PathState.ALIVE && path.probation === 0;
    if (path.suspectSinceMs >= 0 && sentMs >= path.suspectSinceMs) {
      // Asked in the moment of doubt or after it, and answered: a false alarm.
      set.counters.falseAlarms++;
      path.falseAlarm(nowMs);
      path.probation = 0;
      path.suspectSinceMs = -1;
      if (path.slot === set.active) {
        this.#chooser.endDoubt();
        path.unreportedSinceMs = -1;
      }
    } else if (path.probation > 0) path.probation--;
    // What it lost while it was failing has been atoned for.
    if (!wasTrusted && path.probation === 0) path.loss.reset();
    set.proven(nowMs, path, PathReason.ANSWERED);
    set.scheduleProbe(nowMs, path);
    this.#chooser.answered(path, wasTrusted);
    this.#chooser.choose(nowMs);
  }

  /** Everything of this path that time has made due. */
  handleTimeout(nowMs: number, path: Path, sink: PathSink): void {
    if (nowMs >= path.answerDueMs) this.#unanswered(nowMs, path);
    if (nowMs >= path.nextProbeMs) this.#due(nowMs, path, sink);
    if (path.state === PathState.ALIVE) this.#runMtuInUse(nowMs, path, sink);
  }

  #due(nowMs: number, path: Path, sink: PathSink): void {
    const set = this.#set;
    if (path.state === PathState.DEAD) {
      // A new attempt: what was asked before is late from now on.
      path.generation++;
      path.misses = 0;
      path.state = PathState.PROBING;
    } else if (path.state === PathState.UNTRIED) path.state = PathState.PROBING;
    set.scheduleProbe(nowMs, path);
    const sent = this.send(nowMs, path, 0, sink);
    // what this host's own firewall refuses is as lost as what is dropped on the way
    if (sent >= 0 || (sent === REFUSED && path.state === PathState.ALIVE)) this.expectAnswer(nowMs, path);
  }

  /** Starts the clock for an answer unless one is running. */
  expectAnswer(nowMs: number, path: Path): void {
    if (path.answerDueMs !== Infinity) return;
    const { smoothedMs, variationMs } = path.rtt;
    const waitMs =
      smoothedMs < 0
        ? Math.min(ANSWER_MAX_MS, ANSWER_UNKNOWN_MS * 2 ** path.misses)
        : Math.min(ANSWER_MAX_MS, Math.max(ANSWER_MIN_MS, 2 * smoothedMs + 4 * variationMs));
    path.answerDueMs = nowMs + waitMs;
    this.#set.wakeAt(path.answerDueMs);
  }

  /** @param sizeBytes underlay IP packet size for a PMTU probe, else 0 @returns the probe's number, or LIMITED or REFUSED when it was not sent */
  send(nowMs: number, path: Path, sizeBytes: number, sink: PathSink): number {
    const set = this.#set;
    const reserve = path.state !== PathState.ALIVE ? PROBES_RESERVED : sizeBytes > 0 ? MTU_RESERVED : 0;
    if (!this.#questions.take(nowMs, reserve)) {
      set.counters.probesLimited++;
      return LIMITED;
    }
    const entry = this.#waiting.add(nowMs, path.slot, path.generation, sizeBytes);
    const probe = this.#probe;
    probe.transactionLow = this.#waiting.low(entry);
    probe.transactionHigh = this.#waiting.high(entry);
    probe.timestampUs = timestampUs(nowMs);
    probe.pathId = path.id;
    probe.flags = sizeBytes > 0 ? PROBE_FLAG_MTU : 0;
    const bytes = sizeBytes > 0 ? innerPayloadBytes(sizeBytes, set.family(path)) : PROBE_MIN_BYTES;
    const scratch = set.memory.scratch;
    encodeProbe(set.u8, set.view, scratch, probe, bytes);
    if (!set.emit(sink, InnerKind.PROBE, path, scratch, bytes)) {
      this.#waiting.drop(entry);
      return REFUSED;
    }
    set.counters.probesSent++;
    return this.#waiting.id(entry);
  }

  #unanswered(nowMs: number, path: Path): void {
    const set = this.#set;
    path.answerDueMs = Infinity;
    path.loss.addProbe(false);
    path.misses++;
    // Data that the peer reports proves more than a lost probe disproves.
    const proven = path.state === PathState.ALIVE && path.suspectSinceMs < 0;
    if (proven && nowMs - path.lastProvenMs < ANSWER_MAX_MS) {
      path.misses = Math.min(path.misses, 1);
    }
    if (path.misses < MISSES_UNTIL_DEAD) {
      if (set.inUse(nowMs) || (set.keepsOpen && path.slot === set.active)) set.probeAt(path, nowMs);
      return;
    }
    set.fail(nowMs, path, PathReason.UNANSWERED);
    this.#chooser.choose(nowMs);
  }

  #runMtuInUse(nowMs: number, path: Path, sink: PathSink): void {
    const set = this.#set;
    if (!set.inUse(nowMs)) return;
    const active = set.active < 0 ? path : set.paths[set.active];
    if (path !== active && path.mtu.nextMs <= nowMs && active.mtu.isAsking && active.state === PathState.ALIVE) {
      // one after the other, the one in use first: together they would ask for more than the rate allows
      path.mtu.postpone(nowMs + MTU_LIMITED_MS);
      set.wakeAt(path.mtu.nextMs);
      return;
    }
    const before = path.mtu.mtuBytes;
    for (;;) {
      const size = path.mtu.poll(nowMs, path.rtt.smoothedMs);
      if (size === 0) break;
      const limited = set.counters.probesLimited;
      this.send(nowMs, path, size, sink);
      if (set.counters.probesLimited !== limited) {
        path.mtu.postpone(nowMs + MTU_LIMITED_MS);
        break;
      }
    }
    set.wakeAt(path.mtu.nextMs);
    if (path.mtu.mtuBytes < before && path.mtu.wasDoubted) set.shareNarrow(nowMs, path);
  }
}
