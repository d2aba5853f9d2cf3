/**
 * Which chunks to ask of which source. Chunks are handed out in runs, in the order of the file, to whoever has room; a fast source has room
 * more often. A source that fails gives its chunks back. Near the end, when nothing is left to hand out, an idle source is given
 * chunks that another one has had for long (each chunk has two holders at most), so that one slow source never holds a file up.
 *
 * Bounds: chunks asked of a source at once by its measured rate, 4–128; the plan keeps one byte for each chunk of the file.
 * Source: docs/protocol.md, "Files"; sans-I/O.
 */
import { MAX_RUN_CHUNKS } from "./frames.ts";
import { CHUNK_BYTES } from "./tree.ts";

const LEAST_WINDOW = 4;
const LARGEST_WINDOW = 128;
/** Work that a source should have before it, so that it never waits for the next request. */
const AHEAD_MS = 500;
/** Another source may get a chunk that one has had for so long. */
const STEAL_MS = 1_000;
const RATE_WEIGHT = 0.2;

/** LOCKED: its leaf is not known yet. COMING: it has come and is being verified. */
const State = { MISSING: 0, ASKED: 1, ASKED_TWICE: 2, COMING: 3, HAVE: 4, LOCKED: 5 } as const;

export interface Run {
  readonly first: number;
  readonly count: number;
}

interface Source {
  /** Chunk → when it was asked. In the order of asking. */
  readonly asked: Map<number, number>;
  bytesPerMs: number;
  lastMs: number;
}

export class FetchPlan {
  readonly #states: Uint8Array;
  readonly #sources = new Map<string, Source>();
  #have = 0;
  /** No chunk before this one is free to be asked for. */
  #from = 0;

  /** @param chunks all of the file; none may be asked for before unlock() */
  constructor(chunks: number) {
    this.#states = new Uint8Array(chunks).fill(State.LOCKED);
  }

  get have(): number {
    return this.#have;
  }

  get isComplete(): boolean {
    return this.#have === this.#states.length;
  }

  /** The leaves of these chunks are known: they can be verified, so they may be asked for. */
  unlock(first: number, count: number): void {
    for (let i = first; i < first + count; i++) if (this.#states[i] === State.LOCKED) this.#states[i] = State.MISSING;
    this.#from = Math.min(this.#from, first);
  }

  has(chunk: number): boolean {
    return this.#states[chunk] === State.HAVE;
  }

  /** It is on disk and verified. @returns false when that was known */
  note(chunk: number): boolean {
    if (this.#states[chunk] === State.HAVE) return false;
    this.#states[chunk] = State.HAVE;
    this.#have++;
    return true;
  }

  /** One that is there already begins anew: what it was asked for is free for others. */
  addSource(key: string, nowMs: number): void {
    this.removeSource(key);
    this.#sources.set(key, { asked: new Map(), bytesPerMs: 0, lastMs: nowMs });
  }

  /** What it was asked for is free for others. */
  removeSource(key: string): void {
    const source = this.#sources.get(key);
    this.#sources.delete(key);
    for (const chunk of source?.asked.keys() ?? []) this.#release(chunk);
  }

  /** Chunks that were asked of it and have not come. */
  outstanding(key: string): number {
    return this.#sources.get(key)?.asked.size ?? 0;
  }

  /** @returns when its oldest chunk was asked for; undefined: nothing is */
  oldestMs(key: string): number | undefined {
    return this.#sources.get(key)?.asked.values().next().value;
  }

  /** When something last came from it, or when it was added; −Infinity: it is no source. */
  lastMs(key: string): number {
    return this.#sources.get(key)?.lastMs ?? -Infinity;
  }

  /** The next run to ask of a source; undefined when it has enough, or nothing is to be had. */
  next(key: string, nowMs: number): Run | undefined {
    const source = this.#sources.get(key);
    if (source === undefined) return undefined;
    const room = Math.min(windowOf(source) - source.asked.size, MAX_RUN_CHUNKS);
    if (room <= 0) return undefined;
    const chunk = this.#states.indexOf(State.MISSING, this.#from);
    if (chunk >= 0) {
      this.#from = chunk;
      return this.#take(source, chunk, room, nowMs);
    }
    this.#from = this.#states.length;
    // nobody's turn: help whoever is slow, unless this source has work
    return source.asked.size > 0 ? undefined : this.#steal(source, nowMs);
  }

  /**
   * A chunk has come from a source. "take": verify it, then say note() or failed(). "late": another source was faster.
   * "unasked": the source was not asked for it.
   */
  arrived(key: string, chunk: number, bytes: number, nowMs: number): "take" | "late" | "unasked" {
    const source = this.#sources.get(key);
    const askedMs = source?.asked.get(chunk);
    if (source === undefined || askedMs === undefined) return "unasked";
    source.asked.delete(chunk);
    const tookMs = Math.max(0.1, nowMs - Math.max(askedMs, source.lastMs));
    const rate = bytes / tookMs;
    source.bytesPerMs = source.bytesPerMs === 0 ? rate : source.bytesPerMs + RATE_WEIGHT * (rate - source.bytesPerMs);
    source.lastMs = nowMs;
    const state = this.#states[chunk];
    if (state !== State.ASKED && state !== State.ASKED_TWICE) return "late";
    this.#states[chunk] = State.COMING;
    return "take";
  }

  /** It has come and was not what it should be. */
  failed(chunk: number): void {
    if (this.#states[chunk] !== State.COMING) return;
    this.#settle(chunk);
  }

  #take(source: Source, first: number, most: number, nowMs: number): Run {
    let count = 0;
    while (count < most && this.#states[first + count] === State.MISSING) {
      this.#states[first + count] = State.ASKED;
      source.asked.set(first + count, nowMs);
      count++;
    }
    return { first, count };
  }

  #steal(source: Source, nowMs: number): Run | undefined {
    for (const other of this.#sources.values()) {
      for (const [chunk, askedMs] of other.asked) {
        if (other === source || nowMs - askedMs < STEAL_MS) break;
        if (this.#states[chunk] !== State.ASKED) continue;
        this.#states[chunk] = State.ASKED_TWICE;
        source.asked.set(chunk, nowMs);
        return { first: chunk, count: 1 };
      }
    }
    return undefined;
  }

  /** One holder less. */
  #release(chunk: number): void {
    const state = this.#states[chunk];
    if (state === State.ASKED || state === State.ASKED_TWICE) this.#settle(chunk);
  }

  /** Its state by who was asked for it. */
  #settle(chunk: number): void {
    let holders = 0;
    for (const { asked } of this.#sources.values()) if (asked.has(chunk)) holders++;
    this.#states[chunk] = holders === 0 ? State.MISSING : holders === 1 ? State.ASKED : State.ASKED_TWICE;
    if (holders === 0) this.#from = Math.min(this.#from, chunk);
  }
}

function windowOf(source: Source): number {
  return Math.min(LARGEST_WINDOW, Math.max(LEAST_WINDOW, Math.ceil((source.bytesPerMs * AHEAD_MS) / CHUNK_BYTES)));
}
