/**
 * Delivery, not pongs: reports what the peer's data did on our side, reads its reports about ours, and moves traffic when data stays
 * unreported. Stages for the active path: trusted → in doubt after RTT + 2 intervals + 20 ms without a report, when data goes to the warm path
 * too → moved when the warm path reports or after one more interval; a report or an answer in between ends the doubt.
 * Source: docs/protocol.md, "Paths"; layout in wire/report.ts.
 */
import { Drop } from "../base/drop.ts";
import { InnerKind } from "../wire/data.ts";
import { decodeReport, encodeReport, Report, REPORT_BYTES } from "../wire/report.ts";
import type { Chooser } from "./chooser.ts";
import { type Path, PathReason, PathState } from "./path.ts";
import { PROBE_UPGRADING_MS, type PathSet, type PathSink, timestampUs } from "./path-set.ts";
import type { Prober } from "./prober.ts";

/** Reports overtake each other by less than this; a smaller count after it is a peer that counts anew. */
const REORDER_MS = 1_000;

export class Delivery {
  readonly #set: PathSet;
  readonly #chooser: Chooser;
  readonly #prober: Prober;
  readonly #report: Report = new Report();

  constructor(set: PathSet, chooser: Chooser, prober: Prober) {
    this.#set = set;
    this.#chooser = chooser;
    this.#prober = prober;
  }

  /** Data came in on this path: a report becomes due. Hot. */
  dataFrom(nowMs: number, path: Path): void {
    if (path.reportDueMs !== Infinity || path.remoteId === 0) return;
    path.reportDueMs = nowMs + path.reportIntervalMs;
    this.#set.wakeAt(path.reportDueMs);
  }

  /** Data went out on the active path (and its duplicate). Hot. */
  dataTo(nowMs: number, packets: number): void {
    const set = this.#set;
    for (const path of set.paths) {
      if (path.slot !== set.active && path.slot !== set.duplicate) {
        path.elsewhere += packets;
        continue;
      }
      path.lastSentMs = nowMs;
      if (path.unreportedSinceMs < 0) path.unreportedSinceMs = nowMs;
    }
    const path = set.paths[set.active];
    if (path.suspectSinceMs < 0) set.wakeAt(path.unreportedSinceMs + path.deliveryBoundMs);
  }

  /** Sends the report about a path that is due. */
  handleTimeout(nowMs: number, path: Path, sink: PathSink): void {
    if (nowMs < path.reportDueMs) return;
    path.reportDueMs = Infinity;
    if (path.remoteId === 0) return;
    const set = this.#set;
    const report = this.#report;
    report.pathId = path.remoteId;
    report.ceCount = path.ceCount;
    report.highestCounter = path.highestCounter;
    report.packets = path.packets;
    report.receivedBytes = path.receivedBytes;
    report.timestampUs = timestampUs(nowMs);
    report.echoUs = path.peerTimestampUs;
    report.holdUs = report.echoUs === 0 ? 0 : Math.floor((nowMs - path.peerTimestampAtMs) * 1000) >>> 0;
    const scratch = set.memory.scratch;
    encodeReport(set.view, scratch, report);
    // On the path it is about, at whose other end the peer evidently is; also on ours where that is another one, or on the warm one in doubt.
    if (set.emit(sink, InnerKind.REPORT, path, scratch, REPORT_BYTES)) set.counters.reportsSent++;
    let other = set.active === path.slot ? set.duplicate : set.active;
    if (other < 0 && set.active === path.slot && path.suspectSinceMs >= 0) other = this.#chooser.warm(path.slot);
    if (other < 0 || other === path.slot) return;
    if (set.emit(sink, InnerKind.REPORT, set.paths[other], scratch, REPORT_BYTES)) set.counters.reportsSent++;
  }

  /** What the peer received on one of our paths. @returns BAD_INNER, UNEXPECTED (stale), or NONE */
  handleReport(nowMs: number, name: number, payload: number, bytes: number): Drop {
    const set = this.#set;
    const report = this.#report;
    const malformed = decodeReport(set.view, payload, bytes, report);
    if (malformed !== Drop.NONE) return malformed;
    const arrival = set.find(name);
    if (arrival >= 0) {
      set.paths[arrival].controlPending++;
      set.paths[arrival].noteTimestamp(nowMs, report.timestampUs);
    }
    const slot = set.findId(report.pathId);
    if (slot < 0) {
      set.counters.reportsStale++;
      return Drop.UNEXPECTED;
    }
    const path = set.paths[slot];
    if (report.packets < path.reportedPackets) {
      if (nowMs - path.reportedAtMs < REORDER_MS) {
        set.counters.reportsStale++;
        return Drop.UNEXPECTED;
      }
      path.restartReports();
    }
    set.counters.reportsReceived++;
    if (arrival === slot && report.echoUs !== 0 && report.echoUs !== path.echoUsedUs) {
      path.echoUsedUs = report.echoUs;
      path.rtt.add(nowMs, ((timestampUs(nowMs) - report.echoUs - report.holdUs) >>> 0) / 1000);
    }
    if (report.packets > path.reportedPackets) this.#delivered(nowMs, path, report);
    return Drop.NONE;
  }

  #delivered(nowMs: number, path: Path, report: Report): void {
    const set = this.#set;
    const isActive = path.slot === set.active;
    if (isActive) this.#account(path, report);
    else path.elsewhere = 0;
    path.rate.add(nowMs, report.receivedBytes, report.timestampUs);
    path.reportedPackets = report.packets;
    path.reportedCounter = report.highestCounter;
    path.reportedAtMs = nowMs;
    // What was sent less than the shortest round trip ago cannot be covered by this report; the rest is taken as covered.
    const horizonMs = nowMs - Math.max(0, path.rtt.baselineMs);
    if (path.lastSentMs <= horizonMs) path.unreportedSinceMs = -1;
    else if (path.unreportedSinceMs < horizonMs) path.unreportedSinceMs = horizonMs;
    if (path.state !== PathState.ALIVE) return;
    path.misses = 0;
    path.lastProvenMs = nowMs;
    path.calmDown(nowMs);
    path.reason = PathReason.REPORTED;
    if (path.slot === set.duplicate) {
      // what was sent there before the doubt says nothing about the copies
      if (report.highestCounter >= path.fromCounter) this.#failOver(nowMs);
      return;
    }
    if (path.suspectSinceMs >= 0) {
      path.suspectSinceMs = -1;
      set.counters.falseAlarms++;
      path.falseAlarm(nowMs);
      if (isActive) this.#chooser.endDoubt();
    }
    if (isActive && path.loss.windowRatio > 0) this.#lossy(nowMs, path);
  }

  /**
   * Holds what arrived against the counters used up since the last report, less those that went elsewhere. What was sent elsewhere may have newer
   * counters than the report knows, so whatever of it explains nothing yet waits for the next one.
   */
  #account(path: Path, report: Report): void {
    if (report.highestCounter < path.fromCounter) return;
    const counters = report.highestCounter - path.reportedCounter;
    const packets = report.packets - path.reportedPackets;
    if (!path.accounts || counters < 0) {
      // The first that covers what was sent since data came here, or another epoch's: packets are held against counters within one epoch only.
      if (counters < 0) path.elsewhere = 0;
      path.accounts = true;
      return;
    }
    const explained = Math.min(path.elsewhere, Math.max(0, counters - packets));
    path.elsewhere -= explained;
    path.loss.add(counters - explained, packets);
  }

  /** Some is lost: perhaps it is only the large packets; with more than 30 % another path if one does better. */
  #lossy(nowMs: number, path: Path): void {
    const set = this.#set;
    path.mtu.suspect(nowMs, true);
    set.wakeAt(path.mtu.nextMs);
    if (!path.loss.failing) return;
    if (nowMs - path.lossActedMs < PROBE_UPGRADING_MS) return;
    path.lossActedMs = nowMs;
    path.mtu.suspect(nowMs);
    set.wakeAt(path.mtu.nextMs);
    const warm = this.#chooser.warm(path.slot);
    if (warm < 0 || set.paths[warm].loss.ratio >= path.loss.ratio) return;
    set.counters.failovers++;
    this.#chooser.activate(warm);
    set.fail(nowMs, path, PathReason.LOSSY);
  }

  /** Doubt, duplicate, move. */
  judge(nowMs: number, sink: PathSink): void {
    const set = this.#set;
    if (set.active < 0) return;
    if (set.duplicate >= 0) {
      if (nowMs >= this.#chooser.moveAtMs) this.#failOver(nowMs);
      return;
    }
    const path = set.paths[set.active];
    if (path.suspectSinceMs >= 0 || path.unreportedSinceMs < 0) return;
    if (nowMs < path.unreportedSinceMs + path.deliveryBoundMs) return;
    path.suspectSinceMs = nowMs;
    // it may be that only large packets are lost
    path.mtu.suspect(nowMs);
    set.wakeAt(path.mtu.nextMs);
    if (this.#prober.send(nowMs, path, 0, sink) >= 0) this.#prober.expectAnswer(nowMs, path);
    if (this.#chooser.standBy(nowMs)) return;
    // Nowhere to go yet: ask everything else at once.
    for (const other of set.paths) {
      if (other.used && other !== path && other.state !== PathState.ALIVE) set.probeAt(other, nowMs);
    }
  }

  /** When judge() has something to do; Infinity = nothing waits. */
  nextMs(): number {
    const set = this.#set;
    if (set.active < 0) return Infinity;
    if (set.duplicate >= 0) return this.#chooser.moveAtMs;
    const path = set.paths[set.active];
    if (path.suspectSinceMs >= 0 || path.unreportedSinceMs < 0) return Infinity;
    return path.unreportedSinceMs + path.deliveryBoundMs;
  }

  #failOver(nowMs: number): void {
    const set = this.#set;
    const old = set.paths[set.active];
    const suspectSinceMs = old.suspectSinceMs;
    set.counters.failovers++;
    this.#chooser.activate(set.duplicate);
    const { mtu } = set.paths[set.active];
    mtu.suspect(nowMs);
    set.wakeAt(mtu.nextMs);
    set.fail(nowMs, old, PathReason.UNDELIVERED);
    // A more direct one that works takes over again as soon as it answers.
    for (const other of set.paths) {
      if (other.eligible && other.kind < set.paths[set.active].kind) set.probeAt(other, nowMs);
    }
    // An answer to the question asked in the moment of doubt still clears it.
    old.suspectSinceMs = suspectSinceMs;
    set.probeAt(old, nowMs + PROBE_UPGRADING_MS);
  }
}
