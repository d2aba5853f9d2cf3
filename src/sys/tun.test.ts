import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { after, before, beforeEach, describe, it } from "node:test";
import { parseAddress } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_PORT } from "../base/name.ts";
import { Slab } from "../base/slab.ts";
import { Ready, VNET_HEADER_BYTES } from "../dataplane/ports.ts";
import { Errno, SysError } from "./errno.ts";
import { createPoll } from "./poll.ts";
import { ip, privateNetwork, skipWithoutNamespaces } from "./testing.ts";
import { openTun, type Tun, TUN_MAX_PARTS, TunOffload } from "./tun.ts";
import { openUdp, type Udp } from "./udp.ts";

const slab = new Slab(16 << 20);
const packet = slab.allocate(65_546);
const scratch = slab.allocate(65_546);
const name = slab.allocate(NAME_BYTES);
const US = "10.77.0.1";
const THEM = "10.77.0.2";
const GSO_UDP_L4 = 5;
const NEEDS_CSUM = 1;

function setRemote(address: string, port: number): void {
  slab.u8.fill(0, name, name + NAME_BYTES);
  slab.u8.set(parseAddress(address) as Uint8Array, name);
  slab.view.setUint16(name + NAME_PORT, port, true);
  slab.view.setUint8(name + NAME_FAMILY, 4);
}

function fold(sum: number): number {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

/** vnet header, IPv4 and UDP headers from THEM to US with a partial checksum, at `packet`. @returns bytes before the payload */
function writeHeaders(port: number, payloadBytes: number, gsoSize: number): number {
  const { u8, view } = slab;
  u8.fill(0, packet, packet + VNET_HEADER_BYTES + 28);
  u8[packet] = NEEDS_CSUM;
  u8[packet + 1] = gsoSize === 0 ? 0 : GSO_UDP_L4;
  view.setUint16(packet + 2, gsoSize === 0 ? 0 : 28, true);
  view.setUint16(packet + 4, gsoSize, true);
  view.setUint16(packet + 6, 20, true);
  view.setUint16(packet + 8, 6, true);
  const header = packet + VNET_HEADER_BYTES;
  u8[header] = 0x45;
  view.setUint16(header + 2, 28 + payloadBytes);
  u8[header + 6] = 0x40;
  u8[header + 8] = 64;
  u8[header + 9] = 17;
  u8.set((parseAddress(THEM) as Uint8Array).subarray(12), header + 12);
  u8.set((parseAddress(US) as Uint8Array).subarray(12), header + 16);
  let sum = 0;
  for (let i = 0; i < 20; i += 2) sum += view.getUint16(header + i);
  view.setUint16(header + 10, ~fold(sum) & 0xffff);
  const udp = header + 20;
  view.setUint16(udp, 5555);
  view.setUint16(udp + 2, port);
  view.setUint16(udp + 4, 8 + payloadBytes);
  sum = 17 + 8 + payloadBytes;
  for (let i = 12; i < 20; i += 2) sum += view.getUint16(header + i);
  view.setUint16(udp + 6, fold(sum));
  return VNET_HEADER_BYTES + 28;
}

function fails(what: () => unknown, code: string, remedy: RegExp): void {
  assert.throws(what, (error) => error instanceof SysError && error.code === code && remedy.test(error.remedy));
}

describe("TUN", { skip: skipWithoutNamespaces }, () => {
  let back: () => void;
  let tun: Tun;
  let udp: Udp;
  before(() => {
    back = privateNetwork();
    // no router solicitations or multicast reports between the packets of the tests
    for (const which of ["all", "default"]) {
      const path = `/proc/sys/net/ipv6/conf/${which}/disable_ipv6`;
      if (existsSync(path)) writeFileSync(path, "1");
    }
    tun = openTun({ name: "weft0", slab, offload: true });
    ip("address", "add", `${US}/24`, "dev", "weft0");
    ip("link", "set", "weft0", "mtu", "1420", "up");
    udp = openUdp({ slab, sockets: [{ family: 4, address: "0.0.0.0", port: 0 }] });
    for (let i = 0; i < 65_000; i++) slab.u8[scratch + i] = (i * 11 + (i >> 7)) & 255;
  });
  after(() => {
    udp.close();
    tun.close();
    back();
  });
  beforeEach(() => {
    while (tun.read(packet, 65_546) > 0);
    while (udp.receive(4, 16) > 0);
  });

  it("creates the interface under its name with the offloads the kernel grants", () => {
    assert.equal(tun.name, "weft0");
    const tcp = TunOffload.CSUM | TunOffload.TSO4 | TunOffload.TSO6;
    assert.equal(tun.offloads & tcp, tcp);
    assert.match(ip("-o", "link", "show", "dev", "weft0"), new RegExp(`^${tun.index}: weft0`));
  });

  it("says EAGAIN when nothing waits", () => {
    assert.equal(tun.read(packet, 65_546), -Errno.EAGAIN);
  });

  it("reads what the host sends, behind a vnet header of 10 bytes", () => {
    setRemote(THEM, 4242);
    const poll = createPoll({ slab }, { tun: tun.fd });
    assert.equal(poll.wait(Ready.TUN, 0), 0);
    assert.equal(udp.send(scratch, 300, 300, name), 300);
    assert.equal(poll.wait(Ready.TUN | Ready.TUN_WRITABLE, 1000), Ready.TUN | Ready.TUN_WRITABLE);
    assert.equal(tun.read(packet, 65_546), VNET_HEADER_BYTES + 28 + 300);
    const header = packet + VNET_HEADER_BYTES;
    assert.equal(slab.u8[header], 0x45);
    assert.equal(slab.view.getUint16(header + 22), 4242);
    assert.deepEqual(slab.u8.slice(header + 28, header + 328), slab.u8.slice(scratch, scratch + 300));
    assert.equal(poll.wait(Ready.TUN, 0), 0);
  });

  it("reads a UDP train as one super-packet", () => {
    const granted = (tun.offloads & TunOffload.USO4) !== 0;
    setRemote(THEM, 4242);
    assert.equal(udp.send(scratch, 10 * 1000, 1000, name), 10 * 1000);
    let payloadBytes = 0;
    let reads = 0;
    for (let bytes = tun.read(packet, 65_546); bytes > 0; bytes = tun.read(packet, 65_546)) {
      reads++;
      payloadBytes += bytes - VNET_HEADER_BYTES - 28;
      if (granted) {
        assert.equal(slab.u8[packet + 1] & 0x7f, GSO_UDP_L4);
        assert.equal(slab.view.getUint16(packet + 4, true), 1000);
        assert.equal(slab.u8[packet] & NEEDS_CSUM, NEEDS_CSUM);
      }
    }
    assert.equal(payloadBytes, 10_000);
    assert.equal(reads, granted ? 1 : 10);
  });

  const deliver = (parts: (headBytes: number) => void, payloadBytes: number, gsoSize: number): number => {
    const head = writeHeaders(udp.localPort(4), payloadBytes, gsoSize);
    tun.beginWrite();
    parts(head);
    return tun.commitWrite();
  };

  it("writes a packet in one part", () => {
    const head = writeHeaders(udp.localPort(4), 100, 0);
    slab.u8.copyWithin(packet + head, scratch, scratch + 100);
    tun.beginWrite();
    tun.addPart(packet, head + 100);
    assert.equal(tun.commitWrite(), head + 100);
    assert.equal(udp.receive(4, 1), 1);
    assert.equal(udp.messageBytes[0], 100);
  });

  it("gathers a packet from parts in order, as many as the limit", () => {
    // every part but the headers lies behind a hole, so that none can be joined with the one before
    const count = TUN_MAX_PARTS - 1;
    const written = deliver(
      (head) => {
        tun.addPart(packet, head);
        for (let i = 0; i < count; i++) tun.addPart(scratch + i * 20, 10);
      },
      count * 10,
      0,
    );
    assert.equal(written, VNET_HEADER_BYTES + 28 + count * 10);
    assert.equal(udp.receive(4, 1), 1);
    assert.equal(udp.messageBytes[0], count * 10);
    const at = udp.messageOffset[0];
    for (let i = 0; i < count; i++) {
      assert.deepEqual(
        slab.u8.slice(at + i * 10, at + i * 10 + 10),
        slab.u8.slice(scratch + i * 20, scratch + i * 20 + 10),
      );
    }
  });

  it("joins parts that touch", () => {
    const written = deliver(
      (head) => {
        tun.addPart(packet, 10);
        tun.addPart(packet + 10, head - 10);
        // far more parts than the limit, one run of bytes
        for (let i = 0; i < 400; i++) tun.addPart(scratch + i * 3, 3);
      },
      1200,
      0,
    );
    assert.equal(written, VNET_HEADER_BYTES + 28 + 1200);
    assert.equal(udp.receive(4, 1), 1);
    const at = udp.messageOffset[0];
    assert.deepEqual(slab.u8.slice(at, at + 1200), slab.u8.slice(scratch, scratch + 1200));
  });

  it("writes nothing when there are more parts than the limit", () => {
    const written = deliver(
      (head) => {
        tun.addPart(packet, head);
        for (let i = 0; i < TUN_MAX_PARTS; i++) tun.addPart(scratch + i * 20, 10);
      },
      TUN_MAX_PARTS * 10,
      0,
    );
    assert.equal(written, -Errno.EMSGSIZE);
    assert.equal(udp.receive(4, 1), -Errno.EAGAIN);
  });

  it("writes a UDP super-packet that arrives as one train", () => {
    const written = deliver(
      (head) => {
        tun.addPart(packet, head);
        tun.addPart(scratch, 20 * 1200 + 7);
      },
      20 * 1200 + 7,
      1200,
    );
    assert.equal(written, VNET_HEADER_BYTES + 28 + 20 * 1200 + 7);
    assert.equal(udp.receive(4, 1), 1);
    assert.equal(udp.messageBytes[0], 20 * 1200 + 7);
    assert.equal(udp.messageSegmentBytes[0], 1200);
    const at = udp.messageOffset[0];
    assert.deepEqual(slab.u8.slice(at, at + 24_007), slab.u8.slice(scratch, scratch + 24_007));
  });

  it("answers a broken packet with an errno", () => {
    tun.beginWrite();
    tun.addPart(scratch, 5);
    assert.equal(tun.commitWrite(), -Errno.EINVAL);
    tun.beginWrite();
    assert.ok(tun.commitWrite() <= 0);
  });

  it("hands out single packets only without offload", () => {
    const plain = openTun({ name: "weft1", slab, offload: false });
    assert.equal(plain.offloads, 0);
    ip("address", "add", "10.78.0.1/24", "dev", "weft1");
    ip("link", "set", "weft1", "up");
    setRemote("10.78.0.2", 4242);
    assert.equal(udp.send(scratch, 5000, 1000, name), 5000);
    let reads = 0;
    while (plain.read(packet, 65_546) > 0) {
      assert.equal(slab.u8[packet + 1], 0);
      assert.equal(slab.u8[packet], 0);
      reads++;
    }
    assert.equal(reads, 5);
    plain.close();
    plain.close();
    assert.equal(plain.read(packet, 100), -Errno.EBADF);
    assert.throws(() => ip("link", "show", "dev", "weft1"), "the interface goes with its descriptor");
  });

  it("lets the kernel number a name with %d, and opens several queues", () => {
    const first = openTun({ name: "wq%d", slab, offload: true, multiQueue: true });
    assert.equal(first.name, "wq0");
    const second = openTun({ name: first.name, slab, offload: true, multiQueue: true });
    assert.equal(second.name, "wq0");
    first.close();
    second.close();
  });

  it("reports an interface that was deleted under it", () => {
    const doomed = openTun({ name: "doomed0", slab, offload: true });
    ip("link", "delete", "doomed0");
    const poll = createPoll({ slab }, { tun: doomed.fd });
    assert.equal(poll.wait(Ready.TUN, 1000), Ready.TUN);
    assert.equal(doomed.read(packet, 65_546), -Errno.EBADFD);
    doomed.close();
  });

  it("names a busy interface, one of another kind and a bad name, each with a remedy", () => {
    fails(() => openTun({ name: "weft0", slab, offload: true }), "TUN_BUSY", /stop that process/);
    fails(() => openTun({ name: "lo", slab, offload: true }), "TUN_MISMATCH", /another interface name/);
    fails(() => openTun({ name: "a-name-that-is-too-long", slab, offload: true }), "TUN_NAME", /1 to 15/);
    fails(() => openTun({ name: "", slab, offload: true }), "TUN_NAME", /1 to 15/);
    fails(() => openTun({ name: "a/b", slab, offload: true }), "TUN_NAME", /1 to 15/);
  });

  it("tells a user without the right what is missing", () => {
    const code = `
      import { openTun } from ${JSON.stringify(new URL("./tun.ts", import.meta.url).href)};
      import { Slab } from ${JSON.stringify(new URL("../base/slab.ts", import.meta.url).href)};
      process.setgroups([]); process.setgid(65534); process.setuid(65534);
      try { openTun({ name: "weft9", slab: new Slab(8192), offload: true }); } catch (error) { console.log(error.code, error.message, error.remedy); }`;
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8" });
    assert.match(child.stdout, /^TUN_DENIED .*root/);
  });
});
