/** What must not look like a failure, and sizes that stop passing: moves between paths, paths that differ in our address only, doubts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { link, World } from "./pair-world.ts";
import { Path, PATH_REASONS, PathReason } from "./path.ts";

const HEADERS_BYTES = 60;

test("paths that differ in the peer's own address only are told apart there: steady data both ways never moves", () => {
  const world = new World([
    link("10.0.0.1:1", "10.0.0.2:1", 50, { jitterMs: 10 }),
    link("10.0.0.1:1", "10.1.0.2:1", 70, { jitterMs: 10 }),
  ]);
  world.connect();
  world.every(2, () => world.a.sendData());
  world.every(4, () => world.b.sendData());
  world.pass(2_000);
  const moves = (): number =>
    [world.a, world.b].reduce((sum, { paths: { counters } }) => sum + counters.failovers + counters.roams, 0);
  const before = moves();
  world.pass(15_000);
  assert.equal(moves(), before);
  assert.equal(world.a.paths.counters.falseAlarms, 0);
  assert.deepEqual(world.a.activeRemote, world.links[0].b);
  assert.ok(world.a.paths.lossRatio < 0.02, `loss ${world.a.paths.lossRatio}`);
  assert.equal(world.b.paths.figures().length, 2);
});

test("a move away and back because reports were late is no loss on either path", () => {
  const world = new World([
    link("10.0.0.1:1", "10.0.0.2:1", 50, { jitterMs: 5 }),
    link("10.1.0.1:1", "10.1.0.2:1", 70, { jitterMs: 5 }),
  ]);
  world.connect();
  world.every(1, () => world.a.sendData());
  world.pass(6_000);
  const lossy = PATH_REASONS[PathReason.LOSSY];
  for (let round = 0; round < 5; round++) {
    // nothing that A sends is lost, but for a while nothing is heard of it
    world.links[0].lossToA = 1;
    world.pass(150);
    world.links[0].lossToA = 0;
    world.run(world.nowMs + 3_000, () => {
      for (const path of world.a.paths.figures()) assert.notEqual(path.reason, lossy);
      return false;
    });
  }
  assert.ok(world.a.paths.counters.failovers > 0, "it did move");
  // what was moved by is exactly what was caused
  assert.ok(world.a.paths.counters.failovers <= 10, `${world.a.paths.counters.failovers} moves`);
  for (const path of world.a.paths.figures()) assert.ok(path.lossRatio < 0.1, JSON.stringify(path));
});

test("a second path takes over by what was copied to it, not by reports of what it carried before", () => {
  const world = new World([link("10.0.0.1:1", "10.0.0.2:1", 5), link("10.1.0.1:1", "10.1.0.2:1", 55)]);
  world.connect();
  world.every(1, () => world.a.sendData());
  world.pass(6_000);
  const isOn = (index: number): boolean => world.a.activeRemote?.join() === world.links[index].b.join();
  world.links[0].lossToA = 1;
  assert.ok(isOn(0));
  world.run(world.nowMs + 2_000, () => isOn(1));
  world.pass(150);
  world.links[0].lossToA = 0;
  world.run(world.nowMs + 10_000, () => isOn(0));
  // reports of what went over the second path are still under way
  world.links[0].lossToA = 1;
  world.links[0].lossToB = 1;
  world.run(world.nowMs + 2_000, () => world.a.paths.duplicate >= 0);
  const doubtMs = world.nowMs;
  world.run(world.nowMs + 2_000, () => world.a.paths.duplicate < 0);
  assert.ok(isOn(1) && world.nowMs - doubtMs >= 10, `${world.nowMs - doubtMs} ms`);
});

for (const small of [0, 4, 100]) {
  for (const ways of [1, 2]) {
    const what = small > 0 ? `large packets among ${small} times as many small ones` : "large packets";
    test(`${what} that stop passing pass again within two seconds, ${ways === 1 ? "with one path" : "with two"}`, () => {
      const links = [link("10.0.0.1:1", "10.0.0.2:1", 1), link("10.1.0.1:1", "10.1.0.2:1", 2)].slice(0, ways);
      const world = new World(links);
      world.connect();
      const large = (): number => Math.min(1_400, world.a.paths.mtuBytes - HEADERS_BYTES);
      const everyMs = small === 100 ? 50 : 5;
      world.every(everyMs, () => world.a.sendData(large()));
      if (small > 0) world.every(everyMs / small, () => world.a.sendData(100));
      world.pass(10_000);
      for (const one of world.links) one.mtuBytes = 1_300;
      const changedMs = world.nowMs;
      world.pass(20);
      world.b.arrivals.length = 0;
      world.run(changedMs + 5_000, () => world.b.arrivals.some(({ bytes }) => bytes > 1_000));
      assert.ok(world.nowMs - changedMs < 2_000, `${world.nowMs - changedMs} ms`);
      world.b.arrivals.length = 0;
      world.pass(1_000);
      assert.ok(world.b.arrivals.filter(({ bytes }) => bytes > 1_000).length > 950 / everyMs);
    });
  }
}

test("false alarms make reports waited for longer, but never beyond what TCP would wait, and for seconds only", () => {
  const path = new Path(0, 0);
  path.reset(0, 1, 1_500);
  path.announced = true;
  for (let i = 0; i < 64; i++) path.rtt.add(i, 2);
  for (let i = 0; i < 8; i++) path.falseAlarm(1_000);
  assert.ok(path.deliveryBoundMs <= 2 + 20 + 80.001, `${path.deliveryBoundMs}`);
  for (let nowMs = 1_000; nowMs < 8_000; nowMs += 10) path.calmDown(nowMs);
  assert.ok(path.deliveryBoundMs <= 2 + 20 + 20.001, `${path.deliveryBoundMs}`);
});
