/**
 * The path in use is cut silently, again and again, under a TCP flow and under pings; a second address pair is there. How long nothing
 * arrives, as a histogram, and that the way back to the better path loses nothing (docs/protocol.md, "Paths").
 *
 * a has one address, b two (topologies.ts, twoWayHosts), and the pair with the shorter round trip is cut at the router by nft: in both
 * directions, or only where the data goes. Parts: "both", "one-way", "iperf3", "pings".
 */
import { SeededRandom } from "../../src/base/random.ts";
import type { PeerView } from "../../src/api/control.ts";
import { Arrivals, histogram, PingStream, TcpFlow } from "../gaps.ts";
import { formNetwork, type WeftNetwork } from "../network.ts";
import { LabError, sleep, until } from "../process.ts";
import { twoWayHosts, type TwoWayHosts } from "../topologies.ts";
import { percentile } from "../traffic.ts";
import { atLeast, atMost, holds, wanted, type Finding, type Scenario, type ScenarioOptions } from "./types.ts";

const ROUNDS = 30;
const QUICK_ROUNDS = 4;
/** How long a cut lasts. */
const CUT_MS = 3_000;
const MIN_EATEN = 6;
/** A better path counts as taken again when it was in use for so long without a break. */
const STEADY_MS = 1_000;
const SETTLE_MS = 500;
const RETURN_MS = 30_000;
const RETURN_TRIES = 20;
const RATE_BPS = 50e6;
const LIMITS_MS: Readonly<Record<number, number>> = { 2: 500, 100: 1_000 };
const DIRECTIONS = ["both", "one-way"] as const;
const LOADS = ["pings", "iperf3"] as const;

interface Figures {
  readonly gapsMs: number[];
  /** Pings lost from healing until the better path was in use again, and a second more. */
  lostOnReturn: number;
  /** Packets that the cuts have eaten: 0 means that nothing was cut. */
  eaten: number;
  /** What became of the TCP connection, when there was one. */
  readonly flow?: { readonly broken: string | undefined; readonly longestSilenceMs: number };
}

/** What the router drops, while it does. */
class Cut {
  readonly #world: TwoWayHosts;
  readonly #oneWay: boolean;

  constructor(world: TwoWayHosts, oneWay: boolean) {
    this.#world = world;
    this.#oneWay = oneWay;
  }

  async make(): Promise<void> {
    const { router, a, addresses } = this.#world;
    const [b] = addresses;
    const back = this.#oneWay ? "" : `ip saddr ${b} ip daddr ${a.address4} counter drop;`;
    await router.nft(`table inet cut { chain forward {
      type filter hook forward priority -5;
      ip saddr ${a.address4} ip daddr ${b} counter drop;
      ${back}
    }
}`);
  }

  /** @returns packets it has dropped */
  async heal(): Promise<number> {
    const { router } = this.#world;
    const text = await router.must("nft", ["list", "table", "inet", "cut"]);
    await router.must("nft", ["delete", "table", "inet", "cut"]);
    return [...text.matchAll(/counter packets (\d+)/g)].reduce((sum, match) => sum + Number(match[1]), 0);
  }
}

/** Waits until a sends over the pair with the shorter round trip, and has done so for STEADY_MS. */
async function onBetterPath(network: WeftNetwork, world: TwoWayHosts): Promise<void> {
  const isBetter = ({ path }: PeerView): boolean => path.endpoint?.startsWith(`${world.addresses[0]}:`) === true;
  const a = network.node("a");
  for (let tries = 0; tries < RETURN_TRIES; tries++) {
    await a.peer("b", RETURN_MS, isBetter);
    const sinceMs = Date.now();
    let steady = true;
    while (steady && Date.now() - sinceMs < STEADY_MS) {
      await sleep(50);
      steady = (await a.status()).peers.some((peer) => peer.name === "b" && isBetter(peer));
    }
    if (steady) return;
  }
  throw new LabError("UNSTEADY", `a took the better path ${RETURN_TRIES} times and left it within ${STEADY_MS} ms`);
}

async function cutAgainAndAgain(
  world: TwoWayHosts,
  network: WeftNetwork,
  oneWay: boolean,
  rounds: number,
  gap: (fromMs: number, untilMs: number) => number,
  lost: (fromMs: number, untilMs: number) => number,
  say: (line: string) => void,
): Promise<Figures> {
  const random = new SeededRandom(7);
  const figures: Figures = { gapsMs: [], lostOnReturn: 0, eaten: 0 };
  const cut = new Cut(world, oneWay);
  for (let tries = 0; figures.gapsMs.length < rounds && tries < rounds * 2; tries++) {
    await onBetterPath(network, world);
    await sleep(SETTLE_MS + random.unit() * 500);
    const cutMs = Date.now();
    await cut.make();
    await sleep(CUT_MS);
    const endMs = Date.now();
    const eaten = await cut.heal();
    const healedMs = Date.now();
    await onBetterPath(network, world);
    const backMs = Date.now() - STEADY_MS;
    // Probes go on both paths all the time: so few packets say that the data went another way at that moment.
    if (eaten < MIN_EATEN) {
      say(`    not counted: ${eaten} packets dropped, the path was not in use`);
      continue;
    }
    figures.eaten += eaten;
    figures.gapsMs.push(gap(cutMs, endMs));
    // Packets under way when it healed are not of the way back.
    figures.lostOnReturn += lost(healedMs + 200, backMs + STEADY_MS - 100);
    const gapMs = Math.round(figures.gapsMs.at(-1) ?? Number.NaN);
    say(
      `    cut ${figures.gapsMs.length}: ${eaten} packets dropped, gap ${gapMs} ms, back after ${backMs - healedMs} ms`,
    );
  }
  return figures;
}

async function underPings(
  world: TwoWayHosts,
  network: WeftNetwork,
  oneWay: boolean,
  rounds: number,
  say: (line: string) => void,
): Promise<Figures> {
  const [a, b] = [network.node("a"), network.node("b")];
  const stream = PingStream.start(a.host, await b.address(4));
  try {
    return await cutAgainAndAgain(
      world,
      network,
      oneWay,
      rounds,
      (from, to) => stream.longestGapMs(from, to),
      (from, to) => stream.lost(from, to),
      say,
    );
  } finally {
    await stream.stop();
  }
}

/** a sends to b at RATE_BPS; what counts is what b's interface delivers. */
async function underIperf(
  world: TwoWayHosts,
  network: WeftNetwork,
  oneWay: boolean,
  rounds: number,
  say: (line: string) => void,
): Promise<Figures> {
  const [a, b] = [network.node("a"), network.node("b")];
  const { node } = await b.status();
  const arrivals = await Arrivals.start(b.host, node.interface ?? "weft0");
  const flow = await TcpFlow.start(a.host, b.host, await a.address(4), RATE_BPS);
  try {
    await until("the TCP flow", 10_000, () => Promise.resolve(flow.intervals.length > 10 ? true : undefined));
    const gap = (from: number, to: number): number => arrivals.longestGapMs(from, to);
    const figures = await cutAgainAndAgain(world, network, oneWay, rounds, gap, () => 0, say);
    return { ...figures, flow: { broken: flow.broken, longestSilenceMs: flow.longestSilenceMs } };
  } finally {
    await flow.stop();
    await arrivals.stop();
  }
}

async function oneRtt(
  rttMs: number,
  options: ScenarioOptions,
  say: (line: string) => void,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  const limitMs = LIMITS_MS[rttMs] ?? 1_000;
  const rounds = options.rounds ?? (options.quick ? QUICK_ROUNDS : ROUNDS);
  // Clear of the hysteresis of 15 % or 5 ms.
  const world = await twoWayHosts(rttMs, Math.max(10, rttMs * 0.4));
  try {
    const network = await formNetwork(world.lab, [world.a, world.b]);
    await network.allPairs();
    for (const direction of DIRECTIONS) {
      for (const load of LOADS) {
        if (!wanted(options, direction, DIRECTIONS) || !wanted(options, load, LOADS)) continue;
        const what = `${rttMs} ms RTT, ${load}, cut ${direction === "both" ? "both ways" : "one way"}`;
        say(`  ${what}`);
        const run = load === "pings" ? underPings : underIperf;
        const figures = await run(world, network, direction === "one-way", rounds, say);
        for (const line of histogram(figures.gapsMs)) say(`    ${line}`);
        findings.push(
          atLeast(
            `${what}: cuts that hit the path in use`,
            figures.gapsMs.length,
            rounds,
            `(${figures.eaten} packets dropped)`,
          ),
          atMost(`${what}: P95 gap`, percentile(figures.gapsMs, 0.95), limitMs, "ms"),
        );
        const { flow } = figures;
        if (flow === undefined) {
          findings.push(atMost(`${what}: lost on the way back`, figures.lostOnReturn, 0, `pings in ${rounds} returns`));
        } else {
          const evidence = flow.broken ?? `alive, ${flow.longestSilenceMs} ms without a byte at most`;
          findings.push(holds(`${what}: the TCP connection survives`, flow.broken === undefined, evidence));
        }
      }
    }
  } catch (error) {
    const evidence = error instanceof Error ? error.message : String(error);
    findings.push({ limit: `${rttMs} ms RTT: the scenario runs to its end`, verdict: "INVALID", evidence });
  } finally {
    await world.lab.close();
  }
  return findings;
}

export const failover: Scenario = {
  name: "failover",
  about: `the path in use is cut silently ${ROUNDS} times under iperf3 and under 100 pings/s: P95 gap ≤ 500 ms at 2 ms RTT, ≤ 1 s at 100 ms`,
  run: async (say, options): Promise<readonly Finding[]> => {
    const findings: Finding[] = [];
    for (const rttMs of options.rttMs === undefined ? [2, 100] : [options.rttMs])
      findings.push(...(await oneRtt(rttMs, options, say)));
    return findings;
  },
};
