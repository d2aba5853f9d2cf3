/**
 * Direct messages against a world of every trouble there is: nothing acknowledged is missing from the inbox, nothing refused is in it, no
 * id is in it twice, every unknown one is resolved. Negative controls: a disk that lies, and a receiver that forgets, are noticed.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PEACE, type Troubles, World } from "../../../test/support/direct-world.ts";
import type { DirectOptions } from "./types.ts";

interface Life {
  readonly seed: number;
  readonly hosts: number;
  readonly steps: number;
  readonly troubles: Troubles;
  readonly options: Partial<DirectOptions>;
  readonly crashes: number;
  readonly blocks: number;
}

/** A random life in a world of troubles, then peace. */
async function live(
  { seed, hosts, steps, troubles, options, crashes, blocks }: Life,
  prepare: (world: World) => void = () => undefined,
): Promise<World> {
  const world = new World(seed, hosts, troubles, options);
  prepare(world);
  const { random } = world;
  const pick = (): number => random.u32() % hosts;
  for (let i = 0; i < hosts; i++) await world.start(i);
  for (let step = 0; step < steps; step++) {
    const dice = random.unit();
    const index = pick();
    const { machine } = world.hosts[index];
    if (dice < crashes) {
      world.crash(index);
    } else if (machine === undefined) {
      if (random.unit() < 0.5) await world.start(index);
    } else if (dice < crashes + blocks) {
      const level = random.unit() < 0.5 ? "blocked" : "trusted";
      machine.setTrust(world.now, world.hosts[pick()].id, level);
      world.drain(index);
    } else if (dice < crashes + blocks + 0.15) {
      machine.acknowledge(world.now, "", world.hosts[index].lastDelivered);
      world.drain(index);
    } else {
      const burst = 1 + (random.u32() % 4);
      for (let i = 0; i < burst; i++) {
        world.send(index, pick(), {
          deadlineMs: 1 + random.unit() * 3_000,
          durable: random.unit() < 0.8,
          keepMs: random.unit() < 0.3 ? 20_000 : 0,
        });
      }
    }
    world.pass(random.unit() * (random.unit() < 0.05 ? 6_000 : 120));
  }
  world.troubles = PEACE;
  for (let i = 0; i < hosts; i++) if (world.hosts[i].machine === undefined) await world.start(i);
  for (const { id } of world.hosts) {
    for (const [index, host] of world.hosts.entries()) {
      host.machine?.setTrust(world.now, id, "trusted");
      world.drain(index);
    }
  }
  world.pass(300_000);
  world.check();
  return world;
}

const share = (max: number): fc.Arbitrary<number> => fc.integer({ min: 0, max: 100 }).map((n) => (n / 100) * max);

test("in a world of losses, repeats, kills and failing disks no outcome is ever wrong, and all are known in the end", async () => {
  let acknowledged = 0;
  let refused = 0;
  let unknown = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        seed: fc.integer(),
        hosts: fc.integer({ min: 2, max: 3 }),
        steps: fc.constant(60),
        troubles: fc.record({
          loss: share(0.4),
          duplicates: share(0.5),
          lostWrites: share(0.3),
          failedCommits: share(0.2),
          maxDelayMs: fc.constantFrom(5, 50, 400),
          maxCommitMs: fc.constantFrom(2, 30, 300),
        }),
        options: fc.record({ inboxMessages: fc.constantFrom(6, 1000), outboxAfterMs: fc.constantFrom(50, 250) }),
        crashes: share(0.15),
        blocks: share(0.1),
      }),
      async (life) => {
        const world = await live(life);
        unknown += world.checkResolved();
        for (const { told } of world.hosts) {
          for (const results of told.values()) {
            if (results.at(-1)?.outcome === "acknowledged") acknowledged++;
            if (results.at(-1)?.outcome === "refused") refused++;
          }
        }
        world.close();
      },
    ),
    { numRuns: 200 },
  );
  // the world was neither peaceful nor dead
  assert.ok(acknowledged > 500, `${acknowledged} acknowledged`);
  assert.ok(refused > 50, `${refused} refused`);
  assert.ok(unknown > 50, `${unknown} unknown`);
});

/** @returns true when the world noticed */
async function isNoticed(sabotage: (world: World) => void): Promise<boolean> {
  const troubles = { loss: 0.2, duplicates: 0.3, lostWrites: 0.1, failedCommits: 0, maxDelayMs: 50, maxCommitMs: 30 };
  for (let seed = 1; seed <= 20; seed++) {
    try {
      const options = { inboxMessages: 6 };
      const world = await live({ seed, hosts: 2, steps: 60, troubles, options, crashes: 0.1, blocks: 0 }, sabotage);
      world.checkResolved();
      world.close();
    } catch {
      // an assertion of the world, or SQLite's that a sequence is there already
      return true;
    }
  }
  return false;
}

test("negative controls: a lying disk, a forgetful receiver and a forgetful sender are noticed", async () => {
  const forget = (name: string): Promise<boolean> =>
    isNoticed((world) => {
      for (const { database } of world.hosts) database.keeps = (op) => op.name !== name;
    });
  assert.ok(await forget("direct.inbox.insert"), "acknowledged, and not on disk");
  assert.ok(await forget("direct.seen.insert"), "a number that was decided is taken again after a restart");
  assert.ok(await forget("direct.outbox.insert"), "told unknown, and nobody knows it after a restart");
  assert.ok(await forget("direct.meta.set"), "sequences are given twice");
  assert.equal(await isNoticed(() => undefined), false, "and without sabotage there is nothing to notice");
});
