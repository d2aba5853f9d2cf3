/** 28 minutes without a packet of anybody's: the first one afterwards is as fast as any. */
import { formNetwork } from "../network.ts";
import { sleep } from "../process.ts";
import { twoHosts } from "../topologies.ts";
import { percentile, ping } from "../traffic.ts";
import { atMost, type Finding, type Scenario } from "./types.ts";

const IDLE_MS = 28 * 60_000;
const QUICK_IDLE_MS = 200_000;
/** Above the slowest of the pings before: one round of waking up on two busy cores. */
const ALLOWANCE_MS = 10;

export const idle: Scenario = {
  name: "idle",
  about: `${IDLE_MS / 60_000} minutes of idleness: the first packet is as fast as any`,
  run: async (say, options): Promise<readonly Finding[]> => {
    const { lab, a, b } = await twoHosts();
    try {
      const network = await formNetwork(lab, [a, b]);
      await network.allPairs();
      const address = await network.node("a").address(4);
      // One ping at a time, as far apart as somebody would send them: each finds the processes asleep.
      const before = await ping(b, address, { count: 20, intervalMs: 500 });
      const idleMs = options.quick ? QUICK_IDLE_MS : IDLE_MS;
      say(`  idle for ${Math.round(idleMs / 1_000)} s`);
      await sleep(idleMs);
      const first = await ping(b, address, { count: 1 });
      const limitMs = Math.round(percentile(before.rttMs, 1) + ALLOWANCE_MS);
      return [
        atMost("pings lost before", before.sent - before.received, 0, `of ${before.sent}`),
        atMost("first ping after the idleness lost", first.sent - first.received, 0, "of 1"),
        atMost("round trip of the first ping", first.rttMs[0] ?? Number.NaN, limitMs, "ms"),
      ];
    } finally {
      await lab.close();
    }
  },
};
