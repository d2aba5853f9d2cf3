/**
 * What all services for members share: how many at once, and the audit lines that say who did what.
 * Source: docs/protocol.md, "Forwards" and "Limits".
 */
import type { Logger } from "../../../base/log.ts";
import type { Clock } from "../../clock.ts";

/** Places for what runs at once, in all and per key; nothing waits. */
export class Slots {
  readonly #most: number;
  readonly #mostPerKey: number;
  readonly #taken = new Map<string, number>();
  #total = 0;

  constructor(most: number, mostPerKey: number) {
    this.#most = most;
    this.#mostPerKey = mostPerKey;
  }

  get taken(): number {
    return this.#total;
  }

  /** @returns gives the place back (idempotent); undefined when there is none */
  take(key: string): (() => void) | undefined {
    const before = this.#taken.get(key) ?? 0;
    if (this.#total >= this.#most || before >= this.#mostPerKey) return undefined;
    this.#taken.set(key, before + 1);
    this.#total++;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      this.#total--;
      const now = (this.#taken.get(key) as number) - 1;
      if (now === 0) this.#taken.delete(key);
      else this.#taken.set(key, now);
    };
  }
}

const LINES_PER_SECOND = 20;
const BURST_LINES = 100;
/** Of the burst, for what was done: refusals, which cost the peer nothing, cannot take it. */
const RESERVED_LINES = 50;
const MAX_BUCKETS = 1_024;
/** Of what this machine's user does. */
const LOCAL = "";
/** Of the peers that find no bucket free. */
const OTHERS = "others";

interface Bucket {
  tokens: number;
  atMs: number;
  missing: number;
}

/**
 * One line for each use of a service and each refusal. A flood of them is cut short, each peer's by itself; how many are missing is said in
 * that peer's next line and counted.
 */
export class Audit {
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly #buckets = new Map<string, Bucket>();
  /** Lines of all that are missing. */
  leftOut = 0;

  constructor(log: Logger, clock: Clock) {
    this.#log = log.child("audit");
    this.#clock = clock;
    // there when there is no place left
    const { nowMs } = clock.now();
    for (const key of [LOCAL, OTHERS]) this.#buckets.set(key, { tokens: BURST_LINES, atMs: nowMs, missing: 0 });
  }

  /** What this machine's user did. */
  note(line: string): void {
    this.#write(LOCAL, line, 0);
  }

  /** @param peerId anything that tells members apart */
  used(peerId: string, line: string): void {
    this.#write(peerId, line, 0);
  }

  refused(peerId: string, line: string): void {
    this.#write(peerId, line, RESERVED_LINES);
  }

  #write(key: string, line: string, kept: number): void {
    const bucket = this.#bucket(key);
    if (bucket.tokens < kept + 1) {
      bucket.missing++;
      this.leftOut++;
      return;
    }
    bucket.tokens--;
    const missing = bucket.missing === 0 ? "" : ` (${bucket.missing} lines before this one were left out)`;
    bucket.missing = 0;
    this.#log.info(`${line}${missing}`);
  }

  #bucket(key: string): Bucket {
    const { nowMs } = this.#clock.now();
    let bucket = this.#buckets.get(key);
    if (bucket === undefined && this.#buckets.size >= MAX_BUCKETS) {
      this.#forgetIdle(nowMs);
      if (this.#buckets.size >= MAX_BUCKETS) return this.#bucket(OTHERS);
    }
    if (bucket === undefined) {
      bucket = { tokens: BURST_LINES, atMs: nowMs, missing: 0 };
      this.#buckets.set(key, bucket);
    }
    refill(bucket, nowMs);
    return bucket;
  }

  /** A full bucket is as good as none; what it left out stays counted. */
  #forgetIdle(nowMs: number): void {
    for (const [key, bucket] of this.#buckets) {
      if (key === LOCAL || key === OTHERS) continue;
      refill(bucket, nowMs);
      if (bucket.tokens === BURST_LINES) this.#buckets.delete(key);
    }
  }
}

function refill(bucket: Bucket, nowMs: number): void {
  bucket.tokens = Math.min(BURST_LINES, bucket.tokens + ((nowMs - bucket.atMs) / 1000) * LINES_PER_SECOND);
  bucket.atMs = nowMs;
}
