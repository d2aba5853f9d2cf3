import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { toHex, utf8 } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { SeededRandom } from "../../base/random.ts";
import { signEntry, SpaceKind, spaceId } from "../kv/entry.ts";
import { NETWORK, ReplicaWorld, START_WALL_MS, type TestReplica } from "../kv/testing.ts";
import {
  claimKey,
  encodeClaim,
  encodeState,
  encodeTag,
  isTaskEntry,
  MAX_CLAIM_MS,
  readTaskKey,
  stateKey,
  tagKey,
} from "./entries.ts";
import { type Task, TaskList } from "./task-list.ts";

/** The list as its node sees it now, with what came from others. */
function listOf(node: TestReplica, seed = 1): TaskList {
  const space = node.open("work", SpaceKind.TASKS, { allows: isTaskEntry });
  const { nodeId } = node.identity;
  return new TaskList({ replicas: node.replicas, random: new SeededRandom(seed * 7919), nodeId }, space);
}

function code(run: () => unknown): string {
  try {
    run();
    return "none";
  } catch (error) {
    return error instanceof WeftError ? error.code : String(error);
  }
}

/** What others must agree on. */
function plain(tasks: readonly Task[]): unknown {
  return tasks.map((task) => ({ ...task, author: toHex(task.author), stateBy: "", claim: task.claim?.agent ?? null }));
}

test("a task is added, claimed, finished, opened again and removed, and everybody sees it", () => {
  const world = new ReplicaWorld(1);
  const [a, b] = [world.add(), world.add()];
  const [mine, theirs] = [listOf(a), listOf(b)];
  world.up(a, b);
  const task = mine.add(a.now, "paint the door", "blue");
  world.run(500);
  const seen = listOf(b).find(task.id.slice(0, 5), b.now.wallMs);
  assert.equal(seen.title, "paint the door");
  listOf(b).claim(b.now, seen, "painter", 60_000);
  world.run(500);
  const now = (): Task => listOf(a).find(task.id, a.now.wallMs);
  assert.equal(now().claim?.agent, "painter");
  assert.equal(toHex(now().claim!.nodeId), b.hex);
  assert.equal(
    code(() => listOf(a).claim(a.now, now(), "node", 1000)),
    "TASK_CLAIMED",
  );
  assert.equal(
    code(() => listOf(a).finish(a.now, now(), "node", "done", "")),
    "TASK_CLAIMED",
  );
  listOf(b).finish(b.now, listOf(b).find(task.id, b.now.wallMs), "painter", "done", "two coats");
  world.run(500);
  assert.deepEqual([now().state, now().result, now().claim], ["done", "two coats", undefined]);
  assert.equal(
    code(() => listOf(a).claim(a.now, now(), "node", 1000)),
    "TASK_CLOSED",
  );
  listOf(a).finish(a.now, now(), "node", "open", "");
  world.run(500);
  assert.equal(listOf(b).find(task.id, b.now.wallMs).state, "open");
  listOf(a).remove(a.now, now());
  world.run(500);
  assert.deepEqual(listOf(b).list(b.now.wallMs), []);
  assert.equal(
    code(() => listOf(b).find(task.id, b.now.wallMs)),
    "TASK_UNKNOWN",
  );
  assert.ok(theirs.space === listOf(b).space);
});

test("two who claim at the same time agree on one holder, and the other withdraws", () => {
  const world = new ReplicaWorld(2);
  const [a, b] = [world.add(), world.add()];
  const [mine, theirs] = [listOf(a), listOf(b)];
  world.up(a, b);
  const task = mine.add(a.now, "once", "");
  world.run(500);
  world.connected = () => false;
  theirs.space.map.get("x");
  const first = listOf(b).claim(b.now, listOf(b).find(task.id, b.now.wallMs), "node", 60_000);
  world.run(50);
  const second = listOf(a).claim(a.now, listOf(a).find(task.id, a.now.wallMs), "node", 60_000);
  assert.equal(toHex(first.claim!.nodeId), b.hex);
  assert.equal(toHex(second.claim!.nodeId), a.hex, "each believes it holds the task");
  world.connected = () => true;
  world.up(a, b);
  world.run(2000);
  for (const node of [a, b]) assert.equal(toHex(listOf(node).find(task.id, node.now.wallMs).claim!.nodeId), b.hex);
  listOf(a).tidy(a.now);
  listOf(b).tidy(b.now);
  world.run(500);
  world.nowMs += 60_000;
  for (const node of [a, b]) {
    assert.equal(
      listOf(node).find(task.id, node.now.wallMs).claim,
      undefined,
      "the one that withdrew does not inherit",
    );
  }
});

test("a claim that is renewed stays, one that is not ends by itself and the next may claim", () => {
  const world = new ReplicaWorld(3);
  const a = world.add();
  const list = listOf(a);
  const task = list.add(a.now, "t", "");
  const claimed = list.claim(a.now, task, "one", 1000);
  assert.equal(
    code(() => list.claim(a.now, claimed, "two", 1000)),
    "TASK_CLAIMED",
    "agents of one node compete too",
  );
  world.nowMs += 900;
  const renewed = list.claim(a.now, list.find(task.id, a.now.wallMs), "one", 1000);
  assert.equal(renewed.claim!.since, claimed.claim!.since);
  world.nowMs += 999;
  assert.equal(list.find(task.id, a.now.wallMs).claim?.agent, "one");
  world.nowMs += 1;
  assert.equal(list.find(task.id, a.now.wallMs).claim, undefined);
  assert.equal(list.claim(a.now, list.find(task.id, a.now.wallMs), "two", 1000).claim?.agent, "two");
});

test("a claim can be renewed for as long as the work takes", () => {
  const world = new ReplicaWorld(30);
  const a = world.add();
  const list = listOf(a);
  const { id } = list.add(a.now, "long", "");
  for (let day = 0; day < 80; day++) {
    list.claim(a.now, list.find(id, a.now.wallMs), "one", MAX_CLAIM_MS);
    world.nowMs += MAX_CLAIM_MS - 1000;
  }
  assert.equal(list.find(id, a.now.wallMs).claim?.agent, "one");
});

test("a change made at the same time as a removal survives it; a removal that knew the change does not leave it", () => {
  const world = new ReplicaWorld(4);
  const [a, b] = [world.add(), world.add()];
  const mine = listOf(a);
  listOf(b);
  world.up(a, b);
  const task = mine.add(a.now, "old", "");
  world.run(500);
  world.connected = () => false;
  mine.remove(a.now, task);
  listOf(b, 2).edit(b.now, listOf(b).find(task.id, b.now.wallMs), "new", "");
  world.run(500);
  world.connected = () => true;
  world.up(a, b);
  world.run(2000);
  for (const node of [a, b]) assert.equal(listOf(node).find(task.id, node.now.wallMs).title, "new");
  listOf(a).remove(a.now, listOf(a).find(task.id, a.now.wallMs));
  world.run(2000);
  for (const node of [a, b]) assert.deepEqual(listOf(node).list(node.now.wallMs), []);
});

test("replicas agree on every task whatever is done where; nobody's claim is somebody else's work", () => {
  const op = fc.record({
    node: fc.nat(2),
    action: fc.constantFrom("add", "edit", "remove", "claim", "release", "finish", "tidy"),
    which: fc.nat(5),
    agent: fc.constantFrom("x", "y"),
    pauseMs: fc.constantFrom(0, 20, 100),
  });
  fc.assert(
    fc.property(fc.nat(1000), fc.array(op, { maxLength: 40 }), (seed, ops) => {
      const world = new ReplicaWorld(seed + 1);
      world.loss = 0.1;
      const nodes = Array.from({ length: 3 }, () => world.add());
      for (const node of nodes) listOf(node);
      world.run(6000);
      world.connected = (from, to) => nodes.indexOf(from) > 0 === nodes.indexOf(to) > 0;
      for (const [i, { node, action, which, agent, pauseMs }] of ops.entries()) {
        const at = nodes[node];
        const list = listOf(at, seed * 1000 + i);
        const tasks = list.list(at.now.wallMs);
        const task = tasks.length === 0 ? undefined : tasks[which % tasks.length];
        code(() => {
          if (action === "add") return list.add(at.now, `task ${i}`, "");
          if (action === "tidy") return list.tidy(at.now);
          if (task === undefined) return undefined;
          if (action === "edit") return list.edit(at.now, task, `edit ${i}`, "");
          if (action === "remove") return list.remove(at.now, task);
          if (action === "claim") return list.claim(at.now, task, agent, 3_600_000);
          if (action === "release") return list.release(at.now, task, agent);
          return list.finish(at.now, task, agent, "done", `result ${i}`);
        });
        world.run(pauseMs);
      }
      world.connected = () => true;
      world.run(300_000);
      const views = nodes.map((node) => plain(listOf(node).list(node.now.wallMs)));
      assert.deepEqual(views[1], views[0]);
      assert.deepEqual(views[2], views[0]);
      for (const node of nodes) {
        assert.equal(node.replicas.counters.entriesForbidden, 0, "an honest node breaks no rule");
        listOf(node).tidy(node.now);
      }
      world.run(300_000);
      for (const node of nodes) {
        for (const entry of listOf(node).space.map.entries()) {
          const key = readTaskKey(entry.key);
          if (key?.kind !== "claim" || entry.value === undefined) continue;
          const { claim } = listOf(node).find(key.task, node.now.wallMs);
          assert.equal(toHex(claim!.nodeId), key.author, "after tidying only holders have claims");
        }
      }
    }),
    { numRuns: 25 },
  );
});

test("an entry that its author may not write is no part of a task list", () => {
  const world = new ReplicaWorld(6);
  const [a, b] = [world.add(), world.add()];
  const space = spaceId(SpaceKind.TASKS, "work");
  const hlc = START_WALL_MS * 1024;
  const allowed = (key: string, value: Uint8Array | undefined): boolean =>
    isTaskEntry(signEntry(NETWORK, space, key, value, hlc, a.identity));
  const id = "0123456789abcdef";
  const tag = encodeTag({ title: "t", body: "" });
  assert.equal(allowed(tagKey(id, a.hex, id), tag), true);
  assert.equal(allowed(tagKey(id, b.hex, id), tag), false, "in the name of another");
  assert.equal(allowed(tagKey(id, b.hex, id), undefined), true, "whoever saw a tag may remove it");
  assert.equal(allowed(tagKey(id, a.hex, id), utf8("no cbor")), false);
  const claim = (since: number, untilMs: number): Uint8Array => encodeClaim({ since, untilMs });
  assert.equal(allowed(claimKey(id, a.hex, "x"), claim(hlc, START_WALL_MS + 1000)), true);
  assert.equal(allowed(claimKey(id, b.hex, "x"), claim(hlc, START_WALL_MS + 1000)), false);
  assert.equal(allowed(claimKey(id, b.hex, "x"), undefined), false, "a claim is withdrawn by its author alone");
  assert.equal(allowed(claimKey(id, a.hex, "x"), claim(hlc, START_WALL_MS + MAX_CLAIM_MS + 1)), false, "too long");
  assert.equal(allowed(claimKey(id, a.hex, "x"), claim(hlc + 1, START_WALL_MS)), false, "since the future");
  assert.equal(allowed(claimKey(id, a.hex, "x"), claim(1024, START_WALL_MS)), false, "since for ever");
  assert.equal(allowed(claimKey(id, a.hex, "../x"), claim(hlc, START_WALL_MS)), false);
  assert.equal(allowed(stateKey(id), encodeState({ state: "done", result: "", agent: "x" })), true);
  assert.equal(allowed("anything", tag), false);
});
