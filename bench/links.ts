/**
 * `bench links`: how the tunnel behaves on links that are not fast, and over longer times.
 *   slow   250 Mbit/s (tbf, 32 KB burst) both ways: TCP share of the link, ping idle and under load
 *   long   50 Mbit/s with 500 ms round trip through the impairment router: TCP share of the link
 *   udp    UDP offered at fixed rates: loss, and whether every lost packet was counted somewhere
 *   tcp    TCP in both directions: whether any second falls below half of the median
 * The subjects take turns in every scenario.
 */
import { sleep } from "../lab/process.ts";
import { impairedHosts, twoHosts, type TwoHosts } from "../lab/topologies.ts";
import { chooseSubjects } from "./subjects/index.ts";
import type { Tunnel } from "./subjects/types.ts";
import { countDrops, describeDrops, dropsSince, total } from "./tools/accounting.ts";
import { iperf, type IperfOptions } from "./tools/iperf.ts";
import { describeMachine } from "./tools/machine.ts";
import { ping } from "./tools/ping.ts";
import { reasonOf } from "./tools/reading.ts";
import { figure, publish, type OutputOptions, type Table } from "./tools/report.ts";
import { median } from "./tools/statistics.ts";

export const SCENARIOS = ["slow", "long", "udp", "tcp"] as const;
export type Scenario = (typeof SCENARIOS)[number];

export interface LinksOptions extends OutputOptions {
  /** Of the udp and tcp scenarios. */
  readonly seconds: number;
  readonly only: readonly string[];
  readonly subjects: readonly string[];
  readonly command: string;
}

const SLOW_BPS = 250e6;
const SLOW_BURST_BYTES = 32_000;
const SLOW_SECONDS = 15;
const LONG_BPS = 50e6;
const LONG_RTT_MS = 500;
const LONG_SECONDS = 30;
const LONG_WARM_UP_SECONDS = 10;
const LINK_SHARE_LEAST = 0.8;
const PING_GROWTH_MOST_MS = 50;
const UDP_RATES_MBPS = [200, 400, 1_000] as const;
/** The promise covers the rates up to this one; above it the figure stands beside the reference's. */
const UDP_PROMISED_MBPS = 400;
const UDP_LOSS_MOST = 0.0005;
const UDP_BYTES = 1_200;
const COLLAPSE_SHARE = 0.5;

interface Contestant {
  readonly name: string;
  readonly tunnel: Tunnel;
}

type Row = readonly string[];

export async function runLinks(options: LinksOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const wanted = SCENARIOS.filter((name) => options.only.length === 0 || options.only.includes(name));
  for (const name of options.only)
    if (!SCENARIOS.includes(name as Scenario))
      throw new Error(`unknown scenario "${name}": choose from ${SCENARIOS.join(", ")}`);
  const notes: string[] = [];
  const tables: Table[] = [];
  const data: Record<string, unknown> = {};
  const play = { slow, long, udp, tcp };
  for (const name of wanted) {
    process.stderr.write(`scenario ${name}\n`);
    const rows: Row[] = [];
    const measured: unknown[] = [];
    const { title, columns } = await play[name](
      options,
      (row, values) => {
        rows.push(row);
        measured.push(values);
        process.stderr.write(`${row.join("  ")}\n`);
      },
      notes,
    );
    tables.push({ title, columns, rows });
    data[name] = measured;
  }
  publish(
    {
      name: "links",
      startedAt,
      machine: await describeMachine(),
      command: options.command,
      tables,
      notes,
      notCompared: [],
      data,
    },
    options,
  );
}

type Add = (row: Row, values: unknown) => void;
type Played = Promise<{ readonly title: string; readonly columns: readonly string[] }>;

async function withSubjects(
  open: () => Promise<TwoHosts>,
  options: LinksOptions,
  notes: string[],
  use: (contestants: readonly Contestant[]) => Promise<void>,
): Promise<void> {
  const hosts = await open();
  try {
    const contestants: Contestant[] = [];
    for (const [index, subject] of chooseSubjects(options.subjects).entries()) {
      try {
        const found = await subject.find();
        if ("why" in found) throw new Error(found.why);
        contestants.push({ name: subject.name, tunnel: await subject.start(hosts, index) });
      } catch (error) {
        notes.push(`${subject.name}: n/a: ${reasonOf(error)}`);
      }
    }
    for (const { tunnel } of contestants)
      await tunnel.a.host.exec("ping", ["-n", "-c", "3", "-i", "0.3", "-W", "3", tunnel.b.address]);
    await use(contestants);
  } finally {
    await hosts.lab.close();
  }
}

/** One measurement of one subject; a failure becomes a row that says why. */
async function row(
  add: Add,
  name: string,
  columns: number,
  measure: () => Promise<{ readonly cells: Row; readonly values: unknown }>,
): Promise<void> {
  try {
    const { cells, values } = await measure();
    add([name, ...cells], { name, values });
  } catch (error) {
    const why = reasonOf(error);
    add([name, ...Array.from({ length: columns - 2 }, () => "n/a"), why], { name, why });
  }
  await sleep(500);
}

function base(tunnel: Tunnel, seconds: number): Pick<IperfOptions, "from" | "to" | "address" | "seconds"> {
  return { from: tunnel.a.host, to: tunnel.b.host, address: tunnel.b.address, seconds };
}

function judge(promised: string, met: boolean): string {
  return `${promised}: ${met ? "reached" : "missed"}`;
}

async function slow(options: LinksOptions, add: Add, notes: string[]): Played {
  const columns = [
    "",
    "A → B, Mbit/s",
    "B → A, Mbit/s",
    "lower share of the link",
    "ping idle, ms",
    "ping loaded mean, ms",
    "p99, ms",
    "growth (mean), ms",
    "promised",
  ];
  await withSubjects(
    () => twoHosts({ rateBps: SLOW_BPS, burstBytes: SLOW_BURST_BYTES }),
    options,
    notes,
    async (contestants) => {
      for (const { name, tunnel } of contestants) {
        await row(add, name, columns.length, async () => {
          const forward = await iperf({ ...base(tunnel, SLOW_SECONDS), omitSeconds: 2, streams: 4 });
          const back = await iperf({ ...base(tunnel, SLOW_SECONDS), omitSeconds: 2, streams: 4, reverse: true });
          const idle = await ping(tunnel.a.host, tunnel.b.address, 5);
          const before = await countDrops(tunnel);
          const load = iperf({ ...base(tunnel, SLOW_SECONDS), omitSeconds: 2, streams: 4 });
          const loaded = await sleep(3_000).then(() => ping(tunnel.a.host, tunnel.b.address, SLOW_SECONDS - 3));
          await load;
          notes.push(`slow, ${name}: drops under load: ${describeDrops(dropsSince(before, await countDrops(tunnel)))}`);
          const share = Math.min(forward.bitsPerSecond, back.bitsPerSecond) / SLOW_BPS;
          const growth = loaded.meanMs - idle.meanMs;
          const met = share >= LINK_SHARE_LEAST && growth <= PING_GROWTH_MOST_MS;
          return {
            cells: [
              figure(forward.bitsPerSecond / 1e6),
              figure(back.bitsPerSecond / 1e6),
              figure(share),
              figure(idle.meanMs),
              figure(loaded.meanMs),
              figure(loaded.p99Ms),
              figure(growth),
              name === "weft" ? judge("share ≥ 0.8, growth ≤ 50 ms", met) : "",
            ],
            values: { forward, back, idle, loaded },
          };
        });
      }
    },
  );
  return { title: "Slow link: 250 Mbit/s, tbf with 32 KB burst, 4 TCP streams", columns };
}

async function long(options: LinksOptions, add: Add, notes: string[]): Played {
  const columns = ["", "ping idle, ms", "A → B, Mbit/s", "B → A, Mbit/s", "lower share of the link", "promised"];
  const open = async (): Promise<TwoHosts> => {
    const { lab, hosts, links } = await impairedHosts(["a", "b"], {
      delayMs: LONG_RTT_MS / 2,
      rateBps: LONG_BPS,
      queueBytes: (LONG_BPS / 8) * (LONG_RTT_MS / 1_000),
    });
    const [a, b] = hosts;
    const [first, second] = links;
    if (a === undefined || b === undefined || first === undefined || second === undefined)
      throw new Error("the topology has not two hosts");
    return { lab, a, b, link: { ...first, b: second.a } };
  };
  await withSubjects(open, options, notes, async (contestants) => {
    for (const { name, tunnel } of contestants) {
      await row(add, name, columns.length, async () => {
        const idle = await ping(tunnel.a.host, tunnel.b.address, 3, 200, 3_000);
        const before = await countDrops(tunnel);
        const forward = await iperf({ ...base(tunnel, LONG_SECONDS), omitSeconds: LONG_WARM_UP_SECONDS });
        const back = await iperf({ ...base(tunnel, LONG_SECONDS), omitSeconds: LONG_WARM_UP_SECONDS, reverse: true });
        notes.push(`long, ${name}: drops at the ends: ${describeDrops(dropsSince(before, await countDrops(tunnel)))}`);
        const share = Math.min(forward.bitsPerSecond, back.bitsPerSecond) / LONG_BPS;
        return {
          cells: [
            figure(idle.meanMs),
            figure(forward.bitsPerSecond / 1e6),
            figure(back.bitsPerSecond / 1e6),
            figure(share),
            name === "weft" ? judge("share ≥ 0.8", share >= LINK_SHARE_LEAST) : "",
          ],
          values: { idle, forward, back },
        };
      });
    }
  });
  notes.push(
    `long: 250 ms each way, ${LONG_SECONDS} s after ${LONG_WARM_UP_SECONDS} s that do not count (slow start takes many round trips), router queue one bandwidth-delay product`,
  );
  return { title: "Long link: 50 Mbit/s, 500 ms round trip, 1 TCP stream", columns };
}

async function udp(options: LinksOptions, add: Add, notes: string[]): Played {
  const columns = ["", "offered, Mbit/s", "sent", "received", "loss, %", "counted drops", "where", "promised"];
  await withSubjects(
    () => twoHosts(),
    options,
    notes,
    async (contestants) => {
      for (const rate of UDP_RATES_MBPS) {
        for (const { name, tunnel } of contestants) {
          await row(add, `${name}, ${rate} Mbit/s`, columns.length, async () => {
            const before = await countDrops(tunnel);
            const result = await iperf({
              ...base(tunnel, options.seconds),
              udpBytes: UDP_BYTES,
              bitsPerSecond: rate * 1e6,
              socketBufferBytes: 4 << 20,
            });
            await sleep(500);
            const added = dropsSince(before, await countDrops(tunnel));
            const { datagrams } = result;
            if (datagrams === undefined) throw new Error("iperf3 reported no datagrams");
            const promised =
              rate <= UDP_PROMISED_MBPS
                ? judge("≤ 0.05 %", datagrams.lossRatio <= UDP_LOSS_MOST)
                : "beside the reference";
            return {
              cells: [
                figure((datagrams.sent * UDP_BYTES * 8) / result.seconds / 1e6),
                String(datagrams.sent),
                String(datagrams.received),
                (datagrams.lossRatio * 100).toFixed(4),
                String(total(added)),
                describeDrops(added),
                name === "weft" ? promised : "",
              ],
              values: { datagrams, drops: Object.fromEntries(added) },
            };
          });
        }
      }
    },
  );
  return { title: `UDP at fixed rates, ${UDP_BYTES} bytes, ${options.seconds} s`, columns };
}

async function tcp(options: LinksOptions, add: Add, notes: string[]): Played {
  const columns = [
    "",
    "median of seconds, Gbit/s",
    "lowest second",
    "lowest ÷ median",
    "seconds below half",
    "promised",
  ];
  await withSubjects(
    () => twoHosts(),
    options,
    notes,
    async (contestants) => {
      for (const reverse of [false, true]) {
        for (const { name, tunnel } of contestants) {
          await row(add, `${name}, ${reverse ? "B → A" : "A → B"}`, columns.length, async () => {
            // The client receives in both cases: what the sender put into its socket says little about single seconds.
            const [from, to] = reverse ? [tunnel.a, tunnel.b] : [tunnel.b, tunnel.a];
            const { perInterval } = await iperf({
              from: from.host,
              to: to.host,
              address: to.address,
              seconds: options.seconds,
              omitSeconds: 1,
              reverse: true,
            });
            if (perInterval.length < options.seconds * 0.9)
              throw new Error(`iperf3 reported only ${perInterval.length} of ${options.seconds} seconds`);
            const middle = median(perInterval);
            const lowest = Math.min(...perInterval);
            const below = perInterval.filter((rate) => rate < middle * COLLAPSE_SHARE).length;
            return {
              cells: [
                figure(middle / 1e9),
                figure(lowest / 1e9),
                figure(lowest / middle),
                String(below),
                name === "weft" ? judge("none", below === 0) : "",
              ],
              values: { perInterval },
            };
          });
        }
      }
    },
  );
  return { title: `TCP, 1 stream, ${options.seconds} s, second by second`, columns };
}
