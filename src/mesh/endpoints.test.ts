import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compare, concat } from "../base/bytes.ts";
import { endpointToBytes, parseEndpoint } from "../base/endpoint.ts";
import { SeededRandom } from "../base/random.ts";
import { Identity } from "../crypto/identity.ts";
import { compareEndpoints, listEndpoints } from "./endpoint-sync.ts";
import {
  EndpointCache,
  type EndpointMessage,
  isUsableEndpoint,
  MAX_ENDPOINT_MESSAGE_BYTES,
  MAX_ENDPOINTS,
  Offer,
  openEndpoints,
  signEndpoints,
} from "./endpoints.ts";
import { encodeCbor } from "./cbor.ts";
import { SignKind, systemKeys } from "./keys.ts";
import { NO_OFFERS } from "./offers.ts";
import { decodeControl, encodeControl } from "./control.ts";

const random = new SeededRandom(1);
const networkId = random.bytes(32);
const identity = Identity.generate(random);
const DAY = 86_400_000;

function at(text: string): Uint8Array {
  const endpoint = parseEndpoint(text);
  assert.ok(endpoint !== undefined, text);
  return endpointToBytes(endpoint);
}

/** Unsigned, for tests of the cache alone. */
function message(node: number, hlc: number, expiresAtMs = DAY): EndpointMessage {
  const nodeId = new Uint8Array(32).fill(node & 255);
  nodeId[0] = node >>> 8;
  return {
    nodeId,
    endpoints: [at(`10.0.0.1:${1 + (hlc % 60_000)}`)],
    urls: [],
    offers: NO_OFFERS,
    hlc,
    expiresAtMs,
    wire: nodeId,
  };
}

test("a signed message opens in its network only, and not when a byte is changed", () => {
  const signed = signEndpoints([at("1.2.3.4:5"), at("[2001:db8::1]:6")], 7, DAY, networkId, identity);
  const opened = openEndpoints(signed.wire, networkId, systemKeys);
  assert.deepEqual(opened, signed);
  assert.equal(openEndpoints(signed.wire, new Uint8Array(32), systemKeys), undefined);
  for (let i = 0; i < signed.wire.length; i += 3) {
    const changed = signed.wire.slice();
    changed[i] = changed[i] ^ 4;
    assert.equal(openEndpoints(changed, networkId, systemKeys), undefined, `byte ${i}`);
  }
});

test("URLs travel with the endpoints: at most two, only ones that can be opened, and a message without any has the old bytes", () => {
  const urls = ["wss://relay.example.org/weft", "ws://192.0.2.7:8080/"];
  const wanted = ["https://example.org/", urls[0], urls[0], urls[1], "wss://third.example.org/"];
  const signed = signEndpoints([at("1.2.3.4:5")], 7, DAY, networkId, identity, wanted);
  assert.deepEqual(signed.urls, urls);
  assert.deepEqual(openEndpoints(signed.wire, networkId, systemKeys), signed);
  const plain = signEndpoints([at("1.2.3.4:5")], 7, DAY, networkId, identity);
  assert.deepEqual(signEndpoints([at("1.2.3.4:5")], 7, DAY, networkId, identity, []).wire, plain.wire);
  const fields = { node: identity.nodeId, endpoints: [at("1.2.3.4:5")], hlc: 7, expires: DAY };
  assert.deepEqual(plain.wire.slice(64), encodeCbor(fields));
  const longest = Array.from({ length: 8 }, (_, i) => at(`[2001:db8::${i + 1}]:65535`));
  const long = ["a", "b"].map((letter) => `wss://relay.example.org/${letter.repeat(176)}`);
  const largest = signEndpoints(longest, 2 ** 52, 2 ** 52, networkId, identity, long);
  assert.deepEqual(largest.urls, long);
  assert.ok(largest.wire.length <= MAX_ENDPOINT_MESSAGE_BYTES, `${largest.wire.length} bytes`);
  const cache = new EndpointCache();
  cache.offer(signed, 0);
  assert.deepEqual(cache.urls(identity.nodeId), urls);
  assert.deepEqual(cache.urls(new Uint8Array(32)), []);
});

test("a foreign message's URL that nobody may open is left out, and a list that is too long refuses the message", () => {
  const sign = (urls: unknown): Uint8Array => {
    const fields = { node: identity.nodeId, endpoints: [], urls: urls as string[], hlc: 1, expires: DAY };
    const payload = encodeCbor(fields);
    return concat(identity.sign(SignKind.ENDPOINTS, networkId, payload), payload);
  };
  const open = (urls: unknown): readonly string[] | undefined => openEndpoints(sign(urls), networkId, systemKeys)?.urls;
  assert.deepEqual(open(["http://127.0.0.1/", "wss://host/"]), ["wss://host/"]);
  assert.deepEqual(open(["wss://user@host/"]), []);
  assert.equal(open(["wss://a/", "wss://b/", "wss://c/"]), undefined);
  assert.equal(open([7]), undefined);
  assert.equal(open("wss://a/"), undefined);
});

test("hostile bytes are refused without an exception", () => {
  const anything = { ...systemKeys, verify: () => true };
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
      assert.equal(openEndpoints(bytes, networkId, anything), undefined);
      assert.equal(new EndpointCache().import(bytes, networkId, anything), 0);
    }),
  );
});

test("addresses that cannot be dialled are left out, doubles too, and at most eight are kept", () => {
  for (const text of ["0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1", "[::]:1", "[100::201:0:7]:1"])
    assert.equal(isUsableEndpoint(at(text)), false, text);
  assert.equal(isUsableEndpoint(new Uint8Array(18)), false);
  const many = Array.from({ length: 12 }, (_, i) => at(`1.2.3.4:${1000 + i}`));
  const signed = signEndpoints([at("0.0.0.0:1"), at("1.2.3.4:1000"), ...many], 1, DAY, networkId, identity);
  assert.deepEqual(signed.endpoints, many.slice(0, MAX_ENDPOINTS));
  assert.ok(signed.wire.length <= 512);
});

test("the newer message wins whatever the order", () => {
  const cache = new EndpointCache();
  assert.equal(cache.offer(message(1, 5), 0), Offer.NEWER);
  assert.equal(cache.offer(message(1, 4), 0), Offer.OLD);
  assert.equal(cache.offer(message(1, 5), 0), Offer.OLD);
  assert.equal(cache.offer(message(1, 6), 1000), Offer.NEWER);
  assert.equal(cache.message(message(1, 0).nodeId)?.hlc, 6);
  assert.equal(cache.ageMs(message(1, 0).nodeId, 3500), 2500);
});

test("the cache is bounded; the node heard of longest ago goes and is counted", () => {
  const cache = new EndpointCache(100);
  for (let i = 0; i < 250; i++) {
    cache.offer(message(i, 1), 0);
    cache.offer(message(0, i + 2), 0);
  }
  assert.equal(cache.size, 100);
  assert.equal(cache.evicted, 150);
  assert.ok(cache.message(message(0, 0).nodeId) !== undefined);
  assert.equal(cache.message(message(1, 0).nodeId), undefined);
  assert.ok(cache.message(message(249, 0).nodeId) !== undefined);
});

test("candidates: reached last, then signed, then reached before; after expiry what was reached comes first", () => {
  const cache = new EndpointCache();
  const node = message(1, 5);
  cache.offer(node, 0);
  const [older, newer] = [at("5.5.5.5:5"), at("6.6.6.6:6")];
  cache.noteReached(node.nodeId, older, 10);
  cache.noteReached(node.nodeId, newer, 20);
  const signed = node.endpoints[0];
  assert.deepEqual(cache.candidates(node.nodeId, 30), [newer, signed, older]);
  assert.deepEqual(cache.candidates(node.nodeId, 2 * DAY), [newer, older, signed]);
  assert.deepEqual(cache.candidates(node.nodeId, 40 * DAY), [signed]);
  for (let i = 0; i < 20; i++) cache.noteReached(node.nodeId, at(`7.7.7.7:${i + 1}`), 30);
  assert.equal(cache.candidates(node.nodeId, 40).length, 5);
  assert.deepEqual(cache.candidates(new Uint8Array(32), 0), []);
});

test("export and import keep signed messages and reached endpoints, and drop what is not signed", () => {
  const cache = new EndpointCache();
  const signed = signEndpoints([at("1.2.3.4:5")], 7, DAY, networkId, identity);
  cache.offer(signed, 100);
  cache.noteReached(identity.nodeId, at("9.9.9.9:9"), 200);
  cache.offer(message(3, 1), 100);
  const file = cache.export();
  const again = new EndpointCache();
  assert.equal(again.import(file, networkId, systemKeys), 2);
  assert.deepEqual(again.candidates(identity.nodeId, 300), cache.candidates(identity.nodeId, 300));
  assert.equal(again.ageMs(identity.nodeId, 300), 200);
  assert.equal(again.message(message(3, 1).nodeId), undefined);
  const foreign = new EndpointCache();
  foreign.import(file, new Uint8Array(32), systemKeys);
  assert.equal(foreign.message(identity.nodeId), undefined);
});

test("two caches that exchange lists have the newest of both, through real messages", () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(400), fc.integer({ min: 1, max: 5 })), { maxLength: 300 }),
      fc.array(fc.tuple(fc.nat(400), fc.integer({ min: 1, max: 5 })), { maxLength: 300 }),
      (left, right) => {
        const caches = [left, right].map((list) => {
          const cache = new EndpointCache();
          for (const [node, hlc] of list) cache.offer(message(node, hlc), 0);
          return cache;
        }) as [EndpointCache, EndpointCache];
        const newest = new Map<string, number>();
        for (const cache of caches) {
          for (const one of cache.current(0))
            newest.set(one.nodeId.toHex(), Math.max(one.hlc, newest.get(one.nodeId.toHex()) ?? 0));
        }
        const [a, b] = caches;
        for (const list of listEndpoints(a.current(0))) {
          const received = decodeControl(encodeControl(list));
          assert.ok(typeof received === "object" && received.type === "known");
          const { send, seek } = compareEndpoints(b.current(0), received);
          for (const one of send) a.offer(one, 0);
          for (const prefix of seek) {
            for (const one of a.current(0)) if (compare(one.nodeId.subarray(0, 8), prefix) === 0) b.offer(one, 0);
          }
        }
        for (const cache of caches) {
          const held = cache.current(0);
          assert.equal(held.length, newest.size);
          for (const one of held) assert.equal(one.hlc, newest.get(one.nodeId.toHex()));
        }
        assert.deepEqual(EndpointCache.fingerprint(a.current(0)), EndpointCache.fingerprint(b.current(0)));
      },
    ),
    { numRuns: 60 },
  );
});

test("a message that is followed by more bytes is refused", () => {
  const signed = signEndpoints([at("1.2.3.4:5")], 7, DAY, networkId, identity);
  assert.equal(openEndpoints(concat(signed.wire, Uint8Array.of(0)), networkId, systemKeys), undefined);
});
