/** Publish/subscribe through the local API of two real nodes: publish over HTTP, events over SSE, what is retained, what is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { startPair } from "../support/api-node.ts";

test("a message published through one node's API comes out of the other's event stream, is retained there, and bad names are refused", async () => {
  const [one, two] = await startPair();
  const abort = new AbortController();
  const events = two.client.subscribe("builds/main", { ordered: true, signal: abort.signal });
  assert.equal((await events.next()).value?.event, "ready");
  const published = await one.client.publish("builds/main", { text: "grün" });
  assert.equal(published.topic, "builds/main");
  const came = (await events.next()).value;
  assert.equal(came?.event, "message");
  assert.deepEqual(
    [came?.data.text, came?.data.from.name, came?.data.agent, came?.data.id],
    ["grün", "one", null, published.id],
  );
  const second = await one.client.publish("builds/main", { data: "/wA=" });
  const bytes = (await events.next()).value;
  assert.deepEqual([bytes?.data.id, bytes?.data.text, bytes?.data.data], [second.id, null, "/wA="]);

  const kept = await two.client.retained("builds/main");
  assert.deepEqual(
    kept.map((message) => message.id),
    [published.id, second.id],
  );
  assert.deepEqual(
    (await two.client.retained("builds/main", kept[0].cursor)).map((message) => message.id),
    [second.id],
  );
  assert.deepEqual(
    (await two.client.topics()).map(({ topic, role, subscribers }) => ({ topic, role, subscribers })),
    [{ topic: "builds/main", role: "subscriber", subscribers: 1 }],
  );
  assert.equal((await one.client.topics())[0]?.role, "publisher");
  await assert.rejects(one.client.publish("a\u0007b", { text: "x" }), { code: "TOPIC_INVALID" });
  await assert.rejects(one.client.publish("builds/main", { text: "x", agent: "nobody" }), { code: "AGENT_UNKNOWN" });
  abort.abort();
  await events.return(undefined);
});
