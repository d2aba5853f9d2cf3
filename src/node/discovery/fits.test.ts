import assert from "node:assert/strict";
import { BlockList } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import { endpointToBytes, formatAddress, parseAddress, parseEndpoint } from "../../base/endpoint.ts";
import type { LocalAddress } from "./fits.ts";
import { candidateFits, isOnLink, localAddress, scopeOf } from "./fits.ts";

const at = (text: string): Uint8Array => {
  const endpoint = parseEndpoint(text);
  assert.ok(endpoint !== undefined, text);
  return endpointToBytes(endpoint);
};
const on = (...cidrs: readonly string[]): LocalAddress[] =>
  cidrs.map((cidr) => {
    const [address = "", bits = ""] = cidr.split("/");
    const loopback = address === "::1" || address.startsWith("127.");
    return localAddress(address, Number(bits), loopback) as LocalAddress;
  });

const HOME = on("192.168.1.7/24", "2001:db8:1::7/64");

test("global addresses fit everywhere", () => {
  for (const text of ["198.51.100.1:9338", "[2001:db8:9::1]:9338", "8.8.8.8:1"]) {
    assert.equal(candidateFits(at(text), HOME), true, text);
    assert.equal(candidateFits(at(text), []), true, text);
  }
});

test("a private address fits a host in the same private block, on its subnet or a routed one", () => {
  assert.equal(candidateFits(at("192.168.1.20:9338"), HOME), true);
  assert.equal(candidateFits(at("192.168.44.20:9338"), HOME), true);
  assert.equal(candidateFits(at("10.1.2.3:9338"), HOME), false);
  assert.equal(candidateFits(at("172.16.0.1:9338"), HOME), false);
  assert.equal(candidateFits(at("172.31.0.1:9338"), on("172.16.9.9/20")), true);
  assert.equal(candidateFits(at("172.32.0.1:9338"), HOME), true, "172.32/12 is global");
  assert.equal(candidateFits(at("192.168.1.20:9338"), []), false);
});

test("a carrier's address fits only behind the same kind of carrier", () => {
  assert.equal(candidateFits(at("100.64.3.4:9338"), HOME), false);
  assert.equal(candidateFits(at("100.64.3.4:9338"), on("100.127.0.9/16")), true);
  assert.equal(candidateFits(at("100.128.3.4:9338"), HOME), true, "100.128/9 is global");
});

test("link-local addresses fit only with an IPv4 one of this host, never as IPv6", () => {
  assert.equal(candidateFits(at("169.254.3.4:9338"), HOME), false);
  assert.equal(candidateFits(at("169.254.3.4:9338"), on("169.254.9.9/16")), true);
  assert.equal(candidateFits(at("[fe80::1]:9338"), on("fe80::2/64")), false);
});

test("a unique local IPv6 address fits within its site", () => {
  assert.equal(candidateFits(at("[fd12:3456:789a:2::1]:9338"), on("fd12:3456:789a:1::1/64")), true);
  assert.equal(candidateFits(at("[fd12:3456:789b:1::1]:9338"), on("fd12:3456:789a:1::1/64")), false);
});

test("loopback fits only where the node listens on loopback, and does not open private blocks", () => {
  assert.equal(candidateFits(at("127.0.0.1:9338"), HOME), false);
  assert.equal(candidateFits(at("127.0.0.1:9338"), on("127.0.0.1/8")), true);
  assert.equal(candidateFits(at("[::1]:9338"), on("::1/128")), true);
  assert.equal(candidateFits(at("[::1]:9338"), HOME), false);
});

test("what never is one node's address does not fit", () => {
  for (const text of [
    "0.0.0.0:1",
    "0.1.2.3:1",
    "224.0.0.251:1",
    "255.255.255.255:1",
    "240.0.0.1:1",
    "[::]:1",
    "[ff02::1]:1",
  ]) {
    assert.equal(candidateFits(at(text), HOME), false, text);
  }
  assert.equal(candidateFits(at("[100::1:0:0:5]:1"), HOME), false, "virtual endpoints are no candidates");
  assert.equal(candidateFits(at("192.168.1.255:9338"), HOME), false, "the subnet's broadcast address");
  assert.equal(candidateFits(at("192.168.1.255:9338"), on("192.168.0.1/22")), true, "in a larger subnet it is a host");
  assert.equal(candidateFits(new Uint8Array(17), HOME), false);
  const noPort = at("198.51.100.1:1");
  noPort[16] = 0;
  assert.equal(candidateFits(noPort, HOME), false);
});

test("this node itself is no candidate, another node on this machine is", () => {
  assert.equal(candidateFits(at("192.168.1.7:9338"), HOME, [9338]), false);
  assert.equal(candidateFits(at("192.168.1.7:9339"), HOME, [9338]), true);
  assert.equal(candidateFits(at("[2001:db8:1::7]:9338"), HOME, [9338]), false);
});

test("on-link means a subnet of this host", () => {
  assert.equal(isOnLink(at("192.168.1.200:1"), HOME), true);
  assert.equal(isOnLink(at("192.168.2.200:1"), HOME), false);
  assert.equal(isOnLink(at("[2001:db8:1::abcd]:1"), HOME), true);
  assert.equal(isOnLink(at("[2001:db8:2::abcd]:1"), HOME), false);
});

test("private scopes are those of the registries, for every IPv4 address", () => {
  const list = new BlockList();
  for (const [net, bits] of [
    ["10.0.0.0", 8],
    ["172.16.0.0", 12],
    ["192.168.0.0", 16],
  ] as const)
    list.addSubnet(net, bits);
  fc.assert(
    fc.property(fc.ipV4(), (text) => {
      const isPrivate = scopeOf(parseAddress(text) as Uint8Array) === "private";
      assert.equal(isPrivate, list.check(text), text);
    }),
    { numRuns: 2000, examples: [["172.15.255.255"], ["172.32.0.0"], ["192.167.255.255"], ["11.0.0.0"]] },
  );
});

test("a private candidate fits exactly when an interface is in its block, whatever the order of interfaces", () => {
  const reference = new Map([
    ["10.", "10."],
    ["192.168.", "192.168."],
  ]);
  fc.assert(
    fc.property(
      fc.array(fc.ipV4(), { maxLength: 4 }),
      fc.constantFrom("10.", "192.168."),
      fc.nat(250),
      (hosts, block, n) => {
        const interfaces = on(...hosts.map((host) => `${host}/32`)).map((local) => ({ ...local, loopback: false }));
        const candidate = `${block === "10." ? "10.9.9" : "192.168.9"}.${n + 1}`;
        const expected = hosts.some((host) => host.startsWith(reference.get(block) as string));
        assert.equal(
          candidateFits(at(`${candidate}:1`), interfaces),
          expected,
          formatAddress(parseAddress(candidate) as Uint8Array),
        );
        assert.equal(candidateFits(at(`${candidate}:1`), interfaces.toReversed()), expected);
      },
    ),
  );
});
