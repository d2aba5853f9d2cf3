import assert from "node:assert/strict";
import { test } from "node:test";
import { concat } from "../../base/bytes.ts";
import { endpointFromBytes, endpointToBytes, formatEndpoint, parseEndpoint } from "../../base/endpoint.ts";
import { SeededRandom } from "../../base/random.ts";
import { VirtualClock } from "../../../test/support/virtual-clock.ts";
import type { LocalAddress } from "./fits.ts";
import { localAddress } from "./fits.ts";
import { NatClassifier } from "./nat-kind.ts";
import { StunRound } from "./stun-round.ts";
import { StunSource } from "./stun-source.ts";

const at = (text: string): Uint8Array => endpointToBytes(parseEndpoint(text) ?? assert.fail(text));
const text = (endpoint: Uint8Array): string => formatEndpoint(endpointFromBytes(endpoint));
const SERVER = at("203.0.113.1:3478");
const OTHER = at("203.0.113.2:3479");
const MAPPED = at("198.51.100.5:40000");

function ipv4Attribute(type: number, endpoint: Uint8Array): Uint8Array {
  const port = endpoint[16] | (endpoint[17] << 8);
  return Uint8Array.of(type >> 8, type & 255, 0, 8, 0, 1, port >> 8, port & 255, ...endpoint.subarray(12, 16));
}

/** A success answer in plain MAPPED-ADDRESS form. */
function answer(request: Uint8Array, mapped: Uint8Array, other?: Uint8Array): Uint8Array {
  const body = concat(ipv4Attribute(1, mapped), other === undefined ? new Uint8Array(0) : ipv4Attribute(0x802c, other));
  return concat(Uint8Array.of(1, 1, 0, body.length), request.subarray(4, 20), body);
}

const drain = (round: StunRound): { to: Uint8Array; datagram: Uint8Array }[] => {
  const out = [];
  for (let one = round.pollTransmit(); one !== undefined; one = round.pollTransmit()) out.push(one);
  return out;
};

test("requests are resent with growing pauses and given up after the fourth", () => {
  const round = new StunRound(0, new SeededRandom(1), [SERVER]);
  const sentAt: number[] = [];
  let nowMs = 0;
  while (!round.done) {
    for (const _ of drain(round)) sentAt.push(nowMs);
    nowMs = round.nextTimeout();
    round.handleTimeout(nowMs);
  }
  assert.deepEqual(sentAt, [0, 500, 1500, 3500]);
  assert.equal(nowMs, 7500);
  assert.deepEqual(round.failures, ["203.0.113.1:3478 did not answer"]);
});

test("only an answer from the server itself with the transaction's id counts", () => {
  const round = new StunRound(0, new SeededRandom(1), [SERVER]);
  const [{ datagram }] = drain(round);
  const forged = answer(datagram, MAPPED);
  forged[10] ^= 1;
  assert.equal(round.handleDatagram(10, SERVER, forged), false);
  assert.equal(round.handleDatagram(10, OTHER, answer(datagram, MAPPED)), false);
  assert.equal(round.handleDatagram(10, SERVER, new Uint8Array(20)), false);
  assert.equal(round.dropped, 3);
  assert.equal(round.handleDatagram(20, SERVER, answer(datagram, MAPPED)), true);
  assert.deepEqual(
    round.results.map((one) => [text(one.to), text(one.mapped), one.rttMs]),
    [["203.0.113.1:3478", "198.51.100.5:40000", 20]],
  );
  assert.equal(round.handleDatagram(30, SERVER, answer(datagram, at("6.6.6.6:6"))), false, "once");
});

test("a server with a second address is asked there too, and its other places are not asked for more", () => {
  const round = new StunRound(0, new SeededRandom(1), [SERVER]);
  round.handleDatagram(1, SERVER, answer(drain(round)[0].datagram, MAPPED, OTHER));
  const more = drain(round);
  assert.deepEqual(
    more.map((one) => text(one.to)),
    ["203.0.113.1:3479", "203.0.113.2:3479"],
  );
  round.handleDatagram(2, OTHER, answer(more[1].datagram, MAPPED, at("203.0.113.9:1")));
  assert.deepEqual(drain(round), []);
});

test("a server cannot send this node to private or unusable places", () => {
  for (const place of ["10.0.0.1:80", "127.0.0.1:80", "224.0.0.1:80"]) {
    const round = new StunRound(0, new SeededRandom(1), [SERVER]);
    round.handleDatagram(1, SERVER, answer(drain(round)[0].datagram, MAPPED, at(place)));
    assert.deepEqual(
      drain(round).map((one) => text(one.to)),
      ["198.51.100.5:40000"],
      "nothing but the hairpin test",
    );
  }
});

test("hairpinning is noticed by the own request that comes back, or its absence", () => {
  for (const comesBack of [true, false]) {
    const round = new StunRound(0, new SeededRandom(1), [SERVER]);
    round.handleDatagram(1, SERVER, answer(drain(round)[0].datagram, MAPPED));
    const [own] = drain(round);
    assert.equal(text(own.to), text(MAPPED));
    if (comesBack) round.handleDatagram(2, MAPPED, own.datagram);
    while (!round.done) round.handleTimeout(round.nextTimeout());
    assert.equal(round.hairpin, comesBack);
  }
});

test("the source reports mapped endpoints and feeds the classification, and a silent server does not cost the others theirs", async () => {
  const clock = new VirtualClock();
  const nat = new NatClassifier();
  nat.setLocal([localAddress("192.168.1.7", 24, false) as LocalAddress], [9338]);
  const source: StunSource = new StunSource(
    {
      clock,
      random: new SeededRandom(1),
      nat,
      send: (to, datagram) => {
        if (to[15] === 9) return true;
        void clock.schedule(clock.nowMs + 20, () => source.handleDatagram(to, answer(datagram, MAPPED, OTHER)));
        return true;
      },
    },
    ["203.0.113.1:3478", "203.0.113.9:3478"],
  );
  const look = source.look(new AbortController().signal);
  await clock.advance(20_000);
  const found = await look;
  assert.deepEqual(found.endpoints.map(text), ["198.51.100.5:40000"]);
  assert.match(found.text, /203\.0\.113\.9:3478 did not answer/);
  assert.equal(nat.report(clock.nowMs - 10_000, 4).mapping, "endpoint-independent");
});

test("without any answer the source fails with the servers' names", async () => {
  const clock = new VirtualClock();
  const deps = { clock, random: new SeededRandom(1), nat: new NatClassifier(), send: () => true };
  const look = new StunSource(deps, ["203.0.113.9:3478"]).look(new AbortController().signal);
  const refused = assert.rejects(look, /203\.0\.113\.9:3478 did not answer/);
  await clock.advance(20_000);
  await refused;
});
