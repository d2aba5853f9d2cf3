/** Neighbour digests against a plain set. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../base/random.ts";
import { MAX_BLOOM_BYTES, MAX_EXACT, NeighbourDigest } from "./digest.ts";
import { nearPayload, readNearPayload } from "./messages.ts";

const random = new SeededRandom(7);
const nodes = (count: number): Uint8Array[] => Array.from({ length: count }, () => random.bytes(32));

test("every neighbour is in the digest, and a list has nobody else", () => {
  for (const count of [0, 1, 2, MAX_EXACT]) {
    const inside = nodes(count);
    const digest = NeighbourDigest.of(inside);
    assert.equal(digest.isExact, true);
    for (const nodeId of inside) assert.ok(digest.has(nodeId));
    for (const nodeId of nodes(500)) assert.ok(!digest.has(nodeId));
  }
});

test("a filter has every neighbour and few others, and grows with their number", () => {
  const sizes: number[] = [];
  for (const count of [MAX_EXACT + 1, 100, 400, 800]) {
    const inside = nodes(count);
    const digest = NeighbourDigest.of(inside);
    assert.equal(digest.isExact, false);
    assert.ok(digest.bytes.length <= MAX_BLOOM_BYTES);
    sizes.push(digest.bytes.length);
    for (const nodeId of inside) assert.ok(digest.has(nodeId));
    const wrong = nodes(4000).filter((nodeId) => digest.has(nodeId)).length;
    assert.ok(wrong < 120, `${wrong} of 4000 strangers are in a filter of ${count}`);
  }
  assert.deepEqual(sizes, [64, 128, 512, 1024]);
});

test("a digest survives its encoding", () => {
  for (const count of [0, 3, MAX_EXACT, 33, 800]) {
    const inside = nodes(count);
    const payload = nearPayload({
      atMs: 1_800_000_000_000.5,
      relay: count % 2 === 1,
      digest: NeighbourDigest.of(inside),
    });
    const read = readNearPayload(payload);
    assert.equal(read?.atMs, 1_800_000_000_000);
    assert.equal(read.relay, count % 2 === 1);
    assert.equal(read.digest.count, count);
    for (const nodeId of inside) assert.ok(read.digest.has(nodeId));
  }
});

test("lists and filters of sizes that do not exist are refused", () => {
  assert.equal(NeighbourDigest.exact(new Uint8Array(7)), undefined);
  assert.equal(NeighbourDigest.exact(new Uint8Array((MAX_EXACT + 1) * 8)), undefined);
  assert.equal(NeighbourDigest.bloom(new Uint8Array(96), 40), undefined);
  assert.equal(NeighbourDigest.bloom(new Uint8Array(32), 40), undefined);
  assert.equal(NeighbourDigest.bloom(new Uint8Array(2048), 40), undefined);
  assert.equal(NeighbourDigest.bloom(undefined, 40), undefined);
});
