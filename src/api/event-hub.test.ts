import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { EventHub } from "./event-hub.ts";
import type { EventCursor, HubLimits, OutEvent } from "./event-hub.ts";
import type { Gap, LiveSource, StoredSource, StreamEvent } from "./messaging/route.ts";

function makeHub(limits: Partial<HubLimits> = {}): EventHub {
  let rings = 0;
  return new EventHub({ nowMs: () => ++rings, token: () => `r${++rings}` }, limits);
}

/** A source that the test feeds. */
class Feed implements LiveSource {
  readonly kind = "live";
  readonly key: string;
  readonly lingerMs: number | undefined;
  starts = 0;
  stops = 0;
  emit: (event: StreamEvent) => void = () => assert.fail("not started");

  constructor(key: string, lingerMs?: number) {
    this.key = key;
    this.lingerMs = lingerMs;
  }

  start(emit: (event: StreamEvent) => void): () => void {
    this.starts++;
    this.emit = emit;
    return () => void this.stops++;
  }

  say(n: number): void {
    this.emit({ event: "message", data: { n } });
  }
}

const numbers = (events: readonly OutEvent[]): number[] =>
  events.filter(({ event }) => event === "message").map(({ json }) => (JSON.parse(json) as { n: number }).n);
const gaps = (events: readonly OutEvent[]): Gap[] =>
  events.filter(({ event }) => event === "gap").map(({ json }) => JSON.parse(json) as Gap);

/** Everything there is now. */
async function drain(cursor: EventCursor): Promise<OutEvent[]> {
  const all: OutEvent[] = [];
  for (;;) {
    const events = await cursor.next(0);
    if (events === undefined || events.length === 0) return all;
    all.push(...events);
  }
}

test("clients of one key share the source, and each gets every event from where it began", async () => {
  const hub = makeHub();
  const feed = new Feed("a");
  const [one, two] = await Promise.all([hub.open(feed, undefined), hub.open(feed, undefined)]);
  feed.say(1);
  feed.say(2);
  const late = await hub.open(feed, undefined);
  feed.say(3);
  assert.equal(feed.starts, 1);
  assert.deepEqual(numbers(await drain(one)), [1, 2, 3]);
  assert.deepEqual(numbers(await drain(two)), [1, 2, 3]);
  assert.deepEqual(numbers(await drain(late)), [3]);
  hub.close();
  assert.equal(feed.stops, 1);
  assert.equal(await one.next(1000), undefined);
});

test("a client that comes back with its last id misses nothing that is still in the buffer", async () => {
  const hub = makeHub();
  const feed = new Feed("a");
  const first = await hub.open(feed, undefined);
  feed.say(1);
  feed.say(2);
  const seen = await drain(first);
  first.close();
  feed.say(3);
  feed.say(4);
  const again = await hub.open(feed, seen.at(-1)?.id);
  feed.say(5);
  const rest = await drain(again);
  assert.equal(feed.starts, 1);
  assert.deepEqual(numbers(rest), [3, 4, 5]);
  assert.deepEqual(gaps(rest), []);
  assert.deepEqual(JSON.parse(rest[0].json), { resumed: true });
  hub.close();
});

test("even a client that saw nothing but the ready event resumes there", async () => {
  const hub = makeHub();
  const feed = new Feed("a");
  const first = await hub.open(feed, undefined);
  const [ready] = await drain(first);
  first.close();
  feed.say(1);
  assert.deepEqual(numbers(await drain(await hub.open(feed, ready.id))), [1]);
  hub.close();
});

test("whoever never reads costs nothing more, loses its own oldest events and is told how many; others lose none", async () => {
  const hub = makeHub({ ringEvents: 10 });
  const feed = new Feed("a");
  const idle = await hub.open(feed, undefined);
  const reader = await hub.open(feed, undefined);
  await drain(idle);
  const read: OutEvent[] = [];
  for (let n = 1; n <= 1000; n++) {
    feed.say(n);
    if (n % 5 === 0) read.push(...(await drain(reader)));
  }
  assert.ok(hub.bufferedBytes < 10 * 20, `${hub.bufferedBytes} buffered`);
  assert.equal(numbers(read).length, 1000);
  const late = await drain(idle);
  assert.deepEqual(gaps(late), [{ missed: 990, reason: "slow" }]);
  assert.deepEqual(
    numbers(late),
    Array.from({ length: 10 }, (_, i) => 991 + i),
  );
  assert.equal(hub.counters.missed, 990);
  hub.close();
});

test("an id that is no longer buffered, of another ring, or no id at all gives a gap first, then what there is", async () => {
  const hub = makeHub({ ringEvents: 3 });
  const feed = new Feed("a");
  const first = await hub.open(feed, undefined);
  const [ready] = await drain(first);
  for (let n = 1; n <= 5; n++) feed.say(n);
  const overrun = await drain(await hub.open(feed, ready.id));
  assert.deepEqual(gaps(overrun), [{ missed: 2, reason: "overrun" }]);
  assert.deepEqual(numbers(overrun), [3, 4, 5]);
  for (const foreign of ["other-3", "", "-", "r1", `${ready.id?.split("-")[0]}-999`, "__proto__-1"]) {
    const events = await drain(await hub.open(feed, foreign));
    assert.deepEqual(gaps(events), [{ missed: null, reason: "restarted" }], foreign);
    assert.deepEqual(numbers(events), [3, 4, 5]);
  }
  hub.close();
});

test("bounds: clients, rings, bytes of one ring and of all; a ring without clients makes room", async () => {
  const hub = makeHub({ cursors: 3, rings: 2, ringBytes: 100, totalBytes: 150 });
  const [a, b, c] = [new Feed("a"), new Feed("b"), new Feed("c")];
  const first = await hub.open(a, undefined);
  const second = await hub.open(b, undefined);
  await assert.rejects(hub.open(c, undefined), { code: "STREAMS_FULL" });
  for (let n = 0; n < 100; n++) {
    a.say(n);
    b.say(n);
    assert.ok(hub.bufferedBytes <= 150);
  }
  first.close();
  const third = await hub.open(c, undefined);
  assert.equal(a.stops, 1);
  assert.equal(hub.counters.evicted, 1);
  await hub.open(b, undefined);
  await assert.rejects(hub.open(b, undefined), { code: "STREAMS_FULL" });
  third.close();
  second.close();
  assert.equal(hub.clients, 1);
  hub.close();
});

test("a source that cannot start refuses its client and leaves no trace", async () => {
  const hub = makeHub();
  const broken: LiveSource = { kind: "live", key: "x", start: () => Promise.reject(new Error("no")) };
  await assert.rejects(hub.open(broken, undefined), /no/);
  assert.equal(hub.ringCount, 0);
  assert.equal(hub.clients, 0);
  const feed = new Feed("x");
  await hub.open(feed, undefined);
  assert.equal(feed.starts, 1);
  hub.close();
});

test("a ring ends when nobody came back in time, which is the hub's or what its source says", async () => {
  const hub = makeHub({ lingerMs: 1 });
  const [usual, patient] = [new Feed("a"), new Feed("b", 600_000)];
  (await hub.open(patient, undefined)).close();
  (await hub.open(usual, undefined)).close();
  while (usual.stops === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.equal(hub.ringCount, 1);
  assert.equal(patient.stops, 0);
  hub.close();
  assert.equal(patient.stops, 1);
});

test("stored events are read page by page at the client's pace, and again from where it was", async () => {
  const hub = makeHub({ batch: 3 });
  const stored: number[] = [];
  let more: () => void = () => undefined;
  const pages: number[] = [];
  const source: StoredSource = {
    kind: "stored",
    read: (after, limit) => {
      const events = stored.filter((n) => n > Number(after ?? 0)).slice(0, limit);
      pages.push(events.length);
      return Promise.resolve({ events: events.map((n) => ({ id: String(n), event: "message", data: { n } })) });
    },
    watch: (changed) => {
      more = changed;
      return () => (more = () => undefined);
    },
  };
  for (let n = 1; n <= 8; n++) stored.push(n);
  const cursor = await hub.open(source, undefined);
  assert.deepEqual(numbers(await drain(cursor)), [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.ok(Math.max(...pages) <= 3);
  const waiting = cursor.next(60_000);
  stored.push(9);
  more();
  assert.deepEqual(numbers((await waiting) ?? []), [9]);
  cursor.close();
  assert.deepEqual(numbers(await drain(await hub.open(source, "7"))), [8, 9]);
  hub.close();
});

test("whatever clients do, each sees a run of the events in order, and gaps say exactly what is missing", async () => {
  const action = fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant("say" as const) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("read" as const), who: fc.nat(2) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("return" as const), who: fc.nat(2) }) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 120 }), async (actions) => {
      const hub = makeHub({ ringEvents: 7, batch: 2 });
      const feed = new Feed("a");
      const clients = await Promise.all(
        [0, 1, 2].map(async () => ({
          cursor: await hub.open(feed, undefined),
          last: undefined as string | undefined,
          at: 0,
        })),
      );
      let said = 0;
      const read = async (who: number): Promise<void> => {
        const client = clients[who];
        for (const event of await drain(client.cursor)) {
          client.last = event.id ?? client.last;
          if (event.event === "gap") client.at += (JSON.parse(event.json) as Gap).missed ?? assert.fail("unknown gap");
          if (event.event === "message") assert.equal((JSON.parse(event.json) as { n: number }).n, ++client.at);
        }
        assert.equal(client.at, said);
      };
      await Promise.all([0, 1, 2].map(read));
      for (const step of actions) {
        if (step.do === "say") feed.say(++said);
        else if (step.do === "read") await read(step.who);
        else {
          clients[step.who].cursor.close();
          clients[step.who].cursor = await hub.open(feed, clients[step.who].last);
        }
      }
      await Promise.all([0, 1, 2].map(read));
      hub.close();
    }),
    { numRuns: 100 },
  );
});
