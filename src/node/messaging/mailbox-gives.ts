/**
 * What a recipient takes of keepers. Opening a copy costs a tenth of a millisecond and more before anything about it is known, so it is asked for at a rate, and
 * not again of whom it was forged. Keeper and author of a forged copy cannot be told apart (a keeper cannot read what it keeps): the pair is
 * refused, and a keeper with MAX_AUTHORS such pairs as a whole, each for FORGED_MS.
 * Bounds: MAX_KEEPERS keepers with MAX_AUTHORS pairs each, MAX_KEYS keys; the oldest goes. Source: docs/protocol.md, "Mailboxes".
 */
import { staticKeyOf } from "../../crypto/identity.ts";
import { SenderRates } from "../../messaging/sender-rates.ts";

const TAKES_PER_S = 20;
const TAKES_BURST = 64;
const FORGED_MS = 3_600_000;
const MAX_KEEPERS = 1_024;
const MAX_AUTHORS = 8;
const MAX_KEYS = 1_024;

export class GiveGuard {
  readonly #rates = new SenderRates(TAKES_PER_S, TAKES_BURST);
  /** Keeper → author of forged copies → until when. */
  readonly #forged = new Map<string, Map<string, number>>();
  readonly #keys = new Map<string, Uint8Array>();

  /** @param keeper in hex, as all here @returns false: nothing of it is opened now */
  mayGive(nowMs: number, keeper: string): boolean {
    const authors = this.#authors(nowMs, keeper);
    return (authors === undefined || authors.size < MAX_AUTHORS) && this.#rates.take(nowMs, keeper);
  }

  isForger(nowMs: number, keeper: string, author: string): boolean {
    return this.#authors(nowMs, keeper)?.has(author) === true;
  }

  noteForged(nowMs: number, keeper: string, author: string): void {
    const authors = this.#forged.get(keeper) ?? new Map<string, number>();
    this.#forged.set(keeper, authors.set(author, nowMs + FORGED_MS));
    dropOldest(this.#forged, MAX_KEEPERS);
  }

  /** @returns undefined when the id is no key */
  staticKey(author: string, nodeId: Uint8Array): Uint8Array | undefined {
    const known = this.#keys.get(author);
    if (known !== undefined) return known;
    const key = staticKeyOf(nodeId);
    if (key !== undefined) this.#keys.set(author, key);
    dropOldest(this.#keys, MAX_KEYS);
    return key;
  }

  memberGone(node: string): void {
    this.#keys.delete(node);
    this.#forged.delete(node);
  }

  #authors(nowMs: number, keeper: string): ReadonlyMap<string, number> | undefined {
    const authors = this.#forged.get(keeper);
    if (authors === undefined) return undefined;
    for (const [author, untilMs] of authors) if (untilMs <= nowMs) authors.delete(author);
    if (authors.size === 0) this.#forged.delete(keeper);
    return authors;
  }
}

function dropOldest<T>(map: Map<string, T>, most: number): void {
  if (map.size <= most) return;
  const [oldest] = map.keys();
  map.delete(oldest);
}
