/**
 * The allocation budget of the packet path: none, direct, through a via or forwarded for others. Ports that cost nothing stand in for the machine, so that what the heap grows by is what
 * the data plane itself allocates for each packet.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parseAddress, VirtualType, virtualEndpoint } from "../../src/base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, writeName } from "../../src/base/name.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { Slab } from "../../src/base/slab.ts";
import { Coalescer } from "../../src/dataplane/coalesce.ts";
import { Forward, Via } from "../../src/dataplane/vias.ts";
import { VirtualPaths } from "../../src/dataplane/virtual.ts";
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
  openExtra(): number {
    return 0;
  }
  closeExtra(): void {}
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

/** How the peer is reached. */
type Way = "direct" | "via" | "forwarded";
const LABEL = 0xfedcba98;
const ONWARD = 0x87654321;

/** @returns heap growth in bytes for each packet that goes out and comes in again */
function bytesPerPacket(way: Way): number {
  const slab = new Slab(32 << 20);
  const tun = new LoopTun(slab, superPacket());
  const udp = new LoopUdp(slab);
  const aead = new FreeAead(slab);
  const stats = new PlaneStats(createStatsMemory(3));
  const epochs = new EpochTable(aead, { maxPeers: 3 });
  const name = slab.allocate(NAME_BYTES);
  // peer 0 is who we talk to, peer 1 the hop when there is one, peer 2 the one behind it
  const peers = [0, 1, 2].map((slot) => {
    const paths = new PeerPaths({ slab, random: new SeededRandom(slot + 1) }, { localMtuBytes: 1_600 });
    slab.u8.fill(0, name, name + NAME_BYTES);
    slab.u8.set(parseAddress(`10.0.0.${slot + 2}`) as Uint8Array, name);
    slab.u8[name + NAME_FAMILY] = 4;
    if (slot === 0 && way !== "direct") writeName(slab.u8, virtualEndpoint(VirtualType.LABEL, 2, 1), name);
    paths.confirm(1, name);
    const peer = new PeerState(slot, new Uint8Array(32), paths, stats.peerRow(slot));
    peer.maxPacketBytes = slot === 0 ? 1_436 : 1_500;
    epochs.install(0, slot, {
      epochId: 1,
      localIndex: KEY + slot,
      remoteIndex: KEY + slot,
      cipher: Cipher.AES_256_GCM,
      sendKey: new Uint8Array(32),
      receiveKey: new Uint8Array(32),
      hybrid: true,
      userData: true,
      initiator: true,
      remoteCapabilities: 2,
      remoteMtuBytes: 1_600,
    });
    peer.sendEpoch = epochs.activate(slot, 1);
    return peer;
  });
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
    virtual: (offset, bytes, segmentBytes, to) => virtual.send(offset, bytes, segmentBytes, to),
  });
  const coalescer = new Coalescer(
    { u8: slab.u8, view: slab.view, tun, stats, waitWritable: () => {} },
    { tcp: true, udp: true },
  );
  const inbound = new Inbound({
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
    transit: (peer, epoch, flags, payload, bytes, from) => virtual.transit(peer, epoch, flags, payload, bytes, from),
    proof: () => {},
    arrived: () => {},
  });
  const virtual = new VirtualPaths({
    slab,
    stats,
    random: new SeededRandom(9),
    peers,
    sender: outbound.sender,
    sealer: outbound.sealer,
    emit: () => true,
    eventLoad: () => 0,
    needSession: () => {},
    wantRekey: () => {},
    tooBig: () => {},
    rescheduled: () => {},
    sendFragments: () => false,
    sendInner: () => false,
    nested: (offset, bytes, from) => inbound.nested(offset, bytes, from),
    endRun: () => inbound.endRun(),
    received: () => {},
    pathFailed: () => {},
    pathGone: () => {},
  });
  // what goes out under a label comes in under the same one: to end here, or to go on to peer 2 and come in once more
  if (way === "via") assert.ok(virtual.vias.addVia(new Via(1, 1, LABEL, LABEL, 2)));
  if (way === "forwarded") {
    assert.ok(virtual.vias.addVia(new Via(1, 1, LABEL, ONWARD, 2)));
    assert.ok(virtual.vias.addForward(new Forward(0, LABEL, 1, 2, ONWARD, virtual.vias.quotaOf(0, 1, 1e12))));
    assert.ok(virtual.vias.addVia(new Via(2, 2, LABEL, ONWARD, 2)));
  }
  udp.inbound = inbound;
  const run = (reads: number): void => {
    for (let i = 0; i < reads; i++) {
      outbound.nowMs += 0.01;
      inbound.nowMs = outbound.nowMs;
      tun.left = 1;
      outbound.drainTun(2, 1 << 20);
      virtual.flush();
    }
  };
  // the optimiser gets its time, then the heap is measured over 80,000 packets with no collection in between
  run(4_000);
  let least = Infinity;
  for (let attempt = 0; attempt < 5 && least > 4; attempt++) {
    collect();
    const before = process.memoryUsage().heapUsed;
    run(2_000);
    least = Math.min(least, (process.memoryUsage().heapUsed - before) / (2_000 * SEGMENTS));
  }
  assert.ok(stats.get(Counter.txPackets) >= 6_000 * SEGMENTS);
  assert.equal(stats.get(Counter.rxPackets), stats.get(Counter.txPackets));
  assert.equal(stats.get(Counter.viaReceived), way === "direct" ? 0 : stats.get(Counter.txPackets));
  assert.equal(stats.get(Counter.forwarded), way === "forwarded" ? stats.get(Counter.txPackets) : 0);
  return least;
}

// the clock's value is boxed a few times for each train of 40; an object or a number for each packet would be 16 bytes and more
test("a packet costs no allocation, neither on its way out nor on its way in", () => {
  const bytes = bytesPerPacket("direct");
  assert.ok(bytes < 4, `${bytes.toFixed(2)} bytes a packet`);
});

test("a packet through a via costs no allocation either, at its ends and on its way", () => {
  for (const way of ["via", "forwarded"] as const) {
    const bytes = bytesPerPacket(way);
    // each train is told to the paths of two peers and more
    assert.ok(bytes < 8, `${way}: ${bytes.toFixed(2)} bytes a packet`);
  }
});
