/** Round-trip times between two hosts of a lab at a high rate, with their tail: ping(8) as lab/traffic.ts runs it. */
import type { Host } from "../../lab/namespaces.ts";
import { mean, percentile, ping as labPing } from "../../lab/traffic.ts";
import { Unavailable } from "./reading.ts";

export interface PingResult {
  readonly sent: number;
  readonly received: number;
  readonly meanMs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** @param intervalMs below 200 needs root @param graceMs how long the last answers are awaited */
export async function ping(
  from: Host,
  address: string,
  seconds: number,
  intervalMs = 10,
  graceMs = 1_000,
): Promise<PingResult> {
  const count = Math.max(1, Math.round((seconds * 1_000) / intervalMs));
  const { sent, received, rttMs } = await labPing(from, address, { count, intervalMs, graceMs });
  if (rttMs.length === 0) throw new Unavailable(`ping: no reply to ${sent} requests`);
  return {
    sent,
    received,
    meanMs: mean(rttMs),
    p50Ms: percentile(rttMs, 0.5),
    p99Ms: percentile(rttMs, 0.99),
    maxMs: Math.max(...rttMs),
  };
}
