/** What composes the parts: who gets a frame, who is told what, and that one part's mistake is nobody else's. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { WeftError } from "../../base/errors.ts";
import { nullLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import type { Member } from "../../mesh/types.ts";
import { encodeFrames, FrameChannel } from "../../messaging/frames.ts";
import { StreamPair } from "../../stream/testing.ts";
import { systemClock } from "../clock.ts";
import { Messaging } from "./messaging.ts";
import type { MessagingPart } from "./part.ts";

function make(t: TestContext, parts: readonly MessagingPart[], pair = new StreamPair()): Messaging {
  const folder = mkdtempSync(join(tmpdir(), "weft-messaging-"));
  t.after(() => {
    pair.close();
    rmSync(folder, { recursive: true });
  });
  const peer = { nodeId: pair.clientId, name: "peer" } as Member;
  const messaging = new Messaging(
    {
      identity: Identity.generate(new SeededRandom(5)),
      random: new SeededRandom(6),
      clock: systemClock,
      log: nullLogger,
      config: {
        enabled: true,
        storeBytes: 1 << 24,
        outboxMs: 1_000,
        mailbox: false,
        acceptUnknown: true,
        volunteer: [],
      } as never,
      stateDirectory: folder,
      databaseFile: join(folder, "messages.db"),
      streams: pair.server,
      networkId: () => undefined,
      members: () => [peer],
      find: () => peer,
      resolve: (query) => (query === "peer" ? peer : undefined),
      rttMs: () => 3,
      isUp: () => true,
      pathOf: () => ({ kind: "relay", endpoint: null, via: "other" }),
    },
    () => parts,
  );
  t.after(() => messaging.close());
  return messaging;
}

test("a frame goes to the part that has its type; one that throws and a type that nobody has are counted", async (t) => {
  const got: string[] = [];
  const part = (name: string, first: number, last: number): MessagingPart => ({
    name,
    types: [[FrameChannel.DIRECT, first, last]],
    channels: {
      [FrameChannel.DIRECT]: (_from, frame) => {
        if (frame[0] === 2) throw new Error("a mistake");
        got.push(`${name} ${frame[0]}`);
      },
    },
  });
  const pair = new StreamPair();
  const messaging = make(t, [part("one", 1, 15), part("two", 16, 47)], pair);
  await messaging.start();
  const stream = await pair.client.open(pair.serverId, { kind: `frames-${FrameChannel.DIRECT}` });
  stream.resume();
  stream.write(encodeFrames([1, 2, 16, 47, 48, 15].map((type) => Uint8Array.of(type, 0))));
  const endMs = performance.now() + 10_000;
  while (messaging.links.counters.framesIn < 6 && performance.now() < endMs)
    await new Promise((resolve) => setTimeout(resolve, 2));
  assert.deepEqual(got, ["one 1", "two 16", "two 47", "one 15"]);
  assert.equal(messaging.links.counters.framesRefused, 2);
});

test("two parts that want one type, and a part without a handler for its type, are mistakes that show at once", (t) => {
  const one: MessagingPart = {
    name: "one",
    types: [[FrameChannel.ACK, 1, 15]],
    channels: { [FrameChannel.ACK]: () => undefined },
  };
  assert.throws(() => make(t, [one, { ...one, name: "two" }]), /two and one both take type 1 of channel 1/);
  assert.throws(
    () => make(t, [{ name: "three", types: [[FrameChannel.BULK, 1, 2]] }]),
    /three does not take channel 4/,
  );
});

test("parts start in order and close in reverse; events reach all of them although one throws", async (t) => {
  const events: string[] = [];
  const part = (name: string): MessagingPart => ({
    name,
    start: () => void events.push(`start ${name}`),
    close: () => void events.push(`close ${name}`),
    peerUp: () => {
      events.push(`up ${name}`);
      if (name === "a") throw new Error("a mistake");
    },
    memberGone: () => void events.push(`gone ${name}`),
  });
  const messaging = make(t, [part("a"), part("b")]);
  messaging.peerUp(new Uint8Array(32));
  assert.deepEqual(events, [], "nothing before the start");
  await messaging.start();
  messaging.memberGone(new Uint8Array(32));
  await messaging.close();
  messaging.peerUp(new Uint8Array(32));
  assert.deepEqual(events, ["start a", "start b", "up a", "up b", "gone a", "gone b", "close b", "close a"]);
});

test("a part that cannot start takes no other one down, and gets nothing", async (t) => {
  const events: string[] = [];
  const part = (name: string, error?: Error): MessagingPart => ({
    name,
    start: () => {
      if (error !== undefined) throw error;
      events.push(`start ${name}`);
    },
    close: () => void events.push(`close ${name}`),
    memberGone: () => void events.push(`gone ${name}`),
    diagnostics: () => ({}),
  });
  const ill = new WeftError("SPACES_FULL", "no room", "make some");
  const messaging = make(t, [part("a"), part("b", ill), part("c")]);
  await messaging.start();
  messaging.memberGone(new Uint8Array(32));
  assert.deepEqual(messaging.control.diagnostics()["b"], { failed: "no room" });
  await messaging.close();
  assert.deepEqual(events, ["start a", "start c", "gone a", "gone c", "close c", "close b", "close a"]);
  const noStore = new WeftError("STORE_DAMAGED", "the store is damaged", "restore it");
  await assert.rejects(make(t, [part("a", noStore), part("b")]).start(), { code: "STORE_DAMAGED" });
});

test("delivery names the first thing on the way that keeps messages back", async (t) => {
  let isWell = true;
  const messaging = make(t, [
    {
      name: "direct",
      delivery: () => [
        { part: "direct", stage: "answer", ok: isWell, code: "busy", text: "it is busy", remedy: "wait", figures: {} },
      ],
      diagnostics: () => ({ waiting: 1 }),
    },
  ]);
  await messaging.start();
  const well = await messaging.control.delivery("peer");
  assert.equal(well.delivers, true);
  assert.deepEqual(
    well.facts.map(({ part }) => part),
    ["session", "links", "direct"],
  );
  assert.match(well.facts[0].text, /relay by other/);
  isWell = false;
  const ill = await messaging.control.delivery("peer");
  assert.equal(ill.delivers, false);
  assert.deepEqual(ill.verdict, { code: "busy", text: "it is busy", remedy: "wait" });
  assert.throws(() => messaging.control.delivery("nobody"), { code: "NODE_UNKNOWN" });
  assert.deepEqual(messaging.control.diagnostics()["direct"], { waiting: 1 });
});
