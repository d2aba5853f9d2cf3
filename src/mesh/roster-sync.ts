/**
 * How two members find out what each lacks, without remembering anything between messages: range-based set reconciliation over the
 * statements' (hlc, hash) order. A side that sees a different fingerprint for a range answers with fingerprints of its parts, or, when the
 * range is small on its side, with the list of what it has; whoever gets a list sends what is missing there and asks for what is missing
 * here. A lost message costs nothing but time: the next digest begins again. Rounds: log16 of the roster's size.
 * Source: docs/protocol.md, "Roster" (propagation).
 */
import { compare, equal, toHex } from "../base/bytes.ts";
import { type ControlMessage, type Fingerprint, MAX_HASHES, MAX_RANGES, type RangeDigest } from "./control.ts";
import type { Roster } from "./roster.ts";
import { HASH_BYTES, type Statement } from "./statement.ts";

/** The clock above all statements: where the last range ends. */
export const CLOCK_END: number = Number.MAX_SAFE_INTEGER;
/** A range of at most this many own statements is answered with a list. */
const LIST_SIZE = 24;
const FIRST_HASH: Uint8Array = new Uint8Array(HASH_BYTES);

export function sameFingerprint(a: Fingerprint, b: Fingerprint): boolean {
  return a.count === b.count && equal(a.fingerprint, b.fingerprint);
}

/** The whole roster in one figure. */
export function rosterDigest(roster: Roster): Fingerprint {
  return roster.fingerprint(0, CLOCK_END);
}

/** What to say to a peer whose digest of everything differs. */
export function openingMoves(roster: Roster): ControlMessage[] {
  return describeRange(roster, 0, CLOCK_END);
}

/** What to say to a peer that sent these fingerprints; nothing where they agree. */
export function answerRanges(roster: Roster, lower: number, ranges: readonly RangeDigest[]): ControlMessage[] {
  const out: ControlMessage[] = [];
  let from = lower;
  for (const range of ranges) {
    if (!sameFingerprint(roster.fingerprint(from, range.upper), range))
      out.push(...describeRange(roster, from, range.upper));
    from = range.upper;
  }
  return out;
}

/** What a list shows to be missing on either side. @param isKnown also true for statements that only wait for their parents */
export function compareList(
  roster: Roster,
  isKnown: (hash: Uint8Array) => boolean,
  list: Extract<ControlMessage, { type: "have" }>,
): { readonly send: readonly Statement[]; readonly want: readonly Uint8Array[] } {
  const theirs = new Set(list.hashes.map(toHex));
  const send = roster.range(list.lower, list.upper).filter((statement) => {
    if (compare(statement.hash, list.from) < 0) return false;
    if (list.below !== undefined && compare(statement.hash, list.below) >= 0) return false;
    return !theirs.has(statement.hashHex);
  });
  return { send, want: list.hashes.filter((hash) => !isKnown(hash)) };
}

function describeRange(roster: Roster, lower: number, upper: number): ControlMessage[] {
  const own = roster.range(lower, upper);
  if (own.length <= LIST_SIZE) return [listOf(own, lower, upper, FIRST_HASH, undefined)];
  const step = Math.ceil(own.length / MAX_RANGES);
  const ranges: RangeDigest[] = [];
  let from = lower;
  for (let i = step; i < own.length; i += step) {
    const boundary = own[i].hlc;
    if (boundary <= from) continue;
    ranges.push({ upper: boundary, ...roster.fingerprint(from, boundary) });
    from = boundary;
  }
  // many statements with one clock: ranges cannot part them, lists by hash can
  if (ranges.length === 0) return listsByHash(own, lower, upper);
  ranges.push({ upper, ...roster.fingerprint(from, upper) });
  return [{ type: "ranges", lower, ranges }];
}

function listsByHash(own: readonly Statement[], lower: number, upper: number): ControlMessage[] {
  const sorted = [...own].toSorted((a, b) => compare(a.hash, b.hash));
  const out: ControlMessage[] = [];
  for (let i = 0; i < sorted.length; i += LIST_SIZE) {
    const from = i === 0 ? FIRST_HASH : sorted[i].hash;
    out.push(listOf(sorted.slice(i, i + LIST_SIZE), lower, upper, from, sorted[i + LIST_SIZE]?.hash));
  }
  return out;
}

function listOf(
  statements: readonly Statement[],
  lower: number,
  upper: number,
  from: Uint8Array,
  below: Uint8Array | undefined,
): ControlMessage {
  return {
    type: "have",
    lower,
    upper,
    from,
    below,
    hashes: statements.slice(0, MAX_HASHES).map((statement) => statement.hash),
  };
}
