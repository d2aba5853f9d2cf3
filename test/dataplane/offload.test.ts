/**
 * The fast segmenter, sealer, opener and coalescer against the plain reference: whatever the kernel hands to one node's TUN, the packets
 * that the other node's kernel ends up with are the same, in the same order, and everything is counted.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Drop } from "../../src/base/drop.ts";
import { parseAddress } from "../../src/base/endpoint.ts";
import { NAME_BYTES, NAME_ECN, NAME_FAMILY } from "../../src/base/name.ts";
import { Slab } from "../../src/base/slab.ts";
import { Coalescer } from "../../src/dataplane/coalesce.ts";
import { Inbound } from "../../src/dataplane/inbound.ts";
import { Outbound } from "../../src/dataplane/outbound.ts";
import { PeerState } from "../../src/dataplane/peer.ts";
import { PacketQueues } from "../../src/dataplane/queues.ts";
import { RouteTable } from "../../src/dataplane/routes.ts";
import { Counter, PlaneStats, createStatsMemory } from "../../src/dataplane/stats.ts";
import type { PeerPaths } from "../../src/path/peer-paths.ts";
import { EpochTable } from "../../src/session/epochs.ts";
import { Cipher } from "../../src/session/types.ts";
import { MemoryTun, MemoryUdp, PlainAead } from "../../sim/memory-ports.ts";
import { finish, segment, transportOk } from "./kernel-reference.ts";

const A4 = "100.64.0.1";
const B4 = "100.64.0.2";
const A6 = "fd00::1";
const B6 = "fd00::2";

interface Plane {
  readonly tun: MemoryTun;
  readonly udp: MemoryUdp;
  readonly stats: PlaneStats;
  readonly outbound: Outbound;
  readonly inbound: Inbound;
  readonly peer: PeerState;
  readonly queues: PacketQueues;
  readonly routes: RouteTable;
}

/** One node with one peer under fixed keys and one path that never changes. */
function plane(
  own: readonly string[],
  remote: readonly string[],
  sendKey: number,
  receiveKey: number,
  capabilities: number,
): Plane {
  const slab = new Slab(24 << 20);
  const tun = new MemoryTun(slab);
  const udp = new MemoryUdp(slab);
  const stats = new PlaneStats(createStatsMemory(4));
  const aead = new PlainAead(slab);
  const epochs = new EpochTable(aead, { maxPeers: 4 });
  const name = slab.allocate(NAME_BYTES);
  slab.u8[name + NAME_FAMILY] = 4;
  const paths = { active: 0, activeName: () => name, received: () => 0, sent: () => {} } as unknown as PeerPaths;
  const peer = new PeerState(1, new Uint8Array(32), paths, stats.peerRow(1));
  peer.maxPacketBytes = 1_436;
  const peers = [undefined, peer, undefined, undefined];
  epochs.install(0, 1, {
    epochId: 1,
    localIndex: receiveKey,
    remoteIndex: sendKey,
    cipher: Cipher.AES_256_GCM,
    sendKey: new Uint8Array(32).fill(sendKey),
    receiveKey: new Uint8Array(32).fill(receiveKey),
    hybrid: true,
    userData: true,
    initiator: true,
    remoteCapabilities: capabilities,
    remoteMtuBytes: 1_500,
  });
  peer.sendEpoch = epochs.activate(1, 1);
  const table = (addresses: readonly string[]): RouteTable => {
    const routes = new RouteTable(16);
    routes.load(addresses.map((text) => ({ prefix: parseAddress(text) as Uint8Array, prefixBits: 128, peer: 1 })));
    return routes;
  };
  const queues = new PacketQueues(slab, stats, 2_044);
  const routes = table(remote);
  const outbound = new Outbound({
    slab,
    tun,
    udp,
    aead,
    stats,
    queues,
    epochs,
    routes,
    peers,
    needSession: () => {},
    wantRekey: () => {},
    icmpError: () => {},
    tooBig: () => {},
    rescheduled: () => {},
    sendFragments: () => {},
    virtual: () => -101,
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
    routes,
    local: table(own),
    peers,
    coalescer,
    handshake: () => {},
    inner: () => {},
    transit: () => {},
    proof: () => {},
    arrived: () => {},
  });
  return { tun, udp, stats, outbound, inbound, peer, queues, routes };
}

interface Shape {
  readonly v6: boolean;
  readonly tcp: boolean;
  readonly port: number;
  readonly payload: number;
  readonly size: number;
  readonly flags: number;
  readonly options: number;
  readonly tos: number;
  /** 0 super-packet, 1 single partial, 2 single with whole checksum, 3 whole but wrong */
  readonly form: number;
  readonly gap: number;
  readonly dontFragment: boolean;
}

const shape: fc.Arbitrary<Shape> = fc.record({
  v6: fc.boolean(),
  tcp: fc.boolean(),
  port: fc.integer({ min: 1, max: 2 }),
  payload: fc.integer({ min: 1, max: 6_000 }),
  size: fc.constantFrom(1, 7, 500, 1_000, 1_360),
  flags: fc.constantFrom(0x10, 0x10, 0x10, 0x18, 0x11, 0x90, 0x19, 0x02),
  options: fc.constantFrom(0, 12, 12),
  tos: fc.constantFrom(0, 0, 0, 2),
  form: fc.integer({ min: 0, max: 3 }),
  gap: fc.constantFrom(0, 0, 0, 1),
  dontFragment: fc.boolean(),
});

/** Builds what the sender's kernel would hand out: vnet header and packet with the sequence number of its flow. */
function build(one: Shape, sequences: Map<string, number>): Uint8Array {
  const transport = one.tcp ? 20 + one.options : 8;
  const ip = one.v6 ? 40 : 20;
  const payload = one.form === 0 ? Math.min(one.payload, one.size * 60) : Math.min(one.payload, 1_300);
  const packet = new Uint8Array(ip + transport + payload);
  const view = new DataView(packet.buffer);
  if (one.v6) {
    packet[0] = 0x60 | (one.tos >> 4);
    packet[1] = (one.tos & 15) << 4;
    packet[6] = one.tcp ? 6 : 17;
    packet[7] = 64;
    packet.set(parseAddress(A6) as Uint8Array, 8);
    packet.set(parseAddress(B6) as Uint8Array, 24);
  } else {
    packet[0] = 0x45;
    packet[1] = one.tos;
    view.setUint16(4, one.payload);
    view.setUint16(6, one.dontFragment ? 0x4000 : 0);
    packet[8] = 64;
    packet[9] = one.tcp ? 6 : 17;
    packet.set((parseAddress(A4) as Uint8Array).subarray(12), 12);
    packet.set((parseAddress(B4) as Uint8Array).subarray(12), 16);
  }
  view.setUint16(ip, 1_000);
  view.setUint16(ip + 2, one.port);
  if (one.tcp) {
    const key = `${one.v6} ${one.port}`;
    const sequence = (sequences.get(key) ?? 0xffff_f000) + one.gap;
    view.setUint32(ip + 4, sequence >>> 0);
    sequences.set(key, (sequence + payload) >>> 0);
    view.setUint32(ip + 8, 77);
    packet[ip + 12] = (transport / 4) << 4;
    packet[ip + 13] = one.flags;
    view.setUint16(ip + 14, 500);
    for (let i = 20; i < transport; i++) packet[ip + i] = i;
  }
  for (let i = ip + transport; i < packet.length; i++) packet[i] = (i * 31 + one.port) & 255;
  finish(packet);
  const framed = new Uint8Array(10 + packet.length);
  framed.set(packet, 10);
  const vnet = new DataView(framed.buffer);
  if (one.form <= 1) {
    // partial: the field holds the folded pseudo-header sum
    const field = 10 + ip + (one.tcp ? 16 : 6);
    const start = one.v6 ? 8 : 12;
    let sum = (one.tcp ? 6 : 17) + packet.length - ip;
    for (let i = start; i < ip; i += 2) sum += view.getUint16(i);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    vnet.setUint16(field, sum);
    framed[0] = 1;
    vnet.setUint16(6, ip, true);
    vnet.setUint16(8, one.tcp ? 16 : 6, true);
    if (one.form === 0) {
      framed[1] = one.tcp ? (one.v6 ? 4 : 1) : 5;
      vnet.setUint16(4, one.size, true);
    }
  } else if (one.form === 3) {
    framed[10 + ip + (one.tcp ? 17 : 7)] = framed[10 + ip + (one.tcp ? 17 : 7)] ^ 0x55;
  }
  return framed;
}

/** With DF set the identification means nothing (RFC 6864) and merging may change it. */
function comparable(packet: Uint8Array): string {
  const copy = packet.slice();
  if (copy[0] >> 4 === 4 && (copy[6] & 0x40) !== 0) copy.fill(0, 4, 6).fill(0, 10, 12);
  return copy.toHex();
}

function carry(from: Plane, to: Plane, shuffle: readonly number[]): void {
  from.outbound.drainTun(1_000, 1 << 30);
  // trains may be split and joined anywhere on the way, as GRO does
  for (const [i, datagram] of from.udp.sent.splice(0).entries()) {
    const cut = (shuffle[i % Math.max(1, shuffle.length)] ?? 0) * datagram.segmentBytes;
    if (cut > 0 && cut < datagram.bytes.length) {
      to.udp.incoming.push(
        { ...datagram, bytes: datagram.bytes.slice(0, cut) },
        { ...datagram, bytes: datagram.bytes.slice(cut) },
      );
    } else {
      to.udp.incoming.push(datagram);
    }
  }
  while (to.inbound.drain(4, 16) || to.udp.incoming.length > 0);
}

function conserves(plane: Plane): void {
  const { stats } = plane;
  let dropsTx = 0;
  let dropsRx = 0;
  for (const reason of Object.values(Drop)) {
    dropsTx += stats.droppedTx(reason);
    dropsRx += stats.droppedRx(reason);
  }
  assert.equal(
    stats.get(Counter.tunRxPackets),
    stats.get(Counter.txPackets) + stats.get(Counter.queued) + dropsTx,
    "outbound",
  );
  assert.equal(
    stats.get(Counter.udpRxDatagrams),
    stats.get(Counter.rxPackets) + stats.get(Counter.rxInternal) + dropsRx,
    "inbound",
  );
}

for (const [title, capabilities] of [
  ["with partial checksums", 2],
  ["with whole checksums for a peer that cannot take partial ones", 0],
] as const) {
  test(`the receiving kernel gets exactly the packets that the sending kernel gave, ${title}`, () => {
    fc.assert(
      fc.property(fc.array(shape, { minLength: 1, maxLength: 12 }), fc.array(fc.nat({ max: 5 })), (shapes, cuts) => {
        const a = plane([A4, A6], [B4, B6], 7, 9, capabilities);
        const b = plane([B4, B6], [A4, A6], 9, 7, capabilities);
        const sequences = new Map<string, number>();
        const expected: Uint8Array[] = [];
        for (const one of shapes) {
          const framed = build(one, sequences);
          expected.push(...segment(framed));
          a.tun.incoming.push(framed);
        }
        carry(a, b, cuts);
        const got = b.tun.written.flatMap((framed) => segment(framed));
        assert.equal(got.length, expected.length);
        got.forEach((packet, i) => {
          const want = expected[i];
          // a UDP checksum of a datagram that was sent whole and wrong must stay wrong, all others must be right
          assert.equal(comparable(packet), comparable(want), `packet ${i}`);
          assert.equal(transportOk(packet), transportOk(want));
        });
        conserves(a);
        conserves(b);
        assert.equal(b.stats.get(Counter.rxPackets), expected.length);
      }),
      { numRuns: 150 },
    );
  });
}

test("a train of equal TCP segments reaches the TUN in one write", () => {
  const a = plane([A4], [B4], 7, 9, 2);
  const b = plane([B4], [A4], 9, 7, 2);
  const one: Shape = {
    v6: false,
    tcp: true,
    port: 1,
    payload: 40_000,
    size: 1_360,
    flags: 0x10,
    options: 12,
    tos: 0,
    form: 0,
    gap: 0,
    dontFragment: true,
  };
  a.tun.incoming.push(build(one, new Map()));
  carry(a, b, [0]);
  assert.equal(a.stats.get(Counter.udpTxCalls), 1);
  assert.equal(b.stats.get(Counter.tunTxWrites), 1);
  assert.equal(b.stats.get(Counter.tunTxPackets), 30);
});

test("a TUN that refuses super-packets gets the packets one by one from then on, none lost", () => {
  for (const v6 of [false, true]) {
    for (const tcp of [false, true]) {
      const a = plane([A4, A6], [B4, B6], 7, 9, 2);
      const b = plane([B4, B6], [A4, A6], 9, 7, 2);
      const write = b.tun.commitWrite.bind(b.tun);
      b.tun.commitWrite = () => {
        const result = write();
        if (b.tun.written.at(-1)?.[1] === 0) return result;
        b.tun.written.pop();
        return -22;
      };
      const sequences = new Map<string, number>();
      const one: Shape = {
        v6,
        tcp,
        port: 1,
        payload: 5_000,
        size: 1_000,
        flags: 0x10,
        options: 0,
        tos: 0,
        form: 0,
        gap: 0,
        dontFragment: true,
      };
      const expected: Uint8Array[] = [];
      for (let i = 0; i < 3; i++) {
        const framed = build(one, sequences);
        expected.push(...segment(framed));
        a.tun.incoming.push(framed);
      }
      carry(a, b, [0]);
      assert.deepEqual(b.tun.written.flatMap(segment).map(comparable), expected.map(comparable));
      assert.equal(b.stats.get(Counter.mergesRefused), 1);
      conserves(b);
    }
  }
});

test("what the socket refuses is queued, bounded, and leaves later in order", () => {
  const a = plane([A4], [B4], 7, 9, 2);
  const b = plane([B4], [A4], 9, 7, 2);
  a.udp.onSend = () => -11;
  const sequences = new Map<string, number>();
  const one: Shape = {
    v6: false,
    tcp: true,
    port: 1,
    payload: 13_600,
    size: 1_360,
    flags: 0x10,
    options: 12,
    tos: 0,
    form: 0,
    gap: 0,
    dontFragment: true,
  };
  const expected: Uint8Array[] = [];
  for (let i = 0; i < 20; i++) {
    const framed = build(one, sequences);
    expected.push(...segment(framed));
    a.tun.incoming.push(framed);
  }
  a.outbound.drainTun(100, 1 << 30);
  assert.equal(a.udp.sent.length, 0);
  assert.ok(a.outbound.isBlocked(4));
  a.udp.onSend = () => 0;
  a.outbound.service(true, false, 10_000);
  carry(a, b, [0]);
  assert.deepEqual(b.tun.written.flatMap(segment).map(comparable), expected.map(comparable));
  conserves(a);
  a.udp.onSend = () => -11;
  a.peer.queue.limitPackets = 16;
  for (let i = 0; i < 20; i++) a.tun.incoming.push(build(one, sequences));
  a.outbound.drainTun(100, 1 << 30);
  assert.equal(a.peer.queue.packets, 16);
  assert.equal(a.stats.droppedTx(Drop.QUEUE_FULL), 200 - 16 - a.outbound.batch4.count);
});

test("a standing queue is cut by sojourn time, a short one is not", () => {
  const a = plane([A4], [B4], 7, 9, 2);
  const one: Shape = {
    v6: false,
    tcp: false,
    port: 1,
    payload: 1_000,
    size: 1_000,
    flags: 0,
    options: 0,
    tos: 0,
    form: 1,
    gap: 0,
    dontFragment: true,
  };
  a.udp.onSend = () => -11;
  a.peer.burst.segments = 1;
  let nowMs = 1_000;
  for (let step = 0; step < 1_500; step++) {
    nowMs += 1;
    a.outbound.nowMs = nowMs;
    // as much as leaves at first, then half as much again
    if (step === 500) assert.equal(a.stats.droppedTx(Drop.SOJOURN), 0);
    for (let i = 0; i < (step < 500 ? 2 : 3); i++) a.tun.incoming.push(build(one, new Map()));
    a.outbound.drainTun(10, 1 << 30);
    let room = 2;
    a.udp.onSend = () => (room-- > 0 ? 0 : -11);
    a.outbound.service(true, false, 100);
  }
  assert.ok(a.stats.droppedTx(Drop.SOJOURN) > 5, `${a.stats.droppedTx(Drop.SOJOURN)}`);
  assert.equal(a.stats.droppedTx(Drop.QUEUE_FULL), 0);
});

test("congestion marks survive the tunnel in both headers, and a packet that cannot bear one is dropped (RFC 6040)", () => {
  for (const v6 of [false, true]) {
    for (const inner of [0, 1, 2, 3]) {
      for (const outer of [0, 1, 2, 3]) {
        const a = plane([A4, A6], [B4, B6], 7, 9, 2);
        const b = plane([B4, B6], [A4, A6], 9, 7, 2);
        const one: Shape = {
          v6,
          tcp: true,
          port: 1,
          payload: 100,
          size: 100,
          flags: 0x10,
          options: 0,
          tos: inner,
          form: 1,
          gap: 0,
          dontFragment: true,
        };
        a.tun.incoming.push(build({ ...one, tos: inner }, new Map()));
        a.outbound.drainTun(1, 1 << 30);
        const sent = a.udp.sent[0];
        assert.ok(sent);
        assert.equal(sent.name[NAME_ECN] & 3, inner, "the outer header carries the inner mark");
        sent.name[NAME_ECN] = outer;
        b.udp.incoming.push(sent);
        b.inbound.drain(4, 1);
        const packet = b.tun.written.flatMap(segment)[0];
        if (inner === 0 && outer === 3) {
          assert.equal(packet, undefined);
          assert.equal(b.stats.droppedRx(Drop.CONGESTION), 1);
          continue;
        }
        assert.ok(packet && transportOk(packet));
        const got = v6 ? (packet[1] >> 4) & 3 : packet[1] & 3;
        const expected = inner === 0 ? 0 : outer === 3 ? 3 : inner === 2 && outer === 1 ? 1 : inner;
        assert.equal(got, expected, `inner ${inner} outer ${outer}`);
        conserves(b);
      }
    }
  }
});

test("a packet with another member's source, or for somebody else, is dropped and counted", () => {
  const a = plane([A4], [B4], 7, 9, 2);
  const b = plane([B4], [A6], 9, 7, 2);
  const one: Shape = {
    v6: false,
    tcp: true,
    port: 1,
    payload: 100,
    size: 100,
    flags: 0x10,
    options: 0,
    tos: 0,
    form: 1,
    gap: 0,
    dontFragment: true,
  };
  a.tun.incoming.push(build(one, new Map()));
  carry(a, b, [0]);
  assert.equal(b.stats.droppedRx(Drop.SPOOFED), 1);
  const c = plane([A4], [B4], 7, 9, 2);
  const d = plane(["100.64.0.9"], [A4], 9, 7, 2);
  c.tun.incoming.push(build(one, new Map()));
  carry(c, d, [0]);
  assert.equal(d.stats.droppedRx(Drop.NOT_FOR_US), 1);
  assert.equal(b.tun.written.length + d.tun.written.length, 0);
  // 0.0.0.0 is nobody's address, also right after start, when nothing is cached yet
  const e = plane([A4], [B4], 7, 9, 2);
  const f = plane([B4], [A4], 9, 7, 2);
  const nobody = build(one, new Map());
  nobody.fill(0, 22, 26);
  e.tun.incoming.push(nobody);
  carry(e, f, [0]);
  assert.equal(f.stats.droppedRx(Drop.SPOOFED), 1);
  const nowhere = build(one, new Map());
  nowhere.fill(0, 26, 30);
  e.routes.load([{ prefix: parseAddress("0.0.0.0") as Uint8Array, prefixBits: 96, peer: 1 }]);
  e.tun.incoming.push(nowhere);
  carry(e, f, [0]);
  assert.equal(f.stats.droppedRx(Drop.NOT_FOR_US), 1);
  assert.equal(f.tun.written.length, 0);
});

test("replayed, truncated and altered datagrams never reach the TUN", () => {
  const a = plane([A4], [B4], 7, 9, 2);
  const b = plane([B4], [A4], 9, 7, 2);
  const one: Shape = {
    v6: false,
    tcp: true,
    port: 1,
    payload: 100,
    size: 100,
    flags: 0x10,
    options: 0,
    tos: 0,
    form: 1,
    gap: 0,
    dontFragment: true,
  };
  a.tun.incoming.push(build(one, new Map()));
  a.outbound.drainTun(1, 1 << 30);
  const good = a.udp.sent[0];
  assert.ok(good);
  for (let length = 0; length < good.bytes.length; length++) {
    b.udp.incoming.push({ ...good, bytes: good.bytes.slice(0, length), segmentBytes: Math.max(1, length) });
  }
  for (let i = 0; i < good.bytes.length; i++) {
    const bytes = good.bytes.slice();
    bytes[i] = bytes[i] ^ 1;
    b.udp.incoming.push({ ...good, bytes, segmentBytes: bytes.length });
  }
  while (b.inbound.drain(4, 16) || b.udp.incoming.length > 0);
  assert.equal(b.tun.written.length, 0);
  b.udp.incoming.push(good, good);
  b.inbound.drain(4, 16);
  assert.equal(b.tun.written.length, 1);
  assert.equal(b.stats.droppedRx(Drop.REPLAY), 1);
});
