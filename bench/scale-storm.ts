/**
 * A restart storm, for `bench scale --restart`: all processes of the network are killed at the same moment and started again at the same moment. Two
 * questions, each by what the nodes sent and heard in every second: how soon is every node whole (the roster confirmed by another member, as many peers
 * online as it has neighbours), and do they march in step afterwards, or does every periodic task start at a phase of its own?
 *
 * New sessions cost what they cost: a handshake has 1,200 bytes of post-quantum keys each way, and a new path is probed for its MTU. So the seconds until the
 * network is whole have a row of their own, and the promise (peaks at most twice the steady rate) is judged on the seconds after it.
 */
import { type Daemon, sleep } from "../lab/process.ts";
import { figure } from "./tools/report.ts";

/** Promised. */
const WHOLE_MOST_MS = 30_000;
const PEAK_MOST_RATIO = 2;
/** Watched after the restart: two rounds of everything that comes once a minute. */
const WATCH_MS = 150_000;

/** What all nodes together sent and heard in one second of the wall clock, and how many of them were whole at its end. */
interface Second {
  readonly second: number;
  readonly bytes: number;
  readonly control: number;
  readonly whole: number;
}

interface Rates {
  readonly meanBytes: number;
  readonly peakBytes: number;
  readonly meanControl: number;
  readonly peakControl: number;
}

export interface Storm {
  readonly steady: Rates;
  /** Until every node was whole, and from then on. */
  readonly starting: Rates;
  readonly after: Rates;
  /** From the moment of the restart; Infinity: not while it was watched. */
  readonly upMs: number;
  readonly wholeMs: number;
  readonly seconds: readonly Second[];
}

/** A process of scale-host.ts. */
export type StormHost = Pick<Daemon, "ask" | "stop">;

export interface StormActions<H extends StormHost> {
  /** Starts the processes anew. */
  spawn(): readonly H[];
  /** Has every node ping as before. */
  ping(): Promise<void>;
}

/** @param hosts processes that run now; replaced in place */
export async function measureStorm<H extends StormHost>(
  hosts: H[],
  nodes: number,
  seconds: number,
  actions: StormActions<H>,
  watchMs: number = WATCH_MS,
): Promise<Storm> {
  await Promise.all(hosts.map((host) => host.ask({ sample: true })));
  await sleep(seconds * 1_000);
  const steady = (await samples(hosts)).slice(1);
  await Promise.all(hosts.map((host) => host.stop("SIGKILL")));
  const startedMs = Date.now();
  hosts.splice(0, hosts.length, ...actions.spawn());
  await Promise.all(hosts.map((host) => host.ask({ sample: true }, 30_000)));
  const up = await Promise.all(hosts.map((host) => host.ask({ restart: true }, watchMs)));
  const upMs = Math.max(...up.map(({ upAtMs }) => Number(upAtMs))) - startedMs;
  await actions.ping();
  await sleep(watchMs - (Date.now() - startedMs));
  const all = await samples(hosts);
  const firstWhole = all.findIndex(({ whole }) => whole >= nodes);
  const wholeMs = firstWhole < 0 ? Infinity : all[firstWhole].second * 1_000 - startedMs;
  const until = firstWhole < 0 ? all.length : firstWhole + 1;
  return {
    steady: ratesOf(steady, nodes),
    starting: ratesOf(all.slice(0, until), nodes),
    after: ratesOf(all.slice(until), nodes),
    upMs,
    wholeMs,
    seconds: all,
  };
}

export function stormTable(rows: readonly { readonly nodes: number; readonly storm: Storm }[]): {
  title: string;
  columns: string[];
  rows: string[][];
} {
  return {
    title: "All nodes killed and started again at once; rates per node, over seconds",
    columns: [
      "nodes",
      "all up after, s",
      "all whole after, s",
      "steady: bytes/s sent, mean and peak",
      "until whole",
      "after it",
      "steady: control messages/s, mean and peak",
      "until whole",
      "after it",
      `promised: whole ≤ ${WHOLE_MOST_MS / 1_000} s, then peaks ≤ ${PEAK_MOST_RATIO} × the steady mean`,
    ],
    rows: rows.map(({ nodes, storm }) => {
      const { steady, starting, after } = storm;
      const bytes = ({ meanBytes, peakBytes }: Rates): string => `${figure(meanBytes)}, ${figure(peakBytes)}`;
      const control = ({ meanControl, peakControl }: Rates): string => `${figure(meanControl)}, ${figure(peakControl)}`;
      const missed = [
        ...(storm.wholeMs > WHOLE_MOST_MS ? ["whole"] : []),
        ...(after.peakControl > PEAK_MOST_RATIO * steady.meanControl ? ["control"] : []),
        ...(after.peakBytes > PEAK_MOST_RATIO * steady.meanBytes ? ["bytes"] : []),
      ];
      return [
        String(nodes),
        figure(storm.upMs / 1_000),
        figure(storm.wholeMs / 1_000),
        bytes(steady),
        bytes(starting),
        bytes(after),
        control(steady),
        control(starting),
        control(after),
        missed.length === 0 ? "reached" : `missed: ${missed.join(", ")}`,
      ];
    }),
  };
}

/** Sums over all processes, second by second; what a busy process reports late counts in the second of the report. */
async function samples(hosts: readonly StormHost[]): Promise<Second[]> {
  const parts = await Promise.all(hosts.map((host) => host.ask({ samples: true })));
  const bySecond = new Map<number, Second>();
  for (const part of parts) {
    for (const [second, bytes, control, whole] of part["seconds"] as [number, number, number, number][]) {
      const sum = bySecond.get(second) ?? { second, bytes: 0, control: 0, whole: 0 };
      bySecond.set(second, {
        second,
        bytes: sum.bytes + bytes,
        control: sum.control + control,
        whole: sum.whole + whole,
      });
    }
  }
  return [...bySecond.values()].toSorted((a, b) => a.second - b.second);
}

function ratesOf(seconds: readonly Second[], nodes: number): Rates {
  const mean = (field: "bytes" | "control"): number =>
    seconds.reduce((total, one) => total + one[field], 0) / Math.max(1, seconds.length) / nodes;
  const peak = (field: "bytes" | "control"): number => Math.max(0, ...seconds.map((one) => one[field])) / nodes;
  return {
    meanBytes: mean("bytes"),
    peakBytes: peak("bytes"),
    meanControl: mean("control"),
    peakControl: peak("control"),
  };
}
