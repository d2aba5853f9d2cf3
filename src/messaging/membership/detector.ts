/**
 * Which neighbours do not answer any more: SWIM's probes with Lifeguard's time-outs.
 *
 *   every probeMs of silence   PING ──► ACK
 *   no ACK in T                PING again and PING_REQ to three others ──► ACK or NACK through them
 *   nothing in max(2 T, 3 s)   suspect: told to the others and, with further PINGs, to itself
 *   nothing until the end of the suspicion: dead
 *
 * T follows the neighbour's own round trip, srtt + max(4 rttvar, srtt), within 1–10 s, so that a slow path is not a dead one. The suspicion lasts between
 * clamp(5 T, 5 s, 60 s) and twice that: the more others confirm, the shorter. Both grow with this node's own health (0 good … 4, up to three times): it counts
 * up when answers are missing that somebody owed for sure, so a node that is slow itself accuses late. Whatever a neighbour sends is an answer.
 * A neighbour that only others reach, twice in a row, is of no use here: it is given up without an accusation.
 * Bound: one probe per neighbour, 64 probes on behalf of others. Source: docs/protocol.md, "Membership"; SWIM; Lifeguard.
 */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import { type OverlayFrame, OverlayType, PING_AS_NEIGHBOUR } from "./frames.ts";
import type { OverlayCounters } from "./types.ts";

const MIN_TIMEOUT_MS = 1000;
const MAX_TIMEOUT_MS = 10_000;
/** The round trip is not known yet. */
const FIRST_TIMEOUT_MS = 3000;
const MIN_INDIRECT_MS = 3000;
const MIN_SUSPICION_MS = 5000;
const MAX_SUSPICION_MS = 60_000;
const SUSPICION_SPREAD = 2;
/** Accusers beyond this node that make the suspicion shortest. */
const ENOUGH_ACCUSERS = 2;
const MAX_HEALTH = 4;
const MAX_FAVOURS = 64;
const NACK_SHARE = 0.8;
/** Time that passed unnoticed: the machine slept, and nobody is to blame. */
const SLEPT_MS = 15_000;

interface Probe {
  readonly sequence: number;
  readonly sentMs: number;
  dueMs: number;
  isIndirect: boolean;
  helpers: number;
  nacks: number;
}

interface Suspicion {
  readonly startMs: number;
  readonly minMs: number;
  readonly accusers: Set<string>;
  dueMs: number;
  pingAtMs: number;
}

/** One entry of the active view. */
export interface Neighbour {
  readonly nodeId: Uint8Array;
  readonly hex: string;
  readonly sinceMs: number;
  heardMs: number;
  probeAtMs: number;
  srttMs: number | undefined;
  rttVarMs: number;
  probe: Probe | undefined;
  suspicion: Suspicion | undefined;
  /** Rounds in a row that only others could answer for it. */
  indirectOnly: number;
}

/** A probe for another node. */
interface Favour {
  readonly requester: Uint8Array;
  readonly theirSequence: number;
  readonly targetHex: string;
  readonly nackAtMs: number;
  readonly dueMs: number;
  isNacked: boolean;
}

export interface DetectorHost {
  readonly random: Random;
  neighbours(): readonly Neighbour[];
  rttMs(nodeId: Uint8Array): number | undefined;
  /** Adds this node's incarnation and rumours. */
  ping(to: Uint8Array, flags: number, sequence: number): void;
  send(to: Uint8Array, frame: OverlayFrame): void;
  suspected(now: Now, neighbour: Neighbour): void;
  /** Takes it out of the active view. @param isDead false: others reach it */
  failed(now: Now, neighbour: Neighbour, isDead: boolean): void;
}

export interface DetectorOptions {
  readonly probeMs: number;
  readonly indirectProbes: number;
}

export class Detector {
  /** 0 good … 4. */
  health = 0;
  readonly #host: DetectorHost;
  readonly #options: DetectorOptions;
  readonly #counters: OverlayCounters;
  /** By this node's sequence. */
  readonly #favours = new Map<number, Favour>();
  #sequence: number;
  #plannedMs: number = Number.POSITIVE_INFINITY;

  constructor(host: DetectorHost, options: DetectorOptions, counters: OverlayCounters) {
    this.#host = host;
    this.#options = options;
    this.#counters = counters;
    this.#sequence = host.random.u32();
  }

  neighbour(now: Now, nodeId: Uint8Array): Neighbour {
    return {
      nodeId,
      hex: toHex(nodeId),
      sinceMs: now.nowMs,
      heardMs: now.nowMs,
      probeAtMs: this.#nextProbeMs(now),
      srttMs: undefined,
      rttVarMs: 0,
      probe: undefined,
      suspicion: undefined,
      indirectOnly: 0,
    };
  }

  nextSequence(): number {
    this.#sequence = (this.#sequence + 1) >>> 0;
    return this.#sequence;
  }

  /** The neighbour has sent something. */
  heard(now: Now, neighbour: Neighbour): void {
    neighbour.heardMs = now.nowMs;
    neighbour.probe = undefined;
    neighbour.suspicion = undefined;
    neighbour.indirectOnly = 0;
    neighbour.probeAtMs = this.#nextProbeMs(now);
  }

  /** Its session broke, or a frame for it was lost: ask now. */
  doubt(now: Now, neighbour: Neighbour): void {
    if (neighbour.probe === undefined && neighbour.suspicion === undefined) neighbour.probeAtMs = now.nowMs;
  }

  /** Somebody else misses it. */
  accused(now: Now, neighbour: Neighbour, accuserHex: string): void {
    const { suspicion } = neighbour;
    if (suspicion === undefined) {
      if (now.nowMs - neighbour.heardMs > this.timeoutMs(neighbour)) this.doubt(now, neighbour);
      return;
    }
    suspicion.accusers.add(accuserHex);
    suspicion.dueMs = this.#suspicionEndMs(suspicion);
  }

  /** An ACK; call before heard(). @param neighbour the sender, when it is one */
  handleAck(now: Now, neighbour: Neighbour | undefined, fromHex: string, sequence: number, incarnation: number): void {
    const favour = this.#favours.get(sequence);
    if (favour !== undefined && favour.targetHex === fromHex) {
      this.#favours.delete(sequence);
      this.#host.send(favour.requester, {
        type: OverlayType.ACK,
        sequence: favour.theirSequence,
        incarnation,
        rumours: [],
      });
      return;
    }
    if (neighbour?.probe?.sequence === sequence) {
      this.#sample(neighbour, now.nowMs - neighbour.probe.sentMs);
      this.health = Math.max(0, this.health - 1);
      return;
    }
    // from a helper: the target lives, though not for this node
    const target = this.#host
      .neighbours()
      .find((other) => other.probe?.sequence === sequence && other.probe.isIndirect && other.hex !== fromHex);
    if (target === undefined) return;
    target.probe = undefined;
    target.probeAtMs = this.#nextProbeMs(now);
    target.indirectOnly++;
    if (target.indirectOnly >= 2) this.#host.failed(now, target, false);
  }

  handleNack(sequence: number): void {
    for (const neighbour of this.#host.neighbours()) {
      if (neighbour.probe?.sequence === sequence) neighbour.probe.nacks++;
    }
  }

  /** Somebody asks for a probe of `target`. */
  handleRequest(now: Now, requester: Uint8Array, theirSequence: number, target: Uint8Array): void {
    if (this.#favours.size >= MAX_FAVOURS) return;
    const sequence = this.nextSequence();
    const rttMs = this.#host.rttMs(target);
    const timeoutMs = Math.max(MIN_INDIRECT_MS, rttMs === undefined ? FIRST_TIMEOUT_MS : 2 * rttMs);
    this.#favours.set(sequence, {
      requester,
      theirSequence,
      targetHex: toHex(target),
      nackAtMs: now.nowMs + timeoutMs * NACK_SHARE,
      dueMs: now.nowMs + 2 * timeoutMs,
      isNacked: false,
    });
    this.#counters.indirectProbes++;
    this.#host.ping(target, 0, sequence);
  }

  timeoutMs(neighbour: Neighbour): number {
    return this.#plainTimeoutMs(neighbour) * (1 + this.health / 2);
  }

  /** As its round trip alone suggests. */
  #plainTimeoutMs(neighbour: Neighbour): number {
    let base = FIRST_TIMEOUT_MS;
    if (neighbour.srttMs !== undefined) base = neighbour.srttMs + Math.max(4 * neighbour.rttVarMs, neighbour.srttMs);
    else {
      const rttMs = this.#host.rttMs(neighbour.nodeId);
      if (rttMs !== undefined) base = Math.max(FIRST_TIMEOUT_MS, 3 * rttMs);
    }
    return Math.min(MAX_TIMEOUT_MS, Math.max(MIN_TIMEOUT_MS, base));
  }

  handleTimeout(now: Now): void {
    if (now.nowMs - this.#plannedMs > SLEPT_MS) this.#wake(now);
    for (const [sequence, favour] of this.#favours) {
      if (now.nowMs >= favour.dueMs) this.#favours.delete(sequence);
      else if (!favour.isNacked && now.nowMs >= favour.nackAtMs) {
        favour.isNacked = true;
        this.#host.send(favour.requester, { type: OverlayType.NACK, sequence: favour.theirSequence });
      }
    }
    // a copy: failed() takes entries out
    for (const neighbour of this.#host.neighbours().slice()) {
      if (neighbour.suspicion !== undefined) this.#pursue(now, neighbour, neighbour.suspicion);
      else if (neighbour.probe !== undefined) {
        if (now.nowMs >= neighbour.probe.dueMs) this.#escalate(now, neighbour, neighbour.probe);
      } else if (now.nowMs >= neighbour.probeAtMs) this.#probe(now, neighbour);
    }
  }

  /** Call after every input: how late handleTimeout() then comes tells whether the machine slept. */
  nextTimeoutMs(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const { suspicion, probe, probeAtMs } of this.#host.neighbours()) {
      if (suspicion !== undefined) next = Math.min(next, suspicion.dueMs, suspicion.pingAtMs);
      else next = Math.min(next, probe?.dueMs ?? probeAtMs);
    }
    for (const favour of this.#favours.values())
      next = Math.min(next, favour.isNacked ? favour.dueMs : favour.nackAtMs);
    this.#plannedMs = next;
    return next;
  }

  #probe(now: Now, neighbour: Neighbour): void {
    const sequence = this.nextSequence();
    neighbour.probe = {
      sequence,
      sentMs: now.nowMs,
      dueMs: now.nowMs + this.timeoutMs(neighbour),
      isIndirect: false,
      helpers: 0,
      nacks: 0,
    };
    this.#counters.probes++;
    this.#host.ping(neighbour.nodeId, PING_AS_NEIGHBOUR, sequence);
  }

  #escalate(now: Now, neighbour: Neighbour, probe: Probe): void {
    if (probe.isIndirect) {
      this.#counters.probesFailed++;
      // the helpers owed an answer of some kind: those that are missing are this node's own trouble
      const missing = probe.helpers - probe.nacks;
      if (missing > 0) this.health = Math.min(MAX_HEALTH, this.health + 1);
      neighbour.probe = undefined;
      this.#suspect(now, neighbour);
      return;
    }
    probe.isIndirect = true;
    probe.dueMs = now.nowMs + Math.max(MIN_INDIRECT_MS, 2 * this.timeoutMs(neighbour));
    const others = this.#host.neighbours().filter((other) => other !== neighbour && other.suspicion === undefined);
    for (let i = 0; i < this.#options.indirectProbes && others.length > 0; i++) {
      const [helper] = others.splice(this.#host.random.u32() % others.length, 1);
      probe.helpers++;
      this.#host.send(helper.nodeId, {
        type: OverlayType.PING_REQ,
        sequence: probe.sequence,
        target: neighbour.nodeId,
      });
    }
    this.#host.ping(neighbour.nodeId, PING_AS_NEIGHBOUR, this.nextSequence());
  }

  #suspect(now: Now, neighbour: Neighbour): void {
    const plainMs = 5 * this.#plainTimeoutMs(neighbour);
    const minMs = Math.min(MAX_SUSPICION_MS, Math.max(MIN_SUSPICION_MS, plainMs)) * (1 + this.health / 2);
    const suspicion: Suspicion = { startMs: now.nowMs, minMs, accusers: new Set(), dueMs: 0, pingAtMs: now.nowMs };
    suspicion.dueMs = this.#suspicionEndMs(suspicion);
    neighbour.suspicion = suspicion;
    this.#counters.suspicions++;
    this.#host.suspected(now, neighbour);
    this.#pursue(now, neighbour, suspicion);
  }

  #pursue(now: Now, neighbour: Neighbour, suspicion: Suspicion): void {
    if (now.nowMs >= suspicion.dueMs) {
      this.#counters.deaths++;
      this.#host.failed(now, neighbour, true);
    } else if (now.nowMs >= suspicion.pingAtMs) {
      suspicion.pingAtMs = now.nowMs + Math.max(MIN_TIMEOUT_MS, this.timeoutMs(neighbour));
      this.#host.ping(neighbour.nodeId, PING_AS_NEIGHBOUR, this.nextSequence());
    }
  }

  /** Lifeguard: from the longest towards the shortest with the logarithm of the confirmations. With nobody else to ask it is the shortest. */
  #suspicionEndMs(suspicion: Suspicion): number {
    const { startMs, minMs, accusers } = suspicion;
    const possible = Math.min(ENOUGH_ACCUSERS, this.#host.neighbours().length - 1);
    if (possible <= 0) return startMs + minMs;
    const share = Math.log(Math.min(accusers.size, possible) + 1) / Math.log(possible + 1);
    return startMs + minMs * (SUSPICION_SPREAD - (SUSPICION_SPREAD - 1) * share);
  }

  /** RFC 6298 section 2. */
  #sample(neighbour: Neighbour, rttMs: number): void {
    if (neighbour.srttMs === undefined) {
      neighbour.srttMs = rttMs;
      neighbour.rttVarMs = rttMs / 2;
      return;
    }
    neighbour.rttVarMs = 0.75 * neighbour.rttVarMs + 0.25 * Math.abs(neighbour.srttMs - rttMs);
    neighbour.srttMs = 0.875 * neighbour.srttMs + 0.125 * rttMs;
  }

  #nextProbeMs(now: Now): number {
    return now.nowMs + this.#options.probeMs * (0.9 + 0.2 * this.#host.random.unit());
  }

  #wake(now: Now): void {
    for (const neighbour of this.#host.neighbours()) {
      neighbour.probe = undefined;
      neighbour.suspicion = undefined;
      neighbour.probeAtMs = now.nowMs + MIN_TIMEOUT_MS * this.#host.random.unit();
    }
    this.#favours.clear();
  }
}
