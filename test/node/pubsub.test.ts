/** Publish/subscribe of real nodes without an interface, without root, in this process, over their real connections. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { PubSubControl, TopicEvent } from "../../src/api/messaging/pubsub-control.ts";
import { createNode, initNetwork, type WeftNode } from "../../src/node/index.ts";

const WAIT_MS = 20_000;

const root = mkdtempSync(join(tmpdir(), "weft-pubsub-"));
const running = new Set<WeftNode>();
after(async () => {
  for (const node of running) await node.stop();
  rmSync(root, { recursive: true });
});

interface Running {
  readonly node: WeftNode;
  readonly pubsub: PubSubControl;
}

async function start(name: string, token?: string): Promise<Running> {
  const node = await createNode({
    stateDirectory: join(root, name),
    join: token,
    config: { name, tun: false, listen: ["127.0.0.1:0"], maxPeers: 16 },
  });
  running.add(node);
  const pubsub = node.control.messaging?.pubsub;
  assert.ok(pubsub !== undefined);
  return { node, pubsub };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const untilMs = performance.now() + WAIT_MS;
  while (!condition()) {
    assert.ok(performance.now() < untilMs, `in ${WAIT_MS} ms not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

const text = (events: readonly TopicEvent[]): (string | null)[] =>
  events.flatMap((event) => (event.event === "message" ? [event.data.text] : []));

test("what one node publishes reaches every subscriber once and in order; it is retained; who leaves gets nothing more", async () => {
  await initNetwork({ stateDirectory: join(root, "one"), network: "example", name: "one" });
  const one = await start("one");
  const { token } = await one.node.control.invite({ uses: 2 });
  const two = await start("two", token);
  const three = await start("three", token);
  const atTwo: TopicEvent[] = [];
  const atThree: TopicEvent[] = [];
  const leave = two.pubsub.subscribe("news", true, (event) => atTwo.push(event));
  three.pubsub.subscribe("news", false, (event) => atThree.push(event));
  const linked = (node: Running): boolean => node.pubsub.topics().some((topic) => topic.eager > 0);
  await until("subscribers are neighbours", () => linked(two) && linked(three));
  const first = one.pubsub.publish("node", "news", new TextEncoder().encode("0"));
  assert.equal(first.topic, "news");
  await until("the publisher has found subscribers", () => linked(one));
  for (let i = 1; i < 200; i++) one.pubsub.publish("node", "news", new TextEncoder().encode(`${i}`));
  await until("all has arrived", () => text(atTwo).length >= 200 && text(atThree).length >= 200);
  const got = text(atTwo).map(Number);
  assert.deepEqual(
    got,
    got.toSorted((a, b) => a - b),
  );
  assert.equal(new Set(text(atThree)).size, atThree.length);
  const [event] = atTwo;
  assert.ok(event.event === "message");
  assert.equal(event.data.from.name, "one");
  assert.equal(event.data.agent, null);

  const kept = await three.pubsub.messages("news", 0, 1000);
  assert.equal(kept.length, text(atThree).length);
  const later = await three.pubsub.messages("news", kept[9].cursor, 5);
  assert.deepEqual(
    later.map((message) => message.id),
    kept.slice(10, 15).map((message) => message.id),
  );

  leave();
  const before = atTwo.length;
  one.pubsub.publish("node", "news", new TextEncoder().encode("last"));
  await until("the other one has it", () => text(atThree).includes("last"));
  assert.equal(atTwo.length, before);
  assert.equal(
    two.pubsub.topics().some((topic) => topic.topic === "news"),
    false,
  );
});
