/**
 * One direction of an impaired link, without clocks or sockets: decides for every packet whether it is lost and when it comes out.
 *
 *   partition → MTU → loss → token bucket with a bounded queue → delay and jitter → reordering → duplication
 *
 * Guarantees: the same seed, settings and arrivals give the same fate to every packet; order is kept unless `reorder` says otherwise
 * (jitter alone never reorders); every lost packet is counted under one reason, and packets = delivered + the sum of all reasons,
 * where a duplicate counts as one more packet delivered and one `duplicated`.
 */
import type { Random } from "../src/base/random.ts";

/** Settings of one direction; all may be changed while packets are under way. */
export interface LinkSettings {
  /** One-way delay, milliseconds. @default 0 */
  delayMs: number;
  /** Added to the delay, uniform in [0, jitterMs). @default 0 */
  jitterMs: number;
  /** Probability of loss, 0–1. @default 0 */
  loss: number;
  /** Probability that a packet comes twice, 0–1. @default 0 */
  duplicate: number;
  /** Probability that a packet is held back by reorderMs more than those behind it, 0–1. @default 0 */
  reorder: number;
  /** @default 10 */
  reorderMs: number;
  /** Bits per second of IP packets; 0 = not limited. @default 0 */
  rateBps: number;
  /** What may leave at once after idleness, bytes. @default 32_768 */
  burstBytes: number;
  /** Room of the queue in front of the token bucket, bytes; a packet that does not fit is dropped. @default 1_048_576 */
  queueBytes: number;
  /** Largest IP packet; 0 = no limit. @default 0 */
  mtuBytes: number;
  /** Answer a packet that is too big with an ICMP error; false is a black hole. @default true */
  mtuIcmp: boolean;
  /** Drop everything. @default false */
  partition: boolean;
}

const DEFAULTS: Readonly<LinkSettings> = {
  delayMs: 0,
  jitterMs: 0,
  loss: 0,
  duplicate: 0,
  reorder: 0,
  reorderMs: 10,
  rateBps: 0,
  burstBytes: 32_768,
  queueBytes: 1 << 20,
  mtuBytes: 0,
  mtuIcmp: true,
  partition: false,
};

const PROBABILITIES: ReadonlySet<string> = new Set(["loss", "duplicate", "reorder"]);

/** What admit() decided. */
export const Fate = { DELIVER: 0, TWICE: 1, LOST: 2, QUEUE_FULL: 3, TOO_BIG: 4, PARTITION: 5 } as const;
export type Fate = (typeof Fate)[keyof typeof Fate];

/** @returns why `changes` are not settings, in one line; undefined when they are */
export function settingsProblem(changes: Readonly<Record<string, unknown>>): string | undefined {
  for (const [name, value] of Object.entries(changes)) {
    const known = (DEFAULTS as unknown as Record<string, unknown>)[name];
    if (known === undefined) return `unknown setting ${name}; known: ${Object.keys(DEFAULTS).join(", ")}`;
    if (typeof value !== typeof known) return `${name} must be a ${typeof known}`;
    if (
      typeof value === "number" &&
      !(value >= 0 && value <= (PROBABILITIES.has(name) ? 1 : Number.MAX_SAFE_INTEGER))
    ) {
      return `${name} must be at least 0${PROBABILITIES.has(name) ? " and at most 1" : ""}`;
    }
  }
  return undefined;
}

export class LinkModel {
  readonly settings: LinkSettings = { ...DEFAULTS };
  /** When the packet just admitted comes out, milliseconds on the caller's clock. Valid after DELIVER and TWICE. */
  dueMs = 0;
  packets = 0;
  bytes = 0;
  delivered = 0;
  duplicated = 0;
  reordered = 0;
  lost = 0;
  queueFull = 0;
  tooBig = 0;
  partitioned = 0;
  readonly #random: Random;
  /** Until when the token bucket is busy with what was admitted; may lie up to one burst in the past. */
  #busyUntilMs = Number.NEGATIVE_INFINITY;
  #lastDueMs = Number.NEGATIVE_INFINITY;

  constructor(random: Random) {
    this.#random = random;
  }

  /** @param bytes of the IP packet */
  admit(nowMs: number, bytes: number): Fate {
    const s = this.settings;
    this.packets++;
    this.bytes += bytes;
    if (s.partition) {
      this.partitioned++;
      return Fate.PARTITION;
    }
    if (s.mtuBytes > 0 && bytes > s.mtuBytes) {
      this.tooBig++;
      return Fate.TOO_BIG;
    }
    if (s.loss > 0 && this.#random.unit() < s.loss) {
      this.lost++;
      return Fate.LOST;
    }
    let leavesMs = nowMs;
    if (s.rateBps > 0) {
      const msPerByte = 8_000 / s.rateBps;
      // The bucket as a virtual clock: idle time is credit, at most one burst of it.
      const from = Math.max(this.#busyUntilMs, nowMs - s.burstBytes * msPerByte);
      const until = from + bytes * msPerByte;
      if (until - nowMs > s.queueBytes * msPerByte) {
        this.queueFull++;
        return Fate.QUEUE_FULL;
      }
      this.#busyUntilMs = until;
      leavesMs = Math.max(nowMs, until);
    }
    let due = leavesMs + s.delayMs;
    if (s.jitterMs > 0) due += this.#random.unit() * s.jitterMs;
    due = Math.max(due, this.#lastDueMs);
    if (s.reorder > 0 && this.#random.unit() < s.reorder) {
      this.reordered++;
      this.dueMs = due + s.reorderMs;
    } else {
      this.#lastDueMs = due;
      this.dueMs = due;
    }
    this.delivered++;
    if (s.duplicate > 0 && this.#random.unit() < s.duplicate) {
      this.duplicated++;
      return Fate.TWICE;
    }
    return Fate.DELIVER;
  }

  /** A lower delay takes effect at once instead of waiting behind what was admitted under the higher one. */
  change(settings: Partial<LinkSettings>): void {
    Object.assign(this.settings, settings);
    this.#lastDueMs = Number.NEGATIVE_INFINITY;
    this.#busyUntilMs = Number.NEGATIVE_INFINITY;
  }

  counters(): Record<string, number> {
    const { packets, bytes, delivered, duplicated, reordered, lost, queueFull, tooBig, partitioned } = this;
    return { packets, bytes, delivered, duplicated, reordered, lost, queueFull, tooBig, partitioned };
  }
}

/** Min-heap of (due time, arrival) → slot; fixed capacity, no allocation after construction. Equal times keep their order. */
export class DueHeap {
  size = 0;
  readonly #due: Float64Array;
  readonly #order: Float64Array;
  readonly #slot: Int32Array;
  #arrivals = 0;

  constructor(capacity: number) {
    this.#due = new Float64Array(capacity);
    this.#order = new Float64Array(capacity);
    this.#slot = new Int32Array(capacity);
  }

  /** Due time of the first one; Infinity when empty. */
  get nextDueMs(): number {
    return this.size === 0 ? Number.POSITIVE_INFINITY : this.#due[0];
  }

  /** @returns false when full */
  push(dueMs: number, slot: number): boolean {
    if (this.size === this.#due.length) return false;
    const order = this.#arrivals++;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(dueMs, order, parent)) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#set(at, dueMs, order, slot);
    return true;
  }

  /** Takes the first slot. Call only when size > 0. */
  pop(): number {
    const first = this.#slot[0];
    const last = --this.size;
    const due = this.#due[last];
    const order = this.#order[last];
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= last) break;
      if (child + 1 < last && this.#before(this.#due[child + 1], this.#order[child + 1], child)) child++;
      if (this.#before(due, order, child)) break;
      this.#move(child, at);
      at = child;
    }
    this.#set(at, due, order, this.#slot[last]);
    return first;
  }

  #before(dueMs: number, order: number, index: number): boolean {
    const other = this.#due[index];
    return dueMs < other || (dueMs === other && order < this.#order[index]);
  }

  #move(from: number, to: number): void {
    this.#set(to, this.#due[from], this.#order[from], this.#slot[from]);
  }

  #set(at: number, dueMs: number, order: number, slot: number): void {
    this.#due[at] = dueMs;
    this.#order[at] = order;
    this.#slot[at] = slot;
  }
}
