/** What a tunnel has to live through: killed daemons, changed addresses, bad and narrow paths. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep } from "../../lab/process.ts";
import { changeAddress } from "../../lab/scenarios/address-change.ts";
import { hostsBehindNat, impairedHosts, routedHosts, twoHosts } from "../../lab/topologies.ts";
import { iperf, ping, timeUntilAnswered } from "../../lab/traffic.ts";
import { skip, withNetwork } from "./support.ts";

/** Traffic flows again at most this long after a restarted daemon is up. */
const RESTART_MS = 2_000;

test(
  "either side killed and restarted: traffic flows again within two seconds, without joining again",
  { skip },
  async (t) => {
    await withNetwork(
      twoHosts,
      ({ a, b }) => [a, b],
      async (network) => {
        const [a, b] = [network.node("a"), network.node("b")];
        // What was learned in the last moment before a crash may be lost with it: let the join reach the disk.
        await sleep(1_000);
        for (const [victim, other] of [
          [a, b],
          [b, a],
        ] as const) {
          await t.test(`${victim.name} is killed`, async () => {
            const address = await victim.address(4);
            await victim.kill();
            await sleep(500);
            await victim.up();
            const waitedMs = await timeUntilAnswered(other.host, address, 10_000);
            assert.ok(waitedMs <= RESTART_MS, `traffic flowed ${Math.round(waitedMs)} ms after ready`);
            await network.allPairs();
          });
        }
      },
    );
  },
);

test("both killed at once and restarted find each other again", { skip }, async () => {
  await withNetwork(
    twoHosts,
    ({ a, b }) => [a, b],
    async (network) => {
      await sleep(1_000);
      await Promise.all(network.nodes.map((node) => node.kill()));
      await Promise.all(network.nodes.map((node) => node.up()));
      await network.allPairs(10_000);
      const echo = await ping(network.node("b").host, await network.node("a").address(6), { count: 5, intervalMs: 20 });
      assert.equal(echo.received, echo.sent);
    },
  );
});

test("the underlay address of one side changes under a TCP flow: it goes on", { skip }, async () => {
  await withNetwork(
    () => routedHosts(["a", "b"]),
    ({ hosts }) => hosts,
    async (network, { links }) => {
      const [a, b] = [network.node("a"), network.node("b")];
      const [link] = links;
      assert.ok(link !== undefined);
      const address = await a.address(4);
      // The client receives, so that its intervals show what arrived.
      const flow = iperf(b.host, a.host, address, { seconds: 6, reverse: true, intervalSeconds: 0.1, rateBps: 100e6 });
      await sleep(2_500);
      await changeAddress(a.host, link, 1, 77);
      const result = await flow;
      let gap = 0;
      let longest = 0;
      for (const bps of result.intervals) {
        gap = bps === 0 ? gap + 1 : 0;
        longest = Math.max(longest, gap);
      }
      assert.ok(longest * 100 <= 1_000, `nothing arrived for ${longest * 100} ms`);
      assert.ok(result.bitsPerSecond > 50e6, `${result.bitsPerSecond} bit/s over all`);
      const peer = await b.peer("a", 5_000, (one) => /[.:]77\]?:\d+$/.test(one.path.endpoint ?? ""));
      assert.equal(peer.path.kind, "direct");
    },
  );
});

test("loss, duplication and reordering on the underlay neither break nor forge anything", { skip }, async () => {
  await withNetwork(
    () => impairedHosts(["a", "b"], { delayMs: 5, jitterMs: 3 }),
    ({ hosts }) => hosts,
    async (network, { impairment }) => {
      const [a, b] = [network.node("a"), network.node("b")];
      await impairment.set({ loss: 0.01, duplicate: 0.05, reorder: 0.05, reorderMs: 5 });
      const echo = await ping(b.host, await a.address(4), { count: 300, intervalMs: 5 });
      assert.equal(echo.duplicates, 0, "the replay window lets no packet through twice");
      assert.ok(echo.received >= 280, `${echo.received} of ${echo.sent}`);
      const flow = await iperf(b.host, a.host, await a.address(6), { seconds: 3 });
      assert.ok(flow.bitsPerSecond > 1e6);
      const dropped = await a.metrics();
      assert.ok(
        [...dropped].some(([name, value]) => /weft_drops_total.*reason="replay"/.test(name) && value > 0),
        "duplicates are counted as replays",
      );
    },
  );
});

test(
  "a 1,280-byte underlay carries every size over both families, with and without ICMP from the router",
  { skip },
  async (t) => {
    for (const mtuIcmp of [true, false]) {
      await t.test(mtuIcmp ? "the router answers" : "the router is silent", async () => {
        await withNetwork(
          () => impairedHosts(["a", "b"], { delayMs: 1, mtuBytes: 1_280, mtuIcmp }),
          ({ hosts }) => hosts,
          async (network) => {
            const [a, b] = [network.node("a"), network.node("b")];
            // Packets larger than the path are lost until it is measured; afterwards none may be.
            await a.peer("b", 5_000, (peer) => peer.pmtu !== null && peer.pmtu <= 1_280);
            await b.peer("a", 5_000, (peer) => peer.pmtu !== null && peer.pmtu <= 1_280);
            for (const family of [4, 6] as const) {
              const address = await a.address(family);
              for (const bytes of [56, 1_100, 1_232, 1_400, 4_000]) {
                // The sender's kernel learns a size by losing a packet of it, once for every change of path.
                let received = 0;
                for (let attempt = 0; attempt < 3 && received < 3; attempt++) {
                  ({ received } = await ping(b.host, address, { count: 3, intervalMs: 50, bytes }));
                }
                assert.equal(received, 3, `${bytes} bytes over IPv${family}`);
              }
              const flow = await iperf(b.host, a.host, address, { seconds: 2 });
              assert.ok(flow.bitsPerSecond > 5e6, `${flow.bitsPerSecond} bit/s over IPv${family}`);
            }
          },
        );
      });
    }
  },
);

test("a partition that heals: traffic is back by itself", { skip }, async () => {
  await withNetwork(
    () => impairedHosts(["a", "b"], { delayMs: 1 }),
    ({ hosts }) => hosts,
    async (network, { impairment }) => {
      const [a, b] = [network.node("a"), network.node("b")];
      const address = await a.address(4);
      await impairment.set({ partition: true });
      const dark = await ping(b.host, address, { count: 50, intervalMs: 100, graceMs: 200 });
      assert.equal(dark.received, 0);
      await impairment.set({ partition: false });
      const light = await ping(b.host, address, { count: 100, intervalMs: 50, graceMs: 500 });
      assert.ok(light.received >= 40, `${light.received} of 100 in the five seconds after it healed`);
    },
  );
});

test(
  "a member behind a NAT dials out, is answered, and comes back after a restart with another port",
  { skip },
  async () => {
    await withNetwork(
      () => hostsBehindNat([{}]),
      ({ outside, inside }) => [outside, ...inside],
      async (network, { outside, inside }) => {
        const [admin, member] = [network.node("outside"), network.node("in0")];
        for (const family of [4, 6] as const) {
          assert.equal((await ping(inside[0], await admin.address(family), { count: 5, intervalMs: 20 })).received, 5);
          assert.equal((await ping(outside, await member.address(family), { count: 5, intervalMs: 20 })).received, 5);
        }
        const { endpoint } = (await admin.peer("in0")).path;
        assert.ok(
          endpoint?.startsWith(inside[0].address4) === false,
          `the admin sees the NAT's address, not ${endpoint}`,
        );
        await member.kill();
        await member.up();
        assert.equal((await ping(inside[0], await admin.address(4), { count: 5, intervalMs: 20 })).received, 5);
      },
    );
  },
);
