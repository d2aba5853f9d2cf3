/** Packets through the translator: addresses, ports and checksums of every kind it knows, and a reason for every drop. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../src/base/random.ts";
import { completeTransportChecksum, ipv4HeaderChecksum, transportChecksumOk } from "../src/wire/checksum.ts";
import { buildIcmpError, IcmpError } from "../src/wire/icmp.ts";
import { decodeIp, IpPacket } from "../src/wire/ip.ts";
import { NatTable, type NatSettings } from "./nat-model.ts";
import { NatTranslator } from "./nat-packet.ts";

const HOME = 0xc0a8010a;
const NEIGHBOUR = 0xc0a8010b;
const OUTSIDE = 0x0b000065;
const REMOTE = 0x0b010203;
const AT = 10;
const [ICMP, TCP, UDP] = [1, 6, 17];

const buffer = new ArrayBuffer(4_096);
const u8 = new Uint8Array(buffer);
const view = new DataView(buffer);

function translator(settings: Partial<NatSettings> = {}): NatTranslator {
  const table = new NatTable(new SeededRandom(1), [OUTSIDE], { ports: "random", ...settings });
  return new NatTranslator({ table }, [OUTSIDE], [{ address: 0xc0a80100, mask: 0xffffff00 }]);
}

/** Writes an IPv4 packet with right checksums at AT. @returns its length */
function build(
  protocol: number,
  source: number,
  sourcePort: number,
  destination: number,
  destinationPort: number,
): number {
  const header = protocol === TCP ? 20 : 8;
  const length = 20 + header + 33;
  u8.fill(0, AT, AT + length);
  for (let index = 0; index < 33; index++) u8[AT + 20 + header + index] = index * 7;
  view.setUint8(AT, 0x45);
  view.setUint16(AT + 2, length);
  view.setUint8(AT + 8, 64);
  view.setUint8(AT + 9, protocol);
  view.setUint32(AT + 12, source);
  view.setUint32(AT + 16, destination);
  if (protocol === ICMP) {
    view.setUint8(AT + 20, sourcePort === 0 ? 0 : 8);
    view.setUint16(AT + 24, sourcePort === 0 ? destinationPort : sourcePort);
  } else {
    view.setUint16(AT + 20, sourcePort);
    view.setUint16(AT + 22, destinationPort);
  }
  if (protocol === UDP) view.setUint16(AT + 24, length - 20);
  if (protocol === TCP) view.setUint8(AT + 32, 0x50);
  view.setUint16(AT + 10, ipv4HeaderChecksum(view, AT, 20));
  completeTransportChecksum(u8, view, AT, AT + 20, length - 20, protocol);
  return length;
}

function assertWhole(length: number, protocol: number): void {
  assert.equal(view.getUint16(AT + 10), ipv4HeaderChecksum(view, AT, 20), "header checksum");
  assert.ok(transportChecksumOk(u8, view, AT, AT + 20, length - 20, protocol), "transport checksum");
}

for (const [name, protocol] of [
  ["UDP", UDP],
  ["TCP", TCP],
] as const) {
  test(`${name}: out under the external endpoint, the answer back to the inside`, () => {
    const nat = translator();
    const length = build(protocol, HOME, 5_000, REMOTE, 80);
    assert.equal(nat.translate(0, u8, view, AT, length), length);
    assert.equal(view.getUint32(AT + 12), OUTSIDE);
    const port = view.getUint16(AT + 20);
    assert.notEqual(port, 5_000);
    assertWhole(length, protocol);
    build(protocol, REMOTE, 80, OUTSIDE, port);
    assert.equal(nat.translate(1, u8, view, AT, length), length);
    assert.deepEqual([view.getUint32(AT + 16), view.getUint16(AT + 22)], [HOME, 5_000]);
    assertWhole(length, protocol);
    assert.deepEqual([nat.outbound, nat.inbound], [1, 1]);
  });
}

test("ping: the identifier is translated and comes back", () => {
  const nat = translator();
  const length = build(ICMP, HOME, 77, REMOTE, 0);
  assert.equal(nat.translate(0, u8, view, AT, length), length);
  const identifier = view.getUint16(AT + 24);
  assert.notEqual(identifier, 77);
  assertWhole(length, ICMP);
  build(ICMP, REMOTE, 0, OUTSIDE, identifier);
  assert.equal(nat.translate(1, u8, view, AT, length), length);
  assert.deepEqual([view.getUint32(AT + 16), view.getUint16(AT + 24)], [HOME, 77]);
  assertWhole(length, ICMP);
});

test("an ICMP error about a translated packet reaches the inside as if it were about the packet it sent, and the other way round", () => {
  const nat = translator();
  const error = (about: number, from: number): number => {
    const packet = new IpPacket();
    decodeIp(view, AT, about, packet);
    view.setUint32(3_000, from);
    const bytes = buildIcmpError(u8, view, packet, IcmpError.TOO_BIG, 1_300, 3_000, 1_000);
    u8.copyWithin(AT, 1_000, 1_000 + bytes);
    return bytes;
  };
  const length = build(UDP, HOME, 5_000, REMOTE, 80);
  nat.translate(0, u8, view, AT, length);
  const port = view.getUint16(AT + 20);
  // from a router in between
  const inward = error(length, 0x0b0909fe);
  assert.equal(nat.translate(1, u8, view, AT, inward), inward);
  const quoted = AT + 28;
  assert.deepEqual(
    [view.getUint32(AT + 16), view.getUint32(quoted + 12), view.getUint16(quoted + 20), view.getUint16(AT + 26)],
    [HOME, HOME, 5_000, 1_300],
  );
  assertWhole(inward, ICMP);
  assert.equal(view.getUint16(quoted + 10), ipv4HeaderChecksum(view, quoted, 20));
  assert.ok(transportChecksumOk(u8, view, quoted, quoted + 20, length - 20, UDP), "the quoted packet is whole again");

  build(UDP, REMOTE, 80, OUTSIDE, port);
  nat.translate(2, u8, view, AT, length);
  const outward = error(length, HOME);
  assert.equal(nat.translate(3, u8, view, AT, outward), outward);
  assert.deepEqual(
    [view.getUint32(AT + 12), view.getUint32(quoted + 16), view.getUint16(quoted + 22)],
    [OUTSIDE, OUTSIDE, port],
  );
  assertWhole(outward, ICMP);
  assert.equal(nat.errors, 2);
});

test("hairpin: a neighbour's packet comes from its external endpoint; switched off, it is dropped", () => {
  const nat = translator({ filtering: "endpoint-independent" });
  const length = build(UDP, HOME, 5_000, REMOTE, 80);
  nat.translate(0, u8, view, AT, length);
  const port = view.getUint16(AT + 20);
  build(UDP, NEIGHBOUR, 6_000, OUTSIDE, port);
  assert.equal(nat.translate(1, u8, view, AT, length), length);
  assert.deepEqual([view.getUint32(AT + 12), view.getUint32(AT + 16), view.getUint16(AT + 22)], [OUTSIDE, HOME, 5_000]);
  assertWhole(length, UDP);
  assert.equal(nat.hairpinned, 1);
  const off = translator({ hairpin: false });
  build(UDP, NEIGHBOUR, 6_000, OUTSIDE, port);
  assert.equal(off.translate(0, u8, view, AT, length), 0);
  assert.equal(off.drops.hairpinOff, 1);
});

test("UDP without a checksum stays without one", () => {
  const nat = translator();
  const length = build(UDP, HOME, 5_000, REMOTE, 80);
  view.setUint16(AT + 26, 0);
  assert.equal(nat.translate(0, u8, view, AT, length), length);
  assert.equal(view.getUint16(AT + 26), 0);
});

test("what cannot be translated is dropped under its reason", () => {
  const nat = translator();
  const send = (change: () => void = () => undefined, protocol = UDP, from = HOME, to = REMOTE, bytes = 0): number => {
    const length = build(protocol, from, 5_000, to, 80);
    change();
    return nat.translate(0, u8, view, AT, bytes === 0 ? length : bytes);
  };
  assert.equal(send(undefined, UDP, HOME, REMOTE, 19), 0);
  assert.equal(
    send(() => view.setUint16(AT + 2, 27), UDP, HOME, REMOTE, 27),
    0,
  );
  assert.equal(
    send(() => view.setUint16(AT + 6, 0x2000)),
    0,
  );
  assert.equal(
    send(() => view.setUint8(AT + 9, 47)),
    0,
  );
  assert.equal(send(undefined, UDP, REMOTE, REMOTE + 1), 0);
  assert.equal(send(undefined, UDP, REMOTE, OUTSIDE), 0);
  send();
  const port = view.getUint16(AT + 20);
  assert.equal(
    send(() => view.setUint16(AT + 22, port), UDP, REMOTE + 1, OUTSIDE),
    0,
  );
  u8.fill(0, AT, AT + 40);
  view.setUint8(AT, 0x60);
  view.setUint8(AT + 6, 59);
  assert.equal(nat.translate(0, u8, view, AT, 40), 0);
  const { malformed, fragment, unsupported, noRoute, noMapping, filtered, notIpv4 } = nat.drops;
  assert.deepEqual([malformed, fragment, unsupported, noRoute, noMapping, filtered, notIpv4], [2, 1, 1, 1, 1, 1, 1]);
});
