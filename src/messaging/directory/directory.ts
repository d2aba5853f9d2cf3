/**
 * The directory machine. Sans-I/O: frames and time are arguments, outputs are polled. types.ts says what it is for; here is its course.
 *
 *   follow ──► round of visits ──► sample ──► shuffle with one of it, soon ──► … every one to five minutes
 *
 * A round begins with the first meeting node that is believed alive. It goes on to the next while few records (< 8) came, until three have answered or eight
 * were asked; who does not answer in 6 s is passed over for 5 minutes. The next round is due when the first that answered has said. So a popular topic costs its
 * followers one visit in a long time, and a rare one is at three places. When the roster has other meeting nodes, they are visited within seconds.
 * A visitor is not found and so must look: while it knows of nobody who is there, it comes after 5, 10, 20 s and then after a twentieth of what it was told
 * (30 s where few come). A meeting node that follows the topic itself knows at once who has come.
 * A shuffle swaps up to eight records, withdrawn ones among them, and the node's own with one other follower; a new follower begins with four, a second apart.
 * One that gave no answer twice is left alone for two minutes and sampled last; one that says that it does not follow is sampled no more until a newer
 * record of it comes.
 * Bounds: topics, records per topic and meetings by DirectoryOptions; 20 visits and 4 shuffles a second begun; 20 frames a second taken per sender (burst
 * 200), 200 visits a second served, 200 signatures a second checked, 50 of what one peer delivers (one that delivered 16 bad ones is cut off for a minute);
 * visits about a key are served by the first ten meeting nodes alone, others answer that they do not keep it ("again" 0); 256 withdrawn records and 1,024 silent nodes remembered.
 * Source: docs/protocol.md, "Directory".
 */
import type { Now } from "../../base/clock.ts";
import { equal, toHex, utf8 } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { Liveness } from "../membership/types.ts";
import { CheckBudget } from "../check-budget.ts";
import { SenderRates } from "../sender-rates.ts";
import { Agents } from "./agents.ts";
import {
  decodeDirectory,
  type DirectoryFrame,
  DirectoryType,
  encodeDirectory,
  RECORD_PURPOSE,
  recordBody,
  RecordRole,
  type TopicRecord,
} from "./frames.ts";
import { isMeetingNode, meetingNodes, topicKey } from "./keys.ts";
import { Meetings } from "./meetings.ts";
import { type Entry, expiresAtMs, hexOf, isThere, type RecordTable } from "./records.ts";
import { type Followed, newFollowed } from "./topic.ts";
import {
  type AgentPlace,
  type DirectoryCounters,
  type DirectoryDeps,
  type DirectoryOptions,
  type DirectoryOutput,
  MAX_TOPIC_BYTES,
  newDirectoryCounters,
  TopicRole,
} from "./types.ts";

/** Candidates of a round, and answers that end it. */
const CANDIDATES = 8;
const ANSWERS = 3;
/** Whoever holds a slightly different roster comes to one of these. */
const SERVING = CANDIDATES + 2;
const AGENT_MEETINGS = 3;
/** With so many records a round needs no second answer. */
const ENOUGH_RECORDS = 8;
const ANSWER_MS = 6000;
const SILENT_MS = 300_000;
const MAX_SILENT = 1024;
const MAX_WITHDRAWN = 256;
const SHUFFLE_RECORDS = 8;
const SHUFFLE_GROWTH = 5;
const SOON_MS = 1000;
const REJOIN_MS = 5000;
/** A visitor that knows of nobody looks again, first after this. */
const FIRST_LOOK_MS = 5000;
const LOOKS_PER_VISIT = 20;
const CHECK_MS = 3000;
const FIRST_RETRY_MS = 2000;
const LAST_RETRY_MS = 300_000;
const TELL_MS = 100;
const SCAN_MS = 20;
const EXPIRE_MS = 60_000;
const VISIT_DISTANCE_MS = 50;
const SHUFFLE_DISTANCE_MS = 250;
const MAX_MISSES = 2;
const UNANSWERED_MS = 120_000;
/** Others that a new follower shuffles with one after the other, so that they know it soon. */
const INTRODUCTIONS = 4;
const MAX_OUTPUTS = 16_384;

export class Directory {
  readonly counters: DirectoryCounters = newDirectoryCounters();
  readonly #deps: DirectoryDeps;
  readonly #options: Required<DirectoryOptions>;
  readonly #selfId: Uint8Array;
  readonly #selfHex: string;
  readonly #topics = new Map<string, Followed>();
  readonly #byKey = new Map<string, Followed>();
  /** By key: what this node said when it stopped following. */
  readonly #withdrawn = new Map<string, TopicRecord>();
  /** Meeting nodes that did not answer; until when they are passed over. */
  readonly #silent = new Map<string, number>();
  readonly #meetings: Meetings;
  readonly #agents: Agents;
  readonly #rates = new SenderRates(20, 200);
  readonly #served = new SenderRates(200, 400, 1);
  readonly #checks = new CheckBudget({ perSecond: 200, burst: 400, peerPerSecond: 50, peerBurst: 100 });
  #members: readonly Uint8Array[] | undefined;
  #outputs: DirectoryOutput[] = [];
  #outputAt = 0;
  /** No topic is due before. */
  #topicsDueMs: number = Number.POSITIVE_INFINITY;
  #scannedMs: number = Number.NEGATIVE_INFINITY;
  #visitGateMs: number = Number.NEGATIVE_INFINITY;
  #shuffleGateMs: number = Number.NEGATIVE_INFINITY;
  #expireAtMs: number = Number.NEGATIVE_INFINITY;

  constructor(deps: DirectoryDeps, options: DirectoryOptions = {}) {
    this.#deps = deps;
    this.#options = {
      maxTopics: options.maxTopics ?? 4096,
      sampleSize: options.sampleSize ?? 64,
      maxMeetings: options.maxMeetings ?? 4096,
      recordLifeMs: options.recordLifeMs ?? 1_800_000,
      shuffleMs: options.shuffleMs ?? 60_000,
    };
    this.#selfId = deps.signing.nodeId;
    this.#selfHex = toHex(this.#selfId);
    const againS = this.#options.recordLifeMs / 3000;
    this.#meetings = new Meetings(deps.random, this.#options.maxMeetings, againS, this.counters);
    this.#agents = new Agents(
      {
        selfId: this.#selfId,
        random: deps.random,
        openLease: deps.openLease,
        meetingNodes: (key) => this.#candidates(key, AGENT_MEETINGS),
        isMember: (nodeId) => deps.isMember(nodeId),
        isMeetingNode: (key) => isMeetingNode(key, this.#roster(), this.#selfId, SERVING),
        mayCheck: (now, peerHex) => this.#checks.take(now.nowMs, peerHex),
        send: (to, frame) => this.#send(to, frame),
        located: (agent, place) => this.#push({ kind: "located", agent, place }),
      },
      this.counters,
    );
  }

  /** @throws WeftError TOPIC_INVALID, TOPICS_FULL */
  follow(now: Now, name: string, role: TopicRole): void {
    const bytes = utf8(name).length;
    if (bytes === 0 || bytes > MAX_TOPIC_BYTES)
      throw new WeftError("TOPIC_INVALID", `a topic's name has ${bytes} bytes`, `use 1 to ${MAX_TOPIC_BYTES}`);
    let topic = this.#topics.get(name);
    if (topic === undefined) {
      if (this.#topics.size >= this.#options.maxTopics)
        throw new WeftError("TOPICS_FULL", `this node follows ${this.#topics.size} topics`, "leave one first");
      const { random } = this.#deps;
      const key = topicKey(this.#deps.networkId, name);
      topic = newFollowed(name, key, role, random, this.#options.sampleSize, this.#options.shuffleMs);
      this.#topics.set(name, topic);
      this.#byKey.set(topic.keyHex, topic);
      this.counters.topics = this.#topics.size;
    } else if (topic.role === role) return;
    topic.role = role;
    topic.own = undefined;
    topic.visitAtMs = now.nowMs;
    this.#due(now.nowMs);
  }

  unfollow(now: Now, name: string): void {
    const topic = this.#topics.get(name);
    if (topic === undefined) return;
    this.#topics.delete(name);
    this.#byKey.delete(topic.keyHex);
    this.counters.topics = this.#topics.size;
    this.counters.records -= topic.table.size;
    if (topic.own === undefined) return;
    const record = this.#sign(now, topic.key, RecordRole.NONE, topic.own.version + 1);
    remember(this.#withdrawn, topic.keyHex, record, MAX_WITHDRAWN);
    this.#meetings.withdraw(topic.key, this.#selfHex);
    const tell = new Map<string, Uint8Array>();
    for (const nodeId of this.#candidates(topic.key, ANSWERS)) tell.set(toHex(nodeId), nodeId);
    for (const { hex, record: known } of topic.table.pick(SHUFFLE_RECORDS, isThere)) tell.set(hex, known.node);
    tell.delete(this.#selfHex);
    for (const to of tell.values()) this.#send(to, { type: DirectoryType.WITHDRAW, key: topic.key, records: [record] });
  }

  /** See TopicDirectory. */
  sample(name: string, count: number): Uint8Array[] {
    const topic = this.#topics.get(name);
    if (topic === undefined) return [];
    const chosen = topic.table.pick(count, (entry) => isThere(entry) && !this.#isLost(entry));
    if (chosen.length < count)
      chosen.push(...topic.table.pick(count - chosen.length, (entry) => isThere(entry) && this.#isLost(entry)));
    return chosen.map((entry) => entry.record.node);
  }

  known(name: string): number {
    const topic = this.#topics.get(name);
    return topic === undefined ? 0 : countThere(topic.table);
  }

  notThere(now: Now, name: string, nodeId: Uint8Array): void {
    const topic = this.#topics.get(name);
    const entry = topic?.table.get(toHex(nodeId));
    if (topic === undefined || entry === undefined || !isThere(entry)) return;
    entry.isNotThere = true;
    this.#changed(now, topic);
  }

  announce(now: Now, lease: Uint8Array): void {
    this.#agents.announce(now, lease);
  }

  withdraw(agent: Uint8Array): void {
    this.#agents.withdraw(agent);
  }

  whereIs(wallMs: number, agent: Uint8Array): AgentPlace | undefined {
    return this.#agents.whereIs(wallMs, agent);
  }

  /** Answered by the output "located". */
  locate(now: Now, agent: Uint8Array, timeoutMs: number): void {
    this.#agents.locate(now, agent, timeoutMs);
  }

  membersChanged(now: Now): void {
    this.#members = undefined;
    this.#agents.membersChanged(now);
    const withinMs = CHECK_MS + this.#topics.size;
    for (const topic of this.#topics.values()) {
      topic.checkAtMs = Math.min(topic.checkAtMs, now.nowMs + withinMs * this.#deps.random.unit());
      this.#due(topic.checkAtMs);
    }
  }

  memberGone(now: Now, nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    this.#meetings.memberGone(hex);
    this.#agents.memberGone(nodeId);
    for (const topic of this.#topics.values()) {
      if (!topic.table.remove(hex)) continue;
      this.counters.records--;
      this.#changed(now, topic);
    }
  }

  /** A member that may have been away is there: topics that had to do without it as a meeting node visit it soon. */
  alive(now: Now, nodeId: Uint8Array): void {
    const hex = toHex(nodeId);
    this.#silent.delete(hex);
    for (const topic of this.#topics.values()) {
      // what was sent before it was there is lost
      if (topic.asked?.hex === hex) this.#ask(now, topic, nodeId);
      if (!topic.skipped.has(hex)) continue;
      topic.skipped.delete(hex);
      topic.visitAtMs = Math.min(topic.visitAtMs, now.nowMs + REJOIN_MS * this.#deps.random.unit());
      this.#due(topic.visitAtMs);
    }
  }

  /** @param bytes anything, from the authenticated peer `from` */
  handleFrame(now: Now, from: Uint8Array, bytes: Uint8Array): void {
    const hex = toHex(from);
    if (hex === this.#selfHex || !this.#deps.isMember(from)) {
      this.counters.framesRefused++;
      return;
    }
    if (!this.#rates.take(now.nowMs, hex)) {
      this.counters.framesOverRate++;
      return;
    }
    const frame = decodeDirectory(bytes);
    if (frame === undefined) {
      this.counters.framesRefused++;
      return;
    }
    this.counters.framesIn++;
    this.counters.bytesIn += bytes.length;
    switch (frame.type) {
      case DirectoryType.VISIT:
        return this.#handleVisit(now, from, hex, frame.key, frame.records);
      case DirectoryType.VISITED:
        return this.#handleVisited(now, hex, frame.key, frame.againS, frame.records);
      case DirectoryType.SHUFFLE:
        return this.#handleShuffle(now, from, hex, frame.key, frame.records);
      case DirectoryType.SHUFFLED:
        return this.#handleShuffled(now, hex, frame.key, frame.follows, frame.records);
      case DirectoryType.WITHDRAW:
        return this.#handleWithdraw(now, hex, frame.key, frame.records);
      case DirectoryType.LEASE:
        return this.#agents.handleLease(now, from, frame.lease);
      case DirectoryType.LOCATE:
        return this.#agents.handleLocate(now, from, frame.query, frame.agent);
      case DirectoryType.LOCATED:
        return this.#agents.handleLocated(now, hex, frame.query, frame.agent, frame.lease);
    }
  }

  handleTimeout(now: Now): void {
    this.#agents.handleTimeout(now);
    if (now.nowMs >= this.#expireAtMs) this.#expire(now);
    if (now.nowMs < Math.max(this.#topicsDueMs, this.#scannedMs + SCAN_MS)) return;
    this.#scannedMs = now.nowMs;
    this.#topicsDueMs = Number.POSITIVE_INFINITY;
    for (const topic of this.#topics.values()) {
      this.#serve(now, topic);
      this.#due(dueMs(topic));
    }
  }

  nextTimeoutMs(): number {
    const scanMs = Math.max(this.#topicsDueMs, this.#scannedMs + SCAN_MS);
    return Math.min(scanMs, Math.max(this.#expireAtMs, 0), this.#agents.nextTimeoutMs());
  }

  pollOutput(): DirectoryOutput | undefined {
    if (this.#outputAt < this.#outputs.length) return this.#outputs[this.#outputAt++];
    this.#outputs = [];
    this.#outputAt = 0;
    return undefined;
  }

  /** What one topic has to do now. */
  #serve(now: Now, topic: Followed): void {
    if (topic.isDirty && now.nowMs >= topic.toldMs + TELL_MS) {
      topic.isDirty = false;
      topic.toldMs = now.nowMs;
      this.#push({ kind: "subscribers", topic: topic.name });
    }
    const { asked, partner } = topic;
    if (asked !== undefined && now.nowMs >= asked.dueMs) {
      topic.asked = undefined;
      remember(this.#silent, asked.hex, now.nowMs + SILENT_MS, MAX_SILENT);
      topic.skipped.add(asked.hex);
      this.#visitNext(now, topic);
    }
    if (partner !== undefined && now.nowMs >= partner.dueMs) {
      topic.partner = undefined;
      const entry = topic.table.get(partner.hex);
      if (entry !== undefined && ++entry.misses >= MAX_MISSES) entry.silentUntilMs = now.nowMs + UNANSWERED_MS;
    }
    if (now.nowMs >= topic.checkAtMs) this.#check(now, topic);
    if (now.nowMs >= topic.visitAtMs && topic.round === undefined) this.#visit(now, topic);
    if (now.nowMs >= topic.shuffleAtMs && topic.partner === undefined) this.#shuffle(now, topic);
  }

  /** The roster has changed: who comes to the meeting nodes of today must find this node there. */
  #check(now: Now, topic: Followed): void {
    topic.checkAtMs = Number.POSITIVE_INFINITY;
    // a popular topic is found at its first meeting node, a rare one at three
    const count = countThere(topic.table) >= ENOUGH_RECORDS ? 1 : ANSWERS;
    const isKnown = (nodeId: Uint8Array): boolean => {
      const hex = toHex(nodeId);
      return hex === this.#selfHex || topic.met.has(hex) || topic.skipped.has(hex);
    };
    if (!meetingNodes(topic.key, this.#roster(), count).every(isKnown))
      topic.visitAtMs = Math.min(topic.visitAtMs, now.nowMs);
  }

  /** Begins a round. */
  #visit(now: Now, topic: Followed): void {
    if (now.nowMs < this.#visitGateMs) {
      topic.visitAtMs = this.#visitGateMs;
      return;
    }
    this.#visitGateMs = now.nowMs + VISIT_DISTANCE_MS;
    topic.visitAtMs = Number.POSITIVE_INFINITY;
    this.#renew(now, topic);
    topic.skipped.clear();
    topic.met.clear();
    const order = meetingNodes(topic.key, this.#roster(), CANDIDATES);
    topic.round = { order, next: 0, answers: 0, records: 0, againMs: 0 };
    this.#visitNext(now, topic);
  }

  #visitNext(now: Now, topic: Followed): void {
    const { round } = topic;
    if (round === undefined) return;
    while (round.next < round.order.length && round.answers < ANSWERS && round.records < ENOUGH_RECORDS) {
      const to = round.order[round.next++];
      const hex = toHex(to);
      if (hex === this.#selfHex) {
        const own = topic.own === undefined ? [] : [topic.own];
        const { againS, records: sample } = this.#receiveVisit(now, topic.key, hex, own);
        this.#takeAnswer(now, hex, topic, againS, sample);
        continue;
      }
      if ((this.#silent.get(hex) ?? 0) > now.nowMs || isGone(this.#deps.liveness(to))) {
        topic.skipped.add(hex);
        continue;
      }
      this.#ask(now, topic, to);
      return;
    }
    topic.round = undefined;
    topic.failures = round.answers === 0 ? topic.failures + 1 : 0;
    const waitMs =
      round.answers === 0
        ? Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(10, topic.failures)) * this.#jitter()
        : this.#waitMs(topic, round.againMs);
    topic.visitAtMs = Math.min(topic.visitAtMs, now.nowMs + waitMs);
    this.#due(topic.visitAtMs);
  }

  #ask(now: Now, topic: Followed, to: Uint8Array): void {
    this.counters.visits++;
    topic.asked = { hex: toHex(to), dueMs: now.nowMs + ANSWER_MS };
    this.#due(topic.asked.dueMs);
    const records = topic.own === undefined ? [] : [topic.own];
    this.#send(to, { type: DirectoryType.VISIT, key: topic.key, records });
  }

  /** Until the next round. @param againMs as the meeting node wants it */
  #waitMs(topic: Followed, againMs: number): number {
    if (!this.#mustLook(topic)) return againMs;
    return Math.min(againMs / LOOKS_PER_VISIT, FIRST_LOOK_MS * 2 ** Math.min(10, topic.looks++) * this.#jitter());
  }

  /** Nobody can come to this node, and it knows of nobody to go to. */
  #mustLook(topic: Followed): boolean {
    if (topic.role !== TopicRole.VISITOR) return false;
    if (topic.table.entries.every((entry) => !isThere(entry) || this.#isLost(entry))) return true;
    topic.looks = 0;
    return false;
  }

  #takeAnswer(now: Now, fromHex: string, topic: Followed, againS: number, records: readonly TopicRecord[]): void {
    const { round } = topic;
    if (round === undefined) return;
    round.answers++;
    round.records = Math.max(round.records, records.length);
    if (round.answers === 1) round.againMs = Math.min(86_400, Math.max(60, againS)) * 1000;
    if (this.#take(now, fromHex, topic.key, topic.table, records) > 0) this.#changed(now, topic);
  }

  #handleVisit(now: Now, from: Uint8Array, hex: string, key: Uint8Array, records: readonly TopicRecord[]): void {
    if (!this.#served.take(now.nowMs, "")) {
      this.counters.framesOverRate++;
      return;
    }
    if (!this.#meetings.has(toHex(key)) && !isMeetingNode(key, this.#roster(), this.#selfId, SERVING)) {
      this.counters.framesRefused++;
      this.#send(from, { type: DirectoryType.VISITED, key, againS: 0, records: [] });
      return;
    }
    this.counters.visitsServed++;
    const { againS, records: sample } = this.#receiveVisit(now, key, hex, records);
    this.#send(from, { type: DirectoryType.VISITED, key, againS, records: sample });
  }

  #receiveVisit(
    now: Now,
    key: Uint8Array,
    hex: string,
    records: readonly TopicRecord[],
  ): ReturnType<Meetings["visit"]> {
    const own = records.filter((record) => hexOf(record) === hex && record.role !== RecordRole.NONE);
    if (own.length > 0) {
      const table = this.#meetings.table(now.nowMs, key, hex);
      if (hex !== this.#selfHex) {
        this.#take(now, hex, key, table, own);
        this.#notice(now, key, table, hex);
      } else if (table.isNews(own[0], hex, now.wallMs)) table.put(own[0], hex, now.wallMs);
    }
    return this.#meetings.visit(now.nowMs, now.wallMs, key, hex, own.length > 0);
  }

  /** A follower has come to this meeting node, which perhaps follows the topic itself; its record is in `table` when it holds. */
  #notice(now: Now, key: Uint8Array, table: RecordTable, hex: string): void {
    const topic = this.#byKey.get(toHex(key));
    const record = table.get(hex)?.record;
    if (topic === undefined || record === undefined || !topic.table.isNews(record, hex, now.wallMs)) return;
    const before = topic.table.size;
    const { evicted } = topic.table.put(record, hex, now.wallMs);
    if (evicted) this.counters.recordsEvicted++;
    this.counters.records += topic.table.size - before;
    // also when it was known: it may be a new run of it
    this.#changed(now, topic);
  }

  #handleVisited(now: Now, hex: string, key: Uint8Array, againS: number, records: readonly TopicRecord[]): void {
    const topic = this.#byKey.get(toHex(key));
    if (topic?.asked?.hex !== hex) return;
    topic.asked = undefined;
    // 0: it does not keep this topic
    if (againS > 0) {
      topic.met.add(hex);
      this.#takeAnswer(now, hex, topic, againS, records);
    }
    this.#visitNext(now, topic);
  }

  #shuffle(now: Now, topic: Followed): void {
    if (now.nowMs < this.#shuffleGateMs) {
      topic.shuffleAtMs = this.#shuffleGateMs;
      return;
    }
    topic.shuffleAtMs = now.nowMs + topic.shuffleEveryMs * this.#jitter();
    // now and then also one believed lost: it may be back
    const takesLost = this.#deps.random.unit() < 0.25;
    const isNew = topic.introduced.size < INTRODUCTIONS;
    const [entry] = topic.table.pick(
      1,
      (one) =>
        isThere(one) &&
        now.nowMs >= one.silentUntilMs &&
        (takesLost || !this.#isLost(one)) &&
        !(isNew && topic.introduced.has(one.hex)),
    );
    if (entry === undefined) return;
    if (isNew) {
      topic.introduced.add(entry.hex);
      if (topic.introduced.size < INTRODUCTIONS) topic.shuffleAtMs = now.nowMs + SOON_MS * this.#jitter();
    }
    this.#shuffleGateMs = now.nowMs + SHUFFLE_DISTANCE_MS;
    this.#renew(now, topic);
    this.counters.shuffles++;
    const chosen = topic.table.pick(SHUFFLE_RECORDS, (one) => one !== entry && !one.isNotThere);
    topic.partner = { hex: entry.hex, dueMs: now.nowMs + 2 * ANSWER_MS, sent: new Set(chosen.map((one) => one.hex)) };
    const records = chosen.map((one) => one.record);
    if (topic.own !== undefined) records.push(topic.own);
    this.#send(entry.record.node, { type: DirectoryType.SHUFFLE, key: topic.key, records });
  }

  #handleShuffle(now: Now, from: Uint8Array, hex: string, key: Uint8Array, records: readonly TopicRecord[]): void {
    const keyHex = toHex(key);
    const topic = this.#byKey.get(keyHex);
    if (topic === undefined) {
      const withdrawn = this.#withdrawn.get(keyHex);
      const answer = withdrawn === undefined ? [] : [withdrawn];
      this.#send(from, { type: DirectoryType.SHUFFLED, key, follows: false, records: answer });
      return;
    }
    const chosen = topic.table.pick(SHUFFLE_RECORDS, (one) => one.hex !== hex && !one.isNotThere);
    const answer = chosen.map((one) => one.record);
    this.#renew(now, topic);
    if (topic.own !== undefined) answer.push(topic.own);
    this.#send(from, { type: DirectoryType.SHUFFLED, key, follows: topic.own !== undefined, records: answer });
    if (this.#take(now, hex, key, topic.table, records, new Set(chosen.map((one) => one.hex))) > 0)
      this.#changed(now, topic);
  }

  #handleShuffled(now: Now, hex: string, key: Uint8Array, follows: boolean, records: readonly TopicRecord[]): void {
    const topic = this.#byKey.get(toHex(key));
    if (topic?.partner?.hex !== hex) return;
    const { sent } = topic.partner;
    topic.partner = undefined;
    this.#due(topic.shuffleAtMs);
    const news = this.#take(now, hex, key, topic.table, records, sent);
    const entry = topic.table.get(hex);
    if (entry !== undefined) {
      entry.misses = 0;
      entry.silentUntilMs = 0;
      if (!follows) entry.isNotThere = true;
    }
    if (news > 0 || !follows) this.#changed(now, topic);
    const { shuffleMs, sampleSize } = this.#options;
    const isSettled = news === 0 || topic.table.size >= sampleSize;
    topic.shuffleEveryMs = isSettled ? Math.min(SHUFFLE_GROWTH * shuffleMs, 2 * topic.shuffleEveryMs) : shuffleMs;
  }

  #handleWithdraw(now: Now, hex: string, key: Uint8Array, records: readonly TopicRecord[]): void {
    const [record] = records;
    if (record === undefined || record.role !== RecordRole.NONE || hexOf(record) !== hex) {
      this.counters.framesRefused++;
      return;
    }
    // it speaks of itself through its own session: no signature is needed to forget it
    this.#meetings.withdraw(key, hex);
    const topic = this.#byKey.get(toHex(key));
    if (topic?.table.get(hex) !== undefined && this.#take(now, hex, key, topic.table, [record]) > 0)
      this.#changed(now, topic);
  }

  /** @param fromHex who delivered them @returns how many were news and are in the table now */
  #take(
    now: Now,
    fromHex: string,
    key: Uint8Array,
    table: RecordTable,
    records: readonly TopicRecord[],
    sent?: Set<string>,
  ): number {
    let news = 0;
    const isFollowed = table === this.#byKey.get(toHex(key))?.table;
    for (const record of records) {
      const hex = hexOf(record);
      if (hex === this.#selfHex || !table.isNews(record, hex, now.wallMs)) continue;
      if (!this.#deps.isMember(record.node) || !this.#checks.take(now.nowMs, fromHex)) {
        this.counters.recordsRefused++;
        continue;
      }
      if (!this.#deps.signing.verify(record.node, RECORD_PURPOSE, recordBody(key, record), record.signature)) {
        this.counters.signaturesRefused++;
        if (this.#checks.failed(now.nowMs, fromHex)) this.counters.peersCutOff++;
        continue;
      }
      const before = table.size;
      const { changed, evicted } = table.put(record, hex, now.wallMs, sent);
      this.counters.recordsAccepted++;
      if (evicted) this.counters.recordsEvicted++;
      if (isFollowed) this.counters.records += table.size - before;
      if (changed || evicted) news++;
    }
    return news;
  }

  #expire(now: Now): void {
    this.#expireAtMs = now.nowMs + EXPIRE_MS;
    this.#meetings.expire(now.nowMs, now.wallMs);
    for (const topic of this.#topics.values()) {
      const expired = topic.table.expire(now.wallMs);
      this.counters.recordsExpired += expired;
      this.counters.records -= expired;
      if (expired > 0) this.#changed(now, topic);
    }
    for (const [hex, untilMs] of this.#silent) if (untilMs <= now.nowMs) this.#silent.delete(hex);
    for (const [key, record] of this.#withdrawn) if (expiresAtMs(record) <= now.wallMs) this.#withdrawn.delete(key);
  }

  #candidates(key: Uint8Array, count: number): Uint8Array[] {
    const all = meetingNodes(key, this.#roster(), CANDIDATES);
    return all.filter((nodeId) => equal(nodeId, this.#selfId) || !isGone(this.#deps.liveness(nodeId))).slice(0, count);
  }

  #roster(): readonly Uint8Array[] {
    this.#members ??= this.#deps.members();
    return this.#members;
  }

  /** Signs this node's own record anew when a quarter of its life is over, or the clock was set back. */
  #renew(now: Now, topic: Followed): void {
    const { own, role } = topic;
    if (role === TopicRole.VISITOR) return;
    const ageMs = now.wallMs - (own?.version ?? 0);
    if (own !== undefined && ageMs < this.#options.recordLifeMs / 4 && ageMs > -EXPIRE_MS) return;
    const after = Math.max(own?.version ?? 0, this.#withdrawn.get(topic.keyHex)?.version ?? 0);
    topic.own = this.#sign(now, topic.key, role, after + 1);
  }

  #sign(now: Now, key: Uint8Array, role: RecordRole, atLeast: number): TopicRecord {
    const version = Math.max(atLeast, Math.floor(now.wallMs));
    const unsigned = { version, lifeS: Math.floor(this.#options.recordLifeMs / 1000), role };
    const signature = this.#deps.signing.sign(RECORD_PURPOSE, recordBody(key, unsigned));
    return { node: this.#selfId, ...unsigned, signature };
  }

  #isLost(entry: Entry): boolean {
    if (entry.misses >= MAX_MISSES) return true;
    const liveness = this.#deps.liveness(entry.record.node);
    return liveness === Liveness.SUSPECT || isGone(liveness);
  }

  #changed(now: Now, topic: Followed): void {
    topic.isDirty = true;
    // the last one is gone: the next round would be far away
    if (topic.round === undefined && this.#mustLook(topic)) {
      topic.visitAtMs = Math.min(topic.visitAtMs, now.nowMs + FIRST_LOOK_MS * this.#jitter());
      this.#due(topic.visitAtMs);
    }
    if (topic.table.size > 0) {
      const waitMs = topic.introduced.size < INTRODUCTIONS ? SOON_MS : topic.shuffleEveryMs;
      topic.shuffleAtMs = Math.min(topic.shuffleAtMs, now.nowMs + waitMs * this.#jitter());
      this.#due(topic.shuffleAtMs);
    }
    this.#due(Math.max(now.nowMs, topic.toldMs + TELL_MS));
  }

  #due(atMs: number): void {
    if (atMs < this.#topicsDueMs) this.#topicsDueMs = atMs;
  }

  #send(to: Uint8Array, frame: DirectoryFrame): void {
    const bytes = encodeDirectory(frame);
    this.counters.framesOut++;
    this.counters.bytesOut += bytes.length;
    this.#push({ kind: "send", to, frame: bytes });
  }

  /** Who polls after every input never comes near the bound; above it frames are lost as on a wire. */
  #push(output: DirectoryOutput): void {
    if (output.kind !== "send" || this.#outputs.length - this.#outputAt < MAX_OUTPUTS) this.#outputs.push(output);
  }

  #jitter(): number {
    return 0.8 + 0.4 * this.#deps.random.unit();
  }
}

function isGone(liveness: Liveness): boolean {
  return liveness === Liveness.DEAD || liveness === Liveness.LEFT;
}

function countThere(table: RecordTable): number {
  let count = 0;
  for (const entry of table.entries) if (isThere(entry)) count++;
  return count;
}

function dueMs(topic: Followed): number {
  let due = Math.min(
    topic.round === undefined ? topic.visitAtMs : Number.POSITIVE_INFINITY,
    topic.asked?.dueMs ?? Number.POSITIVE_INFINITY,
  );
  due = Math.min(due, topic.partner?.dueMs ?? topic.shuffleAtMs, topic.checkAtMs);
  return topic.isDirty ? Math.min(due, topic.toldMs + TELL_MS) : due;
}

/** Sets and, at the bound, forgets what was set first. */
function remember<T>(map: Map<string, T>, key: string, value: T, limit: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= limit) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    break;
  }
}
