import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ByteRing, createRingMemory } from "./ring.ts";

test("records come out as they went in, in order, for any sizes and interleaving; refused ones are counted", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.nat({ max: 90 }), fc.constant(-1)), { maxLength: 300 }), (steps) => {
      const memory = createRingMemory(256);
      const producer = new ByteRing(memory);
      const consumer = new ByteRing(memory);
      const expected: number[][] = [];
      let refused = 0;
      let serial = 0;
      for (const step of steps) {
        if (step < 0) {
          const record = consumer.pop();
          assert.deepEqual(record === undefined ? undefined : [...record], expected.shift());
        } else {
          const record = Uint8Array.from({ length: step }, () => serial++ & 255);
          const cut = Math.min(3, step);
          const taken =
            serial % 2 === 0
              ? producer.push(record, 0, record.length)
              : producer.pushTwo(record.subarray(0, cut), record.subarray(cut));
          if (taken) expected.push([...record]);
          else refused++;
        }
      }
      while (expected.length > 0) assert.deepEqual([...(consumer.pop() as Uint8Array)], expected.shift());
      assert.equal(consumer.pop(), undefined);
      assert.equal(producer.refused, refused);
      // an empty ring takes a record of a third of its size wherever head and tail stand
      assert.equal(producer.push(new Uint8Array(80), 0, 80), true);
    }),
  );
});

test("a sleeping consumer wakes for a record and only once per parking", async () => {
  const memory = createRingMemory(256);
  const producer = new ByteRing(memory);
  const consumer = new ByteRing(memory);
  const woken = consumer.waitAsync();
  producer.push(Uint8Array.of(1), 0, 1);
  producer.wake();
  await woken;
  assert.deepEqual([...(consumer.pop() as Uint8Array)], [1]);
  consumer.park();
  assert.equal(producer.takeParked(), true);
  assert.equal(producer.takeParked(), false);
});
