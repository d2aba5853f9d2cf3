/**
 * How much of the history is kept: rows and bytes. What is counted follows the database from its own figures; where a bound is met the oldest tenth
 * goes in one step, so that not every message costs a deletion. Source: docs/protocol.md, "History".
 */
export interface HistoryLimits {
  readonly maxRows: number;
  readonly maxBytes: number;
}

/** What a row costs besides its payload and text: its other columns, most of them in an index too. */
const ROW_BYTES = 768;
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

  /** As the database says. @param contentBytes of all rows together, as in add() */
  measured(rows: number, contentBytes: number): void {
    this.#rows = rows;
    this.#bytes = contentBytes + rows * ROW_BYTES;
  }

  /** @param contentBytes payload, and its text with the index @returns how many of the oldest rows must go now; then measured() comes again */
  add(contentBytes: number): number {
    this.#rows++;
    this.#bytes += contentBytes + ROW_BYTES;
    if (this.#rows <= this.#limits.maxRows && this.#bytes <= this.#limits.maxBytes) return 0;
    return Math.max(1, Math.ceil(this.#rows / SHARE));
  }
}
