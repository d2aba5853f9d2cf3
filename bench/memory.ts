/**
 * `bench memory`: processor use while idle, then resident memory under full load for a long time. The load is TCP with four streams,
 * its direction changing every `SLICE_SECONDS`, so both ends seal and open. The slope is a least-squares line through one sample a
 * second after the warm-up; a flat line is what is promised.
 */
import { sleep } from "../lab/process.ts";
import { twoHosts } from "../lab/topologies.ts";
import { chooseSubjects } from "./subjects/index.ts";
import type { Subject, Tunnel } from "./subjects/types.ts";
import { iperf } from "./tools/iperf.ts";
import { describeMachine } from "./tools/machine.ts";
import { cpuSeconds, residentBytes } from "./tools/proc.ts";
import { reasonOf } from "./tools/reading.ts";
import { figure, publish, type OutputOptions } from "./tools/report.ts";
import { ascending, median, slope } from "./tools/statistics.ts";

export interface MemoryOptions extends OutputOptions {
  readonly minutes: number;
  readonly idleSeconds: number;
  readonly subjects: readonly string[];
  readonly command: string;
}

/** Promised: at most this much of one processor while idle, and this much memory with one peer. */
const IDLE_CPU_MOST = 0.01;
const RESIDENT_MOST_BYTES = 150e6;
/** A line is flat when it grows by less than this share of the mean over the whole run. */
const FLAT_SHARE = 0.05;
const SLICE_SECONDS = 30;
/** Share of the run that is warm-up (buffers and code are still growing). */
const WARM_UP_SHARE = 0.2;

interface MemoryResult {
  readonly subject: string;
  readonly side: "a" | "b";
  readonly idleCpuShare: number;
  readonly startBytes: number;
  readonly medianBytes: number;
  readonly peakBytes: number;
  readonly slopeBytesPerMinute: number;
  readonly growthShare: number;
  readonly samples: readonly (readonly [second: number, bytes: number])[];
}

export async function runMemory(options: MemoryOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const results: MemoryResult[] = [];
  const notes: string[] = [
    `load: TCP, 4 streams, direction changes every ${SLICE_SECONDS} s; the first ${WARM_UP_SHARE * 100} % of the run are warm-up`,
  ];
  for (const subject of chooseSubjects(options.subjects)) {
    try {
      results.push(...(await measure(subject, options, notes)));
    } catch (error) {
      notes.push(`${subject.name}: n/a: ${reasonOf(error)}`);
    }
  }
  const rows = results.map((one) => [
    `${one.subject}, end ${one.side}`,
    `${figure(one.idleCpuShare * 100)} %`,
    figure(one.startBytes / 1e6),
    figure(one.medianBytes / 1e6),
    figure(one.peakBytes / 1e6),
    figure(one.slopeBytesPerMinute / 1e6),
    `${figure(one.growthShare * 100)} %`,
    one.subject === "weft" ? verdict(one) : "",
  ]);
  publish(
    {
      name: "memory",
      startedAt,
      machine: await describeMachine(),
      command: options.command,
      tables: [
        {
          title: `Idle processor use, and resident memory over ${options.minutes} minutes of full load`,
          columns: [
            "",
            "idle, of one CPU",
            "at start, MB",
            "median, MB",
            "peak, MB",
            "slope, MB/min",
            "growth over the run",
            "promised: idle ≤ 1 %, ≤ 150 MB, flat",
          ],
          rows,
        },
      ],
      notes,
      notCompared: [],
      data: results,
    },
    options,
  );
}

function verdict(one: MemoryResult): string {
  const missed: string[] = [];
  if (one.idleCpuShare > IDLE_CPU_MOST) missed.push("idle CPU");
  if (one.peakBytes > RESIDENT_MOST_BYTES) missed.push("size");
  if (one.growthShare > FLAT_SHARE) missed.push("not flat");
  return missed.length === 0 ? "reached" : `missed: ${missed.join(", ")}`;
}

async function measure(subject: Subject, options: MemoryOptions, notes: string[]): Promise<MemoryResult[]> {
  const found = await subject.find();
  if ("why" in found) throw new Error(found.why);
  const hosts = await twoHosts();
  try {
    const tunnel = await subject.start(hosts, 0);
    const sides = (["a", "b"] as const).map((side) => ({ side, pid: tunnel[side].pid }));
    if (sides.some(({ pid }) => pid === undefined)) throw new Error("the kernel carries the packets");
    await tunnel.a.host.exec("ping", ["-n", "-c", "3", "-i", "0.2", tunnel.b.address]);
    await sleep(3_000);
    process.stderr.write(`${subject.name}: idle for ${options.idleSeconds} s\n`);
    const before = sides.map(({ pid }) => cpuSeconds(pid as number));
    await sleep(options.idleSeconds * 1_000);
    const idle = sides.map(({ pid }, index) => (cpuSeconds(pid as number) - before[index]) / options.idleSeconds);
    const samples = sides.map((): (readonly [number, number])[] => []);
    const start = performance.now();
    const sampler = setInterval(() => {
      const second = (performance.now() - start) / 1_000;
      for (const [index, { pid }] of sides.entries()) {
        try {
          samples[index]?.push([second, residentBytes(pid as number)]);
        } catch {
          // A process that ended shows as a load that fails.
        }
      }
    }, 1_000);
    const startBytes = sides.map(({ pid }) => residentBytes(pid as number));
    try {
      await load(tunnel, options.minutes * 60, notes, subject.name);
    } finally {
      clearInterval(sampler);
    }
    return sides.map(({ side }, index) =>
      summarise(subject.name, side, idle[index], startBytes[index], samples[index] ?? []),
    );
  } finally {
    await hosts.lab.close();
  }
}

async function load(tunnel: Tunnel, seconds: number, notes: string[], name: string): Promise<void> {
  const end = performance.now() + seconds * 1_000;
  const rates: number[] = [];
  for (let slice = 0; performance.now() < end; slice++) {
    const left = Math.max(2, Math.ceil((end - performance.now()) / 1_000));
    const result = await iperf({
      from: tunnel.a.host,
      to: tunnel.b.host,
      address: tunnel.b.address,
      seconds: Math.min(SLICE_SECONDS, left),
      streams: 4,
      reverse: slice % 2 === 1,
    });
    rates.push(result.bitsPerSecond / 1e9);
    process.stderr.write(`${name}: ${figure(rates.at(-1) as number)} Gbit/s, ${left} s to go\n`);
  }
  notes.push(
    `${name}: median of the load ${figure(median(rates))} Gbit/s, lowest slice ${figure(ascending(rates)[0] ?? Number.NaN)}`,
  );
}

function summarise(
  subject: string,
  side: "a" | "b",
  idleCpuShare: number,
  startBytes: number,
  samples: readonly (readonly [number, number])[],
): MemoryResult {
  const lastSecond = samples.at(-1)?.[0] ?? 0;
  const warm = samples.filter(([second]) => second >= lastSecond * WARM_UP_SHARE);
  const medianBytes = median(warm.map(([, bytes]) => bytes));
  const perSecond = slope(warm);
  const span = lastSecond * (1 - WARM_UP_SHARE);
  return {
    subject,
    side,
    idleCpuShare,
    startBytes,
    medianBytes,
    peakBytes: Math.max(...samples.map(([, bytes]) => bytes)),
    slopeBytesPerMinute: perSecond * 60,
    growthShare: (perSecond * span) / medianBytes,
    samples,
  };
}
