/** What must not be felt in the tunnel: rekeying, a slow disk, a control thread that does not answer. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { testEnvironment } from "../../lab/test-hooks.ts";
import { impairedHosts, twoHosts } from "../../lab/topologies.ts";
import { iperf, ping } from "../../lab/traffic.ts";
import { skip, sum, withNetwork } from "./support.ts";

test("a rekey every second under 100 pings a second loses none", { skip }, async () => {
  await withNetwork(
    twoHosts,
    ({ a, b }) => [a, b],
    async (network) => {
      const [a, b] = [network.node("a"), network.node("b")];
      const ages: number[] = [];
      const sampling = setInterval(() => {
        b.status().then(
          ({ peers }) => ages.push(peers[0]?.epochAgeMs ?? Number.NaN),
          () => undefined,
        );
      }, 200);
      try {
        const echo = await ping(b.host, await a.address(4), { count: 1_000, intervalMs: 9 });
        assert.equal(echo.received, 1_000);
        assert.equal(echo.duplicates, 0);
      } finally {
        clearInterval(sampling);
      }
      const rekeys = ages.filter((age, index) => index > 0 && age < ages[index - 1]).length;
      assert.ok(
        rekeys >= 5,
        `control: only ${rekeys} rekeys in ten seconds (ages ${ages.map(Math.round).join(", ")} ms)`,
      );
      assert.ok((await b.status()).peers[0].hybrid, "rekeyed epochs are hybrid too");
    },
    { env: testEnvironment({ rekeyMs: 1_000 }) },
  );
});

test("rekeying goes on through loss, duplication and reordering", { skip }, async () => {
  await withNetwork(
    () => impairedHosts(["a", "b"], { delayMs: 5 }),
    ({ hosts }) => hosts,
    async (network, { impairment }) => {
      const [a, b] = [network.node("a"), network.node("b")];
      await impairment.set({ loss: 0.05, duplicate: 0.05, reorder: 0.05, reorderMs: 20 });
      const ages: number[] = [];
      const sampling = setInterval(() => {
        b.status().then(
          ({ peers }) => ages.push(peers[0]?.epochAgeMs ?? Number.NaN),
          () => undefined,
        );
      }, 200);
      const echo = await ping(b.host, await a.address(4), { count: 800, intervalMs: 9 }).finally(() =>
        clearInterval(sampling),
      );
      const rekeys = ages.filter((age, index) => index > 0 && age < ages[index - 1]).length;
      assert.ok(rekeys >= 3, `control: only ${rekeys} rekeys`);
      const before = (await impairment.counters())["imp0>imp1"];
      assert.ok(before["lost"] > 0, "control: packets were lost");
      // One loss each way out of twenty: a share of 9.75 % of the pings cannot come back; a gap of keys would cost far more.
      assert.ok(echo.received >= 660, `${echo.received} of 800`);
      assert.equal(echo.duplicates, 0);
    },
    { env: testEnvironment({ rekeyMs: 1_000 }) },
  );
});

test(
  "half a second of delay in every commit and a control thread blocked for a third of the time are not felt",
  { skip },
  async () => {
    await withNetwork(
      twoHosts,
      ({ a, b }) => [a, b],
      async (network) => {
        const [a, b] = [network.node("a"), network.node("b")];
        const address = await a.address(4);
        const echo = await ping(b.host, address, { count: 600, intervalMs: 9 });
        assert.equal(echo.received, 600);
        assert.ok(
          echo.longestGapMs < 300,
          `no answer for ${echo.longestGapMs} ms while the control thread was blocked for 1,000`,
        );
        const metrics = await a.metrics();
        const loopDelaySeconds = sum(metrics, "weft_control_loop_delay_seconds");
        assert.ok(loopDelaySeconds > 0.5, `control: the control thread stood still for ${loopDelaySeconds} s at most`);
        const commitSeconds =
          sum(metrics, "weft_store_commit_seconds_total") / sum(metrics, "weft_store_commits_total");
        assert.ok(commitSeconds > 0.4, `control: a commit took ${commitSeconds} s`);
        const flow = await iperf(b.host, a.host, address, { seconds: 6, reverse: true, intervalSeconds: 0.5 });
        const sorted = flow.intervals.toSorted((x, y) => x - y);
        const median = sorted[Math.floor(sorted.length / 2)];
        assert.ok(sorted[0] > median / 4, `half a second at ${sorted[0]} bit/s, median ${median}`);
      },
      { env: testEnvironment({ commitDelayMs: 500, blockControl: { forMs: 1_000, everyMs: 3_000 } }) },
    );
  },
);
