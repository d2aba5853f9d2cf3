import assert from "node:assert/strict";
import { test } from "node:test";
import { measureStorm, type Storm, type StormHost, stormTable } from "./scale-storm.ts";

/** Two processes of ten nodes whose figures are given: second since 1970, bytes, control messages, nodes that are whole. */
function host(seconds: readonly (readonly number[])[], stopped: string[]): StormHost {
  return {
    ask: async (command) => ("samples" in command ? { seconds } : "restart" in command ? { upAtMs: Date.now() } : {}),
    stop: async (signal) => {
      stopped.push(String(signal));
      return null;
    },
  };
}

test("a storm is whole when every node of every process is, and what comes after it is judged against the steady mean", async () => {
  const nowS = Math.floor(Date.now() / 1_000);
  const stopped: string[] = [];
  // the first second of each is incomplete
  const before = [0, 1, 2].map((i) => [nowS - 10 + i, i === 0 ? 9_999 : 1_000, 10, 10]);
  const after = [
    [nowS + 1, 50_000, 500, 4],
    [nowS + 2, 20_000, 300, 10],
    [nowS + 3, 1_500, 15, 10],
    [nowS + 4, 500, 5, 10],
  ];
  const late = after.map((second, i) => (i === 1 ? [second[0], second[1], second[2], 9] : second));
  const hosts = [host(before, stopped), host(before, stopped)];
  let pinged = 0;
  const storm = await measureStorm(
    hosts,
    20,
    0,
    {
      spawn: () => [host(after, []), host(late, [])],
      ping: async () => void pinged++,
    },
    10,
  );
  assert.deepEqual(stopped, ["SIGKILL", "SIGKILL"]);
  assert.equal(pinged, 1);
  assert.deepEqual(storm.steady, { meanBytes: 100, peakBytes: 100, meanControl: 1, peakControl: 1 });
  assert.equal(storm.starting.peakBytes, 5_000);
  assert.deepEqual(storm.after, { meanBytes: 50, peakBytes: 50, meanControl: 0.5, peakControl: 0.5 });
  assert.ok(storm.wholeMs > 1_000 && storm.wholeMs <= 3_000, `${storm.wholeMs} ms`);
  const verdictOf = (change: Partial<Storm>): string | undefined =>
    stormTable([{ nodes: 20, storm: { ...storm, ...change } }]).rows[0].at(-1);
  assert.equal(verdictOf({}), "reached");
  assert.equal(verdictOf({ wholeMs: 30_001 }), "missed: whole");
  assert.equal(verdictOf({ wholeMs: Infinity, after: storm.starting }), "missed: whole, control, bytes");
});
