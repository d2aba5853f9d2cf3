/**
 * One topic at one node: its links (tree.ts), its publishers' streams (streams.ts), what is missing (wants.ts, recovery.ts), recent messages
 * (cache.ts) and what is announced.
 *
 *   verified message ──► known? ─ yes ─► tree: duplicate
 *                           └ no ─► window, cache, subscribers, log ──► pushed to eager links, announced to lazy ones (100 ms batches)
 *   IHAVE, LIST, a gap ──► wants ──► IWANT ──► answer          several messages late ──► GRAFT
 *
 * A message goes to nobody who is known to have it. Source: docs/protocol.md, "Publish/subscribe".
 */
import { toHex } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import type { Random } from "../../base/random.ts";
import { Announcements, hasHeard, noteHeard } from "./announcements.ts";
import { Answers, MAX_ANSWER_MESSAGES } from "./answers.ts";
import { type CachedMessage, MessageCache } from "./cache.ts";
import {
  type ControlFrame,
  countEntries,
  encodeControlFrame,
  type Entry,
  extendEntries,
  FrameType,
  NoneReason,
} from "./frames.ts";
import { asType, hlcOf, type MessageFrame } from "./message.ts";
import { Recovery } from "./recovery.ts";
import { type PublisherStream, StreamTable, type Want } from "./streams.ts";
import { MIN_LINKS, TopicTree } from "./tree.ts";
import {
  type LogRead,
  type PeerKey,
  type PubSubCounters,
  type PubSubOptions,
  type ReceivedMessage,
  SendPriority,
} from "./types.ts";
import { Wants } from "./wants.ts";

/** Further than this from a clock here: a message is from the future, or too old to be news. */
export const MAX_SKEW_MS = 3_600_000;
/** Clocks may differ by so much before a node that joins misses the first messages of others. */
const JOIN_SLACK_MS = 5000;
const MAX_STREAMS = 4096;
/** A later sequence announces what is between, up to so many; more is left to comparing. */
const MAX_GAP = 8;
/** Of an announcement, so many are waited for one by one; more is left to comparing. */
const MAX_NEWS = 64;
/** Of the last eight new messages, how many were late before the tree is changed. */
const LATE_FOR_GRAFT = 2;
const LATE_FOR_FORCED_GRAFT = 5;
const FIRST_RETRY_MS = 1000;
/** No link at all is left. */
const URGENT_RETRY_MS = 200;
const MAX_LOST = 32;
const COMPARE_GAP_MS = 50;
/** A way shorter by this much is worth changing the tree for, now and then. */
const SHORTER_MS = 150;
const SLOW_IN_A_ROW = 3;
const SHORTEN_GAP_MS = 30_000;

export type TopicFrame = DistributiveOmit<ControlFrame, "topic">;
type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

export interface TopicDeps {
  readonly random: Random;
  readonly counters: PubSubCounters;
  sample(topic: string, count: number): readonly PeerKey[];
  rttMs(peer: PeerKey): number;
  score(nowMs: number, peer: PeerKey): number;
  isRefused(nowMs: number, peer: PeerKey): boolean;
  isCooled(peer: PeerKey, topicHex: string): boolean;
  send(nowMs: number, peer: PeerKey, topicHex: string, frame: Uint8Array, priority: SendPriority): void;
  /** For programs here and the log. */
  deliver(now: Now, topic: Topic, stream: PublisherStream, message: ReceivedMessage, frame: Uint8Array): void;
  /** Nothing up to the stream's floor comes any more. */
  advance(nowMs: number, topic: Topic, stream: PublisherStream): void;
  firstDelivery(nowMs: number, peer: PeerKey): void;
  /** From the retained log. @returns false when nothing can be read now */
  read(read: LogRead): boolean;
  nextCursor(now: Now): number;
}

export class Topic {
  readonly name: string;
  readonly id: Uint8Array;
  readonly hex: string;
  /** It only publishes: others' messages are not wanted. */
  readonly isSource: boolean;
  readonly tree: TopicTree;
  readonly streams: StreamTable;
  readonly cache: MessageCache;
  readonly wants: Wants;
  readonly recovery: Recovery;
  /** Clock before which nothing is asked for. */
  readonly sinceHlc: number;
  /** Cursor of the first message that can be here. */
  readonly firstCursor: number;
  usedMs: number;
  /** Of this node's own stream: names the time from which it takes part; sequences begin at 1 in it. */
  readonly epoch: number;
  sequence = 0;
  /** Carried without a subscriber here. */
  isVolunteer = false;
  /** Neighbours that went down, for when they come back. */
  readonly lost: Set<PeerKey> = new Set();
  readonly #deps: TopicDeps;
  readonly #options: Required<PubSubOptions>;
  #nowMs: number;
  readonly #announcements: Announcements;
  readonly #answers: Answers;
  #refreshDueMs: number;
  #retryMs: number = FIRST_RETRY_MS;
  #hasJoined = false;
  #compareDueMs: number;
  /** The last eight new messages, newest lowest, 1: came late. */
  #late = 0;
  #shortenMs: number;
  #slow = 0;
  /** An eager link broke: the next late message changes the tree. */
  #isHurt = false;

  constructor(
    deps: TopicDeps,
    options: Required<PubSubOptions>,
    now: Now,
    name: string,
    id: Uint8Array,
    isSource: boolean,
    epoch: number,
    sinceHlc?: number,
  ) {
    this.#deps = deps;
    this.#options = options;
    this.name = name;
    this.id = id;
    this.hex = toHex(id);
    this.isSource = isSource;
    this.epoch = epoch;
    this.usedMs = now.nowMs;
    this.#nowMs = now.nowMs;
    this.sinceHlc = sinceHlc ?? hlcOf(now.wallMs - JOIN_SLACK_MS);
    this.firstCursor = deps.nextCursor(now);
    this.streams = new StreamTable(MAX_STREAMS, deps.counters, (stream) => {
      this.wants.forget(stream);
      this.recovery.forget(stream);
    });
    this.cache = new MessageCache({
      maxBytes: options.cacheBytesPerTopic,
      maxMessages: options.cacheMessagesPerTopic,
    });
    this.tree = new TopicTree({
      random: deps.random,
      counters: deps.counters,
      isSource,
      hasFullView: options.hasFullView,
      graft: (peer, isEager, isNeeded) =>
        this.#control(this.#nowMs, peer, { type: "graft", isEager, isSource, isNeeded }),
      prune: (peer, isDrop, backoffMs) => this.#control(this.#nowMs, peer, { type: "prune", isDrop, backoffMs }),
      score: (peer) => deps.score(this.#nowMs, peer),
      isRefused: (peer) => deps.isRefused(this.#nowMs, peer),
      isCooled: (peer) => deps.isCooled(peer, this.hex),
    });
    this.wants = new Wants({
      random: deps.random,
      rttMs: (peer) => deps.rttMs(peer),
      ask: (nowMs, peer, entries) => {
        deps.counters.wanted += countEntries(entries);
        this.#control(nowMs, peer, { type: "iwant", since: this.sinceHlc, entries }, SendPriority.CONTROL);
      },
    });
    this.recovery = new Recovery({
      random: deps.random,
      counters: deps.counters,
      streams: this.streams,
      wants: this.wants,
      neighbours: () => this.tree.size,
      isUsable: (peer) => this.tree.link(peer) !== undefined && !deps.isCooled(peer, this.hex),
      send: (nowMs, peer, frame) => this.#control(nowMs, peer, frame),
      skipped: (nowMs, stream) => deps.advance(nowMs, this, stream),
    });
    this.#announcements = new Announcements({
      counters: deps.counters,
      audience: () => this.#audience(),
      announce: (nowMs, peer, entries, isOld) =>
        this.#control(nowMs, peer, { type: "ihave", isOld, entries }, SendPriority.CHATTER),
    });
    this.#answers = new Answers({
      topic: name,
      sinceHlc: this.sinceHlc,
      counters: deps.counters,
      streams: this.streams,
      cache: this.cache,
      answer: (nowMs, peer, frame) => deps.send(nowMs, peer, this.hex, frame, SendPriority.ANSWER),
      refuse: (nowMs, peer, frame) => this.#control(nowMs, peer, frame),
      noteHeard,
      read: (read) => deps.read(read),
    });
    this.#refreshDueMs = now.nowMs;
    this.#shortenMs = now.nowMs + SHORTEN_GAP_MS * deps.random.unit();
    this.#compareDueMs = isSource
      ? Number.POSITIVE_INFINITY
      : now.nowMs + options.compareIntervalMs * (0.5 + deps.random.unit());
  }

  get nextTimeoutMs(): number {
    return Math.min(
      this.#announcements.nextTimeoutMs,
      this.#refreshDueMs,
      this.#compareDueMs,
      this.wants.nextTimeoutMs,
      this.recovery.nextTimeoutMs,
    );
  }

  handleTimeout(now: Now): void {
    const { nowMs } = now;
    this.#nowMs = nowMs;
    this.#announcements.handleTimeout(nowMs);
    this.wants.handleTimeout(nowMs);
    this.recovery.handleTimeout(nowMs);
    if (nowMs >= this.#refreshDueMs) this.#refresh(nowMs);
    if (nowMs >= this.#compareDueMs) {
      this.#compareDueMs = nowMs + this.#options.compareIntervalMs * (0.75 + 0.5 * this.#deps.random.unit());
      this.streams.expire(nowMs);
      const link = this.tree.anyLink();
      if (link !== undefined) this.recovery.compare(nowMs, link.peer);
    }
  }

  /** The directory knows more subscribers now. */
  subscribersChanged(nowMs: number): void {
    // who said that it does not take part may do so since
    if (this.tree.size === 0) this.tree.forgive();
    if (this.tree.size < MIN_LINKS) this.#refreshDueMs = Math.min(this.#refreshDueMs, nowMs);
  }

  /** One of this node's own. @returns how many it was pushed to at once */
  publish(now: Now, message: MessageFrame, frame: Uint8Array): number {
    this.#nowMs = now.nowMs;
    this.usedMs = now.nowMs;
    // nobody to hand it to: look again, sooner than without a message
    if (this.tree.size === 0) this.#refreshDueMs = Math.min(this.#refreshDueMs, now.nowMs + FIRST_RETRY_MS);
    const stream = this.streams.open(now.nowMs, message.publisher, message.epoch, hlcOf(now.wallMs));
    return this.#accept(now, stream, message, frame, undefined, false);
  }

  stateOf(message: MessageFrame): "new" | "known" | "old" {
    const stream = this.streams.find(message.publisher, message.epoch);
    if (stream !== undefined) return stream.window.has(message.sequence) ? "known" : "new";
    return this.streams.isTooOld(message.publisher, message.epoch, message.hlc) ? "old" : "new";
  }

  /** A message with a good signature that was new when its check began. */
  receive(now: Now, from: PeerKey, message: MessageFrame, frame: Uint8Array): void {
    const { nowMs } = now;
    this.#nowMs = nowMs;
    const isPush = message.type === FrameType.PUSH;
    if (this.isSource) {
      // whoever pushes here takes this node for a subscriber
      if (isPush) this.tree.onDuplicate(nowMs, from);
      return;
    }
    if (this.stateOf(message) !== "new") return this.duplicate(nowMs, from, message);
    const known = this.streams.find(message.publisher, message.epoch);
    const stream = known ?? this.streams.open(nowMs, message.publisher, message.epoch, hlcOf(now.wallMs), from);
    const want = this.wants.arrived(stream, message.sequence);
    this.#deps.firstDelivery(nowMs, from);
    const isAnswer = message.type === FrameType.ANSWER;
    const isOld = isAnswer && want?.isOld !== false;
    if (isOld) this.#deps.counters.recovered++;
    else if (isAnswer) this.#deps.counters.pulled++;
    else this.recovery.noteArrival(nowMs);
    if (isPush || (isAnswer && !isOld)) this.#late = ((this.#late << 1) | (isAnswer ? 1 : 0)) & 0xff;
    if (isPush) {
      this.#isHurt = false;
      this.tree.onFirst(nowMs, from);
      if (want !== undefined && !want.isOld) {
        this.wants.noteLag(nowMs - want.sinceMs);
        this.#shorten(nowMs, from, want);
      }
    } else if (isAnswer && !isOld) this.#mend(nowMs, from);
    this.#accept(now, stream, message, frame, from, isOld, want);
  }

  duplicate(nowMs: number, from: PeerKey, message: MessageFrame): void {
    this.#nowMs = nowMs;
    this.#deps.counters.duplicates++;
    const stream = this.streams.find(message.publisher, message.epoch);
    const cached = stream === undefined ? undefined : this.cache.get(stream.ref, message.sequence);
    noteHeard(cached, from);
    if (message.type === FrameType.ANSWER) return;
    if (cached?.announcedMs !== undefined) {
      // it was asked for too early: the tree would have brought it
      this.wants.noteLag(nowMs - cached.announcedMs);
      cached.announcedMs = undefined;
      return;
    }
    if (message.type === FrameType.PUSH) this.tree.onDuplicate(nowMs, from);
  }

  handle(now: Now, from: PeerKey, frame: ControlFrame): void {
    const { nowMs } = now;
    this.#nowMs = nowMs;
    switch (frame.type) {
      case "ihave":
        if (!this.isSource && this.tree.link(from) !== undefined) this.#onHave(nowMs, from, frame.entries, frame.isOld);
        return;
      case "iwant":
        return this.#answers.onWant(nowMs, from, frame.entries, frame.since);
      case "none":
        return this.#onNone(nowMs, from, frame.entries, frame.reason);
      case "graft":
        return this.tree.onGraft(nowMs, from, frame.isEager, frame.isSource, frame.isNeeded);
      case "prune":
        if (this.tree.onPrune(nowMs, from, frame.isDrop, frame.backoffMs)) this.#repair(nowMs);
        return;
      case "digest":
        if (this.#mayCompare(nowMs, from)) this.recovery.onDigest(nowMs, from, frame.ranges);
        return;
      case "list":
        if (this.tree.link(from) !== undefined && !this.isSource) this.recovery.onList(nowMs, from, frame);
        return;
      case "probe":
        this.#control(nowMs, from, { type: "echo", nonce: frame.nonce });
        return;
      case "echo":
    }
  }

  /** Comparing costs: neighbours only, and each not too often. */
  #mayCompare(nowMs: number, peer: PeerKey): boolean {
    const link = this.tree.link(peer);
    if (link === undefined || this.isSource || nowMs - link.comparedMs < COMPARE_GAP_MS) return false;
    link.comparedMs = nowMs;
    return true;
  }

  /** What the retained log had of a question. */
  logRead(nowMs: number, read: LogRead, frames: readonly Uint8Array[]): void {
    this.#nowMs = nowMs;
    this.#answers.logRead(nowMs, read, frames);
  }

  peerDown(nowMs: number, peer: PeerKey): void {
    this.#nowMs = nowMs;
    const wasEager = this.tree.link(peer)?.isEager === true;
    if (!this.tree.remove(peer)) return;
    this.lost.add(peer);
    if (this.lost.size > MAX_LOST) {
      const [first] = this.lost;
      this.lost.delete(first);
    }
    if (wasEager) this.#isHurt = true;
    this.#repair(nowMs);
  }

  /** A neighbour lost earlier is back. */
  peerUp(nowMs: number, peer: PeerKey): void {
    this.#nowMs = nowMs;
    for (const made of this.tree.seek(nowMs, [peer], false, 1)) this.#greet(nowMs, made);
  }

  cooled(nowMs: number, peer: PeerKey, forMs: number): void {
    this.#nowMs = nowMs;
    this.tree.demote(nowMs, peer, forMs);
  }

  /** A control frame that goes to a cooled peer all the same. */
  probe(nowMs: number, peer: PeerKey, nonce: number): void {
    this.#control(nowMs, peer, { type: "probe", nonce });
  }

  leave(nowMs: number): void {
    this.#nowMs = nowMs;
    this.tree.leave();
  }

  // ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  #accept(
    now: Now,
    stream: PublisherStream,
    message: MessageFrame,
    frame: Uint8Array,
    from: PeerKey | undefined,
    isOld: boolean,
    want?: Want,
  ): number {
    const { nowMs } = now;
    const { counters } = this.#deps;
    const { sequence } = message;
    const topBefore = Math.max(stream.window.top, stream.window.floor);
    counters.abandoned += stream.add(sequence);
    stream.lastMs = nowMs;
    if (message.hlc > stream.hlc) stream.hlc = message.hlc;
    if (from !== undefined && sequence > topBefore + 1) this.#noteGap(nowMs, stream, topBefore + 1, sequence - 1, from);
    const cached: CachedMessage = {
      ref: stream.ref,
      sequence,
      hlc: message.hlc,
      // what came late goes on, but says nothing about the shape of the tree
      frame: message.type === FrameType.ANSWER ? asType(frame, FrameType.RELAY) : frame,
      cursor: this.#deps.nextCursor(now),
      heard: from === undefined ? [] : [from, ...(want?.providers ?? []).filter((peer) => peer !== from)],
      announcedMs: want !== undefined && !want.isOld && want.asked > 0 ? want.sinceMs : undefined,
    };
    counters.cacheEvicted += this.cache.add(cached);
    this.#deps.deliver(
      now,
      this,
      stream,
      {
        topic: this.name,
        ref: stream.ref,
        publisher: stream.publisher ?? message.publisher,
        agent: message.agent,
        epoch: message.epoch,
        sequence,
        hlc: message.hlc,
        payload: message.payload,
        cursor: cached.cursor,
      },
      cached.frame,
    );
    let pushed = 0;
    if (!isOld) {
      for (const link of this.tree.links()) {
        if (!link.isEager || link.isSource || hasHeard(cached, link.peer)) continue;
        cached.heard?.push(link.peer);
        this.#deps.send(nowMs, link.peer, this.hex, cached.frame, SendPriority.PUSH);
        counters.forwards++;
        pushed++;
      }
    }
    this.#announcements.add(nowMs, cached, isOld);
    return pushed;
  }

  #noteGap(nowMs: number, stream: PublisherStream, from: number, to: number, peer: PeerKey): void {
    this.recovery.noteMissing(nowMs, stream, to, peer);
    if (to - from >= MAX_GAP) return;
    for (let sequence = from; sequence <= to; sequence++)
      if (!stream.window.has(sequence)) this.wants.announced(nowMs, stream, sequence, peer);
  }

  /** Messages come late: the one who had this one would be a better parent. */
  #mend(nowMs: number, from: PeerKey): void {
    let late = 0;
    for (let rest = this.#late; rest !== 0; rest &= rest - 1) late++;
    if (this.tree.eager > 0 && !this.#isHurt && late < LATE_FOR_GRAFT) return;
    if (!this.tree.graft(nowMs, from, late >= LATE_FOR_FORCED_GRAFT)) return;
    this.#late = 0;
    this.#isHurt = false;
  }

  /**
   * A neighbour had it long before the one who pushed it: the way over that one is shorter. It had it without this node, so it is on the
   * other side of the link that is given up, and the tree stays one.
   */
  #shorten(nowMs: number, from: PeerKey, want: Want): void {
    if (nowMs - want.sinceMs < SHORTER_MS) {
      this.#slow = 0;
      return;
    }
    if (++this.#slow < SLOW_IN_A_ROW || nowMs < this.#shortenMs) return;
    this.#slow = 0;
    if (this.tree.link(from)?.isEager !== true || !this.tree.graft(nowMs, want.providers[0], false)) return;
    this.#shortenMs = nowMs + SHORTEN_GAP_MS * (0.5 + this.#deps.random.unit());
    this.tree.demote(nowMs, from, SHORTEN_GAP_MS);
  }

  *#audience(): Iterable<PeerKey> {
    if (this.#options.hasFullView) return;
    for (const link of this.tree.links())
      if (!link.isSource && !this.#deps.isCooled(link.peer, this.hex)) yield link.peer;
  }

  #onHave(nowMs: number, from: PeerKey, entries: readonly Entry[], isOld: boolean): void {
    for (const { ref, from: first, to: last } of entries) {
      const stream = this.streams.claim(nowMs, ref);
      if (stream.publisher === undefined) stream.lastMs = nowMs;
      if (last - first < MAX_NEWS) {
        let isMissing = false;
        for (let sequence = first; sequence <= last; sequence++) {
          if (stream.window.has(sequence)) {
            noteHeard(this.cache.get(ref, sequence), from);
            continue;
          }
          isMissing = true;
          if (!isOld) this.wants.announced(nowMs, stream, sequence, from);
        }
        if (isMissing) this.recovery.noteMissing(nowMs, stream, last, from);
      } else this.recovery.noteMissing(nowMs, stream, last, from);
    }
  }

  #onNone(nowMs: number, from: PeerKey, entries: readonly Entry[], reason: NoneReason): void {
    for (const { ref, from: first, to: last } of entries) {
      const stream = this.streams.byRef(ref);
      // only who was asked may say no
      if (stream === undefined || !stream.wants.values().some((want) => want.providers[want.asked - 1] === from))
        continue;
      if (reason !== NoneReason.BEFORE) {
        if (reason === NoneReason.GONE && first <= stream.window.floor + 1) stream.refusals.add(from);
        stream.disown(from);
        this.wants.refused(nowMs, stream, first, last, from);
        continue;
      }
      if (first > stream.window.floor + 1) continue;
      // never over a message that was seen with its signature, and never beyond the first hole
      const upTo = stream.publisher === undefined ? last : Math.min(last, (stream.window.ranges()[0]?.from ?? 0) - 1);
      if (upTo <= stream.window.floor) {
        this.wants.refused(nowMs, stream, first, last, from);
        continue;
      }
      stream.skipTo(upTo);
      this.wants.settle(stream);
      this.#deps.advance(nowMs, this, stream);
    }
  }

  // ── links ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #refresh(nowMs: number): void {
    const { tree } = this;
    const isFirst = !this.#hasJoined || tree.size === 0;
    const lacking = TopicTree.firstLinks - tree.size;
    const wanted = this.#options.hasFullView
      ? Number.MAX_SAFE_INTEGER
      : isFirst
        ? TopicTree.firstLinks
        : Math.max(1, lacking);
    // some of the sample are neighbours already
    const known = this.#deps.sample(this.name, this.#options.hasFullView ? wanted : wanted + tree.size + 2);
    const made = tree.seek(nowMs, known, isFirst, wanted);
    if (made.length > 0) {
      this.#hasJoined = true;
      if (isFirst && !this.isSource) this.#greet(nowMs, made[this.#deps.random.u32() % made.length]);
      else for (const peer of made) this.#greet(nowMs, peer);
    }
    tree.ensureEager(nowMs);
    const isFew = tree.size < MIN_LINKS;
    // as long as links are few: soon again, slower and slower
    this.#retryMs = isFew ? Math.min(this.#options.refreshIntervalMs, this.#retryMs * 2) : FIRST_RETRY_MS;
    const waitMs = isFew ? this.#retryMs : this.#options.refreshIntervalMs;
    this.#refreshDueMs = nowMs + waitMs * (0.75 + 0.5 * this.#deps.random.unit());
  }

  /** A new neighbour: do both know the same? */
  #greet(nowMs: number, peer: PeerKey): void {
    if (!this.isSource) return this.recovery.compare(nowMs, peer);
    // what was published before anybody was known
    const entries: Entry[] = [];
    for (const message of this.cache.latest(MAX_ANSWER_MESSAGES)) extendEntries(entries, message.ref, message.sequence);
    if (entries.length > 0) this.#control(nowMs, peer, { type: "ihave", isOld: false, entries });
  }

  /** Links have gone. */
  #repair(nowMs: number): void {
    this.tree.ensureEager(nowMs);
    if (this.tree.size === 0) this.#retryMs = URGENT_RETRY_MS;
    if (this.tree.size < MIN_LINKS)
      this.#refreshDueMs = Math.min(this.#refreshDueMs, nowMs + this.#retryMs * (0.5 + this.#deps.random.unit()));
  }

  #control(nowMs: number, peer: PeerKey, frame: TopicFrame, priority: SendPriority = SendPriority.CONTROL): void {
    const bytes = encodeControlFrame({ ...frame, topic: this.hex });
    this.#deps.send(nowMs, peer, this.hex, bytes, priority);
  }
}
