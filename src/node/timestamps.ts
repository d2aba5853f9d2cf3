/**
 * Handshake timestamps and what of them outlives the process. Own ones never go back, even when the clock does: max(wall clock, last
 * one + 1), with the high-water mark written to the store a minute ahead, so that no handshake waits for a disk. Of peers the newest
 * accepted one per static key is kept, written together every few seconds.
 * The 12-byte form is that of session/handshake.ts.
 */
import type { Now } from "../base/clock.ts";
import { compare, toHex } from "../base/bytes.ts";
import { encodeTimestamp, nextTimestamp, TIMESTAMP_BYTES, timestampWallMs } from "../session/handshake.ts";
import type { Timestamps } from "../session/sessions.ts";
import type { Mutation } from "./store.ts";

export const OWN_TIMESTAMP_KEY = "timestamp-high-water";
/** How far ahead of use the high-water mark is written. */
const RESERVE_MS = 60_000;
const RESERVE_AHEAD_MS = 1;
const FLUSH_MS = 2000;
const MAX_REMEMBERED = 65_536;

export class StoredTimestamps implements Timestamps {
  readonly #persist: (mutations: readonly Mutation[]) => void;
  readonly #peers = new Map<string, Uint8Array>();
  readonly #unsaved = new Map<
    string,
    { readonly key: Uint8Array; readonly value: Uint8Array; readonly atMs: number }
  >();
  #own: Uint8Array;
  #reserved: Uint8Array;
  #flushAtMs = Infinity;

  /** @param highWater what the store kept under OWN_TIMESTAMP_KEY */
  constructor(
    deps: { readonly persist: (mutations: readonly Mutation[]) => void },
    stored: {
      readonly highWater: Uint8Array | undefined;
      readonly peers: readonly { readonly key: Uint8Array; readonly value: Uint8Array }[];
    },
  ) {
    this.#persist = deps.persist;
    this.#own = stored.highWater?.length === TIMESTAMP_BYTES ? stored.highWater : new Uint8Array(TIMESTAMP_BYTES);
    this.#reserved = this.#own;
    for (const { key, value } of stored.peers) if (value.length === TIMESTAMP_BYTES) this.#peers.set(toHex(key), value);
  }

  /** @returns 12 bytes, greater than every one before, also before a restart */
  nextOwn(wallMs: number): Uint8Array {
    const wall = encodeTimestamp(wallMs);
    this.#own = compare(wall, this.#own) > 0 ? wall : nextTimestamp(this.#own);
    if (compare(this.#own, this.#reserved) >= 0) {
      // ahead of the clock they advance by a nanosecond each: a little is enough, and restarts in a row do not add up
      const untilMs = Math.max(wallMs + RESERVE_MS, timestampWallMs(this.#own) + RESERVE_AHEAD_MS);
      this.#reserved = encodeTimestamp(untilMs);
      this.#persist([{ kind: "meta", key: OWN_TIMESTAMP_KEY, value: this.#reserved }]);
    }
    return this.#own;
  }

  /** Newest one accepted from that key. */
  last(staticKey: Uint8Array): Uint8Array | undefined {
    return this.#peers.get(toHex(staticKey));
  }

  /** The caller has verified it and found it newer than last(). */
  accept(staticKey: Uint8Array, value: Uint8Array, now: Now): void {
    const key = toHex(staticKey);
    this.#peers.delete(key);
    if (this.#peers.size >= MAX_REMEMBERED) this.#peers.delete(this.#peers.keys().next().value as string);
    const copy = Uint8Array.from(value);
    this.#peers.set(key, copy);
    if (this.#unsaved.size < MAX_REMEMBERED)
      this.#unsaved.set(key, { key: Uint8Array.from(staticKey), value: copy, atMs: now.wallMs });
    this.#flushAtMs = Math.min(this.#flushAtMs, now.nowMs + FLUSH_MS);
  }

  nextTimeout(): number {
    return this.#flushAtMs;
  }

  handleTimeout(nowMs: number): void {
    if (nowMs >= this.#flushAtMs) this.flush();
  }

  flush(): void {
    this.#flushAtMs = Infinity;
    if (this.#unsaved.size === 0) return;
    this.#persist([...this.#unsaved.values()].map((entry) => ({ kind: "timestamp", ...entry })));
    this.#unsaved.clear();
  }
}
