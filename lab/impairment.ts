/**
 * The impairment router: a program that carries packets between two or more TUN devices of one namespace and makes the way bad.
 *
 *   bin/weft-node lab/impairment.ts --seed 7 --device impa=10.1.0.0/24,fd57::/64 --device impb=10.2.0.0/24 [--address 10.1.0.2 …]
 *
 * How packets come here (topologies.ts sets it up; nothing else is needed): the router forwards, and a rule sends all that enters
 * through the veth of host A into TUN A (`ip rule iif eth0 lookup 100`, table 100: `default dev impa`). This program takes it from
 * TUN A, and what survives is written to the TUN whose prefix holds the destination: TUN B. For the kernel it arrives there, and
 * the main table takes it to host B. So A → B and B → A are two directions with settings of their own (link-model.ts).
 *
 *   TUN A read → output by longest prefix → LinkModel.admit() → heap by due time → TUN B write
 *
 * One JSON object per line on standard input changes settings or asks; the end of standard input ends the program:
 *   {"from": "impa", "to": "impb", "set": {"delayMs": 250, "loss": 0.01}}    either end may be left out: all directions that match
 *   {"show": true}
 * Every line is answered by one line on standard output: {"ok": true}, {"error": "…"} or {"counters": {"impa>impb": {…}}}.
 *
 * Offloads are off on the devices, so the kernel hands out single packets, segmented and with complete checksums. Memory is fixed at
 * start: a packet that finds no block free is dropped and counted as `full`. Packets in = written + all drops + those under way.
 */
import { writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { parseAddress } from "../src/base/endpoint.ts";
import { Drop } from "../src/base/drop.ts";
import { SeededRandom } from "../src/base/random.ts";
import { BlockPool, Slab } from "../src/base/slab.ts";
import { VNET_HEADER_BYTES } from "../src/dataplane/ports.ts";
import { libc } from "../src/sys/libc.ts";
import { setU64, slabAddress } from "../src/sys/memory.ts";
import { openTun, type Tun } from "../src/sys/tun.ts";
import { buildIcmpError, ICMP_ERROR_MAX_BYTES, IcmpError } from "../src/wire/icmp.ts";
import { decodeIp, IpPacket } from "../src/wire/ip.ts";
import { IPV4_DESTINATION } from "../src/wire/ipv4.ts";
import { IPV6_DESTINATION } from "../src/wire/ipv6.ts";
import { DueHeap, Fate, LinkModel, settingsProblem } from "./link-model.ts";

/** One turn reads at most this many packets of one device, so that writing what is due is never far away. */
const READ_BURST = 64;
const MAX_LINE_BYTES = 65_536;
const STDIN_BYTES = 4_096;
const POLLFD_BYTES = 8;
const POLLIN = 1;
/** The kernel's poll granularity is far finer, but a batch now and then is cheaper than a wake-up for every packet. */
const LONGEST_WAIT_MS = 1_000;

interface Prefix {
  readonly bytes: Uint8Array;
  readonly bits: number;
}

interface Device {
  readonly tun: Tun;
  readonly prefixes: readonly Prefix[];
  /** links[i]: the direction to device i; undefined for itself. */
  readonly links: (LinkModel | undefined)[];
}

interface RouterOptions {
  readonly seed: number;
  readonly devices: readonly { readonly name: string; readonly prefixes: readonly Prefix[] }[];
  /** Where ICMP errors come from: 16 bytes each, v4-mapped for IPv4. */
  readonly addresses: readonly Uint8Array[];
  /** Largest IP packet that a device may hand out. */
  readonly maxPacketBytes: number;
  readonly maxPackets: number;
}

class ImpairmentRouter {
  readonly #slab: Slab;
  readonly #pool: BlockPool;
  readonly #heap: DueHeap;
  readonly #devices: Device[] = [];
  /** By block number: bytes of the packet with its vnet header, and the device it goes to. */
  readonly #bytes: Int32Array;
  readonly #output: Uint8Array;
  readonly #packet: IpPacket = new IpPacket();
  readonly #icmp: number;
  readonly #from: Readonly<Record<4 | 6, number>>;
  readonly #blockBytes: number;
  readonly #pollfds: number;
  readonly #timespec: number;
  readonly #stdin: number;
  #line = "";
  #written = 0;
  #writeFailed = 0;
  #full = 0;
  #noRoute = 0;
  #malformed = 0;
  #icmpSent = 0;

  constructor(options: RouterOptions) {
    this.#blockBytes = (VNET_HEADER_BYTES + options.maxPacketBytes + 63) & ~63;
    const fixed = 65_536 + 4_096 * options.devices.length;
    this.#slab = new Slab(this.#blockBytes * options.maxPackets + fixed);
    const slab = this.#slab;
    this.#icmp = slab.allocate(VNET_HEADER_BYTES + ICMP_ERROR_MAX_BYTES);
    this.#from = { 4: slab.allocate(16), 6: slab.allocate(16) };
    for (const address of options.addresses) {
      const mapped = isMapped(address);
      slab.u8.set(mapped ? address.subarray(12) : address, this.#from[mapped ? 4 : 6]);
    }
    this.#pollfds = slab.allocate((options.devices.length + 1) * POLLFD_BYTES);
    this.#timespec = slab.allocate(16);
    this.#stdin = slab.allocate(STDIN_BYTES);
    const random = new SeededRandom(options.seed);
    for (const { name, prefixes } of options.devices) {
      this.#devices.push({ tun: openTun({ name, slab, offload: false }), prefixes, links: [] });
    }
    for (const [i, device] of this.#devices.entries()) {
      // A generator of its own for every direction: what happens in one does not change the fate of packets in another.
      for (const j of this.#devices.keys())
        device.links.push(i === j ? undefined : new LinkModel(new SeededRandom(random.u32())));
    }
    this.#pool = new BlockPool(slab, this.#blockBytes, options.maxPackets);
    this.#heap = new DueHeap(options.maxPackets);
    const blocks = Math.ceil(slab.u8.length / this.#blockBytes) + 1;
    this.#bytes = new Int32Array(blocks);
    this.#output = new Uint8Array(blocks);
    this.#arm();
  }

  /** Carries packets until standard input ends. */
  run(): void {
    const view = this.#slab.view;
    const address = slabAddress(this.#slab);
    const stdinAt = this.#pollfds + this.#devices.length * POLLFD_BYTES;
    for (;;) {
      const nowMs = performance.now();
      this.#release(nowMs);
      const waitMs = Math.max(0, Math.min(LONGEST_WAIT_MS, this.#heap.nextDueMs - nowMs));
      const nanoseconds = Math.ceil(waitMs * 1e6);
      setU64(view, this.#timespec, Math.floor(nanoseconds / 1e9));
      setU64(view, this.#timespec + 8, nanoseconds % 1e9);
      if (libc.ppoll(address + this.#pollfds, this.#devices.length + 1, address + this.#timespec, 0) <= 0) continue;
      for (const [index, device] of this.#devices.entries()) {
        if (view.getUint16(this.#pollfds + index * POLLFD_BYTES + 6, true) !== 0) this.#take(index, device);
      }
      if (view.getUint16(stdinAt + 6, true) !== 0 && !this.#readCommands(address)) return;
    }
  }

  #arm(): void {
    const { view } = this.#slab;
    for (const [index, { tun }] of this.#devices.entries()) {
      view.setInt32(this.#pollfds + index * POLLFD_BYTES, tun.fd, true);
      view.setUint16(this.#pollfds + index * POLLFD_BYTES + 4, POLLIN, true);
    }
    // Descriptor 0 is already there: zero.
    view.setUint16(this.#pollfds + this.#devices.length * POLLFD_BYTES + 4, POLLIN, true);
  }

  /** Reads what a device has and decides its fate. */
  #take(input: number, device: Device): void {
    const nowMs = performance.now();
    for (let count = 0; count < READ_BURST; count++) {
      const block = this.#pool.take();
      if (block === 0) {
        // Read it all the same, into a spare place: a device that is not read would drop without a count.
        if (device.tun.read(this.#icmp, VNET_HEADER_BYTES + ICMP_ERROR_MAX_BYTES) < 0) return;
        this.#full++;
        continue;
      }
      const bytes = device.tun.read(block, this.#blockBytes);
      if (bytes < 0) {
        this.#pool.give(block);
        return;
      }
      if (!this.#admit(nowMs, input, device, block, bytes)) this.#pool.give(block);
    }
  }

  /** @returns false when the block is free again */
  #admit(nowMs: number, input: number, device: Device, block: number, bytes: number): boolean {
    const { view, u8 } = this.#slab;
    const packet = this.#packet;
    if (decodeIp(view, block + VNET_HEADER_BYTES, bytes - VNET_HEADER_BYTES, packet) !== Drop.NONE) {
      this.#malformed++;
      return false;
    }
    const output = this.#route(input, packet);
    const link = output < 0 ? undefined : device.links[output];
    if (link === undefined) {
      this.#noRoute++;
      return false;
    }
    switch (link.admit(nowMs, packet.totalBytes)) {
      case Fate.TOO_BIG:
        if (link.settings.mtuIcmp) this.#answerTooBig(device, link.settings.mtuBytes);
        return false;
      case Fate.TWICE: {
        const copy = this.#pool.take();
        if (copy === 0) this.#full++;
        else {
          u8.copyWithin(copy, block, block + bytes);
          this.#hold(link.dueMs, copy, bytes, output);
        }
        break;
      }
      case Fate.DELIVER:
        break;
      default:
        return false;
    }
    this.#hold(link.dueMs, block, bytes, output);
    return true;
  }

  #hold(dueMs: number, block: number, bytes: number, output: number): void {
    const number = Math.floor(block / this.#blockBytes);
    this.#bytes[number] = bytes;
    this.#output[number] = output;
    // The heap has room for every block there is.
    this.#heap.push(dueMs, block);
  }

  #release(nowMs: number): void {
    while (this.#heap.nextDueMs <= nowMs) {
      const block = this.#heap.pop();
      const number = Math.floor(block / this.#blockBytes);
      const device = this.#devices[this.#output[number]];
      if (device !== undefined && this.#write(device.tun, block, this.#bytes[number])) this.#written++;
      else this.#writeFailed++;
      this.#pool.give(block);
    }
  }

  #write(tun: Tun, offset: number, bytes: number): boolean {
    this.#slab.u8.fill(0, offset, offset + VNET_HEADER_BYTES);
    tun.beginWrite();
    tun.addPart(offset, bytes);
    return tun.commitWrite() === bytes;
  }

  #answerTooBig(device: Device, mtuBytes: number): void {
    const { u8, view } = this.#slab;
    const packet = this.#packet;
    const own = this.#from[packet.version === 4 ? 4 : 6];
    // Without an address of its own the router answers in the name of the destination.
    const isSet = u8[own] !== 0;
    const from = isSet ? own : packet.offset + (packet.version === 4 ? IPV4_DESTINATION : IPV6_DESTINATION);
    const bytes = buildIcmpError(u8, view, packet, IcmpError.TOO_BIG, mtuBytes, from, this.#icmp + VNET_HEADER_BYTES);
    if (bytes > 0 && this.#write(device.tun, this.#icmp, VNET_HEADER_BYTES + bytes)) this.#icmpSent++;
  }

  /** @returns index of the other device whose longest prefix holds the destination; −1 when none does */
  #route(input: number, packet: IpPacket): number {
    const { u8 } = this.#slab;
    const v4 = packet.version === 4;
    const at = packet.offset + (v4 ? IPV4_DESTINATION : IPV6_DESTINATION);
    let best = -1;
    let bestBits = -1;
    for (let index = 0; index < this.#devices.length; index++) {
      if (index === input) continue;
      for (const prefix of this.#devices[index].prefixes) {
        const bits = v4 ? prefix.bits - 96 : prefix.bits;
        if (isMapped(prefix.bytes) === v4 && bits > bestBits && matches(u8, at, prefix.bytes, v4 ? 12 : 0, bits)) {
          best = index;
          bestBits = bits;
        }
      }
    }
    return best;
  }

  /** @returns false at the end of standard input */
  #readCommands(address: number): boolean {
    const bytes = libc.read(0, address + this.#stdin, STDIN_BYTES);
    if (bytes <= 0) return false;
    this.#line += Buffer.from(this.#slab.buffer, this.#stdin, bytes).toString("utf8");
    const lines = this.#line.split("\n");
    this.#line = (lines.pop() ?? "").slice(0, MAX_LINE_BYTES);
    for (const line of lines) if (line.trim() !== "") print(this.#command(line));
    return true;
  }

  #command(line: string): Record<string, unknown> {
    let command: unknown;
    try {
      command = JSON.parse(line);
    } catch {
      return { error: "not JSON" };
    }
    if (typeof command !== "object" || command === null) return { error: "not an object" };
    const { from, to, set, show } = command as Record<string, unknown>;
    if (show === true) return { counters: this.counters() };
    if (typeof set !== "object" || set === null) return { error: 'neither "set" nor "show"' };
    const problem = settingsProblem(set as Record<string, unknown>);
    if (problem !== undefined) return { error: problem };
    let changed = 0;
    for (const [i, device] of this.#devices.entries()) {
      for (const [j, link] of device.links.entries()) {
        const matchesFrom = from === undefined || from === this.#devices[i]?.tun.name;
        const matchesTo = to === undefined || to === this.#devices[j]?.tun.name;
        if (link === undefined || !matchesFrom || !matchesTo) continue;
        link.change(set);
        changed++;
      }
    }
    return changed === 0 ? { error: `no direction from ${String(from)} to ${String(to)}` } : { ok: true };
  }

  counters(): Record<string, unknown> {
    const directions: Record<string, unknown> = {};
    for (const [i, device] of this.#devices.entries()) {
      for (const [j, link] of device.links.entries()) {
        if (link !== undefined)
          directions[`${this.#devices[i].tun.name}>${this.#devices[j].tun.name}`] = link.counters();
      }
    }
    return {
      ...directions,
      router: {
        underWay: this.#heap.size,
        written: this.#written,
        writeFailed: this.#writeFailed,
        full: this.#full,
        noRoute: this.#noRoute,
        malformed: this.#malformed,
        icmpSent: this.#icmpSent,
      },
    };
  }
}

function isMapped(bytes: Uint8Array): boolean {
  return bytes[10] === 0xff && bytes[11] === 0xff && bytes.subarray(0, 10).every((byte) => byte === 0);
}

function matches(u8: Uint8Array, at: number, prefix: Uint8Array, from: number, bits: number): boolean {
  let left = bits;
  for (let index = 0; left > 0; index++, left -= 8) {
    const shift = Math.max(0, 8 - left);
    if (u8[at + index] >>> shift !== prefix[from + index] >>> shift) return false;
  }
  return true;
}

function parsePrefix(text: string): Prefix | undefined {
  const [address = "", length = ""] = text.split("/");
  const bytes = parseAddress(address);
  const bits = Number(length);
  if (bytes === undefined || length === "" || !Number.isInteger(bits)) return undefined;
  const full = isMapped(bytes) ? bits + 96 : bits;
  return full >= 0 && full <= 128 ? { bytes, bits: full } : undefined;
}

function print(value: Record<string, unknown>): void {
  writeSync(1, `${JSON.stringify(value)}\n`);
}

function fail(message: string): never {
  process.stderr.write(`impairment: ${message}\n`);
  process.exit(2);
}

function main(): void {
  const { values } = parseArgs({
    options: {
      seed: { type: "string", default: "1" },
      device: { type: "string", multiple: true, default: [] },
      address: { type: "string", multiple: true, default: [] },
      "max-packet": { type: "string", default: "1500" },
      "max-packets": { type: "string", default: "32768" },
    },
  });
  const devices = values.device.map((text) => {
    const [name = "", list = ""] = text.split("=");
    const prefixes = list
      .split(",")
      .map((one) => parsePrefix(one) ?? fail(`--device ${text}: ${one || "nothing"} is no prefix such as 10.1.0.0/24`));
    return { name, prefixes };
  });
  if (devices.length < 2) fail("needs at least two --device NAME=PREFIX[,PREFIX…]");
  const addresses = values.address.map((text) => parseAddress(text) ?? fail(`--address ${text} is no address`));
  const router = new ImpairmentRouter({
    seed: Number(values.seed),
    devices,
    addresses,
    maxPacketBytes: Number(values["max-packet"]),
    maxPackets: Number(values["max-packets"]),
  });
  print({ ready: true });
  router.run();
  print({ counters: router.counters() });
}

if (import.meta.main) main();
