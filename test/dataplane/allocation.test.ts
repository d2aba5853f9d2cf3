/**
 * The allocation budget of the packet path: none. Ports that cost nothing stand in for the machine, so that what the heap grows by is what
 * the data plane itself allocates for each packet.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parseAddress } from "../../src/base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY } from "../../src/base/name.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { Slab } from "../../src/base/slab.ts";
import { Coalescer } from "../../src/dataplane/coalesce.ts";
import { Inbound } from "../../src/dataplane/inbound.ts";
import { Outbound } from "../../src/dataplane/outbound.ts";
import { PeerState } from "../../src/dataplane/peer.ts";
import type { AeadPort, TunPort, UdpError, UdpPort } from "../../src/dataplane/ports.ts";
import { PacketQueues } from "../../src/dataplane/queues.ts";
import { RouteTable } from "../../src/dataplane/routes.ts";
import { Counter, PlaneStats, createStatsMemory } from "../../src/dataplane/stats.ts";
import { PeerPaths } from "../../src/path/peer-paths.ts";
import { EpochTable } from "../../src/session/epochs.ts";
import { Cipher } from "../../src/session/types.ts";
import { finish } from "./kernel-reference.ts";

const OWN = "100.64.0.1";
const PEER = "100.64.0.2";
const SEGMENTS = 40;
const SEGMENT_BYTES = 1_360;
const KEY = 5;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** Hands out the same super-packet as often as asked; swallows writes. */
class LoopTun implements TunPort {
  readonly offloads = 0x67;
  left = 0;
  written = 0;
  readonly #slab: Slab;
  readonly #template: Uint8Array;

  constructor(slab: Slab, template: Uint8Array) {
    this.#slab = slab;
    this.#template = template;
  }
  read(offset: number): number {
    if (this.left === 0) return -11;
    this.left--;
    this.#slab.u8.set(this.#template, offset);
    return this.#template.length;
  }
  beginWrite(): void {
    this.written = 0;
  }
  addPart(_offset: number, bytes: number): void {
    this.written += bytes;
  }
  commitWrite(): number {
    return this.written;
  }
}

/** What is sent comes in again: one train at a time. */
class LoopUdp implements UdpPort {
  readonly messageOffset: Int32Array = new Int32Array(16);
  readonly messageBytes: Int32Array = new Int32Array(16);
  readonly messageSegmentBytes: Int32Array = new Int32Array(16);
  readonly messageName: Int32Array = new Int32Array(16);
  readonly overflowed: Float64Array = new Float64Array(2);
  readonly error: UdpError = { errno: 0, origin: 0, info: 0, name: 0 };
  readonly #slab: Slab;
  readonly #buffer: number;
  #full = false;
  inbound: Inbound | undefined = undefined;

  constructor(slab: Slab) {
    this.#slab = slab;
    this.#buffer = slab.allocate(65_536 + 64) + 64;
  }
  send(offset: number, bytes: number, segmentBytes: number, name: number): number {
    this.#slab.u8.copyWithin(this.#buffer, offset, offset + bytes);
    this.messageOffset[0] = this.#buffer;
    this.messageBytes[0] = bytes;
    this.messageSegmentBytes[0] = segmentBytes;
    this.messageName[0] = name;
    this.#full = true;
    this.inbound?.drain(4, 2);
    return bytes;
  }
  receive(): number {
    if (!this.#full) return -11;
    this.#full = false;
    return 1;
  }
  setGro(): void {}
  setSendBuffer(): void {}
  takeError(): number {
    return 0;
  }
}

/** Moves bytes and believes everything. */
class FreeAead implements AeadPort {
  readonly #u8: Uint8Array;
  constructor(slab: Slab) {
    this.#u8 = slab.u8;
  }
  create(): number {
    return 1;
  }
  destroy(): void {}
  seal(_handle: number, _low: number, _high: number, source: number, bytes: number, target: number): void {
    this.#u8.copyWithin(target, source, source + bytes);
  }
  open(): boolean {
    return true;
  }
}

function superPacket(): Uint8Array {
  const packet = new Uint8Array(40 + SEGMENTS * SEGMENT_BYTES);
  const view = new DataView(packet.buffer);
  packet[0] = 0x45;
  view.setUint16(6, 0x4000);
  packet[8] = 64;
  packet[9] = 6;
  packet.set((parseAddress(OWN) as Uint8Array).subarray(12), 12);
  packet.set((parseAddress(PEER) as Uint8Array).subarray(12), 16);
  packet[32] = 0x50;
  packet[33] = 0x10;
  finish(packet);
  const framed = new Uint8Array(10 + packet.length);
  framed.set(packet, 10);
  framed[0] = 1;
  framed[1] = 1;
  const vnet = new DataView(framed.buffer);
  vnet.setUint16(4, SEGMENT_BYTES, true);
  vnet.setUint16(6, 20, true);
  vnet.setUint16(8, 16, true);
  return framed;
}

test("a packet costs no allocation, neither on its way out nor on its way in", () => {
  const slab = new Slab(32 << 20);
  const tun = new LoopTun(slab, superPacket());
  const udp = new LoopUdp(slab);
  const aead = new FreeAead(slab);
  const stats = new PlaneStats(createStatsMemory(2));
  const epochs = new EpochTable(aead, { maxPeers: 2 });
  const paths = new PeerPaths({ slab, random: new SeededRandom(1) }, { localMtuBytes: 1_500 });
  const name = slab.allocate(NAME_BYTES);
  slab.u8.set(parseAddress("10.0.0.2") as Uint8Array, name);
  slab.u8[name + NAME_FAMILY] = 4;
  paths.confirm(1, name);
  const peer = new PeerState(0, new Uint8Array(32), paths, stats.peerRow(0));
  peer.maxPacketBytes = 1_436;
  const peers = [peer, undefined];
  epochs.install(0, 0, {
    epochId: 1,
    localIndex: KEY,
    remoteIndex: KEY,
    cipher: Cipher.AES_256_GCM,
    sendKey: new Uint8Array(32),
    receiveKey: new Uint8Array(32),
    hybrid: true,
    userData: true,
    initiator: true,
    remoteCapabilities: 2,
    remoteMtuBytes: 1_500,
  });
  peer.sendEpoch = epochs.activate(0, 1);
  const everything = new RouteTable(4);
  everything.load([{ prefix: parseAddress("100.64.0.0") as Uint8Array, prefixBits: 106, peer: 0 }]);
  const outbound = new Outbound({
    slab,
    tun,
    udp,
    aead,
    stats,
    queues: new PacketQueues(slab, stats, 2_044),
    epochs,
    routes: everything,
    peers,
    needSession: () => {},
    wantRekey: () => {},
    icmpError: () => {},
    tooBig: () => {},
    rescheduled: () => {},
    sendFragments: () => {},
  });
  const coalescer = new Coalescer(
    { u8: slab.u8, view: slab.view, tun, stats, waitWritable: () => {} },
    { tcp: true, udp: true },
  );
  udp.inbound = new Inbound({
    slab,
    udp,
    aead,
    stats,
    epochs,
    routes: everything,
    local: everything,
    peers,
    coalescer,
    handshake: () => {},
    inner: () => {},
    proof: () => {},
    arrived: () => {},
  });
  const inbound = udp.inbound;
  const run = (reads: number): void => {
    for (let i = 0; i < reads; i++) {
      outbound.nowMs += 0.01;
      inbound.nowMs = outbound.nowMs;
      tun.left = 1;
      outbound.drainTun(2, 1 << 20);
    }
  };
  // the optimiser gets its time, then the heap is measured over 80,000 packets with no collection in between
  run(4_000);
  let bytesPerPacket = Infinity;
  for (let attempt = 0; attempt < 5 && bytesPerPacket > 4; attempt++) {
    collect();
    const before = process.memoryUsage().heapUsed;
    run(2_000);
    bytesPerPacket = Math.min(bytesPerPacket, (process.memoryUsage().heapUsed - before) / (2_000 * SEGMENTS));
  }
  assert.equal(stats.get(Counter.rxPackets), stats.get(Counter.txPackets));
  assert.ok(stats.get(Counter.txPackets) >= 6_000 * SEGMENTS);
  // the clock's value is boxed a few times for each train of 40; an object or a number for each packet would be 16 bytes and more
  assert.ok(bytesPerPacket < 4, `${bytesPerPacket.toFixed(2)} bytes a packet`);
});
