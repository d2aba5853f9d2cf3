/**
 * Latency histogram of 16 log2 buckets, 1 µs to 16 ms and above, with count and exact sum; one row in a Float64Array that
 * another thread may read at any time.
 *   0 count | 1 sum of microseconds | 2 … 17 buckets: bucket i counts values below 2^i µs not counted before, the last all others
 */
export const HISTOGRAM_FIELDS = 18;
export const HISTOGRAM_BUCKETS = 16;

/** @param durationMs fractional milliseconds; negative counts as 0 */
export function recordHistogram(cells: Float64Array, base: number, durationMs: number): void {
  const micros = durationMs > 0 ? durationMs * 1000 : 0;
  const whole = micros | 0;
  let bucket = whole === 0 ? 0 : 32 - Math.clz32(whole);
  if (bucket >= HISTOGRAM_BUCKETS || micros >= 2147483647) bucket = HISTOGRAM_BUCKETS - 1;
  cells[base] = cells[base] + 1;
  cells[base + 1] = cells[base + 1] + micros;
  cells[base + 2 + bucket] = cells[base + 2 + bucket] + 1;
}

/** @returns an upper bound in microseconds of the given quantile (0–1), 0 when nothing was recorded */
export function histogramQuantile(cells: Float64Array, base: number, quantile: number): number {
  const count = cells[base];
  let seen = 0;
  for (let i = 0; i < HISTOGRAM_BUCKETS; i++) {
    seen += cells[base + 2 + i];
    if (count > 0 && seen >= count * quantile) return 2 ** i;
  }
  return 0;
}
