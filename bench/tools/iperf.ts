/**
 * iperf3 between two hosts of a lab: a server for one test only, then a client with JSON output.
 *
 * What its UDP figures need to be true: the count of received datagrams comes from the server (`sum_received` of the client's JSON is
 * what the server reported), the socket buffer is asked for explicitly (the default of 208 KiB overflows at the receiving program and
 * looks like loss in the tunnel), and the server's own socket is watched through /proc, so drops there are told apart from drops on the way.
 */
import type { Host } from "../../lab/namespaces.ts";
import { run, sleep } from "../../lab/process.ts";
import { udpSockets } from "./proc.ts";
import { Unavailable } from "./reading.ts";

export interface IperfOptions {
  readonly from: Host;
  readonly to: Host;
  /** Address of `to` at which the server listens. */
  readonly address: string;
  readonly seconds: number;
  /** Seconds at the start that do not count. @default 0 */
  readonly omitSeconds?: number;
  /** @default 1 */
  readonly streams?: number;
  /** The server sends, the client receives (-R). @default false */
  readonly reverse?: boolean;
  /** Payload of one UDP datagram; undefined = TCP. */
  readonly udpBytes?: number;
  /** Rate of each stream; 0 = as fast as it goes. @default TCP unlimited, UDP required */
  readonly bitsPerSecond?: number;
  /** SO_SNDBUF and SO_RCVBUF of both ends (doubled by the kernel). @default the kernel's */
  readonly socketBufferBytes?: number;
  /** Seconds between the entries of `perSecond`. @default 1 */
  readonly intervalSeconds?: number;
  /** @default 5201 */
  readonly port?: number;
}

export interface IperfResult {
  /** What the receiver got. */
  readonly bitsPerSecond: number;
  readonly receivedBytes: number;
  readonly seconds: number;
  /** bits/s of every interval after the omitted ones, as the client saw them (TCP: sent, or received with `reverse`). */
  readonly perInterval: number[];
  readonly retransmits: number | undefined;
  /** UDP only. */
  readonly datagrams:
    | {
        readonly sent: number;
        readonly received: number;
        readonly receivedPerSecond: number;
        readonly lossRatio: number;
        readonly droppedAtServerSocket: number | undefined;
      }
    | undefined;
}

interface Sum {
  readonly bytes?: number;
  readonly seconds?: number;
  readonly bits_per_second?: number;
  readonly packets?: number;
  readonly retransmits?: number;
}

interface IperfJson {
  readonly error?: string;
  readonly intervals?: readonly { readonly sum?: Sum & { readonly omitted?: boolean } }[];
  readonly end?: { readonly sum_sent?: Sum; readonly sum_received?: Sum };
}

/** Runs one test. Rejects with Unavailable when iperf3 reports an error or gives no figures. */
export async function iperf(options: IperfOptions): Promise<IperfResult> {
  const port = options.port ?? 5201;
  const server = options.to.spawn("iperf3", ["-s", "-1", "-4", "-p", String(port), "--forceflush"]);
  try {
    await server.waitFor(/Server listening/, 10_000);
    const total = options.seconds + (options.omitSeconds ?? 0);
    const client = run("ip", ["netns", "exec", options.from.namespace, "iperf3", ...clientArguments(options, port)], {
      timeoutMs: (total + 30) * 1_000,
      maxOutputBytes: 64 << 20,
    });
    let dropped: number | undefined;
    if (options.udpBytes !== undefined) {
      await sleep(total * 1_000 - 250);
      dropped = udpSockets(server.pid).find((socket) => socket.localPort === port && socket.remotePort !== 0)?.dropped;
    }
    const result = await client;
    if (result.timedOut) throw new Unavailable(`iperf3 did not end within ${total + 30} s`);
    return parse(result.stdout, options, dropped);
  } finally {
    await server.stop("SIGTERM", 500);
  }
}

function clientArguments(options: IperfOptions, port: number): string[] {
  const args = [
    "-c",
    options.address,
    "-p",
    String(port),
    "-J",
    "-t",
    String(options.seconds),
    "-P",
    String(options.streams ?? 1),
  ];
  args.push("-i", String(options.intervalSeconds ?? 1), "--connect-timeout", "10000");
  if (options.omitSeconds !== undefined && options.omitSeconds > 0) args.push("-O", String(options.omitSeconds));
  if (options.reverse === true) args.push("-R");
  if (options.udpBytes !== undefined)
    args.push("-u", "-l", String(options.udpBytes), "-b", String(options.bitsPerSecond ?? 0));
  else if (options.bitsPerSecond !== undefined) args.push("-b", String(options.bitsPerSecond));
  if (options.socketBufferBytes !== undefined) args.push("-w", String(options.socketBufferBytes));
  return args;
}

/** Reads the client's JSON. Exported for its test. */
export function parse(
  text: string,
  options: Pick<IperfOptions, "udpBytes">,
  droppedAtServerSocket: number | undefined,
): IperfResult {
  let json: IperfJson;
  try {
    json = JSON.parse(text) as IperfJson;
  } catch {
    throw new Unavailable(`iperf3 gave no JSON: ${text.slice(0, 100)}`);
  }
  if (json.error !== undefined) throw new Unavailable(`iperf3: ${json.error}`);
  const received = json.end?.sum_received;
  const sent = json.end?.sum_sent;
  const bytes = received?.bytes;
  const seconds = received?.seconds;
  if (bytes === undefined || seconds === undefined || !(seconds > 0))
    throw new Unavailable("iperf3 gave no result of the receiver");
  if (bytes === 0) throw new Unavailable("iperf3: the receiver got nothing");
  const perInterval = (json.intervals ?? [])
    .map((interval) => interval.sum)
    // The remainder after the last whole interval is a few milliseconds long and says nothing.
    .filter((sum) => sum !== undefined && sum.omitted !== true && (sum.seconds ?? 0) > 0.5)
    .map((sum) => sum?.bits_per_second ?? Number.NaN);
  const base = {
    bitsPerSecond: (bytes * 8) / seconds,
    receivedBytes: bytes,
    seconds,
    perInterval,
    retransmits: sent?.retransmits,
  };
  if (options.udpBytes === undefined) return { ...base, datagrams: undefined };
  const count = Math.round(bytes / options.udpBytes);
  const offered = sent?.packets ?? Number.NaN;
  return {
    ...base,
    datagrams: {
      sent: offered,
      received: count,
      receivedPerSecond: count / seconds,
      lossRatio: Math.max(0, 1 - count / offered),
      droppedAtServerSocket,
    },
  };
}
