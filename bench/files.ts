/**
 * `bench files`: a large file from one node to another over loopback, each in a process of its own, against one long stream over bare QUIC
 * (the same stream endpoints with nothing below or above them: datagrams over a local socket that never loses any), in one interleaved run.
 */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { mkdtempSync, openSync, closeSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { fileURLToPath } from "node:url";
import { describeMachine } from "./tools/machine.ts";
import { type OutputOptions, publish } from "./tools/report.ts";
import { median } from "./tools/statistics.ts";

export interface FilesBenchOptions extends OutputOptions {
  readonly megabytes: number;
  readonly rounds: number;
  readonly command: string;
}

interface Answer {
  readonly error?: string;
  readonly seconds: number;
  readonly token: string;
  readonly id: string;
}

class Host {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  constructor() {
    const host = fileURLToPath(new URL("file-host.ts", import.meta.url));
    const node = fileURLToPath(new URL("../bin/weft-node", import.meta.url));
    this.#child = spawn(node, [host], { stdio: ["pipe", "pipe", "pipe"] });
    this.#child.stderr.pipe(process.stderr);
    this.#reader = createInterface({ input: this.#child.stdout });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  async ask(request: object): Promise<Answer> {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error("the other process has ended");
    const answer = JSON.parse(value) as Answer;
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  close(): void {
    this.#child.stdin.end();
  }
}

export async function runFiles(options: FilesBenchOptions): Promise<void> {
  const startedAt = new Date().toISOString();
  const folder = mkdtempSync(join(tmpdir(), "weft-bench-files-"));
  const hosts = Array.from({ length: 4 }, () => new Host());
  try {
    const [sender, receiver, one, two] = hosts;
    const bytes = options.megabytes * 1e6;
    const path = join(folder, "file");
    writeRandom(path, bytes);
    const socket = join(folder, "bare.sock");
    await receiver.ask({ listen: socket, seed: 1, other: 2 });
    await sender.ask({ connect: socket, seed: 2, other: 1 });
    const { token } = await one.ask({ start: null, folder, name: "one" });
    await two.ask({ start: token, folder, name: "two" });
    const { id, seconds: hashing } = await one.ask({ share: path });
    const bare: number[] = [];
    const files: number[] = [];
    const processors: number[][] = [[], []];
    // the first of each warms up
    for (let round = 0; round <= options.rounds; round++) {
      const bareSeconds = (await sender.ask({ send: bytes })).seconds;
      const before = await Promise.all([one, two].map((host) => host.ask({ cpu: true })));
      const fileSeconds = (await two.ask({ get: id, from: "one", path: join(folder, `got-${round}`) })).seconds;
      const after = await Promise.all([one, two].map((host) => host.ask({ cpu: true })));
      rmSync(join(folder, `got-${round}`));
      if (round === 0) continue;
      bare.push((bytes * 8) / bareSeconds / 1e6);
      files.push((bytes * 8) / fileSeconds / 1e6);
      after.forEach(({ seconds }, i) => processors[i].push(((seconds - before[i].seconds) * 1e9) / bytes));
    }
    const rate = (values: readonly number[]): string => Math.round(median(values)).toLocaleString("en-US");
    publish(
      {
        name: "files",
        startedAt,
        machine: await describeMachine(),
        command: options.command,
        tables: [
          {
            title: `one file of ${options.megabytes} MB from node to node over loopback, medians of ${options.rounds}`,
            columns: ["", "Mbit/s", "of bare QUIC", "processor s/GB, sender", "receiver"],
            rows: [
              ["bare QUIC, one stream", rate(bare), "", "", ""],
              [
                "weft files",
                rate(files),
                `${Math.round((100 * median(files)) / median(bare))} %`,
                median(processors[0]).toFixed(1),
                median(processors[1]).toFixed(1),
              ],
              ["hashing before sharing", rate([(bytes * 8) / hashing / 1e6]), "", "", ""],
            ],
          },
        ],
        notes: [
          "four processes: two ends of bare QUIC, two nodes without an interface on loopback UDP; only one pair works at a time",
          "a file counts as there when every chunk is verified, it is synced to disk and has its name",
        ],
        notCompared: [],
        data: { bare, files, processors, hashing },
      },
      options,
    );
  } finally {
    for (const host of hosts) host.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function writeRandom(path: string, bytes: number): void {
  const piece = Buffer.alloc(1 << 20);
  const file = openSync(path, "w");
  for (let written = 0; written < bytes; written += piece.length) {
    randomFillSync(piece);
    writeSync(file, piece, 0, Math.min(piece.length, bytes - written));
  }
  closeSync(file);
}
