import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encode } from "dns-packet";
import fc from "fast-check";
import { endpointFromBytes, endpointToBytes, formatEndpoint, parseEndpoint } from "../../base/endpoint.ts";
import { SeededRandom } from "../../base/random.ts";
import { LanSeal } from "./lan-announcement.ts";
import { LanMachine } from "./lan-machine.ts";

const at = (text: string): Uint8Array => endpointToBytes(parseEndpoint(text) ?? assert.fail(text));
const text = (endpoint: Uint8Array): string => formatEndpoint(endpointFromBytes(endpoint));
const NETWORK = new Uint8Array(32).fill(7);
const id = (n: number): Uint8Array => new Uint8Array(32).fill(n);

function node(n: number, network = NETWORK): LanMachine {
  const random = new SeededRandom(n);
  const seal = new LanSeal(network, random);
  return new LanMachine({
    random,
    seal: (label, endpoints) => seal.seal(label, { nodeId: id(n), endpoints }),
    open: (label, sealed) => seal.open(label, sealed),
  });
}

function drain(machine: LanMachine): Uint8Array[] {
  const out = [];
  for (let one = machine.pollTransmit(); one !== undefined; one = machine.pollTransmit()) out.push(one);
  return out;
}

/** Everybody hears everybody, the sender too, for `durationMs` from `fromMs`. */
function run(machines: readonly LanMachine[], fromMs: number, durationMs: number): void {
  for (let nowMs = fromMs; nowMs <= fromMs + durationMs; nowMs += 10) {
    for (const machine of machines) {
      machine.handleTimeout(nowMs);
      for (const bytes of drain(machine)) for (const other of machines) other.handlePacket(nowMs, "eth0", bytes);
    }
  }
}

const seen = (machine: LanMachine): string[] =>
  machine
    .peers()
    .map((peer) => `${peer.nodeId[0]} ${peer.endpoints.map(text).join(" ")}`)
    .toSorted();

test("nodes of one network find each other, and not those of another", () => {
  const [one, two, other] = [node(1), node(2), node(3, new Uint8Array(32).fill(8))];
  one.setOwn(0, [at("192.168.1.1:9338")], true);
  two.setOwn(0, [at("192.168.1.2:9338"), at("[fd00::2]:9338")], true);
  other.setOwn(0, [at("192.168.1.3:9338")], true);
  run([one, two, other], 0, 300);
  assert.deepEqual(seen(one), ["2 192.168.1.2:9338 [fd00::2]:9338"]);
  assert.deepEqual(seen(two), ["1 192.168.1.1:9338"]);
  assert.deepEqual(seen(other), []);
  assert.equal(one.takeChanged(), true);
  assert.equal(one.takeChanged(), false);
  assert.ok(one.counters.strangers > 0);
});

test("a late one finds who is there by asking", () => {
  const [one, two] = [node(1), node(2)];
  one.setOwn(0, [at("192.168.1.1:9338")], true);
  run([one], 0, 20_000);
  two.setOwn(20_000, [at("192.168.1.2:9338")], true);
  run([one, two], 20_000, 1_500);
  assert.deepEqual(seen(two), ["1 192.168.1.1:9338"]);
});

test("nothing that is sent names the node, its network or itself twice", () => {
  const machine = node(1);
  machine.setOwn(0, [at("192.168.1.1:9338")], true);
  const first = Buffer.concat(drain(machine));
  machine.setOwn(1, [at("10.0.0.1:9338")], true);
  const second = Buffer.concat(drain(machine).slice(1));
  for (const bytes of [first, second]) {
    assert.equal(bytes.includes(Buffer.from(id(1).subarray(0, 8))), false);
    assert.equal(bytes.includes(Buffer.from(NETWORK.subarray(0, 8))), false);
  }
  const label = (bytes: Buffer): string => /[0-9a-f]{16}/.exec(bytes.toString("latin1"))?.[0] ?? "";
  assert.notEqual(label(first), label(second), "another label at every place");
});

test("what is heard ends with its life, with a good-bye, or is replaced by the node's new label", () => {
  const [one, two] = [node(1), node(2)];
  one.setOwn(0, [at("192.168.1.1:9338")], true);
  two.setOwn(0, [at("192.168.1.2:9338")], true);
  run([one, two], 0, 200);
  two.setOwn(1_000, [at("192.168.1.22:9338")], false);
  run([one, two], 1_000, 200);
  assert.deepEqual(seen(one), ["2 192.168.1.22:9338"]);
  two.goodbye();
  run([one, two], 1_300, 1_500);
  assert.deepEqual(seen(one), []);
  two.setOwn(3_000, [at("192.168.1.2:9338")], true);
  run([one, two], 3_000, 200);
  one.handleTimeout(3_000 + 899_000);
  assert.equal(seen(one).length, 1);
  one.handleTimeout(3_200 + 901_000);
  assert.deepEqual(seen(one), []);
});

test("queries are answered at most once a second, and not for those who know the answer", () => {
  const machine = node(1);
  machine.setOwn(0, [at("192.168.1.1:9338")], true);
  const label = /[0-9a-f]{16}/.exec(Buffer.from(drain(machine)[0]).toString("latin1"))?.[0];
  machine.handleTimeout(1_100);
  drain(machine);
  const before = machine.counters.answers;
  const query = new Uint8Array(encode({ type: "query", questions: [{ name: "_weft._udp.local", type: "PTR" }] }));
  for (let nowMs = 5_000; nowMs < 8_000; nowMs += 20) {
    machine.handlePacket(nowMs, "eth0", query);
    machine.handleTimeout(nowMs);
  }
  assert.ok(machine.counters.answers - before <= 4, `${machine.counters.answers - before} answers in 3 s`);
  const knowing = new Uint8Array(
    encode({
      type: "query",
      questions: [{ name: "_weft._udp.local", type: "PTR" }],
      answers: [{ type: "PTR", name: "_weft._udp.local", ttl: 4500, data: `${label}._weft._udp.local` }],
    }),
  );
  machine.handleTimeout(20_000);
  const then = machine.counters.answers;
  machine.handlePacket(30_000, "eth0", knowing);
  machine.handleTimeout(40_000);
  assert.equal(machine.counters.answers, then);
});

test("a flood on one link is cut before it is parsed, and leaves the other link alone", () => {
  const [one, two] = [node(1), node(2)];
  one.setOwn(0, [at("192.168.1.1:9338")], true);
  two.setOwn(0, [at("192.168.1.2:9338")], true);
  const [announcement] = drain(two);
  for (let i = 0; i < 1_900; i++) one.handlePacket(1, "eth1", announcement.slice(0, 40));
  assert.ok(one.counters.limited >= 1_800);
  assert.ok(one.counters.malformed <= 200);
  one.handlePacket(2, "eth0", announcement);
  assert.equal(one.peers().length, 1);
});

test("a link that brings thousands a second is to be closed, an ordinary one never is", () => {
  const machine = node(1);
  let kept = 0;
  for (let i = 0; i < 5_000 && machine.handlePacket(1, "eth0", new Uint8Array(12)); i++) kept++;
  assert.equal(kept, 2_000);
  assert.equal(machine.counters.floods, 1);
  for (let i = 0; i < 10_000; i++) assert.equal(machine.handlePacket(2_000 + i, "eth0", new Uint8Array(12)), true);
});

test("announcements of ever new nodes are bounded in number and in work", () => {
  const machine = node(1);
  const random = new SeededRandom(9);
  const seal = new LanSeal(NETWORK, random);
  for (let i = 0; i < 3_000; i++) {
    const label = Buffer.from(random.bytes(8)).toString("hex");
    const nodeId = random.bytes(32);
    const sealed = Buffer.from(seal.seal(label, { nodeId, endpoints: [at("192.168.1.2:1")] })).toString("base64url");
    const data = ["v=1", `b=${sealed}`];
    const name = `${label}._weft._udp.local`;
    machine.handlePacket(
      i * 60,
      "eth0",
      new Uint8Array(encode({ type: "response", answers: [{ type: "TXT", name, ttl: 4500, data }] })),
    );
  }
  assert.equal(machine.peers().length, 256);
  assert.ok(machine.counters.evicted > 0);
});

test("a changed label or byte of an announcement is refused", () => {
  const seal = new LanSeal(NETWORK, new SeededRandom(1));
  const sealed = seal.seal("0011223344556677", { nodeId: id(1), endpoints: [at("192.168.1.1:1")] });
  assert.deepEqual(seal.open("0011223344556677", sealed)?.nodeId, id(1));
  assert.equal(seal.open("0011223344556678", sealed), undefined);
  for (let i = 0; i < sealed.length; i++) {
    const bytes = sealed.slice();
    bytes[i] ^= 1;
    assert.equal(seal.open("0011223344556677", bytes), undefined);
  }
  const many = Array.from({ length: 20 }, (_, i) => at(`192.168.1.1:${i + 1}`));
  const label = "0011223344556677";
  assert.equal(seal.open(label, seal.seal(label, { nodeId: id(1), endpoints: many }))?.endpoints.length, 6);
});

test("no packet makes the machine throw", () => {
  const machine = node(1);
  machine.setOwn(0, [at("192.168.1.1:9338")], true);
  const [real] = drain(machine);
  let nowMs = 0;
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(real.length - 1), fc.nat(255), (bytes, where, value) => {
      machine.handlePacket((nowMs += 100), "eth0", bytes);
      const changed = real.slice();
      changed[where] = value;
      machine.handlePacket((nowMs += 100), "eth0", changed);
      machine.handleTimeout(nowMs);
    }),
    { numRuns: 500 },
  );
  assert.equal(decode(Buffer.from(real)).answers?.length, 3);
});
