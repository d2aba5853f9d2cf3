/**
 * This node as a meeting node: records of topics that it need not follow itself. Each topic has a table of 64 records and a distance between two visits of the
 * same follower, which grows while more than one visit in two seconds comes and shrinks while there is room: a topic with ten thousand followers costs its meeting
 * nodes no more than one with five hundred. Bounds: `maxMeetings` topics, the one longest without a visitor goes first; 200 visits a second over all of them.
 * Source: docs/protocol.md, "Directory".
 */
import { toHex } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import { MAX_RECORDS, type TopicRecord } from "./frames.ts";
import { isThere, RecordTable } from "./records.ts";
import type { DirectoryCounters } from "./types.ts";

const RECORDS = 64;
const VISITS_PER_SECOND = 0.5;
const LONGEST_AGAIN_S = 21_600;
const WINDOW_MS = 60_000;

interface Meeting {
  readonly table: RecordTable;
  againS: number;
  windowMs: number;
  visits: number;
}

export class Meetings {
  readonly #random: Random;
  readonly #limit: number;
  readonly #shortestAgainS: number;
  readonly #counters: DirectoryCounters;
  /** By key, in order of their last visit, the latest last. */
  readonly #meetings = new Map<string, Meeting>();

  /** @param shortestAgainS between two visits of a follower while few come */
  constructor(random: Random, limit: number, shortestAgainS: number, counters: DirectoryCounters) {
    this.#random = random;
    this.#limit = limit;
    this.#shortestAgainS = shortestAgainS;
    this.#counters = counters;
  }

  /** The table where a visitor's record goes. */
  table(key: Uint8Array): RecordTable {
    return this.#meeting(toHex(key)).table;
  }

  /** A visitor has come, its record is in. @returns a sample without the visitor, and when it shall come again */
  visit(
    nowMs: number,
    wallMs: number,
    key: Uint8Array,
    visitorHex: string,
  ): { readonly againS: number; readonly records: TopicRecord[] } {
    const meeting = this.#meeting(toHex(key));
    meeting.visits++;
    this.#adapt(nowMs, meeting);
    this.#counters.recordsExpired += meeting.table.expire(wallMs);
    const entries = meeting.table.pick(MAX_RECORDS, (entry) => entry.hex !== visitorHex && isThere(entry));
    const againS = Math.round(meeting.againS * (0.8 + 0.4 * this.#random.unit()));
    return { againS, records: entries.map((entry) => entry.record) };
  }

  withdraw(key: Uint8Array, hex: string): void {
    this.#meetings.get(toHex(key))?.table.remove(hex);
  }

  memberGone(hex: string): void {
    for (const meeting of this.#meetings.values()) meeting.table.remove(hex);
  }

  expire(wallMs: number): void {
    for (const [key, meeting] of this.#meetings) {
      this.#counters.recordsExpired += meeting.table.expire(wallMs);
      if (meeting.table.size === 0) this.#meetings.delete(key);
    }
    this.#counters.meetings = this.#meetings.size;
  }

  #meeting(keyHex: string): Meeting {
    let meeting = this.#meetings.get(keyHex);
    if (meeting === undefined) {
      meeting = {
        table: new RecordTable(this.#random, RECORDS),
        againS: this.#shortestAgainS,
        windowMs: Number.NEGATIVE_INFINITY,
        visits: 0,
      };
    } else this.#meetings.delete(keyHex);
    this.#meetings.set(keyHex, meeting);
    if (this.#meetings.size > this.#limit) {
      for (const oldest of this.#meetings.keys()) {
        this.#meetings.delete(oldest);
        this.#counters.meetingsEvicted++;
        break;
      }
    }
    this.#counters.meetings = this.#meetings.size;
    return meeting;
  }

  #adapt(nowMs: number, meeting: Meeting): void {
    const elapsedMs = nowMs - meeting.windowMs;
    // many at once need not wait for the end of the window
    const isCrowded = meeting.visits > (VISITS_PER_SECOND * WINDOW_MS) / 1000;
    if (elapsedMs < WINDOW_MS && !isCrowded) return;
    if (elapsedMs !== Number.POSITIVE_INFINITY) {
      const rate = meeting.visits / Math.max(1, elapsedMs / 1000);
      if (rate > VISITS_PER_SECOND) meeting.againS *= Math.min(2, rate / VISITS_PER_SECOND);
      else if (rate < VISITS_PER_SECOND / 2) meeting.againS *= 0.7;
      meeting.againS = Math.min(LONGEST_AGAIN_S, Math.max(this.#shortestAgainS, meeting.againS));
    }
    meeting.windowMs = nowMs;
    meeting.visits = 0;
  }
}
