import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createHash } from "node:crypto";
import { decodeBase32, encodeBase32 } from "../base/base32.ts";
import { concat, utf8 } from "../base/bytes.ts";
import { endpointToBytes } from "../base/endpoint.ts";
import { formatIpv4Prefix, nextFreeIpv4, overlaps, parseIpv4Prefix, pickIpv4Prefix } from "./addresses.ts";
import { checkToken, decodeToken, describeSeconds, encodeToken, type InviteToken, TOKEN_PREFIX } from "./invite.ts";

const endpoint = fc
  .tuple(
    fc.oneof(
      fc.ipV4(),
      fc.ipV6().filter((text) => !text.toLowerCase().includes("ffff")),
    ),
    fc.integer({ min: 1, max: 65_535 }),
  )
  .map(([address, port]) => endpointToBytes({ address, port }));
const key = fc.uint8Array({ minLength: 32, maxLength: 32 });
function record<T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> {
  return fc.record(model, { noNullPrototype: true });
}

const token: fc.Arbitrary<InviteToken> = record({
  networkId: key,
  seed: key,
  expiresAtMs: fc.nat({ max: 2 ** 48 - 1 }),
  admins: fc.array(record({ nodeId: key, endpoints: fc.array(endpoint, { maxLength: 4 }) }), { maxLength: 4 }),
});

test("a token survives being written in capitals, with line breaks and blanks", () => {
  fc.assert(
    fc.property(token, fc.nat(20), (original, width) => {
      const text = encodeToken(original);
      assert.ok(text.startsWith(TOKEN_PREFIX));
      assert.deepEqual(decodeToken(text), original);
      const folded = text.toUpperCase().replace(new RegExp(`(.{${width + 8}})`, "g"), "$1 \n");
      assert.deepEqual(decodeToken(folded), original);
    }),
  );
});

const urls = fc.array(
  fc.domain().map((host) => `wss://${host}/weft`),
  { maxLength: 2 },
);

test("URLs of admins travel in the token, first ones first, at most four and 400 bytes; without any the token is as before", () => {
  fc.assert(
    fc.property(token, fc.array(urls, { minLength: 4, maxLength: 4 }), (original, lists) => {
      const admins = original.admins.map((admin, i) => ({ ...admin, urls: lists[i] }));
      const decoded = decodeToken(encodeToken({ ...original, admins }));
      const ranked = [0, 1].flatMap((rank) =>
        admins.map((admin) => admin.urls[rank]).filter((url) => url !== undefined),
      );
      const kept = decoded.admins.flatMap((admin) => admin.urls ?? []);
      if (ranked.length <= 4 && ranked.join("").length <= 400) assert.deepEqual(kept.toSorted(), ranked.toSorted());
      assert.ok(kept.length <= 4 && kept.join("").length <= 400);
      for (const [i, admin] of decoded.admins.entries()) {
        assert.deepEqual(admin.endpoints, original.admins[i].endpoints);
        assert.ok((admin.urls ?? []).every((url) => admins[i].urls.includes(url)));
      }
      const none = original.admins.map((admin) => ({ ...admin, urls: [] }));
      assert.equal(encodeToken({ ...original, admins: none }), encodeToken(original));
    }),
  );
});

/** A token with these bytes behind the admins. */
function extended(...extra: number[]): string {
  const plain = encodeToken({ networkId: new Uint8Array(32), seed: new Uint8Array(32), expiresAtMs: 1, admins: [one] });
  const bytes = decodeBase32(plain.slice(TOKEN_PREFIX.length)) ?? new Uint8Array();
  const body = concat(bytes.subarray(0, -4), Uint8Array.from(extra));
  const sum = createHash("sha256").update("weft invite token").update(body).digest().subarray(0, 4);
  return TOKEN_PREFIX + encodeBase32(concat(body, sum));
}
const one = { nodeId: new Uint8Array(32).fill(9), endpoints: [] };

test("an extension that this version does not know is skipped; a malformed one is damage", () => {
  const url = [...utf8("wss://a/")];
  assert.deepEqual(decodeToken(extended(200, 0, 3, 1, 2, 3)).admins, [one]);
  assert.deepEqual(decodeToken(extended(200, 0, 0, 1, 0, 9, 0, ...url)).admins, [{ ...one, urls: ["wss://a/"] }]);
  for (const extra of [
    [1],
    [200, 0, 3, 1, 2],
    [1, 0, 0],
    [1, 0, 9, 1, ...url],
    [1, 0, 9, 0, ...utf8("http://a")],
    Array.from({ length: 17 }, () => [200, 0, 0]).flat(),
  ])
    assert.throws(() => decodeToken(extended(...extra)), { code: "TOKEN_DAMAGED" }, extra.join(" "));
});

test("a token with one wrong, missing or doubled character is damaged, and says so", () => {
  fc.assert(
    fc.property(
      token,
      fc.nat(),
      fc.constantFrom(..."abcdefghijklmnopqrstuvwxyz234567189!"),
      (original, where, character) => {
        const text = encodeToken(original);
        const at = TOKEN_PREFIX.length + (where % (text.length - TOKEN_PREFIX.length));
        const wrong = text.slice(0, at) + character + text.slice(at + 1);
        if (wrong !== text) assert.throws(() => decodeToken(wrong), { code: "TOKEN_DAMAGED" });
        const missing = text.slice(0, at) + text.slice(at + 1);
        assert.throws(() => decodeToken(missing), { code: "TOKEN_DAMAGED" });
      },
    ),
  );
});

test("what is no token, or one of a later version, has its own error", () => {
  for (const text of ["", "hello", "https://example.org/", "weft-abc"])
    assert.throws(() => decodeToken(text), { code: "TOKEN_INVALID" });
  assert.throws(() => decodeToken("weft2-abcd"), { code: "TOKEN_VERSION" });
  assert.throws(() => decodeToken(TOKEN_PREFIX), { code: "TOKEN_DAMAGED" });
  assert.throws(() => decodeToken(TOKEN_PREFIX + "a".repeat(5000)), { code: "TOKEN_DAMAGED" });
  fc.assert(
    fc.property(fc.string(), (text) =>
      assert.throws(() => decodeToken(TOKEN_PREFIX + text), { code: "TOKEN_DAMAGED" }),
    ),
  );
});

test("the joining node judges expiry and network by itself", () => {
  const mine: InviteToken = {
    networkId: new Uint8Array(32).fill(1),
    seed: new Uint8Array(32),
    expiresAtMs: 1_800_000_000_000,
    admins: [],
  };
  checkToken(mine, mine.expiresAtMs - 1, undefined);
  checkToken(mine, mine.expiresAtMs - 1, mine.networkId);
  assert.throws(() => checkToken(mine, mine.expiresAtMs + 600_000, undefined), {
    code: "TOKEN_EXPIRED",
    message: /expired 10 min ago/,
  });
  assert.throws(() => checkToken(mine, 0, new Uint8Array(32)), { code: "TOKEN_FOREIGN" });
});

test("durations read like a person would say them", () => {
  assert.deepEqual([5, 119, 600, 7199, 7200, 172_800].map(describeSeconds), [
    "5 s",
    "119 s",
    "10 min",
    "120 min",
    "2 h",
    "2 d",
  ]);
});

test("IPv4 prefixes: only whole ones of 8 to 30 bits", () => {
  for (const text of ["10.0.0.0/8", "100.64.0.0/16", "192.168.7.4/30"])
    assert.equal(formatIpv4Prefix(parseIpv4Prefix(text) ?? { base: 0, bits: 0 }), text);
  for (const text of ["10.0.0.1/8", "10.0.0.0/7", "10.0.0.0/31", "10.0.0.0", "fd00::/48", "10.0.0.0/33", "x"])
    assert.equal(parseIpv4Prefix(text), undefined, text);
});

test("the default prefix is a /16 of 100.64.0.0/10 that overlaps nothing local", () => {
  fc.assert(
    fc.property(
      fc.nat(1000),
      fc.array(fc.tuple(fc.integer({ min: 64, max: 127 }), fc.nat(255), fc.integer({ min: 12, max: 32 })), {
        maxLength: 20,
      }),
      (seed, used) => {
        const avoid = used.map(([second, third, bits]) => `100.${second}.${third}.0/${bits}`);
        const picked = pickIpv4Prefix(seed, ["0.0.0.0/0", "192.168.0.0/16", ...avoid]);
        if (picked === undefined) return;
        assert.match(formatIpv4Prefix(picked), /^100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.0\.0\/16$/);
        for (const text of avoid) {
          const [address, bits] = text.split("/") as [string, string];
          const base = address.split(".").reduce((value, part) => value * 256 + Number(part), 0);
          assert.ok(!overlaps(picked, { base, bits: Number(bits) }), text);
        }
      },
    ),
  );
  assert.equal(pickIpv4Prefix(3, ["100.64.0.0/10"]), undefined);
});

test("the next free address skips taken ones, wraps once, and ends", () => {
  const prefix = { base: 0x0a000000, bits: 29 };
  const taken = new Set<number>();
  const given: number[] = [];
  for (let after = prefix.base + 4; ; after = given.at(-1) as number) {
    const next = nextFreeIpv4(prefix, after, taken);
    if (next === undefined) break;
    taken.add(next);
    given.push(next);
  }
  assert.deepEqual(
    given.map((value) => value - prefix.base),
    [5, 6, 1, 2, 3, 4],
  );
  assert.equal(nextFreeIpv4(prefix, 0, new Set()), prefix.base + 1);
});
