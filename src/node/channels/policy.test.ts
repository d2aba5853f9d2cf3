import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SeededRandom } from "../../base/random.ts";
import { type ChannelAction, ChannelPolicy, type ChannelPeer } from "./policy.ts";

const URLS = ["wss://one.example.org/", "wss://two.example.org/"];

function peer(key: string, more: Partial<ChannelPeer> = {}): ChannelPeer {
  return { key, urls: URLS, isBeacon: true, wanted: true, direct: false, overdue: false, ...more };
}

function policy(): ChannelPolicy {
  return new ChannelPolicy(new SeededRandom(1));
}

test("a wanted peer that UDP does not reach gets a channel after a second, not before", () => {
  const it = policy();
  assert.deepEqual(it.review(1_000, [peer("a")]), []);
  assert.equal(it.nextTimeoutMs(), 2_000);
  assert.deepEqual(it.review(1_999, [peer("a")]), []);
  assert.deepEqual(it.review(2_000, [peer("a")]), [{ kind: "open", key: "a", url: URLS[0] }]);
  assert.deepEqual(it.review(9_000, [peer("a")]), [], "one at a time");
});

test("no channel to a peer that answers over UDP, that nobody wants, or that has no URL", () => {
  const it = policy();
  for (let at = 0; at < 60_000; at += 500) {
    const peers = [peer("a", { direct: true }), peer("b", { wanted: false }), peer("c", { urls: [] })];
    assert.deepEqual(it.review(at, peers), []);
  }
  assert.equal(it.nextTimeoutMs(), Infinity);
});

test("an answer over UDP within the second begins it anew", () => {
  const it = policy();
  it.review(0, [peer("a")]);
  it.review(900, [peer("a", { direct: true })]);
  assert.deepEqual(it.review(1_100, [peer("a")]), []);
  assert.equal(it.review(2_100, [peer("a")]).length, 1);
});

test("where a path that worked has gone silent, nobody waits another second", () => {
  const it = policy();
  it.review(0, [peer("a", { direct: true })]);
  assert.deepEqual(it.review(7_000, [peer("a", { overdue: true })]), [{ kind: "open", key: "a", url: URLS[0] }]);
});

test("it stays while UDP is silent and goes once UDP has worked for ten seconds", () => {
  const it = policy();
  it.review(0, [peer("a")]);
  it.review(2_000, [peer("a")]);
  it.opened(2_100, "a");
  for (let at = 3_000; at < 100_000; at += 1_000) assert.deepEqual(it.review(at, [peer("a")]), []);
  assert.deepEqual(it.review(100_000, [peer("a", { direct: true })]), []);
  assert.equal(it.nextTimeoutMs(), 110_000);
  assert.deepEqual(it.review(105_000, [peer("a")]), [], "silent again: it stays");
  it.review(106_000, [peer("a", { direct: true })]);
  assert.deepEqual(it.review(115_999, [peer("a", { direct: true })]), []);
  assert.deepEqual(it.review(116_000, [peer("a", { direct: true })]), [{ kind: "close", key: "a" }]);
});

test("where it is needed again soon, it is kept twice as long each time", () => {
  const it = policy();
  let at = 0;
  const kept: number[] = [];
  for (let round = 0; round < 7; round++) {
    it.review(at, [peer("a")]);
    at += 1_000;
    assert.equal(it.review(at, [peer("a")])[0]?.kind, "open");
    it.opened(at, "a");
    it.review(at, [peer("a", { direct: true })]);
    const closesAt = it.nextTimeoutMs();
    kept.push(closesAt - at);
    at = closesAt;
    assert.equal(it.review(at, [peer("a", { direct: true })])[0]?.kind, "close");
  }
  assert.deepEqual(kept, [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]);
});

test("failures wait longer each time, take turns with the URLs, and are forgotten after a steady channel", () => {
  const it = policy();
  it.review(0, [peer("a")]);
  let at = 1_000;
  const urls: string[] = [];
  const waits: number[] = [];
  for (let i = 0; i < 9; i++) {
    const [action] = it.review(at, [peer("a")]);
    assert.ok(action?.kind === "open", `${at}`);
    urls.push(action.url);
    it.failed(at, "a");
    waits.push(it.nextTimeoutMs() - at);
    at = it.nextTimeoutMs();
  }
  assert.deepEqual(urls.slice(0, 3), [URLS[0], URLS[1], URLS[0]]);
  for (const [i, wait] of waits.entries()) {
    const middle = Math.min(60_000, 1_000 * 2 ** i);
    assert.ok(wait >= 0.8 * middle && wait <= 1.2 * middle, `${wait} after failure ${i + 1}`);
  }
  it.review(at, [peer("a")]);
  it.opened(at, "a");
  it.failed(at + 30_000, "a");
  assert.ok(it.nextTimeoutMs() - at - 30_000 <= 1_200);
});

test("at most four at once, beacons first; a peer that is gone loses its own", () => {
  const it = policy();
  const peers = Array.from({ length: 6 }, (_, i) => peer(`m${i}`, { isBeacon: i >= 4 }));
  it.review(0, peers);
  const opened = it.review(2_000, peers).map((action) => action.key);
  assert.deepEqual(opened.toSorted(), ["m0", "m1", "m4", "m5"]);
  assert.equal(it.nextTimeoutMs(), Infinity, "nothing to do before something changes");
  const actions = it.review(3_000, peers.slice(1));
  assert.deepEqual(actions, [
    { kind: "close", key: "m0" },
    { kind: "open", key: "m2", url: URLS[0] },
  ]);
});

test("whatever happens, opens and closes alternate per peer, never more than four are used, and the next time is never missed", () => {
  const step = fc.record(
    {
      waitMs: fc.nat(20_000),
      peers: fc.array(
        fc.record(
          {
            key: fc.constantFrom("a", "b", "c", "d", "e", "f"),
            urls: fc.constantFrom([], URLS, URLS.slice(1)),
            isBeacon: fc.boolean(),
            wanted: fc.boolean(),
            direct: fc.boolean(),
            overdue: fc.boolean(),
          },
          { noNullPrototype: true },
        ),
        { maxLength: 8 },
      ),
      event: fc.constantFrom("none", "opened", "failed"),
      key: fc.constantFrom("a", "b", "c", "d", "e", "f"),
    },
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.nat(), (steps, seed) => {
      const it = new ChannelPolicy(new SeededRandom(seed));
      const used = new Set<string>();
      let now = 0;
      const take = (actions: ChannelAction[]): void => {
        for (const action of actions) {
          assert.equal(used.has(action.key), action.kind === "close", action.key);
          if (action.kind === "open") used.add(action.key);
          else used.delete(action.key);
        }
        assert.ok(used.size <= 4);
      };
      for (const { waitMs, peers, event, key } of steps) {
        now += waitMs;
        take(it.review(now, peers));
        if (event === "opened") it.opened(now, key);
        if (event === "failed") {
          it.failed(now, key);
          used.delete(key);
        }
        const next = it.nextTimeoutMs();
        if (next > now && next !== Infinity) assert.deepEqual(it.review(now, peers), [], "nothing is due before");
      }
    }),
    { numRuns: 300 },
  );
});
