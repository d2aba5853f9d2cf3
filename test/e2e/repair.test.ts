/** A daemon killed at any moment leaves a machine that `weft repair`, or the next start, puts back byte for byte. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { SeededRandom } from "../../src/base/random.ts";
import { sleep, until } from "../../lab/process.ts";
import { routedHosts } from "../../lab/topologies.ts";
import { ping, WEFT_NODE } from "../../lab/traffic.ts";
import { assertRestored, machineState, type MachineState } from "./machine-state.ts";
import { assertErrorLine, skip, withNetwork } from "./support.ts";

const WITHOUT_TOOLS = new URL("../support/repair-without-tools.ts", import.meta.url).pathname;
const ROUNDS = 8;

test("killed at any moment of its start, repaired: the same machine, byte for byte", { skip }, async (t) => {
  await withNetwork(
    async () => {
      const routed = await routedHosts(["e", "c"]);
      const before = new Map<string, MachineState>();
      for (const host of routed.hosts) {
        // an unfinished last line is the hard case
        writeFileSync(join(host.etc, "hosts"), "127.0.0.1 localhost\n::1 localhost");
        writeFileSync(join(host.etc, "resolv.conf"), "# by hand\nnameserver 192.0.2.53\noptions edns0 trust-ad\n");
        before.set(host.name, await machineState(host));
      }
      return { ...routed, before };
    },
    ({ hosts }) => hosts,
    async (network, { before }) => {
      const [e, c] = [network.node("e"), network.node("c")];
      await e.json(["exit", "offer"]);
      await e.json(["routes", "announce", "198.18.88.0/24"]);
      for (const prefix of ["0.0.0.0/0", "::/0", "198.18.88.0/24"]) await e.json(["routes", "approve", "e", prefix]);
      await until("c can use it", 10_000, async () =>
        (await c.api.exit()).candidates.length === 1 ? true : undefined,
      );
      await c.json(["exit", "use", "e"]);
      await t.test("control: while it runs nearly everything is changed", async () => {
        const now = await machineState(c.host);
        const was = before.get("c") ?? {};
        const changed = Object.keys(now).filter((what) => now[what] !== was[what]);
        for (const what of ["routes4", "rules4", "rules6", "nftables", "hosts", "resolver"])
          assert.ok(changed.includes(what), what);
      });
      await t.test("repair while the daemon runs sets everything up again", async () => {
        await c.json(["repair"]);
        assert.equal(
          (await ping(c.host, e.host.address4, { count: 3, intervalMs: 20 })).received,
          3,
          "through the exit",
        );
        assert.match(await c.host.must("nft", ["list", "ruleset"]), /weft-guard/);
      });
      const random = new SeededRandom(7);
      for (let round = 0; round < ROUNDS; round++) {
        const delayMs = round === 0 ? 3_000 : Math.floor(random.unit() * 1_600);
        await t.test(`killed ${delayMs} ms after its start`, async () => {
          await c.kill();
          c.start();
          await sleep(delayMs);
          await c.kill();
          await c.json(["repair"]);
          await assertRestored(c.host, before.get("c") ?? {});
          assert.equal(readFileSync(join(c.state, "journal"), "utf8"), "");
        });
      }
      await t.test("the next start undoes what a killed router left, and sets it up anew", async () => {
        await e.kill();
        await e.up();
        await until("it serves again", 5_000, async () =>
          (await e.api.routes()).own.some(({ serving }) => serving) ? true : undefined,
        );
        assert.match(e.daemon?.tail(200) ?? "", /put back \d+ changes of a run that was killed/);
        assert.equal((await e.weft(["down"])).code, 0);
        await e.daemon?.exited;
        await assertRestored(e.host, before.get("e") ?? {});
      });
      await t.test("what cannot be undone is said and kept for the next time", async () => {
        await c.up();
        await c.kill();
        const failed = await c.host.exec(WEFT_NODE, [WITHOUT_TOOLS, c.state]);
        assert.match(failed.stdout, /failed/);
        assert.ok(readFileSync(join(c.state, "journal"), "utf8").length > 0);
        await c.json(["repair"]);
        await assertRestored(c.host, before.get("c") ?? {});
      });
      await t.test("a prefix that makes no sense is refused in one line", async () => {
        await c.up();
        assertErrorLine(await c.weft(["routes", "announce", "10.1.2.3/16"]), /is no prefix/);
        assertErrorLine(await c.weft(["routes", "announce", "0.0.0.0/0"]), /is everything/);
        assertErrorLine(await c.weft(["routes", "announce", "128.0.0.0/1"]), /too much.*weft exit offer/s);
        assertErrorLine(await c.weft(["routes", "approve", "e", "198.18.9.0/24"]), /only an admin/i);
        assertErrorLine(await c.weft(["exit", "use", "nobody"]), /no member is called/);
        assertErrorLine(await c.weft(["exit", "sideways"]), /is no action/);
        assert.equal((await c.weft(["down"])).code, 0);
        await c.daemon?.exited;
        await assertRestored(c.host, before.get("c") ?? {});
      });
    },
  );
});
