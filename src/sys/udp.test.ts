import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { networkInterfaces } from "node:os";
import { after, before, describe, it } from "node:test";
import { formatAddress, parseAddress } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_ECN, NAME_FAMILY, NAME_INTERFACE, NAME_LOCAL, NAME_PORT, NAME_SCOPE } from "../base/name.ts";
import { Slab } from "../base/slab.ts";
import { Errno, SysError } from "./errno.ts";
import { libc } from "./libc.ts";
import { createPacketMemory } from "./memory.ts";
import { hasCapability } from "./process.ts";
import { SocketOptions } from "./udp-socket.ts";
import { openUdp, type Udp, UDP_SLOTS } from "./udp.ts";

const LOOPBACK = { 4: "127.0.0.1", 6: "::1" } as const;
const ANY = { 4: "0.0.0.0", 6: "::" } as const;
const hasIPv6 = Object.values(networkInterfaces()).some(
  (list) => list?.some((entry) => entry.address === "::1") ?? false,
);
const skip6 = hasIPv6 ? false : "this host has no ::1";

const slab = new Slab(64 << 20);
const payload = slab.allocate(65_536);
for (let i = 0; i < 65_536; i++) slab.u8[payload + i] = (i * 7 + (i >> 8)) & 255;
const names = [0, 1, 2].map(() => slab.allocate(NAME_BYTES)) as [number, number, number];

function setName(offset: number, family: 4 | 6, address: string, port: number, local?: string): number {
  slab.u8.fill(0, offset, offset + NAME_BYTES);
  slab.u8.set(parseAddress(address) as Uint8Array, offset);
  if (local !== undefined) slab.u8.set(parseAddress(local) as Uint8Array, offset + NAME_LOCAL);
  slab.view.setUint16(offset + NAME_PORT, port, true);
  slab.view.setUint8(offset + NAME_FAMILY, family);
  return offset;
}

function remoteOf(name: number): string {
  return `${formatAddress(slab.u8.slice(name, name + 16))} ${slab.view.getUint16(name + NAME_PORT, true)}`;
}

function localOf(name: number): string {
  return formatAddress(slab.u8.slice(name + NAME_LOCAL, name + NAME_LOCAL + 16));
}

function received(udp: Udp, i: number): Buffer {
  const at = udp.messageOffset[i];
  return Buffer.from(slab.u8.slice(at, at + udp.messageBytes[i]));
}

function sent(bytes: number, from = 0): Buffer {
  return Buffer.from(slab.u8.slice(payload + from, payload + from + bytes));
}

/** Aims names[0] at the socket, over loopback. */
function aim(udp: Udp, family: 4 | 6): number {
  return setName(names[0], family, LOOPBACK[family], udp.localPort(family));
}

/** The descriptor that the next open would get. */
function nextDescriptor(): number {
  const fd = libc.eventfd(0, 0);
  libc.close(fd);
  return fd;
}

function fails(family: 4 | 6, address: string, port: number, code: string): void {
  assert.throws(
    () => openUdp({ slab, sockets: [{ family, address, port }] }),
    (error) => error instanceof SysError && error.code === code && error.remedy.length > 10,
    `${address} ${port}`,
  );
}

for (const family of [4, 6] as const) {
  describe(`UDP over IPv${family}`, { skip: family === 6 ? skip6 : false }, () => {
    let a: Udp;
    let b: Udp;
    let plain: Udp;
    before(() => {
      const sockets = [{ family, address: ANY[family], port: 0 }];
      a = openUdp({ slab, sockets });
      b = openUdp({ slab, sockets });
      plain = openUdp({ slab, sockets, gro: false, receiveBufferBytes: 1 << 20 });
    });
    after(() => {
      for (const udp of [a, b, plain]) udp.close();
    });
    it("has a port and large receive buffers", () => {
      assert.ok(a.localPort(family) > 0);
      assert.notEqual(a.localPort(family), b.localPort(family));
      assert.equal(a.localPort(family === 4 ? 6 : 4), 0);
      assert.ok(plain.receiveBufferBytes(family) > 65_536);
      if (hasCapability(12)) assert.equal(a.receiveBufferBytes(family), 8 << 20);
    });

    it("carries a datagram with the addresses of both sides", () => {
      assert.equal(a.send(payload, 100, 100, aim(b, family)), 100);
      assert.equal(b.receive(family, 1), 1);
      assert.deepEqual(received(b, 0), sent(100));
      assert.equal(b.messageSegmentBytes[0], 100);
      const name = b.messageName[0];
      assert.equal(remoteOf(name), `${LOOPBACK[family]} ${a.localPort(family)}`);
      assert.equal(localOf(name), LOOPBACK[family]);
      assert.equal(slab.view.getUint8(name + NAME_FAMILY), family);
      assert.equal(slab.view.getUint32(name + NAME_INTERFACE, true), 0);
      assert.equal(slab.view.getUint32(name + NAME_SCOPE, true), 0);
      assert.equal(slab.view.getUint32(name + 44, true), 0);
    });

    it("answers to a received name block as it stands", () => {
      a.send(payload, 10, 10, aim(b, family));
      assert.equal(b.receive(family, 1), 1);
      assert.equal(b.send(payload + 50, 20, 20, b.messageName[0]), 20);
      assert.equal(a.receive(family, 1), 1);
      assert.deepEqual(received(a, 0), sent(20, 50));
      assert.equal(remoteOf(a.messageName[0]), `${LOOPBACK[family]} ${b.localPort(family)}`);
    });

    it("says EAGAIN when nothing waits", () => {
      assert.equal(a.receive(family, 1), -Errno.EAGAIN);
      assert.equal(a.receive(family, 16), -Errno.EAGAIN);
    });

    it("sends a train in one call and receives it as one message", () => {
      assert.equal(a.gso, true);
      assert.equal(b.gro, true);
      // 40 segments, the last one short
      assert.equal(a.send(payload, 39 * 1200 + 77, 1200, aim(b, family)), 39 * 1200 + 77);
      let got = Buffer.alloc(0);
      let messages = 0;
      for (let count = b.receive(family, 1); count > 0; count = b.receive(family, 1)) {
        assert.equal(b.messageSegmentBytes[0], 1200);
        got = Buffer.concat([got, received(b, 0)]);
        messages++;
      }
      assert.deepEqual(got, sent(39 * 1200 + 77));
      assert.ok(messages <= 2, `${messages} messages`);
    });

    it("splits a train into datagrams for a receiver without GRO, in batches of at most maxMessages", () => {
      assert.equal(a.send(payload, 12 * 500 + 5, 500, aim(plain, family)), 12 * 500 + 5);
      assert.equal(plain.receive(family, 5), 5);
      for (let i = 0; i < 5; i++) {
        assert.deepEqual(received(plain, i), sent(500, i * 500));
        assert.equal(plain.messageSegmentBytes[i], 500);
        assert.equal(remoteOf(plain.messageName[i]), `${LOOPBACK[family]} ${a.localPort(family)}`);
      }
      assert.equal(plain.receive(family, 64), 8);
      assert.deepEqual(received(plain, 7), sent(5, 12 * 500));
      assert.equal(plain.receive(family, 64), -Errno.EAGAIN);
    });

    it("caps a batch at its slots", () => {
      for (let i = 0; i < UDP_SLOTS + 3; i++) a.send(payload + i, 10 + i, 10 + i, aim(plain, family));
      assert.equal(plain.receive(family, 64), UDP_SLOTS);
      for (let i = 0; i < UDP_SLOTS; i++) assert.deepEqual(received(plain, i), sent(10 + i, i));
      assert.equal(plain.receive(family, 64), 3);
    });

    it("sends the largest train: 64 segments, 65,000 bytes", () => {
      assert.equal(a.send(payload, 64 * 1000, 1000, aim(b, family)), 64 * 1000);
      assert.equal(b.receive(family, 1), 1);
      let bytes = b.messageBytes[0];
      while (b.receive(family, 1) > 0) bytes += b.messageBytes[0];
      assert.equal(bytes, 64 * 1000);
      assert.equal(a.send(payload, 65_000, 1300, aim(b, family)), 65_000);
      while (b.receive(family, 1) > 0);
    });

    it("takes an empty datagram", () => {
      assert.equal(a.send(payload, 0, 0, aim(b, family)), 0);
      assert.equal(b.receive(family, 1), 1);
      assert.equal(b.messageBytes[0], 0);
    });

    it("refuses a datagram that fits no interface, and says by how much in the error queue", () => {
      const result = a.send(payload, 65_530, 65_530, aim(b, family));
      assert.equal(result, -Errno.EMSGSIZE);
      while (a.takeError(family) === 1) assert.equal(a.error.errno, Errno.EMSGSIZE);
    });

    it("names the destination of a port that is closed in the error queue", async () => {
      const closed = openUdp({ slab: new Slab(2 << 20), sockets: [{ family, address: LOOPBACK[family], port: 0 }] });
      const port = closed.localPort(family);
      closed.close();
      const name = setName(names[1], family, LOOPBACK[family], port);
      assert.equal(a.takeError(family), 0);
      assert.equal(a.send(payload, 33, 33, name), 33);
      assert.equal(a.takeError(family), 1);
      assert.equal(a.error.errno, Errno.ECONNREFUSED);
      assert.equal(a.error.origin, family === 4 ? 2 : 3);
      assert.equal(remoteOf(a.error.name), `${LOOPBACK[family]} ${port}`);
      assert.equal(a.takeError(family), 0);
    });

    it("does not blame a call for another datagram's ICMP error", () => {
      const closed = openUdp({ slab: new Slab(2 << 20), sockets: [{ family, address: LOOPBACK[family], port: 0 }] });
      const port = closed.localPort(family);
      closed.close();
      const dead = setName(names[1], family, LOOPBACK[family], port);
      assert.equal(a.send(payload, 33, 33, dead), 33);
      assert.equal(a.send(payload, 44, 44, aim(b, family)), 44, "the pending error belongs to the datagram before");
      assert.equal(a.send(payload, 33, 33, dead), 33);
      assert.equal(a.receive(family, 1), -Errno.EAGAIN);
      assert.equal(b.receive(family, 1), 1);
      assert.deepEqual(received(b, 0), sent(44));
      let errors = 0;
      while (a.takeError(family) === 1) errors++;
      assert.equal(errors, 2);
    });

    it("reports the ECN bits of the outer header", () => {
      // IP_TOS of socket a (level 0 option 1), or IPV6_TCLASS (level 41 option 67)
      const options = new SocketOptions(slab);
      const fd = family === 4 ? a.fd4 : a.fd6;
      const set = (value: number): number => options.set(fd, family === 4 ? 0 : 41, family === 4 ? 1 : 67, value);
      for (const ecn of [3, 1, 0]) {
        assert.equal(set(ecn), 0);
        a.send(payload, 8, 8, aim(b, family));
        assert.equal(b.receive(family, 1), 1);
        assert.equal(slab.view.getUint8(b.messageName[0] + NAME_ECN), ecn);
      }
    });

    it("sends the ECN bits of the name block, on single datagrams and trains", () => {
      for (const ecn of [2, 3, 0]) {
        for (const total of [8, 24]) {
          const name = aim(b, family);
          slab.view.setUint8(name + NAME_ECN, ecn);
          assert.equal(a.send(payload, total, 8, name), total);
          for (let got = 0; got < total;) {
            assert.equal(b.receive(family, 1), 1);
            assert.equal(slab.view.getUint8(b.messageName[0] + NAME_ECN), ecn);
            got += b.messageBytes[0];
          }
          slab.view.setUint8(name + NAME_ECN, 0);
        }
      }
    });

    it("counts what the kernel threw away for want of room", () => {
      const small = openUdp({
        slab,
        sockets: [{ family, address: LOOPBACK[family], port: 0 }],
        receiveBufferBytes: 4096,
      });
      const sends = 400;
      for (let i = 0; i < sends; i++) a.send(payload, 1000, 1000, aim(small, family));
      let got = 0;
      const index = family === 4 ? 0 : 1;
      const drain = (): void => {
        for (let count = small.receive(family, 16); count > 0; count = small.receive(family, 16)) {
          for (let i = 0; i < count; i++) got += Math.ceil(small.messageBytes[i] / small.messageSegmentBytes[i]);
        }
      };
      drain();
      // the count travels with the next datagram
      a.send(payload, 1000, 1000, aim(small, family));
      drain();
      assert.ok(got < sends);
      assert.equal(got + small.overflowed[index], sends + 1);
      assert.equal(small.overflowed[1 - index], 0);
      small.close();
    });

    it("holds its send buffer to what was asked", () => {
      a.setSendBuffer(family, 100_000);
      const options = new SocketOptions(slab);
      assert.equal(options.get(family === 4 ? a.fd4 : a.fd6, 1, 7), 200_000, "the kernel doubles it");
      a.setSendBuffer(family === 4 ? 6 : 4, 100_000);
    });

    it("can turn GRO off and on", () => {
      b.setGro(false);
      assert.equal(a.send(payload, 5000, 1000, aim(b, family)), 5000);
      assert.equal(b.receive(family, 16), 5);
      b.setGro(true);
      assert.equal(a.send(payload, 5000, 1000, aim(b, family)), 5000);
      assert.equal(b.receive(family, 16), 1);
      assert.equal(b.messageSegmentBytes[0], 1000);
    });

    it("interoperates with an ordinary socket", async () => {
      const socket = createSocket(family === 4 ? "udp4" : "udp6");
      socket.bind(0, LOOPBACK[family]);
      await once(socket, "listening");
      a.send(payload, 64, 64, setName(names[1], family, LOOPBACK[family], socket.address().port));
      const [message, info] = (await once(socket, "message")) as [Buffer, { port: number }];
      assert.deepEqual(message, sent(64));
      assert.equal(info.port, a.localPort(family));
      socket.close();
    });

    it("names a busy port, and what to do", () => {
      const port = a.localPort(family);
      assert.throws(
        () => openUdp({ slab, sockets: [{ family, address: ANY[family], port }] }),
        (error) =>
          error instanceof SysError &&
          error.code === "PORT_BUSY" &&
          error.message.includes(String(port)) &&
          error.remedy.includes("ss -ulpn"),
      );
    });
  });
}

describe("sticky source", () => {
  it("sends from the local address and interface of the name block", () => {
    const a = openUdp({ slab, sockets: [{ family: 4, address: "0.0.0.0", port: 0 }] });
    const b = openUdp({ slab, sockets: [{ family: 4, address: "0.0.0.0", port: 0 }] });
    // loopback answers for all of 127.0.0.0/8
    assert.equal(a.send(payload, 9, 9, setName(names[0], 4, "127.0.0.3", b.localPort(4), "127.0.0.2")), 9);
    assert.equal(b.receive(4, 1), 1);
    const name = b.messageName[0];
    assert.equal(remoteOf(name), `127.0.0.2 ${a.localPort(4)}`);
    assert.equal(localOf(name), "127.0.0.3");
    assert.equal(b.send(payload, 4000, 1000, name), 4000, "a train too");
    assert.equal(a.receive(4, 1), 1);
    assert.equal(remoteOf(a.messageName[0]), `127.0.0.3 ${b.localPort(4)}`);
    assert.equal(localOf(a.messageName[0]), "127.0.0.2");
    const loopbackIndex = 1;
    setName(names[0], 4, "127.0.0.1", b.localPort(4));
    slab.view.setUint32(names[0] + NAME_INTERFACE, loopbackIndex, true);
    assert.equal(a.send(payload, 9, 9, names[0]), 9);
    slab.view.setUint32(names[0] + NAME_INTERFACE, 0x7ffffff0, true);
    assert.ok(a.send(payload, 9, 9, names[0]) < 0, "an interface that is not there");
    a.close();
    b.close();
  });

  it("fails with an errno when the source is not an address of this host", () => {
    const a = openUdp({ slab, sockets: [{ family: 4, address: "0.0.0.0", port: 0 }] });
    const result = a.send(payload, 9, 9, setName(names[0], 4, "127.0.0.1", 9, "192.0.2.77"));
    // kernels differ
    assert.ok([-Errno.EINVAL, -Errno.ENETUNREACH, -Errno.EADDRNOTAVAIL].includes(result), String(result));
    a.close();
  });

  it("of an IPv6 reply is the address that was asked", { skip: skip6 }, () => {
    const a = openUdp({ slab, sockets: [{ family: 6, address: "::", port: 0 }] });
    assert.equal(a.send(payload, 9, 9, setName(names[0], 6, "::1", a.localPort(6), "::1")), 9);
    assert.equal(a.receive(6, 1), 1);
    assert.equal(localOf(a.messageName[0]), "::1");
    a.close();
  });
});

describe("openUdp", () => {
  it("serves both families from one set of slots", { skip: skip6 }, () => {
    const udp = openUdp({
      slab,
      sockets: [
        { family: 4, address: "0.0.0.0", port: 0 },
        { family: 6, address: "::", port: 0 },
      ],
    });
    for (const family of [4, 6, 4] as const) {
      udp.send(payload + family, 30, 30, setName(names[0], family, LOOPBACK[family], udp.localPort(family)));
      assert.equal(udp.receive(family === 4 ? 6 : 4, 1), -Errno.EAGAIN);
      assert.equal(udp.receive(family, 4), 1);
      assert.deepEqual(received(udp, 0), sent(30, family));
    }
    udp.close();
  });

  it("binds both families to one port without a clash", { skip: skip6 }, () => {
    const four = openUdp({ slab, sockets: [{ family: 4, address: "0.0.0.0", port: 0 }] });
    const six = openUdp({ slab, sockets: [{ family: 6, address: "::", port: four.localPort(4) }] });
    assert.equal(six.localPort(6), four.localPort(4));
    four.close();
    six.close();
  });

  it("works on low packet memory as on ordinary memory", () => {
    const buffer = createPacketMemory(2 << 20);
    let used = 64;
    const low = {
      buffer,
      u8: new Uint8Array(buffer),
      view: new DataView(buffer),
      allocate(bytes: number, align = 64): number {
        const at = (used + align - 1) & ~(align - 1);
        used = at + bytes;
        return at;
      },
    };
    const udp = openUdp({ slab: low, sockets: [{ family: 4, address: "127.0.0.1", port: 0 }] });
    const name = low.allocate(NAME_BYTES);
    low.u8.set(parseAddress("127.0.0.1") as Uint8Array, name);
    low.view.setUint16(name + NAME_PORT, udp.localPort(4), true);
    low.view.setUint8(name + NAME_FAMILY, 4);
    const data = low.allocate(2000);
    low.u8.fill(0x5a, data, data + 2000);
    assert.equal(udp.send(data, 2000, 1000, name), 2000);
    assert.equal(udp.receive(4, 1), 1);
    assert.equal(udp.messageBytes[0], 2000);
    assert.equal(low.u8[udp.messageOffset[0] + 1999], 0x5a);
    udp.close();
  });

  it("explains what is wrong with an address", () => {
    fails(4, "192.0.2.1", 0, "ADDRESS_MISSING");
    fails(4, "::1", 0, "ADDRESS_INVALID");
    fails(6, "127.0.0.1", 0, "ADDRESS_INVALID");
    fails(4, "localhost", 0, "ADDRESS_INVALID");
    fails(4, "127.0.0.1", 65_536, "ADDRESS_INVALID");
    assert.throws(() => openUdp({ slab, sockets: [] }), RangeError);
  });

  it("leaks no descriptor when it fails halfway", () => {
    const taken = openUdp({ slab, sockets: [{ family: 4, address: "127.0.0.1", port: 0 }] });
    const before = nextDescriptor();
    for (let i = 0; i < 3; i++) {
      assert.throws(() =>
        openUdp({
          slab,
          sockets: [
            { family: 6, address: "::1", port: 0 },
            { family: 4, address: "127.0.0.1", port: taken.localPort(4) },
          ],
        }),
      );
    }
    assert.equal(nextDescriptor(), before);
    taken.close();
  });

  it("answers EBADF after close(), which may be repeated", () => {
    const udp = openUdp({ slab, sockets: [{ family: 4, address: "127.0.0.1", port: 0 }] });
    udp.close();
    udp.close();
    assert.equal(udp.receive(4, 1), -Errno.EBADF);
    assert.ok(udp.send(payload, 1, 1, setName(names[0], 4, "127.0.0.1", 9)) < 0);
    assert.equal(udp.takeError(4), 0);
    assert.equal(udp.localPort(4), 0);
  });
});
