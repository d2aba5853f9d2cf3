import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { endpointToBytes, formatEndpoint, endpointFromBytes, parseEndpoint } from "../../base/endpoint.ts";
import type { LocalAddress } from "./fits.ts";
import { localAddress } from "./fits.ts";
import type { NatMapping } from "./nat-kind.ts";
import { isHardMapping, NatClassifier } from "./nat-kind.ts";

const at = (text: string): Uint8Array => endpointToBytes(parseEndpoint(text) ?? assert.fail(text));
const LOCAL = [
  localAddress("192.168.1.7", 24, false) as LocalAddress,
  localAddress("2001:db8:1::7", 64, false) as LocalAddress,
];
const PUBLIC = "198.51.100.5";

function classifier(): NatClassifier {
  const nat = new NatClassifier();
  nat.setLocal(LOCAL, [9338]);
  return nat;
}

test("nobody has said anything: unknown", () => {
  assert.equal(classifier().report(0, 4).mapping, "unknown");
});

test("seen under its own address and port: no NAT", () => {
  const nat = classifier();
  nat.observe(0, at("[2001:db8:9::1]:3478"), at("[2001:db8:1::7]:9338"));
  assert.equal(nat.report(0, 6).mapping, "none");
  assert.equal(nat.report(0, 4).mapping, "unknown");
});

test("one destination alone does not tell the kind", () => {
  const nat = classifier();
  nat.observe(0, at("203.0.113.1:3478"), at(`${PUBLIC}:40000`));
  nat.observe(0, at("203.0.113.1:3479"), at(`${PUBLIC}:40000`));
  const found = nat.report(0, 4);
  assert.equal(found.mapping, "unknown");
  assert.deepEqual(
    found.mapped.map((one) => formatEndpoint(endpointFromBytes(one))),
    [`${PUBLIC}:40000`],
  );
});

/** A NAT of each kind (RFC 4787) as a plain function: which external port a destination sees. */
const KINDS: Readonly<Record<string, (address: string, port: number) => string>> = {
  "endpoint-independent": () => "one",
  "address-dependent": (address) => address,
  "address-and-port-dependent": (address, port) => `${address} ${port}`,
};

test("each kind of NAT is recognised from any set of destinations that can tell it", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.keys(KINDS)),
      fc.uniqueArray(fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 4 })), {
        minLength: 1,
        maxLength: 12,
        selector: (pair) => pair.join(" "),
      }),
      (kind, destinations) => {
        const nat = classifier();
        const ports = new Map<string, number>();
        for (const [host, port] of destinations) {
          const key = KINDS[kind](String(host), port);
          if (!ports.has(key)) ports.set(key, 40_000 + ports.size * 997);
          nat.observe(0, at(`203.0.113.${host}:${port}`), at(`${PUBLIC}:${ports.get(key)}`));
        }
        const hosts = new Set(destinations.map(([host]) => host));
        const hasTwoPorts = [...hosts].some((host) => destinations.filter(([other]) => other === host).length > 1);
        let expected: NatMapping;
        if (kind === "endpoint-independent") expected = hosts.size > 1 ? "endpoint-independent" : "unknown";
        else if (kind === "address-dependent")
          expected = hosts.size === 1 ? "unknown" : hasTwoPorts ? "address-dependent" : "dependent";
        else expected = hasTwoPorts ? "address-and-port-dependent" : hosts.size > 1 ? "dependent" : "unknown";
        assert.equal(nat.report(0, 4).mapping, expected);
        assert.equal(isHardMapping(expected), expected.endsWith("dependent") && expected !== "endpoint-independent");
      },
    ),
  );
});

test("a neighbour on the subnet and a destination in another scope do not make an easy NAT look hard", () => {
  const nat = classifier();
  nat.observe(0, at("192.168.1.20:9338"), at("192.168.1.7:9338"));
  nat.observe(0, at("100.64.0.9:9338"), at("100.64.0.5:9338"));
  nat.observe(0, at("203.0.113.1:3478"), at(`${PUBLIC}:40000`));
  nat.observe(0, at("203.0.113.2:3478"), at(`${PUBLIC}:40000`));
  assert.equal(nat.report(0, 4).mapping, "endpoint-independent");
});

test("an easy NAT that forgot and mapped anew does not look hard for long, and a hard one stays hard", () => {
  const nat = classifier();
  nat.observe(0, at("203.0.113.1:1"), at(`${PUBLIC}:40000`));
  nat.observe(100_000, at("203.0.113.2:1"), at(`${PUBLIC}:41000`));
  assert.equal(nat.report(100_000, 4).mapping, "dependent");
  nat.observe(125_000, at("203.0.113.3:1"), at(`${PUBLIC}:41000`));
  assert.equal(nat.report(125_000, 4).mapping, "endpoint-independent");
  assert.equal(nat.report(726_000, 4).mapping, "unknown", "observations do not live for ever");

  const hard = classifier();
  for (let i = 1; i < 5; i++) hard.observe(0, at(`203.0.113.${i}:1`), at(`${PUBLIC}:${40_000 + i * 500}`));
  hard.observe(300_000, at("203.0.113.9:1"), at(`${PUBLIC}:60000`));
  assert.equal(hard.report(300_000, 4).mapping, "dependent");
});

test("what was observed at another place is forgotten, and observations are bounded", () => {
  const nat = classifier();
  for (let i = 0; i < 1000; i++) nat.observe(i, at(`203.0.113.1:${i + 1}`), at(`${PUBLIC}:40000`));
  assert.equal(nat.size, 64);
  nat.setLocal(LOCAL, [9338]);
  assert.equal(nat.size, 64);
  nat.setLocal([localAddress("10.0.0.5", 8, false) as LocalAddress], [9338]);
  assert.equal(nat.size, 0);
});

test("external ports are told to be preserved, sequential or random", () => {
  const ports = (...list: readonly number[]): ReturnType<NatClassifier["report"]> => {
    const nat = classifier();
    for (const [i, port] of list.entries()) nat.observe(i, at(`203.0.113.${i + 1}:1`), at(`${PUBLIC}:${port}`));
    return nat.report(10, 4);
  };
  assert.equal(ports(9338, 9338).ports, "preserved");
  assert.equal(ports(40_000, 40_002, 40_003, 40_007).ports, "sequential");
  assert.equal(ports(40_000, 40_002, 40_004).portStep, 2);
  assert.equal(ports(40_000, 2_000, 51_000).ports, "random");
  assert.equal(ports(40_000, 40_001).ports, "unknown");
});
