/** What a scenario is, and how a measured value becomes a verdict. */

export interface Finding {
  /** What must hold, with its number. */
  readonly limit: string;
  /** INVALID: the value could not be taken, which is never a pass. */
  readonly verdict: "PASS" | "FAIL" | "INVALID";
  /** The measured value. */
  readonly evidence: string;
}

export interface ScenarioOptions {
  /** Few rounds on few subjects: shows that it works, not how often. @default false */
  readonly quick: boolean;
  /** Underlay round trip, milliseconds; undefined = all that the scenario knows. */
  readonly rttMs: number | undefined;
  /** How often the event happens; undefined = the scenario's own number. */
  readonly rounds: number | undefined;
  /** Parts of the scenario by name; empty = all. */
  readonly only: readonly string[];
}

export interface Scenario {
  readonly name: string;
  readonly about: string;
  /** @param say one line about what happens now */
  readonly run: (say: (line: string) => void, options: ScenarioOptions) => Promise<readonly Finding[]>;
}

/** True when `--only` names nothing of `group`, or this part of it. */
export function wanted(options: ScenarioOptions, part: string, group: readonly string[]): boolean {
  const named = options.only.filter((one) => group.includes(one));
  return named.length === 0 || named.includes(part);
}

/** A value that may be at most `limit`; NaN is INVALID. */
export function atMost(what: string, value: number, limit: number, unit: string): Finding {
  return judge(`${what} ≤ ${limit} ${unit}`, value, value <= limit, unit);
}

/** A value that must be at least `limit`; NaN is INVALID. */
export function atLeast(what: string, value: number, limit: number, unit: string): Finding {
  return judge(`${what} ≥ ${limit} ${unit}`, value, value >= limit, unit);
}

/** A statement that either holds or does not. */
export function holds(limit: string, value: boolean, evidence: string): Finding {
  return { limit, verdict: value ? "PASS" : "FAIL", evidence };
}

function judge(limit: string, value: number, within: boolean, unit: string): Finding {
  const evidence = Number.isFinite(value) ? `${Math.round(value * 100) / 100} ${unit}` : "no value";
  return { limit, verdict: Number.isFinite(value) ? (within ? "PASS" : "FAIL") : "INVALID", evidence };
}
