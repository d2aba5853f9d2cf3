/** Who is asked for links, and who is left alone. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../base/random.ts";
import { TopicTree } from "./tree.ts";
import { newPubSubCounters } from "./types.ts";

test("who does not take part is left alone, and asked again when there are other subscribers than before", () => {
  const grafts: string[] = [];
  const tree = new TopicTree({
    random: new SeededRandom(1),
    counters: newPubSubCounters(),
    isSource: true,
    hasFullView: false,
    graft: (peer) => grafts.push(peer),
    prune: () => undefined,
    score: () => 0,
    isRefused: () => false,
    isCooled: () => false,
  });
  tree.seek(0, ["b"], true, 4);
  assert.deepEqual(grafts, ["b"]);
  // it subscribes to nothing yet, and says so, as often as it is asked
  assert.ok(tree.onPrune(10, "b", true, 300_000));
  tree.seek(1000, ["b"], true, 4);
  assert.deepEqual(grafts, ["b"]);
  tree.forgive();
  tree.seek(1000, ["b"], true, 4);
  assert.deepEqual(grafts, ["b", "b"]);
});
