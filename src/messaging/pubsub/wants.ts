/**
 * What a topic misses and who says to have it. Somebody's IHAVE (or a later sequence) makes a want; if the message has not come by itself
 * when its timer ends, the first who said to have it is asked, and each further one when the last did not answer in time. The first timer
 * follows how long after an announcement messages come by themselves (mean + 4 × deviation, 250–2,000 ms), so that a slow tree is not asked
 * twice for everything. Bound: MAX_WANTS; beyond, comparing finds what is missing.
 */
import type { Random } from "../../base/random.ts";
import { type Entry, MAX_ENTRIES } from "./frames.ts";
import type { PublisherStream, Want } from "./streams.ts";
import type { PeerKey } from "./types.ts";

const MAX_WANTS = 2048;
const MAX_PROVIDERS = 4;
const FIRST_DELAY_MS = 500;
const MIN_DELAY_MS = 250;
const MAX_DELAY_MS = 2000;
/** Time to answer beyond two round trips. */
const ANSWER_MS = 500;
const MAX_ANSWER_MS = 10_000;

export interface WantsDeps {
  readonly random: Random;
  rttMs(peer: PeerKey): number;
  ask(nowMs: number, peer: PeerKey, entries: readonly Entry[]): void;
}

export class Wants {
  readonly #deps: WantsDeps;
  readonly #streams = new Set<PublisherStream>();
  #count = 0;
  #old = 0;
  #dueMs: number = Number.POSITIVE_INFINITY;
  #meanMs: number = FIRST_DELAY_MS / 2;
  #deviationMs: number = FIRST_DELAY_MS / 8;

  constructor(deps: WantsDeps) {
    this.#deps = deps;
  }

  get size(): number {
    return this.#count;
  }

  /** Those that come from comparing. */
  get old(): number {
    return this.#old;
  }

  get nextTimeoutMs(): number {
    return this.#dueMs;
  }

  get delayMs(): number {
    return Math.min(MAX_DELAY_MS, Math.max(MIN_DELAY_MS, this.#meanMs + 4 * this.#deviationMs));
  }

  /** `peer` has it, and it is news. */
  announced(nowMs: number, stream: PublisherStream, sequence: number, peer: PeerKey): void {
    const want = stream.wants.get(sequence);
    if (want !== undefined) {
      if (want.providers.length < MAX_PROVIDERS && !want.providers.includes(peer)) want.providers.push(peer);
      return;
    }
    const dueMs = nowMs + this.delayMs * (1 + 0.2 * this.#deps.random.unit());
    this.#add(stream, { sequence, providers: [peer], asked: 0, dueMs, sinceMs: nowMs, isOld: false });
  }

  /** Ask for it now, in the order given. @returns false at the bound */
  pull(nowMs: number, stream: PublisherStream, sequence: number, providers: readonly PeerKey[]): boolean {
    if (stream.wants.has(sequence)) return true;
    return this.#add(stream, {
      sequence,
      providers: providers.slice(0, MAX_PROVIDERS),
      asked: 0,
      dueMs: nowMs,
      sinceMs: nowMs,
      isOld: true,
    });
  }

  /** It is here. @returns what was wanted */
  arrived(stream: PublisherStream, sequence: number): Want | undefined {
    const want = stream.wants.get(sequence);
    if (want === undefined) return undefined;
    this.#drop(stream, want);
    return want;
  }

  /** A message came by itself so long after it was announced. */
  noteLag(tookMs: number): void {
    this.#deviationMs += (Math.abs(tookMs - this.#meanMs) - this.#deviationMs) / 8;
    this.#meanMs += (tookMs - this.#meanMs) / 8;
  }

  /** The peer does not have these. */
  refused(nowMs: number, stream: PublisherStream, from: number, to: number, peer: PeerKey): void {
    for (const want of stream.wants.values()) {
      if (want.sequence < from || want.sequence > to || want.providers[want.asked - 1] !== peer) continue;
      want.dueMs = nowMs;
      this.#dueMs = Math.min(this.#dueMs, nowMs);
    }
  }

  /** Nothing of this stream up to its floor is wanted any more; call after the floor has moved by giving up. */
  settle(stream: PublisherStream): void {
    for (const want of stream.wants.values()) if (want.sequence <= stream.window.floor) this.#drop(stream, want);
  }

  /** The stream is forgotten. */
  forget(stream: PublisherStream): void {
    for (const want of stream.wants.values()) this.#drop(stream, want);
  }

  handleTimeout(nowMs: number): void {
    if (nowMs < this.#dueMs) return;
    const questions = new Map<PeerKey, Entry[]>();
    this.#dueMs = Number.POSITIVE_INFINITY;
    for (const stream of this.#streams) {
      for (const want of stream.wants.values()) {
        if (want.dueMs <= nowMs) this.#next(nowMs, stream, want, questions);
        if (want.dueMs < this.#dueMs && stream.wants.has(want.sequence)) this.#dueMs = want.dueMs;
      }
    }
    for (const [peer, entries] of questions) {
      for (let at = 0; at < entries.length; at += MAX_ENTRIES)
        this.#deps.ask(nowMs, peer, entries.slice(at, at + MAX_ENTRIES));
    }
  }

  #next(nowMs: number, stream: PublisherStream, want: Want, questions: Map<PeerKey, Entry[]>): void {
    const peer = want.providers[want.asked];
    if (peer === undefined) {
      // nobody answered: comparing finds it again, with others to ask
      this.#drop(stream, want);
      return;
    }
    want.asked++;
    want.dueMs = nowMs + Math.min(MAX_ANSWER_MS, 2 * this.#deps.rttMs(peer) + ANSWER_MS);
    const entries = questions.get(peer) ?? [];
    questions.set(peer, entries);
    const last = entries.at(-1);
    if (last !== undefined && last.ref === stream.ref && last.to + 1 === want.sequence)
      entries[entries.length - 1] = { ...last, to: want.sequence };
    else entries.push({ ref: stream.ref, from: want.sequence, to: want.sequence });
  }

  #add(stream: PublisherStream, want: Want): boolean {
    if (this.#count >= MAX_WANTS) return false;
    stream.wants.set(want.sequence, want);
    this.#streams.add(stream);
    this.#count++;
    if (want.isOld) this.#old++;
    if (want.dueMs < this.#dueMs) this.#dueMs = want.dueMs;
    return true;
  }

  #drop(stream: PublisherStream, want: Want): void {
    if (!stream.wants.delete(want.sequence)) return;
    this.#count--;
    if (want.isOld) this.#old--;
    if (stream.wants.size === 0) this.#streams.delete(stream);
  }
}
