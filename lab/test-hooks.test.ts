/** The hooks do what they say in a process of its own, in its worker threads too. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { must } from "./process.ts";
import { testEnvironment } from "./test-hooks.ts";

const DAY_MS = 86_400_000;
const SCRIPT = `
  import { Worker } from "node:worker_threads";
  const print = "const s = () => console.log(Date.now(), new Date().getTime()); s(); setTimeout(s, 1200);";
  new Worker(print, { eval: true });
  (0, eval)(print);`;

test("the wall clock jumps once, in every thread, and not before its time", async () => {
  for (const byMs of [DAY_MS, -DAY_MS]) {
    const startedMs = Date.now();
    const env = testEnvironment({ wallJump: { inMs: 1_000, byMs } });
    const text = await must(process.execPath, ["--input-type=module", "-e", SCRIPT], { env });
    const offsets = text
      .trim()
      .split("\n")
      .flatMap((line) => line.split(" ").map((time) => Math.round((Number(time) - startedMs) / DAY_MS)));
    assert.equal(offsets.length, 8, text);
    const jumped = offsets.filter((days) => days === Math.sign(byMs)).length;
    assert.equal(jumped, 4, `the later half of ${offsets.join(" ")} days`);
  }
});
