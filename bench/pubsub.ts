/**
 * `bench pubsub`: publish/subscribe between real nodes over UDP on loopback, several nodes to a process (pubsub-host.ts). Topics with random
 * subscribers, messages of 1 KiB at an even rate; measured are delivery, duplicates, control traffic and latency, first with all well, then
 * with one process stopped (SIGSTOP), and what that process has caught up with after it went on.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Daemon, sleep } from "../lab/process.ts";
import { WEFT_NODE } from "../lab/traffic.ts";
import { ROOT } from "./tools/binaries.ts";
import { describeMachine, Disturbance } from "./tools/machine.ts";
import { figure, publish, type OutputOptions } from "./tools/report.ts";
import { ascending, median, quantile } from "./tools/statistics.ts";

export interface PubSubBenchOptions extends OutputOptions {
  readonly nodes: number;
  readonly perProcess: number;
  readonly topics: number;
  readonly subscribers: number;
  readonly rate: number;
  readonly seconds: number;
  readonly rounds: number;
  readonly command: string;
}

/** Promised. */
const DUPLICATES_MOST = 0.1;
const CONTROL_MOST = 0.25;
const P99_MOST_RATIO = 1.2;
const P99_MOST_MS = 10;
const WARM_SECONDS = 15;
const NOTICE_SECONDS = 10;
const DRAIN_MS = 5000;
const CATCH_UP_MS = 90_000;

interface Collected {
  readonly received: readonly (readonly [id: string, count: number])[];
  readonly tookMs: readonly number[];
  readonly counters: Readonly<Record<string, number>>;
}

interface Phase {
  readonly expected: number;
  readonly delivered: number;
  readonly twice: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly duplicates: number;
  readonly control: number;
}

interface Round {
  readonly calm: Phase;
  /** The first seconds after it was stopped: the tree goes around it. */
  readonly noticing: Phase;
  readonly stopped: Phase;
  /** Of what was published while it was stopped, in the process that was. */
  readonly caughtUp: number;
}

class Field {
  readonly hosts: readonly Daemon[];
  /** Topic → how many subscribers each host has. */
  readonly subscribers: ReadonlyMap<string, readonly number[]>;
  #counters: readonly Readonly<Record<string, number>>[];

  constructor(hosts: readonly Daemon[], subscribers: ReadonlyMap<string, readonly number[]>) {
    this.hosts = hosts;
    this.subscribers = subscribers;
    this.#counters = hosts.map(() => ({}));
  }

  async collect(without?: number): Promise<(Collected | undefined)[]> {
    return Promise.all(
      this.hosts.map(async (host, i) =>
        i === without ? undefined : ((await host.ask({ collect: true }, 60_000)) as unknown as Collected),
      ),
    );
  }

  /** @param without a host that neither publishes nor counts @returns the ids published, by topic */
  async run(
    options: PubSubBenchOptions,
    seconds: number,
    without?: number,
  ): Promise<{ phase: Phase; ids: Map<string, string> }> {
    const active = this.hosts.filter((_, i) => i !== without);
    const answers = await Promise.all(
      active.map((host) => host.ask({ publish: options.rate / active.length, seconds }, seconds * 1000 + 60_000)),
    );
    await sleep(DRAIN_MS);
    const ids = new Map(answers.flatMap((answer) => answer["ids"] as [string, string][]));
    const collected = await this.collect(without);
    let expected = 0;
    for (const topic of ids.values())
      this.subscribers.get(topic)?.forEach((count, i) => (expected += i === without ? 0 : count));
    let delivered = 0;
    let copies = 0;
    const tookMs: number[] = [];
    const grown = (name: string): number =>
      collected.reduce(
        (sum, one, i) => sum + (one?.counters[name] ?? 0) - (one === undefined ? 0 : (this.#counters[i][name] ?? 0)),
        0,
      );
    const deliveries = grown("weft_pubsub_deliveries_total");
    const phase = {
      duplicates: grown("weft_pubsub_duplicates_total") / Math.max(1, deliveries),
      control:
        grown("weft_pubsub_control_bytes_sent_total") /
        Math.max(1, grown("weft_pubsub_control_bytes_sent_total") + grown("weft_pubsub_payload_bytes_sent_total")),
    };
    for (const one of collected) {
      for (const [id, count] of one?.received ?? []) if (ids.has(id)) copies += count;
      for (const took of one?.tookMs ?? []) tookMs.push(took);
    }
    this.#counters = collected.map((one, i) => one?.counters ?? this.#counters[i]);
    delivered = Math.min(copies, expected);
    const sorted = ascending(tookMs);
    return {
      ids,
      phase: {
        ...phase,
        expected,
        delivered,
        twice: copies - delivered,
        p50Ms: quantile(sorted, 0.5),
        p99Ms: quantile(sorted, 0.99),
      },
    };
  }
}

export async function runPubSub(options: PubSubBenchOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const disturbance = await Disturbance.begin();
  const rounds = await measure(options);
  const p99 = {
    calm: median(rounds.map(({ calm }) => calm.p99Ms)),
    stopped: median(rounds.map(({ stopped }) => stopped.p99Ms)),
  };
  const isQuick = p99.stopped < p99.calm * P99_MOST_RATIO || p99.stopped < p99.calm + P99_MOST_MS;
  const row = (name: string, phases: readonly Phase[]): string[] => {
    const expected = phases.reduce((sum, one) => sum + one.expected, 0);
    const delivered = phases.reduce((sum, one) => sum + one.delivered, 0);
    const duplicates = median(phases.map((one) => one.duplicates));
    const control = median(phases.map((one) => one.control));
    const isReached = delivered === expected && duplicates <= DUPLICATES_MOST && control <= CONTROL_MOST;
    return [
      name,
      `${delivered} of ${expected}`,
      String(phases.reduce((sum, one) => sum + one.twice, 0)),
      `${figure(duplicates * 100)} %`,
      `${figure(control * 100)} %`,
      figure(median(phases.map((one) => one.p50Ms))),
      figure(median(phases.map((one) => one.p99Ms))),
      isReached ? "reached" : "missed",
    ];
  };
  publish(
    {
      name: "pubsub",
      startedAt,
      machine: await describeMachine(),
      command: options.command,
      tables: [
        {
          title: `Publish/subscribe: ${options.nodes} nodes, ${options.topics} topics of ${options.subscribers} subscribers, ${options.rate} messages of 1 KiB a second`,
          columns: [
            "",
            "delivered",
            "delivered twice",
            "duplicates received",
            "control, of bytes",
            "median, ms",
            "p99, ms",
            `promised: all, duplicates ≤ ${DUPLICATES_MOST * 100} %, control ≤ ${CONTROL_MOST * 100} %`,
          ],
          rows: [
            row(
              "all well",
              rounds.map(({ calm }) => calm),
            ),
            row(
              `one process stopped: the others, first ${NOTICE_SECONDS} s`,
              rounds.map(({ noticing }) => noticing),
            ),
            row(
              "one process stopped: the others, after that",
              rounds.map(({ stopped }) => stopped),
            ),
          ],
        },
        {
          title: "One process stopped",
          columns: [
            "p99 of the others against all well, ms",
            "caught up after it went on",
            "promised: p99 + 20 % or + 10 ms",
          ],
          rows: [
            [
              `${figure(p99.stopped)} against ${figure(p99.calm)}`,
              `${figure(median(rounds.map(({ caughtUp }) => caughtUp)) * 100)} %`,
              isQuick ? "reached" : "missed",
            ],
          ],
        },
      ],
      notes: [
        ...disturbance.notes(),
        `${options.perProcess} nodes to a process, ${options.seconds} s measured, ${options.rounds} rounds`,
      ],
      notCompared: [],
      data: rounds,
    },
    options,
  );
}

async function measure(options: PubSubBenchOptions): Promise<Round[]> {
  const folder = mkdtempSync(join(tmpdir(), "weft-pubsub-"));
  const hosts: Daemon[] = [];
  try {
    let token: unknown = null;
    for (let first = 0; first < options.nodes; first += options.perProcess) {
      const count = Math.min(options.perProcess, options.nodes - first);
      const own = ["--folder", folder, "--first", String(first), "--count", String(count)];
      if (first === 0) own.push("--found");
      const host = new Daemon(`host${first}`, WEFT_NODE, [join(ROOT, "bench/pubsub-host.ts"), ...own]);
      hosts.push(host);
      ({ token } = await host.ask({ start: token }, 120_000));
      process.stderr.write(`${first + count} nodes have joined\n`);
    }
    const field = await subscribeAll(hosts, options);
    await field.run(options, WARM_SECONDS);
    const rounds: Round[] = [];
    for (let round = 0; round < options.rounds; round++) {
      const { phase: calm } = await field.run(options, options.seconds);
      // never the first: it has the founder
      const victim = 1 + (round % (hosts.length - 1));
      process.kill(hosts[victim].pid, "SIGSTOP");
      const first = await field.run(options, NOTICE_SECONDS, victim);
      const { phase: stopped, ids: later } = await field.run(options, options.seconds, victim);
      const ids = new Map([...first.ids, ...later]);
      process.kill(hosts[victim].pid, "SIGCONT");
      await sleep(CATCH_UP_MS);
      const late = (await field.collect())[victim];
      let expected = 0;
      for (const topic of ids.values()) expected += field.subscribers.get(topic)?.[victim] ?? 0;
      const got = (late?.received ?? []).reduce((sum, [id, count]) => sum + (ids.has(id) ? count : 0), 0);
      rounds.push({ calm, noticing: first.phase, stopped, caughtUp: expected === 0 ? 1 : got / expected });
      process.stderr.write(`round ${round + 1}: ${JSON.stringify(rounds.at(-1))}\n`);
    }
    return rounds;
  } finally {
    for (const host of hosts) if (host.exitCode === undefined) process.kill(host.pid, "SIGCONT");
    await Promise.all(hosts.map((host) => host.stop("SIGTERM", 5_000)));
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Random subscribers for every topic; waits until each of them has a link that carries messages. */
async function subscribeAll(hosts: readonly Daemon[], options: PubSubBenchOptions): Promise<Field> {
  const wanted: [node: number, topic: string][][] = hosts.map(() => []);
  const subscribers = new Map<string, number[]>();
  for (let t = 0; t < options.topics; t++) {
    const counts = hosts.map(() => 0);
    const pool = Array.from({ length: options.nodes }, (_, i) => i);
    for (let i = 0; i < Math.min(options.subscribers, options.nodes); i++) {
      const [node] = pool.splice(Math.floor(Math.random() * pool.length), 1);
      const host = Math.floor(node / options.perProcess);
      wanted[host].push([node, `topic${t}`]);
      counts[host]++;
    }
    subscribers.set(`topic${t}`, counts);
  }
  await Promise.all(hosts.map((host, i) => host.ask({ subscribe: wanted[i] }, 60_000)));
  const untilMs = Date.now() + 120_000;
  for (;;) {
    const least = await Promise.all(
      hosts.map(async (host) => (await host.ask({ links: true }, 60_000))["least"] as number),
    );
    if (Math.min(...least) > 0) break;
    if (Date.now() > untilMs) throw new Error("not every subscriber has found neighbours in two minutes");
    await sleep(500);
  }
  return new Field(hosts, subscribers);
}
