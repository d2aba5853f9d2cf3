/**
 * Real traffic between lab hosts and what became of it: ping, iperf3 over TCP and UDP, and a file with its checksum.
 * Every function has a time limit and rejects with LabError when a figure could not be taken: no figure is ever made up.
 */
import { createHash, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Host } from "./namespaces.ts";
import { LabError } from "./process.ts";

export const WEFT_NODE: string = fileURLToPath(new URL("../bin/weft-node", import.meta.url));
const FILE_TRANSFER = fileURLToPath(new URL("./file-transfer.ts", import.meta.url));

export interface PingOptions {
  /** @default 10 */
  readonly count?: number;
  /** From 10 ms on the kernel's timers round it up, to 16 for 10; below it is kept exactly. @default 100 */
  readonly intervalMs?: number;
  /** ICMP payload. @default 56 */
  readonly bytes?: number;
  /** How long to wait for the last answers. @default 2_000 */
  readonly graceMs?: number;
}

export interface PingResult {
  readonly sent: number;
  readonly received: number;
  readonly duplicates: number;
  /** Round trips in order of arrival, milliseconds. */
  readonly rttMs: readonly number[];
  /** Longest time between two answers that followed each other, milliseconds; 0 with fewer than two. */
  readonly longestGapMs: number;
}

export async function ping(from: Host, address: string, options: PingOptions = {}): Promise<PingResult> {
  const count = options.count ?? 10;
  const intervalMs = options.intervalMs ?? 100;
  const graceMs = options.graceMs ?? 2_000;
  const args = ["-n", "-D", "-c", String(count), "-i", String(intervalMs / 1_000), "-s", String(options.bytes ?? 56)];
  const result = await from.exec("ping", [...args, "-W", String(graceMs / 1_000), address], {
    timeoutMs: count * (intervalMs * 1.25 + 8) + graceMs + 10_000,
    maxOutputBytes: 64 << 20,
  });
  return parsePing(result.stdout, result.stderr);
}

/** Pings again and again until one is answered. @returns milliseconds it took, or Infinity when nothing came within `limitMs` */
export async function timeUntilAnswered(from: Host, address: string, limitMs: number): Promise<number> {
  const began = performance.now();
  const count = Math.ceil(limitMs / 20);
  // One process for all of it: -O would say what is missing, the first answer's line is all that counts.
  const pinging = from.spawn("ping", ["-n", "-i", "0.02", "-c", String(count), address], { name: `${from.name}:ping` });
  try {
    await pinging.waitFor(/bytes from/, limitMs);
    return performance.now() - began;
  } catch {
    return Number.POSITIVE_INFINITY;
  } finally {
    await pinging.stop("SIGKILL");
  }
}

/** @param text output of `ping -n -D` */
export function parsePing(text: string, errors = ""): PingResult {
  const rttMs: number[] = [];
  const times: number[] = [];
  let duplicates = 0;
  for (const match of text.matchAll(/^\[([\d.]+)\].*?time=([\d.]+) ms(.*)$/gm)) {
    if (match[3]?.includes("DUP!")) {
      duplicates++;
      continue;
    }
    times.push(Number(match[1]) * 1_000);
    rttMs.push(Number(match[2]));
  }
  const sent = /(\d+) packets transmitted/.exec(text);
  if (sent === null) throw new LabError("PING", `ping gave no summary: ${(errors || text).trim().slice(-500)}`);
  let longestGapMs = 0;
  for (let index = 1; index < times.length; index++)
    longestGapMs = Math.max(longestGapMs, (times[index] ?? 0) - (times[index - 1] ?? 0));
  return { sent: Number(sent[1]), received: rttMs.length, duplicates, rttMs, longestGapMs };
}

/** The value below which `share` (0–1) of the values lie; NaN without values. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

export interface IperfOptions {
  /** @default 3 */
  readonly seconds?: number;
  /** @default 1 */
  readonly streams?: number;
  /** The server sends. @default false */
  readonly reverse?: boolean;
  /** UDP at this rate, bits per second; for TCP a pacing limit. @default none (TCP as fast as it goes) */
  readonly rateBps?: number;
  /** @default "tcp" */
  readonly protocol?: "tcp" | "udp";
  /** UDP payload or TCP write size, bytes. */
  readonly lengthBytes?: number;
  /** Length of the intervals in the result, seconds. @default 1 */
  readonly intervalSeconds?: number;
  /** Seconds at the start that do not count. @default 0 */
  readonly omitSeconds?: number;
  /** Called when the client has connected, for changes under load. */
  readonly onStarted?: () => void;
}

export interface IperfResult {
  /** At the receiver. */
  readonly bitsPerSecond: number;
  readonly bytes: number;
  /** UDP datagrams lost, 0–1; 0 for TCP. */
  readonly lossRatio: number;
  /** UDP datagrams at the receiver, lost ones included. */
  readonly packets: number;
  readonly jitterMs: number;
  readonly retransmits: number;
  /** Bits per second of every interval, as the client saw it (use `reverse` to see the receiver's). */
  readonly intervals: readonly number[];
}

let nextPort = 5_201;

/** iperf3 from `from` to a server that it starts on `to`, listening on `address`. */
export async function iperf(from: Host, to: Host, address: string, options: IperfOptions = {}): Promise<IperfResult> {
  const port = String(nextPort++);
  const seconds = options.seconds ?? 3;
  const server = to.spawn("iperf3", ["-s", "-1", "-B", address, "-p", port, "--forceflush"], {
    name: `${to.name}:iperf3`,
  });
  try {
    await server.waitFor(/listening/i, 10_000);
    const args = [
      "-c",
      address,
      "-p",
      port,
      "-t",
      String(seconds),
      "-i",
      String(options.intervalSeconds ?? 1),
      "-J",
      "--get-server-output",
    ];
    args.push("-P", String(options.streams ?? 1), "-O", String(options.omitSeconds ?? 0));
    if (options.protocol === "udp") args.push("-u");
    if (options.rateBps !== undefined) args.push("-b", String(Math.round(options.rateBps)));
    if (options.lengthBytes !== undefined) args.push("-l", String(options.lengthBytes));
    if (options.reverse === true) args.push("-R");
    if (options.onStarted !== undefined) {
      const started = options.onStarted;
      void server.waitFor(/Accepted connection/, 10_000).then(started, () => undefined);
    }
    const limitMs = (seconds + (options.omitSeconds ?? 0)) * 1_000 + 20_000;
    const result = await from.exec("iperf3", args, { timeoutMs: limitMs, maxOutputBytes: 32 << 20 });
    if (result.timedOut)
      throw new LabError("IPERF", `iperf3 ${from.name} → ${to.name} (${address}) did not end within ${limitMs} ms`);
    return parseIperf(result.stdout, `${from.name} → ${to.name} (${address})`);
  } finally {
    await server.stop("SIGKILL");
  }
}

interface IperfSum {
  readonly bits_per_second?: number;
  readonly bytes?: number;
  readonly retransmits?: number;
  readonly lost_packets?: number;
  readonly packets?: number;
  readonly lost_percent?: number;
  readonly jitter_ms?: number;
  readonly omitted?: boolean;
}

interface IperfReport {
  readonly error?: string;
  readonly intervals?: readonly { readonly sum: IperfSum }[];
  readonly end?: { readonly sum?: IperfSum; readonly sum_sent?: IperfSum; readonly sum_received?: IperfSum };
}

function parseIperf(text: string, what: string): IperfResult {
  let report: IperfReport;
  try {
    report = JSON.parse(text) as IperfReport;
  } catch (cause) {
    throw new LabError("IPERF", `iperf3 ${what} gave no report: ${text.trim().slice(-300)}`, { cause });
  }
  if (report.error !== undefined) throw new LabError("IPERF", `iperf3 ${what}: ${report.error}`);
  const received = report.end?.sum_received ?? report.end?.sum;
  const udp = report.end?.sum;
  if (received?.bits_per_second === undefined) throw new LabError("IPERF", `iperf3 ${what}: no result in its report`);
  return {
    bitsPerSecond: received.bits_per_second,
    bytes: received.bytes ?? 0,
    lossRatio: (udp?.lost_percent ?? 0) / 100,
    packets: udp?.packets ?? 0,
    jitterMs: udp?.jitter_ms ?? 0,
    retransmits: report.end?.sum_sent?.retransmits ?? 0,
    intervals: (report.intervals ?? [])
      .filter((one) => one.sum.omitted !== true)
      .map((one) => one.sum.bits_per_second ?? 0),
  };
}

export interface FileResult {
  readonly bytes: number;
  readonly seconds: number;
  readonly sha256: string;
  /** True when the bytes that arrived have the checksum of those that were sent. */
  readonly intact: boolean;
}

/** Sends a random file of `bytes` by HTTP from `from` to `to` and compares checksums. `address` is one of `from`. */
export async function sendFile(
  from: Host,
  to: Host,
  address: string,
  folder: string,
  bytes: number,
): Promise<FileResult> {
  const data = randomBytes(bytes);
  const sha256 = createHash("sha256").update(data).digest("hex");
  const file = join(folder, `file-${sha256.slice(0, 8)}`);
  writeFileSync(file, data);
  const port = String(nextPort++);
  const server = from.spawn(WEFT_NODE, [FILE_TRANSFER, "serve", file, address, port], { name: `${from.name}:file` });
  try {
    await server.waitFor(/^serving/, 10_000);
    const host = address.includes(":") ? `[${address}]` : address;
    const got = JSON.parse(
      await to.must(WEFT_NODE, [FILE_TRANSFER, "get", `http://${host}:${port}/`], { timeoutMs: 60_000 }),
    ) as {
      bytes: number;
      sha256: string;
      ms: number;
    };
    return {
      bytes: got.bytes,
      seconds: got.ms / 1_000,
      sha256: got.sha256,
      intact: got.sha256 === sha256 && got.bytes === bytes,
    };
  } finally {
    await server.stop("SIGKILL");
  }
}
