/** Every expected mistake ends in one clear line with a remedy and a non-zero exit; nothing is lost or overwritten. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { WeftNode } from "../../lab/network.ts";
import { sleep, type RunResult } from "../../lab/process.ts";
import { testEnvironment } from "../../lab/test-hooks.ts";
import { twoHosts, type TwoHosts } from "../../lab/topologies.ts";
import { assertConservation, assertErrorLine, skip, withLab } from "./support.ts";

const TEST_MS = 40_000;

/** `weft up …` that is expected to end by itself. */
function up(node: WeftNode, ...args: string[]): Promise<RunResult> {
  return node.weft(["up", ...args], TEST_MS);
}

test("mistakes end in one line with a remedy", { skip }, async (t) => {
  await withLab(twoHosts, async ({ lab, a: hostA, b: hostB }: TwoHosts) => {
    const node = (name: string, host = hostB): WeftNode => new WeftNode({ host, name, state: join(lab.folder, name) });
    const admin = node("admin", hostA);
    await admin.init("home");
    await admin.up();

    await t.test("a used token", async () => {
      const { token } = await admin.invite();
      const first = node("first");
      await first.join(token);
      await first.stop();
      assertErrorLine(await up(node("second"), "--join", token, "--name", "second"), /used/i);
    });

    await t.test("an expired token", async () => {
      const { token } = await admin.invite(["--expires", "1s"]);
      await sleep(1_500);
      assertErrorLine(await up(node("late"), "--join", token, "--name", "late"), /expired/i);
    });

    await t.test("a foreign token, and no token at all", async () => {
      const other = node("other-admin");
      await other.init("elsewhere");
      await other.up(["--listen", "0.0.0.0:9400"]);
      const { token } = await other.invite();
      await other.stop();
      const member = node("first");
      const identity = readFileSync(join(member.state, "identity"), "utf8");
      assertErrorLine(await up(member, "--join", token), /network|member/i);
      assert.equal(readFileSync(join(member.state, "identity"), "utf8"), identity, "the identity is untouched");
      assertErrorLine(await up(node("garbage"), "--join", "not-a-token"), /token/i);
      assertErrorLine(await up(node("cut"), "--join", token.slice(0, -3)), /token/i);
      await member.up();
      await member.peer("admin");
      await member.stop();
    });

    await t.test("a clock that is off by more than five minutes", async () => {
      const { token } = await admin.invite();
      for (const [name, offsetMs] of [
        ["ahead", 400_000],
        ["behind", -400_000],
      ] as const) {
        const joiner = node(name);
        Object.assign(joiner.env, testEnvironment({ wallOffsetMs: offsetMs }));
        assertErrorLine(await up(joiner, "--join", token, "--name", name), /clock.*\d/i);
      }
    });

    await t.test("a second daemon on one state directory", async () => {
      assertErrorLine(await up(admin), /another weft|already runs/i);
      assert.equal((await admin.status()).node.name, "admin", "the first one goes on");
    });

    await t.test("a busy port", async () => {
      const squatter = node("squatter", hostA);
      await squatter.init("squat");
      assertErrorLine(
        await up(squatter, "--listen", "0.0.0.0:9338", "--listen", "[::]:9338"),
        /9338.*(use|busy)|(use|busy).*9338/i,
      );
    });

    await t.test("no permission for the interface", async () => {
      const plain = node("plain");
      await plain.init("plain");
      const weft = new URL("../../bin/weft", import.meta.url).pathname;
      const drop = ["--bounding-set=-net_admin", "--inh-caps=-net_admin"];
      const result = await hostB.exec("setpriv", [...drop, weft, "up", "--state", plain.state], { timeoutMs: TEST_MS });
      assertErrorLine(result, /interface|TUN|permi/i);
      assert.match(result.stderr, /root|--no-tun/);
    });

    await t.test("a damaged identity", async () => {
      const damaged = node("damaged");
      await damaged.init("damaged");
      const file = join(damaged.state, "identity");
      const broken = readFileSync(file, "utf8").slice(0, -10);
      writeFileSync(file, broken);
      assertErrorLine(await up(damaged), /identity.*damaged/i);
      assert.equal(readFileSync(file, "utf8"), broken, "it is left as it is");
      assertErrorLine(await damaged.weft(["init", "again"]), /identity|already/i);
      assert.equal(readFileSync(file, "utf8"), broken, "init does not replace it either");
    });

    await t.test("an unknown configuration key", async () => {
      const typo = node("typo");
      await typo.init("typo");
      writeFileSync(join(typo.state, "weft.toml"), 'lisen = ["0.0.0.0:9338"]\n');
      const result = await up(typo);
      assertErrorLine(result, /weft\.toml.*"lisen"/);
      assert.match(result.stderr, /listen/, "it says what was meant");
    });

    await t.test("a state directory that belongs to nobody yet", async () => {
      mkdirSync(join(lab.folder, "empty"));
      assertErrorLine(await up(node("empty")), /network/i);
      assertErrorLine(await node("nowhere").weft(["status"]), /daemon|running/i);
    });

    await t.test("nothing of all this went uncounted", async () => {
      await assertConservation(admin);
    });
  });
});
