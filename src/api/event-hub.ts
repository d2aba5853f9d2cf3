/**
 * Events for the clients of the local API. Clients that ask for the same live source share one ring of serialised events; each client is
 * a position in it and nothing else, so what a client that never reads costs does not grow. When the ring passes a position by, its
 * client gets a gap that says how many it lost; nobody else notices.
 *
 *   part → emit → ring (≤ 2,048 events, ≤ 1 MiB; all rings ≤ 32 MiB) → cursor of each client → SSE or WebSocket, at the client's pace
 *
 * An id is "RING-POSITION". A ring goes on for two minutes after its last client left; after that, or after a restart of the daemon, the
 * id is of a ring that is gone: the client gets a gap of unknown size, then what the present ring still holds.
 * Source: docs/guide.md, "The local API".
 */
import { WeftError } from "../base/errors.ts";
import type { Gap, LiveSource, StoredSource, StreamEvent } from "./messaging/route.ts";

export interface HubLimits {
  /** @default 2048 */
  readonly ringEvents: number;
  /** Of one ring, counted as UTF-16 units of its serialised events. @default 1 MiB */
  readonly ringBytes: number;
  /** Of all rings together. @default 32 MiB */
  readonly totalBytes: number;
  /** Rings, those that linger included. @default 128 */
  readonly rings: number;
  /** Clients over all rings and stored sources. @default 128 */
  readonly cursors: number;
  /** @default 120000 */
  readonly lingerMs: number;
  /** Events handed to a client at once. @default 64 */
  readonly batch: number;
}

const DEFAULT_HUB_LIMITS: HubLimits = Object.freeze({
  ringEvents: 2048,
  ringBytes: 1 << 20,
  totalBytes: 32 << 20,
  rings: 128,
  cursors: 128,
  lingerMs: 120_000,
  batch: 64,
});

/** One event as it goes out. */
export interface OutEvent {
  /** undefined: the client's position stays what it was. */
  readonly id: string | undefined;
  readonly event: string;
  /** JSON without line breaks. */
  readonly json: string;
}

/** The events of one client, in order. One reader at a time. */
export interface EventCursor {
  /** @returns undefined when the stream has ended; an empty list when nothing came within `waitMs` */
  next(waitMs: number): Promise<readonly OutEvent[] | undefined>;
  close(): void;
}

export interface HubCounters {
  events: number;
  /** Events that a client lost because it was slow or away. */
  missed: number;
  gaps: number;
  /** Streams refused at a limit. */
  refused: number;
  /** Rings that ended early to make room for others. */
  evicted: number;
}

/** Serialised once, however many clients read it. */
interface Entry {
  readonly event: string;
  readonly json: string;
}

class Ring {
  /** In every id: a ring made later, also by a later daemon, has another one. */
  readonly token: string;
  readonly key: string;
  readonly lingerMs: number;
  /** Positions of `#entries`: the next one to be written, and the first that is still there. */
  next = 1;
  first = 1;
  bytes = 0;
  clients = 0;
  emptySinceMs = 0;
  stop: () => void = () => undefined;
  ended = false;
  linger: NodeJS.Timeout | undefined;
  readonly #entries = new Map<number, Entry>();
  readonly #waiting = new Set<() => void>();

  constructor(key: string, token: string, lingerMs: number) {
    this.key = key;
    this.token = token;
    this.lingerMs = lingerMs;
  }

  push(entry: Entry): void {
    this.#entries.set(this.next++, entry);
    this.bytes += entry.json.length;
    this.wake();
  }

  dropFirst(): void {
    this.bytes -= this.#entries.get(this.first)?.json.length ?? 0;
    this.#entries.delete(this.first++);
  }

  get length(): number {
    return this.next - this.first;
  }

  at(position: number): Entry {
    return this.#entries.get(position) as Entry;
  }

  wake(): void {
    for (const resume of this.#waiting) resume();
    this.#waiting.clear();
  }

  waitFor(resume: () => void): () => void {
    this.#waiting.add(resume);
    return () => void this.#waiting.delete(resume);
  }
}

export interface HubDeps {
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
  /** Different for every call, also over restarts: it goes into event ids. */
  readonly token: () => string;
}

export class EventHub {
  readonly #deps: HubDeps;
  readonly #limits: HubLimits;
  readonly #rings = new Map<string, Ring>();
  readonly #opening = new Map<string, Promise<Ring>>();
  readonly #cursors = new Set<EventCursor>();
  #closed = false;
  /** Cursors whose source has not started yet. */
  #starting = 0;
  readonly counters: HubCounters = { events: 0, missed: 0, gaps: 0, refused: 0, evicted: 0 };

  constructor(deps: HubDeps, limits: Partial<HubLimits> = {}) {
    this.#deps = deps;
    this.#limits = Object.freeze({ ...DEFAULT_HUB_LIMITS, ...limits });
  }

  get clients(): number {
    return this.#cursors.size;
  }

  get ringCount(): number {
    return this.#rings.size;
  }

  get bufferedBytes(): number {
    let total = 0;
    for (const ring of this.#rings.values()) total += ring.bytes;
    return total;
  }

  /**
   * Resolves when the source delivers. The first event of every cursor is `ready`, whose id is where the client begins.
   * @param after the Last-Event-ID that the client brought @throws WeftError STREAMS_FULL, or what the source says
   */
  async open(source: LiveSource | StoredSource, after: string | undefined): Promise<EventCursor> {
    if (this.#closed) throw new WeftError("NOT_READY", "the daemon is stopping", "try again when it is back");
    if (this.#cursors.size + this.#starting >= this.#limits.cursors) throw this.#full("clients read events");
    this.#starting++;
    try {
      const closed = (): void => void this.#cursors.delete(cursor);
      const cursor: EventCursor =
        source.kind === "stored"
          ? new StoredCursor(source, after, this.#limits.batch, this.counters, closed)
          : await this.#openLive(source, after, closed);
      this.#cursors.add(cursor);
      return cursor;
    } finally {
      this.#starting--;
    }
  }

  /** Ends every stream. */
  close(): void {
    this.#closed = true;
    for (const ring of this.#rings.values()) this.#end(ring);
    for (const cursor of this.#cursors) cursor.close();
  }

  async #openLive(source: LiveSource, after: string | undefined, closed: () => void): Promise<EventCursor> {
    const ring = this.#rings.get(source.key) ?? (await (this.#opening.get(source.key) ?? this.#start(source)));
    ring.clients++;
    clearTimeout(ring.linger);
    return new LiveCursor(ring, after, this.#limits.batch, this.counters, () => {
      closed();
      this.#left(ring);
    });
  }

  #start(source: LiveSource): Promise<Ring> {
    if (this.#rings.size + this.#opening.size >= this.#limits.rings && !this.#evictLingering()) {
      return Promise.reject(this.#full("different streams are open"));
    }
    const ring = new Ring(source.key, this.#deps.token(), source.lingerMs ?? this.#limits.lingerMs);
    const opening = (async () => {
      const stop = await source.start((event) => this.#push(ring, event));
      ring.stop = stop;
      this.#opening.delete(source.key);
      this.#rings.set(source.key, ring);
      if (this.#closed) this.#end(ring);
      return ring;
    })();
    this.#opening.set(source.key, opening);
    opening.catch(() => this.#opening.delete(source.key));
    return opening;
  }

  #push(ring: Ring, { event, data }: StreamEvent): void {
    if (ring.ended) return;
    this.counters.events++;
    ring.push({ event, json: JSON.stringify(data) });
    while (ring.length > this.#limits.ringEvents || (ring.bytes > this.#limits.ringBytes && ring.length > 1))
      ring.dropFirst();
    if (ring.length > 1 && this.bufferedBytes > this.#limits.totalBytes) {
      const largest = [...this.#rings.values()].reduce((a, b) => (b.bytes > a.bytes ? b : a), ring);
      while (largest.length > 1 && this.bufferedBytes > this.#limits.totalBytes) largest.dropFirst();
    }
  }

  #left(ring: Ring): void {
    if (--ring.clients > 0 || ring.ended) return;
    ring.emptySinceMs = this.#deps.nowMs();
    ring.linger = setTimeout(() => this.#end(ring), ring.lingerMs);
    ring.linger.unref();
  }

  /** @returns false when every ring has clients */
  #evictLingering(): boolean {
    const idle = [...this.#rings.values()].filter((ring) => ring.clients === 0);
    if (idle.length === 0) return false;
    this.counters.evicted++;
    this.#end(idle.reduce((a, b) => (b.emptySinceMs < a.emptySinceMs ? b : a)));
    return true;
  }

  #end(ring: Ring): void {
    clearTimeout(ring.linger);
    ring.ended = true;
    this.#rings.delete(ring.key);
    ring.stop();
    ring.wake();
  }

  #full(what: string): WeftError {
    this.counters.refused++;
    return new WeftError("STREAMS_FULL", `too many ${what} already`, "close some of them, then try again");
  }
}

function gapEvent(gap: Gap, id: string | undefined, counters: HubCounters): OutEvent {
  counters.gaps++;
  counters.missed += gap.missed ?? 0;
  return { id, event: "gap", json: JSON.stringify(gap) };
}

class LiveCursor implements EventCursor {
  readonly #ring: Ring;
  readonly #batch: number;
  readonly #counters: HubCounters;
  readonly #closed: () => void;
  #position: number;
  #first: OutEvent[];
  #isClosed = false;
  #wake: () => void = () => undefined;

  constructor(ring: Ring, after: string | undefined, batch: number, counters: HubCounters, closed: () => void) {
    this.#ring = ring;
    this.#batch = batch;
    this.#counters = counters;
    this.#closed = closed;
    this.#position = ring.next;
    let gap: Gap | undefined;
    if (after !== undefined) {
      const [token, number] = after.split("-");
      const known = token === ring.token && /^\d{1,15}$/.test(number ?? "") && Number(number) < ring.next;
      this.#position = known ? Number(number) + 1 : ring.first;
      if (!known) gap = { missed: null, reason: "restarted" };
      else if (this.#position < ring.first) {
        gap = { missed: ring.first - this.#position, reason: "overrun" };
        this.#position = ring.first;
      }
    }
    const id = this.#id(this.#position - 1);
    this.#first = [{ id, event: "ready", json: JSON.stringify({ resumed: after !== undefined && gap === undefined }) }];
    if (gap !== undefined) this.#first.push(gapEvent(gap, id, counters));
  }

  async next(waitMs: number): Promise<readonly OutEvent[] | undefined> {
    if (this.#first.length > 0) {
      const first = this.#first;
      this.#first = [];
      return first;
    }
    if (this.#position >= this.#ring.next && !this.#isClosed && !this.#ring.ended) await this.#wait(waitMs);
    if (this.#isClosed) return undefined;
    const out: OutEvent[] = [];
    const behind = this.#ring.first - this.#position;
    if (behind > 0) {
      this.#position = this.#ring.first;
      out.push(gapEvent({ missed: behind, reason: "slow" }, this.#id(this.#position - 1), this.#counters));
    }
    for (; this.#position < this.#ring.next && out.length < this.#batch; this.#position++) {
      const { event, json } = this.#ring.at(this.#position);
      out.push({ id: this.#id(this.#position), event, json });
    }
    return out.length === 0 && this.#ring.ended ? undefined : out;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#wake();
    this.#closed();
  }

  #id(position: number): string {
    return `${this.#ring.token}-${position}`;
  }

  #wait(waitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#wake(), waitMs);
      const forget = this.#ring.waitFor(() => this.#wake());
      this.#wake = () => {
        clearTimeout(timer);
        forget();
        resolve();
      };
    });
  }
}

class StoredCursor implements EventCursor {
  readonly #source: StoredSource;
  readonly #batch: number;
  readonly #counters: HubCounters;
  readonly #closed: () => void;
  readonly #unwatch: () => void;
  #after: string | undefined;
  #isFirst = true;
  #dirty = true;
  #isClosed = false;
  #wake: () => void = () => undefined;

  constructor(
    source: StoredSource,
    after: string | undefined,
    batch: number,
    counters: HubCounters,
    closed: () => void,
  ) {
    this.#source = source;
    this.#after = after;
    this.#batch = batch;
    this.#counters = counters;
    this.#closed = closed;
    this.#unwatch = source.watch(() => {
      this.#dirty = true;
      this.#wake();
    });
  }

  async next(waitMs: number): Promise<readonly OutEvent[] | undefined> {
    if (this.#isFirst) {
      this.#isFirst = false;
      return [{ id: this.#after, event: "ready", json: JSON.stringify({ resumed: this.#after !== undefined }) }];
    }
    if (!this.#dirty && !this.#isClosed) await this.#wait(waitMs);
    if (this.#isClosed) return undefined;
    if (!this.#dirty) return [];
    // before the read: what is stored during it is seen by the next one
    this.#dirty = false;
    const page = await this.#source.read(this.#after, this.#batch);
    const out: OutEvent[] = page.gap === undefined ? [] : [gapEvent(page.gap, undefined, this.#counters)];
    for (const { id, event, data } of page.events) {
      this.#counters.events++;
      this.#after = id;
      out.push({ id, event, json: JSON.stringify(data) });
    }
    if (page.events.length > 0) this.#dirty = true;
    return out;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#unwatch();
    this.#wake();
    this.#closed();
  }

  #wait(waitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, waitMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
