/** One topic that this node follows, as the directory machine keeps it. */
import { toHex } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import type { TopicRecord } from "./frames.ts";
import { RecordTable } from "./records.ts";
import type { TopicRole } from "./types.ts";

/** One round of visits to the meeting nodes. */
export interface Round {
  readonly order: readonly Uint8Array[];
  next: number;
  answers: number;
  /** The most that came in one answer. */
  records: number;
  /** Until the next round, as the first answer says. */
  againMs: number;
}

export interface Followed {
  readonly name: string;
  /** 32 bytes */
  readonly key: Uint8Array;
  readonly keyHex: string;
  readonly table: RecordTable;
  role: TopicRole;
  /** What this node says of itself; undefined for a visitor. */
  own: TopicRecord | undefined;
  round: Round | undefined;
  /** A meeting node that owes an answer. */
  asked: { readonly hex: string; readonly dueMs: number } | undefined;
  visitAtMs: number;
  /** Rounds in a row without any answer. */
  failures: number;
  /** Rounds in a row of a visitor that knows of nobody. */
  looks: number;
  /** Meeting nodes that the last round had to do without. */
  readonly skipped: Set<string>;
  /** Meeting nodes that answered in the last round. */
  readonly met: Set<string>;
  /** When to see whether the roster has other meeting nodes now. */
  checkAtMs: number;
  /** A follower that owes an answer to a shuffle, and whom it was told of. */
  partner: { readonly hex: string; readonly dueMs: number; readonly sent: Set<string> } | undefined;
  /** Whom this node shuffled with when it was new here. */
  readonly introduced: Set<string>;
  shuffleAtMs: number;
  shuffleEveryMs: number;
  isDirty: boolean;
  toldMs: number;
}

export function newFollowed(
  name: string,
  key: Uint8Array,
  role: TopicRole,
  random: Random,
  sampleSize: number,
  shuffleMs: number,
): Followed {
  return {
    name,
    key,
    keyHex: toHex(key),
    table: new RecordTable(random, sampleSize),
    role,
    own: undefined,
    round: undefined,
    asked: undefined,
    visitAtMs: Number.POSITIVE_INFINITY,
    failures: 0,
    looks: 0,
    skipped: new Set(),
    met: new Set(),
    checkAtMs: Number.POSITIVE_INFINITY,
    partner: undefined,
    introduced: new Set(),
    shuffleAtMs: Number.POSITIVE_INFINITY,
    shuffleEveryMs: shuffleMs,
    isDirty: false,
    toldMs: Number.NEGATIVE_INFINITY,
  };
}
