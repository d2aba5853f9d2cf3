import assert from "node:assert/strict";
import { test } from "node:test";
import { VirtualClock } from "../../../../test/support/virtual-clock.ts";
import { type Logger, nullLogger } from "../../../base/log.ts";
import { Audit, Slots } from "./limits.ts";

function auditOf(clock: VirtualClock): { readonly audit: Audit; readonly lines: string[] } {
  const lines: string[] = [];
  const log: Logger = { ...nullLogger, child: () => ({ ...nullLogger, info: (line) => void lines.push(line) }) };
  return { audit: new Audit(log, clock), lines };
}

test("one member's flood of refusals leaves out its own lines alone, and none of what it did", () => {
  const clock = new VirtualClock();
  const { audit, lines } = auditOf(clock);
  for (let i = 0; i < 10_000; i++) audit.refused("evil", "refused");
  assert.equal(lines.length, 50);
  lines.length = 0;
  audit.used("evil", "evil connects");
  audit.refused("good", "good is refused");
  audit.note("the user did something");
  assert.deepEqual(lines, [
    "evil connects (9950 lines before this one were left out)",
    "good is refused",
    "the user did something",
  ]);
  assert.equal(audit.leftOut, 9_950);
});

test("uses are bounded as well, and lines come again with time", async () => {
  const clock = new VirtualClock();
  const { audit, lines } = auditOf(clock);
  for (let i = 0; i < 1_000; i++) audit.used("busy", "use");
  assert.equal(lines.length, 100);
  await clock.advance(1_000);
  for (let i = 0; i < 1_000; i++) audit.used("busy", "use");
  assert.equal(lines.length, 120);
});

test("more members than buckets share one, and a bucket that is full again makes room", async () => {
  const clock = new VirtualClock();
  const { audit, lines } = auditOf(clock);
  for (let i = 0; i < 5_000; i++) audit.used(`member ${i}`, "use");
  // 1022 of their own, the two that always are, and the shared one
  assert.equal(lines.length, 1_022 + 100);
  await clock.advance(60_000);
  lines.length = 0;
  for (let i = 0; i < 500; i++) audit.used(`other ${i}`, "use");
  assert.equal(lines.length, 500);
});

test("places are bounded in all and for each, and given back once", () => {
  const slots = new Slots(3, 2);
  const first = slots.take("a");
  assert.ok(first !== undefined && slots.take("a") !== undefined);
  assert.equal(slots.take("a"), undefined);
  assert.ok(slots.take("b") !== undefined);
  assert.equal(slots.take("c"), undefined);
  first();
  first();
  assert.equal(slots.taken, 2);
});
