/**
 * What this node keeps as a member in the middle: lookups that it passed on and whose answer may come back, and the paths that came of them.
 * A path is two entries, one per direction, each a label by which this node receives from one neighbour and the label under which it passes on
 * to the other. Bounds: MAX_PENDING lookups (oldest out), and the paths that the options allow, per neighbour and in all.
 */
import { toHex } from "../../base/bytes.ts";

const MAX_PENDING = 2048;
const MAX_SEEN = 8192;
/** An answer that takes longer is of no use. */
const PENDING_LIFE_MS = 5000;
const SEEN_LIFE_MS = 30_000;

/** A lookup that was passed on. */
export interface Pending {
  readonly id: Uint8Array;
  readonly target: Uint8Array;
  readonly requester: Uint8Array;
  /** Whom it came from, and the label by which that one receives from this node. */
  readonly previous: Uint8Array;
  readonly outPrevious: number;
  readonly relay: boolean;
  /** Whom it went to, in hex → label by which this node receives from it. */
  readonly sent: Map<string, number>;
  readonly untilMs: number;
  isAnswered: boolean;
}

/** One direction's end of a path: the neighbour, the label it sends under, the label it receives under. */
export interface PathEnd {
  readonly nodeId: Uint8Array;
  readonly in: number;
  readonly out: number;
}

export interface Forward {
  /** The side that asked. */
  readonly previous: PathEnd;
  readonly next: PathEnd;
  readonly relay: boolean;
}

export class ForwardTable {
  readonly #pending = new Map<string, Pending>();
  readonly #seen = new Map<string, number>();
  /** "from/label", two per path. */
  readonly #byLabel = new Map<string, Forward>();
  /** Paths per neighbour that asked, and per neighbour at either end, both in hex. */
  readonly #counts = new Map<string, number>();
  readonly #ends = new Map<string, number>();

  /** Paths. */
  get size(): number {
    return this.#byLabel.size / 2;
  }

  countOf(previous: Uint8Array): number {
    return this.#counts.get(toHex(previous)) ?? 0;
  }

  /** @returns false when this lookup was here before */
  notice(nowMs: number, id: Uint8Array): boolean {
    const hex = toHex(id);
    const atMs = this.#seen.get(hex);
    if (atMs !== undefined && nowMs - atMs < SEEN_LIFE_MS) return false;
    this.#seen.delete(hex);
    if (this.#seen.size >= MAX_SEEN) this.#seen.delete(this.#seen.keys().next().value as string);
    this.#seen.set(hex, nowMs);
    return true;
  }

  expect(nowMs: number, lookup: Omit<Pending, "untilMs" | "isAnswered" | "sent">): Pending {
    for (const [hex, pending] of this.#pending) {
      if (pending.untilMs > nowMs && this.#pending.size < MAX_PENDING) break;
      this.#pending.delete(hex);
    }
    const pending = { ...lookup, sent: new Map<string, number>(), untilMs: nowMs + PENDING_LIFE_MS, isAnswered: false };
    this.#pending.set(toHex(lookup.id), pending);
    return pending;
  }

  /** @returns the lookup that this node passed on to `from` and whose answer is still awaited */
  pending(nowMs: number, id: Uint8Array, from: Uint8Array): Pending | undefined {
    const pending = this.#pending.get(toHex(id));
    return pending !== undefined && pending.untilMs > nowMs && pending.sent.has(toHex(from)) ? pending : undefined;
  }

  isTaken(from: Uint8Array, label: number): boolean {
    return this.#byLabel.has(`${toHex(from)}/${label}`);
  }

  byLabel(from: Uint8Array, label: number): Forward | undefined {
    return this.#byLabel.get(`${toHex(from)}/${label}`);
  }

  add(forward: Forward): void {
    const { previous, next } = forward;
    const hex = toHex(previous.nodeId);
    this.#byLabel.set(`${hex}/${previous.in}`, forward);
    const nextHex = toHex(next.nodeId);
    this.#byLabel.set(`${nextHex}/${next.in}`, forward);
    tally(this.#counts, hex, 1);
    tally(this.#ends, hex, 1);
    tally(this.#ends, nextHex, 1);
  }

  remove(forward: Forward): void {
    const { previous, next } = forward;
    const hex = toHex(previous.nodeId);
    if (!this.#byLabel.delete(`${hex}/${previous.in}`)) return;
    const nextHex = toHex(next.nodeId);
    this.#byLabel.delete(`${nextHex}/${next.in}`);
    tally(this.#counts, hex, -1);
    tally(this.#ends, hex, -1);
    tally(this.#ends, nextHex, -1);
  }

  touches(nodeId: Uint8Array): boolean {
    return this.#ends.has(toHex(nodeId));
  }

  touching(nodeId: Uint8Array): Forward[] {
    const prefix = `${toHex(nodeId)}/`;
    const found = new Set<Forward>();
    for (const [key, forward] of this.#byLabel) if (key.startsWith(prefix)) found.add(forward);
    return [...found];
  }
}

/** Counts up or down; nothing is kept for zero. */
export function tally(counts: Map<string, number>, key: string, change: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + change;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}
