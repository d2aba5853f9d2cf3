import assert from "node:assert/strict";
import { test } from "node:test";
import type { Now } from "../../base/clock.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { endpointToBytes } from "../../base/endpoint.ts";
import { SeededRandom } from "../../base/random.ts";
import { Mapping, type PunchControl } from "./messages.ts";
import { judge } from "./verdict.ts";
import { Puncher, type PunchOutput } from "./puncher.ts";

const now = (ms: number): Now => ({ nowMs: ms, wallMs: 1.7e12 + ms });
const id = (n: number): Uint8Array => new Uint8Array(32).fill(n);
const A = id(1);
const B = id(2);
const RELAY = id(9);
const at = (address: string, port: number): Uint8Array => endpointToBytes({ address, port });

interface World {
  readonly a: Puncher;
  readonly b: Puncher;
  /** Delivers every message until nobody has anything to say; what is not a message is returned. */
  readonly run: (ms: number, lost?: (from: Uint8Array, message: PunchControl) => boolean) => Shots;
}
type Shots = { readonly by: Uint8Array; readonly shot: Exclude<PunchOutput, { kind: "send" }> }[];

function world(mappingA: Mapping, mappingB: Mapping, options: { readonly witness?: boolean } = {}): World {
  const own = new Map([
    [toHex(A), [at("192.168.1.2", 9338), at("203.0.113.1", 40_000)]],
    [toHex(B), [at("192.168.7.2", 9338), at("198.51.100.1", 50_000)]],
  ]);
  const make = (self: Uint8Array, mapping: Mapping, seed: number): Puncher =>
    new Puncher({
      random: new SeededRandom(seed),
      own: () => own.get(toHex(self)) ?? [],
      mapping: () => mapping,
      witnesses: () => (options.witness === false ? [] : [RELAY]),
      sight: (node) => (equal(self, RELAY) ? own.get(toHex(node))?.[1] : undefined),
    });
  const nodes = new Map([
    [toHex(A), make(A, mappingA, 1)],
    [toHex(B), make(B, mappingB, 2)],
    [toHex(RELAY), make(RELAY, Mapping.UNKNOWN, 3)],
  ]);
  const run: World["run"] = (ms, lost) => {
    const shots: Shots = [];
    for (let busy = true; busy;) {
      busy = false;
      for (const [hex, node] of nodes) {
        for (let output = node.pollOutput(); output !== undefined; output = node.pollOutput()) {
          busy = true;
          const self = Uint8Array.from(Buffer.from(hex, "hex"));
          if (output.kind !== "send") shots.push({ by: self, shot: output });
          else if (lost?.(self, output.message) !== true)
            nodes.get(toHex(output.nodeId))?.handle(now(ms), self, output.message);
        }
      }
    }
    return shots;
  };
  return { a: nodes.get(toHex(A)) as Puncher, b: nodes.get(toHex(B)) as Puncher, run };
}

const kinds = (shots: Shots, by: Uint8Array): string[] =>
  shots
    .filter((shot) => equal(shot.by, by))
    .map(({ shot }) => shot.kind)
    .toSorted();

test("two easy NATs: both sides probe each other's addresses at the same time, from the main socket", () => {
  const { a, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.ENDPOINT_INDEPENDENT);
  a.pathIs(now(0), B, "indirect", true);
  const shots = run(0);
  assert.deepEqual(kinds(shots, A), ["plain"]);
  assert.deepEqual(kinds(shots, B), ["plain"]);
  const first = shots.find(({ by }) => equal(by, A))?.shot;
  assert.equal(first?.kind === "plain" && first.endpoints.length, 2);
});

test("a hard NAT opens many sockets and the other side guesses at the address that the relay confirms", () => {
  for (const hard of [Mapping.ADDRESS_DEPENDENT, Mapping.PORT_DEPENDENT]) {
    const { a, run } = world(hard, Mapping.ENDPOINT_INDEPENDENT);
    a.pathIs(now(0), B, "indirect", true);
    const shots = run(0);
    assert.deepEqual(kinds(shots, A), ["fan", "plain"]);
    assert.deepEqual(kinds(shots, B), ["guess", "plain"]);
    const guess = shots.find(({ shot }) => shot.kind === "guess")?.shot;
    assert.ok(guess?.kind === "guess" && guess.count <= 1024 && guess.everyMs >= 5);
    assert.deepEqual(guess.endpoint.subarray(0, 16), at("203.0.113.1", 1).subarray(0, 16));
  }
});

test("when neither NAT is known and plain probes do not meet, either may be hard: both open sockets and both guess", () => {
  const { a, run } = world(Mapping.UNKNOWN, Mapping.UNKNOWN);
  a.pathIs(now(0), B, "indirect", true);
  assert.deepEqual(kinds(run(0), A), ["plain"]);
  a.handleTimeout(now(3_000));
  const second = run(3_000);
  for (const side of [A, B]) assert.deepEqual(kinds(second, side), ["fan", "guess", "plain"]);
  a.handleTimeout(now(15_000));
  assert.equal(a.report(now(15_000), B)?.state, "resting");
});

test("after both were assumed to be hard and nothing was met, the verdict is that they probably are, not a firewall", () => {
  const { a, b, run } = world(Mapping.UNKNOWN, Mapping.UNKNOWN);
  a.pathIs(now(0), B, "indirect", true);
  run(0);
  a.handleTimeout(now(3_000));
  run(3_000);
  a.handleTimeout(now(15_000));
  b.handleTimeout(now(15_000));
  for (const report of [a.report(now(15_000), B), b.report(now(15_000), A)]) {
    assert.equal(report?.verdict.code, "probably-hard");
    assert.match(report.verdict.remedy, /--endpoint/);
    assert.match(report.verdict.remedy, /STUN server or a second beacon tells for sure/);
  }
});

test("two easy NATs that do not meet: a firewall", () => {
  const { a, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.ENDPOINT_INDEPENDENT);
  a.pathIs(now(0), B, "indirect", true);
  run(0);
  a.handleTimeout(now(12_000));
  assert.equal(a.report(now(12_000), B)?.verdict.code, "filtered");
});

test("a peer that begins ever new attempts gets one every 2 s; its second stage comes in time, and answers are not limited", () => {
  const { b, run } = world(Mapping.UNKNOWN, Mapping.UNKNOWN);
  const say = (ms: number, attempt: number): string[] => {
    const endpoints = [at("203.0.113.1", 40_000)];
    const message = { type: "punch", attempt, isAnswer: false, mapping: 0, supposes: true, endpoints } as const;
    b.handle(now(ms), A, message);
    return kinds(run(ms), B);
  };
  assert.deepEqual(say(0, 1).includes("plain"), true);
  for (let attempt = 2; attempt < 200; attempt++) assert.deepEqual(say(attempt, attempt), []);
  assert.equal(b.counters.refused, 198);
  assert.deepEqual(say(500, 1), [], "asked again: answered, not begun again");
  assert.equal(b.counters.refused, 198);
  assert.equal(say(3_000, 500).includes("plain"), true);
  // an own attempt is answered whenever that is
  b.pathIs(now(3_100), A, "none", true);
  b.pathIs(now(3_200), A, "indirect", true);
  assert.equal(kinds(run(3_200), B).includes("plain"), true);
  assert.equal(b.counters.refused, 198);
});

test("plain probes are few: two seconds of them, then one a second", () => {
  const { a, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.ENDPOINT_INDEPENDENT);
  a.pathIs(now(0), B, "indirect", true);
  const shots = run(0);
  a.handleTimeout(now(3_000));
  shots.push(...run(3_000));
  const paces = shots.flatMap(({ by, shot }) =>
    equal(by, A) && shot.kind === "plain" ? [[shot.everyMs, shot.rounds]] : [],
  );
  assert.deepEqual(paces, [
    [250, 8],
    [1_000, 5],
  ]);
});

test("an easy side supposes that an unknown other side is hard, never itself", () => {
  const { a, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.UNKNOWN);
  a.pathIs(now(0), B, "indirect", true);
  run(0);
  a.handleTimeout(now(3_000));
  const second = run(3_000);
  assert.deepEqual(
    [kinds(second, A), kinds(second, B)],
    [
      ["guess", "plain"],
      ["fan", "plain"],
    ],
  );
});

test("what a third member sees is probed too, besides what the peer names", () => {
  const { a, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.ENDPOINT_INDEPENDENT);
  a.pathIs(now(0), B, "indirect", true);
  a.handle(now(0), RELAY, { type: "seen", node: B, endpoint: at("198.51.100.9", 77) });
  const plain = run(0).findLast(({ by, shot }) => equal(by, A) && shot.kind === "plain")?.shot;
  assert.ok(plain?.kind === "plain" && plain.endpoints.some((one) => equal(one, at("198.51.100.9", 77))));
});

test("nobody guesses at an address that no third member confirms", () => {
  const { a, run } = world(Mapping.PORT_DEPENDENT, Mapping.ENDPOINT_INDEPENDENT, { witness: false });
  a.pathIs(now(0), B, "indirect", true);
  assert.deepEqual(kinds(run(0), B), ["plain"]);
});

test("a word about the peer from somebody who was not asked changes nothing", () => {
  const { a, b, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.PORT_DEPENDENT, { witness: false });
  a.pathIs(now(0), B, "indirect", true);
  run(0);
  const before = a.counters.late;
  a.handle(now(1), id(77), { type: "seen", node: B, endpoint: at("192.0.2.66", 7) });
  assert.deepEqual(run(1), []);
  assert.equal(a.counters.late, before + 1);
  assert.deepEqual(a.report(now(1), B)?.seenAt, []);
  assert.equal(b.report(now(1), A)?.state, "punching");
});

test("two hard NATs: no guessing, and the verdict says so after the attempt", () => {
  const { a, run } = world(Mapping.PORT_DEPENDENT, Mapping.PORT_DEPENDENT);
  a.pathIs(now(0), B, "indirect", true);
  assert.deepEqual(kinds(run(0), A), ["plain"]);
  a.handleTimeout(now(12_000));
  const report = a.report(now(12_000), B);
  assert.equal(report?.state, "resting");
  assert.equal(report.verdict.code, "both-hard");
  assert.match(report.verdict.remedy, /--endpoint/);
});

test("lost questions are asked again, five times, then there is a pause that doubles", () => {
  const { a, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.ENDPOINT_INDEPENDENT);
  let asked = 0;
  const lost = (_: Uint8Array, message: PunchControl): boolean => message.type === "punch" && ++asked > 0;
  a.pathIs(now(0), B, "indirect", true);
  let ms = 0;
  for (let i = 0; i < 10; i++) {
    run(ms, lost);
    ms = a.nextTimeoutMs;
    if (a.report(now(ms), B)?.state === "resting") break;
    a.handleTimeout(now(ms));
  }
  assert.equal(asked, 5);
  assert.equal(a.report(now(ms), B)?.verdict.code, "no-answer");
  const pause = a.nextTimeoutMs - 2_500;
  assert.ok(pause >= 8_000 && pause <= 12_000, `${pause}`);
  a.handleTimeout(now(a.nextTimeoutMs));
  assert.equal(a.report(now(ms), B)?.attempts, 2);
});

test("a direct path ends the attempt; a late answer to it changes nothing", () => {
  const { a, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.ENDPOINT_INDEPENDENT);
  const late: PunchControl[] = [];
  a.pathIs(now(0), B, "indirect", true);
  run(0, (from, message) => equal(from, B) && message.type === "punch" && late.push(message) > 0);
  a.pathIs(now(100), B, "direct", true);
  assert.equal(a.counters.successes, 1);
  assert.equal(late.length, 1);
  for (const message of late) a.handle(now(200), B, message);
  assert.deepEqual(run(200), []);
  assert.equal(a.report(now(200), B)?.verdict.code, "direct");
  assert.equal(a.nextTimeoutMs, Number.POSITIVE_INFINITY);
});

test("both begin at once: one attempt number survives and both punch", () => {
  const { a, b, run } = world(Mapping.ENDPOINT_INDEPENDENT, Mapping.ENDPOINT_INDEPENDENT);
  a.pathIs(now(0), B, "indirect", true);
  b.pathIs(now(0), A, "indirect", true);
  const shots = run(0);
  assert.equal(kinds(shots, A).length, 1);
  assert.equal(kinds(shots, B).length, 1);
});

test("without traffic nobody is tried, and a change of surroundings ends the pause", () => {
  const { a, run } = world(Mapping.PORT_DEPENDENT, Mapping.PORT_DEPENDENT);
  a.pathIs(now(0), B, "indirect", false);
  assert.deepEqual(run(0), []);
  a.pathIs(now(0), B, "indirect", true);
  run(0);
  a.handleTimeout(now(12_000));
  assert.ok(a.nextTimeoutMs > 20_000);
  a.surroundingsChanged(now(13_000));
  assert.ok(a.nextTimeoutMs <= 13_500);
});

test("the table of peers has a bound", () => {
  const { a } = world(Mapping.UNKNOWN, Mapping.UNKNOWN);
  const node = (i: number): Uint8Array => {
    const bytes = new Uint8Array(32);
    new DataView(bytes.buffer).setUint32(0, i);
    return bytes;
  };
  for (let i = 0; i < 1100; i++) a.pathIs(now(0), node(i), "indirect", true);
  assert.equal(a.counters.refused, 1100 - 1024);
});

test("ports of a NAT that nobody knows were tried and none was met: the verdict blames no firewall", () => {
  const found = {
    isDirect: false,
    isUnderWay: false,
    attempts: 1,
    answered: true,
    own: Mapping.ENDPOINT_INDEPENDENT,
    peer: Mapping.UNKNOWN,
    ownEndpoints: 1,
    peerEndpoints: 1,
    confirmed: true,
    tried: new Set(["plain", "guess"] as const),
  };
  assert.equal(judge(found).code, "port-not-met");
  assert.equal(judge({ ...found, tried: new Set(["plain"] as const) }).code, "filtered");
  assert.equal(
    judge({
      ...found,
      own: Mapping.UNKNOWN,
      peer: Mapping.ENDPOINT_INDEPENDENT,
      tried: new Set(["plain", "fan"] as const),
    }).code,
    "port-not-met",
  );
});
