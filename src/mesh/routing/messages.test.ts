/** Routing messages on the wire: round trips, bounds, hostile bytes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../base/random.ts";
import { encodeCbor } from "../cbor.ts";
import { ControlFault, decodeControl, encodeControl, MAX_CONTROL_BYTES } from "../control.ts";
import { NeighbourDigest } from "./digest.ts";
import { type Lookup, MAX_BETWEEN, nearPayload, type RoutingMessage, routingToCbor } from "./messages.ts";

const random = new SeededRandom(11);
const ids = (count: number): Uint8Array[] => Array.from({ length: count }, () => random.bytes(32));
const lookup: Lookup = {
  type: "lookup",
  id: random.bytes(16),
  target: random.bytes(32),
  path: ids(MAX_BETWEEN + 1),
  ttl: MAX_BETWEEN,
  label: 0xffffffff,
  relay: true,
};

test("the largest message of each kind fits and comes back as it was", () => {
  const messages: RoutingMessage[] = [
    lookup,
    { ...lookup, path: ids(1), ttl: 0, label: 1, relay: false },
    { type: "found", id: random.bytes(16), label: 7, hops: MAX_BETWEEN + 1, relay: true, signature: random.bytes(64) },
    { type: "unlabel", label: 0x80000000 },
    {
      type: "near",
      signature: random.bytes(64),
      payload: nearPayload({ atMs: 2 ** 50, relay: true, digest: NeighbourDigest.of(ids(4000)) }),
    },
  ];
  for (const message of messages) {
    const bytes = encodeControl(message);
    assert.ok(bytes.length <= MAX_CONTROL_BYTES);
    assert.deepEqual(decodeControl(bytes), message);
  }
});

test("messages outside the bounds are malformed", () => {
  const good = routingToCbor(lookup);
  const wrong = [
    { i: random.bytes(15) },
    { g: random.bytes(31) },
    { w: new Uint8Array(0) },
    { w: random.bytes(33) },
    { w: random.bytes(32 * (MAX_BETWEEN + 2)) },
    { h: MAX_BETWEEN + 1 },
    { h: -1 },
    { l: 0 },
    { l: 2 ** 32 },
    { l: "1" },
  ];
  assert.notEqual(decodeControl(encodeCbor(good)), ControlFault.MALFORMED);
  for (const change of wrong) {
    assert.equal(decodeControl(encodeCbor({ ...good, ...change })), ControlFault.MALFORMED, JSON.stringify(change));
  }
});

test("no damaged message is taken for something beyond the bounds", () => {
  const bytes = encodeControl(lookup);
  for (let round = 0; round < 2000; round++) {
    const damaged = Uint8Array.from(bytes);
    for (let i = 0; i <= random.u32() % 3; i++) damaged[random.u32() % damaged.length] = random.u32() & 255;
    const read = decodeControl(damaged.subarray(0, 1 + (random.u32() % damaged.length)));
    if (typeof read === "string" || read.type !== "lookup") continue;
    assert.ok(
      read.path.length >= 1 && read.path.length <= MAX_BETWEEN + 1 && read.ttl <= MAX_BETWEEN && read.label > 0,
    );
  }
});
