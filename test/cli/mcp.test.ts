/** `weft mcp` with the client of the official SDK, over stdio, against two live nodes: every tool is listed and called. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { startPair } from "../support/api-node.ts";
import { root } from "../support/weft-command.ts";

const WEFT = fileURLToPath(new URL("../../bin/weft", import.meta.url));

interface Answer {
  readonly isError: boolean;
  readonly value: Record<string, unknown>;
}

async function connect(state: string): Promise<Client> {
  const client = new Client({ name: "test", version: "1" });
  await client.connect(
    new StdioClientTransport({
      command: WEFT,
      args: ["mcp", "--state", state, "--files-root", join(root, "outbox")],
      env: process.env as Record<string, string>,
    }),
  );
  return client;
}

test("an MCP client lists and calls every tool against a live node, and reads its resources", async () => {
  const [one, two] = await startPair();
  mkdirSync(join(root, "outbox"));
  const [a, b] = await Promise.all([connect(one.state), connect(two.state)]);
  const called = new Set<string>();
  const call = async (client: Client, name: string, given: Record<string, unknown> = {}): Promise<Answer> => {
    called.add(name);
    const result = await client.callTool({ name, arguments: given });
    const [content] = result.content as { type: string; text: string }[];
    return {
      isError: result.isError === true,
      value: (result.isError === true ? { text: content.text } : result.structuredContent) as Record<string, unknown>,
    };
  };
  const good = async (
    client: Client,
    name: string,
    given: Record<string, unknown> = {},
  ): Promise<Record<string, unknown>> => {
    const answer = await call(client, name, given);
    assert.equal(answer.isError, false, `${name}: ${JSON.stringify(answer.value)}`);
    return answer.value;
  };
  try {
    const { tools } = await a.listTools();
    assert.ok(tools.length >= 15);
    for (const tool of tools) {
      assert.match(tool.name, /^weft_[a-z_]+$/);
      assert.ok((tool.description ?? "").length > 20);
      assert.equal(tool.inputSchema.type, "object");
    }

    const status = await good(a, "weft_status");
    assert.equal((status["node"] as { name: string }).name, "one");
    const members = (await good(a, "weft_peers"))["members"] as { name: string }[];
    assert.deepEqual(members.map(({ name }) => name).toSorted(), ["one", "two"]);

    const sent = await good(a, "weft_send", { to: "two", text: "hello", topic: "greeting" });
    assert.equal(sent["outcome"], "acknowledged");
    assert.equal((await good(a, "weft_message_status", { id: sent["id"] }))["outcome"], "acknowledged");
    const inbox = (await good(b, "weft_inbox", { waitSeconds: 10 }))["messages"] as {
      text: string;
      sequence: number;
    }[];
    assert.deepEqual(
      inbox.map(({ text }) => text),
      ["hello"],
    );
    await good(b, "weft_inbox_done", { upTo: inbox[0].sequence });
    assert.deepEqual((await good(b, "weft_inbox"))["messages"], []);

    const position = await good(b, "weft_subscribe", { topic: "builds", waitSeconds: 0 });
    let heard: { event: string; data: { text?: string } }[] = [];
    let next = position["next"];
    // the one that publishes learns of the subscriber in its own time
    while (heard.length === 0) {
      await good(a, "weft_publish", { topic: "builds", text: "green" });
      const answer = await good(b, "weft_subscribe", { topic: "builds", after: next, waitSeconds: 1, limit: 1 });
      heard = answer["events"] as typeof heard;
      next = answer["next"];
    }
    assert.equal(heard[0].data.text, "green");
    assert.ok(Array.isArray((await good(b, "weft_topics"))["topics"]));

    // the first call registers the service, so that the request finds it
    const registered = await good(b, "weft_serve_next", { name: "add", waitSeconds: 0 });
    const serving = good(b, "weft_serve_next", { name: "add", after: registered["next"], waitSeconds: 30 });
    const asking = good(a, "weft_request", { to: "two", name: "add", text: "1+1" });
    const [request] = (await serving)["events"] as { data: { key: string; text: string } }[];
    assert.equal(request.data.text, "1+1");
    await good(b, "weft_respond", { key: request.data.key, text: "2" });
    const answered = await asking;
    assert.deepEqual([answered["outcome"], answered["text"]], ["answered", "2"]);

    const file = join(root, "outbox", "shared.txt");
    writeFileSync(file, "contents");
    // the daemon would read it; the one who started the server has not allowed it
    const identity = { path: join(one.state, "identity"), to: "two" };
    assert.match((await call(a, "weft_file_send", identity)).value["text"] as string, /^FORBIDDEN/);
    const shared = await good(a, "weft_file_share", { path: file });
    const done = await good(a, "weft_file_status", { key: shared["key"], waitSeconds: 20 });
    assert.equal(done["state"], "done");
    const got = await good(b, "weft_file_get", { id: done["id"], from: ["one"] });
    const fetched = await good(b, "weft_file_status", { key: got["key"], waitSeconds: 20 });
    assert.equal(fetched["state"], "done", JSON.stringify(fetched));
    assert.equal(readFileSync(fetched["path"] as string, "utf8"), "contents");
    const offered = await good(a, "weft_file_send", { path: file, to: "two" });
    assert.equal((await good(a, "weft_file_status", { key: offered["key"], waitSeconds: 20 }))["state"], "done");
    assert.ok(Array.isArray((await good(b, "weft_files"))["transfers"]));

    const why = await good(a, "weft_why_not_delivered", { peer: "two" });
    assert.equal(why["delivers"], true);
    // what is refused is told with its remedy, and is no failure of the protocol
    const nobody = await call(a, "weft_send", { to: "nobody", text: "x", waitSeconds: 1 });
    assert.equal(nobody.isError, true);
    assert.match(nobody.value["text"] as string, /NODE_UNKNOWN.*nobody.*; /);
    const wrong = await a.callTool({ name: "weft_send", arguments: { to: 7 } }).then(
      (result) => result.isError,
      () => true,
    );
    assert.equal(wrong, true);

    assert.deepEqual(
      tools.map(({ name }) => name).filter((name) => !called.has(name)),
      [],
    );

    const { resources } = await a.listResources();
    for (const { uri } of resources) {
      const { contents } = await a.readResource({ uri });
      assert.doesNotThrow(() => JSON.parse((contents[0] as { text: string }).text) as unknown, uri);
    }
    const { resourceTemplates } = await a.listResourceTemplates();
    assert.equal(resourceTemplates.length, 1);
    const delivery = await a.readResource({ uri: "weft://peers/two/delivery" });
    assert.match((delivery.contents[0] as { text: string }).text, /"delivers": true/);
  } finally {
    await Promise.all([a.close(), b.close()]);
  }
});
