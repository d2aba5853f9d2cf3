/**
 * What this node believes of the others, and the rumours that say so: SWIM's dissemination, riding on pings and their answers.
 *
 * Only the node itself raises its incarnation (wall-clock milliseconds at its start, one more with every refutation), and everything said is signed by who
 * says it. A belief is hearsay: one accuser makes a suspect, the word DEAD of two different ones a dead one, and what comes from the node itself makes it
 * alive again. A suspicion is passed on by neighbours of the suspect alone. Neighbours are judged by the detector alone; for them an accusation is a reason to ask.
 * Bounds: 4,096 beliefs (least recently changed out first), 64 rumours under way (most often sent out first), two accusers of a kind passed on per
 * incarnation, one word a second of each signer (burst 20; only words whose signature holds count), 50 signatures a second, 20 of what one peer delivers;
 * one that delivered 16 bad ones is cut off for a minute. Source: docs/protocol.md, "Membership".
 */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import { CheckBudget } from "../check-budget.ts";
import { SenderRates } from "../sender-rates.ts";
import { MAX_RUMOURS, type Rumour, rumourBody, RumourKind } from "./frames.ts";
import { Liveness, type OverlayCounters, type Signing } from "./types.ts";

const MAX_BELIEFS = 4096;
const MAX_QUEUED = 64;
/** Accusers of one kind that are remembered and passed on, per node and incarnation. */
const MAX_ACCUSERS = 2;
/** Longer than a partition that should heal: who was believed lost in it objects, and all hear that. */
const FORGET_MS = 1_800_000;
/** An incarnation further ahead of the clock is nobody's. */
const MAX_AHEAD_MS = 86_400_000;
const ACCUSATIONS_PER_SECOND = 1;
const ACCUSATIONS_BURST = 20;
const CHECKS = { perSecond: 50, burst: 50, peerPerSecond: 20, peerBurst: 20 } as const;

export interface GossipHost {
  readonly signing: Signing;
  readonly random: Random;
  isMember(nodeId: Uint8Array): boolean;
  memberCount(): number;
  isNeighbour(hex: string): boolean;
  /** Somebody else says that this neighbour does not answer. */
  accused(now: Now, hex: string, accuserHex: string): void;
  /** A neighbour has said that it goes. */
  left(now: Now, hex: string): void;
  changed(nodeId: Uint8Array, liveness: Liveness): void;
}

interface Belief {
  readonly nodeId: Uint8Array;
  liveness: Liveness;
  incarnation: number;
  /** Of the last refutation that was passed on; the incarnation itself may have come in a frame before. */
  refutation: number;
  atMs: number;
  readonly suspecters: string[];
  readonly buriers: string[];
  /** Told to the node itself when it is heard, so that it can object. */
  accusation: Rumour | undefined;
}

interface Queued {
  readonly nodeHex: string;
  readonly key: string;
  readonly rumour: Rumour;
  sent: number;
}

export class Gossip {
  /** This node's own. */
  incarnation = 0;
  readonly #host: GossipHost;
  readonly #counters: OverlayCounters;
  readonly #selfHex: string;
  /** In order of their last change, the latest last. */
  readonly #beliefs = new Map<string, Belief>();
  readonly #queue: Queued[] = [];
  readonly #accuserRates = new SenderRates(ACCUSATIONS_PER_SECOND, ACCUSATIONS_BURST);
  readonly #checks = new CheckBudget(CHECKS);

  constructor(host: GossipHost, counters: OverlayCounters) {
    this.#host = host;
    this.#counters = counters;
    this.#selfHex = toHex(host.signing.nodeId);
  }

  start(now: Now): void {
    this.incarnation = Math.max(this.incarnation + 1, Math.floor(now.wallMs));
  }

  liveness(hex: string): Liveness {
    return this.#beliefs.get(hex)?.liveness ?? Liveness.UNKNOWN;
  }

  /** Something came from the node itself. @param incarnation 0: the frame did not say */
  heard(now: Now, nodeId: Uint8Array, hex: string, incarnation: number): void {
    const belief = this.#belief(now, nodeId, hex);
    const isNewer = incarnation > belief.incarnation && incarnation <= now.wallMs + MAX_AHEAD_MS;
    if (isNewer) renew(belief, incarnation);
    // what left and is still heard at the same incarnation is a straggler
    if (belief.liveness === Liveness.LEFT && !isNewer) return;
    this.#set(now, belief, hex, Liveness.ALIVE);
  }

  /** This node's own observation of a neighbour; told to the others. */
  accuse(now: Now, kind: typeof RumourKind.SUSPECT | typeof RumourKind.DEAD, nodeId: Uint8Array, hex: string): void {
    const belief = this.#belief(now, nodeId, hex);
    const rumour = this.#signed(kind, nodeId, belief.incarnation);
    belief.accusation = rumour;
    this.#set(now, belief, hex, kind === RumourKind.DEAD ? Liveness.DEAD : Liveness.SUSPECT);
    if (kind === RumourKind.DEAD) this.#unqueue(hex, RumourKind.SUSPECT);
    this.#enqueue(hex, rumour);
  }

  /** Forgets what is said of a node; it is no member any more. */
  forget(hex: string): void {
    this.#beliefs.delete(hex);
    this.#unqueue(hex);
  }

  /** Forgets what is long past. */
  expire(now: Now): void {
    for (const [hex, belief] of this.#beliefs) {
      if (belief.liveness === Liveness.ALIVE || now.nowMs - belief.atMs < FORGET_MS) continue;
      this.#beliefs.delete(hex);
      this.#host.changed(belief.nodeId, Liveness.UNKNOWN);
    }
  }

  /** This node's good-bye. */
  farewell(): Rumour {
    return this.#signed(RumourKind.LEFT, this.#host.signing.nodeId, this.incarnation);
  }

  /** A node believed dead or suspect, at random among the first 64 of them; undefined: there is none. */
  randomLost(): Uint8Array | undefined {
    const lost: Uint8Array[] = [];
    for (const belief of this.#beliefs.values()) {
      if (belief.liveness === Liveness.DEAD || belief.liveness === Liveness.SUSPECT) lost.push(belief.nodeId);
      if (lost.length === 64) break;
    }
    return lost.length === 0 ? undefined : lost[this.#host.random.u32() % lost.length];
  }

  /** Rumours for the next frame to that node: what it should object to first, then those sent least often. */
  pick(toNodeHex: string): Rumour[] {
    const out: Rumour[] = [];
    const accusation = this.#beliefs.get(toNodeHex)?.accusation;
    if (accusation !== undefined) out.push(accusation);
    if (this.#queue.length === 0) return out;
    this.#queue.sort((a, b) => a.sent - b.sent);
    for (const queued of this.#queue) {
      if (out.length === MAX_RUMOURS) break;
      if (queued.rumour === accusation) continue;
      queued.sent++;
      out.push(queued.rumour);
    }
    const limit = this.#sendLimit();
    for (let i = this.#queue.length - 1; i >= 0; i--) if (this.#queue[i].sent >= limit) this.#queue.splice(i, 1);
    return out;
  }

  /** @param fromHex who delivered them, not who signed them */
  take(now: Now, fromHex: string, rumours: readonly Rumour[]): void {
    for (const rumour of rumours) this.#takeOne(now, fromHex, rumour);
  }

  #takeOne(now: Now, fromHex: string, rumour: Rumour): void {
    const { kind, node, incarnation } = rumour;
    if (incarnation > now.wallMs + MAX_AHEAD_MS || !this.#host.isMember(node)) return;
    const hex = toHex(node);
    if (hex === this.#selfHex) {
      if (kind !== RumourKind.ALIVE && incarnation >= this.incarnation && this.#holds(now, fromHex, rumour))
        this.#object(now, incarnation);
      return;
    }
    const belief = this.#beliefs.get(hex);
    if (kind === RumourKind.ALIVE) {
      // it is only said to refute, so it goes to all who may have heard the accusation
      if (belief !== undefined && (incarnation < belief.incarnation || incarnation <= belief.refutation)) return;
      if (!this.#holds(now, fromHex, rumour) || !this.#accuserRates.take(now.nowMs, hex)) return;
      const refuted = this.#belief(now, node, hex);
      if (incarnation > refuted.incarnation) renew(refuted, incarnation);
      refuted.refutation = incarnation;
      this.#set(now, refuted, hex, Liveness.ALIVE);
      this.#unqueue(hex);
      this.#enqueue(hex, rumour);
    } else if (kind === RumourKind.LEFT) {
      if (belief !== undefined && (incarnation < belief.incarnation || belief.liveness === Liveness.LEFT)) return;
      if (!this.#holds(now, fromHex, rumour) || !this.#accuserRates.take(now.nowMs, hex)) return;
      const gone = this.#belief(now, node, hex);
      renew(gone, incarnation);
      this.#set(now, gone, hex, Liveness.LEFT);
      this.#unqueue(hex);
      this.#enqueue(hex, rumour);
      if (this.#host.isNeighbour(hex)) this.#host.left(now, hex);
    } else this.#takeAccusation(now, fromHex, rumour, hex, belief);
  }

  #takeAccusation(now: Now, fromHex: string, rumour: Rumour, hex: string, known: Belief | undefined): void {
    const { kind, node, incarnation, accuser } = rumour;
    const accuserHex = toHex(accuser);
    if (accuserHex === this.#selfHex || accuserHex === hex || !this.#host.isMember(accuser)) return;
    if (known !== undefined) {
      if (incarnation < known.incarnation) return;
      if (incarnation === known.incarnation) {
        const accusers = kind === RumourKind.DEAD ? known.buriers : known.suspecters;
        if (known.liveness === Liveness.LEFT || accusers.includes(accuserHex) || accusers.length >= MAX_ACCUSERS)
          return;
      }
    }
    if (!this.#holds(now, fromHex, rumour) || !this.#accuserRates.take(now.nowMs, accuserHex)) return;
    const belief = this.#belief(now, node, hex);
    if (incarnation > belief.incarnation) renew(belief, incarnation);
    (kind === RumourKind.DEAD ? belief.buriers : belief.suspecters).push(accuserHex);
    belief.accusation = rumour;
    const isNeighbour = this.#host.isNeighbour(hex);
    // a suspicion concerns those who can confirm it; that somebody is dead concerns all
    if (isNeighbour || kind === RumourKind.DEAD) this.#enqueue(hex, rumour);
    if (isNeighbour) this.#host.accused(now, hex, accuserHex);
    else if (belief.buriers.length >= MAX_ACCUSERS) this.#set(now, belief, hex, Liveness.DEAD);
    else if (belief.liveness !== Liveness.DEAD) this.#set(now, belief, hex, Liveness.SUSPECT);
  }

  /** Somebody believes this node dead. */
  #object(now: Now, incarnation: number): void {
    this.incarnation = Math.max(incarnation + 1, Math.floor(now.wallMs));
    this.#counters.refutations++;
    this.#unqueue(this.#selfHex);
    this.#enqueue(this.#selfHex, this.#signed(RumourKind.ALIVE, this.#host.signing.nodeId, this.incarnation));
  }

  #signed(kind: RumourKind, node: Uint8Array, incarnation: number): Rumour {
    const { signing } = this.#host;
    const { purpose, body } = rumourBody({ kind, node, incarnation });
    return { kind, node, incarnation, accuser: signing.nodeId, signature: signing.sign(purpose, body) };
  }

  #holds(now: Now, fromHex: string, rumour: Rumour): boolean {
    if (!this.#checks.take(now.nowMs, fromHex)) {
      this.#counters.rumoursDropped++;
      return false;
    }
    const { purpose, body } = rumourBody(rumour);
    if (this.#host.signing.verify(rumour.accuser, purpose, body, rumour.signature)) return true;
    this.#counters.signaturesRefused++;
    if (this.#checks.failed(now.nowMs, fromHex)) this.#counters.peersCutOff++;
    return false;
  }

  #belief(now: Now, nodeId: Uint8Array, hex: string): Belief {
    let belief = this.#beliefs.get(hex);
    if (belief !== undefined) return belief;
    belief = {
      nodeId,
      liveness: Liveness.UNKNOWN,
      incarnation: 0,
      refutation: 0,
      atMs: now.nowMs,
      suspecters: [],
      buriers: [],
      accusation: undefined,
    };
    this.#beliefs.set(hex, belief);
    if (this.#beliefs.size > MAX_BELIEFS) {
      for (const [oldest] of this.#beliefs) {
        if (this.#host.isNeighbour(oldest) || oldest === hex) continue;
        this.#beliefs.delete(oldest);
        this.#counters.beliefsEvicted++;
        break;
      }
    }
    return belief;
  }

  #set(now: Now, belief: Belief, hex: string, liveness: Liveness): void {
    belief.atMs = now.nowMs;
    if (belief.liveness === liveness) return;
    belief.liveness = liveness;
    this.#beliefs.delete(hex);
    this.#beliefs.set(hex, belief);
    this.#host.changed(belief.nodeId, liveness);
  }

  #enqueue(nodeHex: string, rumour: Rumour): void {
    const key = `${nodeHex}/${rumour.kind}/${toHex(rumour.accuser)}`;
    const at = this.#queue.findIndex((queued) => queued.key === key);
    if (at >= 0) this.#queue.splice(at, 1);
    if (this.#queue.length >= MAX_QUEUED) {
      this.#queue.sort((a, b) => a.sent - b.sent);
      this.#queue.pop();
      this.#counters.rumoursDropped++;
    }
    this.#queue.push({ nodeHex, key, rumour, sent: 0 });
  }

  #unqueue(nodeHex: string, kind?: RumourKind): void {
    for (let i = this.#queue.length - 1; i >= 0; i--) {
      const { nodeHex: about, rumour } = this.#queue[i];
      if (about === nodeHex && (kind === undefined || rumour.kind === kind)) this.#queue.splice(i, 1);
    }
  }

  /** So many frames of each node carry a rumour: ⌈log₂(N + 1)⌉, enough that all hear it with high probability. */
  #sendLimit(): number {
    return Math.min(14, Math.max(4, Math.ceil(Math.log2(this.#host.memberCount() + 1))));
  }
}

function renew(belief: Belief, incarnation: number): void {
  belief.incarnation = incarnation;
  belief.suspecters.length = 0;
  belief.buriers.length = 0;
  belief.accusation = undefined;
}
