/** Key-value store, task lists, groups, agents and history of real nodes without an interface, without root, through the local API and the command line. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { AgentView } from "../../src/api/messaging/agents-control.ts";
import type { GroupView } from "../../src/api/messaging/groups-control.ts";
import type { HistoryMessageView } from "../../src/api/messaging/history-control.ts";
import type { KvChange, KvEntryView } from "../../src/api/messaging/kv-control.ts";
import type { TaskView } from "../../src/api/messaging/tasks-control.ts";
import { socketPathOf } from "../../src/api/paths.ts";
import { serveApi } from "../../src/api/server.ts";
import { nullLogger } from "../../src/base/log.ts";
import { WeftClient } from "../../src/client/client.ts";
import { createNode, initNetwork } from "../../src/node/index.ts";
import { ApiTokens } from "../../src/node/api-tokens.ts";
import { systemRandom } from "../../src/node/random.ts";

const WAIT_MS = 20_000;
const WEFT = fileURLToPath(new URL("../../bin/weft", import.meta.url));

const root = mkdtempSync(join(tmpdir(), "weft-replicated-"));
const closing: (() => Promise<void>)[] = [];
after(async () => {
  for (const close of closing.toReversed()) await close();
  rmSync(root, { recursive: true });
});

interface Running {
  readonly client: WeftClient;
  readonly state: string;
}

async function start(name: string, token?: string): Promise<Running> {
  const state = join(root, name);
  const node = await createNode({
    stateDirectory: state,
    join: token,
    config: { name, tun: false, listen: ["127.0.0.1:0"], maxPeers: 16 },
  });
  const tokens = new ApiTokens(state, { random: systemRandom, wallMs: () => Date.now() });
  const socket = socketPathOf(state);
  const api = await serveApi(node.control, socket, nullLogger, { tokens, checkOutput: true });
  closing.push(async () => {
    await api.close();
    await node.stop();
  });
  return { client: new WeftClient(socket), state };
}

async function until<T>(what: string, get: () => Promise<T | undefined>): Promise<T> {
  const untilMs = performance.now() + WAIT_MS;
  for (;;) {
    const got = await get().catch((error: unknown) => {
      if (performance.now() > untilMs) throw error;
      return undefined;
    });
    if (got !== undefined) return got;
    assert.ok(performance.now() < untilMs, `in ${WAIT_MS} ms not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** @returns what it prints */
function weft(node: Running, ...words: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(WEFT, [...words, "--state", node.state], (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(new Error(`weft ${words.join(" ")}: ${stderr}`, { cause: error }));
    });
    child.stdin?.end("from standard input");
  });
}

test("what one node writes, the others have: keys, tasks, groups, agents, history", async () => {
  await initNetwork({ stateDirectory: join(root, "one"), network: "example", name: "one" });
  const one = await start("one");
  const { token } = await one.client.invite({ uses: 2 });
  const two = await start("two", token);
  const three = await start("three", token);

  // keys
  const space = { space: "default" };
  await one.client.call("PUT", "/v1/kv/:space/value", { params: space, body: { key: "greeting", text: "hello" } });
  const value = await until("two has the key", () =>
    two.client.call<KvEntryView>("GET", "/v1/kv/:space/value", { params: space, query: { key: "greeting" } }),
  );
  assert.deepEqual([value.text, value.author.name], ["hello", "one"]);
  const abort = new AbortController();
  const changes: KvChange[] = [];
  const watching = (async () => {
    const events = two.client.events<KvChange>("/v1/kv/:space/changes", { params: space, signal: abort.signal });
    for await (const { event, data } of events) if (event === "change") changes.push(data);
  })();
  await until("a change", async () => {
    await one.client.call("PUT", "/v1/kv/:space/value", { params: space, body: { key: "greeting", value: "/w==" } });
    return changes[0];
  });
  abort.abort();
  await watching.catch(() => undefined);
  assert.deepEqual([changes[0].text, changes[0].value], [null, "/w=="]);

  // tasks
  const list = { list: "work" };
  const added = await one.client.call<TaskView>("POST", "/v1/tasks/:list", { params: list, body: { title: "paint" } });
  await until("two has the task", async () => {
    const { tasks } = await two.client.call<{ tasks: TaskView[] }>("GET", "/v1/tasks/:list", { params: list });
    return tasks.find((task) => task.id === added.id);
  });
  const claimed = await two.client.call<TaskView>("POST", "/v1/tasks/:list/claim", {
    params: list,
    body: { settleMs: 50 },
  });
  assert.equal(claimed.claim?.mine, true);

  // groups
  await one.client.call("POST", "/v1/groups", { body: { name: "team", nodes: ["two", "three"] } });
  const team = { group: "team" };
  for (const node of [two, three])
    await until("it knows the group", () => node.client.call<GroupView>("GET", "/v1/groups/:group", { params: team }));
  const textsOf = async (node: Running): Promise<string> => {
    const path = "/v1/groups/:group/messages";
    const { messages } = await node.client.call<{ messages: HistoryMessageView[] }>("GET", path, { params: team });
    return messages.map((message) => message.text).join();
  };
  await two.client.call("POST", "/v1/groups/:group/messages", { params: team, body: { text: "all of you" } });
  for (const node of [one, two, three])
    await until("it has the message", async () => ((await textsOf(node)) === "all of you" ? true : undefined));
  await one.client.call("POST", "/v1/groups/:group/remove", { params: team, body: { node: "three" } });
  await one.client.call("POST", "/v1/groups/:group/messages", { params: team, body: { text: "not for three" } });
  await until("two has the next one", async () =>
    (await textsOf(two)) === "all of you,not for three" ? true : undefined,
  );
  assert.equal(await textsOf(three), "all of you");

  // agents
  await two.client.call<AgentView>("POST", "/v1/agents", { body: { name: "bot" } });
  await one.client.call("POST", "/v1/agents", { body: { name: "asker" } });
  await until("one finds the agent", () => one.client.call("GET", "/v1/agents/find", { query: { agent: "bot@two" } }));
  const sent = await one.client.call<{ outcome: string }>("POST", "/v1/messages", {
    body: { to: "bot@two", text: "unique words for the bot", from: "asker" },
  });
  assert.equal(sent.outcome, "acknowledged");
  const found = await until("the history has it", async () => {
    const query = { search: "unique bot", agent: "bot" };
    const { messages } = await two.client.call<{ messages: HistoryMessageView[] }>("GET", "/v1/history", { query });
    return messages[0];
  });
  assert.deepEqual([found.text, found.from.name, found.kind], ["unique words for the bot", "one", "direct"]);
  const own = await until("so has the sender's", async () => {
    const query = { search: "unique bot", agent: "asker" };
    const { messages } = await one.client.call<{ messages: HistoryMessageView[] }>("GET", "/v1/history", { query });
    return messages[0];
  });
  assert.equal(own.to?.name, "two");
  await two.client.call("POST", "/v1/agents/:agent/access", { params: { agent: "bot" }, body: { open: false } });
  const refused = await one.client.call<{ outcome: string; reason: string }>("POST", "/v1/messages", {
    body: { to: "bot@two", text: "again", from: "asker" },
  });
  assert.deepEqual([refused.outcome, refused.reason], ["refused", "blocked"]);

  // the command line
  await weft(one, "kv", "set", "from-stdin", "-");
  assert.equal((await until("two has it", () => weft(two, "kv", "get", "from-stdin"))).trim(), "from standard input");
  assert.match(await weft(two, "kv", "list"), /greeting.*\n.*from-stdin|from-stdin.*\n.*greeting/);
  assert.match(
    await weft(two, "tasks", "done", added.id.slice(0, 6), "--list", "work", "--result", "blue"),
    /done: paint/,
  );
  assert.match(
    await until("one sees it", async () => {
      const shown = await weft(one, "tasks", "show", added.id.slice(0, 6), "--list", "work");
      return shown.includes("blue") ? shown : undefined;
    }),
    /result, by two/,
  );
  assert.match(await weft(one, "groups", "show", "team"), /two/);
  assert.match(await weft(two, "groups", "messages", "team"), /one #team: not for three/);
  assert.match(
    await weft(one, "groups", "verify", (await weft(two, "groups", "card", "team")).trim()),
    /^valid: two is member of team/,
  );
  assert.match(await weft(two, "agents"), /bot .*here .*this node alone may write/);
  assert.match(await weft(two, "history", "three", "not"), /not for three/);
  await assert.rejects(weft(two, "kv", "get", "nothing"), /has no value here/);
});
