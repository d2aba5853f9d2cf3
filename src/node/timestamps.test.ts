import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compare, toHex } from "../base/bytes.ts";
import { timestampWallMs } from "../session/handshake.ts";
import type { Mutation } from "./store.ts";
import { OWN_TIMESTAMP_KEY, StoredTimestamps } from "./timestamps.ts";

/** Keeps what a disk would; `lose` drops the writes of the last moment. */
class FakeStore {
  highWater: Uint8Array | undefined;
  writes = 0;
  readonly peers = new Map<string, { key: Uint8Array; value: Uint8Array }>();
  readonly persist = (mutations: readonly Mutation[]): void => {
    this.writes++;
    for (const mutation of mutations) {
      if (mutation.kind === "meta" && mutation.key === OWN_TIMESTAMP_KEY) this.highWater = mutation.value;
      if (mutation.kind === "timestamp")
        this.peers.set(toHex(mutation.key), { key: mutation.key, value: mutation.value });
    }
  };
  open(): StoredTimestamps {
    return new StoredTimestamps(
      { persist: this.persist },
      { highWater: this.highWater, peers: [...this.peers.values()] },
    );
  }
}

test("own timestamps grow over every jump of the clock and every restart", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ stepMs: fc.integer({ min: -1e9, max: 1e6 }), restart: fc.boolean() }), {
        minLength: 2,
        maxLength: 50,
      }),
      (steps) => {
        const store = new FakeStore();
        let timestamps = store.open();
        let wallMs = 1_700_000_000_000;
        let before = new Uint8Array(12);
        for (const { stepMs, restart } of steps) {
          wallMs += stepMs;
          if (restart) timestamps = store.open();
          const next = timestamps.nextOwn(Math.max(0, wallMs));
          assert.ok(compare(next, before) > 0);
          before = Uint8Array.from(next);
        }
      },
    ),
  );
});

test("a thousand handshakes a minute cost few writes", () => {
  const store = new FakeStore();
  const timestamps = store.open();
  for (let i = 0; i < 1000; i++) timestamps.nextOwn(1_700_000_000_000 + i * 60);
  assert.ok(store.writes <= 2, `${store.writes} writes`);
});

test("the newest accepted timestamp of a peer survives a restart once it is flushed", () => {
  const store = new FakeStore();
  const timestamps = store.open();
  const key = new Uint8Array(32).fill(1);
  const value = new Uint8Array(12).fill(9);
  timestamps.accept(key, value, { nowMs: 100, wallMs: 1_700_000_000_000 });
  assert.deepEqual(timestamps.last(key), value);
  timestamps.handleTimeout(timestamps.nextTimeout());
  assert.equal(timestamps.nextTimeout(), Infinity);
  assert.deepEqual(store.open().last(key), value);
  assert.equal(store.open().last(new Uint8Array(32)), undefined);
});

test("restarts in a row never run further ahead of the clock than one reserve", () => {
  const store = new FakeStore();
  const wallMs = 1_700_000_000_000;
  for (let i = 0; i < 100; i++) {
    const next = store.open().nextOwn(wallMs + i);
    assert.ok(timestampWallMs(next) < wallMs + 61_000);
  }
});
