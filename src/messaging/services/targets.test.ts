import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseAddress } from "../../base/endpoint.ts";
import { decodeOpening, encodeOpening, hostBytes, OPENING_BYTES } from "./opening.ts";
import {
  allowLine,
  type AllowRule,
  allowsTarget,
  formatNodeTarget,
  mayLookUp,
  parseListenAddress,
  parseNodeTarget,
  parseTargetRule,
  type Place,
  type TargetRule,
} from "./targets.ts";

const PEER = { id: "w1abc", name: "laptop", tags: ["ops"] };
const at = (text: string): Uint8Array => parseAddress(text) as Uint8Array;
const place = (address: string, port: number, name = ""): Place => ({ name, address: at(address), port, isOwn: false });
const rule = (peers: readonly string[] | undefined, ...targets: string[]): AllowRule => ({
  peers,
  targets: targets.map((text) => parseTargetRule(text) as TargetRule),
});

test("targets are read as people write them, and written back the same", () => {
  for (const [text, node, host, port] of [
    ["nas:80", "nas", "", 80],
    ["nas:localhost:80", "nas", "", 80],
    ["nas:10.0.0.5:443", "nas", "10.0.0.5", 443],
    ["nas:db.internal:5432", "nas", "db.internal", 5432],
    ["100.64.0.2:22", "100.64.0.2", "", 22],
    ["[fd00::1]:22", "fd00::1", "", 22],
    ["nas:[fd00::2]:22", "nas", "fd00::2", 22],
  ] as const) {
    const parsed = parseNodeTarget(text);
    assert.deepEqual(parsed, { node, target: { host, port } }, text);
    assert.equal(formatNodeTarget(parsed as never), text.replace(":localhost", ""));
  }
  for (const text of [
    "nas",
    "nas:",
    "nas:0",
    "nas:65536",
    "nas:a b:80",
    ":80",
    "nas:10.0.0.300:80",
    "a:b:c:80",
    "nas:-x:1",
  ])
    assert.equal(parseNodeTarget(text), undefined, text);
});

test("a port alone listens on loopback", () => {
  assert.deepEqual(parseListenAddress("8080"), { address: "127.0.0.1", port: 8080 });
  assert.deepEqual(parseListenAddress("0.0.0.0:80"), { address: "0.0.0.0", port: 80 });
  assert.deepEqual(parseListenAddress("[::1]:0"), { address: "::1", port: 0 });
  for (const text of ["", "x", "70000", "host:80", "1.2.3:80"]) assert.equal(parseListenAddress(text), undefined, text);
});

test("without rules nobody reaches anything, and a rule for loopback opens loopback alone", () => {
  const rules = [rule(undefined, "loopback:80")];
  const may = (address: string, name = ""): boolean => allowsTarget(rules, PEER, place(address, 80, name));
  for (const address of ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]) {
    assert.ok(may(address), address);
    assert.equal(allowsTarget([], PEER, place(address, 80)), false, address);
    assert.equal(allowsTarget(rules, PEER, place(address, 81)), false, address);
  }
  for (const address of ["10.0.0.1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "::2", "128.0.0.1"])
    assert.equal(may(address), false, address);
});

test("rules name peers, hosts and ports, and what they do not name is refused", () => {
  const rules = [
    rule(["laptop"], "10.0.0.0/24:22", "db.internal:5432"),
    rule(["tag:ops"], "[fd00::/8]:1-1023"),
    rule(["other"], "*:*", "loopback:*"),
  ];
  const may = (address: string, port: number, name = ""): boolean =>
    allowsTarget(rules, PEER, place(address, port, name));
  assert.ok(may("10.0.0.7", 22));
  assert.equal(may("10.0.1.7", 22), false);
  assert.equal(may("10.0.0.7", 23), false);
  assert.ok(may("192.0.2.1", 5432, "DB.internal"));
  assert.equal(may("192.0.2.1", 5432, "evil.example"), false);
  assert.equal(may("192.0.2.1", 5432), false);
  assert.ok(may("fd12::1", 443));
  assert.equal(may("fd12::1", 8080), false);
  assert.equal(may("127.0.0.1", 22), false);
  assert.equal(mayLookUp(rules, PEER, "db.internal", 9999), false);
  assert.ok(mayLookUp(rules, PEER, "db.internal", 5432));
  assert.equal(mayLookUp(rules, PEER, "evil.example", 5432), false);
  assert.equal(mayLookUp([rule(undefined, "loopback:*")], PEER, "db.internal", 5432), false);
  assert.ok(mayLookUp(rules, { ...PEER, name: "other" }, "evil.example", 9999));
});

test("a rule for any host does not open the machine itself, and 0.0.0.0 is never a target", () => {
  const rules = [rule(undefined, "*:*")];
  assert.ok(allowsTarget(rules, PEER, place("192.0.2.1", 1)));
  for (const address of ["127.0.0.1", "::1", "0.0.0.0", "::"])
    assert.equal(allowsTarget(rules, PEER, place(address, 1)), false, address);
});

test("loopback and metadata services are opened by rules that mean them, and by no wider one", () => {
  const special = ["127.0.0.1", "127.0.1.1", "::1", "169.254.169.254", "fe80::1", "fd00:ec2::254", "168.63.129.16"];
  const wide = [
    "*:*",
    "0.0.0.0/0:*",
    "[::/0]:*",
    "126.0.0.0/7:*",
    "169.0.0.0/8:*",
    "[::/64]:*",
    "[fd00::/8]:*",
    "nas:*",
  ];
  for (const address of special) {
    for (const text of wide)
      assert.equal(allowsTarget([rule(undefined, text)], PEER, place(address, 1, "nas")), false, `${text} ${address}`);
    const bracketed = address.includes(":") ? `[${address}]` : address;
    assert.ok(allowsTarget([rule(undefined, `${bracketed}:1`)], PEER, place(address, 1)), address);
  }
  assert.ok(allowsTarget([rule(undefined, "169.254.0.0/16:80")], PEER, place("169.254.169.254", 80)));
  assert.ok(allowsTarget([rule(undefined, "127.0.0.0/8:80")], PEER, place("127.0.0.1", 80)));
  assert.equal(allowsTarget([rule(undefined, "loopback:*")], PEER, place("169.254.169.254", 80)), false);
});

test("a rule for any host leaves out the addresses of the machine itself, one that names them does not", () => {
  const own = { ...place("10.0.0.5", 22, "nas"), isOwn: true };
  for (const text of ["*:22", "0.0.0.0/0:22"]) {
    assert.equal(allowsTarget([rule(undefined, text)], PEER, own), false, text);
    assert.ok(allowsTarget([rule(undefined, text)], PEER, { ...own, isOwn: false }), text);
  }
  for (const text of ["10.0.0.0/24:22", "10.0.0.5:22", "nas:22"])
    assert.ok(allowsTarget([rule(undefined, text)], PEER, own), text);
});

test("the line that would allow a target allows that target", () => {
  for (const [host, address] of [
    ["", "127.0.0.1"],
    ["10.0.0.5", "10.0.0.5"],
    ["fd00::2", "fd00::2"],
  ] as const) {
    const text = /targets = \["(.*)"\]/.exec(allowLine("laptop", { host, port: 80 }))?.[1] ?? "";
    assert.ok(allowsTarget([rule(["laptop"], text)], PEER, place(address, 80)), text);
  }
});

test("what is no rule is not taken for one", () => {
  for (const text of [
    "loopback",
    "10.0.0.0/33:1",
    "10.0.0.0/8/8:1",
    "[::1/129]:1",
    "x:5-4",
    "x:0",
    "x:1-70000",
    "a b:1",
    "",
  ])
    assert.equal(parseTargetRule(text), undefined, text);
});

test("an IPv4 prefix judges as its numbers do", () => {
  const u32 = fc.integer({ min: 0, max: 0xffffffff });
  const text = (value: number): string =>
    [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255].join(".");
  fc.assert(
    fc.property(u32, u32, fc.integer({ min: 0, max: 32 }), (base, other, bits) => {
      // loopback and metadata services have rules of their own
      fc.pre(![127, 169, 168, 192, 100].includes(other >>> 24) && other !== 0);
      const expected = bits === 0 || base >>> (32 - bits) === other >>> (32 - bits);
      const rules = [rule(undefined, `${text(base)}/${bits}:80`)];
      assert.equal(allowsTarget(rules, PEER, place(text(other), 80)), expected);
    }),
  );
});

test("an opening survives the way, and no bytes make the decoder fail", () => {
  for (const target of [
    { host: "", port: 1 },
    { host: "10.0.0.5", port: 65_535 },
    { host: `${"a".repeat(240)}.internal`, port: 443 },
  ]) {
    const bytes = encodeOpening(target);
    const head = bytes.subarray(0, OPENING_BYTES);
    assert.equal(hostBytes(head), target.host.length);
    assert.deepEqual(decodeOpening(head, bytes.subarray(OPENING_BYTES)), target);
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const decoded = decodeOpening(bytes.subarray(0, OPENING_BYTES), bytes.subarray(OPENING_BYTES));
      if (decoded !== undefined) assert.deepEqual(encodeOpening(decoded), bytes);
    }),
  );
});
