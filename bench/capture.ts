/**
 * Copies what passes on an underlay port, as material for the flood generator: a packet socket in the namespace where it runs.
 *
 *   bin/weft-node bench/capture.ts --port 51820 --local 10.1.0.2 --count 400 --seconds 10 --out FILE
 *
 * FILE gets one JSON object: {"in": [hex, …], "out": [hex, …]}, UDP payloads by direction as seen from --local, each at most once.
 * Trains of segments (GSO) are left out, because a packet socket shows them as one large packet: let it watch pings. Prints `ready`.
 */
import { writeFileSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { Slab } from "../src/base/slab.ts";
import { libc } from "../src/sys/libc.ts";
import { slabAddress } from "../src/sys/memory.ts";

const AF_PACKET = 17;
/** Cooked: the packet begins with its IP header. */
const SOCK_DGRAM_NONBLOCK = 2 | 0o4000;
/** ETH_P_ALL in network order: ETH_P_IP would not show what leaves. */
const ALL_PROTOCOLS = 0x0300;
const UDP = 17;
const MAX_IP_BYTES = 1500;
const BUFFER_BYTES = 65_536;

export interface Captured {
  readonly in: readonly string[];
  readonly out: readonly string[];
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      port: { type: "string" },
      local: { type: "string" },
      count: { type: "string", default: "400" },
      seconds: { type: "string", default: "10" },
      out: { type: "string" },
    },
  });
  if (values.port === undefined || values.local === undefined || values.out === undefined)
    throw new Error("--port, --local and --out are needed");
  const slab = new Slab(BUFFER_BYTES + 4096);
  const buffer = slab.allocate(BUFFER_BYTES);
  const fd = libc.socket(AF_PACKET, SOCK_DGRAM_NONBLOCK, ALL_PROTOCOLS);
  if (fd < 0) throw new Error("a packet socket needs CAP_NET_RAW");
  writeSync(1, "ready\n");
  const seen = { in: new Set<string>(), out: new Set<string>() };
  const end = performance.now() + Number(values.seconds) * 1_000;
  const wanted = Number(values.count);
  while (performance.now() < end && Math.min(seen.in.size, seen.out.size) < wanted) {
    const bytes = libc.recv(fd, slabAddress(slab) + buffer, BUFFER_BYTES, 0);
    if (bytes < 0) {
      await new Promise((resolve) => setTimeout(resolve, 2));
      continue;
    }
    const { view, u8 } = slab;
    if (bytes > MAX_IP_BYTES || view.getUint8(buffer) !== 0x45 || view.getUint8(buffer + 9) !== UDP) continue;
    const ports = [view.getUint16(buffer + 20), view.getUint16(buffer + 22)];
    if (!ports.includes(Number(values.port))) continue;
    const source = `${u8[buffer + 12]}.${u8[buffer + 13]}.${u8[buffer + 14]}.${u8[buffer + 15]}`;
    const payload = Buffer.from(slab.buffer, buffer + 28, bytes - 28).toString("hex");
    const direction = source === values.local ? "out" : "in";
    if (seen[direction].size < wanted) seen[direction].add(payload);
  }
  libc.close(fd);
  writeFileSync(values.out, JSON.stringify({ in: [...seen.in], out: [...seen.out] } satisfies Captured));
}

if (import.meta.main) await main();
