/**
 * Answers to IWANT: from memory, from the retained log, or why there is none. A question costs no more than its answer could: at most
 * MAX_ANSWER_MESSAGES messages and MAX_ANSWER_BYTES, each stream looked up once. Source: docs/protocol.md, "Publish/subscribe".
 */
import { type CachedMessage, type MessageCache } from "./cache.ts";
import {
  type ControlFrame,
  countEntries,
  type Entry,
  extendEntries,
  FrameType,
  MAX_ENTRIES,
  NoneReason,
} from "./frames.ts";
import { asType, decodeMessage } from "./message.ts";
import type { StreamTable } from "./streams.ts";
import type { LogRead, PeerKey, PubSubCounters } from "./types.ts";

const MAX_ANSWER_BYTES = 131_072;
export const MAX_ANSWER_MESSAGES = 64;

type NoneFrame = Omit<Extract<ControlFrame, { type: "none" }>, "topic">;

export interface AnswersDeps {
  readonly topic: string;
  /** Clock before which this node has asked for nothing. */
  readonly sinceHlc: number;
  readonly counters: PubSubCounters;
  readonly streams: StreamTable;
  readonly cache: MessageCache;
  answer(nowMs: number, peer: PeerKey, frame: Uint8Array): void;
  refuse(nowMs: number, peer: PeerKey, frame: NoneFrame): void;
  noteHeard(cached: CachedMessage, peer: PeerKey): void;
  /** @returns false when nothing can be read now */
  read(read: LogRead): boolean;
}

export class Answers {
  readonly #deps: AnswersDeps;

  constructor(deps: AnswersDeps) {
    this.#deps = deps;
  }

  onWant(nowMs: number, from: PeerKey, entries: readonly Entry[], since: number): void {
    const { counters, cache, streams } = this.#deps;
    const absent: Entry[] = [];
    const before: Entry[] = [];
    // looked up once per stream, however often it is named
    const lastBefore = new Map<string, number>();
    let bytes = 0;
    let messages = 0;
    for (const { ref, from: first, to: last } of entries) {
      const beforeTo = this.#beforeTo(ref, first, since, lastBefore);
      if (beforeTo >= first) before.push({ ref, from: first, to: beforeTo });
      for (let sequence = Math.max(first, beforeTo + 1); sequence <= last; sequence++) {
        const cached = cache.get(ref, sequence);
        if (cached === undefined) {
          // a question about a huge range costs no more than an answer could
          if (sequence - first >= MAX_ANSWER_MESSAGES) {
            extendEntries(absent, ref, sequence, last);
            break;
          }
          extendEntries(absent, ref, sequence);
          continue;
        }
        if (bytes >= MAX_ANSWER_BYTES || messages >= MAX_ANSWER_MESSAGES) break;
        bytes += cached.frame.length;
        messages++;
        this.#deps.answer(nowMs, from, asType(cached.frame, FrameType.ANSWER));
        this.#deps.noteHeard(cached, from);
      }
    }
    counters.answered += messages;
    if (before.length > 0) this.#deps.refuse(nowMs, from, { type: "none", reason: NoneReason.BEFORE, entries: before });
    if (absent.length === 0) return;
    const gone: Entry[] = [];
    const missing: Entry[] = [];
    for (const entry of absent) {
      if (this.#readLog(entry, from, since)) continue;
      const window = streams.byRef(entry.ref)?.window;
      if (window?.has(entry.from) === true) gone.push(entry);
      else missing.push(entry);
    }
    counters.notAvailable += countEntries(absent);
    for (const [reason, list] of [
      [NoneReason.GONE, gone],
      [NoneReason.MISSING, missing],
    ] as const)
      if (list.length > 0)
        this.#deps.refuse(nowMs, from, { type: "none", reason, entries: list.slice(0, MAX_ENTRIES) });
  }

  /** What was here once may be in the log. */
  #readLog({ ref, from, to }: Entry, peer: PeerKey, since: number): boolean {
    const stream = this.#deps.streams.byRef(ref);
    if (stream?.publisher === undefined || !stream.window.has(from)) return false;
    return this.#deps.read({
      topic: this.#deps.topic,
      ref,
      from,
      to: Math.min(to, from + MAX_ANSWER_MESSAGES - 1),
      peer,
      since,
    });
  }

  /** What the log had of it. */
  logRead(nowMs: number, read: LogRead, frames: readonly Uint8Array[]): void {
    const { ref, from, to, peer, since } = read;
    let next = from;
    const none: Entry[] = [];
    const before: Entry[] = [];
    for (const frame of frames) {
      const message = decodeMessage(frame);
      if (message === undefined || message.sequence < next || message.sequence > to) continue;
      if (message.sequence > next) extendEntries(none, ref, next, message.sequence - 1);
      next = message.sequence + 1;
      if (message.hlc < since) {
        // all before it are older still
        none.length = 0;
        before[0] = { ref, from, to: message.sequence };
        continue;
      }
      this.#deps.counters.answered++;
      this.#deps.answer(nowMs, peer, asType(frame, FrameType.ANSWER));
    }
    if (next <= to) extendEntries(none, ref, next, to);
    if (before.length > 0) this.#deps.refuse(nowMs, peer, { type: "none", reason: NoneReason.BEFORE, entries: before });
    this.#deps.counters.notAvailable += countEntries(none);
    if (none.length > 0) this.#deps.refuse(nowMs, peer, { type: "none", reason: NoneReason.GONE, entries: none });
  }

  /** Up to which sequence, from `first` on, everything of the stream is older than `since`; below `first`: unknown or nothing. */
  #beforeTo(ref: string, first: number, since: number, found: Map<string, number>): number {
    const stream = this.#deps.streams.byRef(ref);
    if (stream === undefined) return 0;
    if (stream.publisher === undefined) return since >= this.#deps.sinceHlc ? stream.window.floor : 0;
    if (stream.hlc < since) return Math.max(stream.window.floor, stream.window.top);
    const asked = this.#deps.cache.get(ref, first);
    if (asked !== undefined && asked.hlc >= since) return 0;
    const last = found.get(ref) ?? this.#deps.cache.lastBefore(ref, since);
    found.set(ref, last);
    return last;
  }
}
