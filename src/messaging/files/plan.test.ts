import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { FetchPlan } from "./plan.ts";
import { CHUNK_BYTES } from "./tree.ts";

/** Lets sources work at their own pace, fail and lie, until the file is whole. @returns virtual time and who brought what */
function fetchAll(
  chunks: number,
  speeds: readonly number[],
  fails: (source: number, chunk: number) => "good" | "bad" | "gone",
): { atMs: number; brought: number[]; twice: number } {
  const plan = new FetchPlan(chunks);
  plan.unlock(0, chunks);
  const queues = speeds.map((): { chunk: number; dueMs: number }[] => []);
  const brought = speeds.map(() => 0);
  const alive = new Set(speeds.keys());
  for (const source of alive) plan.addSource(String(source), 0);
  let twice = 0;
  let atMs = 0;
  for (let step = 0; !plan.isComplete; step++) {
    assert.ok(step < 100_000, "it never ends");
    for (const source of alive) {
      for (;;) {
        const run = plan.next(String(source), atMs);
        if (run === undefined) break;
        for (let chunk = run.first; chunk < run.first + run.count; chunk++) {
          assert.equal(plan.has(chunk), false, "it asks for what it has");
          const before = queues[source].at(-1)?.dueMs ?? atMs;
          queues[source].push({ chunk, dueMs: Math.max(before, atMs) + CHUNK_BYTES / speeds[source] });
        }
      }
      assert.ok(plan.outstanding(String(source)) <= 128);
    }
    const dues = [...alive].flatMap((source) => queues[source].slice(0, 1).map(({ dueMs }) => dueMs));
    atMs = Math.max(atMs + 1, Math.min(atMs + 100, ...dues));
    for (const source of alive) {
      while (queues[source].length > 0 && queues[source][0].dueMs <= atMs) {
        const { chunk } = queues[source].shift() as { chunk: number };
        const fate = fails(source, chunk);
        if (fate === "gone") {
          alive.delete(source);
          plan.removeSource(String(source));
          queues[source] = [];
          break;
        }
        const what = plan.arrived(String(source), chunk, CHUNK_BYTES, atMs);
        assert.notEqual(what, "unasked");
        if (what === "late") twice++;
        else if (fate === "bad") {
          plan.failed(chunk);
          alive.delete(source);
          plan.removeSource(String(source));
          queues[source] = [];
          break;
        } else {
          assert.ok(plan.note(chunk));
          brought[source]++;
        }
      }
    }
  }
  return { atMs, brought, twice };
}

test("every chunk is fetched once it can be, whatever sources do", () => {
  const world = fc.record({
    chunks: fc.integer({ min: 0, max: 400 }),
    speeds: fc.array(fc.integer({ min: 10, max: 100_000 }), { minLength: 1, maxLength: 5 }),
    bad: fc.array(fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 0, max: 399 })), { maxLength: 6 }),
  });
  fc.assert(
    fc.property(world, ({ chunks, speeds, bad }) => {
      // source 0 is honest and stays: the file can always be completed
      const { brought } = fetchAll(chunks, speeds, (source, chunk) => {
        const hit = bad.findIndex(([who, what]) => who === source && what === chunk);
        return hit < 0 ? "good" : hit % 2 === 0 ? "bad" : "gone";
      });
      assert.equal(
        brought.reduce((sum, count) => sum + count, 0),
        chunks,
      );
    }),
    { numRuns: 200 },
  );
});

test("two sources are faster than one, and each brings its share", () => {
  const alone = fetchAll(400, [10_000], () => "good");
  const both = fetchAll(400, [10_000, 10_000], () => "good");
  assert.ok(both.atMs < alone.atMs * 0.65, `${both.atMs} ms against ${alone.atMs} ms`);
  assert.ok(Math.min(...both.brought) > 100, both.brought.join());
});

test("a source a hundred times slower does not hold the file up", () => {
  const alone = fetchAll(400, [20_000], () => "good");
  const both = fetchAll(400, [20_000, 200], () => "good");
  assert.ok(both.atMs < alone.atMs + 2_500, `${both.atMs} ms against ${alone.atMs} ms`);
  assert.ok(both.twice <= 8, `${both.twice} chunks came twice`);
});

test("nothing is asked for before its leaf is known", () => {
  const plan = new FetchPlan(10);
  plan.addSource("a", 0);
  assert.equal(plan.next("a", 0), undefined);
  plan.unlock(4, 2);
  assert.deepEqual(plan.next("a", 0), { first: 4, count: 2 });
  assert.equal(plan.arrived("a", 9, CHUNK_BYTES, 1), "unasked");
  assert.equal(plan.next("nobody", 0), undefined);
});

test("a source that is added again leaves nothing behind that nobody brings", () => {
  const plan = new FetchPlan(4);
  plan.unlock(0, 4);
  plan.addSource("a", 0);
  assert.deepEqual(plan.next("a", 0), { first: 0, count: 4 });
  plan.addSource("a", 1);
  plan.addSource("b", 1);
  assert.deepEqual(plan.next("b", 1), { first: 0, count: 4 });
});
