/** Which agent a published message is shown to be of: what its publisher says counts only with a lease. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TopicEvent } from "../../api/messaging/pubsub-control.ts";
import { nullLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import { formatAgentId } from "../../messaging/agents/agent-id.ts";
import { signLease } from "../../messaging/agents/lease.ts";
import { hlcOf } from "../../messaging/pubsub/message.ts";
import type { PubSub } from "../../messaging/pubsub/pubsub.ts";
import type { SubscriberEvent } from "../../messaging/pubsub/types.ts";
import { AgentsPart } from "./agents.ts";
import type { PartContext } from "./part.ts";
import type { PubSubLog } from "./pubsub-log.ts";
import { PubSubPanel } from "./pubsub-panel.ts";
import type { VerifyPool } from "./verify-pool.ts";

const WALL_MS = 1_800_000_000_000;
const networkId = new Uint8Array(32).fill(9);
const [self, publisher, other, agent] = [1, 2, 3, 4].map((seed) => Identity.generate(new SeededRandom(seed)));

async function subscriber() {
  const leases = new Map<string, Uint8Array>();
  const asked: string[] = [];
  const now = { nowMs: 1_000, wallMs: WALL_MS };
  const context = {
    identity: self,
    random: new SeededRandom(7),
    log: nullLogger,
    networkId: () => networkId,
    clock: { now: () => now, schedule: () => () => undefined },
    links: { send: () => "accepted" },
    store: { query: () => Promise.resolve([]), commit: () => Promise.resolve() },
  } as unknown as PartContext;
  const place = (key: Uint8Array) => {
    const lease = leases.get(key.toHex());
    return lease === undefined ? undefined : { lease };
  };
  const agents = new AgentsPart(context, {
    directory: {
      whereIs: place,
      locate: (key: Uint8Array) => {
        asked.push(key.toHex());
        return Promise.resolve(undefined);
      },
      announce: () => undefined,
      withdraw: () => undefined,
    } as never,
    isBlocked: () => false,
    inboxes: { openInbox: () => true, closeInbox: () => undefined },
  });
  await agents.start();
  const waiting: SubscriberEvent[] = [];
  const events: TopicEvent[] = [];
  const panel = new PubSubPanel({
    machine: {
      subscribe: () => ({ id: 1 }),
      poll: () => waiting.shift(),
      counters: {},
      gauges: {},
      topics: () => [],
      cooled: () => [],
    } as unknown as PubSub,
    log: {} as PubSubLog,
    now: () => now,
    nodeRef: (nodeId) => ({ id: nodeId.toHex(), name: "" }),
    agentKey: () => undefined,
    livesOn: (key, nodeId) => agents.livesOn(key, nodeId),
    settle: () => undefined,
    ready: () => undefined,
  });
  panel.subscribe("t", false, (event) => events.push(event));
  const shown = (from: Uint8Array, key: Uint8Array | undefined): string | null => {
    const hlc = hlcOf(WALL_MS);
    const message = { topic: "t", ref: "00", publisher: from, agent: key, epoch: 1, sequence: 1, hlc, cursor: 1 };
    waiting.push({ kind: "message", message: { ...message, payload: new Uint8Array(0) } });
    panel.wake(1);
    const event = events.at(-1);
    assert.equal(event?.event, "message");
    return event.data.agent;
  };
  const unproven = (): number | undefined => {
    const samples = panel.metrics({ counters: {} } as VerifyPool, {} as PubSubLog);
    return samples.find(({ name }) => name === "weft_pubsub_unproven_agents_total")?.value;
  };
  const lease = (node: Identity): void =>
    void leases.set(agent.nodeId.toHex(), signLease(networkId, agent, node, WALL_MS, 3_600_000, 1));
  return { now, agents, asked, shown, unproven, lease };
}

test("an agent is shown only when a lease that it signed places it on the publisher", async (t) => {
  const { agents, shown, unproven, lease, now } = await subscriber();
  t.after(() => agents.close());
  assert.equal(shown(publisher.nodeId, undefined), null);
  assert.equal(unproven(), 0);
  assert.equal(shown(publisher.nodeId, agent.nodeId), null, "nobody has vouched for it");
  assert.equal(unproven(), 1);
  lease(publisher);
  assert.equal(shown(publisher.nodeId, agent.nodeId), formatAgentId(agent.nodeId));
  assert.equal(shown(other.nodeId, agent.nodeId), null, "another node speaks in its name");
  assert.equal(unproven(), 2);
  now.wallMs += 7_200_000;
  assert.equal(shown(publisher.nodeId, agent.nodeId), null, "the lease has ended");
});

test("a node that names agents nobody knows has the directory asked at a rate, and not for others", async (t) => {
  const { agents, asked, shown, now } = await subscriber();
  t.after(() => agents.close());
  for (let i = 0; i < 100; i++) shown(other.nodeId, new Uint8Array(32).fill(i));
  assert.equal(asked.length, 8);
  shown(publisher.nodeId, agent.nodeId);
  assert.equal(asked.at(-1), agent.nodeId.toHex());
  now.nowMs += 1_000;
  for (let i = 0; i < 100; i++) shown(other.nodeId, new Uint8Array(32).fill(i));
  assert.equal(asked.length, 11);
});
