/**
 * A machine that sleeps, and clocks that jump. Part "stop": a daemon is stopped (SIGSTOP) for ten minutes and continued; traffic flows
 * again within two seconds. Part "clock": the wall clock of one daemon jumps by a day, forwards and backwards, while pings run: none is lost.
 */
import { PingStream } from "../gaps.ts";
import { formNetwork } from "../network.ts";
import { sleep } from "../process.ts";
import { testEnvironment } from "../test-hooks.ts";
import { twoHosts } from "../topologies.ts";
import { timeUntilAnswered } from "../traffic.ts";
import { atLeast, atMost, wanted, type Finding, type Scenario, type ScenarioOptions } from "./types.ts";

const STOP_MS = 600_000;
const QUICK_STOP_MS = 20_000;
const LIMIT_MS = 2_000;
const DAY_MS = 86_400_000;
const AFTER_JUMP_MS = 10_000;
const PARTS = ["stop", "clock"] as const;

async function stop(options: ScenarioOptions, say: (line: string) => void): Promise<readonly Finding[]> {
  const { lab, a, b } = await twoHosts();
  try {
    const network = await formNetwork(lab, [a, b]);
    await network.allPairs();
    const findings: Finding[] = [];
    const stopMs = options.quick ? QUICK_STOP_MS : STOP_MS;
    for (const [sleeper, other] of [
      [network.node("a"), network.node("b")],
      [network.node("b"), network.node("a")],
    ] as const) {
      const address = await sleeper.address(4);
      sleeper.daemon?.signal("SIGSTOP");
      say(`  ${sleeper.name} sleeps for ${stopMs / 1_000} s`);
      await sleep(stopMs);
      sleeper.daemon?.signal("SIGCONT");
      const waitMs = await timeUntilAnswered(other.host, address, 30_000);
      findings.push(
        atMost(`${sleeper.name} slept ${stopMs / 1_000} s: first answer after it woke`, waitMs, LIMIT_MS, "ms"),
      );
    }
    return findings;
  } finally {
    await lab.close();
  }
}

async function clock(jumpMs: number, say: (line: string) => void): Promise<readonly Finding[]> {
  const { lab, a, b } = await twoHosts();
  try {
    const network = await formNetwork(lab, [a, b]);
    await network.allPairs();
    const [admin, member] = [network.node("a"), network.node("b")];
    const inMs = 8_000;
    await member.stop();
    member.env = testEnvironment({ wallJump: { inMs, byMs: jumpMs } });
    const startedMs = Date.now();
    await member.up();
    await network.allPairs();
    const stream = PingStream.start(admin.host, await member.address(4));
    try {
      await sleep(startedMs + inMs + AFTER_JUMP_MS - Date.now());
    } finally {
      await stream.stop();
    }
    const what = `the clock jumps by ${jumpMs > 0 ? "+" : "−"}1 day`;
    const last = stream.replies.at(-1);
    say(`  ${what}`);
    return [
      atMost(`${what}: pings lost`, stream.lost(0, Number.POSITIVE_INFINITY), 0, `of ${last?.sequence ?? 0}`),
      atLeast(`${what}: last answer after the jump`, (last?.atMs ?? 0) - startedMs - inMs, AFTER_JUMP_MS - 1_500, "ms"),
    ];
  } finally {
    await lab.close();
  }
}

export const sleepScenario: Scenario = {
  name: "sleep",
  about: `a node stopped for ten minutes is back ≤ ${LIMIT_MS} ms after it continues; clock jumps of a day lose nothing`,
  run: async (say, options): Promise<readonly Finding[]> => {
    const findings: Finding[] = [];
    if (wanted(options, "stop", PARTS)) findings.push(...(await stop(options, say)));
    if (wanted(options, "clock", PARTS))
      for (const jumpMs of [DAY_MS, -DAY_MS]) findings.push(...(await clock(jumpMs, say)));
    return findings;
  },
};
