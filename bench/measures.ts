/**
 * The measurements of `bench tunnel`, each on one running tunnel: what it does, which figures it gives, and which ratio to the
 * reference Weft promises. A figure that cannot be taken is a reason, never a zero (tools/reading.ts).
 */
import { sleep } from "../lab/process.ts";
import { iperf, type IperfOptions } from "./tools/iperf.ts";
import { ping } from "./tools/ping.ts";
import { cpuSeconds, machineTime, residentBytes } from "./tools/proc.ts";
import { Unavailable, type Reading } from "./tools/reading.ts";
import type { Tunnel } from "./subjects/types.ts";
import type { Target } from "./compare.ts";

export interface Figure {
  readonly id: string;
  readonly title: string;
  readonly unit: string;
  /** Promised for Weft against wireguard-go. */
  readonly target?: Target;
}

export interface MeasureOptions {
  /** Length of each measured interval. */
  readonly seconds: number;
}

export interface Measure {
  readonly id: string;
  readonly figures: readonly Figure[];
  take(tunnel: Tunnel, options: MeasureOptions): Promise<Record<string, Reading>>;
  /** What disturbs nobody is measured on all of them in the same seconds: they share the machine's noise. In the order of `tunnels`. */
  takeTogether?(tunnels: readonly Tunnel[], options: MeasureOptions): Promise<Record<string, Reading>[]>;
}

/** How much longer than the others a measurement of everybody at once takes. */
const TOGETHER_TIMES = 5;
/** Seconds of TCP's slow start that do not count. */
const WARM_UP_SECONDS = 1;
/** Asked for by the UDP tests, so that the receiving program's socket is not what overflows. */
const UDP_BUFFER_BYTES = 4 << 20;
/** Rate of the processor measurement. */
const FIXED_RATE = 1e9;

function between(tunnel: Tunnel, seconds: number): Pick<IperfOptions, "from" | "to" | "address" | "seconds"> {
  return { from: tunnel.a.host, to: tunnel.b.host, address: tunnel.b.address, seconds };
}

function tcp(streams: number, reverse: boolean): Measure {
  const id = `tcp-${streams}${reverse ? "-reverse" : ""}`;
  const title = `TCP, ${streams} stream${streams === 1 ? "" : "s"}, ${reverse ? "B → A" : "A → B"}`;
  return {
    id,
    figures: [{ id, title, unit: "Gbit/s", target: { least: 2.2 } }],
    async take(tunnel, { seconds }) {
      const result = await iperf({ ...between(tunnel, seconds), omitSeconds: WARM_UP_SECONDS, streams, reverse });
      return { [id]: result.bitsPerSecond / 1e9, [`${id}-retransmits`]: result.retransmits ?? { why: "not reported" } };
    },
  };
}

function udp(bytes: number): Measure {
  const id = `udp-${bytes}`;
  const promised = bytes === 64 ? { target: { least: 2.5 } } : {};
  return {
    id,
    figures: [
      { id, title: `UDP, ${bytes} bytes, received`, unit: "k/s", ...promised },
      { id: `${id}-offered`, title: `UDP, ${bytes} bytes, offered`, unit: "k/s" },
      { id: `${id}-socket`, title: `UDP, ${bytes} bytes, dropped at iperf3's own socket`, unit: "k/s" },
    ],
    async take(tunnel, { seconds }) {
      const result = await iperf({
        ...between(tunnel, seconds),
        udpBytes: bytes,
        bitsPerSecond: 0,
        socketBufferBytes: UDP_BUFFER_BYTES,
      });
      const { datagrams } = result;
      if (datagrams === undefined) throw new Unavailable("iperf3 reported no datagrams");
      const dropped = datagrams.droppedAtServerSocket;
      return {
        [id]: datagrams.receivedPerSecond / 1e3,
        [`${id}-offered`]: datagrams.sent / result.seconds / 1e3,
        [`${id}-socket`]: dropped === undefined ? { why: "iperf3's socket was not found" } : dropped / seconds / 1e3,
      };
    },
  };
}

const pingIdle: Measure = {
  id: "ping-idle",
  figures: [
    { id: "ping-idle-mean", title: "ping, idle, mean", unit: "ms" },
    { id: "ping-idle-p99", title: "ping, idle, p99", unit: "ms" },
  ],
  async take(tunnel, { seconds }) {
    const result = await ping(tunnel.a.host, tunnel.b.address, seconds);
    return { "ping-idle-mean": result.meanMs, "ping-idle-p99": result.p99Ms };
  },
  // an idle round trip is a tenth of a millisecond: a few per cent of that drown in what the machine does from second to second
  takeTogether: (tunnels, { seconds }) =>
    Promise.all(tunnels.map((tunnel) => pingIdle.take(tunnel, { seconds: seconds * TOGETHER_TIMES }))),
};

const pingLoaded: Measure = {
  id: "ping-loaded",
  figures: [
    { id: "ping-loaded-mean", title: "ping under 8 TCP streams, mean", unit: "ms" },
    { id: "ping-loaded-p99", title: "ping under 8 TCP streams, p99", unit: "ms", target: { most: 0.5 } },
    { id: "ping-loaded-lost", title: "ping under 8 TCP streams, lost", unit: "%" },
    { id: "ping-loaded-rate", title: "TCP, 8 streams, beside that ping", unit: "Gbit/s" },
  ],
  async take(tunnel, { seconds }) {
    const load = iperf({ ...between(tunnel, seconds + 1), omitSeconds: WARM_UP_SECONDS, streams: 8 });
    // Whatever happens to the ping, the load must have ended before the next measurement begins.
    const [result, rate] = await Promise.allSettled([
      sleep(1_500).then(() => ping(tunnel.a.host, tunnel.b.address, seconds)),
      load,
    ]);
    if (rate.status === "rejected") throw new Unavailable(`the load did not run: ${String(rate.reason)}`);
    if (result.status === "rejected") throw result.reason;
    return {
      "ping-loaded-mean": result.value.meanMs,
      "ping-loaded-p99": result.value.p99Ms,
      "ping-loaded-lost": (1 - result.value.received / result.value.sent) * 100,
      "ping-loaded-rate": rate.value.bitsPerSecond / 1e9,
    };
  },
};

const processor: Measure = {
  id: "cpu",
  figures: [
    { id: "cpu-per-gb", title: "CPU of both tunnel processes at 1 Gbit/s TCP", unit: "s/GB", target: { most: 0.4 } },
    { id: "cpu-machine-per-gb", title: "CPU of the whole machine meanwhile", unit: "s/GB" },
  ],
  async take(tunnel, { seconds }) {
    const pids = [tunnel.a.pid, tunnel.b.pid];
    const total = (): number => pids.reduce<number>((sum, pid) => sum + (pid === undefined ? 0 : cpuSeconds(pid)), 0);
    const before = total();
    const machineBefore = machineTime().busy;
    const result = await iperf({ ...between(tunnel, seconds), bitsPerSecond: FIXED_RATE });
    const used = total() - before;
    const machineUsed = machineTime().busy - machineBefore;
    if (result.bitsPerSecond < 0.95 * FIXED_RATE) {
      throw new Unavailable(`reached only ${(result.bitsPerSecond / 1e9).toFixed(2)} of 1 Gbit/s`);
    }
    const gigabytes = result.receivedBytes / 1e9;
    return {
      "cpu-per-gb": pids.includes(undefined) ? { why: "the kernel carries the packets" } : used / gigabytes,
      "cpu-machine-per-gb": machineUsed / gigabytes,
    };
  },
};

const memory: Measure = {
  id: "memory",
  figures: [{ id: "memory", title: "resident memory, larger of both ends, after the load", unit: "MB" }],
  take(tunnel) {
    const { a, b } = tunnel;
    if (a.pid === undefined || b.pid === undefined) throw new Unavailable("the kernel carries the packets");
    return Promise.resolve({ memory: Math.max(residentBytes(a.pid), residentBytes(b.pid)) / 1e6 });
  },
};

/** In the order in which a round takes them; memory last, after everything else. */
export const MEASURES: readonly Measure[] = [
  tcp(1, false),
  tcp(1, true),
  tcp(4, false),
  tcp(4, true),
  tcp(8, false),
  tcp(8, true),
  udp(64),
  udp(1200),
  pingIdle,
  pingLoaded,
  processor,
  memory,
];

/** @param names ids or their beginnings ("tcp", "udp-64"); empty = all @throws Error naming one that matches nothing */
export function chooseMeasures(names: readonly string[]): Measure[] {
  for (const name of names) {
    if (!MEASURES.some((measure) => measure.id.startsWith(name))) {
      throw new Error(`unknown measurement "${name}": choose from ${MEASURES.map((measure) => measure.id).join(", ")}`);
    }
  }
  return MEASURES.filter((measure) => names.length === 0 || names.some((name) => measure.id.startsWith(name)));
}
