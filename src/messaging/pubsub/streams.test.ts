/** What a topic believes of its peers' claims about streams. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_AHEAD, PublisherStream } from "./streams.ts";

test("the first verified message leaves only the claim of the peer that showed it", () => {
  const stream = new PublisherStream("00".repeat(8), 0);
  stream.raise(0, 2 ** 47, "liar");
  stream.raise(0, 20, "honest");
  stream.verify(new Uint8Array(32), 1, "honest");
  assert.deepEqual([stream.top, stream.providers], [20, ["honest"]]);
  assert.equal(stream.isMissing, true);
  const other = new PublisherStream("01".repeat(8), 0);
  other.raise(0, 2 ** 47, "liar");
  other.verify(new Uint8Array(32), 1, "honest");
  other.add(1);
  assert.deepEqual([other.top, other.providers, other.isMissing, other.missingSinceMs], [1, [], false, undefined]);
});

test("a claim goes with the peer that takes it back; what others claim stays missing", () => {
  const stream = new PublisherStream("00".repeat(8), 0);
  stream.add(1);
  stream.raise(5, 3, "honest");
  stream.raise(6, 1_000_000, "liar");
  assert.equal(stream.top, 1_000_000);
  stream.disown("liar");
  assert.deepEqual([stream.top, stream.isMissing, stream.missingSinceMs], [3, true, 5]);
  stream.disown("honest");
  assert.deepEqual([stream.top, stream.isMissing, stream.missingSinceMs], [1, false, undefined]);
});

test("a claim reaches so far beyond what was seen at most, and goes on from what has come", () => {
  const stream = new PublisherStream("00".repeat(8), 0);
  stream.add(1);
  stream.raise(0, 2 ** 48 - 2, "liar");
  assert.equal(stream.top, 1 + MAX_AHEAD);
  stream.skipTo(1 + MAX_AHEAD);
  stream.raise(0, 2 ** 48 - 2, "liar");
  assert.equal(stream.top, 1 + 2 * MAX_AHEAD);
});

test("a stream keeps few claims, the latest", () => {
  const stream = new PublisherStream("00".repeat(8), 0);
  for (let i = 0; i < 100; i++) stream.raise(0, 200 - i, `peer ${i}`);
  assert.deepEqual(stream.providers, ["peer 96", "peer 97", "peer 98", "peer 99"]);
  assert.equal(stream.top, 104);
});
