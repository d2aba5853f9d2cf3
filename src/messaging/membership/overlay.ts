/**
 * The membership overlay: HyParView over the roster, with the detector and the gossip beside it. Sans-I/O: frames and time are arguments, outputs are
 * polled.
 *
 *   JOIN ──► contact ──► FORWARD_JOIN, six random steps ──► NEIGHBOUR ──► the new node      (in passive views at the third step)
 *   neighbour lost ──► a passive entry ──► NEIGHBOUR ──► NEIGHBOUR_REPLY
 *   every 30 s      SHUFFLE, six random steps ──► SHUFFLE_REPLY
 *   every 60 s      PING to a member that is no neighbour, half of the time one believed lost; if that answers, it becomes a neighbour, and so does any that
 *                   answers every fifth time: so parts of the network that have lost each other, or do not even miss each other, grow together
 *
 * The active view is symmetric: who takes a neighbour in says so, who puts one out says so, and a PING "as your neighbour" from a node that is none
 * repairs what got lost. Who has fewer than half of its neighbours is not refused: a random neighbour goes for it, and is told.
 * Nobody's word about a third node opens or closes a connection: at the end of a walk the new node itself decides.
 * Bounds: active ≤ 12, passive ≤ 96, 4 open questions, 4,096 sessions remembered, 20 frames a second per sender (burst 60), a JOIN in 5 s per sender,
 * one forced eviction a second (burst 10), 2 probes for others a second per sender.
 * Source: docs/protocol.md, "Membership".
 */
import type { Now } from "../../base/clock.ts";
import { toHex } from "../../base/bytes.ts";
import { SenderRates } from "../sender-rates.ts";
import { Detector, type Neighbour } from "./detector.ts";
import {
  decodeOverlay,
  Disconnect,
  encodeOverlay,
  NeighbourFlag,
  type OverlayFrame,
  OverlayType,
  PING_AS_NEIGHBOUR,
  REPLY_ACCEPTED,
  RumourKind,
} from "./frames.ts";
import { Gossip } from "./gossip.ts";
import {
  activeViewSize,
  DownReason,
  Liveness,
  newOverlayCounters,
  type OverlayCounters,
  type OverlayDeps,
  type OverlayOptions,
  type OverlayOutput,
  type OverlayView,
  PASSIVE_FACTOR,
} from "./types.ts";
import { PassiveView } from "./views.ts";

const SHUFFLE_ACTIVE = 3;
const SHUFFLE_PASSIVE = 4;
const REPLY_NODES = 4;
const MAX_PENDING = 4;
const PENDING_MS = 6000;
const FILL_MS = 500;
const MAX_FILL_MS = 30_000;
const REACH_MS = 60_000;
const EXPIRE_MS = 60_000;
const MIX_EVERY = 5;
const MAX_CONNECTED = 4096;
/** A node that joined this recently takes the neighbours at the ends of its walks. */
const JOINING_MS = 30_000;
const MAX_OUTPUTS = 4096;

interface Pending {
  readonly dueMs: number;
  /** Its yes is worth the place of another neighbour. */
  readonly isForced: boolean;
}

export class Overlay implements OverlayView {
  readonly counters: OverlayCounters = newOverlayCounters();
  readonly #deps: OverlayDeps;
  readonly #options: Required<Omit<OverlayOptions, "activeSize">> & { readonly activeSize: number | undefined };
  readonly #selfHex: string;
  readonly #detector: Detector;
  readonly #gossip: Gossip;
  readonly #active: Neighbour[] = [];
  readonly #activeByHex = new Map<string, Neighbour>();
  readonly #passive: PassiveView;
  /** Asked to be neighbours. */
  readonly #pending = new Map<string, Pending>();
  /** Peers with a session: they answer fastest. */
  readonly #connected = new Map<string, Uint8Array>();
  /** What the last shuffle sent away. */
  #sent = new Set<string>();
  readonly #rates = new SenderRates(20, 60);
  readonly #joinRates = new SenderRates(0.2, 3);
  readonly #favourRates = new SenderRates(2, 6);
  readonly #evictRate = new SenderRates(1, 10, 1);
  readonly #mergeRate = new SenderRates(0.1, 2, 1);
  #outputs: OverlayOutput[] = [];
  #outputAt = 0;
  #isRunning = false;
  #joinedMs: number = Number.NEGATIVE_INFINITY;
  #fillAtMs: number = Number.POSITIVE_INFINITY;
  #fillFailures = 0;
  #shuffleAtMs: number = Number.POSITIVE_INFINITY;
  #reachAtMs: number = Number.POSITIVE_INFINITY;
  #reaches = 0;
  /** Becomes a neighbour if it answers. */
  #mixing: string | undefined;
  #expireAtMs: number = Number.POSITIVE_INFINITY;

  constructor(deps: OverlayDeps, options: OverlayOptions = {}) {
    this.#deps = deps;
    this.#options = {
      shuffleMs: options.shuffleMs ?? 30_000,
      probeMs: options.probeMs ?? 10_000,
      activeWalk: options.activeWalk ?? 6,
      passiveWalk: options.passiveWalk ?? 3,
      indirectProbes: options.indirectProbes ?? 3,
      activeSize: options.activeSize,
    };
    this.#selfHex = toHex(deps.signing.nodeId);
    this.#passive = new PassiveView(deps.random);
    this.#gossip = new Gossip(
      {
        signing: deps.signing,
        random: deps.random,
        isMember: (nodeId) => deps.isMember(nodeId),
        memberCount: () => deps.memberCount(),
        isNeighbour: (hex) => this.#activeByHex.has(hex),
        accused: (now, hex, accuserHex) => {
          const neighbour = this.#activeByHex.get(hex);
          if (neighbour !== undefined) this.#detector.accused(now, neighbour, accuserHex);
        },
        left: (now, hex) => this.#drop(now, hex, DownReason.LEFT),
        changed: (nodeId, liveness) => this.#changed(nodeId, liveness),
      },
      this.counters,
    );
    this.#detector = new Detector(
      {
        random: deps.random,
        neighbours: () => this.#active,
        rttMs: (nodeId) => deps.rttMs(nodeId),
        ping: (to, flags, sequence) => this.#ping(to, flags, sequence),
        send: (to, frame) => this.#send(to, frame),
        suspected: (now, { nodeId, hex }) => this.#gossip.accuse(now, RumourKind.SUSPECT, nodeId, hex),
        failed: (now, { nodeId, hex }, isDead) => {
          if (isDead) this.#gossip.accuse(now, RumourKind.DEAD, nodeId, hex);
          else this.#disconnect(nodeId, Disconnect.ROOM);
          this.#drop(now, hex, DownReason.FAILED);
        },
      },
      { probeMs: this.#options.probeMs, indirectProbes: this.#options.indirectProbes },
      this.counters,
    );
  }

  start(now: Now): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.#gossip.start(now);
    this.#fillAtMs = now.nowMs;
    this.#shuffleAtMs = this.#jittered(now, this.#options.shuffleMs);
    this.#reachAtMs = this.#jittered(now, REACH_MS);
    this.#expireAtMs = now.nowMs + EXPIRE_MS;
  }

  /** Says good-bye to the neighbours; nothing is done after that until start(). */
  leave(now: Now): void {
    if (!this.#isRunning) return;
    for (const { nodeId } of this.#active) this.#disconnect(nodeId, Disconnect.LEAVING);
    for (const { hex } of this.#active.slice()) this.#drop(now, hex, DownReason.LEFT);
    this.#isRunning = false;
    this.#fillAtMs = this.#shuffleAtMs = this.#reachAtMs = this.#expireAtMs = Number.POSITIVE_INFINITY;
    this.#pending.clear();
  }

  active(): readonly Uint8Array[] {
    return this.#active.map((neighbour) => neighbour.nodeId);
  }

  passive(): readonly Uint8Array[] {
    return this.#passive.nodes();
  }

  liveness(nodeId: Uint8Array): Liveness {
    return this.#gossip.liveness(toHex(nodeId));
  }

  /** Lifeguard's own health, 0 good … 4. */
  get health(): number {
    return this.#detector.health;
  }

  /** The roster has changed: who is no member any more goes, and there may be new room. */
  membersChanged(now: Now): void {
    for (const { nodeId, hex } of this.#active.slice()) {
      if (this.#deps.isMember(nodeId)) continue;
      this.#drop(now, hex, DownReason.REMOVED);
      this.#gossip.forget(hex);
    }
    for (const nodeId of this.#passive.nodes()) {
      if (!this.#deps.isMember(nodeId)) this.#passive.remove(toHex(nodeId));
    }
    while (this.#active.length > this.#size()) this.#evict(now);
    if (this.#isRunning && this.#active.length < this.#wanted()) this.#fillSoon(now);
  }

  /** A session with the member came up. */
  peerUp(now: Now, nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    this.#connected.delete(hex);
    this.#connected.set(hex, nodeId);
    if (this.#connected.size > MAX_CONNECTED) {
      for (const oldest of this.#connected.keys()) {
        this.#connected.delete(oldest);
        break;
      }
    }
    if (this.#isRunning && this.#active.length === 0) this.#fillSoon(now);
  }

  /** The session is over. */
  peerDown(now: Now, nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    this.#connected.delete(hex);
    this.doubt(now, nodeId);
  }

  /** A frame to it was lost on the way: should it be a neighbour, it is asked now. */
  doubt(now: Now, nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    const neighbour = this.#activeByHex.get(hex);
    if (neighbour !== undefined) this.#detector.doubt(now, neighbour);
  }

  /** @param frame anything, from the authenticated peer `from` */
  handleFrame(now: Now, from: Uint8Array, bytes: Uint8Array): void {
    const hex = toHex(from);
    if (!this.#isRunning || hex === this.#selfHex) return;
    if (!this.#deps.isMember(from)) {
      this.counters.framesRefused++;
      return;
    }
    if (!this.#rates.take(now.nowMs, hex)) {
      this.counters.framesOverRate++;
      return;
    }
    const frame = decodeOverlay(bytes);
    if (frame === undefined) {
      this.counters.framesRefused++;
      return;
    }
    this.counters.framesIn++;
    this.counters.bytesIn += bytes.length;
    const neighbour = this.#activeByHex.get(hex);
    if (frame.type === OverlayType.ACK)
      this.#detector.handleAck(now, neighbour, hex, frame.sequence, frame.incarnation);
    const wasLost = isLost(this.#gossip.liveness(hex));
    this.#gossip.heard(now, from, hex, "incarnation" in frame ? frame.incarnation : 0);
    if (neighbour !== undefined) this.#detector.heard(now, neighbour);
    this.#dispatch(now, from, hex, frame);
    if (frame.type !== OverlayType.ACK || neighbour !== undefined) return;
    if (wasLost || this.#mixing === hex) this.#merge(now, from, hex);
  }

  handleTimeout(now: Now): void {
    if (!this.#isRunning) return;
    for (const [hex, { dueMs }] of this.#pending) {
      if (now.nowMs < dueMs) continue;
      this.#pending.delete(hex);
      this.#passive.remove(hex);
      this.#fillFailures++;
    }
    this.#detector.handleTimeout(now);
    if (now.nowMs >= this.#fillAtMs) this.#fill(now);
    if (now.nowMs >= this.#shuffleAtMs) this.#shuffle(now);
    if (now.nowMs >= this.#reachAtMs) this.#reach(now);
    if (now.nowMs >= this.#expireAtMs) {
      this.#gossip.expire(now);
      this.#expireAtMs = now.nowMs + EXPIRE_MS;
    }
  }

  /** Call after every input. */
  nextTimeoutMs(): number {
    if (!this.#isRunning) return Number.POSITIVE_INFINITY;
    let next = Math.min(this.#fillAtMs, this.#shuffleAtMs, this.#reachAtMs, this.#expireAtMs);
    for (const { dueMs } of this.#pending.values()) next = Math.min(next, dueMs);
    return Math.min(next, this.#detector.nextTimeoutMs());
  }

  pollOutput(): OverlayOutput | undefined {
    if (this.#outputAt < this.#outputs.length) return this.#outputs[this.#outputAt++];
    this.#outputs = [];
    this.#outputAt = 0;
    return undefined;
  }

  #dispatch(now: Now, from: Uint8Array, hex: string, frame: OverlayFrame): void {
    switch (frame.type) {
      case OverlayType.JOIN:
        return this.#handleJoin(now, from, hex);
      case OverlayType.FORWARD_JOIN:
        return this.#handleForwardJoin(now, hex, frame.node, frame.hops);
      case OverlayType.NEIGHBOUR:
        return this.#handleNeighbour(now, from, hex, frame.flags);
      case OverlayType.NEIGHBOUR_REPLY:
        return this.#handleReply(now, from, hex, frame.flags, frame.nodes);
      case OverlayType.DISCONNECT:
        this.#gossip.take(now, hex, frame.rumours);
        this.#pending.delete(hex);
        if (frame.reason === Disconnect.LEAVING) {
          this.#passive.remove(hex);
          this.#drop(now, hex, DownReason.LEFT);
        } else {
          this.#drop(now, hex, DownReason.EVICTED);
          this.#know(from);
        }
        for (const node of frame.nodes) this.#know(node);
        return;
      case OverlayType.SHUFFLE:
        return this.#handleShuffle(hex, frame.origin, frame.hops, frame.nodes);
      case OverlayType.SHUFFLE_REPLY:
        for (const node of frame.nodes) this.#know(node, this.#sent);
        return;
      case OverlayType.PING:
        this.#gossip.take(now, hex, frame.rumours);
        this.#send(from, {
          type: OverlayType.ACK,
          sequence: frame.sequence,
          incarnation: this.#gossip.incarnation,
          rumours: this.#gossip.pick(hex),
        });
        if ((frame.flags & PING_AS_NEIGHBOUR) === 0) this.#know(from);
        else if (!this.#activeByHex.has(hex) && !this.#accept(now, from, false))
          this.#disconnect(from, Disconnect.ROOM);
        return;
      case OverlayType.ACK:
        this.#gossip.take(now, hex, frame.rumours);
        if (!this.#activeByHex.has(hex)) this.#know(from);
        return;
      case OverlayType.PING_REQ:
        if (!this.#favourRates.take(now.nowMs, hex)) this.counters.framesOverRate++;
        else if (this.#deps.isMember(frame.target) && toHex(frame.target) !== this.#selfHex)
          this.#detector.handleRequest(now, from, frame.sequence, frame.target);
        return;
      case OverlayType.NACK:
        return this.#detector.handleNack(frame.sequence);
    }
  }

  #handleJoin(now: Now, from: Uint8Array, hex: string): void {
    if (!this.#joinRates.take(now.nowMs, hex)) {
      this.counters.framesOverRate++;
      return;
    }
    this.counters.joins++;
    const isIn = this.#accept(now, from, true);
    this.#reply(from, isIn);
    const hops = this.#options.activeWalk;
    for (const { nodeId, hex: other } of this.#active) {
      if (other !== hex) this.#send(nodeId, { type: OverlayType.FORWARD_JOIN, node: from, hops });
    }
  }

  #handleForwardJoin(now: Now, fromHex: string, node: Uint8Array, hops: number): void {
    const hex = toHex(node);
    if (hex === this.#selfHex || !this.#deps.isMember(node)) return;
    const next = hops === 0 ? undefined : this.#walk(fromHex, hex);
    if (next === undefined) {
      if (!this.#activeByHex.has(hex)) this.#ask(now, node, NeighbourFlag.WALK);
      return;
    }
    if (hops === this.#options.passiveWalk) this.#know(node);
    this.#send(next.nodeId, { type: OverlayType.FORWARD_JOIN, node, hops: hops - 1 });
  }

  #handleNeighbour(now: Now, from: Uint8Array, hex: string, flags: number): void {
    const isJoining = (flags & NeighbourFlag.WALK) !== 0 && now.nowMs - this.#joinedMs < JOINING_MS;
    const isIn = this.#accept(now, from, (flags & NeighbourFlag.FEW) !== 0 || isJoining);
    this.#pending.delete(hex);
    this.#reply(from, isIn);
    if (!isIn) this.#know(from);
  }

  #handleReply(now: Now, from: Uint8Array, hex: string, flags: number, nodes: readonly Uint8Array[]): void {
    const pending = this.#pending.get(hex);
    this.#pending.delete(hex);
    for (const node of nodes) this.#know(node);
    if ((flags & REPLY_ACCEPTED) === 0) {
      this.counters.neighboursRefused++;
      this.#fillFailures++;
      return;
    }
    // an answer to nothing asks like anybody else
    if (!this.#accept(now, from, pending?.isForced === true)) this.#disconnect(from, Disconnect.ROOM);
  }

  #handleShuffle(fromHex: string, origin: Uint8Array, hops: number, nodes: readonly Uint8Array[]): void {
    const originHex = toHex(origin);
    if (originHex === this.#selfHex || !this.#deps.isMember(origin)) return;
    const next = hops === 0 ? undefined : this.#walk(fromHex, originHex);
    if (next !== undefined) {
      this.#send(next.nodeId, { type: OverlayType.SHUFFLE, origin, hops: hops - 1, nodes });
      return;
    }
    const mine = this.#passive.sample(nodes.length + 1);
    this.#send(origin, { type: OverlayType.SHUFFLE_REPLY, nodes: mine });
    const sent = new Set(mine.map(toHex));
    for (const node of [...nodes, origin]) this.#know(node, sent);
  }

  /** A neighbour at random that is neither of the two; undefined: the walk ends here. */
  #walk(fromHex: string, aboutHex: string): Neighbour | undefined {
    const others = this.#active.filter(
      ({ hex, suspicion }) => hex !== fromHex && hex !== aboutHex && suspicion === undefined,
    );
    return others.length === 0 ? undefined : others[this.#deps.random.u32() % others.length];
  }

  /** Takes it into the active view. @param mayEvict a random neighbour goes when there is no room @returns whether it is in */
  #accept(now: Now, nodeId: Uint8Array, mayEvict: boolean): boolean {
    const hex = toHex(nodeId);
    if (this.#activeByHex.has(hex)) return true;
    if (this.#active.length >= this.#size()) {
      if (!mayEvict || !this.#evictRate.take(now.nowMs, "")) return false;
      this.#evict(now);
    }
    const neighbour = this.#detector.neighbour(now, nodeId);
    this.#active.push(neighbour);
    this.#activeByHex.set(hex, neighbour);
    this.#pending.delete(hex);
    this.#passive.remove(hex);
    this.#fillFailures = 0;
    this.counters.neighboursUp++;
    this.#push({ kind: "up", nodeId });
    if (this.#active.length < this.#wanted()) this.#fillSoon(now);
    else this.#fillAtMs = Number.POSITIVE_INFINITY;
    return true;
  }

  /** Random, but who is suspected goes first; announced. */
  #evict(now: Now): void {
    const suspects = this.#active.filter((neighbour) => neighbour.suspicion !== undefined);
    const from = suspects.length > 0 ? suspects : this.#active;
    const { nodeId, hex } = from[this.#deps.random.u32() % from.length];
    this.counters.evictions++;
    this.#disconnect(nodeId, Disconnect.ROOM);
    this.#drop(now, hex, DownReason.EVICTED);
    this.#know(nodeId);
  }

  #drop(now: Now, hex: string, reason: DownReason): void {
    const neighbour = this.#activeByHex.get(hex);
    if (neighbour === undefined) return;
    this.#activeByHex.delete(hex);
    this.#active.splice(this.#active.indexOf(neighbour), 1);
    this.counters.neighboursDown++;
    this.#push({ kind: "down", nodeId: neighbour.nodeId, reason });
    if (reason !== DownReason.EVICTED) this.#fillFailures = 0;
    this.#fillSoon(now);
  }

  #fillSoon(now: Now): void {
    if (!this.#isRunning) return;
    this.#fillAtMs = Math.min(this.#fillAtMs, now.nowMs + FILL_MS * this.#deps.random.unit());
  }

  /** Looks for neighbours while there is room; ever more rarely while nobody has any and there are enough. */
  #fill(now: Now): void {
    this.#fillAtMs = Number.POSITIVE_INFINITY;
    const missing = this.#wanted() - this.#active.length;
    if (missing <= 0) return;
    const atOnce = this.#active.length === 0 ? MAX_PENDING : 1;
    for (let i = this.#pending.size; i < Math.min(atOnce, missing, MAX_PENDING); i++) {
      const candidate = this.#candidate();
      if (candidate === undefined) break;
      if (this.#active.length === 0 && i === 0) this.#join(now, candidate);
      else this.#ask(now, candidate, this.#active.length < this.#wanted() / 2 ? NeighbourFlag.FEW : 0);
    }
    const slowness = Math.min(MAX_FILL_MS, FILL_MS * 2 ** Math.min(16, this.#fillFailures));
    this.#fillAtMs = this.#jittered(now, slowness);
  }

  #candidate(): Uint8Array | undefined {
    const isFree = (hex: string): boolean =>
      !this.#activeByHex.has(hex) && !this.#pending.has(hex) && !isLost(this.#gossip.liveness(hex));
    const known = this.#passive.pick(isFree);
    if (known !== undefined) return known;
    if (this.#active.length === 0) {
      for (const [hex, nodeId] of this.#connected) if (isFree(hex) && this.#deps.isMember(nodeId)) return nodeId;
    }
    for (let i = 0; i < 4; i++) {
      const random = this.#deps.randomMember();
      // with no neighbour at all even the lost are asked
      if (random === undefined) continue;
      const hex = toHex(random);
      if (isFree(hex) || (this.#active.length === 0 && !this.#pending.has(hex))) return random;
    }
    return undefined;
  }

  #join(now: Now, contact: Uint8Array): void {
    this.#joinedMs = now.nowMs;
    this.#wait(now, contact, true);
    this.#send(contact, { type: OverlayType.JOIN, incarnation: this.#gossip.incarnation });
  }

  #ask(now: Now, nodeId: Uint8Array, flags: number): void {
    if (this.#pending.size >= MAX_PENDING) return;
    this.#wait(now, nodeId, flags !== 0);
    this.#send(nodeId, { type: OverlayType.NEIGHBOUR, flags, incarnation: this.#gossip.incarnation });
  }

  #wait(now: Now, nodeId: Uint8Array, isForced: boolean): void {
    const dueMs = now.nowMs + PENDING_MS + 3 * (this.#deps.rttMs(nodeId) ?? 0);
    this.#pending.set(toHex(nodeId), { dueMs, isForced });
  }

  #reply(to: Uint8Array, isAccepted: boolean): void {
    this.#send(to, {
      type: OverlayType.NEIGHBOUR_REPLY,
      flags: isAccepted ? REPLY_ACCEPTED : 0,
      incarnation: this.#gossip.incarnation,
      nodes: isAccepted ? [] : this.#passive.sample(REPLY_NODES),
    });
  }

  #disconnect(to: Uint8Array, reason: Disconnect): void {
    const isLeaving = reason === Disconnect.LEAVING;
    this.#send(to, {
      type: OverlayType.DISCONNECT,
      reason,
      nodes: isLeaving ? this.#others(to) : this.#passive.sample(REPLY_NODES),
      rumours: isLeaving ? [this.#gossip.farewell()] : [],
    });
  }

  /** Neighbours that one who loses this node may turn to. */
  #others(than: Uint8Array): Uint8Array[] {
    return this.#active
      .filter(({ nodeId }) => nodeId !== than)
      .slice(0, REPLY_NODES)
      .map(({ nodeId }) => nodeId);
  }

  #shuffle(now: Now): void {
    this.#shuffleAtMs = this.#jittered(now, this.#options.shuffleMs);
    const first = this.#walk(this.#selfHex, this.#selfHex);
    if (first === undefined) return;
    const neighbours = this.#active.filter((neighbour) => neighbour !== first && neighbour.suspicion === undefined);
    const nodes: Uint8Array[] = [];
    while (nodes.length < SHUFFLE_ACTIVE && neighbours.length > 0)
      nodes.push(neighbours.splice(this.#deps.random.u32() % neighbours.length, 1)[0].nodeId);
    const passive = this.#passive.sample(SHUFFLE_PASSIVE);
    this.#sent = new Set(passive.map(toHex));
    nodes.push(...passive);
    this.counters.shuffles++;
    this.#send(first.nodeId, {
      type: OverlayType.SHUFFLE,
      origin: this.#deps.signing.nodeId,
      hops: this.#options.activeWalk,
      nodes,
    });
  }

  #reach(now: Now): void {
    this.#reachAtMs = this.#jittered(now, REACH_MS);
    const lost = this.#deps.random.unit() < 0.5 ? this.#gossip.randomLost() : undefined;
    const target = lost ?? this.#deps.randomMember();
    if (target === undefined || this.#activeByHex.has(toHex(target))) return;
    this.#mixing = this.#reaches++ % MIX_EVERY === 0 ? toHex(target) : undefined;
    this.#ping(target, 0, this.#detector.nextSequence());
  }

  /** It was believed lost and answers, or its turn has come: perhaps the network is in two parts that do not miss each other. */
  #merge(now: Now, nodeId: Uint8Array, hex: string): void {
    if (this.#activeByHex.has(hex) || !this.#mergeRate.take(now.nowMs, "")) return;
    this.#ask(now, nodeId, NeighbourFlag.FEW);
  }

  /** For the passive view. */
  #know(nodeId: Uint8Array, sent?: Set<string>): void {
    const hex = toHex(nodeId);
    if (hex === this.#selfHex || this.#activeByHex.has(hex)) return;
    if (!this.#deps.isMember(nodeId) || isLost(this.#gossip.liveness(hex))) return;
    this.#passive.add(nodeId, this.#size() * PASSIVE_FACTOR, sent);
  }

  #changed(nodeId: Uint8Array, liveness: Liveness): void {
    if (isLost(liveness)) this.#passive.remove(toHex(nodeId));
    this.#push({ kind: "liveness", nodeId, liveness });
  }

  #ping(to: Uint8Array, flags: number, sequence: number): void {
    const rumours = this.#gossip.pick(toHex(to));
    this.#send(to, { type: OverlayType.PING, flags, sequence, incarnation: this.#gossip.incarnation, rumours });
  }

  #send(to: Uint8Array, frame: OverlayFrame): void {
    const bytes = encodeOverlay(frame);
    this.counters.framesOut++;
    this.counters.bytesOut += bytes.length;
    this.#push({ kind: "send", to, frame: bytes });
  }

  /** Who polls after every input never comes near the bound; above it frames are lost as on a wire. */
  #push(output: OverlayOutput): void {
    if (output.kind !== "send" || this.#outputs.length - this.#outputAt < MAX_OUTPUTS) this.#outputs.push(output);
  }

  #size(): number {
    return this.#options.activeSize ?? activeViewSize(this.#deps.memberCount());
  }

  /** Neighbours that there can be. */
  #wanted(): number {
    return Math.min(this.#size(), this.#deps.memberCount() - 1);
  }

  #jittered(now: Now, ms: number): number {
    return now.nowMs + ms * (0.8 + 0.4 * this.#deps.random.unit());
  }
}

function isLost(liveness: Liveness): boolean {
  return liveness === Liveness.DEAD || liveness === Liveness.LEFT || liveness === Liveness.SUSPECT;
}
