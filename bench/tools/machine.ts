/** Where a benchmark ran: what a reader needs to judge its figures, and what else the machine was doing. */
import { readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { run, sleep } from "../../lab/process.ts";
import { machineTime, type MachineTime } from "./proc.ts";

export interface Machine {
  readonly processor: string;
  readonly processors: number;
  /** Instruction sets that matter to AEAD ciphers. */
  readonly extensions: readonly string[];
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  readonly openssl: string;
  readonly iperf3: string;
  readonly tcpCongestionControl: string;
  /** Largest socket buffer a program may ask for, bytes. */
  readonly socketBufferLimitBytes: number;
}

export async function describeMachine(): Promise<Machine> {
  const info = readFileSync("/proc/cpuinfo", "utf8");
  const flags = new Set((/^(?:flags|Features)\s*:\s*(.*)$/m.exec(info)?.[1] ?? "").split(" "));
  const setting = (name: string): string => {
    try {
      return readFileSync(`/proc/sys/${name}`, "utf8").trim();
    } catch {
      return "unknown";
    }
  };
  const iperf3 = (await run("iperf3", ["--version"]).catch(() => undefined))?.stdout.split("\n", 1)[0] ?? "missing";
  return {
    processor: cpus()[0]?.model ?? "unknown",
    processors: cpus().length,
    extensions: ["aes", "vaes", "pclmulqdq", "vpclmulqdq", "avx2", "avx512f", "pmull"].filter((flag) =>
      flags.has(flag),
    ),
    memoryBytes: totalmem(),
    kernel: `Linux ${release()}`,
    node: process.version,
    openssl: process.versions.openssl ?? "unknown",
    iperf3,
    tcpCongestionControl: setting("net/ipv4/tcp_congestion_control"),
    socketBufferLimitBytes: Number(setting("net/core/rmem_max")),
  };
}

export function machineLine(machine: Machine): string {
  const gib = (machine.memoryBytes / 2 ** 30).toFixed(0);
  return (
    `${machine.processors} × ${machine.processor} (${machine.extensions.join(", ")}), ${gib} GiB, ${machine.kernel}, ` +
    `Node ${machine.node} with OpenSSL ${machine.openssl}, ${machine.iperf3}, TCP ${machine.tcpCongestionControl}`
  );
}

/** Share of the machine that others may use before a run counts as disturbed, and share that the hypervisor may take away. */
const MAX_FOREIGN_LOAD = 0.05;
const MAX_STEAL = 0.02;

/** Watches what would make a run no measurement of the software: other work before it, stolen processor time during it. */
export class Disturbance {
  readonly #start = machineTime();
  readonly #foreignLoad: number;

  private constructor(foreignLoad: number) {
    this.#foreignLoad = foreignLoad;
  }

  /** Looks at the idle machine for a second. */
  static async begin(): Promise<Disturbance> {
    const before = machineTime();
    await sleep(1_000);
    return new Disturbance(share(before, (from, to) => to.busy - from.busy + to.steal - from.steal));
  }

  /** One line for each disturbance, for the report. */
  notes(): string[] {
    const notes: string[] = [];
    const percent = (value: number): string => `${(value * 100).toFixed(1)} %`;
    if (this.#foreignLoad > MAX_FOREIGN_LOAD)
      notes.push(`disturbed: ${percent(this.#foreignLoad)} of the machine was busy with other work before the start`);
    const steal = share(this.#start, (from, to) => to.steal - from.steal);
    if (steal > MAX_STEAL) notes.push(`disturbed: the hypervisor took ${percent(steal)} of the processors away`);
    return notes;
  }
}

/** Part of all processor time since `from`, 0–1. */
function share(from: MachineTime, part: (from: MachineTime, to: MachineTime) => number): number {
  const to = machineTime();
  const all = to.busy - from.busy + (to.idle - from.idle) + (to.steal - from.steal);
  return all > 0 ? part(from, to) / all : 0;
}
