/**
 * `bench scale`: networks of growing size on this machine, several real nodes to a process (scale-host.ts), UDP on loopback. Every node pings ten random others
 * a minute; measured are the bytes a node sends and receives a second without a user's data, processor time and memory a node, how soon everybody knows a
 * change of the roster, and in one size how soon everybody knows a revocation. On demand also a restart of all nodes at once (scale-storm.ts).
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Daemon, sleep } from "../lab/process.ts";
import { measureStorm, type Storm, stormTable } from "./scale-storm.ts";
import { WEFT_NODE } from "../lab/traffic.ts";
import { ROOT } from "./tools/binaries.ts";
import { describeMachine, Disturbance } from "./tools/machine.ts";
import { figure, publish, type OutputOptions } from "./tools/report.ts";
import { ascending, quantile } from "./tools/statistics.ts";

export interface ScaleOptions extends OutputOptions {
  readonly sizes: readonly number[];
  readonly perProcess: number;
  /** Of steady state, measured. */
  readonly seconds: number;
  readonly revocations: number;
  /** All nodes are killed and started again at once, besides. */
  readonly restart: boolean;
  readonly command: string;
}

/** Promised: everybody knows a change, the control bytes at 200 against those at 50, and the 99th percentile of a revocation. */
const CHANGE_MOST_MS = 3_000;
const BYTES_MOST_RATIO = 1.5;
const REVOCATION_MOST_MS = 2_000;
const REVOCATION_SIZE = 50;
const PINGS_PER_MINUTE = 10;
const CHANGES = 3;
/** Between the last join and the measurement: sessions that only joining needed are given up after 180 s. */
const SETTLE_MS = 240_000;

interface Figures {
  readonly txBytes: number;
  readonly rxBytes: number;
  readonly cpuSeconds: number;
  readonly residentBytes: number;
  readonly pings: number;
  readonly lost: number;
  readonly online: number;
}

interface Size {
  readonly nodes: number;
  readonly joinSeconds: number;
  readonly bytesPerSecond: number;
  readonly cpuShare: number;
  readonly residentBytes: number;
  readonly pings: number;
  readonly lost: number;
  /** Slowest node, of each change. */
  readonly changeMs: readonly number[];
  readonly revocationMs: readonly number[];
  readonly storm: Storm | undefined;
}

export async function runScale(options: ScaleOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const disturbance = await Disturbance.begin();
  const sizes: Size[] = [];
  for (const nodes of options.sizes) sizes.push(await measure(nodes, options));
  const fifty = sizes.find(({ nodes }) => nodes === 50);
  const rows = sizes.map((size) => [
    String(size.nodes),
    figure(size.joinSeconds),
    figure(size.bytesPerSecond),
    fifty === undefined ? "n/a" : figure(size.bytesPerSecond / fifty.bytesPerSecond),
    `${figure(size.cpuShare * 100)} %`,
    figure(size.residentBytes / 1e6),
    `${size.lost} of ${size.pings}`,
    figure(Math.max(...size.changeMs)),
    verdict(size, fifty),
  ]);
  const revoked = ascending(sizes.flatMap(({ revocationMs }) => revocationMs));
  publish(
    {
      name: "scale",
      startedAt,
      machine: await describeMachine(),
      command: options.command,
      tables: [
        {
          title: "Networks of growing size, per node",
          columns: [
            "nodes",
            "all joined after, s",
            "underlay bytes/s, sent and received",
            "against 50 nodes",
            "of one CPU",
            "memory, MB",
            "pings lost",
            "slowest to know a change, ms",
            `promised: change ≤ ${CHANGE_MOST_MS} ms, bytes at 200 ≤ ${BYTES_MOST_RATIO} × at 50`,
          ],
          rows,
        },
        ...(options.restart
          ? [stormTable(sizes.flatMap(({ nodes, storm }) => (storm ? [{ nodes, storm }] : [])))]
          : []),
        ...(revoked.length === 0
          ? []
          : [
              {
                title: `Revocation among ${REVOCATION_SIZE} nodes: until a node knows it`,
                columns: [
                  "revocations",
                  "median, ms",
                  "p99, ms",
                  "slowest, ms",
                  `promised: p99 ≤ ${REVOCATION_MOST_MS} ms`,
                ],
                rows: [
                  [
                    String(options.revocations),
                    figure(quantile(revoked, 0.5)),
                    figure(quantile(revoked, 0.99)),
                    figure(Math.max(...revoked)),
                    quantile(revoked, 0.99) <= REVOCATION_MOST_MS ? "reached" : "missed",
                  ],
                ],
              },
            ]),
      ],
      notes: [
        ...disturbance.notes(),
        `${options.perProcess} nodes to a process, each with its own threads, without an interface; ${PINGS_PER_MINUTE} pings a minute to random others; ${options.seconds} s measured after ${SETTLE_MS / 1_000} s of rest`,
      ],
      notCompared: [],
      data: sizes,
    },
    options,
  );
}

function verdict(size: Size, fifty: Size | undefined): string {
  const missed: string[] = [];
  if (Math.max(...size.changeMs) > CHANGE_MOST_MS) missed.push("change");
  if (size.nodes === 200 && fifty !== undefined && size.bytesPerSecond > BYTES_MOST_RATIO * fifty.bytesPerSecond)
    missed.push("bytes");
  return missed.length === 0 ? "reached" : `missed: ${missed.join(", ")}`;
}

class Crowd {
  readonly hosts: readonly Daemon[];

  constructor(hosts: readonly Daemon[]) {
    this.hosts = hosts;
  }

  all(command: Readonly<Record<string, unknown>>, timeoutMs?: number): Promise<Record<string, unknown>[]> {
    return Promise.all(this.hosts.map((host) => host.ask(command, timeoutMs)));
  }

  async figures(): Promise<Figures> {
    const parts = (await this.all({ figures: true }, 60_000)) as unknown as Figures[];
    const sum = (field: keyof Figures): number => parts.reduce((total, part) => total + part[field], 0);
    return {
      txBytes: sum("txBytes"),
      rxBytes: sum("rxBytes"),
      cpuSeconds: sum("cpuSeconds"),
      residentBytes: sum("residentBytes"),
      pings: sum("pings"),
      lost: sum("lost"),
      online: Math.min(...parts.map(({ online }) => online)),
    };
  }

  /**
   * @param revoke whom the founder revokes first
   * @returns how long after the revocation, or since now, each of the first `count` nodes counted so many members, ms; Infinity = not in time
   */
  async members(count: number, withinMs: number, revoke?: string): Promise<number[]> {
    const startMs = Date.now();
    const timeoutMs = withinMs + 10_000;
    const parts = await Promise.all(
      this.hosts.map((host, i) =>
        host.ask({ members: count, withinMs, ...(i === 0 && revoke !== undefined ? { revoke } : {}) }, timeoutMs),
      ),
    );
    const fromMs = revoke === undefined ? startMs : (parts[0]?.["revokedAtMs"] as number);
    return parts
      .flatMap(({ atMs }) => atMs as number[])
      .slice(0, count)
      .map((atMs) => (atMs === 0 ? Infinity : atMs - fromMs));
  }
}

async function measure(nodes: number, options: ScaleOptions): Promise<Size> {
  const folder = mkdtempSync(join(tmpdir(), "weft-scale-"));
  const hosts: Daemon[] = [];
  try {
    const begunMs = Date.now();
    let token: unknown = null;
    const spawn = (first: number): Daemon => {
      const count = Math.min(options.perProcess, nodes - first);
      const own = ["--folder", folder, "--first", String(first), "--count", String(count)];
      if (first === 0) own.push("--found");
      return new Daemon(`host${first}`, WEFT_NODE, [join(ROOT, "bench/scale-host.ts"), ...own]);
    };
    const firsts = Array.from({ length: Math.ceil(nodes / options.perProcess) }, (_, i) => i * options.perProcess);
    for (const first of firsts) {
      const host = spawn(first);
      hosts.push(host);
      ({ token } = await host.ask({ start: token }, 120_000));
      process.stderr.write(`${nodes} nodes: ${Math.min(nodes, first + options.perProcess)} have joined\n`);
    }
    const crowd = new Crowd(hosts);
    await crowd.members(nodes, 60_000);
    const joinSeconds = (Date.now() - begunMs) / 1_000;
    const names = Array.from({ length: nodes }, (_, i) => `n${i}`);
    await crowd.all({ ping: names, perMinute: PINGS_PER_MINUTE });
    await sleep(SETTLE_MS);
    const before = await crowd.figures();
    await sleep(options.seconds * 1_000);
    const after = await crowd.figures();
    const storm = options.restart
      ? await measureStorm(hosts, nodes, options.seconds, {
          spawn: () => firsts.map(spawn),
          ping: async () => void (await crowd.all({ ping: names, perMinute: PINGS_PER_MINUTE })),
        })
      : undefined;
    const changes = await revoke(crowd, nodes, CHANGES);
    const revocationMs =
      nodes === REVOCATION_SIZE ? (await revoke(crowd, nodes - CHANGES, options.revocations)).flat() : [];
    return {
      nodes,
      joinSeconds,
      bytesPerSecond: (after.txBytes + after.rxBytes - before.txBytes - before.rxBytes) / options.seconds / nodes,
      cpuShare: (after.cpuSeconds - before.cpuSeconds) / options.seconds / nodes,
      residentBytes: after.residentBytes / nodes,
      pings: after.pings - before.pings,
      lost: after.lost - before.lost,
      changeMs: changes.map((times) => Math.max(...times)),
      revocationMs,
      storm,
    };
  } finally {
    await Promise.all(hosts.map((host) => host.stop("SIGTERM", 5_000)));
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The founder revokes the last nodes, one after the other; they go on running and are not asked any more.
 * @returns for each, how long after it every remaining node knew
 */
async function revoke(crowd: Crowd, members: number, count: number): Promise<number[][]> {
  const all: number[][] = [];
  for (let left = members; all.length < count && left > 2; left--)
    all.push(await crowd.members(left - 1, CHANGE_MOST_MS * 3, `n${left - 1}`));
  return all;
}
