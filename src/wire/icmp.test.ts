import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Drop } from "../base/drop.ts";
import { parseAddress } from "../base/endpoint.ts";
import { buildIcmpError, ICMP_ERROR_MAX_BYTES, IcmpError } from "./icmp.ts";
import { decodeIp, IpPacket } from "./ip.ts";

const FROM = 3000;
const TARGET = 4000;

interface Memory {
  u8: Uint8Array;
  view: DataView;
  packet: IpPacket;
}

function load(bytes: Uint8Array, from: string): Memory {
  const u8 = new Uint8Array(8192).fill(0xcc);
  u8.set(bytes, 100);
  const address = parseAddress(from)!;
  u8.set(from.includes(":") ? address : address.slice(12), FROM);
  const view = new DataView(u8.buffer);
  const packet = new IpPacket();
  assert.equal(decodeIp(view, 100, bytes.length, packet), Drop.NONE);
  return { u8, view, packet };
}

function ipv4(
  source: string,
  destination: string,
  protocol: number,
  payload: Uint8Array,
  fragment = 0x4000,
): Uint8Array {
  const bytes = new Uint8Array(20 + payload.length);
  const total = bytes.length;
  bytes.set([0x45, 0, total >> 8, total & 255, 0x12, 0x34, fragment >> 8, fragment & 255, 64, protocol, 0xab, 0xcd]);
  bytes.set(parseAddress(source)!.slice(12), 12);
  bytes.set(parseAddress(destination)!.slice(12), 16);
  bytes.set(payload, 20);
  return bytes;
}

function ipv6(source: string, destination: string, next: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(40 + payload.length);
  bytes.set([0x60, 0, 0, 0, payload.length >> 8, payload.length & 255, next, 64]);
  bytes.set(parseAddress(source)!, 8);
  bytes.set(parseAddress(destination)!, 24);
  bytes.set(payload, 40);
  return bytes;
}

/** Ones' complement sum by the definition, over plain arrays. */
function sums(bytes: number[]): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += bytes[i] * 256 + (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 65536);
  return sum;
}

/** Reads an ICMPv4 error field by field, independently of the sources. */
function readV4(b: number[]): {
  type: number;
  code: number;
  mtu: number;
  source: string;
  destination: string;
  quoted: number[];
} {
  assert.equal(b[0], 0x45);
  assert.equal(b[2] * 256 + b[3], b.length, "total length");
  assert.equal(b[9], 1, "protocol ICMP");
  assert.equal(sums(b.slice(0, 20)), 0xffff, "IPv4 header checksum");
  assert.equal(sums(b.slice(20)), 0xffff, "ICMP checksum");
  assert.deepEqual([b[24], b[25]], [0, 0], "unused");
  return {
    type: b[20],
    code: b[21],
    mtu: b[26] * 256 + b[27],
    source: b.slice(12, 16).join("."),
    destination: b.slice(16, 20).join("."),
    quoted: b.slice(28),
  };
}

/** Reads an ICMPv6 error; the pseudo header is written out as RFC 8200 §8.1 draws it. */
function readV6(b: number[]): {
  type: number;
  code: number;
  mtu: number;
  source: number[];
  destination: number[];
  quoted: number[];
} {
  assert.deepEqual(b.slice(0, 4), [0x60, 0, 0, 0]);
  const length = b[4] * 256 + b[5];
  assert.equal(length + 40, b.length, "payload length");
  assert.equal(b[6], 58, "next header ICMPv6");
  const pseudo = [...b.slice(8, 40), 0, 0, length >> 8, length & 255, 0, 0, 0, 58];
  assert.equal(sums([...pseudo, ...b.slice(40)]), 0xffff, "ICMPv6 checksum with pseudo header");
  const mtu = ((b[44] * 256 + b[45]) * 256 + b[46]) * 256 + b[47];
  return { type: b[40], code: b[41], mtu, source: b.slice(8, 24), destination: b.slice(24, 40), quoted: b.slice(48) };
}

function build(memory: Memory, error: IcmpError, mtu: number): number[] {
  const bytes = buildIcmpError(memory.u8, memory.view, memory.packet, error, mtu, FROM, TARGET);
  assert.ok(bytes <= ICMP_ERROR_MAX_BYTES);
  assert.ok(
    memory.u8.subarray(TARGET + bytes).every((byte) => byte === 0xcc),
    "nothing written behind the error",
  );
  assert.ok(
    memory.u8.subarray(FROM + 16, TARGET).every((byte) => byte === 0xcc),
    "nothing written before the error",
  );
  return [...memory.u8.subarray(TARGET, TARGET + bytes)];
}

test("IPv4 fragmentation needed carries the MTU and up to 576 bytes, right in every checksum", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 1480, size: "max" }), fc.nat(70000), (payload, mtu) => {
      const original = ipv4("100.64.0.1", "100.64.0.2", 17, payload);
      const error = readV4(build(load(original, "100.64.0.9"), IcmpError.TOO_BIG, mtu));
      assert.deepEqual([error.type, error.code, error.mtu], [3, 4, Math.min(65535, Math.max(68, mtu))]);
      assert.deepEqual([error.source, error.destination], ["100.64.0.9", "100.64.0.1"]);
      assert.deepEqual(error.quoted, Array.from(original.subarray(0, 548)));
    }),
  );
});

test("IPv6 packet too big carries at least 1,280 and up to 1,280 bytes, right under its pseudo header", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 1480, size: "max" }), fc.nat(9000), (payload, mtu) => {
      const original = ipv6("fd00::1", "fd00::2", 17, payload);
      const error = readV6(build(load(original, "fd00::9"), IcmpError.TOO_BIG, mtu));
      assert.deepEqual([error.type, error.code, error.mtu], [2, 0, Math.max(1280, mtu)]);
      assert.deepEqual(error.source, [...parseAddress("fd00::9")!]);
      assert.deepEqual(error.destination, [...parseAddress("fd00::1")!]);
      assert.deepEqual(error.quoted, Array.from(original.subarray(0, 1232)));
    }),
  );
});

test("the other errors have the RFCs' types and codes", () => {
  const v4 = load(ipv4("100.64.0.1", "100.64.0.2", 6, new Uint8Array(20)), "100.64.0.1");
  const v6 = load(ipv6("fd00::1", "fd00::2", 6, new Uint8Array(20)), "fd00::1");
  for (const [error, four, six] of [
    [IcmpError.NO_ROUTE, [3, 0, 0], [1, 0, 0]],
    [IcmpError.HOST_UNREACHABLE, [3, 1, 0], [1, 3, 0]],
    [IcmpError.PROHIBITED, [3, 13, 0], [1, 1, 0]],
    [IcmpError.TIME_EXCEEDED, [11, 0, 0], [3, 0, 0]],
  ] as const) {
    const a = readV4(build(v4, error, 1500));
    assert.deepEqual([a.type, a.code, a.mtu], four);
    const b = readV6(build(v6, error, 1500));
    assert.deepEqual([b.type, b.code, b.mtu], six);
  }
});

test("no error is built about ICMP errors, non-first fragments, groups, or a source that names no host", () => {
  const payload = new Uint8Array(16);
  const icmp = (type: number): Uint8Array => Uint8Array.from([type, 0, 0, 0, 0, 0, 0, 0]);
  const silent: [string, Uint8Array][] = [
    ...[3, 4, 5, 11, 12].map((type): [string, Uint8Array] => [
      `ICMP ${type}`,
      ipv4("10.0.0.1", "10.0.0.2", 1, icmp(type)),
    ]),
    ["ICMP without a type", ipv4("10.0.0.1", "10.0.0.2", 1, new Uint8Array(0))],
    ["IPv4 fragment", ipv4("10.0.0.1", "10.0.0.2", 17, payload, 0x0001)],
    ["multicast", ipv4("10.0.0.1", "224.0.0.251", 17, payload)],
    ["broadcast", ipv4("10.0.0.1", "255.255.255.255", 17, payload)],
    ["source 0", ipv4("0.0.0.0", "10.0.0.2", 17, payload)],
    ["source group", ipv4("239.1.1.1", "10.0.0.2", 17, payload)],
    ...[1, 2, 3, 4, 100, 127, 137].map((type): [string, Uint8Array] => [
      `ICMPv6 ${type}`,
      ipv6("fd00::1", "fd00::2", 58, icmp(type)),
    ]),
    [
      "ICMPv6 error behind an extension header",
      ipv6("fd00::1", "fd00::2", 60, Uint8Array.from([58, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])),
    ],
    [
      "IPv6 fragment",
      ipv6("fd00::1", "fd00::2", 44, Uint8Array.from([17, 0, 0, 8, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])),
    ],
    ["IPv6 multicast", ipv6("fd00::1", "ff02::1", 17, payload)],
    ["IPv6 unspecified source", ipv6("::", "fd00::2", 17, payload)],
    ["IPv6 multicast source", ipv6("ff05::1", "fd00::2", 17, payload)],
  ];
  for (const [name, bytes] of silent) {
    assert.deepEqual(
      build(load(bytes, bytes[0] >> 4 === 4 ? "10.0.0.9" : "fd00::9"), IcmpError.TOO_BIG, 1400),
      [],
      name,
    );
  }
});

test("an echo request and a first fragment do get an error", () => {
  const echo4 = ipv4("10.0.0.1", "10.0.0.2", 1, Uint8Array.from([8, 0, 0, 0, 0, 1, 0, 1]));
  const first4 = ipv4("10.0.0.1", "10.0.0.2", 17, new Uint8Array(16), 0x2000);
  const echo6 = ipv6("fd00::1", "fd00::2", 58, Uint8Array.from([128, 0, 0, 0, 0, 1, 0, 1]));
  assert.ok(build(load(echo4, "10.0.0.9"), IcmpError.TOO_BIG, 1400).length > 0);
  assert.ok(build(load(first4, "10.0.0.9"), IcmpError.TOO_BIG, 1400).length > 0);
  assert.ok(build(load(echo6, "fd00::9"), IcmpError.TOO_BIG, 1400).length > 0);
});
