/**
 * Recent messages of a topic, for those who missed them, oldest out first at a bound of bytes and messages. What falls out is still in the
 * retained log where the node keeps one.
 */
import type { PeerKey } from "./types.ts";

export interface CachedMessage {
  readonly ref: string;
  readonly sequence: number;
  readonly hlc: number;
  readonly frame: Uint8Array;
  readonly cursor: number;
  /** Who has it for sure: sent it here, announced it, or was sent it. Given up once everybody was told. */
  heard: PeerKey[] | undefined;
  /** It was asked for; when it was first announced. Until it has come by itself as well. */
  announcedMs: number | undefined;
}

export interface CacheLimits {
  readonly maxBytes: number;
  readonly maxMessages: number;
}

export class MessageCache {
  readonly #limits: CacheLimits;
  readonly #byStream = new Map<string, Map<number, CachedMessage>>();
  /** In the order of arrival; `#head` is the oldest. */
  #order: CachedMessage[] = [];
  #head = 0;
  #bytes = 0;
  /** Of the last one that had to go. */
  #goneCursor = 0;

  constructor(limits: CacheLimits) {
    this.#limits = limits;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#order.length - this.#head;
  }

  get(ref: string, sequence: number): CachedMessage | undefined {
    return this.#byStream.get(ref)?.get(sequence);
  }

  /** @returns how many had to go */
  add(message: CachedMessage): number {
    let stream = this.#byStream.get(message.ref);
    if (stream === undefined) {
      stream = new Map();
      this.#byStream.set(message.ref, stream);
    }
    if (stream.has(message.sequence)) return 0;
    stream.set(message.sequence, message);
    this.#order.push(message);
    this.#bytes += message.frame.length;
    let gone = 0;
    while (this.size > 1 && (this.#bytes > this.#limits.maxBytes || this.size > this.#limits.maxMessages)) {
      this.dropOldest();
      gone++;
    }
    return gone;
  }

  dropOldest(): void {
    const oldest = this.#order[this.#head];
    if (oldest === undefined) return;
    this.#head++;
    this.#goneCursor = oldest.cursor;
    if (this.#head > 64 && this.#head * 2 > this.#order.length) {
      this.#order = this.#order.slice(this.#head);
      this.#head = 0;
    }
    this.#bytes -= oldest.frame.length;
    const stream = this.#byStream.get(oldest.ref);
    stream?.delete(oldest.sequence);
    if (stream?.size === 0) this.#byStream.delete(oldest.ref);
  }

  /** The highest sequence of a stream that is here and older than a clock; 0: none is. */
  lastBefore(ref: string, hlc: number): number {
    let last = 0;
    for (const message of this.#byStream.get(ref)?.values() ?? [])
      if (message.hlc < hlc && message.sequence > last) last = message.sequence;
    return last;
  }

  /** The last ones that came, in the order of arrival. */
  latest(count: number): CachedMessage[] {
    return this.#order.slice(Math.max(this.#head, this.#order.length - count));
  }

  /** In the order of arrival. @returns undefined when something after the cursor is here no more */
  after(cursor: number): CachedMessage[] | undefined {
    if (cursor < this.#goneCursor) return undefined;
    let at = this.#order.length;
    while (at > this.#head && this.#order[at - 1].cursor > cursor) at--;
    return this.#order.slice(at);
  }
}
