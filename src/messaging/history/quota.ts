/**
 * How much of the history is kept: rows and bytes. What is counted follows the database from its own figures; where a bound is met the oldest tenth
 * goes in one step, so that not every message costs a deletion. Source: docs/protocol.md, "History".
 */
export interface HistoryLimits {
  readonly maxRows: number;
  readonly maxBytes: number;
}

/** What a row costs besides its payload, with its index. */
const ROW_BYTES = 256;
const SHARE = 10;

export class HistoryQuota {
  readonly #limits: HistoryLimits;
  #rows = 0;
  #bytes = 0;

  constructor(limits: HistoryLimits) {
    this.#limits = limits;
  }

  get rows(): number {
    return this.#rows;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** As the database says. @param payloadBytes of all rows together */
  measured(rows: number, payloadBytes: number): void {
    this.#rows = rows;
    this.#bytes = payloadBytes + rows * ROW_BYTES;
  }

  /** @returns how many of the oldest rows must go now; then measured() comes again */
  add(payloadBytes: number): number {
    this.#rows++;
    this.#bytes += payloadBytes + ROW_BYTES;
    if (this.#rows <= this.#limits.maxRows && this.#bytes <= this.#limits.maxBytes) return 0;
    return Math.max(1, Math.ceil(this.#rows / SHARE));
  }
}
