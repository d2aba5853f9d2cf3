/** Publish/subscribe with ten thousand subscribers of one topic in virtual time. The other worlds are in messaging-net.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../src/base/random.ts";
import { MAX_EAGER, MAX_LAZY } from "../src/messaging/pubsub/types.ts";
import { MessagingNet } from "./messaging-net.ts";

test("10,000 subscribers of a topic under 1 % loss and churn get at least 99.9 % of the messages, over at most 12 eager links each", (t) => {
  const net = new MessagingNet(9, { nodes: 10_000, pubsub: { compareIntervalMs: 60_000 } });
  net.loss = 0.01;
  net.subscribeAll("t");
  net.run(5000);
  const random = new SeededRandom(7);
  const payload = new Uint8Array(200);
  const publish = (messages: number, churnPerSecond: number): void => {
    for (let i = 0; i < messages; i++) {
      const up = net.nodes.filter((node) => node.isUp);
      net.publish(up[random.u32() % up.length], "t", payload);
      for (let j = 0; j < churnPerSecond; j++) {
        const node = net.nodes[random.u32() % net.nodes.length];
        if (!node.isUp) continue;
        net.kill(node);
        net.later(15_000, () => net.restart(node));
      }
      net.run(1000);
    }
  };
  publish(6, 0);
  net.clearFigures();
  publish(6, 10);
  const sends = net.frames / net.nodes.length / net.traces.length;
  net.run(30_000);
  const { share, expected } = net.delivery();
  const links = net.links("t");
  t.diagnostic(`${share} of ${expected}; ${sends.toFixed(1)} frames per node and publish; ${JSON.stringify(links)}`);
  assert.ok(expected > 55_000, `${expected}`);
  assert.ok(share >= 0.999, `${share}`);
  assert.ok(links.maxEager <= MAX_EAGER && links.maxLazy <= MAX_LAZY && links.minEager >= 1, JSON.stringify(links));
  // as with a hundred subscribers
  assert.ok(sends < 12, `${sends}`);
  assert.deepEqual(net.violations, []);
});
