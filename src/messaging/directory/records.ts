/**
 * A bounded sample of one topic's records, and what makes a record acceptable.
 *
 * A record is taken when its node is a member, its version is newer than what is held of that node, it has not expired, its clock is at most ten minutes ahead,
 * and the signature holds. When the table is full, the first to go is expired or withdrawn or was not there when asked, then one that was sent away in
 * the same exchange, then a random one; so what remains is a random sample. Source: docs/protocol.md, "Directory".
 */
import { toHex } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import { RecordRole, type TopicRecord } from "./frames.ts";

/** Clocks may differ by this much, in either direction. */
export const MAX_SKEW_MS = 600_000;

export interface Entry {
  record: TopicRecord;
  readonly hex: string;
  /** It was asked and was no follower. */
  isNotThere: boolean;
  /** Questions in a row without an answer, and until when it is left alone for that. */
  misses: number;
  silentUntilMs: number;
}

export function expiresAtMs(record: TopicRecord): number {
  return record.version + record.lifeS * 1000;
}

export class RecordTable {
  readonly #random: Random;
  readonly #limit: number;
  readonly #entries: Entry[] = [];
  readonly #byHex = new Map<string, Entry>();

  constructor(random: Random, limit: number) {
    this.#random = random;
    this.#limit = limit;
  }

  get size(): number {
    return this.#entries.length;
  }

  get entries(): readonly Entry[] {
    return this.#entries;
  }

  get(hex: string): Entry | undefined {
    return this.#byHex.get(hex);
  }

  /** True when the record would be news; its signature is worth a check then. */
  isNews(record: TopicRecord, hex: string, wallMs: number): boolean {
    if (record.version > wallMs + MAX_SKEW_MS || expiresAtMs(record) + MAX_SKEW_MS <= wallMs) return false;
    const known = this.#byHex.get(hex);
    return known === undefined ? record.role !== RecordRole.NONE : record.version > known.record.version;
  }

  /** @param record verified and news @param sent hexes that may go first @returns whether the set of those who are there has changed, and who had to go */
  put(
    record: TopicRecord,
    hex: string,
    wallMs: number,
    sent?: Set<string>,
  ): { readonly changed: boolean; readonly evicted: boolean } {
    const known = this.#byHex.get(hex);
    if (known !== undefined) {
      const wasThere = isThere(known);
      known.record = record;
      known.isNotThere = false;
      known.misses = 0;
      known.silentUntilMs = 0;
      return { changed: wasThere !== isThere(known), evicted: false };
    }
    const evicted = this.#entries.length >= this.#limit;
    if (evicted) this.#evict(wallMs, sent);
    const entry: Entry = { record, hex, isNotThere: false, misses: 0, silentUntilMs: 0 };
    this.#entries.push(entry);
    this.#byHex.set(hex, entry);
    return { changed: isThere(entry), evicted };
  }

  remove(hex: string): boolean {
    const entry = this.#byHex.get(hex);
    if (entry === undefined) return false;
    this.#byHex.delete(hex);
    this.#removeAt(this.#entries.indexOf(entry));
    return true;
  }

  /** @returns how many had expired */
  expire(wallMs: number): number {
    let expired = 0;
    for (let i = this.#entries.length - 1; i >= 0; i--) {
      const entry = this.#entries[i];
      if (expiresAtMs(entry.record) + MAX_SKEW_MS > wallMs) continue;
      this.#byHex.delete(entry.hex);
      this.#removeAt(i);
      expired++;
    }
    return expired;
  }

  /** Up to `count` different entries in random order, of those that `accepts` takes. */
  pick(count: number, accepts: (entry: Entry) => boolean): Entry[] {
    const all = this.#entries.filter(accepts);
    const out: Entry[] = [];
    while (out.length < count && all.length > 0) {
      const at = this.#random.u32() % all.length;
      out.push(all[at]);
      all[at] = all[all.length - 1];
      all.pop();
    }
    return out;
  }

  #evict(wallMs: number, sent: Set<string> | undefined): void {
    let at = this.#entries.findIndex((entry) => !isThere(entry) || expiresAtMs(entry.record) <= wallMs);
    if (at < 0 && sent !== undefined) at = this.#entries.findIndex((entry) => sent.delete(entry.hex));
    if (at < 0) at = this.#random.u32() % this.#entries.length;
    this.#byHex.delete(this.#entries[at].hex);
    this.#removeAt(at);
  }

  #removeAt(at: number): void {
    this.#entries[at] = this.#entries[this.#entries.length - 1];
    this.#entries.pop();
  }
}

/** Subscribes or volunteers as far as is known. */
export function isThere(entry: Entry): boolean {
  return entry.record.role !== RecordRole.NONE && !entry.isNotThere;
}

export function hexOf(record: TopicRecord): string {
  return toHex(record.node);
}
