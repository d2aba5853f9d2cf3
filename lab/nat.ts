/**
 * A network address translator as a program: packets come and go through one TUN device of a router's namespace.
 *
 *   bin/weft-node lab/nat.ts --device nat0 --inside 192.168.1.0/24 --outside 11.1.0.101 [--outside …]
 *     [--mapping M] [--filtering F] [--ports preserve|random] [--pooling paired|arbitrary] [--hairpin on|off]
 *     [--udp-timeout-ms N] [--inbound-refresh] [--seed N]          M, F: nat-model.ts, DEPENDENCES
 *
 * How packets come here (nat-sites.ts sets it up): what enters from the inside network is routed into the device by a rule, what
 * enters for an external address by a route: no external address belongs to the kernel, so nothing else answers for it. What is
 * translated goes back through the same device, and the router's main table takes it on.
 *
 * One JSON object per line on standard input; the end of standard input ends the program. Every line is answered by one line:
 *   {"show": true} → {"counters": {…}}       {"forget": true} → {"ok": true}: all mappings are lost, as after a restart
 */
import { writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { isIPv4Mapped, parseAddress } from "../src/base/endpoint.ts";
import { SeededRandom } from "../src/base/random.ts";
import { Slab } from "../src/base/slab.ts";
import { Ready, VNET_HEADER_BYTES } from "../src/dataplane/ports.ts";
import { libc } from "../src/sys/libc.ts";
import { slabAddress } from "../src/sys/memory.ts";
import { createPoll } from "../src/sys/poll.ts";
import { openTun } from "../src/sys/tun.ts";
import { DEPENDENCES, NatTable, type Dependence } from "./nat-model.ts";
import { NatTranslator, type Prefix4 } from "./nat-packet.ts";

/** Jumbo frames included. */
const MAX_PACKET_BYTES = 9_216;
const STDIN_BYTES = 4_096;
const MAX_LINE_BYTES = 65_536;
/** Packets of one turn, so that commands are never far away. */
const READ_BURST = 64;
const SWEEP_MS = 1_000;

function print(value: Record<string, unknown>): void {
  writeSync(1, `${JSON.stringify(value)}\n`);
}

function fail(message: string): never {
  process.stderr.write(`nat: ${message}\n`);
  process.exit(2);
}

/** @returns the address as an unsigned number */
function ipv4(text: string): number {
  const bytes = parseAddress(text);
  if (bytes === undefined || !isIPv4Mapped(bytes)) fail(`${text} is no IPv4 address`);
  return new DataView(bytes.buffer).getUint32(12);
}

function prefix(text: string): Prefix4 {
  const [address = "", length = ""] = text.split("/");
  const bits = Number(length);
  if (length === "" || !Number.isInteger(bits) || bits < 1 || bits > 32)
    fail(`${text} is no prefix such as 192.168.1.0/24`);
  const mask = (0xffffffff << (32 - bits)) >>> 0;
  return { address: (ipv4(address) & mask) >>> 0, mask };
}

function oneOf<T extends string>(option: string, text: string, known: readonly T[]): T {
  return known.find((one) => one === text) ?? fail(`--${option} ${text}: use ${known.join(" or ")}`);
}

function positive(option: string, text: string): number {
  const value = Number(text);
  return Number.isInteger(value) && value > 0 ? value : fail(`--${option} ${text} is no positive whole number`);
}

/** @returns the answer to one line */
function command(
  line: string,
  translator: NatTranslator,
  io: Readonly<Record<string, number>>,
): Record<string, unknown> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(line);
  } catch {
    return { error: "not JSON" };
  }
  if (typeof parsed !== "object" || parsed === null) return { error: "not an object" };
  const { show, forget } = parsed as Record<string, unknown>;
  if (show === true) return { counters: { ...translator.counters(), ...io } };
  if (forget !== true) return { error: 'neither "show" nor "forget"' };
  translator.table.forget();
  return { ok: true };
}

function main(): void {
  const { values } = parseArgs({
    options: {
      device: { type: "string", default: "nat0" },
      inside: { type: "string", multiple: true, default: [] },
      outside: { type: "string", multiple: true, default: [] },
      mapping: { type: "string", default: "endpoint-independent" },
      filtering: { type: "string", default: "address-and-port-dependent" },
      ports: { type: "string", default: "preserve" },
      pooling: { type: "string", default: "paired" },
      hairpin: { type: "string", default: "on" },
      "udp-timeout-ms": { type: "string", default: "120000" },
      "inbound-refresh": { type: "boolean", default: false },
      seed: { type: "string", default: "1" },
    },
  });
  const inside = values.inside.map(prefix);
  const externals = values.outside.map(ipv4);
  if (inside.length === 0 || externals.length === 0) fail("needs --inside PREFIX and --outside ADDRESS");
  const table = new NatTable(new SeededRandom(Number(values.seed)), externals, {
    mapping: oneOf<Dependence>("mapping", values.mapping, DEPENDENCES),
    filtering: oneOf<Dependence>("filtering", values.filtering, DEPENDENCES),
    ports: oneOf("ports", values.ports, ["preserve", "random"]),
    pooling: oneOf("pooling", values.pooling, ["paired", "arbitrary"]),
    hairpin: oneOf("hairpin", values.hairpin, ["on", "off"]) === "on",
    udpTimeoutMs: positive("udp-timeout-ms", values["udp-timeout-ms"]),
    inboundRefresh: values["inbound-refresh"],
  });
  const translator = new NatTranslator({ table }, externals, inside);
  run(values.device, translator);
}

/** Carries packets until standard input ends. */
function run(device: string, translator: NatTranslator): void {
  const slab = new Slab(65_536);
  const { u8, view } = slab;
  const tun = openTun({ name: device, slab, offload: false });
  const block = slab.allocate(VNET_HEADER_BYTES + MAX_PACKET_BYTES);
  const stdin = slab.allocate(STDIN_BYTES);
  const poll = createPoll({ slab }, { tun: tun.fd, wake: 0 });
  const io = { read: 0, written: 0, writeFailed: 0 };
  let rest = "";
  let sweepMs = performance.now() + SWEEP_MS;
  print({ ready: true });
  for (;;) {
    const ready = poll.wait(Ready.TUN | Ready.WAKE, SWEEP_MS);
    const nowMs = performance.now();
    for (let count = 0; (ready & Ready.TUN) !== 0 && count < READ_BURST; count++) {
      const bytes = tun.read(block, VNET_HEADER_BYTES + MAX_PACKET_BYTES);
      if (bytes < 0) break;
      io.read++;
      const at = block + VNET_HEADER_BYTES;
      const length = translator.translate(nowMs, u8, view, at, bytes - VNET_HEADER_BYTES);
      if (length === 0) continue;
      u8.fill(0, block, at);
      tun.beginWrite();
      tun.addPart(block, VNET_HEADER_BYTES + length);
      if (tun.commitWrite() > 0) io.written++;
      else io.writeFailed++;
    }
    if (nowMs >= sweepMs) {
      translator.table.sweep(nowMs);
      sweepMs = nowMs + SWEEP_MS;
    }
    if ((ready & Ready.WAKE) === 0) continue;
    const bytes = libc.read(0, slabAddress(slab) + stdin, STDIN_BYTES);
    if (bytes <= 0) return;
    const lines = (rest + Buffer.from(slab.buffer, stdin, bytes).toString("utf8")).split("\n");
    rest = (lines.pop() ?? "").slice(0, MAX_LINE_BYTES);
    for (const line of lines) if (line.trim() !== "") print(command(line, translator, io));
  }
}

if (import.meta.main) main();
