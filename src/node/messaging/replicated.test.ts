/** Replicated spaces, groups, history and agents of several nodes with real stores; frames go from part to part in this process. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { MessagingControl } from "../../api/messaging/control.ts";
import type { CardView } from "../../api/messaging/groups-control.ts";
import { equal, toHex, utf8 } from "../../base/bytes.ts";
import { WeftError } from "../../base/errors.ts";
import { nullLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import { formatNodeId } from "../../crypto/node-id.ts";
import type { Member } from "../../mesh/types.ts";
import type { InboxEntry } from "../../messaging/direct/types.ts";
import { type Card, formatCard, parseCard, signCard } from "../../messaging/groups/card.ts";
import type { AgentPlace } from "../../messaging/directory/types.ts";
import { FrameChannel } from "../../messaging/frames.ts";
import { signEntry, SpaceKind, spaceId } from "../../messaging/kv/entry.ts";
import { encodeSync } from "../../messaging/kv/messages.ts";
import { systemClock } from "../clock.ts";
import { systemRandom } from "../random.ts";
import { AgentsPart } from "./agents.ts";
import type { MessagingPart, PartContext } from "./part.ts";
import { createReplicatedPart } from "./replicated.ts";
import { MessageStoreThread } from "./store.ts";
import { ALL_TABLES } from "./tables/all.ts";

const NETWORK = new Uint8Array(32).fill(9);
const WAIT_MS = 10_000;

class Net {
  readonly nodes: Node[] = [];
  readonly folder: string = mkdtempSync(join(tmpdir(), "weft-replicated-"));

  get members(): Member[] {
    return this.nodes.map((node) => ({ nodeId: node.identity.nodeId, name: node.name }) as Member);
  }

  async add(name: string): Promise<Node> {
    const node = new Node(this, name);
    this.nodes.push(node);
    await node.start();
    return node;
  }

  async close(): Promise<void> {
    for (const node of this.nodes) await node.stop();
    rmSync(this.folder, { recursive: true });
  }
}

class Node {
  readonly identity: Identity;
  readonly name: string;
  readonly #net: Net;
  isCut = false;
  /** Node id → end of its membership. */
  readonly removed: Map<string, number> = new Map();
  /** Keys of agents with an open inbox. */
  readonly inboxes: Set<string> = new Set();
  deliver: (entry: InboxEntry) => void = () => undefined;
  agents!: AgentsPart;
  #store!: MessageStoreThread;
  #parts: readonly MessagingPart[] = [];

  constructor(net: Net, name: string) {
    this.#net = net;
    this.name = name;
    this.identity = Identity.generate(new SeededRandom(1000 + net.nodes.length));
  }

  get control(): Partial<MessagingControl> {
    return Object.assign({}, ...this.#parts.map((part) => part.control));
  }

  async start(): Promise<void> {
    this.#store = new MessageStoreThread(join(this.#net.folder, `${this.name}.db`), ALL_TABLES);
    const find = (nodeId: Uint8Array): Member | undefined =>
      this.#net.members.find((member) => equal(member.nodeId, nodeId));
    const context = {
      identity: this.identity,
      random: systemRandom,
      clock: systemClock,
      log: nullLogger,
      config: { storeBytes: 1 << 26 },
      store: this.#store,
      networkId: () => NETWORK,
      members: () => this.#net.members,
      find,
      memberUntilMs: (nodeId: Uint8Array) => this.removed.get(formatNodeId(nodeId)),
      resolve: (text: string) =>
        this.#net.members.find((member) => member.name === text || formatNodeId(member.nodeId) === text),
      links: {
        send: (to: Uint8Array, channel: number, frame: Uint8Array) => {
          const other = this.#net.nodes.find((node) => equal(node.identity.nodeId, to));
          if (other === undefined || other.isCut || this.isCut) return "gone";
          setImmediate(() => other.take(channel, this.identity.nodeId, frame));
          return "accepted";
        },
        queuedBytes: () => 0,
      },
    } as unknown as PartContext;
    this.agents = new AgentsPart(context, {
      isBlocked: () => false,
      directory: {
        announce: () => undefined,
        withdraw: () => undefined,
        whereIs: (): AgentPlace | undefined => undefined,
        locate: () => Promise.resolve(undefined),
      },
      inboxes: {
        openInbox: (agent) => this.inboxes.add(toHex(agent)) !== undefined,
        closeInbox: (agent) => void this.inboxes.delete(toHex(agent)),
      },
    });
    const replicated = createReplicatedPart(context, {
      candidates: () => [],
      follows: () => undefined,
      isBlocked: () => false,
      onDelivered: (listener) => {
        this.deliver = listener;
        return () => undefined;
      },
      onSent: () => () => undefined,
      agentNamed: (key) => this.agents.nameOf(key),
    });
    this.#parts = [this.agents, replicated];
    for (const part of this.#parts) await part.start?.();
    for (const other of this.#net.nodes) {
      if (other === this) continue;
      other.peerUp(this.identity.nodeId);
      this.peerUp(other.identity.nodeId);
    }
  }

  peerUp(nodeId: Uint8Array): void {
    for (const part of this.#parts) part.peerUp?.(nodeId);
  }

  take(channel: number, from: Uint8Array, frame: Uint8Array): void {
    for (const part of this.#parts) {
      const takes = part.types?.some(([one, first, last]) => one === channel && frame[0] >= first && frame[0] <= last);
      if (takes === true && !this.isCut) part.channels?.[channel as 2]?.(from, frame);
    }
  }

  async stop(): Promise<void> {
    for (const part of this.#parts.toReversed()) await part.close?.();
    this.#parts = [];
    await this.#store.close();
  }

  async restart(): Promise<void> {
    await this.stop();
    this.inboxes.clear();
    await this.start();
  }
}

async function network(t: TestContext, ...names: string[]): Promise<Node[]> {
  const net = new Net();
  t.after(() => net.close());
  for (const name of names) await net.add(name);
  return net.nodes;
}

async function until(what: string, isTrue: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + WAIT_MS;
  while (!(await isTrue())) {
    if (performance.now() > endMs) throw new Error(`not within ${WAIT_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function code(run: () => unknown): Promise<string> {
  try {
    await run();
    return "none";
  } catch (error) {
    return error instanceof WeftError ? error.code : String(error);
  }
}

test("a key set on one node has its value on the others, also after restarts; deleting and watching work", async (t) => {
  const [a, b, c] = await network(t, "a", "b", "c");
  await a.control.kv!.set("default", "greeting", utf8("hello"));
  assert.equal((await b.control.kv!.get("default", "greeting"))?.text, "hello", "the first use fetches what there is");
  const changes: string[] = [];
  const stop = await b.control.kv!.watch("default", "", (change) => void changes.push(`${change.key}=${change.text}`));
  await a.control.kv!.set("default", "greeting", utf8("hi"));
  await until("news", async () => (await b.control.kv!.get("default", "greeting"))?.text === "hi");
  assert.deepEqual(changes, ["greeting=hi"]);
  stop();
  await b.restart();
  assert.equal((await b.control.kv!.get("default", "greeting"))?.text, "hi");
  assert.equal((await b.control.kv!.get("default", "greeting"))?.author.name, "a");
  assert.equal(await b.control.kv!.delete("default", "greeting"), true);
  assert.equal(await b.control.kv!.delete("default", "greeting"), false);
  await until("the deletion", async () => (await a.control.kv!.get("default", "greeting")) === undefined);
  for (let i = 0; i < 30; i++)
    await c.control.kv!.set("default", `k${String(i).padStart(2, "0")}`, Uint8Array.of(255, i));
  await until("all keys", async () => (await a.control.kv!.list("default", "k", "", 1000)).entries.length === 30);
  const page = await a.control.kv!.list("default", "k", "k03", 5);
  assert.deepEqual(
    page.entries.map((entry) => entry.key),
    ["k04", "k05", "k06", "k07", "k08"],
  );
  assert.deepEqual([page.more, page.entries[0].text, page.entries[0].value], [true, null, "/wQ="]);
  await c.control.kv!.close("default");
  assert.deepEqual(c.control.kv!.spaces(), []);
  assert.equal((await a.control.kv!.list("default", "", "", 1000)).entries.length, 30, "the others keep it");
});

test("a node that was cut off gets what it missed, and the others get what it wrote", async (t) => {
  const [a, b] = await network(t, "a", "b");
  await a.control.kv!.set("s", "x", utf8("1"));
  await b.control.kv!.get("s", "x");
  b.isCut = true;
  await a.control.kv!.set("s", "from-a", utf8("1"));
  await b.control.kv!.set("s", "from-b", utf8("1"));
  b.isCut = false;
  a.peerUp(b.identity.nodeId);
  await until("b has what a wrote", async () => (await b.control.kv!.get("s", "from-a")) !== undefined);
  await until("a has what b wrote", async () => (await a.control.kv!.get("s", "from-b")) !== undefined);
});

test("tasks: two nodes that claim at the same moment get one holder; a task is finished once", async (t) => {
  const [a, b] = await network(t, "a", "b");
  const task = await a.control.tasks!.add("work", "one job", "", "node");
  assert.equal((await b.control.tasks!.list("work", "node"))[0].title, "one job");
  const claims = await Promise.all(
    [a, b].map((node) => code(() => node.control.tasks!.claim("work", undefined, "node", 60_000, 300))),
  );
  assert.deepEqual(claims.toSorted(), ["TASK_CLAIMED", "none"]);
  const [winner, loser] = claims[0] === "none" ? [a, b] : [b, a];
  assert.equal(await code(() => loser.control.tasks!.finish("work", task.id, "node", "done", "")), "TASK_CLAIMED");
  assert.equal((await winner.control.tasks!.get("work", task.id.slice(0, 6), "node")).claim?.mine, true);
  const events: string[] = [];
  await loser.control.tasks!.watch("work", "node", (event) => void events.push(event.task?.state ?? "gone"));
  await winner.control.tasks!.finish("work", task.id, "node", "done", "well done");
  await until("the end", () => events.includes("done"));
  const seen = await loser.control.tasks!.get("work", task.id, "node");
  assert.deepEqual([seen.result, seen.finishedBy?.name, seen.claim], ["well done", winner.name, null]);
  await loser.restart();
  assert.equal((await loser.control.tasks!.list("work", "node")).length, 1);
  assert.equal(await code(() => a.control.tasks!.claim("work", undefined, "node", 1000, 0)), "TASK_NONE");
});

test("groups: messages reach the members and are kept; the next one is unreadable for who was removed", async (t) => {
  const [a, b, c, d] = await network(t, "a", "b", "c", "d");
  await a.control.groups!.create("team", ["b", "c"]);
  await until("they know", () => b.control.groups!.groups().length + c.control.groups!.groups().length === 2);
  const texts = async (node: Node): Promise<(string | null)[]> =>
    (await node.control.groups!.messages("team", undefined, 100)).map((message) => message.text);
  let news = 0;
  const stop = b.control.groups!.watch("team", () => news++);
  await a.control.groups!.send("team", utf8("one"), "node");
  for (const node of [a, b, c]) await until(`${node.name} has it`, async () => (await texts(node)).length === 1);
  assert.equal(news, 1);
  stop();
  await a.control.groups!.remove("team", "c");
  await b.control.groups!.send("team", utf8("two"), "bot");
  for (const node of [a, b]) await until(`${node.name} has it`, async () => (await texts(node)).length === 2);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.deepEqual(await texts(c), ["one"]);
  assert.equal(c.control.groups!.group("team").role, "none");
  assert.equal(await code(() => c.control.groups!.send("team", utf8("three"), "node")), "GROUP_DENIED");
  // away while something is said, with a restart in between
  await b.stop();
  await a.control.groups!.send("team", utf8("three"), "node");
  await b.start();
  await until("b has it", async () => (await texts(b)).length === 3);
  assert.deepEqual(await texts(b), ["one", "two", "three"]);
  const [latest] = await a.control.history!.search("two", "node", undefined, 10);
  assert.deepEqual(
    [latest.kind, latest.conversation, latest.from.name, latest.fromAgent],
    ["group", "team", "b", "bot"],
  );
  const card = b.control.groups!.card("team", undefined);
  assert.equal(a.control.groups!.verifyCard(card).valid, true);
  assert.equal(a.control.groups!.verifyCard(card).node.name, "b");
  const unknown = d.control.groups!.verifyCard(card);
  assert.deepEqual([unknown.valid, unknown.verdict], [false, "issuer-unknown"], "who is not in the group cannot tell");
  // a card that its holder has signed for itself, for a group that exists and for one that does not
  const group = Uint8Array.fromHex(a.control.groups!.group("team").id);
  const real = parseCard(NETWORK, card)!;
  const forged = (by: Node, changes: Partial<Card>): CardView => {
    const fields = { ...real, issuer: by.identity.nodeId, ...changes };
    return a.control.groups!.verifyCard(formatCard(fields, signCard(NETWORK, fields, by.identity)));
  };
  assert.equal(forged(c, { group: new Uint8Array(32).fill(5) }).verdict, "issuer-unknown");
  assert.equal(forged(c, { group, nodeId: c.identity.nodeId }).verdict, "issuer-no-admin");
  assert.equal(forged(b, { group, role: 1 }).verdict, "issuer-no-admin");
  assert.equal(forged(a, { group, role: 1 }).verdict, "other-role");
  assert.equal(forged(a, { group, untilMs: real.untilMs + 1 }).verdict, "not-member", "longer than the group has it");
  assert.equal(forged(a, { group, untilMs: 1 }).verdict, "expired");
  assert.equal(forged(a, {}).verdict, "valid");
  assert.equal(
    await code(() => a.control.groups!.verifyCard(card.replace(/.$/, "") + (card.endsWith("a") ? "b" : "a"))),
    "CARD_INVALID",
  );
  await b.control.groups!.leave("team");
  await until("a has removed it", () => a.control.groups!.group("team").members.length === 1);
  assert.equal(a.control.groups!.verifyCard(card).valid, false, "a knows that it has left");
});

test("history: direct messages are found by their words, by the agent whose they are", async (t) => {
  const [a, b] = await network(t, "a", "b");
  const bot = await a.control.agents!.create("bot");
  const entry = (id: string, text: string, inbox: string): InboxEntry => ({
    sequence: 1,
    inbox,
    id,
    from: b.identity.nodeId,
    fromAgent: undefined,
    name: "note",
    payload: utf8(text),
    sentWallMs: Date.now(),
    receivedWallMs: Date.now(),
    durable: true,
  });
  a.deliver(entry("1", "the build has failed", ""));
  a.deliver(entry("2", "the build is green", ""));
  a.deliver(entry("2", "the build is green", ""));
  a.deliver(entry("3", "for the bot: build", toHex(a.agents.local("bot"))));
  await until("they are there", () => a.control.history!.figures().messages >= 3);
  const search = async (typed: string, agent = "node"): Promise<(string | null)[]> =>
    (await a.control.history!.search(typed, agent, undefined, 10)).map((message) => message.text);
  assert.deepEqual(await search("build"), ["the build is green", "the build has failed"]);
  assert.deepEqual(await search("fail*"), ["the build has failed"]);
  assert.deepEqual(await search("build", bot.name), ["for the bot: build"]);
  assert.deepEqual(await search(""), ["the build is green", "the build has failed"]);
  const [first] = await a.control.history!.search("", "node", undefined, 1);
  assert.deepEqual((await a.control.history!.search("", "node", first.id, 10)).length, 1, "the page before");
  a.deliver(entry("4", "just before the end", ""));
  await a.restart();
  assert.equal(a.control.history!.figures().messages, 4);
});

test("history: what is kept counts with its text and index; all quotas together are less than the store", async (t) => {
  const [a, b] = await network(t, "a", "b");
  a.deliver({
    sequence: 1,
    inbox: "",
    id: "1",
    from: b.identity.nodeId,
    fromAgent: undefined,
    name: "",
    payload: utf8("word ".repeat(2000)),
    sentWallMs: 0,
    receivedWallMs: Date.now(),
    durable: false,
  });
  await until("it is there", () => a.control.history!.figures().messages === 1);
  assert.ok(a.control.history!.figures().bytes >= 30_000);
  const { bytes } = a.control.history!.figures();
  await a.restart();
  assert.equal(a.control.history!.figures().bytes, bytes, "the same from the database");
  assert.equal(a.control.history!.figures().maxBytes, (1 << 26) / 8);
});

test("entries of who never was a member are refused by the running part, those of before a removal are taken", async (t) => {
  const [a, b] = await network(t, "a", "b");
  await a.control.kv!.set("default", "k", utf8("1"));
  const gone = Identity.generate(new SeededRandom(77));
  const space = spaceId(SpaceKind.KV, "default");
  const removedMs = Date.now() - 60_000;
  const say = (key: string, atMs: number): void => {
    const { wire } = signEntry(NETWORK, space, key, utf8("v"), atMs * 1024, gone);
    a.take(FrameChannel.DIRECT, b.identity.nodeId, encodeSync({ type: "entries", space, hops: 0, entries: [wire] }));
  };
  say("never", removedMs - 1000);
  a.removed.set(formatNodeId(gone.nodeId), removedMs);
  say("before", removedMs - 1000);
  say("after", removedMs + 1000);
  const keys = (await a.control.kv!.list("default", "", "", 10)).entries.map((entry) => entry.key);
  assert.deepEqual(keys, ["before", "k"]);
});

test("history: a flood costs bounded memory, and what is left out is counted", async (t) => {
  const [a, b] = await network(t, "a", "b");
  for (let i = 0; i < 10_000; i++) {
    a.deliver({
      sequence: i,
      inbox: "",
      id: `${i}`,
      from: b.identity.nodeId,
      fromAgent: undefined,
      name: "",
      payload: utf8(`message ${i}`),
      sentWallMs: 0,
      receivedWallMs: Date.now(),
      durable: false,
    });
  }
  await until("some are there", () => a.control.history!.figures().messages >= 128);
  const [latest] = await a.control.history!.search("message", "node", undefined, 1);
  assert.ok(Number(latest.text?.slice(8)) >= 10_000 - 4_096, "the oldest were left out");
});

test("agents: found by name, believed with a lease, moved with their key, there again after a restart", async (t) => {
  const [a, b, c] = await network(t, "a", "b", "c");
  const made = await a.control.agents!.create("bot");
  const key = a.agents.local("bot");
  assert.ok(a.inboxes.has(toHex(key)));
  const place = await b.control.agents!.find("bot@a");
  assert.deepEqual([place.id, place.node.name], [made.id, "a"]);
  assert.equal(b.agents.judge(a.identity.nodeId, key, undefined), undefined);
  assert.equal(b.agents.judge(c.identity.nodeId, key, undefined), 2, "another node in its name");
  const target = b.agents.target(made.id)!;
  assert.deepEqual([toHex(target.nodeId), toHex(target.agent)], [toHex(a.identity.nodeId), toHex(key)]);
  await a.restart();
  assert.equal(toHex(a.agents.local("bot")), toHex(key));
  assert.ok(a.inboxes.has(toHex(key)));
  await a.control.agents!.setAccess("bot", false, ["c"]);
  assert.equal(a.agents.judge(b.identity.nodeId, undefined, key), 2);
  assert.equal(a.agents.judge(c.identity.nodeId, undefined, key), undefined);
  await b.control.agents!.import("worker", a.control.agents!.export("bot"));
  await until("a has stopped", () => !a.inboxes.has(toHex(key)));
  assert.ok(b.inboxes.has(toHex(key)));
  assert.equal(a.control.agents!.agents()[0].movedTo?.name, "b");
  assert.equal(a.agents.judge(c.identity.nodeId, undefined, key), 7, "no inbox here any more");
  await until("c knows", () => equal(c.agents.target(made.id)!.nodeId, b.identity.nodeId));
  await a.restart();
  assert.ok(!a.inboxes.has(toHex(key)), "and it does not begin again after a restart");
  assert.equal(await code(() => a.agents.local("bot")), "AGENT_MOVED");
  assert.equal(await code(() => c.agents.target("nobody@a")), "AGENT_UNKNOWN");
});
