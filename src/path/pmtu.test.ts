import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { link, World } from "./pair-world.ts";
import { PathMtu, PMTU_BASE_BYTES, PMTU_TABLE } from "./pmtu.ts";

/** Drives a PathMtu against a path that passes up to `passes` bytes, answering after `rttMs`. @returns probes sent */
function drive(mtu: PathMtu, passes: () => number, fromMs: number, untilMs: number, rttMs = 20): number {
  let probes = 0;
  let nowMs = fromMs;
  const answers: { atMs: number; size: number }[] = [];
  for (;;) {
    const nextAnswer = answers[0]?.atMs ?? Infinity;
    const nextMs = Math.max(nowMs, Math.min(mtu.nextMs, nextAnswer));
    if (nextMs > untilMs) return probes;
    nowMs = nextMs;
    if (nextAnswer <= nowMs) {
      mtu.answered(nowMs, answers.shift()!.size);
      continue;
    }
    for (let size = mtu.poll(nowMs, rttMs); size > 0; size = mtu.poll(nowMs, rttMs)) {
      probes++;
      if (size <= passes()) answers.push({ atMs: nowMs + rttMs, size });
    }
  }
}

test("the interfaces' limit is used at once and one answered probe verifies it", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  assert.equal(mtu.mtuBytes, 1500);
  mtu.verify(0);
  assert.equal(
    drive(mtu, () => 1500, 0, 1_000),
    1,
  );
  assert.deepEqual([mtu.mtuBytes, mtu.verifiedBytes], [1500, 1500]);
});

test("a limit that does not pass steps down to the largest table size that does, for every limit and path", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1280, max: 9000 }), fc.integer({ min: 1280, max: 9000 }), (limit, passes) => {
      const mtu = new PathMtu();
      mtu.reset(limit);
      mtu.verify(0);
      drive(mtu, () => passes, 0, 1_000);
      const expected = passes >= limit ? limit : PMTU_TABLE.find((size) => size <= passes && size < limit)!;
      assert.equal(mtu.mtuBytes, expected);
    }),
  );
});

test("the answer is there within three timeouts", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  mtu.verify(0);
  drive(mtu, () => 1420, 0, 3 * (2 * 20 + 30) + 1);
  assert.equal(mtu.mtuBytes, 1420);
});

test("a path that answers nothing keeps its value, and the round is repeated with growing pauses", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  mtu.verify(0);
  const first = drive(mtu, () => 0, 0, 1_000);
  assert.equal(mtu.mtuBytes, 1500);
  const later = drive(mtu, () => 0, 1_000, 120_000);
  assert.ok(later > first && later < first * 8, `${later} probes`);
});

test("a lowered path is raised again when more passes, at the latest after ten minutes", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  mtu.verify(0);
  let passes = 1400;
  drive(mtu, () => passes, 0, 5_000);
  assert.equal(mtu.mtuBytes, 1400);
  passes = 1500;
  drive(mtu, () => passes, 5_000, 640_000);
  assert.equal(mtu.mtuBytes, 1500);
});

test("a doubt starts a round at most once a second, weak ones less and less often while the size is right", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  mtu.verify(0);
  drive(mtu, () => 1500, 0, 5_000);
  let probes = 0;
  for (let nowMs = 5_000; nowMs < 15_000; nowMs += 10) {
    mtu.suspect(nowMs);
    probes += drive(mtu, () => 1500, nowMs, nowMs + 9, 1);
  }
  assert.equal(probes, 10);
  drive(mtu, () => 1500, 15_000, 50_000);
  probes = 0;
  for (let nowMs = 50_000; nowMs < 110_000; nowMs += 10) {
    mtu.suspect(nowMs, true);
    probes += drive(mtu, () => 1500, nowMs, nowMs + 9, 1);
  }
  assert.ok(probes >= 5 && probes <= 8, `${probes}`);
});

test("what a doubt lowered is tried again after a minute", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  let passes = 1300;
  mtu.suspect(0);
  drive(mtu, () => passes, 0, 1_000);
  assert.equal(mtu.mtuBytes, 1280);
  passes = 1500;
  drive(mtu, () => passes, 1_000, 100_000);
  assert.equal(mtu.mtuBytes, 1500);
});

test("a true hint is in force at once; a forged one for a round trip, and then none is believed for a minute", () => {
  const honest = new PathMtu();
  honest.reset(1500);
  honest.verify(0);
  drive(honest, () => 1500, 0, 1_000);
  assert.equal(honest.hinted(1_000, 1380), true);
  assert.equal(honest.mtuBytes, 1380);
  drive(honest, () => 1380, 1_000, 3_000);
  assert.equal(honest.mtuBytes, 1380);
  const forged = new PathMtu();
  forged.reset(1500);
  assert.equal(forged.hinted(1_000, 1280), true);
  drive(forged, () => 1500, 1_000, 1_030);
  assert.equal(forged.mtuBytes, 1500);
  assert.equal(forged.hinted(2_000, 1280), false);
  assert.equal(forged.mtuBytes, 1500);
});

test("absurd hints and refusals never lead below the base", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  assert.equal(mtu.hinted(0, 576), false);
  assert.equal(mtu.hinted(0, 1500), false);
  assert.equal(mtu.refused(0, 600), true);
  assert.equal(mtu.mtuBytes, PMTU_BASE_BYTES);
  assert.equal(mtu.refused(0, 600), false);
});

test("a refused size steps below itself at once, and a larger size than the limit is never believed", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  assert.equal(mtu.refused(0, 1500), true);
  assert.equal(mtu.mtuBytes, 1492);
  assert.equal(mtu.answered(0, 9000), false);
  assert.equal(mtu.mtuBytes, 1492);
});

test("a changed limit is followed", () => {
  const mtu = new PathMtu();
  mtu.reset(1500);
  mtu.verify(0);
  drive(mtu, () => 9000, 0, 1_000);
  mtu.setLimit(1_000, 9000);
  assert.equal(mtu.mtuBytes, 9000);
  drive(mtu, () => 9000, 1_000, 2_000);
  assert.equal(mtu.verifiedBytes, 9000);
  mtu.setLimit(2_000, 1400);
  assert.equal(mtu.mtuBytes, 1400);
});

test("two ends over a link of 1,420 find it by themselves, in both directions, while data flows", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10, { mtuBytes: 1420 })]);
  world.connect();
  world.every(20, () => world.a.sendData());
  assert.equal(world.a.paths.mtuBytes, 1500);
  world.pass(1_000);
  assert.equal(world.a.paths.mtuBytes, 1420);
  assert.equal(world.b.paths.mtuBytes, 1420);
  assert.ok(world.a.paths.counters.failovers === 0);
});

test("an IPv6 link counts its larger headers", () => {
  const world = new World([link("[fd00::1]:1", "[fd00::2]:1", 10, { mtuBytes: 1280 })]);
  world.connect();
  world.pass(1_000);
  assert.equal(world.a.paths.mtuBytes, 1280);
});

test("a link that shrinks under traffic is noticed by the next verification", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.every(20, () => world.a.sendData());
  world.pass(5_000);
  assert.equal(world.a.paths.mtuBytes, 1500);
  world.links[0].mtuBytes = 1400;
  world.pass(32_000);
  assert.equal(world.a.paths.mtuBytes, 1400);
});

test("a datagram that the kernel refuses, and an ICMP hint for a path of ours, lower the path; foreign names do not", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 10)]);
  world.connect();
  world.pass(1_000);
  world.a.paths.tooBig(world.nowMs, 1472);
  assert.equal(world.a.paths.mtuBytes, 1492);
  assert.equal(world.a.paths.mtuError(world.nowMs, world.a.name(world.links[0].a), 1300), false);
  assert.equal(world.a.paths.mtuError(world.nowMs, world.a.name(world.links[0].b), 1300), true);
  assert.equal(world.a.paths.mtuBytes, 1300);
});
