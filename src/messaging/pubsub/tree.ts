/**
 * The links of one topic: eager ones carry messages, lazy ones say what there is. Links are known at both ends; every change goes over the
 * wire as GRAFT or PRUNE, so that both ends agree again after any loss.
 *
 *   new link ──► eager (the first four of a node that joins) or lazy          duplicate on an eager link ──► PRUNE, lazy
 *   lazy link that brought what was missed ──► GRAFT, eager                   links beyond the bounds ──► PRUNE with "drop"
 *
 * Guarantees: at most MAX_EAGER eager and MAX_LAZY lazy links and MAX_SOURCES of nodes that only publish, whatever the number of
 * subscribers; never below one eager link by own doing. A pruned link is not grafted for 30 s, doubling to 300 s, unless nothing else is
 * left; one grafted for a miss is not pruned for 2 s; at most one prune in 250 ms (two prunes for the same message could cut the tree).
 * Source: Leitão, Pereira, Rodrigues, "Epidemic Broadcast Trees" (2007); docs/protocol.md, "Publish/subscribe".
 */
import type { Random } from "../../base/random.ts";
import { MAX_EAGER, MAX_LAZY, type PeerKey, type PubSubCounters } from "./types.ts";

const FIRST_EAGER = 4;
/** Links beyond the eager ones that a node asks for when it joins. */
const FIRST_LAZY = 2;
export const MIN_LINKS = 5;
const MAX_SOURCES = 64;
const FIRST_BACKOFF_MS = 30_000;
const MAX_BACKOFF_MS = 300_000;
const MAX_BACKOFFS = 128;
const PRUNE_GAP_MS = 250;
const PROTECTED_MS = 2000;
/** Who sends what nobody wants is told so at most this often. */
const TELL_GAP_MS = 1000;
const MAX_TOLD = 64;

export interface TreeLink {
  readonly peer: PeerKey;
  isEager: boolean;
  /** The peer only publishes: nothing is sent or said to it. */
  readonly isSource: boolean;
  readonly sinceMs: number;
  /** Not pruned before. */
  protectedUntilMs: number;
  firsts: number;
  duplicates: number;
  /** When its last digest was answered. */
  comparedMs: number;
}

export interface TreeDeps {
  readonly random: Random;
  readonly counters: PubSubCounters;
  /** This node only publishes: it takes no links that others ask for. */
  readonly isSource: boolean;
  readonly hasFullView: boolean;
  graft(peer: PeerKey, isEager: boolean, isNeeded: boolean): void;
  prune(peer: PeerKey, isDrop: boolean, backoffMs: number): void;
  score(peer: PeerKey): number;
  isRefused(peer: PeerKey): boolean;
  isCooled(peer: PeerKey): boolean;
}

export class TopicTree {
  readonly #deps: TreeDeps;
  readonly #links = new Map<PeerKey, TreeLink>();
  readonly #backoffs = new Map<PeerKey, { untilMs: number; stepMs: number }>();
  readonly #told = new Map<PeerKey, number>();
  #eager = 0;
  #lazy = 0;
  #sources = 0;
  #prunedMs: number = Number.NEGATIVE_INFINITY;

  constructor(deps: TreeDeps) {
    this.#deps = deps;
  }

  get eager(): number {
    return this.#eager;
  }

  get lazy(): number {
    return this.#lazy;
  }

  get size(): number {
    return this.#links.size;
  }

  links(): IterableIterator<TreeLink> {
    return this.#links.values();
  }

  link(peer: PeerKey): TreeLink | undefined {
    return this.#links.get(peer);
  }

  /** A random one that may be asked something. */
  anyLink(): TreeLink | undefined {
    const usable = [...this.#links.values()].filter((link) => !link.isSource && !this.#deps.isCooled(link.peer));
    return usable.length === 0 ? undefined : usable[this.#deps.random.u32() % usable.length];
  }

  /**
   * Asks some of these for links: eager ones while this node has hardly any, lazy ones beyond; never eager ones in bulk when it only looks
   * for fresh neighbours.
   * @param isFirst the node joins @param wanted how many new links at most
   */
  seek(nowMs: number, peers: readonly PeerKey[], isFirst: boolean, wanted: number): PeerKey[] {
    const made: PeerKey[] = [];
    for (const peer of peers) {
      if (made.length >= wanted && !this.#deps.hasFullView) break;
      if (this.#links.has(peer) || this.#deps.isRefused(peer) || this.#deps.isCooled(peer)) continue;
      // it has ended the link a short time ago, or does not take part at all
      if (this.#isBackedOff(nowMs, peer) && !this.#deps.hasFullView) continue;
      const isEager =
        this.#deps.hasFullView ||
        (this.#eager < (isFirst ? FIRST_EAGER : 1) && !this.#isBackedOff(nowMs, peer) && this.#eager < MAX_EAGER);
      if (!isEager && this.#lazy >= MAX_LAZY && !this.#evictLazy(nowMs)) break;
      this.#add(nowMs, peer, isEager, false);
      this.#deps.counters.grafts += isEager ? 1 : 0;
      this.#deps.graft(peer, isEager, false);
      made.push(peer);
    }
    return made;
  }

  /** How many links a node that joins asks for. */
  static readonly firstLinks: number = FIRST_EAGER + FIRST_LAZY;

  /** The peer asks for a link, or for another kind of it. */
  onGraft(nowMs: number, peer: PeerKey, isEager: boolean, isSource: boolean, isNeeded: boolean): void {
    const link = this.#links.get(peer);
    if (this.#deps.isSource || this.#deps.isRefused(peer)) return this.#turnAway(nowMs, peer);
    if (this.#deps.hasFullView) {
      if (link === undefined) this.#add(nowMs, peer, true, false);
      return;
    }
    if (isSource) {
      if (link !== undefined) return;
      if (this.#sources >= MAX_SOURCES) return this.#turnAway(nowMs, peer);
      this.#add(nowMs, peer, isEager, true);
      return;
    }
    const mayBeEager =
      isEager &&
      !this.#deps.isCooled(peer) &&
      (isNeeded || !this.#isBackedOff(nowMs, peer)) &&
      (this.#eager < MAX_EAGER || link?.isEager === true);
    if (mayBeEager) {
      if (link === undefined) this.#add(nowMs, peer, true, false);
      else this.#setEager(link, true);
      return;
    }
    if (isEager) this.#deps.counters.graftsRefused++;
    if (link === undefined && this.#lazy >= MAX_LAZY && !this.#evictLazy(nowMs)) return this.#turnAway(nowMs, peer);
    if (link === undefined) this.#add(nowMs, peer, false, false);
    else if (!isEager && link.isEager && this.#eager > 1) this.#setLazy(nowMs, link);
    if (isEager) this.#deps.prune(peer, false, this.#backoffLeftMs(nowMs, peer));
  }

  /** The peer has made the link lazy, or ended it. @returns whether an eager link is needed now */
  onPrune(nowMs: number, peer: PeerKey, isDrop: boolean, backoffMs: number): boolean {
    const link = this.#links.get(peer);
    if (link === undefined || this.#deps.hasFullView) return false;
    this.#noteBackoff(nowMs, peer, Math.min(MAX_BACKOFF_MS, backoffMs));
    if (isDrop) this.remove(peer);
    else if (link.isEager) this.#setLazy(nowMs, link, false);
    return this.#eager === 0;
  }

  /** A pushed message that was new came from it: both ends had better agree that the link is eager. */
  onFirst(nowMs: number, peer: PeerKey): void {
    const link = this.#links.get(peer);
    if (link !== undefined) {
      link.firsts++;
      if (link.isEager || link.isSource) return;
      if (this.#eager < MAX_EAGER && !this.#deps.isCooled(peer)) this.#setEager(link, true);
      else this.#tellLazy(nowMs, peer);
      return;
    }
    if (this.#deps.isSource || this.#deps.isRefused(peer)) return this.#turnAway(nowMs, peer);
    if (this.#eager < MAX_EAGER) this.#add(nowMs, peer, true, false);
    else this.#turnAway(nowMs, peer);
  }

  /** A pushed message that was known came from it. */
  onDuplicate(nowMs: number, peer: PeerKey): void {
    const link = this.#links.get(peer);
    if (this.#deps.hasFullView) return;
    if (link === undefined) return this.#turnAway(nowMs, peer);
    link.duplicates++;
    if (link.isSource || !link.isEager) return this.#tellLazy(nowMs, peer);
    if (this.#eager <= 1 || nowMs < link.protectedUntilMs || nowMs - this.#prunedMs < PRUNE_GAP_MS) return;
    this.#prunedMs = nowMs;
    this.#deps.counters.prunes++;
    this.#noteBackoff(nowMs, peer, 0);
    const backoffMs = this.#backoffLeftMs(nowMs, peer);
    const isDrop = this.#lazy >= MAX_LAZY;
    if (isDrop) this.remove(peer);
    else this.#setLazy(nowMs, link);
    this.#deps.prune(peer, isDrop, backoffMs);
  }

  /** Messages come late, by asking: this one had them. @param isNeeded also when it was pruned a short time ago */
  graft(nowMs: number, peer: PeerKey, isNeeded: boolean): boolean {
    const link = this.#links.get(peer);
    if (link?.isEager === true || link?.isSource === true) return false;
    if (this.#eager >= MAX_EAGER || this.#deps.isCooled(peer) || this.#deps.isRefused(peer)) return false;
    const isForced = isNeeded || this.#eager === 0;
    if (!isForced && this.#isBackedOff(nowMs, peer)) return false;
    if (link === undefined) this.#add(nowMs, peer, true, false);
    else this.#setEager(link, true);
    const made = this.#links.get(peer);
    if (made !== undefined) made.protectedUntilMs = nowMs + PROTECTED_MS;
    this.#deps.counters.grafts++;
    this.#deps.graft(peer, true, isForced);
    return true;
  }

  /** Makes the best lazy link eager when there is no eager one. @returns false when there is none to make */
  ensureEager(nowMs: number): boolean {
    if (this.#eager > 0) return true;
    let best: TreeLink | undefined;
    let bestScore = Number.NEGATIVE_INFINITY;
    for (const link of this.#links.values()) {
      if (link.isSource || this.#deps.isCooled(link.peer)) continue;
      // equal ones are told apart by chance
      const score =
        this.#deps.score(link.peer) + this.#deps.random.unit() - (this.#isBackedOff(nowMs, link.peer) ? 5 : 0);
      if (score <= bestScore) continue;
      best = link;
      bestScore = score;
    }
    return best !== undefined && this.graft(nowMs, best.peer, true);
  }

  /** The peer is too slow: nothing is pushed to it any more. @returns false when it is the last eager one and there is no other */
  mayDemote(nowMs: number, peer: PeerKey): boolean {
    const link = this.#links.get(peer);
    if (link === undefined || !link.isEager || this.#eager > 1) return true;
    for (const other of this.#links.values())
      if (other !== link && !other.isSource && !this.#deps.isCooled(other.peer) && this.graft(nowMs, other.peer, true))
        return true;
    return false;
  }

  demote(nowMs: number, peer: PeerKey, backoffMs: number): void {
    const link = this.#links.get(peer);
    if (link === undefined || !link.isEager || link.isSource) return;
    this.#noteBackoff(nowMs, peer, backoffMs);
    this.#setLazy(nowMs, link);
    this.#deps.counters.prunes++;
    this.#deps.prune(peer, false, backoffMs);
  }

  remove(peer: PeerKey): boolean {
    const link = this.#links.get(peer);
    if (link === undefined) return false;
    this.#links.delete(peer);
    if (link.isSource) this.#sources--;
    else if (link.isEager) this.#eager--;
    else this.#lazy--;
    return true;
  }

  /** The node leaves the topic. */
  leave(): void {
    for (const link of this.#links.values()) this.#deps.prune(link.peer, true, 0);
    this.#links.clear();
    this.#eager = 0;
    this.#lazy = 0;
    this.#sources = 0;
  }

  #add(nowMs: number, peer: PeerKey, isEager: boolean, isSource: boolean): void {
    this.#links.set(peer, {
      peer,
      isEager,
      isSource,
      sinceMs: nowMs,
      protectedUntilMs: 0,
      firsts: 0,
      duplicates: 0,
      comparedMs: Number.NEGATIVE_INFINITY,
    });
    if (isSource) this.#sources++;
    else if (isEager) this.#eager++;
    else this.#lazy++;
  }

  #setEager(link: TreeLink, isEager: boolean): void {
    if (link.isSource || link.isEager === isEager) return;
    link.isEager = isEager;
    this.#eager += isEager ? 1 : -1;
    this.#lazy += isEager ? -1 : 1;
  }

  /** @param mayEvict false: the peer has asked for it, so this link stays whatever the number */
  #setLazy(nowMs: number, link: TreeLink, mayEvict = true): void {
    if (this.#lazy >= MAX_LAZY && !(mayEvict && this.#evictLazy(nowMs))) {
      this.remove(link.peer);
      this.#deps.prune(link.peer, true, 0);
      return;
    }
    this.#setEager(link, false);
  }

  /** Ends the link to the worst lazy neighbour, by score and chance. */
  #evictLazy(nowMs: number): boolean {
    let worst: TreeLink | undefined;
    let worstScore = Number.POSITIVE_INFINITY;
    for (const link of this.#links.values()) {
      if (link.isEager || link.isSource || nowMs - link.sinceMs < TELL_GAP_MS) continue;
      const score = Math.min(0, this.#deps.score(link.peer)) + this.#deps.random.unit();
      if (score >= worstScore) continue;
      worst = link;
      worstScore = score;
    }
    if (worst === undefined) return false;
    this.remove(worst.peer);
    this.#deps.prune(worst.peer, true, 0);
    return true;
  }

  /** Nobody is left to go to, and there are others than before: all may be asked again. */
  forgive(): void {
    this.#backoffs.clear();
  }

  #isBackedOff(nowMs: number, peer: PeerKey): boolean {
    return (this.#backoffs.get(peer)?.untilMs ?? 0) > nowMs;
  }

  #backoffLeftMs(nowMs: number, peer: PeerKey): number {
    return Math.max(0, (this.#backoffs.get(peer)?.untilMs ?? 0) - nowMs);
  }

  /** @param atLeastMs what the other end asks for */
  #noteBackoff(nowMs: number, peer: PeerKey, atLeastMs: number): void {
    const known = this.#backoffs.get(peer);
    this.#backoffs.delete(peer);
    const isRecent = known !== undefined && nowMs < known.untilMs + known.stepMs;
    const stepMs = isRecent ? Math.min(MAX_BACKOFF_MS, known.stepMs * 2) : FIRST_BACKOFF_MS;
    const waitMs = atLeastMs > 0 ? atLeastMs : stepMs;
    this.#backoffs.set(peer, { untilMs: Math.max(known?.untilMs ?? 0, nowMs + waitMs), stepMs });
    if (this.#backoffs.size <= MAX_BACKOFFS) return;
    const [oldest] = this.#backoffs.keys();
    this.#backoffs.delete(oldest);
  }

  #tellLazy(nowMs: number, peer: PeerKey): void {
    if (this.#mayTell(nowMs, peer)) this.#deps.prune(peer, false, FIRST_BACKOFF_MS);
  }

  #turnAway(nowMs: number, peer: PeerKey): void {
    this.#deps.counters.graftsRefused++;
    if (this.#mayTell(nowMs, peer)) this.#deps.prune(peer, true, FIRST_BACKOFF_MS);
  }

  #mayTell(nowMs: number, peer: PeerKey): boolean {
    if (nowMs - (this.#told.get(peer) ?? Number.NEGATIVE_INFINITY) < TELL_GAP_MS) return false;
    this.#told.delete(peer);
    this.#told.set(peer, nowMs);
    if (this.#told.size > MAX_TOLD) {
      const [oldest] = this.#told.keys();
      this.#told.delete(oldest);
    }
    return true;
  }
}
