import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SeededRandom } from "../base/random.ts";
import { TokenBucket } from "./bucket.ts";
import { LossMeter } from "./loss.ts";
import { RateEstimator } from "./rate.ts";
import { RttEstimator } from "./rtt.ts";
import { PathKind, pathCost, worthMoving } from "./select.ts";

test("the 95th percentile equals sorting the last 64 samples", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 1_000 }), { minLength: 1, maxLength: 200, size: "max" }),
      (samples) => {
        const rtt = new RttEstimator();
        samples.forEach((sample, i) => rtt.add(i * 10, sample));
        const last = samples.slice(-64).toSorted((a, b) => a - b);
        assert.equal(rtt.p95Ms, last[Math.ceil(last.length * 0.95) - 1]);
      },
    ),
  );
});

test("smoothed value and variation follow RFC 6298, and impossible samples are ignored", () => {
  const rtt = new RttEstimator();
  assert.deepEqual([rtt.smoothedMs, rtt.p95Ms, rtt.baselineMs], [-1, -1, -1]);
  rtt.add(0, 100);
  assert.deepEqual([rtt.smoothedMs, rtt.variationMs], [100, 50]);
  rtt.add(1, 180);
  assert.deepEqual([rtt.smoothedMs, rtt.variationMs], [110, 57.5]);
  for (const bad of [-1, Number.NaN, 60_001, Infinity]) rtt.add(2, bad);
  assert.equal(rtt.samples, 2);
});

test("the baseline ignores the queue of our own traffic and forgets an old minimum within ten minutes", () => {
  const rtt = new RttEstimator();
  for (let ms = 0; ms < 10_000; ms += 100) rtt.add(ms, 20);
  for (let ms = 10_000; ms < 290_000; ms += 100) rtt.add(ms, 150);
  assert.equal(rtt.baselineMs, 20);
  for (let ms = 290_000; ms < 620_000; ms += 100) rtt.add(ms, 150);
  assert.equal(rtt.baselineMs, 150);
});

test("loss converges, lateness is credited, and failing means more than 30 % of 32 packets", () => {
  const random = new SeededRandom(4);
  const meter = new LossMeter();
  for (let i = 0; i < 5_000; i++) {
    const expected = 1 + (random.u32() % 10);
    let received = 0;
    for (let k = 0; k < expected; k++) if (random.unit() >= 0.2) received++;
    meter.add(expected, received);
  }
  assert.ok(Math.abs(meter.ratio - 0.2) < 0.08, `${meter.ratio}`);
  const late = new LossMeter();
  for (let i = 0; i < 100; i++) {
    late.add(40, i % 2 === 0 ? 42 : 38);
  }
  assert.ok(late.ratio < 0.01, `${late.ratio}`);
  const bad = new LossMeter();
  bad.add(31, 0);
  assert.equal(bad.failing, false, "not a window yet");
  bad.add(1, 0);
  assert.equal(bad.failing, true);
  bad.add(32, 31);
  assert.equal(bad.failing, false);
});

test("the delivery rate is the peak of the last two seconds, across a wrapping clock, and stands while idle", () => {
  const rate = new RateEstimator();
  let bytes = 0;
  const step = (ms: number, perMs: number): void => {
    bytes += perMs * 10;
    rate.add(ms, bytes, (4_294_000_000 + ms * 1_000) % 4294967296);
  };
  for (let ms = 0; ms < 2_000; ms += 10) step(ms, 1_250);
  assert.ok(Math.abs(rate.bps - 10_000_000) < 1);
  for (let ms = 2_000; ms < 2_500; ms += 10) step(ms, 125);
  assert.ok(rate.bps > 9_000_000, "a pause of the application does not shrink it at once");
  for (let ms = 2_500; ms < 5_000; ms += 10) step(ms, 125);
  assert.ok(Math.abs(rate.bps - 1_000_000) < 1);
  rate.add(60_000, bytes + 10, (4_294_000_000 + 60_000_000) % 4294967296);
  assert.ok(Math.abs(rate.bps - 1_000_000) < 1, "an idle minute is no rate");
});

test("direct beats relay beats transit, then time and loss, with hysteresis", () => {
  const fast = pathCost(PathKind.DIRECT, 10, 0);
  assert.ok(pathCost(PathKind.DIRECT, 500, 0.2) < pathCost(PathKind.RELAY, 1, 0));
  assert.ok(pathCost(PathKind.RELAY, 900, 0) < pathCost(PathKind.TRANSIT, 1, 0));
  assert.ok(pathCost(PathKind.DIRECT, 10, 0.1) > pathCost(PathKind.DIRECT, 30, 0));
  assert.equal(pathCost(PathKind.DIRECT, 10, 0.04), fast, "a sender that fills the path loses some");
  assert.equal(pathCost(PathKind.DIRECT, -1, 0), Infinity);
  assert.equal(worthMoving(fast, pathCost(PathKind.DIRECT, 14.9, 0)), false);
  assert.equal(worthMoving(fast, pathCost(PathKind.DIRECT, 15.1, 0)), true);
  assert.equal(worthMoving(pathCost(PathKind.DIRECT, 90, 0), pathCost(PathKind.DIRECT, 100, 0)), false);
  assert.equal(worthMoving(pathCost(PathKind.DIRECT, 84, 0), pathCost(PathKind.DIRECT, 100, 0)), true);
  assert.equal(worthMoving(pathCost(PathKind.DIRECT, 400, 0), pathCost(PathKind.RELAY, 10, 0)), true);
  assert.equal(worthMoving(fast, Infinity), true);
  assert.equal(worthMoving(Infinity, Infinity), false);
});

test("no two different paths are each worth leaving for the other", () => {
  const cost = fc.tuple(
    fc.nat(2),
    fc.double({ min: 0, max: 2_000, noNaN: true }),
    fc.double({ min: 0, max: 1, noNaN: true }),
  );
  fc.assert(
    fc.property(cost, cost, (x, y) => {
      const a = pathCost(x[0] as PathKind, x[1], x[2]);
      const b = pathCost(y[0] as PathKind, y[1], y[2]);
      assert.ok(!(worthMoving(a, b) && worthMoving(b, a)));
    }),
  );
});

test("a token bucket never gives more than its burst and rate, and keeps a reserve", () => {
  const bucket = new TokenBucket(20, 40);
  let given = 0;
  for (let ms = 0; ms <= 5_000; ms++) if (bucket.take(ms)) given++;
  assert.equal(given, 140);
  const reserved = new TokenBucket(20, 40);
  let rest = 0;
  while (reserved.take(0, 20)) rest++;
  assert.equal(rest, 20);
  assert.equal(reserved.take(0), true);
});
