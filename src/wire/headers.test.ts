import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Drop } from "../base/drop.ts";
import {
  DataHeader,
  decodeDataHeader,
  decodeInnerHeader,
  encodeDataHeader,
  encodeInnerHeader,
  InnerHeader,
  innerPayloadBytes,
  outerPacketBytes,
} from "./data.ts";
import { classify, DatagramClass } from "./demux.ts";
import { decodeFragment, encodeFragment, FragmentHeader } from "./fragment.ts";
import { checkHandshake, handshakeBytes } from "./handshake-sizes.ts";
import { decodeIp, IpPacket, Protocol } from "./ip.ts";
import { isRoutableIpv4 } from "./ipv4.ts";
import { isRoutableIpv6 } from "./ipv6.ts";
import {
  decodeProbe,
  decodeProbeAck,
  encodeProbe,
  encodeProbeAck,
  Probe,
  ProbeAck,
  PROBE_ACK_BYTES,
  PROBE_MIN_BYTES,
} from "./probe.ts";
import { decodeReport, encodeReport, Report, REPORT_BYTES } from "./report.ts";
import { clampMss, decodeTcp, findMss, TcpHeader } from "./tcp.ts";
import { completeTransportChecksum, transportChecksumOk, writePartialChecksum } from "./checksum.ts";
import { decodeUdp, UdpHeader } from "./udp.ts";
import { parseAddress } from "../base/endpoint.ts";

/** A view that fails the test when anything outside [low, high) is read. */
class GuardedView extends DataView<ArrayBuffer> {
  low = 0;
  high = 0;
  #check(offset: number, bytes: number): void {
    assert.ok(
      offset >= this.low && offset + bytes <= this.high,
      `read ${offset}+${bytes} outside ${this.low}..${this.high}`,
    );
  }
  override getUint8(offset: number): number {
    this.#check(offset, 1);
    return super.getUint8(offset);
  }
  override getUint16(offset: number, little?: boolean): number {
    this.#check(offset, 2);
    return super.getUint16(offset, little);
  }
  override getUint32(offset: number, little?: boolean): number {
    this.#check(offset, 4);
    return super.getUint32(offset, little);
  }
}

function guarded(bytes: Uint8Array, offset: number): GuardedView {
  const u8 = new Uint8Array(offset + bytes.length + 64).fill(0xff);
  u8.set(bytes, offset);
  const view = new GuardedView(u8.buffer);
  view.low = offset;
  view.high = offset + bytes.length;
  return view;
}

/** Random bytes that often begin like the real thing, so that the deeper branches are reached. */
const likelyPacket: fc.Arbitrary<Uint8Array> = fc
  .tuple(
    fc.uint8Array({ maxLength: 120, size: "max" }),
    fc.constantFrom(0x45, 0x46, 0x4f, 0x60, 0x44, 0x00),
    fc.boolean(),
    fc.constantFrom(0, 6, 17, 43, 44, 51, 58, 60),
  )
  .map(([bytes, first, fit, next]) => {
    if (bytes.length > 7) {
      bytes[0] = first;
      if (fit && first >>> 4 === 4) [bytes[2], bytes[3]] = [0, bytes.length];
      if (fit && first >>> 4 === 6 && bytes.length >= 40) [bytes[4], bytes[5], bytes[6]] = [0, bytes.length - 40, next];
    }
    return bytes;
  });

test("no decoder reads outside the bytes it was given, and what it accepts lies inside them", () => {
  let accepted = 0;
  fc.assert(
    fc.property(likelyPacket, fc.nat(5), (bytes, offset) => {
      const view = guarded(bytes, offset);
      const end = offset + bytes.length;
      const ip = new IpPacket();
      if (decodeIp(view, offset, bytes.length, ip) === Drop.NONE) {
        accepted++;
        assert.ok(ip.transportOffset >= offset + 20 && ip.transportOffset + ip.transportBytes <= end);
        assert.equal(ip.transportOffset + ip.transportBytes, offset + ip.totalBytes);
      }
      const tcp = new TcpHeader();
      if (decodeTcp(view, offset, bytes.length, tcp) === Drop.NONE) {
        const at = findMss(view, offset, tcp.headerBytes);
        assert.ok(at === -1 || (at >= offset + 22 && at + 2 <= offset + tcp.headerBytes));
      }
      const udp = new UdpHeader();
      if (decodeUdp(view, offset, bytes.length, udp) === Drop.NONE) assert.ok(offset + udp.totalBytes <= end);
      decodeDataHeader(view, offset, bytes.length, new DataHeader());
      decodeInnerHeader(view, offset, bytes.length, new InnerHeader());
      decodeProbe(view, offset, bytes.length, new Probe());
      decodeProbeAck(view, offset, bytes.length, new ProbeAck());
      decodeReport(view, offset, bytes.length, new Report());
      decodeFragment(view, offset, bytes.length, new FragmentHeader());
      checkHandshake(view, offset, bytes.length);
    }),
    { numRuns: 3000 },
  );
  assert.ok(accepted > 100, `the generator reached the accepting branch ${accepted} times`);
});

test("a cut-off packet of every length is refused, never half decoded", () => {
  const v4 = new Uint8Array(60).fill(1);
  v4.set([0x46, 0, 0, 60, 0, 0, 0x40, 0, 64, 6]);
  const v6 = new Uint8Array(72).fill(0);
  v6.set([0x60, 0, 0, 0, 0, 32, 0, 64]);
  v6.set([Protocol.TCP, 1], 40);
  for (const whole of [v4, v6]) {
    const out = new IpPacket();
    for (let length = 0; length < whole.length; length++) {
      assert.equal(decodeIp(guarded(whole.slice(0, length), 0), 0, length, out), Drop.BAD_IP, `length ${length}`);
    }
    assert.equal(decodeIp(guarded(whole, 0), 0, whole.length, out), Drop.NONE);
  }
});

test("IPv4 fields: options, fragments, DF and traffic class", () => {
  const bytes = new Uint8Array(40);
  bytes.set([0x46, 0xb9, 0, 36, 0, 7, 0x20, 0x03, 61, 17]);
  const out = new IpPacket();
  assert.equal(decodeIp(new DataView(bytes.buffer), 0, 40, out), Drop.NONE);
  assert.deepEqual(
    [out.version, out.headerBytes, out.totalBytes, out.protocol, out.transportOffset, out.transportBytes],
    [4, 24, 36, 17, 24, 12],
  );
  assert.deepEqual(
    [out.fragment, out.fragmentOffsetBytes, out.dontFragment, out.extended, out.trafficClass, out.hopLimit],
    [true, 24, false, true, 0xb9, 61],
  );
  for (const [at, value] of [
    [0, 0x44],
    [0, 0x55],
    [0, 0x4f],
    [3, 41],
    [3, 23],
  ] as const) {
    const broken = bytes.slice();
    broken[at] = value;
    assert.equal(decodeIp(new DataView(broken.buffer), 0, 40, out), Drop.BAD_IP);
  }
});

test("IPv6 extension headers are walked to the transport, a fragment's tail is not", () => {
  const bytes = new Uint8Array(40 + 8 + 16 + 8 + 8);
  bytes.set([0x6b, 0x90, 0, 0, 0, 40, 0, 9]);
  bytes.set([43, 0], 40);
  bytes.set([44, 1], 48);
  bytes.set([17, 0, 0, 1], 64);
  const out = new IpPacket();
  const view = new DataView(bytes.buffer);
  assert.equal(decodeIp(view, 0, bytes.length, out), Drop.NONE);
  assert.deepEqual(
    [out.protocol, out.transportOffset, out.transportBytes, out.fragment, out.fragmentOffsetBytes],
    [17, 72, 8, true, 0],
  );
  assert.deepEqual([out.extended, out.trafficClass, out.hopLimit, out.headerBytes], [true, 0xb9, 9, 72]);
  // A non-first fragment whose "transport protocol" is an extension number: its bytes are payload and are not walked.
  bytes.set([60, 0, 0, 8], 64);
  assert.equal(decodeIp(view, 0, bytes.length, out), Drop.NONE);
  assert.deepEqual([out.protocol, out.transportOffset, out.fragmentOffsetBytes], [60, 72, 8]);
  // An atomic fragment is a whole packet.
  bytes.set([17, 0, 0, 0], 64);
  assert.equal(decodeIp(view, 0, bytes.length, out), Drop.NONE);
  assert.equal(out.fragment, false);
});

test("a chain of more than eight extension headers is left unread", () => {
  const bytes = new Uint8Array(40 + 8 * 10);
  bytes.set([0x60, 0, 0, 0, 0, 80, 60, 1]);
  for (let i = 0; i < 10; i++) bytes[40 + i * 8] = i === 9 ? Protocol.ICMPV6 : 60;
  const out = new IpPacket();
  assert.equal(decodeIp(new DataView(bytes.buffer), 0, bytes.length, out), Drop.NONE);
  assert.equal(out.protocol, Protocol.NONE);
});

test("which addresses name one host beyond the link", () => {
  for (const [text, expected] of [
    ["100.64.0.1", true],
    ["10.0.0.1", true],
    ["0.1.2.3", false],
    ["127.0.0.1", false],
    ["169.254.1.1", false],
    ["224.0.0.1", false],
    ["255.255.255.255", false],
    ["fd00::1", true],
    ["2001:db8::1", true],
    ["::1", false],
    ["::", false],
    ["fe80::1", false],
    ["ff02::1", false],
  ] as const) {
    const bytes = parseAddress(text)!;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const actual = text.includes(":") ? isRoutableIpv6(view, 0) : isRoutableIpv4(view.getUint32(12));
    assert.equal(actual, expected, text);
  }
});

/** A SYN with the given option bytes inside an IPv4 packet. */
function syn(options: number[]): { u8: Uint8Array; view: DataView; bytes: number } {
  const bytes = 20 + options.length;
  const u8 = new Uint8Array(20 + bytes);
  u8.set([0x45, 0, 0, 20 + bytes, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
  u8.set([0x12, 0x34, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, (bytes / 4) << 4, 2, 0xff, 0xff], 20);
  u8.set(options, 40);
  return { u8, view: new DataView(u8.buffer), bytes };
}

test("MSS clamping keeps the checksum right, also when the option starts at an odd offset", () => {
  for (const options of [
    [2, 4, 0x05, 0xb4],
    [1, 2, 4, 0x05, 0xb4, 1, 1, 0],
    [4, 2, 1, 2, 4, 0x23, 0x28, 0],
  ]) {
    const { u8, view, bytes } = syn(options);
    completeTransportChecksum(u8, view, 0, 20, bytes, 6);
    assert.equal(clampMss(view, 20, bytes, 1240, false), true);
    assert.equal(view.getUint16(findMss(view, 20, bytes)), 1240);
    assert.equal(transportChecksumOk(u8, view, 0, 20, bytes, 6), true);
    assert.equal(clampMss(view, 20, bytes, 1240, false), false, "already small enough");
  }
});

test("MSS clamping leaves a partial checksum, non-SYN segments and malformed options alone", () => {
  const partial = syn([2, 4, 0x05, 0xb4]);
  writePartialChecksum(partial.view, 0, 20, partial.bytes, 6);
  const before = partial.view.getUint16(36);
  assert.equal(clampMss(partial.view, 20, partial.bytes, 1000, true), true);
  assert.equal(partial.view.getUint16(36), before);
  const ack = syn([2, 4, 0x05, 0xb4]);
  ack.u8[33] = 0x10;
  assert.equal(clampMss(ack.view, 20, ack.bytes, 1000, false), false);
  for (const options of [
    [2, 5, 1, 1],
    [3, 0, 2, 4],
    [0, 2, 4, 9],
    [1, 1, 1, 2],
    [8, 40, 2, 4],
  ]) {
    const { view, bytes } = syn(options);
    assert.equal(clampMss(view, 20, bytes, 1, false), false);
  }
});

test("data and inner headers survive encoding and decoding, and sizes are each other's inverse", () => {
  const view = new DataView(new ArrayBuffer(64));
  encodeDataHeader(view, 4, 0xdeadbeef, 0xfffffffe, 7);
  const header = new DataHeader();
  assert.equal(decodeDataHeader(view, 4, 36, header), Drop.NONE);
  assert.deepEqual([header.receiver, header.counterLow, header.counterHigh], [0xdeadbeef, 0xfffffffe, 7]);
  assert.equal(decodeDataHeader(view, 4, 35, header), Drop.SHORT);
  view.setUint8(6, 1);
  assert.equal(decodeDataHeader(view, 4, 36, header), Drop.BAD_TYPE);
  encodeInnerHeader(view, 30, 9, 0x81, 0xabcd);
  const inner = new InnerHeader();
  assert.equal(decodeInnerHeader(view, 30, 4, inner), Drop.NONE);
  assert.deepEqual([inner.kind, inner.flags, inner.aux], [9, 0x81, 0xabcd]);
  assert.equal(decodeInnerHeader(view, 30, 3, inner), Drop.BAD_INNER);
  view.setUint8(30, 10);
  assert.equal(decodeInnerHeader(view, 30, 4, inner), Drop.BAD_INNER);
  assert.equal(innerPayloadBytes(1500, 4), 1436);
  assert.equal(outerPacketBytes(innerPayloadBytes(1280, 6), 6), 1280);
});

test("the first byte decides the protocol", () => {
  for (let first = 0; first < 256; first++) {
    const expected =
      first < 0x40
        ? DatagramClass.STUN
        : first === 0x44
          ? DatagramClass.DATA
          : first >= 0x41 && first <= 0x43
            ? DatagramClass.HANDSHAKE
            : DatagramClass.UNKNOWN;
    assert.equal(classify(first), expected);
  }
});

test("handshake datagrams have exactly one length each and zero reserved bytes", () => {
  const view = new DataView(new ArrayBuffer(200));
  for (const [type, bytes] of [
    [0x41, 176],
    [0x42, 132],
    [0x43, 56],
  ] as const) {
    view.setUint32(0, type, true);
    assert.equal(handshakeBytes(type), bytes);
    assert.equal(checkHandshake(view, 0, bytes), Drop.NONE);
    assert.equal(checkHandshake(view, 0, bytes - 1), Drop.SHORT);
    assert.equal(checkHandshake(view, 0, bytes + 1), Drop.SHORT);
    view.setUint8(2, 1);
    assert.equal(checkHandshake(view, 0, bytes), Drop.BAD_TYPE);
  }
});

test("probe, ack, report and fragment headers survive encoding and decoding", () => {
  const u8 = new Uint8Array(256).fill(0xee);
  const view = new DataView(u8.buffer);
  const probe = new Probe();
  Object.assign(probe, {
    transactionLow: 0xfedcba98,
    transactionHigh: 3,
    timestampUs: 0xffffffff,
    pathId: 65535,
    flags: 1,
  });
  assert.equal(encodeProbe(u8, view, 8, probe, 100), 100);
  assert.ok(
    u8.subarray(24, 108).every((byte) => byte === 0),
    "padding is zero",
  );
  assert.equal(u8[108], 0xee);
  const decoded = new Probe();
  assert.equal(decodeProbe(view, 8, 100, decoded), Drop.NONE);
  assert.deepEqual({ ...decoded }, { ...probe });
  assert.equal(decodeProbe(view, 8, PROBE_MIN_BYTES - 1, decoded), Drop.BAD_INNER);
  const address = parseAddress("192.0.2.7")!;
  u8.set(address, 200);
  assert.equal(encodeProbeAck(view, 8, probe, 200, 51820, 1472, 77), PROBE_ACK_BYTES);
  const ack = new ProbeAck();
  assert.equal(decodeProbeAck(view, 8, PROBE_ACK_BYTES, ack), Drop.NONE);
  assert.deepEqual(
    { ...ack },
    {
      transactionLow: 0xfedcba98,
      transactionHigh: 3,
      echoedTimestampUs: 0xffffffff,
      pathId: 65535,
      flags: 1,
      datagramBytes: 1472,
      timestampUs: 77,
    },
  );
  assert.deepEqual(u8.slice(24, 40), address);
  const report = new Report();
  Object.assign(report, {
    pathId: 5,
    ceCount: 65536 + 3,
    highestCounter: 2 ** 53 - 1,
    packets: 2 ** 40 + 1,
    receivedBytes: 123,
    timestampUs: 1,
    echoUs: 2,
    holdUs: 3,
  });
  assert.equal(encodeReport(view, 16, report), REPORT_BYTES);
  const back = new Report();
  assert.equal(decodeReport(view, 16, REPORT_BYTES, back), Drop.NONE);
  assert.deepEqual({ ...back }, { ...report, ceCount: 3 });
  view.setUint32(16 + 12, 0x200000, true);
  assert.equal(decodeReport(view, 16, REPORT_BYTES, back), Drop.BAD_INNER);
  const fragment = new FragmentHeader();
  Object.assign(fragment, { id: 0x80000001, index: 1, count: 2, kind: 6, flags: 255 });
  encodeFragment(view, 0, fragment);
  const fragmentBack = new FragmentHeader();
  assert.equal(decodeFragment(view, 0, 9, fragmentBack), Drop.NONE);
  assert.deepEqual({ ...fragmentBack }, { ...fragment });
  for (const [at, value] of [
    [4, 2],
    [5, 5],
    [5, 0],
    [6, 9],
    [6, 10],
  ] as const) {
    encodeFragment(view, 0, fragment);
    view.setUint8(at, value);
    assert.equal(decodeFragment(view, 0, 9, fragmentBack), Drop.BAD_INNER);
  }
});
