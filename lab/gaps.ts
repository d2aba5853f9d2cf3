/**
 * How long nothing arrived: a stream of pings and a TCP connection that last for a whole scenario, the arrivals at a network device, and gaps as histograms.
 * Times are milliseconds of the machine's wall clock, which all namespaces share.
 */
import { fileURLToPath } from "node:url";
import type { Host } from "./namespaces.ts";
import type { Daemon } from "./process.ts";
import { percentile, WEFT_NODE } from "./traffic.ts";

const WATCH = fileURLToPath(new URL("./arrivals.ts", import.meta.url));
/** 100 pings a second and a little more: from 10 ms on ping rounds up to 16. */
const PING_SECONDS = "0.009";

export interface Reply {
  readonly sequence: number;
  readonly atMs: number;
  readonly rttMs: number;
}

/** Pings until it is stopped; every reply is kept. */
export class PingStream {
  readonly replies: Reply[] = [];
  readonly #daemon: Daemon;
  /** The kernel's sequence numbers have 16 bits. */
  #wraps = 0;
  #last = 0;

  private constructor(daemon: Daemon) {
    this.#daemon = daemon;
    daemon.watch((line) => {
      const match = /^\[([\d.]+)\].*icmp_seq=(\d+).*time=([\d.]+) ms/.exec(line ?? "");
      if (match === null || line?.includes("DUP!") === true) return;
      const low = Number(match[2]);
      if (low < this.#last - 32_768) this.#wraps++;
      this.#last = low;
      const sequence = low + this.#wraps * 65_536;
      this.replies.push({ sequence, atMs: Number(match[1]) * 1_000, rttMs: Number(match[3]) });
    });
  }

  static start(from: Host, address: string, intervalSeconds: string = PING_SECONDS): PingStream {
    const args = ["-n", "-D", "-i", intervalSeconds, address];
    return new PingStream(from.spawn("ping", args, { name: `${from.name}:ping`, maxLines: 50 }));
  }

  longestGapMs(fromMs: number, untilMs: number): number {
    return longestGapMs(
      this.replies.map(({ atMs }) => atMs),
      fromMs,
      untilMs,
    );
  }

  /** Pings that were sent within the window and never answered, as far as later replies show. */
  lost(fromMs: number, untilMs: number): number {
    const sorted = this.replies.toSorted((a, b) => a.sequence - b.sequence);
    let count = 0;
    for (let index = 1; index < sorted.length; index++) {
      const [before, after] = [sorted[index - 1], sorted[index]];
      const steps = after.sequence - before.sequence;
      const [first, last] = [before.atMs - before.rttMs, after.atMs - after.rttMs];
      for (let step = 1; step < steps; step++) {
        const sentMs = first + ((last - first) * step) / steps;
        if (sentMs >= fromMs && sentMs < untilMs) count++;
      }
    }
    return count;
  }

  async stop(): Promise<void> {
    await this.#daemon.stop("SIGINT");
  }
}

/** Moments at which the byte counter of a device had grown, looked at every 2 ms: what arrived, whatever protocol it was. */
export class Arrivals {
  readonly timesMs: number[] = [];
  readonly #daemon: Daemon;

  private constructor(daemon: Daemon) {
    this.#daemon = daemon;
    daemon.watch((line) => {
      if (line !== undefined && /^\d/.test(line)) for (const part of line.split(" ")) this.timesMs.push(Number(part));
    });
  }

  static async start(host: Host, device: string): Promise<Arrivals> {
    const daemon = host.spawn(WEFT_NODE, [WATCH, device], { name: `${host.name}:arrivals`, maxLines: 50 });
    await daemon.waitFor(/^watching/, 10_000);
    return new Arrivals(daemon);
  }

  longestGapMs(fromMs: number, untilMs: number): number {
    return longestGapMs(this.timesMs, fromMs, untilMs);
  }

  async stop(): Promise<void> {
    await this.#daemon.stop("SIGTERM");
  }
}

/** One TCP connection of iperf3, from `from` to `to`, that lasts until it is stopped; its intervals are read while it runs. */
export class TcpFlow {
  /** Bytes of every tenth of a second, as the receiver saw them. */
  readonly intervals: number[] = [];
  readonly #server: Daemon;
  readonly #client: Daemon;

  private constructor(server: Daemon, client: Daemon) {
    this.#server = server;
    this.#client = client;
    client.watch((line) => {
      const match = /\d-\d[\d.]*\s+sec\s+([\d.]+) ([KMG]?)Bytes/.exec(line ?? "");
      if (match !== null) this.intervals.push(Number(match[1]) * (UNITS[match[2] ?? ""] ?? 1));
    });
  }

  /** @param address of `from` */
  static async start(from: Host, to: Host, address: string, rateBps: number): Promise<TcpFlow> {
    const port = String(nextPort++);
    const server = from.spawn("iperf3", ["-s", "-1", "-B", address, "-p", port, "--forceflush"], {
      name: `${from.name}:iperf3`,
    });
    await server.waitFor(/listening/i, 10_000);
    const args = ["-c", address, "-p", port, "-R", "-t", "86400", "-i", "0.1", "-b", String(rateBps), "-l", "8K"];
    const client = to.spawn("iperf3", [...args, "--forceflush"], { name: `${to.name}:iperf3`, maxLines: 50 });
    await client.waitFor(/connected to/, 10_000);
    return new TcpFlow(server, client);
  }

  /** Why it ended by itself; undefined while it runs. */
  get broken(): string | undefined {
    const ended = [this.#client, this.#server].find(({ exitCode }) => exitCode !== undefined);
    return ended === undefined ? undefined : `${ended.name} ended: ${ended.lines.at(-1) ?? ""}`;
  }

  /** The longest run of intervals without a byte. */
  get longestSilenceMs(): number {
    let [silence, longest] = [0, 0];
    for (const bytes of this.intervals) {
      silence = bytes === 0 ? silence + 100 : 0;
      longest = Math.max(longest, silence);
    }
    return longest;
  }

  async stop(): Promise<void> {
    await this.#client.stop("SIGINT");
    await this.#server.stop("SIGKILL");
  }
}

const UNITS: Readonly<Record<string, number>> = { "": 1, K: 1_024, M: 1_024 ** 2, G: 1_024 ** 3 };
let nextPort = 5_601;

/**
 * The longest time in which nothing came and that reaches into the window, whole even when it began before it.
 * @param times ascending @returns Infinity when nothing came within the window
 */
export function longestGapMs(times: readonly number[], fromMs: number, untilMs: number): number {
  let longest = Number.NEGATIVE_INFINITY;
  let before = fromMs;
  for (const time of times) {
    if (time > fromMs && time <= untilMs) longest = Math.max(longest, time - before);
    if (time <= untilMs) before = time;
  }
  return longest === Number.NEGATIVE_INFINITY ? Number.POSITIVE_INFINITY : Math.max(longest, untilMs - before);
}

const EDGES_MS = [25, 50, 75, 100, 150, 200, 300, 500, 1_000, 2_000];

/** Lines of a histogram with the usual percentiles below. */
export function histogram(gapsMs: readonly number[]): string[] {
  const lines: string[] = [];
  let low = 0;
  for (const edge of [...EDGES_MS, Number.POSITIVE_INFINITY]) {
    const count = gapsMs.filter((gap) => gap > low && gap <= edge).length;
    const name = edge === Number.POSITIVE_INFINITY ? `> ${low}` : `≤ ${edge}`;
    if (count > 0) lines.push(`${name.padStart(7)} ms ${String(count).padStart(4)} ${"█".repeat(count)}`);
    low = edge;
  }
  const figures = [0.5, 0.95, 1].map((share) => Math.round(percentile(gapsMs, share)));
  lines.push(`median ${figures[0]} ms, P95 ${figures[1]} ms, largest ${figures[2]} ms of ${gapsMs.length}`);
  return lines;
}
