/**
 * Publish/subscribe of one node: topics, peers, checks and bounds around topic.ts. Sans-I/O: frames and time come in, outputs go out.
 *
 *   receive(frame) → receive queue → decode → known? → signature (verify) → topic → outputs "send" → transport → sent(ticket)
 *
 * Guarantees: a message is delivered at most once per subscriber and only with its publisher's signature, the publisher being a member;
 * nothing that a peer or a subscriber does or fails to do makes another one wait; every queue has a bound and a counter.
 * Source: docs/protocol.md, "Publish/subscribe".
 */
import { utf8 } from "../../base/bytes.ts";
import type { Now } from "../../base/clock.ts";
import { WeftError } from "../../base/errors.ts";
import { MAX_TOPIC_BYTES } from "../directory/types.ts";
import { type Copy, SignatureChecks } from "./checks.ts";
import { Cooling } from "./cooling.ts";
import { decodeControlFrame, FrameType } from "./frames.ts";
import {
  decodeMessage,
  encodeMessage,
  HybridClock,
  hlcOf,
  isMessage,
  MAX_SEQUENCE,
  type MessageFrame,
  streamRefOf,
  topicIdOf,
} from "./message.ts";
import { ReceiveQueue } from "./receive-queue.ts";
import { type PeerScore, ScoreBoard, ScoreKind } from "./scores.ts";
import { Senders } from "./senders.ts";
import { MAX_SUBSCRIBERS, type Subscriber, Subscribers } from "./subscribers.ts";
import { MAX_SKEW_MS, Topic } from "./topic.ts";
import {
  type LogRead,
  MAX_PAYLOAD_BYTES,
  newPubSubCounters,
  type PeerKey,
  type PubSubCounters,
  type PubSubDeps,
  type PubSubOptions,
  type PubSubOutput,
  type SendFate,
  SendPriority,
  type SendTicket,
  type SubscribeOptions,
  type SubscriberEvent,
} from "./types.ts";

const DEFAULT_RTT_MS = 200;
/** A topic without subscribers here is kept so long after the last message was published to it. */
const SOURCE_MS = 600_000;
const SWEEP_MS = 5000;
/** Cursors follow the wall clock, so they grow over restarts; 15 digits for two centuries. */
const CURSORS_PER_MS = 64;
/** A message moves the clock of this node's own no further ahead of the wall than this, however far it is from the future itself. */
const MAX_LEAD_MS = 60_000;
/** Reads of the retained log under way. */
const MAX_READS = 32;

export interface Published {
  /** Of this node's stream in the topic. */
  readonly ref: string;
  readonly epoch: number;
  readonly sequence: number;
  readonly hlc: number;
  readonly cursor: number;
  /** Neighbours it was pushed to at once. */
  readonly neighbours: number;
}

export class PubSub {
  readonly counters: PubSubCounters = newPubSubCounters();
  readonly #deps: PubSubDeps;
  readonly #options: Required<PubSubOptions>;
  readonly #clock: HybridClock = new HybridClock();
  readonly #topics = new Map<string, Topic>();
  readonly #byName = new Map<string, Topic>();
  readonly #senders: Senders;
  readonly #scores = new ScoreBoard();
  readonly #cooling: Cooling;
  readonly #subscribers: Subscribers;
  readonly #queue: ReceiveQueue;
  readonly #checks: SignatureChecks;
  #lastEpoch = 0;
  #reads = 0;
  #lastMs = 0;
  #notHereMs: number = Number.NEGATIVE_INFINITY;
  #cursor = 0;
  #outputs: PubSubOutput[] = [];
  #outputHead = 0;
  #dueMs: number = Number.POSITIVE_INFINITY;
  #sweepMs: number = Number.POSITIVE_INFINITY;

  constructor(deps: PubSubDeps, now: Now, options: PubSubOptions = {}) {
    this.#deps = deps;
    this.#options = Object.freeze({
      maxTopics: 1024,
      cacheBytesPerTopic: 4 * 1_048_576,
      cacheBytes: 64 * 1_048_576,
      cacheMessagesPerTopic: 8192,
      receiveBytes: 8 * 1_048_576,
      receiveFrames: 8192,
      maxVerifying: 1024,
      compareIntervalMs: 30_000,
      refreshIntervalMs: 60_000,
      hasLog: false,
      hasFullView: false,
      ...options,
    });
    this.#cursor = Math.floor(now.wallMs) * CURSORS_PER_MS;
    this.#subscribers = new Subscribers(this.counters, (subscription) => this.#emit({ kind: "wake", subscription }));
    this.#queue = new ReceiveQueue(
      { maxBytes: this.#options.receiveBytes, maxFrames: this.#options.receiveFrames },
      this.counters,
      (level, text) => this.#emit({ kind: "log", level, text }),
    );
    this.#senders = new Senders({
      counters: this.counters,
      rttMs: (peer) => this.#rttMs(peer),
      judge: (ticket, isInTime) => {
        this.#scores.note(this.#lastMs, ticket.peer, isInTime ? ScoreKind.SEND : ScoreKind.TIMEOUT);
        this.#cooling.noteSend(this.#lastMs, ticket.peer, ticket.topic, isInTime);
      },
      send: (ticket) => this.#emit({ kind: "send", ticket }),
    });
    this.#checks = new SignatureChecks({
      verify: (id, publisher, body, signature) => deps.verify(id, publisher, body, signature),
      good: (when, copy) => this.#accept(when, copy),
      bad: (when, from) => this.#invalidSignature(when, from),
      duplicate: (when, { topic, from, message }) => topic.duplicate(when.nowMs, from, message),
    });
    this.#cooling = new Cooling({
      mayCool: (peer, topic) => this.#topics.get(topic)?.tree.mayDemote(this.#lastMs, peer) ?? true,
      cooled: (nowMs, peer, topic, forMs) => {
        this.counters.coolings++;
        this.#scores.note(nowMs, peer, ScoreKind.COOLING);
        this.#topics.get(topic)?.cooled(nowMs, peer, forMs);
        this.#senders.clear(peer, topic);
      },
      probe: (nowMs, peer, topic) => {
        const nonce = this.#deps.random.u32();
        this.#topics.get(topic)?.probe(nowMs, peer, nonce);
        return nonce;
      },
      recovered: () => {
        this.counters.recoveries++;
      },
    });
  }

  // ── programs of this machine ─────────────────────────────────────────────────────────────────────────────────────────

  /**
   * @param payload at most 64 KiB, not to be changed any more @param agent 32 bytes
   * @throws WeftError TOPIC_INVALID, TOPIC_LIMIT, MESSAGE_TOO_BIG
   */
  publish(now: Now, topicName: string, payload: Uint8Array, agent?: Uint8Array): Published {
    this.#lastMs = now.nowMs;
    if (payload.length > MAX_PAYLOAD_BYTES)
      throw new WeftError(
        "MESSAGE_TOO_BIG",
        `the message has ${payload.length} bytes, ${MAX_PAYLOAD_BYTES} are allowed`,
        "send a file, or several messages",
      );
    const topic = this.#topic(now, topicName, true);
    const sequence = topic.sequence + 1;
    if (sequence > MAX_SEQUENCE) throw new RangeError("no sequences are left");
    topic.sequence = sequence;
    const { epoch } = topic;
    const hlc = this.#clock.next(now.wallMs);
    const frame = encodeMessage(
      { topicId: topic.id, publisher: this.#deps.nodeId, agent, epoch, sequence, hlc, payload },
      (body) => this.#deps.sign(body),
    );
    this.counters.published++;
    this.counters.publishedBytes += payload.length;
    const neighbours = topic.publish(now, decodeMessage(frame) as MessageFrame, frame);
    this.#arm();
    return { ref: streamRefOf(this.#deps.nodeId, epoch), epoch, sequence, hlc, cursor: this.#cursor, neighbours };
  }

  /** @throws WeftError TOPIC_INVALID, TOPIC_LIMIT, SUBSCRIBER_LIMIT */
  subscribe(now: Now, topicName: string, options: SubscribeOptions = {}): Subscriber {
    this.#lastMs = now.nowMs;
    if (this.#subscribers.size >= MAX_SUBSCRIBERS)
      throw new WeftError("SUBSCRIBER_LIMIT", `${MAX_SUBSCRIBERS} subscriptions are open`, "close some of them");
    const topic = this.#topic(now, topicName, false);
    if (topic.isVolunteer && this.#subscribers.count(topicName) === 0)
      this.#emit({ kind: "follow", topic: topicName, role: "subscriber" });
    const subscriber = this.#subscribers.add(topicName, options);
    if (options.after !== undefined) this.#replay(now, topic, subscriber, options.after);
    this.#arm();
    return subscriber;
  }

  /** The subscription may be gone already. */
  unsubscribe(now: Now, id: number): void {
    this.#lastMs = now.nowMs;
    const name = this.#subscribers.remove(id);
    const topic = name === undefined ? undefined : this.#byName.get(name);
    if (topic === undefined) return;
    if (topic.isVolunteer) {
      this.#emit({ kind: "follow", topic: topic.name, role: "volunteer" });
      return;
    }
    this.#leave(now, topic);
  }

  /** Carries a topic without listening to it, until withdrawn. @throws WeftError TOPIC_INVALID, TOPIC_LIMIT */
  volunteer(now: Now, topicName: string, isCarried: boolean): void {
    this.#lastMs = now.nowMs;
    if (!isCarried) {
      const topic = this.#byName.get(topicName);
      if (topic === undefined) return;
      topic.isVolunteer = false;
      if (this.#subscribers.count(topicName) === 0) this.#leave(now, topic);
      return;
    }
    const topic = this.#topic(now, topicName, false);
    topic.isVolunteer = true;
    if (this.#subscribers.count(topicName) === 0) this.#emit({ kind: "follow", topic: topicName, role: "volunteer" });
    this.#arm();
  }

  poll(subscription: number): SubscriberEvent | undefined {
    return this.#subscribers.get(subscription)?.poll();
  }

  // ── peers ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Never waits and never throws. @param frame of an authenticated peer; anything may be in it, kept */
  receive(now: Now, from: PeerKey, frame: Uint8Array): void {
    this.#lastMs = now.nowMs;
    if (this.#scores.isRefused(now.nowMs, from)) {
      this.counters.refused++;
      return;
    }
    this.#queue.push(now.nowMs, from, frame);
  }

  /** Works off what was received. @returns whether something is left */
  process(now: Now, maxFrames: number): boolean {
    this.#lastMs = now.nowMs;
    for (let i = 0; i < maxFrames; i++) {
      if (this.#checks.size >= this.#options.maxVerifying) return false;
      const next = this.#queue.shift();
      if (next === undefined) break;
      this.#handle(now, next.from, next.frame);
    }
    this.#arm();
    return this.#queue.frames > 0;
  }

  /** The verdict about a signature. */
  verified(now: Now, id: number, isGood: boolean): void {
    this.#lastMs = now.nowMs;
    this.#checks.verified(now, id, isGood);
    this.#arm();
  }

  /** What the retained log had; every output "read" is answered once. @param frames of that stream, ascending */
  logRead(now: Now, read: LogRead, frames: readonly Uint8Array[]): void {
    this.#lastMs = now.nowMs;
    this.#reads = Math.max(0, this.#reads - 1);
    this.#byName.get(read.topic)?.logRead(now.nowMs, read, frames);
    this.#arm();
  }

  sent(now: Now, ticket: SendTicket, fate: SendFate): void {
    this.#lastMs = now.nowMs;
    this.#senders.done(now.nowMs, ticket, fate);
    this.#arm();
  }

  peerUp(now: Now, peer: PeerKey): void {
    this.#lastMs = now.nowMs;
    for (const topic of this.#topics.values()) if (topic.lost.delete(peer)) topic.peerUp(now.nowMs, peer);
    this.#arm();
  }

  peerDown(now: Now, peer: PeerKey): void {
    this.#lastMs = now.nowMs;
    for (const topic of this.#topics.values()) topic.peerDown(now.nowMs, peer);
    this.#senders.forget(peer);
    this.#cooling.forgetPeer(peer);
    this.#arm();
  }

  /** It is no member any more. */
  peerGone(now: Now, peer: PeerKey): void {
    this.peerDown(now, peer);
    for (const topic of this.#topics.values()) topic.lost.delete(peer);
    this.#scores.forget(peer);
  }

  /** The directory knows other subscribers of the topic now. */
  subscribersChanged(now: Now, topicName: string): void {
    this.#byName.get(topicName)?.subscribersChanged(now.nowMs);
    this.#arm();
  }

  // ── time and outputs ─────────────────────────────────────────────────────────────────────────────────────────────────

  get nextTimeoutMs(): number {
    return this.#dueMs;
  }

  handleTimeout(now: Now): void {
    const { nowMs } = now;
    this.#lastMs = nowMs;
    for (const topic of this.#topics.values()) if (nowMs >= topic.nextTimeoutMs) topic.handleTimeout(now);
    this.#cooling.handleTimeout(nowMs);
    this.#subscribers.handleTimeout(nowMs);
    this.#senders.handleTimeout(nowMs);
    if (nowMs >= this.#sweepMs) this.#sweep(now);
    this.#arm();
  }

  pollOutput(): PubSubOutput | undefined {
    const output = this.#outputs[this.#outputHead];
    if (output === undefined) {
      if (this.#outputHead > 0) {
        this.#outputs = [];
        this.#outputHead = 0;
      }
      return undefined;
    }
    this.#outputHead++;
    return output;
  }

  // ── for the diagnostics ──────────────────────────────────────────────────────────────────────────────────────────────

  topics(): readonly Topic[] {
    return [...this.#topics.values()];
  }

  topic(name: string): Topic | undefined {
    return this.#byName.get(name);
  }

  subscribers(): readonly Subscriber[] {
    return [...this.#subscribers.values()];
  }

  scores(nowMs: number): readonly PeerScore[] {
    return [...this.#scores.snapshot(nowMs).values()];
  }

  cooled(): ReturnType<Cooling["list"]> {
    return this.#cooling.list();
  }

  /** What waits right now. */
  get gauges(): {
    readonly receiveFrames: number;
    readonly receiveBytes: number;
    readonly verifying: number;
    readonly cacheBytes: number;
    readonly sendQueuedBytes: number;
  } {
    return {
      receiveFrames: this.#queue.frames,
      receiveBytes: this.#queue.bytes,
      verifying: this.#checks.size,
      cacheBytes: this.#sumCache(),
      sendQueuedBytes: this.#senders.queuedBytes,
    };
  }

  // ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #handle(now: Now, from: PeerKey, frame: Uint8Array): void {
    if (isMessage(frame[0])) {
      const message = decodeMessage(frame);
      if (message === undefined) return this.#invalidFrame(now, from);
      return this.#onMessage(now, from, message, frame);
    }
    const control = decodeControlFrame(frame);
    if (control === undefined) return this.#invalidFrame(now, from);
    const topic = this.#topics.get(control.topic);
    if (topic === undefined) {
      this.counters.unknownTopics++;
      // a neighbour of a topic that was left: it had better know
      if (control.type !== "prune" && control.type !== "none" && control.type !== "echo")
        this.#notHere(now, from, control.topic);
      return;
    }
    if (control.type === "echo") {
      if (this.#cooling.isEcho(from, control.topic, control.nonce))
        this.#cooling.noteVerified(now.nowMs, from, control.topic);
      return;
    }
    topic.handle(now, from, control);
  }

  #onMessage(now: Now, from: PeerKey, message: MessageFrame, frame: Uint8Array): void {
    const topic = this.#topics.get(message.topic);
    if (topic === undefined) {
      this.counters.unknownTopics++;
      return this.#notHere(now, from, message.topic);
    }
    const state = topic.stateOf(message);
    if (state === "known") return topic.duplicate(now.nowMs, from, message);
    const copy = { topic, from, message, frame };
    if (this.#checks.joins(now, copy)) return;
    const oldest = hlcOf(now.wallMs - MAX_SKEW_MS);
    if (state === "old" || message.hlc < Math.min(oldest, topic.sinceHlc)) {
      this.counters.tooOld++;
      return;
    }
    if (message.hlc > hlcOf(now.wallMs + MAX_SKEW_MS)) {
      this.counters.fromFuture++;
      return;
    }
    if (!this.#deps.isMember(message.publisher)) {
      this.counters.unknownPublishers++;
      return;
    }
    this.#checks.begin(now, copy);
  }

  #accept(now: Now, { topic, from, message, frame }: Copy): void {
    // the topic may have been left while the signature was checked
    if (this.#topics.get(topic.hex) !== topic) return;
    this.#clock.see(Math.min(message.hlc, hlcOf(now.wallMs + MAX_LEAD_MS)));
    this.#cooling.noteVerified(now.nowMs, from, topic.hex);
    topic.receive(now, from, message, frame);
  }

  #invalidFrame(now: Now, from: PeerKey): void {
    this.counters.invalidFrames++;
    this.#punish(now, from);
  }

  #invalidSignature(now: Now, from: PeerKey): void {
    this.counters.invalidSignatures++;
    this.#punish(now, from);
  }

  #punish(now: Now, from: PeerKey): void {
    this.#scores.note(now.nowMs, from, ScoreKind.INVALID);
    if (!this.#scores.isRefused(now.nowMs, from)) return;
    for (const topic of this.#topics.values()) topic.peerDown(now.nowMs, from);
  }

  /** @throws WeftError TOPIC_INVALID, TOPIC_LIMIT */
  #topic(now: Now, name: string, isSource: boolean): Topic {
    const known = this.#byName.get(name);
    if (known !== undefined && (isSource || !known.isSource)) return known;
    const bytes = utf8(name).length;
    if (bytes === 0 || bytes > MAX_TOPIC_BYTES || /\p{Cc}/u.test(name))
      throw new WeftError(
        "TOPIC_INVALID",
        `a topic's name has 1 to ${MAX_TOPIC_BYTES} bytes and no control characters`,
        "choose another name",
      );
    if (known === undefined && this.#topics.size >= this.#options.maxTopics && !this.#leaveIdleSource(now))
      throw new WeftError("TOPIC_LIMIT", `${this.#options.maxTopics} topics are in use`, "leave some of them");
    // who only published takes part as a whole now: links are made anew
    if (known !== undefined) known.leave(now.nowMs);
    const topic = new Topic(
      {
        random: this.#deps.random,
        counters: this.counters,
        sample: (topicName, count) => this.#deps.directory.sample(topicName, count),
        rttMs: (peer) => this.#rttMs(peer),
        score: (nowMs, peer) => this.#scores.score(nowMs, peer),
        isRefused: (nowMs, peer) => this.#scores.isRefused(nowMs, peer),
        isCooled: (peer, hex) => this.#cooling.isCooled(peer, hex),
        send: (nowMs, peer, hex, frame, priority) => this.#senders.send(nowMs, peer, hex, frame, priority),
        deliver: (when, one, stream, message, frame) => {
          this.counters.deliveries++;
          this.#subscribers.deliver(when.nowMs, stream.ref, message, stream.window.floor);
          if (this.#options.hasLog && !one.isSource) this.#emit({ kind: "retain", message, frame });
          if (one.isSource) one.usedMs = when.nowMs;
        },
        advance: (nowMs, one, stream) => this.#subscribers.advance(nowMs, one.name, stream.ref, stream.window.floor),
        firstDelivery: (nowMs, peer) => this.#scores.note(nowMs, peer, ScoreKind.FIRST),
        read: (read) => {
          if (!this.#options.hasLog || this.#reads >= MAX_READS) return false;
          this.#reads++;
          this.#emit({ kind: "read", read });
          return true;
        },
        nextCursor: (when) => {
          this.#cursor = Math.max(this.#cursor + 1, Math.floor(when.wallMs) * CURSORS_PER_MS);
          return this.#cursor;
        },
      },
      this.#options,
      now,
      name,
      topicIdOf(name),
      isSource,
      this.#nextEpoch(now),
    );
    this.#topics.set(topic.hex, topic);
    this.#byName.set(name, topic);
    this.#emit({ kind: "follow", topic: name, role: isSource ? "source" : "subscriber" });
    if (this.#sweepMs === Number.POSITIVE_INFINITY) this.#sweepMs = now.nowMs + SWEEP_MS;
    return topic;
  }

  /** Makes room at the cost of the topic that only was published to, longest ago. */
  #leaveIdleSource(now: Now): boolean {
    let idle: Topic | undefined;
    for (const topic of this.#topics.values())
      if (topic.isSource && (idle === undefined || topic.usedMs < idle.usedMs)) idle = topic;
    if (idle === undefined) return false;
    this.#leave(now, idle);
    return true;
  }

  /** Never the same twice, also when the clock jumps back in between. */
  #nextEpoch(now: Now): number {
    this.#lastEpoch = Math.max(this.#lastEpoch + 1, Math.floor(now.wallMs));
    return this.#lastEpoch;
  }

  #leave(now: Now, topic: Topic): void {
    topic.leave(now.nowMs);
    this.#emit({ kind: "unfollow", topic: topic.name });
    this.#topics.delete(topic.hex);
    this.#byName.delete(topic.name);
    this.#cooling.forgetTopic(topic.hex);
    this.#arm();
  }

  #replay(now: Now, topic: Topic, subscriber: Subscriber, after: number): void {
    const messages = after < topic.firstCursor ? undefined : topic.cache.after(after);
    if (messages === undefined) {
      subscriber.push({ kind: "missed", after });
      this.#emit({ kind: "wake", subscription: subscriber.id });
      return;
    }
    for (const cached of messages) {
      const message = decodeMessage(cached.frame);
      if (message === undefined) continue;
      const { publisher, agent, epoch, sequence, hlc, payload } = message;
      const floor = topic.streams.byRef(cached.ref)?.window.floor ?? 0;
      const given = {
        topic: topic.name,
        ref: cached.ref,
        publisher,
        agent,
        epoch,
        sequence,
        hlc,
        payload,
        cursor: cached.cursor,
      };
      subscriber.take(now.nowMs, cached.ref, given, Math.min(floor, sequence - 1));
    }
    if (subscriber.waiting > 0) this.#emit({ kind: "wake", subscription: subscriber.id });
  }

  #notHere(now: Now, peer: PeerKey, topicHex: string): void {
    if (now.nowMs - this.#notHereMs < 10) return;
    this.#notHereMs = now.nowMs;
    const frame = new Uint8Array(20);
    frame[0] = FrameType.PRUNE;
    frame[1] = 1;
    frame.set(Uint8Array.fromHex(topicHex), 2);
    frame[18] = 60;
    this.#senders.send(now.nowMs, peer, topicHex, frame, SendPriority.CONTROL);
  }

  #rttMs(peer: PeerKey): number {
    return this.#deps.rttMs(peer) ?? DEFAULT_RTT_MS;
  }

  #sweep(now: Now): void {
    const { nowMs } = now;
    this.#sweepMs = this.#topics.size === 0 ? Number.POSITIVE_INFINITY : nowMs + SWEEP_MS;
    for (const topic of this.#topics.values()) {
      if (topic.isSource && nowMs - topic.usedMs > SOURCE_MS) {
        this.#leave(now, topic);
        continue;
      }
      for (const link of topic.tree.links()) {
        const waitMs = this.#senders.waitMs(nowMs, link.peer);
        if (waitMs !== undefined) this.#cooling.noteWait(nowMs, link.peer, topic.hex, waitMs);
      }
    }
    // over all topics: the largest gives
    while (this.#sumCache() > this.#options.cacheBytes) {
      let largest: Topic | undefined;
      for (const topic of this.#topics.values())
        if (largest === undefined || topic.cache.bytes > largest.cache.bytes) largest = topic;
      if (largest === undefined || largest.cache.size === 0) break;
      for (let i = 0; i < 64 && largest.cache.size > 0; i++) {
        largest.cache.dropOldest();
        this.counters.cacheEvicted++;
      }
    }
  }

  #sumCache(): number {
    let sum = 0;
    for (const topic of this.#topics.values()) sum += topic.cache.bytes;
    return sum;
  }

  #emit(output: PubSubOutput): void {
    this.#outputs.push(output);
  }

  #arm(): void {
    let due = Math.min(this.#cooling.nextTimeoutMs, this.#subscribers.nextTimeoutMs, this.#sweepMs);
    for (const topic of this.#topics.values()) if (topic.nextTimeoutMs < due) due = topic.nextTimeoutMs;
    this.#dueMs = Math.min(due, this.#senders.nextTimeoutMs);
  }
}
