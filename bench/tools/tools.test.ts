import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { conclude, summarise } from "../compare.ts";
import { describeDrops, dropsSince, weftDrops } from "./accounting.ts";
import { parse } from "./iperf.ts";
import { isNumber, take, Unavailable } from "./reading.ts";
import { figure, replaceSection } from "./report.ts";
import { ascending, median, quantile, slope, spread } from "./statistics.ts";

test("the median lies between the values and half of them are on each side", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -1_000, max: 1_000 }), { minLength: 1 }), (values) => {
      const middle = median(values);
      assert.ok(values.filter((value) => value <= middle).length * 2 >= values.length);
      assert.ok(values.filter((value) => value >= middle).length * 2 >= values.length);
    }),
  );
});

test("a quantile is one of the values, and no more than its share lies below it", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer(), { minLength: 1 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (values, share) => {
        const found = quantile(ascending(values), share);
        assert.ok(values.includes(found));
        assert.ok(values.filter((value) => value < found).length <= share * values.length);
      },
    ),
  );
});

test("statistics of nothing are not numbers", () => {
  assert.ok(Number.isNaN(median([])));
  assert.ok(Number.isNaN(quantile([], 0.5)));
  assert.ok(Number.isNaN(spread([]).min));
  assert.ok(Number.isNaN(slope([[1, 1]])));
});

test("the slope of a straight line is its slope", () => {
  const points = Array.from({ length: 50 }, (_, x): [number, number] => [x, 3 * x - 7]);
  assert.ok(Math.abs(slope(points) - 3) < 1e-9);
});

test("a measurement that fails leaves a reason for each of its figures, never a zero", async () => {
  const failed = await take(["x", "y"], () =>
    Promise.reject(new Unavailable("no such thing\nsecond line\nthird line")),
  );
  assert.deepEqual(failed, { x: { why: "no such thing — second line" }, y: { why: "no such thing — second line" } });
  const partial = await take(["x", "y", "z"], () => Promise.resolve({ x: 4, y: Number.NaN }));
  assert.equal(partial["x"], 4);
  assert.equal(isNumber(partial["y"]), false);
  assert.equal(isNumber(partial["z"]), false);
});

test("iperf3's UDP result counts what the receiver got, and loss against what was sent", () => {
  const json = JSON.stringify({
    intervals: [
      { sum: { bits_per_second: 9, seconds: 1, omitted: true } },
      { sum: { bits_per_second: 8, seconds: 1 } },
      { sum: { bits_per_second: 1, seconds: 0.001 } },
    ],
    end: {
      sum_sent: { packets: 1_000, bytes: 64_000, seconds: 2 },
      sum_received: { packets: 990, bytes: 32_000, seconds: 2 },
    },
  });
  const result = parse(json, { udpBytes: 64 }, 3);
  assert.deepEqual(result.datagrams, {
    sent: 1_000,
    received: 500,
    receivedPerSecond: 250,
    lossRatio: 0.5,
    droppedAtServerSocket: 3,
  });
  assert.deepEqual(result.perInterval, [8]);
});

test("iperf3 output without a receiver's result is no measurement", () => {
  for (const text of [
    "",
    "{}",
    '{"error": "unable to connect"}',
    '{"end": {"sum_received": {"bytes": 0, "seconds": 1}}}',
  ]) {
    assert.throws(() => parse(text, {}, undefined), Unavailable);
  }
});

test("ratios are computed within a round, and rounds without the reference are left out", () => {
  const entry = (round: number, subject: string, value: number | { why: string }) => ({
    round,
    subject,
    measure: "m",
    atSeconds: 0,
    readings: { m: value },
  });
  const entries = [
    entry(0, "wireguard-go", 2),
    entry(0, "weft", 6),
    entry(1, "wireguard-go", 4),
    entry(1, "weft", 8),
    entry(2, "wireguard-go", { why: "broken" }),
    entry(2, "weft", 100),
  ];
  const summary = summarise("m", "weft", entries, "wireguard-go");
  assert.deepEqual(summary.ratio, { count: 2, median: 2.5, min: 2, max: 3 });
  assert.equal(summary.spread.count, 3);
  assert.deepEqual(summarise("m", "wireguard-go", entries, "wireguard-go").missing, ["broken"]);
  const promise = (target: { least: number } | { most: number }): string | undefined =>
    conclude(entries, {
      figures: [{ id: "m", title: "m", unit: "x" }],
      names: ["weft", "wireguard-go"],
      reference: "wireguard-go",
      promisedTo: "weft",
      target: () => target,
    }).tables[1]?.rows[0]?.at(-1);
  assert.equal(promise({ least: 2.5 }), "≥ 2.5: reached");
  assert.equal(promise({ least: 2.6 }), "≥ 2.6: missed");
  assert.equal(promise({ most: 2.4 }), "≤ 2.4: missed");
});

test("only the section between its markers is replaced, and a file without them is refused", () => {
  const text = "before\n<!-- bench:tunnel:begin -->\nold\n<!-- bench:tunnel:end -->\nafter\n";
  assert.equal(
    replaceSection(text, "tunnel", "new"),
    "before\n<!-- bench:tunnel:begin -->\nnew\n<!-- bench:tunnel:end -->\nafter\n",
  );
  assert.throws(() => replaceSection(text, "links", "new"), /bench:links:begin/);
});

test("drop counters are read from Weft's metrics and only what grew is reported", () => {
  const before = weftDrops(
    new Map([
      ['weft_drops_total{direction="rx",reason="auth"}', 5],
      ["weft_udp_receive_overflow_total", 1],
    ]),
  );
  const after = weftDrops(
    new Map([
      ['weft_drops_total{direction="rx",reason="auth"}', 9],
      ["weft_udp_receive_overflow_total", 1],
    ]),
  );
  const added = dropsSince(before, after);
  assert.deepEqual([...added], [["rx auth", 4]]);
  assert.equal(describeDrops(added), "4 rx auth");
});

test("figures have three significant digits", () => {
  assert.deepEqual([7.614, 36_123, 0.00421, 0, 12.34, Number.NaN].map(figure), [
    "7.61",
    "36,100",
    "0.0042",
    "0.00",
    "12.3",
    "n/a",
  ]);
});
