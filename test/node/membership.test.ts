/** Membership, directory and presence of real nodes without an interface, without root, in this process. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { equal, toHex } from "../../src/base/bytes.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { Identity } from "../../src/crypto/identity.ts";
import { signLease } from "../../src/messaging/agents/lease.ts";
import { TopicRole } from "../../src/messaging/directory/types.ts";
import { createNode, initNetwork, type WeftNode } from "../../src/node/index.ts";
import { MembershipPart } from "../../src/node/messaging/membership.ts";
import type { PartContext } from "../../src/node/messaging/part.ts";

const WAIT_MS = 20_000;

const root = mkdtempSync(join(tmpdir(), "weft-membership-"));
const running = new Set<WeftNode>();
after(async () => {
  for (const node of running) await node.stop();
  rmSync(root, { recursive: true });
});

interface Running {
  readonly node: WeftNode;
  readonly part: MembershipPart;
  readonly context: PartContext;
  readonly nodeId: Uint8Array;
}

async function start(name: string, join_?: string): Promise<Running> {
  let part: MembershipPart | undefined;
  let context: PartContext | undefined;
  const node = await createNode({
    stateDirectory: join(root, name),
    join: join_,
    config: { name, tun: false as const, listen: ["127.0.0.1:0"], maxPeers: 16 },
    testing: {
      messagingParts: (given) => {
        context = given;
        part = new MembershipPart(given);
        return [part];
      },
    },
  });
  running.add(node);
  assert.ok(part !== undefined && context !== undefined);
  return { node, part, context, nodeId: context.identity.nodeId };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const untilMs = performance.now() + WAIT_MS;
  while (!condition()) {
    assert.ok(performance.now() < untilMs, `in ${WAIT_MS} ms not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

test("three nodes become neighbours, find each other's topics and agents, and see who is online and who stopped", async () => {
  await initNetwork({ stateDirectory: join(root, "one"), network: "example", name: "one" });
  const one = await start("one");
  const { token } = await one.node.control.invite({ uses: 2 });
  const two = await start("two", token);
  const three = await start("three", token);
  const all = [one, two, three];
  await until("all are neighbours", () => all.every(({ part }) => part.overlay.active().length === 2));
  for (const { part, nodeId } of all) {
    for (const other of all) if (other.nodeId !== nodeId) assert.equal(part.overlay.liveness(other.nodeId), "alive");
  }

  // topics
  const told: string[] = [];
  one.part.topics.onSubscribers((topic) => told.push(topic));
  one.part.topics.follow("weather", TopicRole.VISITOR);
  two.part.topics.follow("weather", TopicRole.SUBSCRIBER);
  three.part.topics.follow("weather", TopicRole.VOLUNTEER);
  three.part.topics.follow("news", TopicRole.SUBSCRIBER);
  const ids = (running: Running, topic: string): string[] => running.part.topics.sample(topic, 9).map(toHex).toSorted();
  await until(
    "two and three know each other",
    () => ids(two, "weather").length === 1 && ids(three, "weather").length === 1,
  );
  // who came first looks again when its round is due, or is shuffled with; a publisher that comes later finds all at once
  one.part.topics.unfollow("weather");
  one.part.topics.follow("weather", TopicRole.VISITOR);
  await until("one knows both", () => ids(one, "weather").length === 2);
  assert.deepEqual(ids(one, "weather"), [two.nodeId, three.nodeId].map(toHex).toSorted());
  assert.deepEqual(ids(one, "news"), []);
  await until("the listener is told", () => told.includes("weather"));
  three.part.topics.unfollow("weather");
  await until("two has heard that three left", () => ids(two, "weather").length === 0);

  // agents
  const agent = Identity.generate(new SeededRandom(7));
  const networkId = one.context.networkId();
  assert.ok(networkId !== undefined);
  const lease = signLease(networkId, agent, two.context.identity, Date.now(), 3_600_000, 1);
  assert.throws(() => one.part.agents.announce(lease), { code: "LEASE_INVALID" });
  two.part.agents.announce(lease);
  await until("the lease is at its meeting nodes", () =>
    all.every(({ part }) => part.agents.whereIs(agent.nodeId) !== undefined),
  );
  const place = await three.part.agents.locate(agent.nodeId);
  assert.ok(place !== undefined && equal(place.nodeId, two.nodeId));
  const stranger = Identity.generate(new SeededRandom(8));
  assert.equal(await three.part.agents.locate(stranger.nodeId, 1000), undefined);

  // presence, as the API has it
  const presence = one.node.control.messaging?.presence;
  assert.ok(presence !== undefined);
  const changes: string[] = [];
  presence.onChange((peer) => changes.push(`${peer.node.name} ${peer.state}`));
  await presence.watch("two");
  await assert.rejects(presence.watch("one"), { code: "NODE_IS_SELF" });
  await assert.rejects(presence.watch("nobody"), { code: "NODE_UNKNOWN" });
  await until("two is online", () => presence.view().peers[0]?.state === "online");
  await two.node.control.messaging?.presence?.set("away", "in a meeting");
  await until("two is away", () => presence.view().peers[0]?.state === "away");
  assert.equal(presence.view().peers[0].note, "in a meeting");

  await two.node.stop();
  running.delete(two.node);
  await until("two is offline", () => presence.view().peers[0]?.state === "offline");
  await until("nobody has it as neighbour", () => [one, three].every(({ part }) => part.overlay.active().length === 1));
  assert.deepEqual(changes, ["two online", "two away", "two offline"]);

  // what it said of itself and whom one watches are kept over restarts
  const again = await start("two");
  await until("two is back and still away", () => presence.view().peers[0]?.state === "away");
  await until("all are neighbours again", () =>
    [one, again, three].every(({ part }) => part.overlay.active().length === 2),
  );
  await one.node.stop();
  running.delete(one.node);
  const oneAgain = await start("one");
  const view = (): string | undefined => oneAgain.node.control.messaging?.presence?.view().peers[0]?.state;
  await until("one watches two still", () => view() === "away");
  const counted = (name: string): boolean =>
    oneAgain.part.metrics().some((sample) => sample.name === name && sample.value > 0);
  await until("frames are counted", () => counted("weft_membership_frames_in_total"));
  const samples = oneAgain.part.metrics();
  assert.equal(new Set(samples.map((sample) => `${sample.name}${JSON.stringify(sample.labels)}`)).size, samples.length);
});
