/**
 * How long the NATs on the way remember an idle path, learned by trying: keepalives begin every 20 s; each that finds this node seen at the same address as before
 * makes the next one wait half as long again, up to 120 s, where the sessions' own rekeys keep the path open anyway; one after which the peer sees another address
 * (the mapping was gone) falls back to what is known to last, and from then on stays below. So an idle node behind a good NAT sends two small packets in two minutes.
 * Source: docs/protocol.md, "Paths"; RFC 4787 section 4.3 (mappings of UDP last 120 s at least, many less).
 */
const FIRST_MS = 20_000;
const LEAST_MS = 10_000;
const MOST_MS = 120_000;
const GROWTH = 1.5;
/** Of an interval that was too long. */
const SAFETY = 0.75;

export class MappingLife {
  intervalMs: number = FIRST_MS;
  #lastsMs = 0;
  #tooLongMs = Infinity;

  /** @param isSame the peer sees this node where it saw it before the pause */
  answered(isSame: boolean): void {
    if (isSame) {
      this.#lastsMs = Math.max(this.#lastsMs, this.intervalMs);
      this.intervalMs = Math.max(LEAST_MS, Math.min(MOST_MS, this.#tooLongMs * SAFETY, this.intervalMs * GROWTH));
      return;
    }
    this.#tooLongMs = Math.min(this.#tooLongMs, this.intervalMs);
    this.#lastsMs = Math.min(this.#lastsMs, this.#tooLongMs * SAFETY);
    this.intervalMs = Math.max(LEAST_MS, this.#lastsMs > 0 ? this.#lastsMs : this.intervalMs / 2);
  }

  /** Another path, other NATs. */
  reset(): void {
    this.intervalMs = FIRST_MS;
    this.#lastsMs = 0;
    this.#tooLongMs = Infinity;
  }
}
