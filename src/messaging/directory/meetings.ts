/**
 * This node as a meeting node: records of topics that it need not follow itself. Each topic has a table of 64 records and a distance between two visits of the
 * same follower, which grows while more than one visit in two seconds comes and shrinks while there is room: a topic with ten thousand followers costs its meeting
 * nodes no more than one with five hundred. Visitors that only look count for themselves: they do
 * not keep followers away. Bounds: `maxMeetings` topics. Each belongs to one of its visitors, the one with the fewest; at the bound one of the visitor with
 * the most goes, the one longest without a visit first. So whoever visits with many keys loses its own. 200 visits a second over all of them.
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
/** So many change their owner before one goes. */
const MAX_TRIES = 16;

/** How often those of one kind come, and shall come. */
interface Pace {
  againS: number;
  windowMs: number;
  visits: number;
}

interface Meeting {
  readonly keyHex: string;
  readonly table: RecordTable;
  readonly followers: Pace;
  readonly visitors: Pace;
  visitedMs: number;
  ownerHex: string;
}

export class Meetings {
  readonly #random: Random;
  readonly #limit: number;
  readonly #shortestAgainS: number;
  readonly #counters: DirectoryCounters;
  readonly #meetings = new Map<string, Meeting>();
  /** By visitor, then by key: those that belong to it, in order of their last visit, the latest last. */
  readonly #owned = new Map<string, Map<string, Meeting>>();

  /** @param shortestAgainS between two visits of a follower while few come */
  constructor(random: Random, limit: number, shortestAgainS: number, counters: DirectoryCounters) {
    this.#random = random;
    this.#limit = limit;
    this.#shortestAgainS = shortestAgainS;
    this.#counters = counters;
  }

  has(keyHex: string): boolean {
    return this.#meetings.has(keyHex);
  }

  /** The table where a visitor's record goes. */
  table(nowMs: number, key: Uint8Array, visitorHex: string): RecordTable {
    return this.#meeting(nowMs, toHex(key), visitorHex).table;
  }

  /** A visitor has come, its record is in. @returns a sample without the visitor, and when it shall come again */
  visit(
    nowMs: number,
    wallMs: number,
    key: Uint8Array,
    visitorHex: string,
    isFollower: boolean,
  ): { readonly againS: number; readonly records: TopicRecord[] } {
    const meeting = this.#meeting(nowMs, toHex(key), visitorHex);
    const pace = isFollower ? meeting.followers : meeting.visitors;
    pace.visits++;
    this.#adapt(nowMs, pace);
    this.#counters.recordsExpired += meeting.table.expire(wallMs);
    const entries = meeting.table.pick(MAX_RECORDS, (entry) => entry.hex !== visitorHex && isThere(entry));
    const againS = Math.round(pace.againS * (0.8 + 0.4 * this.#random.unit()));
    return { againS, records: entries.map((entry) => entry.record) };
  }

  withdraw(key: Uint8Array, hex: string): void {
    this.#meetings.get(toHex(key))?.table.remove(hex);
  }

  memberGone(hex: string): void {
    for (const meeting of this.#meetings.values()) meeting.table.remove(hex);
  }

  expire(nowMs: number, wallMs: number): void {
    for (const meeting of this.#meetings.values()) {
      this.#counters.recordsExpired += meeting.table.expire(wallMs);
      // one without records still knows how many come to look
      if (meeting.table.size === 0 && nowMs - meeting.visitedMs > 2 * WINDOW_MS) this.#remove(meeting);
    }
    this.#counters.meetings = this.#meetings.size;
  }

  #meeting(nowMs: number, keyHex: string, visitorHex: string): Meeting {
    let meeting = this.#meetings.get(keyHex);
    if (meeting === undefined) {
      meeting = {
        keyHex,
        table: new RecordTable(this.#random, RECORDS),
        followers: this.#newPace(),
        visitors: this.#newPace(),
        visitedMs: nowMs,
        ownerHex: visitorHex,
      };
      this.#meetings.set(keyHex, meeting);
    } else {
      const { ownerHex } = meeting;
      this.#disown(meeting);
      // who has many keys cannot take those of others with it
      if (this.#ownedBy(visitorHex) < this.#ownedBy(ownerHex)) meeting.ownerHex = visitorHex;
    }
    meeting.visitedMs = nowMs;
    this.#own(meeting, meeting.ownerHex);
    if (this.#meetings.size > this.#limit) this.#evict(meeting);
    this.#counters.meetings = this.#meetings.size;
    return meeting;
  }

  /** Not the one that is asked for. */
  #evict(kept: Meeting): void {
    let most: Map<string, Meeting> | undefined;
    for (const owned of this.#owned.values()) {
      const isKept = owned.size === 1 && owned.has(kept.keyHex);
      if (!isKept && owned.size > (most?.size ?? 0)) most = owned;
    }
    let tries = 0;
    for (const meeting of most?.values() ?? []) {
      if (meeting === kept) continue;
      // it was there first, but another who has fewer meets here too
      const other = ++tries > MAX_TRIES ? undefined : this.#otherOwner(meeting);
      if (other !== undefined) {
        this.#disown(meeting);
        this.#own(meeting, other);
        continue;
      }
      this.#remove(meeting);
      this.#counters.meetingsEvicted++;
      return;
    }
  }

  #otherOwner({ table, ownerHex }: Meeting): string | undefined {
    const owned = this.#ownedBy(ownerHex);
    return table.entries.find(({ hex }) => hex !== ownerHex && this.#ownedBy(hex) + 1 < owned)?.hex;
  }

  #own(meeting: Meeting, ownerHex: string): void {
    meeting.ownerHex = ownerHex;
    const owned = this.#owned.get(ownerHex) ?? new Map<string, Meeting>();
    owned.set(meeting.keyHex, meeting);
    this.#owned.set(ownerHex, owned);
  }

  #remove(meeting: Meeting): void {
    this.#meetings.delete(meeting.keyHex);
    this.#disown(meeting);
  }

  #disown({ ownerHex, keyHex }: Meeting): void {
    const owned = this.#owned.get(ownerHex);
    owned?.delete(keyHex);
    if (owned?.size === 0) this.#owned.delete(ownerHex);
  }

  #ownedBy(hex: string): number {
    return this.#owned.get(hex)?.size ?? 0;
  }

  #newPace(): Pace {
    return { againS: this.#shortestAgainS, windowMs: Number.NEGATIVE_INFINITY, visits: 0 };
  }

  #adapt(nowMs: number, pace: Pace): void {
    const elapsedMs = nowMs - pace.windowMs;
    // many at once need not wait for the end of the window
    const isCrowded = pace.visits > (VISITS_PER_SECOND * WINDOW_MS) / 1000;
    if (elapsedMs < WINDOW_MS && !isCrowded) return;
    if (elapsedMs !== Number.POSITIVE_INFINITY) {
      const rate = pace.visits / Math.max(1, elapsedMs / 1000);
      if (rate > VISITS_PER_SECOND) pace.againS *= Math.min(2, rate / VISITS_PER_SECOND);
      else if (rate < VISITS_PER_SECOND / 2) pace.againS *= 0.7;
      pace.againS = Math.min(LONGEST_AGAIN_S, Math.max(this.#shortestAgainS, pace.againS));
    }
    pace.windowMs = nowMs;
    pace.visits = 0;
  }
}
