/** What the kernel says about a process and about the machine: /proc readers. Source: proc(5). */
import { readFileSync } from "node:fs";
import { Unavailable } from "./reading.ts";

/** USER_HZ: the unit of every time in /proc, fixed at 100 in the kernel's interface on the supported architectures. */
const TICKS_PER_SECOND = 100;

function read(path: string, what: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    throw new Unavailable(`${what}: ${path} cannot be read (the process ended?)`);
  }
}

/** User and system time of the process with all its threads, living and ended, in seconds (10 ms steps). */
export function cpuSeconds(pid: number): number {
  const text = read(`/proc/${pid}/stat`, "processor time");
  // Field 2 is the name in parentheses and may hold spaces; field 3 follows the last parenthesis.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** Resident memory in bytes. */
export function residentBytes(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(read(`/proc/${pid}/status`, "resident memory"));
  if (match === null) throw new Unavailable("resident memory: no VmRSS (the process ended?)");
  return Number(match[1]) * 1024;
}

export function isAlive(pid: number): boolean {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    return text.charAt(text.lastIndexOf(")") + 2) !== "Z";
  } catch {
    return false;
  }
}

/** Machine-wide processor time since boot, seconds over all processors. */
export interface MachineTime {
  readonly busy: number;
  readonly idle: number;
  /** Taken away by the hypervisor. */
  readonly steal: number;
}

export function machineTime(): MachineTime {
  const fields = (readFileSync("/proc/stat", "utf8").split("\n", 1)[0] ?? "").trim().split(/\s+/).slice(1).map(Number);
  const [user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, softirq = 0, steal = 0] = fields;
  return {
    busy: (user + nice + system + irq + softirq) / TICKS_PER_SECOND,
    idle: (idle + wait) / TICKS_PER_SECOND,
    steal: steal / TICKS_PER_SECOND,
  };
}

export interface UdpSocket {
  readonly localPort: number;
  readonly remotePort: number;
  /** Bytes waiting in the receive queue. */
  readonly queuedBytes: number;
  /** Datagrams thrown away because the receive queue was full, since the socket was made. */
  readonly dropped: number;
}

/** The UDP sockets of the network namespace in which `pid` lives (both families). */
export function udpSockets(pid: number): UdpSocket[] {
  const sockets: UdpSocket[] = [];
  for (const table of ["udp", "udp6"]) {
    for (const line of read(`/proc/${pid}/net/${table}`, "UDP sockets").trim().split("\n").slice(1)) {
      const fields = line.trim().split(/\s+/);
      const port = (text: string | undefined): number => Number.parseInt(text?.split(":")[1] ?? "", 16);
      sockets.push({
        localPort: port(fields[1]),
        remotePort: port(fields[2]),
        queuedBytes: Number.parseInt(fields[4]?.split(":")[1] ?? "", 16),
        dropped: Number(fields.at(-1)),
      });
    }
  }
  return sockets;
}
