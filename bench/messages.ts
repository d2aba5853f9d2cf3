/**
 * `bench messages`: what direct messages cost between two agent nodes on loopback, each in a process of its own and without root: latency until they are
 * acknowledged (durable: the receiver has them on disk), durable messages a second, and what a transfer of class 3 to the same peer, alone and with a
 * flood of publications, does to the latency. The runs with and without are interleaved; the table shows medians over the rounds.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Daemon } from "../lab/process.ts";
import { describeMachine } from "./tools/machine.ts";
import { figure, publish, type OutputOptions } from "./tools/report.ts";
import { median } from "./tools/statistics.ts";

export interface MessagesOptions extends OutputOptions {
  readonly rounds: number;
  readonly seconds: number;
  readonly command: string;
}

const WEFT_NODE = fileURLToPath(new URL("../bin/weft-node", import.meta.url));
const PEER = fileURLToPath(new URL("../lab/message-peer.ts", import.meta.url));
const PER_SECOND = 100;
const BYTES = 200;
const WINDOW = 512;
const START_MS = 30_000;
const PAUSE_MS = 500;
const FLOOD_TOPIC = "flood";
const FLOOD_PER_SECOND = 1_000;
const FLOOD_BYTES = 1_024;
const FOLLOW_MS = 10_000;

interface Latency {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly rttMs: number;
  readonly acknowledged: number;
}

interface Round {
  readonly durable: Latency;
  readonly admitted: Latency;
  readonly alone: Latency;
  readonly beside: Latency;
  readonly flooded: Latency;
  readonly bulkMbps: number;
  readonly published: number;
  readonly perSecond: number;
}

export async function runMessages(options: MessagesOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const root = mkdtempSync(join(tmpdir(), "weft-bench-messages-"));
  const place = (name: string): Daemon =>
    new Daemon(name, WEFT_NODE, [PEER, "--state", join(root, name), "--name", name]);
  const [a, b] = [place("a"), place("b")];
  const rounds: Round[] = [];
  try {
    const { token } = await a.ask({ found: true }, START_MS);
    await b.ask({ join: token }, START_MS);
    await a.ask({ latency: "b", count: 100, perSecond: PER_SECOND }, START_MS);
    await a.ask({ follow: FLOOD_TOPIC });
    await b.ask({ follow: FLOOD_TOPIC });
    await new Promise((resolve) => setTimeout(resolve, FOLLOW_MS));
    for (let i = 0; i < options.rounds; i++) rounds.push(await round(a, options.seconds));
  } finally {
    await Promise.all([a.stop(), b.stop()]);
    rmSync(root, { recursive: true, force: true });
  }
  const of = (pick: (one: Round) => number): string => figure(median(rounds.map(pick)));
  const row = (title: string, pick: (one: Round) => Latency): string[] => [
    title,
    of((one) => pick(one).p50Ms),
    of((one) => pick(one).p99Ms),
    of((one) => pick(one).rttMs),
  ];
  publish(
    {
      name: "messages",
      startedAt,
      machine: await describeMachine(),
      command: options.command,
      tables: [
        {
          title: "until acknowledged, ms",
          columns: ["", "median", "p99", "RTT"],
          rows: [
            row("durable", (one) => one.durable),
            row("not durable", (one) => one.admitted),
            row("durable, nothing else on the connection", (one) => one.alone),
            row("durable, beside a transfer of class 3", (one) => one.beside),
            row("durable, beside a transfer and a flood of publications", (one) => one.flooded),
          ],
        },
        {
          title: "throughput",
          columns: ["", ""],
          rows: [
            [
              `durable messages of ${BYTES} bytes, acknowledged per second, ${WINDOW} at once`,
              of((one) => one.perSecond),
            ],
            ["the transfer beside messages, Mbit/s", of((one) => one.bulkMbps)],
            [`publications of ${FLOOD_BYTES} bytes a second in the flood`, of((one) => one.published)],
          ],
        },
      ],
      notes: [
        `medians of ${options.rounds} rounds; latency at ${PER_SECOND} messages a second for ${options.seconds} s each; runs with and without the transfer take turns`,
        "two agent nodes on loopback, a process each; the transfer counts what QUIC has taken",
      ],
      notCompared: [],
      data: { rounds },
    },
    options,
  );
}

async function round(a: Daemon, seconds: number): Promise<Round> {
  const waitMs = (seconds + 30) * 1_000;
  const latency = async (durable: boolean): Promise<Latency> => {
    const count = Math.ceil(seconds * PER_SECOND);
    const request = { latency: "b", count, perSecond: PER_SECOND, durable, bytes: BYTES };
    const answer = await a.ask(request, waitMs);
    await pause();
    return answer as unknown as Latency;
  };
  const durable = await latency(true);
  const admitted = await latency(false);
  const { perSecond } = await a.ask({ rate: "b", seconds, window: WINDOW, bytes: BYTES }, waitMs);
  await pause();
  const alone = await latency(true);
  await a.ask({ bulk: "b" }, START_MS);
  const startMs = performance.now();
  const beside = await latency(true);
  const { bytes } = await a.ask({ bulk: null }, START_MS);
  const bulkMbps = (Number(bytes) * 8) / 1_000 / (performance.now() - startMs);
  await pause();
  await a.ask({ bulk: "b" }, START_MS);
  await a.ask({ flood: FLOOD_TOPIC, perSecond: FLOOD_PER_SECOND, bytes: FLOOD_BYTES }, START_MS);
  const floodMs = performance.now();
  const flooded = await latency(true);
  const flood = await a.ask({ flood: null }, START_MS);
  const published = (Number(flood["published"]) * 1_000) / (performance.now() - floodMs);
  await a.ask({ bulk: null }, START_MS);
  await pause();
  return { durable, admitted, alone, beside, flooded, bulkMbps, published, perSecond: Number(perSecond) };
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
}
