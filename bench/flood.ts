/**
 * Flood generator: sends hostile datagrams at a fixed rate to one UDP port, from the namespace where it runs.
 *
 *   bin/weft-node bench/flood.ts --target 10.1.0.2:51820 --kind mutated --rate 120000 --seconds 30 --capture FILE [--gso]
 *   bin/weft-node bench/flood.ts --target … --kind inits --static-key HEX --sources 10.66.0.0/16
 *
 * Kinds:
 *   random     any bytes, any length; half of them look like data packets by their first four bytes
 *   truncated  captured packets cut anywhere
 *   mutated    captured packets with one to eight bits changed, others at every sending
 *   replayed   captured packets towards the target, unchanged
 *   reflected  captured packets of the target itself, sent back to it
 *   inits      handshake inits whose mac1 is right and whose sender does not exist, each from another source address
 *   mixed      the first five in turn
 *
 * Many sources: `ip route add local PREFIX dev lo` makes this host own every address of a prefix; the source of each datagram is then
 * set in its PKTINFO. Without --gso every datagram is a packet of its own through the whole stack, as from a network card.
 * Prints `started`, then one JSON object with what the socket accepted.
 */
import { createHmac, hkdfSync, randomBytes } from "node:crypto";
import { readFileSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { parseAddress, parseEndpoint } from "../src/base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_LOCAL, NAME_PORT, NAME_REMOTE } from "../src/base/name.ts";
import { Slab } from "../src/base/slab.ts";
import { macKey } from "../src/crypto/cookie.ts";
import { openUdp } from "../src/sys/udp.ts";
import { DATA_TYPE } from "../src/wire/data.ts";
import { HANDSHAKE_INIT_BYTES, HANDSHAKE_INIT_TYPE, INIT_MAC1, MAC_BYTES } from "../src/wire/handshake-sizes.ts";
import type { Captured } from "./capture.ts";

export const FLOOD_KINDS = ["random", "truncated", "mutated", "replayed", "reflected", "inits", "mixed"] as const;
export type FloodKind = (typeof FLOOD_KINDS)[number];

/** What the generator reports at its end. */
export interface FloodResult {
  readonly kind: FloodKind;
  readonly sent: number;
  readonly seconds: number;
  readonly perSecond: number;
  /** Sends the socket refused because its buffer was full. */
  readonly refused: number;
}

const MAX_PAYLOAD_BYTES = 1_472;
const SEGMENTS = 32;
const BATCHES = 256;
const INITS = 8_192;
/** Longest sleep between two bursts; the rate is kept over the whole run. */
const TICK_MS = 1;

interface Batch {
  readonly offset: number;
  readonly segmentBytes: number;
  readonly segments: number;
  /** One more bit of every datagram changes at each sending, and the one before changes back. */
  readonly mutate: boolean;
  /** By segment: the bit that is changed now, −1 = none. */
  readonly changed: Int32Array;
}

class Generator {
  readonly #slab = new Slab(8 + BATCHES * SEGMENTS * (MAX_PAYLOAD_BYTES + 64) + (4 << 20));
  readonly #udp = openUdp({ slab: this.#slab, sockets: [{ family: 4, address: "0.0.0.0", port: 0 }], gro: false });
  readonly #name: number;
  #state = 0x9e3779b9;

  constructor(target: { readonly address: string; readonly port: number }) {
    const { slab, name } = { slab: this.#slab, name: this.#slab.allocate(NAME_BYTES) };
    slab.u8.set(parseAddress(target.address) as Uint8Array, name + NAME_REMOTE);
    slab.view.setUint16(name + NAME_PORT, target.port, true);
    slab.view.setUint8(name + NAME_FAMILY, 4);
    this.#name = name;
    this.#udp.setSendBuffer(4, 4 << 20);
  }

  /** xorshift32: cheap enough for every datagram, and that is all it is for. */
  #random(below: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state % below;
  }

  batches(
    kind: Exclude<FloodKind, "mixed">,
    count: number,
    capture: Captured | undefined,
    staticKey: Uint8Array | undefined,
  ): Batch[] {
    if (kind === "random") return Array.from({ length: count }, (_, index) => this.#randomBatch(index));
    if (kind === "inits") return this.#initBatches(staticKey);
    const source = (kind === "reflected" ? capture?.out : capture?.in)?.map((hex) => Buffer.from(hex, "hex")) ?? [];
    if (source.length === 0) throw new Error(`kind ${kind} needs a capture with packets of that direction`);
    return Array.from({ length: count }, () => this.#capturedBatch(kind, source));
  }

  #randomBatch(index: number): Batch {
    const segmentBytes = 1 + this.#random(MAX_PAYLOAD_BYTES);
    const offset = this.#slab.allocate(segmentBytes * SEGMENTS);
    for (let segment = 0; segment < SEGMENTS; segment++) {
      const bytes = randomBytes(segmentBytes);
      if (index % 2 === 0 && segmentBytes >= 4) bytes.writeUInt32LE(DATA_TYPE, 0);
      this.#slab.u8.set(bytes, offset + segment * segmentBytes);
    }
    return { offset, segmentBytes, segments: SEGMENTS, mutate: true, changed: new Int32Array(SEGMENTS).fill(-1) };
  }

  #capturedBatch(kind: FloodKind, source: readonly Buffer[]): Batch {
    const model = source[this.#random(source.length)];
    const segmentBytes = kind === "truncated" ? 1 + this.#random(model.length - 1) : model.length;
    // The segments of one train have one size, so a batch takes packets that are that long, or longer and cut.
    const alike = source.filter((packet) =>
      kind === "truncated" ? packet.length > segmentBytes : packet.length === segmentBytes,
    );
    const offset = this.#slab.allocate(segmentBytes * SEGMENTS);
    for (let segment = 0; segment < SEGMENTS; segment++) {
      const packet = alike[this.#random(alike.length)];
      this.#slab.u8.set(packet.subarray(0, segmentBytes), offset + segment * segmentBytes);
      if (kind !== "mutated") continue;
      for (let bits = 1 + this.#random(8); bits > 0; bits--)
        this.#flip(offset + segment * segmentBytes, this.#random(segmentBytes * 8));
    }
    return {
      offset,
      segmentBytes,
      segments: SEGMENTS,
      mutate: kind === "mutated",
      changed: new Int32Array(SEGMENTS).fill(-1),
    };
  }

  #initBatches(staticKey: Uint8Array | undefined): Batch[] {
    if (staticKey === undefined) throw new Error("kind inits needs --static-key");
    const key = macKey(staticKey);
    // Random-looking filling for all of them from one seed: true randomness for 8,192 messages would only take time.
    const filling = Buffer.from(hkdfSync("sha256", randomBytes(32), "", "flood", 8_160));
    return Array.from({ length: INITS }, () => {
      const init = Buffer.alloc(HANDSHAKE_INIT_BYTES);
      for (let at = 4; at < INIT_MAC1; at += 20) filling.copy(init, at, this.#random(8_000), 8_160);
      init.writeUInt32LE(HANDSHAKE_INIT_TYPE, 0);
      const mac = createHmac("sha256", key).update(init.subarray(0, INIT_MAC1)).digest();
      init.fill(0, INIT_MAC1);
      mac.copy(init, INIT_MAC1, 0, MAC_BYTES);
      const offset = this.#slab.allocate(HANDSHAKE_INIT_BYTES);
      this.#slab.u8.set(init, offset);
      return {
        offset,
        segmentBytes: HANDSHAKE_INIT_BYTES,
        segments: 1,
        mutate: false,
        changed: new Int32Array(1).fill(-1),
      };
    });
  }

  #flip(offset: number, bit: number): void {
    if (bit < 0) return;
    const at = offset + (bit >> 3);
    this.#slab.u8[at] = this.#slab.u8[at] ^ (1 << (bit & 7));
  }

  /** Moves the changed bit of every datagram elsewhere. */
  #mutate({ offset, segmentBytes, segments, changed }: Batch): void {
    for (let segment = 0; segment < segments; segment++) {
      const at = offset + segment * segmentBytes;
      this.#flip(at, changed[segment]);
      changed[segment] = this.#random(segmentBytes * 8);
      this.#flip(at, changed[segment]);
    }
  }

  /** Sends until the time is over. @param sources first address (u32) and number of source addresses */
  run(
    kind: FloodKind,
    batches: readonly Batch[],
    rate: number,
    seconds: number,
    gso: boolean,
    sources: { readonly first: number; readonly count: number } | undefined,
  ): FloodResult {
    const sleeper = new Int32Array(new SharedArrayBuffer(4));
    const start = performance.now();
    let sent = 0;
    let refused = 0;
    let next = 0;
    for (;;) {
      const elapsed = performance.now() - start;
      if (elapsed >= seconds * 1_000) break;
      const due = (elapsed / 1_000) * rate;
      if (sent >= due) {
        Atomics.wait(sleeper, 0, 0, TICK_MS);
        continue;
      }
      const batch = batches[next++ % batches.length];
      if (sources !== undefined) this.#setSource(sources.first + this.#random(sources.count));
      const accepted = this.#sendBatch(batch, gso);
      sent += accepted;
      if (accepted < batch.segments) {
        refused += batch.segments - accepted;
        Atomics.wait(sleeper, 0, 0, TICK_MS);
      }
    }
    const took = (performance.now() - start) / 1_000;
    return { kind, sent, seconds: took, perSecond: sent / took, refused };
  }

  /** @returns datagrams the socket accepted */
  #sendBatch(batch: Batch, gso: boolean): number {
    const { offset, segmentBytes, segments, mutate } = batch;
    if (mutate) this.#mutate(batch);
    if (gso && segments > 1)
      return this.#udp.send(offset, segmentBytes * segments, segmentBytes, this.#name) >= 0 ? segments : 0;
    let accepted = 0;
    for (let segment = 0; segment < segments; segment++) {
      if (this.#udp.send(offset + segment * segmentBytes, segmentBytes, segmentBytes, this.#name) >= 0) accepted++;
    }
    return accepted;
  }

  #setSource(address: number): void {
    const at = this.#name + NAME_LOCAL;
    this.#slab.view.setUint32(at + 8, 0xffff0000, true);
    this.#slab.view.setUint32(at + 12, address);
  }
}

function parsePrefix(text: string): { first: number; count: number } {
  const [address = "", bits = ""] = text.split("/");
  const bytes = parseAddress(address);
  const size = 2 ** (32 - Number(bits));
  if (bytes === undefined || !(size >= 1)) throw new Error(`${text} is no IPv4 prefix`);
  const first = new DataView(bytes.buffer, bytes.byteOffset).getUint32(12);
  // The first and the last address of a prefix are no hosts.
  return size > 2 ? { first: first + 1, count: size - 2 } : { first, count: size };
}

function main(): void {
  const { values } = parseArgs({
    options: {
      target: { type: "string" },
      kind: { type: "string", default: "random" },
      rate: { type: "string", default: "120000" },
      seconds: { type: "string", default: "30" },
      capture: { type: "string" },
      "static-key": { type: "string" },
      sources: { type: "string" },
      gso: { type: "boolean", default: false },
    },
  });
  const target = parseEndpoint(values.target ?? "");
  const kind = values.kind as FloodKind;
  if (target === undefined) throw new Error("--target ADDRESS:PORT is needed");
  if (!FLOOD_KINDS.includes(kind)) throw new Error(`--kind is one of ${FLOOD_KINDS.join(", ")}`);
  const capture =
    values.capture === undefined ? undefined : (JSON.parse(readFileSync(values.capture, "utf8")) as Captured);
  const staticKey = values["static-key"] === undefined ? undefined : Buffer.from(values["static-key"], "hex");
  const generator = new Generator(target);
  const kinds = kind === "mixed" ? (["random", "truncated", "mutated", "replayed", "reflected"] as const) : [kind];
  const count = Math.floor(BATCHES / kinds.length);
  const perKind = kinds.map((one) => generator.batches(one, count, capture, staticKey));
  const batches = Array.from({ length: perKind[0]?.length ?? 0 }, (_, index) =>
    perKind.map((one) => one[index]),
  ).flat();
  writeSync(1, "started\n");
  const result = generator.run(
    kind,
    batches,
    Number(values.rate),
    Number(values.seconds),
    values.gso,
    values.sources === undefined ? undefined : parsePrefix(values.sources),
  );
  writeSync(1, `${JSON.stringify(result)}\n`);
}

if (import.meta.main) main();
