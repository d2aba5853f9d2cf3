/** The retained log on a real store: what is put is read back, in order, within its quota. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { nullLogger } from "../../base/log.ts";
import type { ReceivedMessage } from "../../messaging/pubsub/types.ts";
import { systemClock } from "../clock.ts";
import { PubSubLog } from "./pubsub-log.ts";
import { MessageStoreThread } from "./store.ts";
import { PUBSUB_TABLES } from "./tables/pubsub.ts";

const stores: MessageStoreThread[] = [];
after(async () => {
  for (const store of stores) await store.close();
});

function open(quotaBytes: number): PubSubLog {
  const store = new MessageStoreThread(":memory:", [PUBSUB_TABLES]);
  stores.push(store);
  return new PubSubLog(store, systemClock, nullLogger, quotaBytes);
}

function message(cursor: number, topic = "t"): ReceivedMessage {
  return {
    topic,
    ref: "00".repeat(8),
    publisher: new Uint8Array(32),
    agent: undefined,
    epoch: 1,
    sequence: cursor,
    hlc: cursor,
    payload: new Uint8Array(0),
    cursor,
  };
}

test("messages come back by stream and by order of arrival, also those that were just put", async () => {
  const log = open(1_000_000);
  await log.start();
  for (let i = 1; i <= 600; i++) log.put(message(i), Uint8Array.of(i & 0xff));
  for (let i = 601; i <= 610; i++) log.put(message(i, "other"), Uint8Array.of(9));
  const page = await log.after("t", 590, 100);
  assert.deepEqual(
    page.map((one) => one.cursor),
    Array.from({ length: 10 }, (_, i) => 591 + i),
  );
  const read = await log.read({ topic: "t", ref: "00".repeat(8), from: 5, to: 8, peer: "a", since: 0 });
  assert.deepEqual(
    read.map((frame) => frame[0]),
    [5, 6, 7, 8],
  );
  assert.deepEqual(await log.after("nothing", 0, 10), []);
  await log.close();
});

test("at its quota the oldest go", async () => {
  const log = open(100_000);
  await log.start();
  for (let i = 1; i <= 1000; i++) {
    log.put(message(i), new Uint8Array(400));
    if (i % 100 === 0) await log.after("t", i, 1);
  }
  await log.close();
  assert.ok(log.storedBytes <= 110_000, `${log.storedBytes}`);
  assert.ok(log.trimmed > 0);
  const left = await log.after("t", 0, 1000);
  assert.equal(left.at(-1)?.cursor, 1000);
  assert.equal(left.length, 1001 - left[0].cursor, "without holes");
});
