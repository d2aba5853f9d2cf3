import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { endpointToBytes } from "../base/endpoint.ts";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import { decodeControl, encodeControl } from "./control.ts";
import { MAX_ENDPOINT_MESSAGE_BYTES, MAX_ENDPOINTS, openEndpoints, signEndpoints } from "./endpoints.ts";
import { systemKeys } from "./keys.ts";
import {
  boundOffers,
  MAX_OFFERED_PREFIXES,
  MAX_OFFERED_SERVICES,
  type Offers,
  parseService,
  readOffers,
  sameOffers,
} from "./offers.ts";
import { formatRoutePrefix, parseRoutePrefix, type RoutePrefix } from "./route-prefix.ts";

const random = new SeededRandom(3);
const networkId = random.bytes(32);
const identity = Identity.generate(random);
const prefix = (text: string): RoutePrefix => parseRoutePrefix(text)!;

function carried(offers: Offers, urls: readonly string[] = []): Offers | undefined {
  const endpoints = Array.from({ length: MAX_ENDPOINTS }, (_, i) =>
    endpointToBytes({ address: `2001:db8::${i}`, port: 9338 }),
  );
  const signed = signEndpoints(endpoints, 2 ** 52, 2 ** 52, networkId, identity, urls, offers);
  assert.ok(signed.wire.length <= MAX_ENDPOINT_MESSAGE_BYTES, `${signed.wire.length} bytes`);
  const message = decodeControl(encodeControl({ type: "endpoints", wires: [signed.wire] }));
  assert.equal(typeof message, "object", "it fits a control message");
  const opened = openEndpoints(signed.wire, networkId, systemKeys);
  assert.deepEqual(opened?.offers, signed.offers);
  return opened?.offers;
}

test("prefixes of both families and services travel in the signed endpoint message", () => {
  const offers: Offers = {
    prefixes: [prefix("10.20.0.0/24"), prefix("0.0.0.0/0"), prefix("::/0"), prefix("fd12::/64")],
    services: [{ label: "_http._tcp", port: 8080 }],
  };
  const found = carried(offers);
  assert.deepEqual(found?.prefixes.map(formatRoutePrefix).toSorted(), [
    "0.0.0.0/0",
    "10.20.0.0/24",
    "::/0",
    "fd12::/64",
  ]);
  assert.deepEqual(found?.services, offers.services);
});

test("a message without offers is what it was before there were any", () => {
  const plain = signEndpoints([], 1, 2, networkId, identity);
  assert.ok(!Buffer.from(plain.wire).includes("prefixes"));
  assert.deepEqual(openEndpoints(plain.wire, networkId, systemKeys)?.offers, { prefixes: [], services: [] });
});

test("however much is offered, addresses stay and the message keeps its size: services give way first", () => {
  const offers: Offers = {
    prefixes: Array.from({ length: 40 }, (_, i) => prefix(`2001:db8:${(i + 1).toString(16)}::/48`)),
    services: Array.from({ length: 20 }, (_, i) => ({ label: "_abcdefghijklmno._tcp", port: 60_000 + i })),
  };
  assert.equal(boundOffers(offers).prefixes.length, MAX_OFFERED_PREFIXES);
  assert.equal(boundOffers(offers).services.length, MAX_OFFERED_SERVICES);
  const url = (i: number): string => `wss://${"a".repeat(60)}.${"b".repeat(60)}.example.org/${"c".repeat(50)}${i}`;
  const found = carried(offers, [url(1), url(2)]);
  assert.ok((found?.prefixes.length ?? 0) > 0);
  assert.deepEqual(found?.services, []);
});

test("what a service may be called", () => {
  assert.deepEqual(parseService("_ssh._tcp:22"), { label: "_ssh._tcp", port: 22 });
  for (const text of [
    "ssh:22",
    "_ssh._tcp",
    "_ssh._tcp:0",
    "_ssh._tcp:65536",
    "_ssh._sctp:22",
    "_SSH._tcp:22",
    "_-a._tcp:1",
    "_ssh._tcp:22:1",
    `_${"a".repeat(16)}._tcp:1`,
  ])
    assert.equal(parseService(text), undefined, text);
});

test("property: any offers come back bounded, and equal to themselves", () => {
  const any4 = fc.tuple(fc.uint8Array({ minLength: 4, maxLength: 4 }), fc.nat(32));
  const any6 = fc.tuple(fc.uint8Array({ minLength: 16, maxLength: 16 }), fc.nat(128));
  fc.assert(
    fc.property(fc.array(fc.oneof(any4, any6), { maxLength: 30 }), (pairs) => {
      const prefixes = pairs.map(([address, bits]): RoutePrefix => {
        const masked = Uint8Array.from(address, (byte, i) =>
          bits >= (i + 1) * 8 ? byte : bits <= i * 8 ? 0 : byte & (0xff << ((i + 1) * 8 - bits)),
        );
        return { family: address.length === 4 ? 4 : 6, address: masked, bits };
      });
      const found = carried({ prefixes, services: [] });
      assert.ok(found !== undefined && sameOffers(found, boundOffers({ prefixes, services: [] })));
    }),
    { numRuns: 200 },
  );
});

test("fuzz: fields of any kind are read or refused, never thrown", () => {
  const value = fc.oneof(fc.integer(), fc.string(), fc.uint8Array({ maxLength: 20 }), fc.constant(null), fc.boolean());
  const list = fc.array(fc.oneof(value, fc.array(value, { maxLength: 3 })), { maxLength: 20 });
  fc.assert(
    fc.property(fc.oneof(value, list), fc.oneof(value, list), (prefixes, services) => {
      const found = readOffers({ prefixes, services });
      if (found === undefined) return;
      assert.ok(found.prefixes.length <= MAX_OFFERED_PREFIXES && found.services.length <= MAX_OFFERED_SERVICES);
    }),
    { numRuns: 2_000 },
  );
});
