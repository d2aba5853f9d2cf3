import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../base/random.ts";
import { endpointToBytes, parseEndpoint } from "../../base/endpoint.ts";
import { VirtualClock } from "../../../test/support/virtual-clock.ts";
import type { Look, Source } from "./source.ts";
import { SourceCell } from "./source.ts";

const at = (text: string): Uint8Array => endpointToBytes(parseEndpoint(text) ?? assert.fail(text));
const SEEN = at("198.51.100.5:40000");
const FOUND: Look = { endpoints: [SEEN], lifeMs: 60_000, text: "seen" };

function cell(
  look: Source["look"],
  close: () => Promise<void> = () => Promise.resolve(),
): {
  clock: VirtualClock;
  cell: SourceCell;
  changes: () => number;
} {
  const clock = new VirtualClock();
  let changes = 0;
  const source: Source = { name: "stun", look, counters: () => ({}), close };
  const made = new SourceCell(
    source,
    { clock, random: new SeededRandom(1), changed: () => void changes++ },
    { periodMs: 30_000, deadlineMs: 5_000 },
  );
  return { clock, cell: made, changes: () => changes };
}

test("what a source found is there, tells of its change once, and expires", async () => {
  let looks = 0;
  const {
    clock,
    cell: one,
    changes,
  } = cell(() => {
    if (++looks > 2) throw new Error("gone");
    return Promise.resolve(FOUND);
  });
  void one.refresh();
  await clock.advance(1);
  assert.deepEqual(one.endpoints(), [SEEN]);
  assert.equal(changes(), 1);
  await clock.advance(35_000);
  assert.equal(looks, 2);
  assert.equal(changes(), 1, "the same again is no change");
  await clock.advance(40_000);
  assert.equal(one.report().state, "failing");
  assert.equal(one.report().text, "gone");
  assert.deepEqual(one.endpoints(), [SEEN], "a failed look does not take back what was found");
  await clock.advance(60_000);
  assert.deepEqual(one.endpoints(), []);
  assert.equal(changes(), 2);
});

test("a source that throws at once is tried again after a growing pause", async () => {
  let looks = 0;
  const { clock, cell: one } = cell(() => {
    looks++;
    throw new TypeError("broken");
  });
  void one.refresh();
  await clock.advance(100_000);
  assert.ok(looks >= 4 && looks <= 8, `${looks} looks`);
  assert.equal(one.report().counters["failed"], looks);
});

test("a source that hangs is told to stop, counts as hung, and what it says later is ignored", async () => {
  let signal: AbortSignal | undefined;
  let finish: ((look: Look) => void) | undefined;
  const {
    clock,
    cell: one,
    changes,
  } = cell((given) => {
    signal = given;
    return new Promise((resolve) => (finish = resolve));
  });
  const round = one.refresh();
  await clock.advance(5_001);
  assert.equal(signal?.aborted, true);
  await clock.advance(500);
  await round;
  assert.equal(one.report().state, "hung");
  finish?.(FOUND);
  await clock.advance(1);
  assert.deepEqual(one.endpoints(), []);
  assert.equal(changes(), 0);
  assert.equal(one.report().counters["late"], 1);
});

test("rounds that never end do not pile up", async () => {
  let looks = 0;
  const { clock, cell: one } = cell(() => {
    looks++;
    return new Promise(() => undefined);
  });
  void one.refresh();
  await clock.advance(3_600_000);
  assert.equal(looks, 2);
  assert.match(one.report().text, /rests/);
});

test("a flood of refreshes is one round at a time, a second apart", async () => {
  let running = 0;
  let most = 0;
  let looks = 0;
  const { clock, cell: one } = cell(async () => {
    looks++;
    most = Math.max(most, ++running);
    await new Promise<void>((resolve) => void clock.schedule(clock.nowMs + 100, resolve));
    running--;
    return FOUND;
  });
  const all: Promise<void>[] = [];
  for (let i = 0; i < 1000; i++) {
    all.push(one.refresh());
    await clock.advance(2);
  }
  await clock.advance(3_000);
  await Promise.all(all);
  assert.equal(most, 1);
  assert.ok(looks <= 4, `${looks} looks within 2 s`);
});

test("a flood of results is cut", async () => {
  const endpoints = Array.from({ length: 500 }, (_, i) => at(`198.51.100.5:${i + 1}`));
  const { clock, cell: one } = cell(() => Promise.resolve({ ...FOUND, endpoints }));
  void one.refresh();
  await clock.advance(1);
  assert.equal(one.endpoints().length, 8);
  assert.equal(one.report().counters["cut"], 492);
});

test("closing ends although the source does not, and nothing happens afterwards", async () => {
  let looks = 0;
  const {
    clock,
    cell: one,
    changes,
  } = cell(
    () => {
      looks++;
      return new Promise(() => undefined);
    },
    () => new Promise(() => undefined),
  );
  const round = one.refresh();
  await clock.advance(10);
  const closing = one.close();
  await clock.advance(2_000);
  await Promise.all([closing, round]);
  await one.refresh();
  await clock.advance(1_000_000);
  assert.equal(looks, 1);
  assert.equal(changes(), 0);
  assert.equal(one.report().state, "closed");
});
