/** What a scenario is, and how a measured value becomes a verdict. */

export interface Finding {
  /** What must hold, with its number. */
  readonly limit: string;
  /** INVALID: the value could not be taken, which is never a pass. */
  readonly verdict: "PASS" | "FAIL" | "INVALID";
  /** The measured value. */
  readonly evidence: string;
}

export interface Scenario {
  readonly name: string;
  readonly about: string;
  /** @param say one line about what happens now */
  readonly run: (say: (line: string) => void) => Promise<readonly Finding[]>;
}

/** A value that may be at most `limit`; NaN is INVALID. */
export function atMost(what: string, value: number, limit: number, unit: string): Finding {
  return judge(`${what} ≤ ${limit} ${unit}`, value, value <= limit, unit);
}

/** A value that must be at least `limit`; NaN is INVALID. */
export function atLeast(what: string, value: number, limit: number, unit: string): Finding {
  return judge(`${what} ≥ ${limit} ${unit}`, value, value >= limit, unit);
}

function judge(limit: string, value: number, holds: boolean, unit: string): Finding {
  const evidence = Number.isFinite(value) ? `${Math.round(value * 100) / 100} ${unit}` : "no value";
  return { limit, verdict: Number.isFinite(value) ? (holds ? "PASS" : "FAIL") : "INVALID", evidence };
}
