/**
 * To whom a channel shall exist, and when: a pure machine, driven by channels.ts. Source: docs/protocol.md, "Channels".
 *
 * - A channel is opened when a peer with a URL is wanted and has not answered over UDP for 1 s, or at once when a path that worked does not
 *   deliver any more (that took seconds to find out); it stays, warm, while that is so.
 * - It is closed once UDP has worked for 10 s, twice as long for each time within 10 minutes that it was needed again, at most 5 min.
 * - A failed attempt is followed by one with the next URL after 1 s, doubling to 60 s, ± 20 %. A channel that lived for 30 s clears that.
 * - At most 4 at once: beacons before others, then those that have waited longest.
 */
import type { Random } from "../../base/random.ts";

export interface ChannelPolicyOptions {
  /** Without an answer over UDP for this long, milliseconds. @default 1000 */
  readonly patienceMs?: number;
  /** UDP has to work this long before a channel is closed, milliseconds. @default 10000 */
  readonly settleMs?: number;
  /** @default 4 */
  readonly maxChannels?: number;
}

/** A peer to which a channel could be opened, as the owner sees it now. */
export interface ChannelPeer {
  /** The owner's name of it, such as its static key in hexadecimal. */
  readonly key: string;
  /** Best first; empty = none. */
  readonly urls: readonly string[];
  readonly isBeacon: boolean;
  /** There is a session, or somebody wants one. */
  readonly wanted: boolean;
  /** It answers over UDP. */
  readonly direct: boolean;
  /** What was sent lately went unanswered: no more patience is due. */
  readonly overdue: boolean;
}

export type ChannelAction =
  | { readonly kind: "open"; readonly key: string; readonly url: string }
  | { readonly kind: "close"; readonly key: string };

const MAX_SETTLE_MS = 300_000;
const NEEDED_AGAIN_MS = 600_000;
const RETRY_MS = 1_000;
const MAX_RETRY_MS = 60_000;
const RETRY_JITTER = 0.2;
const STEADY_MS = 30_000;

type Stage = "closed" | "opening" | "open";

interface Wish {
  readonly key: string;
  urls: readonly string[];
  isBeacon: boolean;
  stage: Stage;
  /** Wanted and silent over UDP since; Infinity = it is not. */
  silentSinceMs: number;
  directSinceMs: number;
  openedAtMs: number;
  closedAtMs: number;
  retryAtMs: number;
  retryMs: number;
  settleMs: number;
  urlIndex: number;
}

export class ChannelPolicy {
  readonly #random: Random;
  readonly #patienceMs: number;
  readonly #settleMs: number;
  readonly #maxChannels: number;
  readonly #wishes = new Map<string, Wish>();

  constructor(random: Random, options: ChannelPolicyOptions = {}) {
    this.#random = random;
    this.#patienceMs = options.patienceMs ?? 1_000;
    this.#settleMs = options.settleMs ?? 10_000;
    this.#maxChannels = options.maxChannels ?? 4;
  }

  /** Takes the whole present picture; a peer that is missing from it loses its channel. @returns what to do now */
  review(nowMs: number, peers: Iterable<ChannelPeer>): ChannelAction[] {
    const seen = new Set<string>();
    const actions: ChannelAction[] = [];
    for (const peer of peers) {
      if (peer.urls.length === 0) continue;
      seen.add(peer.key);
      this.#note(nowMs, peer);
    }
    for (const wish of this.#wishes.values()) {
      if (seen.has(wish.key)) {
        if (this.#isSettled(nowMs, wish)) this.#close(nowMs, wish, actions);
        continue;
      }
      if (wish.stage !== "closed") actions.push({ kind: "close", key: wish.key });
      this.#wishes.delete(wish.key);
    }
    const due = [...this.#wishes.values()].filter((wish) => nowMs >= this.#openAtMs(wish));
    due.sort((a, b) => Number(b.isBeacon) - Number(a.isBeacon) || a.silentSinceMs - b.silentSinceMs);
    let used = this.#used();
    for (const wish of due) {
      if (used >= this.#maxChannels) break;
      used++;
      wish.stage = "opening";
      actions.push({ kind: "open", key: wish.key, url: wish.urls[wish.urlIndex % wish.urls.length] });
    }
    return actions;
  }

  /** The channel can carry datagrams. */
  opened(nowMs: number, key: string): void {
    const wish = this.#wishes.get(key);
    if (wish === undefined || wish.stage !== "opening") return;
    if (nowMs - wish.closedAtMs < NEEDED_AGAIN_MS) wish.settleMs = Math.min(MAX_SETTLE_MS, wish.settleMs * 2);
    else wish.settleMs = this.#settleMs;
    wish.stage = "open";
    wish.openedAtMs = nowMs;
  }

  /** It could not be opened, or ended without being told to. */
  failed(nowMs: number, key: string): void {
    const wish = this.#wishes.get(key);
    if (wish === undefined || wish.stage === "closed") return;
    if (wish.stage === "open" && nowMs - wish.openedAtMs >= STEADY_MS) wish.retryMs = RETRY_MS;
    wish.stage = "closed";
    wish.urlIndex++;
    wish.retryAtMs = nowMs + wish.retryMs * (1 - RETRY_JITTER + 2 * RETRY_JITTER * this.#random.unit());
    wish.retryMs = Math.min(MAX_RETRY_MS, wish.retryMs * 2);
  }

  /** When review() has something to do although nothing has changed; Infinity = never. */
  nextTimeoutMs(): number {
    let next = Infinity;
    const isFull = this.#used() >= this.#maxChannels;
    for (const wish of this.#wishes.values()) {
      if (wish.stage !== "closed") next = Math.min(next, wish.directSinceMs + wish.settleMs);
      else if (!isFull) next = Math.min(next, this.#openAtMs(wish));
    }
    return next;
  }

  #note(nowMs: number, peer: ChannelPeer): void {
    let wish = this.#wishes.get(peer.key);
    if (wish === undefined) {
      wish = {
        key: peer.key,
        urls: peer.urls,
        isBeacon: peer.isBeacon,
        stage: "closed",
        silentSinceMs: Infinity,
        directSinceMs: Infinity,
        openedAtMs: 0,
        closedAtMs: -Infinity,
        retryAtMs: -Infinity,
        retryMs: RETRY_MS,
        settleMs: this.#settleMs,
        urlIndex: 0,
      };
      this.#wishes.set(peer.key, wish);
    }
    wish.urls = peer.urls;
    wish.isBeacon = peer.isBeacon;
    const silent = peer.wanted && !peer.direct;
    const sinceMs = peer.overdue ? nowMs - this.#patienceMs : nowMs;
    wish.silentSinceMs = silent ? Math.min(wish.silentSinceMs, sinceMs) : Infinity;
    // a peer that nobody wants any more needs no channel either
    wish.directSinceMs = silent ? Infinity : Math.min(wish.directSinceMs, nowMs);
  }

  #isSettled(nowMs: number, wish: Wish): boolean {
    return wish.stage !== "closed" && nowMs >= wish.directSinceMs + wish.settleMs;
  }

  #close(nowMs: number, wish: Wish, actions: ChannelAction[]): void {
    wish.stage = "closed";
    wish.closedAtMs = nowMs;
    actions.push({ kind: "close", key: wish.key });
  }

  #openAtMs(wish: Wish): number {
    if (wish.stage !== "closed" || wish.silentSinceMs === Infinity) return Infinity;
    return Math.max(wish.silentSinceMs + this.#patienceMs, wish.retryAtMs);
  }

  #used(): number {
    let used = 0;
    for (const wish of this.#wishes.values()) if (wish.stage !== "closed") used++;
    return used;
  }
}
