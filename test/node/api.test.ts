/** The local API over real nodes: every answer fits the schema that /v1/openapi.json shows, and what it says is so. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { WeftClient } from "../../src/client/client.ts";
import { startPair } from "../support/api-node.ts";

interface Operation {
  readonly parameters: readonly { readonly required: boolean; readonly in: string }[];
  readonly "x-events"?: unknown;
}

test("every answer of a live node fits its own schema, and its messages, events and tokens do what they say", async () => {
  const [one, two] = await startPair();

  // all that asks for nothing
  const document = await one.client.call<{ paths: Record<string, Record<string, Operation>> }>(
    "GET",
    "/v1/openapi.json",
  );
  let asked = 0;
  for (const [path, { get }] of Object.entries(document.paths)) {
    if (get === undefined || get["x-events"] !== undefined || path.includes("{")) continue;
    if (get.parameters.some((one) => one.required)) continue;
    asked++;
    await one.client
      .text("GET", path)
      .catch((error: { code: string }) =>
        assert.ok(["NO_INTERFACE"].includes(error.code), `${path}: ${String(error)}`),
      );
  }
  assert.ok(asked > 15, `only ${asked}`);
  await one.client.explain("two");
  await one.client.whois("two");
  const why = await one.client.delivery("two");
  assert.equal(why.delivers, true, JSON.stringify(why));
  await assert.rejects(one.client.delivery("nobody"), { code: "NODE_UNKNOWN" });

  // a message and its way into the inbox, by a follower that was there before
  const abort = new AbortController();
  const inbox = two.client.followInbox({ signal: abort.signal });
  assert.equal((await inbox.next()).value?.event, "ready");
  const sent = await one.client.send({ to: "two", text: "grüße", name: "greeting", deadlineMs: 20_000 });
  assert.equal(sent.outcome, "acknowledged", JSON.stringify(sent));
  const came = (await inbox.next()).value;
  assert.equal(came?.data.text, "grüße");
  assert.equal(came?.data.id, sent.id);
  abort.abort();
  await inbox.return(undefined);
  const page = await two.client.inbox();
  assert.deepEqual(
    page.messages.map(({ text, name, from }) => [text, name, from.name]),
    [["grüße", "greeting", "one"]],
  );
  await two.client.acknowledge(page.messages[0].sequence);
  assert.deepEqual((await two.client.inbox()).messages, []);
  assert.equal((await one.client.messageStatus(sent.id)).outcome, "acknowledged");

  // a service and its answer; hanging up cancels it there
  const serving = new AbortController();
  const services = two.client.serve("echo", { signal: serving.signal });
  await services.next();
  const asking = one.client.request({ to: "two", name: "echo", data: "/w==", deadlineMs: 20_000 });
  const request = (await services.next()).value;
  assert.equal(request?.data.payload, "/w==");
  await two.client.respond(request?.data.key ?? "", { data: "AAE=" });
  assert.deepEqual([(await asking).outcome, (await asking).payload], ["answered", "AAE="]);
  const hangUp = new AbortController();
  const given = one.client.request({ to: "two", name: "echo", text: "", deadlineMs: 60_000 }, hangUp.signal);
  const second = (await services.next()).value;
  hangUp.abort();
  await assert.rejects(given, { code: "ABORTED" });
  const cancelled = (await services.next()).value;
  assert.deepEqual([cancelled?.event, cancelled?.data.key], ["cancelled", second?.data.key]);
  serving.abort();
  await services.return(undefined);

  // a subscriber hears what is published; a token with one scope can do one thing
  const made = await one.client.createToken({ name: "writer", scopes: ["publish"] });
  const writer = new WeftClient({ url: `http://${one.api.address}`, token: made.token });
  const listening = new AbortController();
  const topic = two.client.subscribe("news/ä b", { signal: listening.signal });
  assert.equal((await topic.next()).value?.event, "ready");
  const publishing = setInterval(() => void writer.publish("news/ä b", { text: "hi" }).catch(() => undefined), 200);
  const heard = (await topic.next()).value;
  clearInterval(publishing);
  assert.deepEqual([heard?.event, heard?.data.text, heard?.data.topic], ["message", "hi", "news/ä b"]);
  listening.abort();
  await topic.return(undefined);
  await assert.rejects(writer.status(), { code: "FORBIDDEN" });
  await assert.rejects(writer.send({ to: "two", text: "x" }), { code: "FORBIDDEN" });
  await one.client.revokeToken("writer");
  await assert.rejects(writer.publish("news/ä b", { text: "hi" }), { code: "UNAUTHORIZED" });

  // what cannot be delivered is said, with the stage
  await two.stop();
  const lost = await one.client.send({ to: "two", text: "x", deadlineMs: 300 });
  assert.notEqual(lost.outcome, "acknowledged");
  await assert.rejects(one.client.send({ to: "nobody", text: "x" }), { code: "NODE_UNKNOWN" });
});
