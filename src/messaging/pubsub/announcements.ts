/**
 * What neighbours are told to be here: collected for 100 ms, each message once, to nobody who is known to have it. What was recovered is
 * announced as old, so that it is asked for at leisure.
 */
import type { CachedMessage } from "./cache.ts";
import { countEntries, type Entry, extendEntries, MAX_ENTRIES } from "./frames.ts";
import type { PeerKey, PubSubCounters } from "./types.ts";

const ANNOUNCE_MS = 100;

export interface AnnouncementsDeps {
  readonly counters: PubSubCounters;
  /** Whom to tell; an eager link too: one that was lazy when a message came has not heard of it. */
  audience(): Iterable<PeerKey>;
  announce(nowMs: number, peer: PeerKey, entries: readonly Entry[], isOld: boolean): void;
}

export class Announcements {
  readonly #deps: AnnouncementsDeps;
  #fresh: CachedMessage[] = [];
  #old: CachedMessage[] = [];
  #dueMs: number = Number.POSITIVE_INFINITY;

  constructor(deps: AnnouncementsDeps) {
    this.#deps = deps;
  }

  get nextTimeoutMs(): number {
    return this.#dueMs;
  }

  add(nowMs: number, message: CachedMessage, isOld: boolean): void {
    (isOld ? this.#old : this.#fresh).push(message);
    if (this.#dueMs === Number.POSITIVE_INFINITY) this.#dueMs = nowMs + ANNOUNCE_MS;
  }

  handleTimeout(nowMs: number): void {
    if (nowMs < this.#dueMs) return;
    this.#dueMs = Number.POSITIVE_INFINITY;
    const [fresh, old] = [this.#fresh, this.#old];
    this.#fresh = [];
    this.#old = [];
    this.#tell(nowMs, fresh, false);
    this.#tell(nowMs, old, true);
  }

  #tell(nowMs: number, messages: CachedMessage[], isOld: boolean): void {
    if (messages.length === 0) return;
    messages.sort((a, b) => (a.ref < b.ref ? -1 : a.ref > b.ref ? 1 : a.sequence - b.sequence));
    for (const peer of this.#deps.audience()) {
      const entries: Entry[] = [];
      for (const message of messages)
        if (!hasHeard(message, peer)) extendEntries(entries, message.ref, message.sequence);
      for (let at = 0; at < entries.length; at += MAX_ENTRIES) {
        const part = entries.slice(at, at + MAX_ENTRIES);
        this.#deps.counters.announced += countEntries(part);
        this.#deps.announce(nowMs, peer, part, isOld);
      }
    }
    for (const message of messages) message.heard = undefined;
  }
}

export function hasHeard(message: CachedMessage, peer: PeerKey): boolean {
  return message.heard?.includes(peer) === true;
}

export function noteHeard(message: CachedMessage | undefined, peer: PeerKey): void {
  if (message?.heard !== undefined && !message.heard.includes(peer)) message.heard.push(peer);
}
