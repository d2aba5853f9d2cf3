import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { limitKey, parseProxyPrefix, TrustedProxies } from "./forwarded.ts";

const proxies = new TrustedProxies(["127.0.0.0/8", "::1", "10.0.0.0/24"]);

test("without a trusted proxy the connection's own address counts, whatever the headers say", () => {
  assert.equal(proxies.clientAddress("192.0.2.9", { "x-forwarded-for": "1.2.3.4" }), "192.0.2.9");
  assert.equal(proxies.clientAddress("::ffff:192.0.2.9", { forwarded: "for=1.2.3.4" }), "192.0.2.9");
});

test("a trusted proxy's header names the client, in every notation", () => {
  for (const [headers, client] of [
    [{ "x-forwarded-for": "192.0.2.9" }, "192.0.2.9"],
    [{ "x-forwarded-for": "192.0.2.9:4711" }, "192.0.2.9"],
    [{ "x-forwarded-for": ["8.8.8.8", "192.0.2.9"] }, "192.0.2.9"],
    [{ "x-forwarded-for": "2001:DB8:0::1" }, "2001:db8::1"],
    [{ forwarded: "for=192.0.2.9;proto=https;by=203.0.113.43" }, "192.0.2.9"],
    [{ forwarded: 'For="[2001:db8::1]:4711"' }, "2001:db8::1"],
    [{ forwarded: "for=8.8.8.8, for=192.0.2.9", "x-forwarded-for": "1.1.1.1" }, "192.0.2.9"],
    [{}, "127.0.0.1"],
    [{ forwarded: "for=unknown" }, "127.0.0.1"],
    [{ "x-forwarded-for": "no address" }, "127.0.0.1"],
  ] as const)
    assert.equal(proxies.clientAddress("127.0.0.1", headers as never), client, JSON.stringify(headers));
});

test("a client that writes the header itself gains nothing: only what trusted proxies added counts", () => {
  assert.equal(proxies.clientAddress("::1", { "x-forwarded-for": "1.1.1.1, 192.0.2.9, 10.0.0.7" }), "192.0.2.9");
  assert.equal(proxies.clientAddress("::1", { "x-forwarded-for": "10.0.0.1, 10.0.0.7" }), "10.0.0.1");
});

test("any header is read without an exception", () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.boolean(), (one, two, standard) => {
      const headers = standard ? { forwarded: one } : { "x-forwarded-for": [one, two] };
      assert.equal(typeof proxies.clientAddress("127.0.0.1", headers), "string");
    }),
  );
});

test("prefixes and limit keys", () => {
  assert.deepEqual(parseProxyPrefix("10.0.0.0/8"), { address: "10.0.0.0", bits: 8 });
  assert.deepEqual(parseProxyPrefix("::1"), { address: "::1", bits: 128 });
  for (const text of ["", "host", "10.0.0.0/33", "10.0.0.0/8/8", "10.0.0.0/-1"])
    assert.equal(parseProxyPrefix(text), undefined, text);
  assert.equal(limitKey("192.0.2.9"), "192.0.2.9");
  assert.equal(limitKey("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
});
