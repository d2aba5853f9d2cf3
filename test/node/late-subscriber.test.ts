/** Two real nodes: who publishes before anybody subscribes reaches the later subscriber within seconds, and its next run too. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type ApiNode, startApiNode, startPair } from "../support/api-node.ts";

const WITHIN_MS = 15_000;

/** Resolves with the first message of the topic. */
async function firstMessage(node: ApiNode): Promise<unknown> {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), WITHIN_MS);
  try {
    for await (const { event, data } of node.client.subscribe("logs", { signal: abort.signal, reconnect: false }))
      if (event === "message") return (data as { readonly text?: string }).text;
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
  return undefined;
}

test("a topic that was published to first and subscribed to later is delivered, also to a subscriber that restarts", async () => {
  const [one, two] = await startPair();
  const timer = setInterval(() => void one.client.publish("logs", { text: "x" }).catch(() => undefined), 200);
  try {
    // two is asked meanwhile and says that it does not take part
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.equal(await firstMessage(two), "x");
    await two.stop();
    assert.equal(await firstMessage(await startApiNode("two")), "x");
  } finally {
    clearInterval(timer);
  }
});
