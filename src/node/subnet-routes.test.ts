import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseRoutePrefix } from "../mesh/route-prefix.ts";
import {
  devicesTowards,
  natRules,
  parseMainRoutes,
  RouteChooser,
  type RouterFigures,
  tableLines,
} from "./subnet-routes.ts";

const LAN = "10.20.0.0/24";
const fine: RouterFigures = {
  established: true,
  gone: false,
  pathRank: 0,
  rttMs: 10,
  txPackets: 0,
  queuedPackets: 0,
  lastDeliveryMs: 5,
};

/** Routers whose figures a test changes. */
function setup(nodes: Record<string, Partial<RouterFigures>>): {
  readonly chooser: RouteChooser;
  readonly figures: Record<string, RouterFigures>;
  readonly at: (nowMs: number) => string | undefined;
} {
  const chooser = new RouteChooser();
  const figures: Record<string, RouterFigures> = {};
  for (const [node, part] of Object.entries(nodes)) figures[node] = { ...fine, ...part };
  const at = (nowMs: number): string | undefined => {
    chooser.observe(nowMs, (node) => figures[node]);
    return chooser.chosen.get(LAN);
  };
  at(0);
  chooser.setOffers(Object.keys(nodes).map((node) => ({ prefix: LAN, node })));
  return { chooser, figures, at };
}

test("of healthy routers a direct one comes before a relayed one, then the nearer one", () => {
  const chooser = new RouteChooser();
  chooser.setOffers(["a", "b", "c", "d"].map((node) => ({ prefix: LAN, node })));
  const figures: Record<string, RouterFigures> = {
    a: { ...fine, gone: true },
    b: { ...fine, pathRank: 1, rttMs: 1 },
    c: { ...fine, rttMs: 30 },
    d: { ...fine, rttMs: 20 },
  };
  assert.equal(chooser.chosen.get(LAN), "a", "nothing is known yet");
  chooser.observe(0, (node) => figures[node]);
  assert.equal(chooser.chosen.get(LAN), "d");
});

test("a router that answers nothing is left within 600 ms of the first packet; idleness is no failure", () => {
  const { chooser, figures, at } = setup({ a: { rttMs: 5 }, b: { rttMs: 9 } });
  assert.equal(at(100), "a");
  figures["a"] = { ...fine, txPackets: 10, lastDeliveryMs: 3 };
  assert.equal(at(200), "a");
  // two hours of nothing in either direction
  figures["a"] = { ...fine, txPackets: 10, lastDeliveryMs: 7_200_000 };
  assert.equal(at(7_200_200), "a");
  let switchedAtMs = 0;
  for (let nowMs = 7_200_300; nowMs < 7_203_000; nowMs += 100) {
    figures["a"] = { ...fine, txPackets: figures["a"].txPackets + 1, lastDeliveryMs: nowMs - 200 };
    if (at(nowMs) === "b") {
      switchedAtMs = nowMs;
      break;
    }
  }
  assert.ok(switchedAtMs - 7_200_300 <= 600, `${switchedAtMs - 7_200_300} ms`);
  assert.equal(chooser.failovers, 1);
  assert.equal(chooser.health("a"), "bad");
});

test("a failed router that delivers again is healthy, but the one in use stays", () => {
  const { chooser, figures, at } = setup({ a: {}, b: { rttMs: 20 } });
  assert.equal(at(100), "a");
  figures["a"] = { ...fine, gone: true };
  assert.equal(at(200), "b");
  figures["a"] = { ...fine, lastDeliveryMs: 1 };
  assert.equal(at(300), "b");
  assert.equal(chooser.health("a"), "good");
  figures["b"] = { ...fine, gone: true };
  assert.equal(at(400), "a");
});

test("a late answer of a router that was suspended does not delay the next takeover", () => {
  const { figures, at } = setup({ a: { rttMs: 2 }, b: { rttMs: 20 } });
  assert.equal(at(0), "a");
  // the answers to old probes came two seconds late
  figures["a"] = { ...fine, rttMs: 900, txPackets: 1, lastDeliveryMs: 0 };
  assert.equal(at(100), "a");
  let switchedAtMs = Infinity;
  for (let nowMs = 200; nowMs < 3_000 && switchedAtMs === Infinity; nowMs += 100) {
    figures["a"] = { ...fine, rttMs: 900, txPackets: nowMs, lastDeliveryMs: nowMs - 100 };
    if (at(nowMs) === "b") switchedAtMs = nowMs;
  }
  assert.ok(switchedAtMs <= 800, `${switchedAtMs}`);
});

test("a slow path is not taken for a dead one", () => {
  const { figures, at } = setup({ a: { rttMs: 600 }, b: { rttMs: 600, pathRank: 1 } });
  for (let nowMs = 0; nowMs < 60_000; nowMs += 100) {
    // every answer comes a round trip after its packet
    figures["a"] = { ...fine, rttMs: 600, txPackets: nowMs, lastDeliveryMs: 700 };
    assert.equal(at(nowMs), "a", `at ${nowMs}`);
  }
});

test("without a healthy one the routes stay where they are", () => {
  const { figures, at } = setup({ a: {}, b: {} });
  assert.equal(at(0), "a");
  figures["a"] = { ...fine, gone: true };
  figures["b"] = { ...fine, gone: true };
  assert.equal(at(100), "a");
  figures["b"] = { ...fine };
  assert.equal(at(200), "b");
});

test("property: the choice is always one of the offers, a good one if there is one, and steady while it is good", () => {
  const state = fc.record({ gone: fc.boolean(), established: fc.boolean(), rttMs: fc.integer({ min: 1, max: 300 }) });
  fc.assert(
    fc.property(fc.array(fc.array(state, { minLength: 3, maxLength: 3 }), { maxLength: 30 }), (steps) => {
      const chooser = new RouteChooser();
      chooser.setOffers(["0", "1", "2"].map((node) => ({ prefix: LAN, node })));
      let last: string | undefined;
      for (const [i, states] of steps.entries()) {
        chooser.observe(i * 100, (node) => ({ ...fine, ...states[Number(node)] }));
        const chosen = chooser.chosen.get(LAN) as string;
        assert.ok(["0", "1", "2"].includes(chosen));
        const isGood = (node: string): boolean => chooser.health(node) === "good";
        if (["0", "1", "2"].some(isGood)) assert.ok(isGood(chosen));
        if (last !== undefined && isGood(last)) assert.equal(chosen, last);
        last = chosen;
      }
      chooser.setOffers([]);
      assert.equal(chooser.chosen.size, 0);
    }),
  );
});

const MAIN4 = JSON.stringify([
  { dst: "default", gateway: "192.168.1.1", dev: "eth0", flags: [] },
  { dst: "10.20.0.128/25", dev: "eth1", scope: "link" },
  { dst: "10.99.0.0/16", gateway: "192.168.1.2", dev: "eth0" },
  { dst: "100.64.0.0/16", dev: "weft0", scope: "link" },
  { dst: "192.168.1.0/24", dev: "eth0", scope: "link" },
  { type: "blackhole", dst: "203.0.113.0/24" },
]);

const plan = {
  family: 4,
  interface: "weft0",
  source: "100.64.0.2",
  overlay: "100.64.0.0/16",
  main: parseMainRoutes(MAIN4, 4),
  allowLan: false,
} as const;

test("a prefix behind a member never takes a network the machine is connected to", () => {
  assert.deepEqual(tableLines({ ...plan, prefixes: new Map([["10.20.0.0/24", 1400]]) }), [
    "unicast 10.20.0.0/24 dev weft0 mtu 1400 src 100.64.0.2",
    "throw 10.20.0.128/25",
    "unreachable 10.20.0.0/24 metric 9999",
  ]);
  assert.deepEqual(tableLines({ ...plan, prefixes: new Map([["192.168.1.0/24", 1400]]) }), ["throw 192.168.1.0/24"]);
  assert.deepEqual(tableLines({ ...plan, prefixes: new Map() }), []);
});

test("an exit takes everything but the overlay; connected networks only stay when asked for", () => {
  const prefixes = new Map([["0.0.0.0/0", 1400]]);
  assert.deepEqual(tableLines({ ...plan, prefixes }), [
    "unicast 0.0.0.0/0 dev weft0 mtu 1400 src 100.64.0.2",
    "throw 100.64.0.0/16",
  ]);
  assert.deepEqual(tableLines({ ...plan, prefixes, allowLan: true }), [
    "unicast 0.0.0.0/0 dev weft0 mtu 1400 src 100.64.0.2",
    "throw 10.20.0.128/25",
    "throw 192.168.1.0/24",
    "throw 100.64.0.0/16",
  ]);
});

test("IPv6 routes carry at least 1,280 bytes, and link-local stays local", () => {
  const main = parseMainRoutes(
    JSON.stringify([
      { dst: "fe80::/64", dev: "eth0" },
      { dst: "fd01::/64", dev: "eth0" },
    ]),
    6,
  );
  const lines = tableLines({
    ...plan,
    family: 6,
    source: "fd00::2",
    overlay: "fd00::/48",
    main,
    prefixes: new Map([
      ["::/0", 1200],
      ["10.0.0.0/8", 1200],
    ]),
  });
  assert.deepEqual(lines, ["unicast ::/0 dev weft0 mtu 1280 src fd00::2", "throw fe80::/64", "throw fd00::/48"]);
});

test("the devices towards a prefix: connected or routed, the default only when nothing else leads there", () => {
  const main = parseMainRoutes(MAIN4, 4);
  const towards = (text: string): string[] => devicesTowards([parseRoutePrefix(text)!], main, "weft0");
  assert.deepEqual(towards("10.20.0.0/24"), ["eth1"]);
  assert.deepEqual(towards("10.99.1.0/24"), ["eth0"]);
  assert.deepEqual(towards("198.51.100.0/24"), ["eth0"]);
  assert.deepEqual(towards("0.0.0.0/0"), ["eth0", "eth1"]);
});

test("a router keeps members from metadata services, and lets nobody outside begin a connection to a member", () => {
  const rules = natRules({ interface: "weft0", overlay4: "100.64.0.0/16", overlay6: "fd00::/48" });
  assert.match(rules, /oifname "weft0" ct state != \{ established, related \} drop/);
  for (const address of ["169.254.0.0/16", "168.63.129.16", "192.0.0.192", "100.100.100.200"])
    assert.match(rules, new RegExp(`iifname "weft0" ip daddr \\{[^}]*${address.replaceAll(".", "\\.")}[ ,]`), address);
  for (const address of ["fe80::/10", "fd00:ec2::254", "fd20:ce::254"])
    assert.match(rules, new RegExp(`iifname "weft0" ip6 daddr \\{[^}]*${address}[ ,]`), address);
  const shared = natRules({ interface: "weft0", overlay4: "100.100.0.0/16", overlay6: "fd00::/48" });
  assert.doesNotMatch(shared, /100\.100\.100\.200/, "a member may have that address");
});
