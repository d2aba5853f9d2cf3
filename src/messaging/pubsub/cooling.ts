/**
 * Who is too slow for a topic and for how long it is spared: per (peer, topic), never the peer as a whole.
 *
 *   warm ── 5 of the last 10 sends timed out, or the queue's wait stays above 5 s for 10 s ──► cooled 30 s (doubling to 300 s)
 *   cooled ── time is up ──► probing: one probe in flight ── no echo in time ──► cooled, twice as long
 *   probing ── a verified frame from it ──► warm, count reset
 *
 * Only a verified frame resets the doubling. The list is cleaned every 10–120 s, the more often the more there was to clean.
 */
import type { PeerKey } from "./types.ts";

const FIRST_COOL_MS = 30_000;
const MAX_COOL_MS = 300_000;
const LAST_SENDS = 10;
const TOO_MANY_TIMEOUTS = 5;
const LONG_WAIT_MS = 5000;
const LONG_WAIT_FOR_MS = 10_000;
const PROBE_TIMEOUT_MS = 10_000;
const MIN_CLEAN_MS = 10_000;
const MAX_CLEAN_MS = 120_000;
/** What nobody has touched for this long is warm. */
const FORGET_MS = 600_000;
const MAX_ENTRIES = 8192;

type Phase = "warm" | "cooled" | "probing";

class Entry {
  readonly peer: PeerKey;
  readonly topic: string;
  phase: Phase = "warm";
  /** Last ten sends, newest lowest, 1: timed out. */
  history = 0;
  longWaitSinceMs: number | undefined;
  coolMs = 0;
  dueMs: number = Number.POSITIVE_INFINITY;
  touchedMs: number;
  nonce = 0;

  constructor(peer: PeerKey, topic: string, nowMs: number) {
    this.peer = peer;
    this.topic = topic;
    this.touchedMs = nowMs;
  }
}

export interface CoolingDeps {
  /** The peer has become too slow for the topic. @returns false: it is the last eager one, leave it */
  mayCool(peer: PeerKey, topic: string): boolean;
  cooled(nowMs: number, peer: PeerKey, topic: string, forMs: number): void;
  /** Send one probe. @returns its nonce */
  probe(nowMs: number, peer: PeerKey, topic: string): number;
  recovered(nowMs: number, peer: PeerKey, topic: string): void;
}

export class Cooling {
  readonly #deps: CoolingDeps;
  readonly #entries = new Map<string, Entry>();
  #cleanMs = MAX_CLEAN_MS;
  #cleanDueMs: number = Number.POSITIVE_INFINITY;
  #dueMs: number = Number.POSITIVE_INFINITY;

  constructor(deps: CoolingDeps) {
    this.#deps = deps;
  }

  get size(): number {
    return this.#entries.size;
  }

  get nextTimeoutMs(): number {
    return Math.min(this.#dueMs, this.#cleanDueMs);
  }

  isCooled(peer: PeerKey, topic: string): boolean {
    if (this.#entries.size === 0) return false;
    const entry = this.#entries.get(keyOf(peer, topic));
    return entry !== undefined && entry.phase !== "warm";
  }

  /** Everything that is not warm, for the diagnostics. */
  list(): { peer: PeerKey; topic: string; phase: Phase; dueMs: number; coolMs: number }[] {
    return [...this.#entries.values()]
      .filter((entry) => entry.phase !== "warm")
      .map(({ peer, topic, phase, dueMs, coolMs }) => ({ peer, topic, phase, dueMs, coolMs }));
  }

  noteSend(nowMs: number, peer: PeerKey, topic: string, isInTime: boolean): void {
    if (isInTime && this.#entries.size === 0) return;
    // who is well needs no entry
    const entry = isInTime ? this.#entries.get(keyOf(peer, topic)) : this.#entry(nowMs, peer, topic);
    if (entry === undefined) return;
    entry.touchedMs = nowMs;
    entry.history = ((entry.history << 1) | (isInTime ? 0 : 1)) & ((1 << LAST_SENDS) - 1);
    if (entry.phase === "warm" && bits(entry.history) >= TOO_MANY_TIMEOUTS) this.#cool(nowMs, entry);
  }

  noteWait(nowMs: number, peer: PeerKey, topic: string, waitMs: number): void {
    if (waitMs <= LONG_WAIT_MS) {
      const known = this.#entries.get(keyOf(peer, topic));
      if (known !== undefined) known.longWaitSinceMs = undefined;
      return;
    }
    const entry = this.#entry(nowMs, peer, topic);
    entry.touchedMs = nowMs;
    entry.longWaitSinceMs ??= nowMs;
    if (entry.phase === "warm" && nowMs - entry.longWaitSinceMs >= LONG_WAIT_FOR_MS) this.#cool(nowMs, entry);
  }

  /** A frame of this topic from the peer that passed its checks: an echo of the probe, or a message with a good signature. */
  noteVerified(nowMs: number, peer: PeerKey, topic: string): void {
    if (this.#entries.size === 0) return;
    const entry = this.#entries.get(keyOf(peer, topic));
    if (entry === undefined || entry.phase !== "probing") return;
    this.#entries.delete(keyOf(peer, topic));
    this.#deps.recovered(nowMs, peer, topic);
  }

  /** @returns whether it answers the probe that is under way */
  isEcho(peer: PeerKey, topic: string, nonce: number): boolean {
    const entry = this.#entries.get(keyOf(peer, topic));
    return entry !== undefined && entry.phase === "probing" && entry.nonce === nonce;
  }

  forgetPeer(peer: PeerKey): void {
    for (const [key, entry] of this.#entries) if (entry.peer === peer) this.#entries.delete(key);
  }

  forgetTopic(topic: string): void {
    for (const [key, entry] of this.#entries) if (entry.topic === topic) this.#entries.delete(key);
  }

  handleTimeout(nowMs: number): void {
    if (nowMs >= this.#dueMs) {
      for (const entry of this.#entries.values()) {
        if (nowMs < entry.dueMs) continue;
        if (entry.phase === "cooled") {
          entry.phase = "probing";
          entry.dueMs = nowMs + PROBE_TIMEOUT_MS;
          entry.nonce = this.#deps.probe(nowMs, entry.peer, entry.topic);
        } else if (entry.phase === "probing") this.#cool(nowMs, entry);
      }
      this.#arm();
    }
    if (nowMs >= this.#cleanDueMs) this.#clean(nowMs);
  }

  #cool(nowMs: number, entry: Entry): void {
    if (entry.phase === "warm" && !this.#deps.mayCool(entry.peer, entry.topic)) return;
    entry.phase = "cooled";
    entry.history = 0;
    entry.longWaitSinceMs = undefined;
    entry.coolMs = entry.coolMs === 0 ? FIRST_COOL_MS : Math.min(MAX_COOL_MS, entry.coolMs * 2);
    entry.dueMs = nowMs + entry.coolMs;
    entry.touchedMs = nowMs;
    this.#dueMs = Math.min(this.#dueMs, entry.dueMs);
    this.#deps.cooled(nowMs, entry.peer, entry.topic, entry.coolMs);
  }

  #entry(nowMs: number, peer: PeerKey, topic: string): Entry {
    const key = keyOf(peer, topic);
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      if (this.#entries.size >= MAX_ENTRIES) {
        const [first] = this.#entries.keys();
        this.#entries.delete(first);
      }
      entry = new Entry(peer, topic, nowMs);
      this.#entries.set(key, entry);
      if (this.#cleanDueMs === Number.POSITIVE_INFINITY) this.#cleanDueMs = nowMs + this.#cleanMs;
    }
    return entry;
  }

  #clean(nowMs: number): void {
    let gone = 0;
    for (const [key, entry] of this.#entries) {
      if (entry.phase !== "warm") continue;
      const isWell = entry.history === 0 && entry.longWaitSinceMs === undefined;
      if (!isWell && nowMs - entry.touchedMs < FORGET_MS) continue;
      this.#entries.delete(key);
      gone++;
    }
    this.#cleanMs =
      gone * 4 > this.#entries.size && gone > 0
        ? Math.max(MIN_CLEAN_MS, this.#cleanMs / 2)
        : Math.min(MAX_CLEAN_MS, this.#cleanMs * 2);
    this.#cleanDueMs = this.#entries.size === 0 ? Number.POSITIVE_INFINITY : nowMs + this.#cleanMs;
  }

  #arm(): void {
    this.#dueMs = Number.POSITIVE_INFINITY;
    for (const entry of this.#entries.values()) if (entry.dueMs < this.#dueMs) this.#dueMs = entry.dueMs;
  }
}

function keyOf(peer: PeerKey, topic: string): string {
  return `${topic}/${peer}`;
}

function bits(value: number): number {
  let count = 0;
  for (let rest = value; rest !== 0; rest &= rest - 1) count++;
  return count;
}
