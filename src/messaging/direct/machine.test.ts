/** What direct messages do, one behaviour at a time, in a world with as much trouble as each needs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PEACE, type Troubles, World } from "../../../test/support/direct-world.ts";
import { utf8 } from "../../base/bytes.ts";
import { FrameChannel } from "../frames.ts";
import { encodeBody, encodeData, encodeMarks, DirectType } from "./codec.ts";
import type { DirectMachine } from "./machine.ts";
import { type DirectOptions, MAX_PAYLOAD_BYTES, MessageKind, type SendResult, WINDOW } from "./types.ts";

async function worldOf(
  count: number,
  options: Partial<DirectOptions> = {},
  troubles: Partial<Troubles> = {},
): Promise<World> {
  const world = new World(7, count, { ...PEACE, ...troubles }, options);
  for (let i = 0; i < count; i++) await world.start(i);
  world.pass(100);
  return world;
}

const machineOf = (world: World, index: number): DirectMachine => world.hosts[index].machine as DirectMachine;
const outcome = (world: World, from: number, id: string): SendResult | undefined =>
  world.hosts[from].told.get(id)?.at(-1);

test("in a peaceful world everything is acknowledged at the first attempt, in order", async () => {
  const world = await worldOf(2, {}, { maxDelayMs: 0 });
  const ids = Array.from({ length: 300 }, () => world.send(0, 1));
  world.pass(2_000);
  for (const id of ids) {
    assert.equal(outcome(world, 0, id)?.outcome, "acknowledged");
    assert.equal(outcome(world, 0, id)?.attempts, 1);
  }
  assert.deepEqual(
    world.hosts[1].delivered.map(({ id }) => id),
    ids,
  );
  assert.equal(machineOf(world, 0).counters.outboxStored, 0, "what is answered soon costs the sender no disk");
  world.check();
  world.close();
});

test("a message to this node itself looks the same to its inbox", async () => {
  const world = await worldOf(1);
  const id = world.send(0, 0, { name: "note", payload: utf8("to myself") });
  world.pass(50);
  const result = outcome(world, 0, id);
  assert.equal(result?.outcome, "acknowledged");
  const [entry] = world.hosts[0].delivered;
  assert.equal(entry.id, id);
  assert.deepEqual([entry.name, Buffer.from(entry.payload).toString()], ["note", "to myself"]);
  assert.deepEqual(entry.from, world.hosts[0].id);
  world.close();
});

test("what is certain is refused at once: no such peer, too big, too much of this node's own", async () => {
  const world = await worldOf(2, { outgoingBytes: 5_000 });
  const machine = machineOf(world, 0);
  const refusal = (request: { to: Uint8Array; payload: Uint8Array }): string | undefined => {
    const id = machine.send(world.now, request);
    world.drain(0);
    const result = outcome(world, 0, id);
    assert.deepEqual([result?.outcome, result?.isFinal, result?.attempts], ["refused", true, 0]);
    return result?.reason;
  };
  const to = world.hosts[1].id;
  assert.equal(refusal({ to: new Uint8Array(32).fill(99), payload: utf8("x") }), "no-such-peer");
  assert.equal(refusal({ to, payload: new Uint8Array(MAX_PAYLOAD_BYTES + 1) }), "too-big");
  assert.equal(refusal({ to, payload: new Uint8Array(6_000) }), "busy-here");
  world.close();
});

test("a full inbox answers busy at once, and another sender's messages are acknowledged as fast as before", async () => {
  const world = await worldOf(3, { inboxMessages: 20 }, { maxDelayMs: 0 });
  // nobody reads; one sender may fill half
  const first = Array.from({ length: 30 }, () => world.send(0, 1));
  world.pass(100);
  const outcomes = first.map((id) => outcome(world, 0, id));
  assert.equal(outcomes.filter((one) => one?.outcome === "acknowledged").length, 10);
  assert.equal(outcomes.filter((one) => one?.reason === "busy").length, 20);
  const other = world.send(2, 1);
  world.pass(100);
  const result = outcome(world, 2, other);
  assert.equal(result?.outcome, "acknowledged");
  assert.ok((result?.stages.totalMs ?? 1e9) < 60, `${result?.stages.totalMs} ms`);
  // the application reads: there is room again
  machineOf(world, 1).acknowledge(world.now, "", world.hosts[1].lastDelivered);
  world.drain(1);
  const again = world.send(0, 1);
  world.pass(100);
  assert.equal(outcome(world, 0, again)?.outcome, "acknowledged");
  world.check();
  world.close();
});

test("a blocked sender fills nothing: refused, nothing in the inbox, one number remembered at most", async () => {
  const world = await worldOf(2);
  machineOf(world, 1).setTrust(world.now, world.hosts[0].id, "blocked");
  world.drain(1);
  const ids = Array.from({ length: 500 }, () => world.send(0, 1));
  // it is answered twenty times a second at most, in frames of many
  world.pass(90_000);
  for (const id of ids) assert.equal(outcome(world, 0, id)?.outcome, "refused");
  assert.ok(machineOf(world, 1).counters.dropped > 100);
  assert.equal(world.hosts[1].database.inserted.size, 0);
  assert.equal(machineOf(world, 1).gauges()["numbersRemembered"], 0);
  // what was refused stays refused: the same number again after it was unblocked
  machineOf(world, 1).setTrust(world.now, world.hosts[0].id, "trusted");
  world.drain(1);
  const fresh = world.send(0, 1);
  world.pass(1_000);
  assert.equal(outcome(world, 0, fresh)?.outcome, "acknowledged");
  world.check();
  world.close();
});

test("a node that takes nothing of strangers takes it from whom it has written to", async () => {
  const world = await worldOf(2, { unknownSenders: "refuse" });
  const first = world.send(0, 1);
  world.pass(1_000);
  assert.equal(outcome(world, 0, first)?.reason, "not-known");
  const answer = world.send(1, 0);
  world.pass(1_000);
  assert.equal(outcome(world, 1, answer)?.outcome, "acknowledged", "0 has written to 1 before");
  const second = world.send(0, 1);
  world.pass(1_000);
  assert.equal(outcome(world, 0, second)?.outcome, "acknowledged");
  world.close();
});

test("a known number with other bytes is a conflict, also after a restart, and is not delivered", async () => {
  const world = await worldOf(2);
  const from = world.hosts[0].id;
  const frame = (text: string): Uint8Array =>
    encodeData({ boot: 0, incarnation: 50, oldest: 50, floor: 0 }, [{ number: 3, leftMs: 1_000, body: bodyOf(text) }]);
  const give = (text: string): void => {
    machineOf(world, 1).handleFrame(world.now, FrameChannel.DIRECT, from, frame(text));
    world.drain(1);
    world.pass(50);
  };
  give("one");
  give("two");
  give("one");
  assert.deepEqual([machineOf(world, 1).counters.conflicts, machineOf(world, 1).counters.duplicates], [1, 2]);
  world.crash(1);
  await world.start(1);
  world.pass(50);
  give("three");
  assert.equal(machineOf(world, 1).counters.conflicts, 1);
  assert.equal(world.hosts[1].database.inserted.size, 1);
  world.close();
});

test("what the sender has closed or left behind is never delivered, however late it comes", async () => {
  const world = await worldOf(2);
  const from = world.hosts[0].id;
  const header = { boot: 0, incarnation: 50, oldest: 50, floor: 0 };
  const late = (number: number, floor = 0): Uint8Array =>
    encodeData({ ...header, floor }, [{ number, leftMs: 1_000, body: bodyOf("late") }]);
  const give = (frame: Uint8Array): void => {
    machineOf(world, 1).handleFrame(world.now, FrameChannel.DIRECT, from, frame);
    world.drain(1);
    world.pass(50);
  };
  give(encodeMarks(DirectType.CLOSE, header, [{ number: 1, boot: 0 }]));
  give(late(1));
  assert.equal(world.hosts[1].database.inserted.size, 0, "closed before it came");
  give(late(10, 10));
  assert.equal(world.hosts[1].database.inserted.size, 1);
  give(late(5));
  assert.equal(world.hosts[1].database.inserted.size, 1, "below the floor");
  give(encodeData({ ...header, incarnation: 60, oldest: 60 }, [{ number: 0, leftMs: 1_000, body: bodyOf("next") }]));
  give(late(11, 10));
  assert.equal(world.hosts[1].database.inserted.size, 2, "of an incarnation that is over");
  world.crash(1);
  await world.start(1);
  world.pass(50);
  for (const frame of [late(1), late(5), late(10, 10), late(11, 10)]) give(frame);
  assert.equal(world.hosts[1].database.inserted.size, 2);
  world.close();
});

test("a peer that is away: unknown at the deadline, delivered from the outbox when it is back, also by a restarted sender", async () => {
  const world = await worldOf(2);
  world.crash(1);
  const kept = world.send(0, 1, { deadlineMs: 1_000, keepMs: 3_600_000 });
  const short = world.send(0, 1, { deadlineMs: 1_000 });
  world.pass(2_000);
  const first = outcome(world, 0, kept);
  assert.deepEqual([first?.outcome, first?.isFinal, first?.isQueued], ["unknown", false, true]);
  assert.equal(outcome(world, 0, short)?.isQueued, false);
  world.crash(0);
  world.pass(10_000);
  await world.start(0);
  await world.start(1);
  world.pass(60_000);
  assert.equal(machineOf(world, 0).status(kept)?.outcome, "acknowledged");
  assert.equal(machineOf(world, 0).status(short)?.outcome, "refused");
  assert.equal(machineOf(world, 0).status(short)?.reason, "expired");
  assert.deepEqual([...world.hosts[1].database.inserted.keys()], [kept]);
  world.close();
});

test("nothing in the outbox can be read without the node's key", async () => {
  const world = await worldOf(2);
  world.crash(1);
  world.send(0, 1, { payload: utf8("the quick brown fox"), deadlineMs: 500, keepMs: 60_000 });
  world.pass(1_000);
  const [row] = await world.hosts[0].database.query("direct.outbox", [""]);
  assert.ok(row["sealed"] instanceof Uint8Array);
  assert.equal(Buffer.from(row["sealed"]).includes("brown"), false);
  world.close();
});

test("a session that comes up again hurries what was on its way", async () => {
  const world = await worldOf(2);
  world.troubles = { ...PEACE, loss: 1 };
  const id = world.send(0, 1);
  world.pass(100);
  world.troubles = PEACE;
  machineOf(world, 0).peerUp(world.now, world.hosts[1].id);
  world.drain(0);
  // far below the first time-out of an attempt
  world.pass(300);
  assert.equal(outcome(world, 0, id)?.outcome, "acknowledged");
  assert.equal(outcome(world, 0, id)?.attempts, 2);
  world.close();
});

test("what is not durable counts in one run of the receiver: after its restart nobody knows", async () => {
  const world = await worldOf(2);
  const first = world.send(0, 1, { durable: false });
  world.pass(1_000);
  assert.equal(outcome(world, 0, first)?.outcome, "acknowledged");
  world.troubles = { ...PEACE, loss: 1 };
  const second = world.send(0, 1, { durable: false, deadlineMs: 20_000 });
  world.pass(100);
  world.crash(1);
  world.troubles = PEACE;
  await world.start(1);
  world.pass(20_000);
  const result = outcome(world, 0, second);
  assert.deepEqual([result?.outcome, result?.reason, result?.isFinal], ["unknown", "receiver-restarted", true]);
  assert.equal(world.hosts[1].transient.size, 1);
  world.close();
});

test("a member that leaves: what never went is refused, the rest is unknown", async () => {
  const world = await worldOf(2, {}, { loss: 1 });
  const id = world.send(0, 1);
  world.pass(50);
  machineOf(world, 0).memberGone(world.now, world.hosts[1].id);
  world.drain(0);
  const result = outcome(world, 0, id);
  assert.deepEqual([result?.outcome, result?.reason, result?.isFinal], ["unknown", "peer-gone", true]);
  world.close();
});

test("a deadline that is too long is clipped, and the result says so", async () => {
  const world = await worldOf(2);
  const id = world.send(0, 1, { deadlineMs: 1e12 });
  world.pass(100);
  assert.equal(outcome(world, 0, id)?.clippedDeadlineMs, 3_600_000);
  world.close();
});

test("numbers of a window that nobody answers end in busy here, not in memory", async () => {
  const world = await worldOf(2, {}, { loss: 1 });
  for (let i = 0; i < WINDOW; i++) world.send(0, 1, { durable: false, payload: new Uint8Array(1) });
  const last = world.send(0, 1);
  assert.equal(outcome(world, 0, last)?.reason, "busy-here");
  world.close();
});

test("a request is answered once by who serves it, and refused where nobody does", async () => {
  const world = await worldOf(2, {}, { duplicates: 0.5, loss: 0.2 });
  const { id } = world.hosts[1];
  const machine = machineOf(world, 0);
  machine.request(world.now, { to: id, name: "sum", payload: utf8("1+1") });
  world.drain(0);
  world.pass(5_000);
  const [refused] = world.hosts[0].answers;
  assert.deepEqual([refused.outcome, "reason" in refused && refused.reason], ["refused", "no-service"]);
  assert.ok(machineOf(world, 1).serve(undefined, "sum"));
  assert.ok(!machineOf(world, 1).serve(undefined, "sum"), "served already");
  machine.request(world.now, { to: id, name: "sum", payload: utf8("2+2") });
  world.drain(0);
  world.pass(5_000);
  assert.equal(world.hosts[1].requests.length, 1);
  const [{ key, payload }] = world.hosts[1].requests;
  assert.equal(Buffer.from(payload).toString(), "2+2");
  assert.ok(machineOf(world, 1).respond(world.now, key, utf8("4")));
  assert.ok(!machineOf(world, 1).respond(world.now, key, utf8("5")), "answered already");
  world.drain(1);
  world.pass(5_000);
  const [, answered] = world.hosts[0].answers;
  assert.ok(answered.outcome === "answered" && !answered.failed);
  assert.equal(Buffer.from(answered.payload).toString(), "4");
  assert.equal(machine.gauges()["requestsWaiting"], 0);
  assert.equal(machineOf(world, 1).gauges()["requestsRunning"], 0);
  world.close();
});

test("cancelling a request ends the waiting at once and tells who serves it; a deadline does both", async () => {
  const world = await worldOf(2);
  machineOf(world, 1).serve(undefined, "slow");
  const machine = machineOf(world, 0);
  const ask = (deadlineMs: number): string => {
    const id = machine.request(world.now, { to: world.hosts[1].id, name: "slow", payload: utf8("?"), deadlineMs });
    world.drain(0);
    world.pass(1_000);
    return id;
  };
  const cancelled = ask(60_000);
  assert.equal(world.hosts[0].answers.length, 0);
  machine.cancelRequest(world.now, cancelled);
  world.drain(0);
  assert.equal(world.hosts[0].answers[0].outcome, "unknown");
  world.pass(500);
  assert.deepEqual(world.hosts[1].cancelled, [world.hosts[1].requests[0].key]);
  ask(2_000);
  world.pass(3_000);
  assert.deepEqual(
    world.hosts[0].answers.map((answer) => answer.outcome),
    ["unknown", "unknown"],
  );
  assert.equal(world.hosts[1].cancelled.length, 2);
  world.close();
});

test("the cursor survives a restart, and what it passed does not come back", async () => {
  const world = await worldOf(2);
  for (let i = 0; i < 10; i++) world.send(0, 1);
  world.pass(1_000);
  const { delivered } = world.hosts[1];
  let isOnDisk = false;
  machineOf(world, 1).acknowledge(world.now, "", delivered[5].sequence, () => (isOnDisk = true));
  world.drain(1);
  assert.equal(isOnDisk, false);
  world.pass(50);
  assert.equal(isOnDisk, true);
  world.crash(1);
  await world.start(1);
  const [view] = machineOf(world, 1).inboxes();
  assert.deepEqual([view.messages, view.cursor, view.frontier], [4, delivered[5].sequence, delivered[9].sequence]);
  const rows = await world.hosts[1].database.query("direct.inbox.read", ["", 0, view.frontier, 100]);
  assert.deepEqual(
    rows.map((row) => row["id"]),
    delivered.slice(6).map(({ id }) => id),
  );
  world.close();
});

test("a reader never sees past a message that is not on disk yet", async () => {
  const world = await worldOf(2, {}, { maxCommitMs: 400, maxDelayMs: 0 });
  world.send(0, 1, { durable: false });
  world.pass(1_000);
  world.send(0, 1, { durable: true });
  world.send(0, 1, { durable: false });
  for (let i = 0; i < 100; i++) {
    world.pass(5);
    const { frontier, transient } = machineOf(world, 1).inbox("", 0, 10);
    assert.ok(transient.every(({ sequence }) => sequence <= frontier));
    assert.equal(world.hosts[1].lastDelivered, frontier);
  }
  assert.deepEqual(
    world.hosts[1].delivered.map(({ durable }) => durable),
    [false, true, false],
  );
  world.close();
});

test("a hostile peer's frames cost bounded memory and nothing of others", async () => {
  const world = await worldOf(2);
  const machine = machineOf(world, 1);
  const from = new Uint8Array(32).fill(77);
  for (let incarnation = 1; incarnation < 100; incarnation++) {
    const entries = Array.from({ length: 50 }, (_, number) => ({ number, leftMs: 1, body: bodyOf(String(number)) }));
    machine.handleFrame(
      world.now,
      FrameChannel.DIRECT,
      from,
      encodeData({ boot: 0, incarnation, oldest: 0, floor: 0 }, entries),
    );
  }
  for (const pollute of [new Uint8Array(0), new Uint8Array(31), new Uint8Array(4_000).fill(255)]) {
    assert.equal(machine.handleFrame(world.now, FrameChannel.DIRECT, from, pollute), false);
    assert.equal(machine.handleFrame(world.now, FrameChannel.ACK, from, pollute), false);
  }
  assert.ok(machine.gauges()["numbersRemembered"] <= 8 * 50);
  assert.equal(machine.counters.badFrames, 6);
  world.close();
});

function bodyOf(text: string): Uint8Array {
  return encodeBody({
    kind: MessageKind.MESSAGE,
    durable: true,
    failed: false,
    sentWallMs: 1,
    reference: undefined,
    fromAgent: undefined,
    toAgent: undefined,
    name: "",
    payload: utf8(text),
  }) as Uint8Array;
}

/** Takes its outputs as an owner does. @returns the operations of each commit, in order */
function commitsOf(world: World, index: number, isDurable = true): number[] {
  const machine = machineOf(world, index);
  const commits: number[] = [];
  for (let output = machine.pollOutput(); output !== undefined; output = machine.pollOutput()) {
    if (output.kind !== "commit") continue;
    commits.push(output.ops.length);
    if (isDurable) world.hosts[index].database.apply(output.ops);
    machine.handleCommitted(world.now, output.token, isDurable);
  }
  return commits;
}

const total = (commits: readonly number[]): number => commits.reduce((sum, ops) => sum + ops, 0);

test("a blocked sender costs the disk its rate, whatever its frames say about incarnations and floors", async () => {
  const world = await worldOf(2);
  const machine = machineOf(world, 1);
  machine.setTrust(world.now, world.hosts[0].id, "blocked");
  commitsOf(world, 1);
  for (let i = 1; i <= 5_000; i++) {
    const header = { boot: 0, incarnation: i, oldest: i, floor: i };
    const frame =
      i % 2 === 0
        ? encodeData(header, [])
        : encodeMarks(DirectType.CLOSE, header, [
            { number: i, boot: 0 },
            { number: i + 4_000, boot: 0 },
          ]);
    machine.handleFrame(world.now, FrameChannel.DIRECT, world.hosts[0].id, frame);
  }
  assert.ok(machine.gauges()["writesWaiting"] <= 20, `${machine.gauges()["writesWaiting"]} waiting`);
  assert.ok(total(commitsOf(world, 1)) <= 60);
  assert.equal(machine.counters.dropped, 4_980);
  // nor did they move anything here: an incarnation that only they have ended goes on
  machine.setTrust(world.now, world.hosts[0].id, "trusted");
  const header = { boot: 0, incarnation: 100, oldest: 100, floor: 0 };
  const data = encodeData(header, [{ number: 0, leftMs: 1_000, body: bodyOf("news") }]);
  machine.handleFrame(world.now, FrameChannel.DIRECT, world.hosts[0].id, data);
  commitsOf(world, 1);
  assert.equal(world.hosts[1].database.inserted.size, 1);
  world.close();
});

test("frames without a message cost the disk nothing of their own, however many incarnations they end", async () => {
  const world = await worldOf(2);
  const machine = machineOf(world, 1);
  const from = world.hosts[0].id;
  for (let i = 1; i <= 5_000; i++) {
    const frame = encodeData({ boot: 0, incarnation: i, oldest: i, floor: i * 10 }, []);
    machine.handleFrame(world.now, FrameChannel.DIRECT, from, frame);
  }
  assert.equal(machine.gauges()["writesWaiting"], 0);
  const last = { boot: 0, incarnation: 5_000, oldest: 5_000, floor: 50_000 };
  const entry = { number: 50_000, leftMs: 1_000, body: bodyOf("news") };
  machine.handleFrame(world.now, FrameChannel.DIRECT, from, encodeData(last, [entry]));
  assert.equal(total(commitsOf(world, 1)), 2 + 3 + 2, "the message, the oldest incarnation, its floor");
  // and it is on disk: an incarnation that has ended stays so
  world.crash(1);
  await world.start(1);
  const old = encodeData({ boot: 0, incarnation: 7, oldest: 7, floor: 0 }, [{ ...entry, number: 3 }]);
  machineOf(world, 1).handleFrame(world.now, FrameChannel.DIRECT, from, old);
  commitsOf(world, 1);
  assert.equal(world.hosts[1].database.inserted.size, 1);
  world.close();
});

test("one sender's writes are bounded, commits are too, and others' messages are taken meanwhile", async () => {
  const world = await worldOf(3);
  const machine = machineOf(world, 1);
  const flood = (floor: number): void => {
    const marks = Array.from({ length: WINDOW }, (_, i) => ({ number: floor + i, boot: 0 }));
    const header = { boot: 0, incarnation: 9, oldest: 9, floor };
    const frame = encodeMarks(DirectType.CLOSE, header, marks);
    machine.handleFrame(world.now, FrameChannel.DIRECT, world.hosts[0].id, frame);
  };
  for (let i = 0; i < 40; i++) flood(i * WINDOW);
  assert.ok(machine.gauges()["writesWaiting"] <= 8_192, `${machine.gauges()["writesWaiting"]} waiting`);
  assert.equal(machine.counters.dropped, 38 * WINDOW);
  const entry = { number: 0, leftMs: 1_000, body: bodyOf("honest") };
  const honest = encodeData({ boot: 0, incarnation: 5, oldest: 5, floor: 0 }, [entry]);
  machine.handleFrame(world.now, FrameChannel.DIRECT, world.hosts[2].id, honest);
  const commits = commitsOf(world, 1);
  assert.ok(Math.max(...commits) <= 4_096, `${commits}`);
  assert.equal(world.hosts[1].database.inserted.size, 1);
  // what was dropped is taken when it is asked again
  flood(39 * WINDOW);
  commitsOf(world, 1);
  assert.equal(machine.counters.dropped, 38 * WINDOW);
  assert.equal(machine.gauges()["writesWaiting"], 0);
  world.close();
});

test("numbers that a refusal has closed are told from memory once that is on disk, and written again only when it failed", async () => {
  const world = await worldOf(2, { unknownSenders: "refuse" });
  const machine = machineOf(world, 1);
  const header = { boot: 0, incarnation: 9, oldest: 0, floor: 0 };
  const ask = (count: number): void => {
    const marks = Array.from({ length: count }, (_, number) => ({ number, boot: 0 }));
    const frame = encodeMarks(DirectType.CLOSE, header, marks);
    machine.handleFrame(world.now, FrameChannel.DIRECT, world.hosts[0].id, frame);
  };
  ask(WINDOW);
  assert.equal(total(commitsOf(world, 1, false)), 1);
  ask(WINDOW);
  assert.equal(total(commitsOf(world, 1)), 1, "the write that failed");
  ask(WINDOW);
  assert.equal(total(commitsOf(world, 1)), 0);
  world.close();
});

test("a copy from a mailbox for which there is no room stays in the mailbox", async () => {
  const world = await worldOf(2);
  const machine = machineOf(world, 1);
  const from = world.hosts[0].id;
  const header = { boot: 0, incarnation: 9, oldest: 9, floor: 0 };
  for (const floor of [0, WINDOW]) {
    const marks = Array.from({ length: WINDOW }, (_, i) => ({ number: floor + i, boot: 0 }));
    machine.handleFrame(
      world.now,
      FrameChannel.DIRECT,
      from,
      encodeMarks(DirectType.CLOSE, { ...header, floor }, marks),
    );
  }
  let taken = 0;
  const number = 2 * WINDOW;
  const copy = encodeData({ ...header, floor: number }, [{ number, leftMs: 1_000, body: bodyOf("kept") }]);
  machine.handleMailed(world.now, from, copy, () => taken++);
  commitsOf(world, 1);
  assert.deepEqual([taken, world.hosts[1].database.inserted.size], [0, 0]);
  machine.handleMailed(world.now, from, copy, () => taken++);
  commitsOf(world, 1);
  assert.deepEqual([taken, world.hosts[1].database.inserted.size], [1, 1]);
  world.close();
});
