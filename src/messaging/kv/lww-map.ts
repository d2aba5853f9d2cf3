/**
 * A last-writer-wins map: for every key the greatest entry seen (entry.ts, compareEntries), deletions included. Merging is commutative,
 * associative and idempotent, so replicas that have seen the same entries hold the same map.
 *
 * Bounds: entries and bytes, of all and of each author. An entry that does not fit is refused, never another one dropped for it. Deletions are remembered for
 * 30 days; then everybody forgets them. A replica that was away for longer can bring a deleted key back.
 * Source: docs/protocol.md, "Replicated stores".
 */
import { equal, toHex } from "../../base/bytes.ts";
import { hlcFromWall } from "../../mesh/statement.ts";
import { compareEntries, type Entry } from "./entry.ts";
import { Fingerprints } from "./fingerprints.ts";

export const DELETION_LIFE_MS: number = 30 * 86_400_000;

export const Merge = {
  /** It counts now. */
  TAKEN: 0,
  /** The same entry is here. */
  SAME: 1,
  /** A greater one is here. */
  OLD: 2,
  /** No room for it. */
  FULL: 3,
  /** Outlived its time; everybody has forgotten it. */
  EXPIRED: 4,
} as const;
export type Merge = (typeof Merge)[keyof typeof Merge];

export interface MapLimits {
  readonly maxEntries: number;
  readonly maxBytes: number;
  /** Of both, the part that entries of one author may take. @default 1 */
  readonly authorShare?: number;
}

/** What one author's entries take. */
interface Share {
  entries: number;
  bytes: number;
}

const NOTHING: Readonly<Share> = { entries: 0, bytes: 0 };

/** What an entry costs beside its bytes. */
const ENTRY_OVERHEAD_BYTES = 200;

export class LwwMap {
  readonly tree: Fingerprints = new Fingerprints();
  readonly #limits: MapLimits;
  readonly #lifeMs: number;
  readonly #entries = new Map<string, Entry>();
  readonly #byId = new Map<string, Entry>();
  /** By author; as many as have an entry here. */
  readonly #shares = new Map<string, Share>();
  readonly #authorShare: number;
  #bytes = 0;
  #live = 0;

  /** @param lifeMs of entries that are no deletions @default forever */
  constructor(limits: MapLimits, lifeMs: number = Infinity) {
    this.#limits = limits;
    this.#authorShare = limits.authorShare ?? 1;
    this.#lifeMs = lifeMs;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Keys that have a value. */
  get live(): number {
    return this.#live;
  }

  get bytes(): number {
    return this.#bytes;
  }

  bytesOf(author: Uint8Array): number {
    return this.#shares.get(toHex(author))?.bytes ?? 0;
  }

  /** Also deleted ones. */
  get(key: string): Entry | undefined {
    return this.#entries.get(key);
  }

  byId(idHex: string): Entry | undefined {
    return this.#byId.get(idHex);
  }

  entries(): MapIterator<Entry> {
    return this.#entries.values();
  }

  /** What merge() would say, without doing it: cheap enough to come before a signature is verified. */
  judge(entry: Entry, wallMs: number): Merge {
    const known = this.#entries.get(entry.key);
    if (known !== undefined) {
      const order = compareEntries(entry, known);
      if (order <= 0) return order === 0 ? Merge.SAME : Merge.OLD;
    }
    if (this.#isForgotten(entry, wallMs)) return Merge.EXPIRED;
    const added = cost(entry) - (known === undefined ? 0 : cost(known));
    if (known === undefined && this.#entries.size >= this.#limits.maxEntries) return Merge.FULL;
    if (added > 0 && this.#bytes + added > this.#limits.maxBytes) return Merge.FULL;
    return this.#isOverShare(entry, known) ? Merge.FULL : Merge.TAKEN;
  }

  merge(entry: Entry, wallMs: number): Merge {
    const verdict = this.judge(entry, wallMs);
    if (verdict !== Merge.TAKEN) return verdict;
    this.remove(entry.key);
    this.#entries.set(entry.key, entry);
    this.#byId.set(entry.idHex, entry);
    this.tree.add(entry.id, entry.idHex);
    this.#bytes += cost(entry);
    if (entry.value !== undefined) this.#live++;
    const author = toHex(entry.author);
    const share = this.#shares.get(author) ?? { entries: 0, bytes: 0 };
    this.#shares.set(author, share);
    share.entries++;
    share.bytes += cost(entry);
    return verdict;
  }

  /** As if it had never been here. */
  remove(key: string): void {
    const known = this.#entries.get(key);
    if (known === undefined) return;
    this.#entries.delete(key);
    this.#byId.delete(known.idHex);
    this.tree.remove(known.id, known.idHex);
    this.#bytes -= cost(known);
    if (known.value !== undefined) this.#live--;
    const author = toHex(known.author);
    const share = this.#shares.get(author);
    if (share === undefined) return;
    share.entries--;
    share.bytes -= cost(known);
    if (share.entries === 0) this.#shares.delete(author);
  }

  /** Removes what has outlived its time: deletions, and entries where they have one. @returns their keys */
  sweep(wallMs: number): string[] {
    const gone: string[] = [];
    for (const entry of this.#entries.values()) {
      if (this.#isForgotten(entry, wallMs)) gone.push(entry.key);
    }
    for (const key of gone) this.remove(key);
    return gone;
  }

  /** What makes an author's part smaller is always taken. */
  #isOverShare(entry: Entry, known: Entry | undefined): boolean {
    if (this.#authorShare >= 1) return false;
    const share = this.#shares.get(toHex(entry.author)) ?? NOTHING;
    const replaced = known !== undefined && equal(known.author, entry.author) ? known : undefined;
    const entries = share.entries + (replaced === undefined ? 1 : 0);
    const bytes = share.bytes + cost(entry) - (replaced === undefined ? 0 : cost(replaced));
    const isMore = entries > share.entries || bytes > share.bytes;
    const { maxEntries, maxBytes } = this.#limits;
    return isMore && (entries > maxEntries * this.#authorShare || bytes > maxBytes * this.#authorShare);
  }

  #isForgotten(entry: Entry, wallMs: number): boolean {
    const lifeMs = entry.value === undefined ? Math.min(DELETION_LIFE_MS, this.#lifeMs) : this.#lifeMs;
    return lifeMs !== Infinity && entry.hlc < hlcFromWall(wallMs - lifeMs);
  }
}

function cost(entry: Entry): number {
  return entry.wire.length + ENTRY_OVERHEAD_BYTES;
}
