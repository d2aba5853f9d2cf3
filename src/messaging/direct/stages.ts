/** How long each stage of a direct message took: log2 buckets from 64 µs to 1,073 s, with count and sum. Source: docs/protocol.md, "Direct messages". */

export const STAGES = ["open", "write", "admit", "commit", "answer", "total"] as const;
export type Stage = (typeof STAGES)[number];

const BUCKETS = 25;
const FIRST_BUCKET_US = 64;

class StageHistogram {
  count = 0;
  sumMs = 0;
  readonly #buckets = new Float64Array(BUCKETS);

  record(ms: number): void {
    if (!(ms >= 0)) return;
    this.count++;
    this.sumMs += ms;
    const bucket = Math.ceil(Math.log2(Math.max(1, (ms * 1000) / FIRST_BUCKET_US)));
    const at = Math.min(BUCKETS - 1, bucket);
    this.#buckets[at] = this.#buckets[at] + 1;
  }

  /** Every second one: factors of four. */
  buckets(): StageBucket[] {
    const out: StageBucket[] = [];
    let seen = 0;
    for (let i = 0; i < BUCKETS - 1; i++) {
      seen += this.#buckets[i];
      if (i % 2 === 0) out.push([(FIRST_BUCKET_US * 2 ** i) / 1e6, seen]);
    }
    return out;
  }

  /** Upper bound of the quantile (0–1) in ms; 0 when nothing was recorded. */
  quantile(quantile: number): number {
    let seen = 0;
    for (let i = 0; i < BUCKETS; i++) {
      seen += this.#buckets[i];
      if (this.count > 0 && seen >= this.count * quantile) return (FIRST_BUCKET_US * 2 ** i) / 1000;
    }
    return 0;
  }
}

/** Upper bound in seconds, count of all up to it. */
export type StageBucket = readonly [upperSeconds: number, count: number];

export interface StageFigures {
  readonly stage: Stage;
  readonly count: number;
  readonly meanMs: number;
  /** Upper bounds of the bucket. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly sumMs: number;
  readonly buckets: readonly StageBucket[];
}

export class StageHistograms {
  readonly #stages = new Map<Stage, StageHistogram>(STAGES.map((stage) => [stage, new StageHistogram()]));

  /** NaN: the stage was not reached. */
  record(stage: Stage, ms: number): void {
    this.#stages.get(stage)?.record(ms);
  }

  figures(): StageFigures[] {
    return [...this.#stages].map(([stage, histogram]) => ({
      stage,
      count: histogram.count,
      meanMs: histogram.count === 0 ? 0 : histogram.sumMs / histogram.count,
      p50Ms: histogram.quantile(0.5),
      p99Ms: histogram.quantile(0.99),
      sumMs: histogram.sumMs,
      buckets: histogram.buckets(),
    }));
  }
}
