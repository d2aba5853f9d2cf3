/**
 * Heals what pushing and asking have missed: compares a topic with a neighbour by ranges of stream refs, and pulls what is missing at a
 * pace, so that the end of a long partition is no storm.
 *
 *   DIGEST (one fingerprint per range) ── differs, few streams ──► LIST (floor and ranges of each) ──► LIST back, of what the other lacks
 *                                      └─ differs, many streams ─► DIGEST of 16 parts
 *
 * Pace: twice the rate at which new messages of the topic come, at least 8 and at most 500 a second, at most 32 under way. What was pulled
 * is announced to neighbours as old, never pushed: each node pulls for itself, once. A hole that three neighbours cannot fill for a minute,
 * or nobody for 15 minutes, is given up and counted.
 */
import type { Random } from "../../base/random.ts";
import { type ControlFrame, type DigestRange, LAST_PREFIX, MAX_DIGEST_RANGES, type StreamSummary } from "./frames.ts";
import type { PublisherStream, StreamTable } from "./streams.ts";
import type { PeerKey, PubSubCounters } from "./types.ts";
import type { Wants } from "./wants.ts";

const TICK_MS = 250;
/** What is missing gets this long to come by itself. */
const GRACE_MS = 1500;
const MIN_RATE = 8;
const MAX_RATE = 500;
const MAX_UNDER_WAY = 32;
const RATE_WINDOW_MS = 10_000;
const FEW_STREAMS = 128;
const PARTS = 16;
/** Ranges of one digest that are answered; the rest waits for the next. */
const MAX_ANSWERS = 4;
const GIVE_UP_REFUSALS = 3;
const GIVE_UP_MS = 60_000;
const GIVE_UP_ALONE_MS = 900_000;
const HOLES_AT_ONCE = 16;

export interface RecoveryDeps {
  readonly random: Random;
  readonly counters: PubSubCounters;
  readonly streams: StreamTable;
  readonly wants: Wants;
  neighbours(): number;
  isUsable(peer: PeerKey): boolean;
  send(
    nowMs: number,
    peer: PeerKey,
    frame: DistributiveOmit<Extract<ControlFrame, { type: "digest" | "list" }>, "topic">,
  ): void;
  /** The floor of this stream was raised over something that never came. */
  skipped(nowMs: number, stream: PublisherStream): void;
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

export class Recovery {
  readonly #deps: RecoveryDeps;
  readonly #missing = new Set<PublisherStream>();
  #tickMs: number = Number.POSITIVE_INFINITY;
  #lastTickMs = 0;
  #tokens = 0;
  #rate = 0;
  #rateWindowMs = 0;
  #arrivals = 0;

  constructor(deps: RecoveryDeps) {
    this.#deps = deps;
  }

  get nextTimeoutMs(): number {
    return this.#tickMs;
  }

  /** Streams with something missing. */
  get missing(): number {
    return this.#missing.size;
  }

  /** A new message came by itself. */
  noteArrival(nowMs: number): void {
    this.#arrivals++;
    const lastedMs = nowMs - this.#rateWindowMs;
    if (lastedMs < RATE_WINDOW_MS) return;
    // what came after a long silence says nothing about the silence
    this.#rate = lastedMs > 10 * RATE_WINDOW_MS ? 0 : (this.#arrivals * 1000) / lastedMs;
    this.#rateWindowMs = nowMs;
    this.#arrivals = 0;
  }

  /** Somebody has up to `sequence`, or the stream has a hole. */
  noteMissing(nowMs: number, stream: PublisherStream, sequence: number, provider: PeerKey): void {
    stream.raise(nowMs, sequence, provider);
    if (!stream.isMissing) return;
    if (this.#missing.size === 0) {
      this.#tokens = 0;
      this.#lastTickMs = nowMs;
    }
    this.#missing.add(stream);
    if (this.#tickMs === Number.POSITIVE_INFINITY) this.#tickMs = nowMs + GRACE_MS;
  }

  forget(stream: PublisherStream): void {
    this.#missing.delete(stream);
  }

  /** Compares everything with this peer. */
  compare(nowMs: number, peer: PeerKey): void {
    this.#deps.counters.compares++;
    this.#deps.send(nowMs, peer, { type: "digest", ranges: [this.#deps.streams.digest(0, LAST_PREFIX)] });
  }

  onDigest(nowMs: number, peer: PeerKey, ranges: readonly DigestRange[]): void {
    const parts: DigestRange[] = [];
    let answers = 0;
    for (const theirs of ranges) {
      const mine = this.#deps.streams.digest(theirs.lower, theirs.upper);
      if (mine.streams === theirs.streams && mine.fingerprint === theirs.fingerprint) continue;
      if (answers++ >= MAX_ANSWERS) break;
      if (mine.streams + theirs.streams <= FEW_STREAMS || theirs.lower === theirs.upper) {
        this.#sendList(
          nowMs,
          peer,
          false,
          theirs.lower,
          theirs.upper,
          this.#deps.streams.within(theirs.lower, theirs.upper),
        );
        continue;
      }
      const width = Math.max(1, Math.ceil((theirs.upper - theirs.lower + 1) / PARTS));
      for (let lower = theirs.lower; lower <= theirs.upper && parts.length < MAX_DIGEST_RANGES; lower += width)
        parts.push(this.#deps.streams.digest(lower, Math.min(theirs.upper, lower + width - 1)));
    }
    if (parts.length > 0) this.#deps.send(nowMs, peer, { type: "digest", ranges: parts });
  }

  onList(nowMs: number, peer: PeerKey, list: Extract<ControlFrame, { type: "list" }>): void {
    const listed = new Set<string>();
    const lacking: PublisherStream[] = [];
    for (const theirs of list.streams) {
      listed.add(theirs.ref);
      const top = theirs.ranges.at(-1)?.to ?? theirs.floor;
      const known = this.#deps.streams.byRef(theirs.ref);
      if (known !== undefined && lacks(theirs, known)) lacking.push(known);
      if (top === 0 || (known !== undefined && hasAll(known, theirs))) continue;
      const stream = known ?? this.#deps.streams.claim(nowMs, theirs.ref);
      this.noteMissing(nowMs, stream, top, peer);
    }
    if (list.isAnswer) return;
    for (const mine of this.#deps.streams.within(list.lower, list.upper)) if (!listed.has(mine.ref)) lacking.push(mine);
    if (lacking.length > 0) this.#sendList(nowMs, peer, true, list.lower, list.upper, lacking);
  }

  handleTimeout(nowMs: number): void {
    if (nowMs < this.#tickMs) return;
    const rate = Math.min(MAX_RATE, Math.max(MIN_RATE, 2 * this.#rate));
    this.#tokens = Math.min(rate, this.#tokens + (rate * (nowMs - this.#lastTickMs)) / 1000);
    this.#lastTickMs = nowMs;
    for (const stream of this.#missing) {
      if (!stream.isMissing) {
        this.#missing.delete(stream);
        continue;
      }
      if (this.#isGivenUp(nowMs, stream)) continue;
      this.#feed(nowMs, stream);
      // the next one has its turn first next time
      if (this.#tokens < 1) {
        this.#missing.delete(stream);
        this.#missing.add(stream);
        break;
      }
    }
    this.#tickMs =
      this.#missing.size === 0 ? Number.POSITIVE_INFINITY : nowMs + TICK_MS * (0.9 + 0.2 * this.#deps.random.unit());
  }

  #feed(nowMs: number, stream: PublisherStream): void {
    if (nowMs - (stream.missingSinceMs ?? nowMs) < GRACE_MS) return;
    const providers = stream.providers.filter((peer) => this.#deps.isUsable(peer));
    if (providers.length === 0) return;
    for (const { from, to } of stream.window.missing(Math.max(stream.top, stream.window.top), HOLES_AT_ONCE)) {
      for (let sequence = from; sequence <= to; sequence++) {
        if (this.#tokens < 1 || this.#deps.wants.old >= MAX_UNDER_WAY) return;
        if (stream.wants.has(sequence)) continue;
        const turn = this.#deps.random.u32() % providers.length;
        if (!this.#deps.wants.pull(nowMs, stream, sequence, [...providers.slice(turn), ...providers.slice(0, turn)]))
          return;
        this.#tokens--;
      }
    }
  }

  /** Raises the floor over a hole that nobody fills. */
  #isGivenUp(nowMs: number, stream: PublisherStream): boolean {
    const { floor } = stream.window;
    if (stream.stuckFloor !== floor) {
      stream.stuckFloor = floor;
      stream.stuckSinceMs = nowMs;
      stream.refusals.clear();
      return false;
    }
    const stuckMs = nowMs - stream.stuckSinceMs;
    const isRefused = stream.refusals.size >= Math.max(1, Math.min(GIVE_UP_REFUSALS, this.#deps.neighbours()));
    if (!(stuckMs > GIVE_UP_ALONE_MS || (stuckMs > GIVE_UP_MS && isRefused))) return false;
    // only below what was seen with a signature: a claim alone never moves the floor
    const [hole] = stream.window.missing(stream.window.top, 1);
    if (hole === undefined) {
      stream.forgetClaims();
      return true;
    }
    this.#deps.counters.abandoned += stream.skipTo(hole.to);
    this.#deps.wants.settle(stream);
    this.#deps.skipped(nowMs, stream);
    return true;
  }

  #sendList(
    nowMs: number,
    peer: PeerKey,
    isAnswer: boolean,
    lower: number,
    upper: number,
    streams: readonly PublisherStream[],
  ): void {
    // an incomplete list would claim that the rest is not here
    const listed = streams.slice(0, FEW_STREAMS * 2);
    const isWhole = listed.length === streams.length;
    this.#deps.send(nowMs, peer, {
      type: "list",
      isAnswer: isAnswer || !isWhole,
      lower,
      upper,
      streams: listed.map((stream) => stream.summary()),
    });
  }
}

function lacks(theirs: StreamSummary, mine: PublisherStream): boolean {
  if (mine.publisher === undefined || mine.window.top <= theirs.floor) return false;
  let next = theirs.floor + 1;
  for (const { from, to } of [...theirs.ranges, { from: Number.POSITIVE_INFINITY, to: 0 }]) {
    // their hole next … from − 1: is any of it here?
    const upTo = Math.min(from - 1, mine.window.top);
    if (next <= upTo) {
      const holes = mine.window.missing(upTo, Number.POSITIVE_INFINITY).filter((hole) => hole.to >= next);
      const absent = holes.reduce((sum, hole) => sum + hole.to - Math.max(hole.from, next) + 1, 0);
      if (absent < upTo - next + 1) return true;
    }
    next = to + 1;
  }
  return false;
}

function hasAll(mine: PublisherStream, theirs: StreamSummary): boolean {
  if (mine.window.floor < theirs.floor) return false;
  for (const { from, to } of theirs.ranges) {
    if (to <= mine.window.floor) continue;
    if (mine.window.missing(to, Number.POSITIVE_INFINITY).some((hole) => hole.to >= from)) return false;
  }
  return true;
}
