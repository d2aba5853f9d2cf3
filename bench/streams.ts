/**
 * `bench streams`: what streams leave behind and what they cost. Two stream endpoints in this process, over a channel in memory: many
 * short streams with an echo, then many connections killed and made anew, each with an echo, then one long transfer. Heap (after a
 * collection), memory that malloc has given out (mallinfo2: OpenSSL's included) and resident memory are read on the way; the trend is
 * the least-squares slope over the second half, where caches are filled.
 */
import { buffer } from "node:stream/consumers";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import koffi from "koffi";
import { StreamPair } from "../src/stream/testing.ts";
import type { MeshStream } from "../src/stream/types.ts";
import { describeMachine } from "./tools/machine.ts";
import { figure, publish, type OutputOptions, type Table } from "./tools/report.ts";

export interface StreamsOptions extends OutputOptions {
  readonly streams: number;
  readonly reconnects: number;
  readonly megabytes: number;
  readonly command: string;
}

interface Reading {
  readonly done: number;
  readonly heapBytes: number;
  readonly nativeBytes: number;
  readonly residentBytes: number;
}

interface Phase {
  readonly name: string;
  readonly seconds: number;
  readonly count: number;
  readonly readings: readonly Reading[];
}

const READINGS = 20;
const AT_ONCE = 32;
const ECHO_BYTES = 256;

export async function runStreams(options: StreamsOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const pair = new StreamPair({}, { attemptsPerSecond: 100_000 });
  pair.client.serve("echo", (stream) => stream.pipe(stream));
  pair.server.serve("echo", (stream) => stream.pipe(stream));
  await echo(pair, 0);
  const streams = await phase(pair, "streams", options.streams, AT_ONCE, (i) => echo(pair, i));
  const reconnects = await phase(pair, "reconnects", options.reconnects, 1, async (i) => {
    // one side loses its connection; the other one learns it from the first datagram
    if (i % 2 === 0) pair.client.peerRestarted(pair.serverId);
    else pair.server.peerRestarted(pair.clientId);
    await echo(pair, i);
  });
  const transfer = await transferOf(pair, options.megabytes);
  await new Promise((resolve) => setTimeout(resolve, 200));
  const left = pair.client.counters.streams + pair.server.counters.streams;
  pair.close();
  const phases = [streams, reconnects];
  publish(
    {
      name: "streams",
      startedAt,
      machine: await describeMachine(),
      command: options.command,
      tables: [summary(phases), ...phases.map(course), transfer],
      notes: [
        `every stream: opened, ${ECHO_BYTES} bytes there and back, both halves ended; ${AT_ONCE} at once, from both sides`,
        "every reconnect: one side's connection is dropped, a stream is opened, 256 bytes there and back; one after the other",
        `both ends in one process and thread; datagrams of at most ${pair.largestBytes} bytes; streams left open: ${left}`,
      ],
      notCompared: [],
      data: { phases },
    },
    options,
  );
}

async function echo(pair: StreamPair, i: number): Promise<void> {
  const [end, peer] = i % 2 === 0 ? [pair.client, pair.serverId] : [pair.server, pair.clientId];
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      const stream: MeshStream = await end.open(peer, { kind: "echo" });
      stream.end(Buffer.alloc(ECHO_BYTES, i));
      const got = await buffer(stream);
      if (got.length !== ECHO_BYTES) throw new Error(`${got.length} bytes came back`);
      return;
    } catch (error) {
      if (attempt === 4 || !/CONNECTION_/.test((error as { code?: string }).code ?? "")) throw error;
    }
  }
}

async function phase(
  pair: StreamPair,
  name: string,
  count: number,
  atOnce: number,
  one: (i: number) => Promise<void>,
): Promise<Phase> {
  const readings = [read(0)];
  let workedMs = 0;
  for (let step = 0; step < READINGS; step++) {
    const from = Math.round((count * step) / READINGS);
    const to = Math.round((count * (step + 1)) / READINGS);
    let next = from;
    const startedMs = performance.now();
    await Promise.all(
      Array.from({ length: Math.min(atOnce, to - from) }, async () => {
        while (next < to) await one(next++);
      }),
    );
    workedMs += performance.now() - startedMs;
    // the pair keeps a record for tests
    pair.events.length = 0;
    readings.push(read(to));
  }
  return { name, seconds: workedMs / 1000, count, readings };
}

async function transferOf(pair: StreamPair, megabytes: number): Promise<Table> {
  let received = 0;
  const bytes = megabytes * 1_000_000;
  const done = new Promise<void>((resolve) => {
    pair.server.serve("sink", (stream) => {
      stream.on("data", (chunk: Buffer) => (received += chunk.length));
      stream.on("end", () => {
        stream.end();
        resolve();
      });
    });
  });
  const stream = await pair.client.open(pair.serverId, { kind: "sink", class: 3 });
  stream.resume();
  const chunk = Buffer.alloc(65_536);
  const startedMs = performance.now();
  for (let sent = 0; sent < bytes; sent += chunk.length) {
    if (!stream.write(chunk)) await new Promise((resolve) => stream.once("drain", resolve));
  }
  stream.end();
  await done;
  const seconds = (performance.now() - startedMs) / 1000;
  return {
    title: "one long stream",
    columns: ["", "MB", "s", "Mbit/s"],
    rows: [
      ["both ends in one thread", figure(received / 1e6), figure(seconds), figure((received * 8) / seconds / 1e6)],
    ],
  };
}

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

const mallocInfo = koffi.struct({
  arena: "size_t",
  ordblks: "size_t",
  smblks: "size_t",
  hblks: "size_t",
  hblkhd: "size_t",
  usmblks: "size_t",
  fsmblks: "size_t",
  uordblks: "size_t",
  fordblks: "size_t",
  keepcost: "size_t",
});
const mallinfo2 = koffi.load(null).func("mallinfo2", mallocInfo, []) as () => { uordblks: number; hblkhd: number };

function read(done: number): Reading {
  collect();
  collect();
  const { heapUsed, rss } = process.memoryUsage();
  const { uordblks, hblkhd } = mallinfo2();
  return { done, heapBytes: heapUsed, nativeBytes: uordblks + hblkhd, residentBytes: rss };
}

/** Least squares over the second half, per unit done. */
function slope(readings: readonly Reading[], of: (reading: Reading) => number): number {
  const half = readings.slice(Math.floor(readings.length / 2));
  const meanX = half.reduce((sum, one) => sum + one.done, 0) / half.length;
  const meanY = half.reduce((sum, one) => sum + of(one), 0) / half.length;
  let above = 0;
  let below = 0;
  for (const one of half) {
    above += (one.done - meanX) * (of(one) - meanY);
    below += (one.done - meanX) ** 2;
  }
  return above / below;
}

function summary(phases: readonly Phase[]): Table {
  return {
    title: "what is left behind",
    columns: ["", "count", "per second", "heap, bytes each", "malloc, bytes each", "resident, bytes each"],
    rows: phases.map(({ name, count, seconds, readings }) => [
      name,
      count.toLocaleString("en-US"),
      figure(count / seconds),
      slope(readings, (one) => one.heapBytes).toFixed(1),
      slope(readings, (one) => one.nativeBytes).toFixed(1),
      slope(readings, (one) => one.residentBytes).toFixed(1),
    ]),
  };
}

function course({ name, readings }: Phase): Table {
  const shown = readings.filter((_, i) => i % 4 === 0);
  const row = (label: string, of: (reading: Reading) => number): string[] => [
    label,
    ...shown.map((one) => (of(one) / 2 ** 20).toFixed(1)),
  ];
  return {
    title: `${name}: memory, MiB, after so many`,
    columns: ["", ...shown.map((one) => one.done.toLocaleString("en-US"))],
    rows: [
      row("heap", (one) => one.heapBytes),
      row("malloc", (one) => one.nativeBytes),
      row("resident", (one) => one.residentBytes),
    ],
  };
}
