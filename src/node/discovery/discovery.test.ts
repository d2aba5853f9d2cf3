import assert from "node:assert/strict";
import { test } from "node:test";
import { endpointFromBytes, endpointToBytes, formatEndpoint, parseEndpoint } from "../../base/endpoint.ts";
import { nullLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { VirtualClock } from "../../../test/support/virtual-clock.ts";
import { parseConfig } from "../config.ts";
import type { HostNetwork } from "../underlay.ts";
import { ClockWatch } from "./clock-watch.ts";
import { Discovery } from "./discovery.ts";

const at = (text: string): Uint8Array => endpointToBytes(parseEndpoint(text) ?? assert.fail(text));
const text = (endpoint: Uint8Array): string => formatEndpoint(endpointFromBytes(endpoint));
const HOST: HostNetwork = {
  mtuBytes: 1500,
  addresses: [
    { interface: "lo", address: "127.0.0.1", prefixBits: 8, loopback: true },
    { interface: "eth0", address: "192.168.1.7", prefixBits: 24, loopback: false },
  ],
};
const PORTS = { port4: 9338, port6: 0 };

function discovery(clock: VirtualClock): { made: Discovery; events: string[] } {
  const events: string[] = [];
  const made = new Discovery(
    {
      clock,
      random: new SeededRandom(1),
      log: nullLogger,
      nodeId: new Uint8Array(32),
      networkId: () => undefined,
      tunName: () => "",
      sendRaw: () => false,
      changed: () => void events.push("changed"),
      judged: () => void events.push("judged"),
      stale: (reason) => void events.push(reason),
    },
    { stun: ["203.0.113.1:3478"], portMapping: [], lan: false, mark: 0 },
  );
  made.setHost(HOST, PORTS, false);
  return { made, events };
}

test("candidates that do not fit are left out and counted, those on this subnet come first", () => {
  const { made } = discovery(new VirtualClock());
  const candidates = ["198.51.100.1:1", "10.0.0.1:1", "127.0.0.1:1", "192.168.1.20:1", "192.168.9.9:1"].map(at);
  assert.deepEqual(made.judge(new Uint8Array(32), candidates).map(text), [
    "192.168.1.20:1",
    "198.51.100.1:1",
    "192.168.9.9:1",
  ]);
  assert.equal(made.counters.candidatesRefused, 2);
});

test("a node on loopback may try loopback", () => {
  const { made } = discovery(new VirtualClock());
  made.setHost(HOST, PORTS, true);
  assert.deepEqual(made.judge(new Uint8Array(32), [at("127.0.0.1:1")]).map(text), ["127.0.0.1:1"]);
});

test("before anything is known of the interfaces nothing is refused", () => {
  const { made } = discovery(new VirtualClock());
  made.setHost({ mtuBytes: 1500, addresses: [] }, PORTS, false);
  assert.equal(made.judge(new Uint8Array(32), [at("10.0.0.1:1")]).length, 1);
});

test("another address makes sources look again, and so does a jump of the wall clock or a pause", async () => {
  const clock = new VirtualClock();
  const { made, events } = discovery(clock);
  made.start();
  await clock.advance(6_000);
  const looks = (): number => made.reports()[0].counters["rounds"] ?? 0;
  const first = looks();
  made.setHost(HOST, PORTS, false);
  assert.deepEqual(events, []);
  made.setHost(
    { ...HOST, addresses: [{ interface: "eth0", address: "10.0.0.5", prefixBits: 8, loopback: false }] },
    PORTS,
    false,
  );
  await clock.advance(1_500);
  assert.deepEqual(events, ["judged"]);
  assert.ok(looks() > first);
  clock.wallOffsetMs += 86_400_000;
  await clock.advance(10_000);
  assert.match(events[1], /jumped by 86400 s/);
  assert.equal(made.counters.clockJumps, 1);
  await made.close();
});

test("what peers observe tells the kind of the NAT, told once for a burst", async () => {
  const clock = new VirtualClock();
  const { made, events } = discovery(clock);
  for (let i = 1; i < 20; i++) made.observe(at(`203.0.113.${i}:9338`), at("198.51.100.5:40000"));
  await clock.advance(1_000);
  assert.equal(made.nat(4).mapping, "endpoint-independent");
  assert.deepEqual(events, ["changed"]);
});

test("the clock watch tells jumps and pauses from ordinary time", () => {
  const watch = new ClockWatch(5_000);
  assert.equal(watch.tick({ nowMs: 0, wallMs: 1_000_000 }), undefined);
  assert.equal(watch.tick({ nowMs: 5_000, wallMs: 1_005_100 }), undefined);
  assert.match(watch.tick({ nowMs: 10_000, wallMs: 1_005_100 - 60_000 }) ?? "", /jumped by -65 s/);
  assert.equal(watch.tick({ nowMs: 15_000, wallMs: 950_100 }), undefined);
  assert.match(watch.tick({ nowMs: 615_000, wallMs: 1_550_100 }) ?? "", /stood still for 600 s/);
});

test("the configuration names servers and protocols, and says what is wrong with others", () => {
  const parse = (body: string): unknown => parseConfig(`[discovery]\n${body}\n`, "weft.toml").discovery;
  assert.deepEqual(parse('stun = ["stun.example.org:3478"]\nport_mapping = ["pcp"]\nlan = false'), {
    stun: ["stun.example.org:3478"],
    port_mapping: ["pcp"],
    lan: false,
  });
  assert.deepEqual(parse("port_mapping = false"), { port_mapping: false });
  assert.throws(() => parse('stun = ["stun.example.org"]'), /discovery\.stun\.0.*HOST:PORT/);
  assert.throws(() => parse('port_mapping = ["igd"]'), /pcp, nat-pmp, upnp/);
  assert.throws(() => parse("mdns = true"), /unknown key "discovery\.mdns"/);
});
