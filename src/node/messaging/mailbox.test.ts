/** What a recipient takes of keepers, and how fast a keeper gives; time is virtual, the seals are real. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { equal, toHex, utf8 } from "../../base/bytes.ts";
import { nullLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import { decodeMailbox, encodeMailbox, MailboxType } from "../../messaging/direct/mailbox-codec.ts";
import { sealForMailbox } from "../../messaging/direct/mailbox-seal.ts";
import { Mailboxes } from "./mailbox.ts";
import type { PartContext } from "./part.ts";

const random = new SeededRandom(1);
const [self, keeper, author, other, ...crowd] = Array.from({ length: 12 }, (_, i) =>
  Identity.generate(new SeededRandom(100 + i)),
);
const members = [self, keeper, author, other, ...crowd];

function bench() {
  const world = {
    nowMs: 1_000,
    blocked: new Set<string>(),
    taken: [] as string[],
    sent: [] as { to: Uint8Array; type: number | undefined }[],
    rows: new Map<string, { sender: Uint8Array; sealed: Uint8Array }>(),
    timers: [] as { atMs: number; run: () => void }[],
  };
  const context = {
    identity: self,
    random,
    log: nullLogger,
    config: { mailbox: true, storeBytes: 256 << 20 },
    clock: {
      now: () => ({ nowMs: world.nowMs, wallMs: 1_800_000_000_000 + world.nowMs }),
      schedule: (atMs: number, run: () => void) => {
        const timer = { atMs, run };
        world.timers.push(timer);
        return () => void world.timers.splice(world.timers.indexOf(timer), 1);
      },
    },
    links: {
      send: (to: Uint8Array, _channel: number, frame: Uint8Array) => {
        world.sent.push({ to, type: decodeMailbox(frame)?.type });
        return "accepted";
      },
    },
    store: {
      commit: (ops: readonly { name: string; values: readonly unknown[] }[]) => {
        for (const { name, values } of ops) {
          const ticket = toHex(values[0] as Uint8Array);
          if (name === "direct.mailbox.insert")
            world.rows.set(ticket, { sender: values[1] as Uint8Array, sealed: values[5] as Uint8Array });
        }
        return Promise.resolve();
      },
      query: (name: string, values: readonly unknown[]) => {
        const row = name === "direct.mailbox.get" ? world.rows.get(toHex(values[0] as Uint8Array)) : undefined;
        return Promise.resolve(row === undefined ? [] : [row]);
      },
    },
    find: (nodeId: Uint8Array) => members.find((one) => equal(one.nodeId, nodeId)),
    isUp: () => true,
  } as unknown as PartContext;
  const mailboxes = new Mailboxes({
    context,
    keepers: () => [],
    isBlocked: (nodeId) => world.blocked.has(toHex(nodeId)),
    take: (sender, _frame, taken) => {
      world.taken.push(toHex(sender));
      taken();
    },
  });
  return { world, mailboxes };
}

const seal = (from: Identity, to: Identity = self): Uint8Array =>
  sealForMailbox(from, to.nodeId, random, utf8("hello")) as Uint8Array;
const give = (from: Identity, sealed: Uint8Array = seal(from)): Uint8Array =>
  encodeMailbox({ type: MailboxType.GIVE, sender: from.nodeId, sealed });
const forged = (from: Identity): Uint8Array => give(from, seal(crowd[7]));

test("a keeper gives at a rate: what comes faster is not opened, and another keeper is not touched", () => {
  const { world, mailboxes } = bench();
  const copy = give(author);
  for (let i = 0; i < 200; i++) mailboxes.handleFrame(keeper.nodeId, copy);
  assert.equal(world.taken.length, 64);
  assert.equal(mailboxes.counters.unopened, 136);
  mailboxes.handleFrame(other.nodeId, copy);
  assert.equal(world.taken.length, 65);
  world.nowMs += 1_000;
  for (let i = 0; i < 200; i++) mailboxes.handleFrame(keeper.nodeId, copy);
  assert.equal(world.taken.length, 85);
});

test("nothing of a blocked keeper is opened, and of a blocked author nothing by anybody", () => {
  const { world, mailboxes } = bench();
  world.blocked.add(toHex(keeper.nodeId));
  mailboxes.handleFrame(keeper.nodeId, give(author));
  assert.deepEqual([world.taken.length, world.sent.length], [0, 0]);
  world.blocked.clear();
  world.blocked.add(toHex(author.nodeId));
  mailboxes.handleFrame(keeper.nodeId, give(author));
  assert.deepEqual([world.taken.length, world.sent.map(({ type }) => type)], [0, [MailboxType.TAKEN]]);
});

test("a forged copy is tried once: keeper and author are refused together for an hour, others by that keeper are not", () => {
  const { world, mailboxes } = bench();
  mailboxes.handleFrame(keeper.nodeId, forged(author));
  assert.equal(mailboxes.counters.badFrames, 1);
  mailboxes.handleFrame(keeper.nodeId, forged(author));
  assert.deepEqual([mailboxes.counters.badFrames, mailboxes.counters.unopened], [1, 1]);
  assert.equal(world.sent.length, 2, "the keeper forgets both");
  // the author's own copies still come by others, and others' by this keeper
  mailboxes.handleFrame(other.nodeId, give(author));
  mailboxes.handleFrame(keeper.nodeId, give(other));
  assert.equal(world.taken.length, 2);
  world.nowMs += 3_600_001;
  mailboxes.handleFrame(keeper.nodeId, give(author));
  assert.equal(world.taken.length, 3);
});

test("a keeper whose copies are forged in many names is refused as a whole", () => {
  const { world, mailboxes } = bench();
  for (const name of [author, other, ...crowd.slice(0, 6)]) mailboxes.handleFrame(keeper.nodeId, forged(name));
  assert.equal(mailboxes.counters.badFrames, 8);
  mailboxes.handleFrame(keeper.nodeId, forged(crowd[6]));
  mailboxes.handleFrame(keeper.nodeId, give(crowd[6]));
  assert.deepEqual([mailboxes.counters.badFrames, mailboxes.counters.unopened, world.taken.length], [8, 2, 0]);
});

test("a keeper with much for one member gives it no faster than that member takes, and gives all", async () => {
  const { world, mailboxes } = bench();
  const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
  for (let i = 0; i < 150; i++) {
    const expiresWallMs = 1_800_000_000_000 + 86_400_000;
    const frame = encodeMailbox({
      type: MailboxType.DEPOSIT,
      expiresWallMs,
      recipient: other.nodeId,
      sealed: seal(author, other),
    });
    mailboxes.handleFrame(author.nodeId, frame);
  }
  await settled();
  const given = (): number => world.sent.filter(({ type }) => type === MailboxType.GIVE).length;
  const tickets = [...world.rows.keys()].map((hex) => Uint8Array.fromHex(hex));
  const limit = (): number => 64 + ((world.nowMs - 1_000) / 1000) * 20;
  for (let i = 0; i < 40 && given() < 150; i++) {
    for (const ticket of tickets.splice(0, given() - (150 - tickets.length)))
      mailboxes.handleFrame(other.nodeId, encodeMailbox({ type: MailboxType.TAKEN, ticket }));
    await settled();
    assert.ok(given() <= limit(), `${given()} in ${world.nowMs - 1_000} ms`);
    world.nowMs += 500;
    for (const timer of world.timers.splice(0)) timer.run();
    await settled();
  }
  assert.equal(given(), 150);
});
