/** Direct messages with the real store and clock; the links are a wire in this process. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test, type TestContext } from "node:test";
import type { DirectControl, ServedRequestView } from "../../api/messaging/direct-control.ts";
import { equal, utf8 } from "../../base/bytes.ts";
import { nullLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { Identity } from "../../crypto/identity.ts";
import type { FrameChannel } from "../../messaging/frames.ts";
import { systemClock } from "../clock.ts";
import { DirectPart } from "./direct.ts";
import type { PartContext } from "./part.ts";
import { MessageStoreThread } from "./store.ts";
import { ALL_TABLES } from "./tables/all.ts";

const root = mkdtempSync(join(tmpdir(), "weft-direct-"));
after(() => rmSync(root, { recursive: true }));
let counter = 0;

interface End {
  readonly identity: Identity;
  readonly name: string;
  readonly file: string;
  store: MessageStoreThread;
  part: DirectPart;
  isKeeper: boolean;
}

class Wire {
  readonly ends: End[] = [];
  isCut = false;

  async add(name: string): Promise<End> {
    const identity = Identity.generate(new SeededRandom(++counter));
    const file = join(root, `${counter}.db`);
    const end = { identity, name, file } as End;
    this.ends.push(end);
    await this.start(end);
    return end;
  }

  async start(end: End): Promise<void> {
    end.store = new MessageStoreThread(end.file, ALL_TABLES);
    end.part = new DirectPart(this.#context(end), {
      sample: () => this.ends.filter((other) => other.isKeeper && other !== end).map(({ identity }) => identity.nodeId),
      start: () => undefined,
    });
    await end.part.start();
  }

  /** As a kill does: nothing is told, nothing is written any more. */
  async kill(end: End): Promise<void> {
    const { part, store } = end;
    end.part = undefined as never;
    const nothing = (): Promise<never> => new Promise(() => undefined);
    Object.assign(part.context, { store: { commit: nothing, query: () => Promise.resolve([]) } });
    await part.close();
    await store.close();
  }

  async close(): Promise<void> {
    for (const { part, store } of this.ends) {
      await part.close();
      await store.close();
    }
  }

  #context(end: End): PartContext {
    const find = (nodeId: Uint8Array): { nodeId: Uint8Array; name: string } | undefined => {
      const found = this.ends.find(({ identity }) => equal(identity.nodeId, nodeId));
      return found === undefined ? undefined : { nodeId, name: found.name };
    };
    const send = (
      to: Uint8Array,
      channel: FrameChannel,
      frame: Uint8Array,
      done?: (fate: "flushed" | "lost") => void,
    ) => {
      setImmediate(() => {
        done?.(this.isCut ? "lost" : "flushed");
        const target = this.ends.find(({ identity }) => equal(identity.nodeId, to));
        if (!this.isCut) target?.part?.channels[channel]?.(end.identity.nodeId, frame);
      });
      return "accepted" as const;
    };
    return {
      identity: end.identity,
      random: new SeededRandom(counter * 1000 + Date.now()),
      clock: systemClock,
      log: nullLogger,
      config: { storeBytes: 256 << 20, outboxMs: 3_600_000, acceptUnknown: true, mailbox: true },
      links: { send, queuedBytes: () => 0 },
      store: end.store,
      find,
      resolve: (text: string) => {
        const found = this.ends.find(({ name }) => name === text);
        return found === undefined ? undefined : find(found.identity.nodeId);
      },
      rttMs: () => 1,
      isUp: (nodeId: Uint8Array) =>
        this.ends.some(({ identity, part }) => part !== undefined && equal(identity.nodeId, nodeId)),
      pathOf: () => ({ kind: "direct", endpoint: "192.0.2.1:1", via: null }),
    } as unknown as PartContext;
  }
}

async function pair(t: TestContext): Promise<{ wire: Wire; a: End; b: End }> {
  const wire = new Wire();
  t.after(() => wire.close());
  return { wire, a: await wire.add("a"), b: await wire.add("b") };
}

const api = (end: End): DirectControl => end.part.control.direct as DirectControl;
const message = (to: string, text: string, more: object = {}) =>
  ({ from: "node", to, name: "note", payload: utf8(text), ...more }) as const;

test("a message is acknowledged, read, acknowledged by its reader, and gone; the result says how long each stage took", async (t) => {
  const { a, b } = await pair(t);
  const result = await api(a).send(message("b", "hello"));
  assert.equal(result.outcome, "acknowledged");
  assert.deepEqual([result.to.name, result.attempts, result.path.kind, result.final], ["b", 1, "direct", true]);
  for (const ms of Object.values(result.stages)) assert.ok(ms !== null && ms >= 0);
  const direct = api(b);
  const page = await direct.inbox("node", undefined, 10);
  assert.deepEqual(
    page.messages.map(({ id, from, name, text }) => ({ id, from: from.name, name, text })),
    [{ id: result.id, from: "a", name: "note", text: "hello" }],
  );
  const cursor = page.messages[0].sequence;
  const empty = { agent: "node", messages: 0, bytes: 0, cursor, last: cursor };
  assert.deepEqual(await direct.acknowledge("node", cursor), empty);
  assert.deepEqual((await direct.inbox("node", undefined, 10)).messages, []);
});

test("pages of an inbox follow each other without a gap, whatever is durable", async (t) => {
  const { a, b } = await pair(t);
  for (let i = 0; i < 25; i++) await api(a).send(message("b", String(i), { durable: i % 3 !== 0 }));
  const texts: (string | null)[] = [];
  let after = 0;
  for (let more = true; more;) {
    const page = await api(b).inbox("node", after, 10);
    texts.push(...page.messages.map(({ text }) => text));
    after = page.messages.at(-1)?.sequence ?? after;
    more = page.more;
  }
  assert.deepEqual(
    texts,
    Array.from({ length: 25 }, (_, i) => String(i)),
  );
});

test("what was acknowledged is there after its receiver was killed, once", async (t) => {
  const { wire, a, b } = await pair(t);
  const sending = Promise.all(Array.from({ length: 200 }, (_, i) => api(a).send(message("b", String(i)))));
  // in the middle of it
  await new Promise((resolve) => b.part.watch("", () => resolve(undefined)));
  await wire.kill(b);
  await wire.start(b);
  a.part.peerUp(b.identity.nodeId);
  const results = await sending;
  for (const result of results) assert.equal(result.outcome, "acknowledged");
  const page = await api(b).inbox("node", 0, 999);
  assert.deepEqual(page.messages.map(({ id }) => id).toSorted(), results.map((result) => result.id).toSorted());
});

test("an unknown one is known when the peer is back", async (t) => {
  const { wire, a } = await pair(t);
  await api(a).send(message("b", "warm"));
  wire.isCut = true;
  const direct = api(a);
  const result = await direct.send(message("b", "lost", { deadlineMs: 100 }));
  assert.deepEqual([result.outcome, result.final, result.reason], ["unknown", false, "no-answer"]);
  assert.deepEqual(
    direct.outgoing().map(({ id, state }) => [id, state]),
    [[result.id, "asking"]],
  );
  wire.isCut = false;
  while (direct.status(result.id)?.final !== true) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual([direct.status(result.id)?.outcome, direct.outgoing()], ["refused", []]);
});

test("requests: answered, failed, refused where nobody serves, cancelled on both sides", async (t) => {
  const { a, b } = await pair(t);
  const requests: ServedRequestView[] = [];
  const cancelled: string[] = [];
  const server = api(b);
  const signal = new AbortController();
  const ask = (text: string) => api(a).request({ ...message("b", text), name: "echo" }, signal.signal);
  assert.deepEqual([(await ask("x")).outcome, (await ask("x")).reason], ["refused", "no-service"]);
  const end = server.serve(
    "node",
    "echo",
    (request) => {
      requests.push(request);
      if (request.text !== "wait") server.respond(request.key, utf8(`${request.text}!`), request.text === "bad");
    },
    (key) => cancelled.push(key),
  );
  assert.throws(
    () =>
      server.serve(
        "node",
        "echo",
        () => undefined,
        () => undefined,
      ),
    { code: "SERVICE_TAKEN" },
  );
  const [good, bad] = [await ask("good"), await ask("bad")];
  assert.deepEqual([good.outcome, good.text], ["answered", "good!"]);
  assert.deepEqual([bad.outcome, bad.text], ["failed", "bad!"]);
  const waiting = ask("wait");
  while (requests.at(-1)?.text !== "wait") await new Promise((resolve) => setImmediate(resolve));
  signal.abort();
  assert.equal((await waiting)?.outcome, "unknown");
  while (cancelled.length === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(cancelled, [requests.at(-1)?.key]);
  end?.();
});

test("what is asked for one agent is that agent's: messages, outcomes, inboxes, and requests to answer", async (t) => {
  const { a, b } = await pair(t);
  const keys: Readonly<Record<string, Uint8Array>> = {
    ada: new Uint8Array(32).fill(1),
    bob: new Uint8Array(32).fill(2),
  };
  for (const end of [a, b])
    end.part.agents = {
      local: (name) => keys[name],
      nameOf: (key) => Object.keys(keys).find((name) => equal(keys[name], key)),
      target: (text) => {
        const [agent, node] = text.split("@");
        const found = [a, b].find(({ name }) => name === node);
        return found === undefined ? undefined : { nodeId: found.identity.nodeId, agent: keys[agent] };
      },
      judge: () => undefined,
      present: () => undefined,
    };
  for (const name of ["ada", "bob"]) assert.equal(b.part.openInbox(keys[name]), true);
  const sent = await api(a).send({ ...message("ada@b", "x"), from: "ada" });
  assert.equal(sent.outcome, "acknowledged");
  assert.deepEqual(
    [undefined, "ada", "bob"].map((agent) => api(a).status(sent.id, agent)?.outcome),
    ["acknowledged", "acknowledged", undefined],
  );
  assert.deepEqual(
    api(b)
      .inboxes("bob")
      .map(({ agent, messages }) => [agent, messages]),
    [["bob", 0]],
  );
  assert.deepEqual(
    api(b)
      .inboxes("ada")
      .map(({ agent, messages }) => [agent, messages]),
    [["ada", 1]],
  );

  const answers: boolean[] = [];
  api(b).serve(
    "ada",
    "echo",
    ({ key }) => {
      for (const agent of ["bob", "ada", "ada"]) answers.push(api(b).respond(key, utf8(agent), false, agent));
    },
    () => undefined,
  );
  const answer = await api(a).request({ ...message("ada@b", "?"), name: "echo" }, new AbortController().signal);
  assert.deepEqual([answer.outcome, answer.text, answers], ["answered", "ada", [false, true, false]]);

  const waiting = api(a).send({ ...message("b", "later"), from: "bob" });
  assert.deepEqual(
    [undefined, "bob", "ada"].map((agent) => api(a).outgoing(agent).length),
    [1, 1, 0],
  );
  await waiting;
});

test("names that are none are errors of the caller", async (t) => {
  const { a } = await pair(t);
  const direct = api(a);
  await assert.rejects(async () => direct.send(message("nobody", "x")), { code: "NODE_UNKNOWN" });
  await assert.rejects(async () => direct.send({ ...message("b", "x"), from: "agent" }), { code: "AGENT_UNKNOWN" });
  await assert.rejects(async () => direct.inbox("agent", 0, 1), { code: "AGENT_UNKNOWN" });
});

test("a blocked node is refused until it is trusted again", async (t) => {
  const { a, b } = await pair(t);
  assert.deepEqual((await api(b).setTrust("a", "blocked")).trust, "blocked");
  assert.equal((await api(a).send(message("b", "x"))).reason, "blocked");
  assert.ok(b.part.isBlocked(a.identity.nodeId));
  await api(b).setTrust("a", "trusted");
  assert.equal((await api(a).send(message("b", "y"))).outcome, "acknowledged");
  assert.deepEqual(
    api(b)
      .trust()
      .map(({ node, trust }) => [node.name, trust]),
    [["a", "trusted"]],
  );
});

test("messages that come together share commits", async (t) => {
  const { a, b } = await pair(t);
  const results = await Promise.all(Array.from({ length: 2_000 }, (_, i) => api(a).send(message("b", String(i)))));
  assert.ok(results.every((result) => result.outcome === "acknowledged"));
  const { commits, ops } = b.store.counters();
  assert.ok(ops > 4_000 && commits < 500, `${ops} operations in ${commits} commits`);
});

test("a message for a member that is away arrives by a mailbox while its sender is away, once", async (t) => {
  const { wire, a, b } = await pair(t);
  const keeper = await wire.add("keeper");
  keeper.isKeeper = true;
  await wire.kill(b);
  const result = await api(a).send(message("b", "by mail", { deadlineMs: 100, keepMs: 600_000 }));
  assert.deepEqual([result.outcome, result.queued], ["unknown", true]);
  const kept = async (): Promise<number> =>
    (await keeper.store.query("direct.mailbox.index", [new Uint8Array(0)])).length;
  while ((await kept()) === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  const [row] = await keeper.store.query("direct.mailbox.index", [new Uint8Array(0)]);
  const [{ sealed }] = await keeper.store.query("direct.mailbox.get", [row["ticket"]]);
  assert.equal(Buffer.from(sealed as Uint8Array).includes("by mail"), false);
  await wire.kill(a);
  await wire.start(b);
  keeper.part.peerUp(b.identity.nodeId);
  while ((await kept()) > 0) await new Promise((resolve) => setTimeout(resolve, 20));
  const page = await api(b).inbox("node", 0, 10);
  assert.deepEqual(
    page.messages.map(({ id, text, from }) => [id, text, from.name]),
    [[result.id, "by mail", "a"]],
  );
  await wire.start(a);
  a.part.peerUp(b.identity.nodeId);
  while (api(a).status(result.id)?.final !== true) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(api(a).status(result.id)?.outcome, "acknowledged");
  assert.equal((await api(b).inbox("node", 0, 10)).messages.length, 1);
});

test("a node that stops keeps what has no outcome, and tells its callers so", async (t) => {
  const { wire, a, b } = await pair(t);
  wire.isCut = true;
  const sending = api(a).send(message("b", "last words", { deadlineMs: 3_600_000 }));
  await new Promise((resolve) => setImmediate(resolve));
  await a.part.close();
  const result = await sending;
  assert.deepEqual([result.outcome, result.final], ["unknown", false]);
  await a.store.close();
  wire.isCut = false;
  await wire.start(a);
  a.part.peerUp(b.identity.nodeId);
  while (api(a).status(result.id)?.final !== true) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(api(a).status(result.id)?.outcome, "acknowledged");
});
