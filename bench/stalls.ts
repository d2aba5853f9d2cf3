/**
 * `bench stalls`: whether a slow disk or a control thread that stands still is felt in the tunnel. Three tunnels between the same hosts: as
 * it is, with 500 ms more for every commit and fsync, and with a main thread that is blocked for one second in every three (tools/stall.ts
 * does both to the unchanged daemon). Every second each founder signs and stores one statement, so that there is something to store.
 * A stall that cannot be seen in the daemon's own metrics makes the run invalid: nothing would have been tested.
 */
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import { sleep } from "../lab/process.ts";
import { twoHosts } from "../lab/topologies.ts";
import { conclude, launch, playRounds, type Contender, type Target } from "./compare.ts";
import { chooseMeasures, type Figure } from "./measures.ts";
import { weftSubject, type WeftTunnel } from "./subjects/weft.ts";
import { ROOT } from "./tools/binaries.ts";
import { describeMachine, Disturbance } from "./tools/machine.ts";
import { figure, publish, type OutputOptions } from "./tools/report.ts";

export interface StallsOptions extends OutputOptions {
  readonly seconds: number;
  readonly rounds: number;
  readonly command: string;
}

const PLAIN = "undisturbed";
const SLOW_DISK = "slow disk";
const BLOCKED = "blocked control thread";
const COMMIT_MS = 500;
const BLOCK_MS = 1_000;
const EVERY_MS = 3_000;
const MEASURES = ["tcp-4", "udp-1200", "ping"];

export async function runStalls(options: StallsOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const measures = chooseMeasures(MEASURES);
  const preload = `--import=${pathToFileURL(join(ROOT, "bench", "tools", "stall.ts")).href}`;
  const stalled = (name: string, env: Record<string, string>) =>
    weftSubject({ name, env: { NODE_OPTIONS: preload, ...env } });
  const disturbance = await Disturbance.begin();
  const hosts = await twoHosts();
  try {
    const contenders: Contender[] = [
      await launch(weftSubject({ name: PLAIN }), hosts, 0),
      await launch(stalled(SLOW_DISK, { WEFT_BENCH_COMMIT_MS: String(COMMIT_MS) }), hosts, 1),
      await launch(stalled(BLOCKED, { WEFT_BENCH_BLOCK_MS: `${BLOCK_MS}/${EVERY_MS}` }), hosts, 2),
    ];
    for (const { name, why, tunnel } of contenders) if (tunnel === undefined) throw new Error(`${name}: ${why}`);
    const tunnels = contenders.map(({ tunnel }) => tunnel as WeftTunnel);
    const writing = setInterval(() => {
      // A blocked founder answers late; what counts is that it stores.
      for (const { nodeA } of tunnels) nodeA.api.invite({ expiresSeconds: 60 }).catch(() => undefined);
    }, 1_000);
    await sleep(6_000);
    const effects = await observe(tunnels);
    let entries;
    try {
      entries = await playRounds(contenders, measures, options);
    } finally {
      clearInterval(writing);
    }
    const others = [SLOW_DISK, BLOCKED];
    const concluded = others.map((name) =>
      conclude(entries, {
        figures: measures.flatMap((measure) => measure.figures),
        names: [PLAIN, name],
        reference: PLAIN,
        promisedTo: name,
        target,
      }),
    );
    publish(
      {
        name: "stalls",
        startedAt,
        machine: await describeMachine(),
        command: options.command,
        tables: concluded.flatMap(({ tables }, index) =>
          tables.map((table) => ({ ...table, title: `${table.title}: ${others[index]}` })),
        ),
        notes: [
          ...disturbance.notes(),
          ...effects,
          `${options.rounds} rounds, ${options.seconds} s each, all three tunnels side by side`,
          ...new Set(concluded.flatMap(({ notes }) => notes)),
        ],
        notCompared: [],
        data: { summaries: concluded.flatMap(({ summaries }) => summaries), entries },
      },
      options,
    );
  } finally {
    await hosts.lab.close();
  }
}

/** Less than 5 % either way, for what a user feels. */
function target(one: Figure): Target | undefined {
  if (/^(tcp-4|tcp-4-reverse|udp-1200)$/.test(one.id)) return { least: 0.95 };
  return one.id.endsWith("-mean") ? { most: 1.05 } : undefined;
}

/** What the daemons themselves report of their stalls. Rejects when one of them did not happen. */
async function observe(tunnels: readonly WeftTunnel[]): Promise<string[]> {
  const read = async (tunnel: WeftTunnel | undefined, name: string): Promise<number> =>
    (await tunnel?.nodeA.metrics())?.get(name) ?? Number.NaN;
  const commits = await read(tunnels[1], "weft_store_commits_total");
  const commitSeconds = (await read(tunnels[1], "weft_store_commit_seconds_total")) / commits;
  // The longest delay since the scrape before: one whole period has to lie in between.
  await read(tunnels[2], "weft_control_loop_delay_seconds");
  await sleep(EVERY_MS + 500);
  const delay = await read(tunnels[2], "weft_control_loop_delay_seconds");
  if (!(commitSeconds * 1_000 >= COMMIT_MS * 0.9))
    throw new Error(`the slow disk is not slow: ${figure(commitSeconds)} s per commit`);
  if (!(delay * 1_000 >= BLOCK_MS * 0.8))
    throw new Error(`the control thread is not blocked: longest delay ${figure(delay)} s`);
  return [
    `slow disk: ${figure(commitSeconds)} s per commit`,
    `blocked control thread: longest delay of its event loop ${figure(delay)} s`,
  ];
}
