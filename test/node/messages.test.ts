/** Messaging of real nodes without an interface, without root, in this process: frames find their way, bulk does not hold them up, restarts cost latency alone. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { equal, toHex } from "../../src/base/bytes.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { FrameChannel } from "../../src/messaging/frames.ts";
import { type LossyPlane, lossyPlane } from "../../lab/lossy-plane.ts";
import { createNode, initNetwork, type WeftNode } from "../../src/node/index.ts";
import type { FrameTypes, MessagingPart, PartContext } from "../../src/node/messaging/part.ts";

const QUESTION = 250;
const ANSWER = 251;
const WAIT_MS = 20_000;

const root = mkdtempSync(join(tmpdir(), "weft-messages-"));
const running = new Set<WeftNode>();
after(async () => {
  for (const node of running) await node.stop();
  rmSync(root, { recursive: true });
});

/** Answers questions over the channel of acknowledgements and keeps what it was told. */
class Echo implements MessagingPart {
  readonly name = "echo";
  readonly types: readonly FrameTypes[] = [
    [FrameChannel.DIRECT, QUESTION, QUESTION],
    [FrameChannel.ACK, ANSWER, ANSWER],
  ];
  readonly channels: NonNullable<MessagingPart["channels"]> = {
    [FrameChannel.DIRECT]: (from, frame) => {
      this.context.links.send(from, FrameChannel.ACK, Uint8Array.of(ANSWER, frame[1], frame[2]));
    },
    [FrameChannel.ACK]: (from, frame) => this.#answers.get(`${toHex(from)}/${frame[1] | (frame[2] << 8)}`)?.(),
  };
  readonly context: PartContext;
  readonly events: string[] = [];
  readonly #answers = new Map<string, () => void>();
  #next = 0;

  constructor(context: PartContext) {
    this.context = context;
  }

  peerUp(nodeId: Uint8Array): void {
    this.events.push(`up ${this.#nameOf(nodeId)}`);
  }

  memberGone(nodeId: Uint8Array): void {
    this.events.push(`gone ${toHex(nodeId).slice(0, 4)}`);
  }

  /** Asks until there is an answer, as whoever needs one does. @returns how long it took */
  async ask(name: string): Promise<number> {
    const member = this.context.resolve(name);
    assert.ok(member !== undefined, `${name} is a member`);
    const number = this.#next++ & 0xffff;
    const startMs = performance.now();
    let again: (fate: "flushed" | "lost") => void = () => undefined;
    await new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`${name} has not answered`)), WAIT_MS);
      const send = (): void =>
        void this.context.links.send(
          member.nodeId,
          FrameChannel.DIRECT,
          Uint8Array.of(QUESTION, number & 0xff, number >>> 8),
          (fate) => again(fate),
        );
      again = (fate) => {
        if (fate === "lost") send();
      };
      this.#answers.set(`${toHex(member.nodeId)}/${number}`, () => {
        clearTimeout(late);
        clearInterval(repeat);
        resolve();
      });
      const repeat = setInterval(send, 500);
      send();
    });
    return performance.now() - startMs;
  }

  #nameOf(nodeId: Uint8Array): string {
    return this.context.members().find((member) => equal(member.nodeId, nodeId))?.name ?? "?";
  }
}

async function start(name: string, token?: string): Promise<{ node: WeftNode; echo: Echo }> {
  const made: Echo[] = [];
  const node = await createNode({
    stateDirectory: join(root, name),
    join: token,
    config: { name, tun: false, listen: ["127.0.0.1:0"], maxPeers: 16 },
    testing: {
      messagingParts: (context) => {
        made.push(new Echo(context));
        return made;
      },
    },
  });
  running.add(node);
  return { node, echo: made[0] };
}

test("frames find every member; a restarted one is found again; who was removed is gone", async (t) => {
  await initNetwork({ stateDirectory: join(root, "one"), network: "example", name: "one" });
  const one = await start("one");
  const { token } = await one.node.control.invite({ uses: 2 });
  const two = await start("two", token);
  const three = await start("three", token);
  const all = { one, two, three };
  for (const [name, from] of Object.entries(all)) {
    for (const to of Object.keys(all)) {
      if (to === name) continue;
      const tookMs = await from.echo.ask(to);
      t.diagnostic(`${name} → ${to}: ${tookMs.toFixed(1)} ms`);
    }
  }
  assert.ok(one.echo.events.includes("up two") && two.echo.events.includes("up one"));

  const view = await one.node.control.messaging?.delivery("two");
  assert.equal(view?.delivers, true);
  assert.equal(view?.verdict.code, "delivers");
  const names = one.node.control.metrics().map(({ name }) => name);
  for (const name of ["weft_frames_sent_total", "weft_messages_store_commits_total"]) assert.ok(names.includes(name));

  await two.node.stop();
  running.delete(two.node);
  const again = await start("two");
  const tookMs = await one.echo.ask("two");
  t.diagnostic(`after a restart: ${tookMs.toFixed(1)} ms`);
  await again.echo.ask("one");

  const id = one.echo.context.resolve("three")?.nodeId ?? new Uint8Array();
  await one.node.control.revoke("three", "test");
  const endMs = performance.now() + WAIT_MS;
  while (!again.echo.events.includes(`gone ${toHex(id).slice(0, 4)}`)) {
    assert.ok(performance.now() < endMs, "two has heard of it");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.equal(again.echo.context.links.send(id, FrameChannel.DIRECT, Uint8Array.of(QUESTION)), "gone");
});

test("a long transfer does not hold up small frames", async (t) => {
  const { node, echo } = await start("one-more", await invite());
  const peer = await start("one-else", await invite());
  let arrived = 0;
  peer.node.streams.serve("sink", (stream) => {
    stream.on("data", (bytes: Uint8Array) => (arrived += bytes.length));
    stream.on("error", () => undefined);
  });
  await echo.ask("one-else");
  const stream = await node.streams.open("one-else", { kind: "sink", class: 3 });
  stream.on("error", () => undefined);
  stream.resume();
  const chunk = Buffer.alloc(65_536);
  const pump = (): void => {
    while (!stream.destroyed && stream.write(chunk));
    stream.once("drain", pump);
  };
  pump();
  const times: number[] = [];
  for (let i = 0; i < 100; i++) times.push(await echo.ask("one-else"));
  const before = arrived;
  assert.ok(before > 1_000_000, "the transfer goes on meanwhile");
  stream.destroy();
  times.sort((a, b) => a - b);
  t.diagnostic(`median ${times[50].toFixed(2)} ms, largest ${times[99].toFixed(2)} ms, ${before} bytes meanwhile`);
  assert.ok(times[50] < 500, `${times[50]} ms`);
});

test("direct messages among nodes whose connections are killed all the time: each acknowledged one arrived once", async (t) => {
  const EACH = 40;
  const names = ["kill-a", "kill-b", "kill-c"];
  const random = new SeededRandom(11);
  const nodes: { readonly name: string; readonly node: WeftNode; readonly plane: LossyPlane }[] = [];
  await initNetwork({ stateDirectory: join(root, names[0]), network: "killed", name: names[0] });
  let token: string | undefined;
  for (const name of names) {
    const plane = lossyPlane(random);
    const node = await createNode({
      stateDirectory: join(root, name),
      join: token,
      config: { name, tun: false, listen: ["127.0.0.1:0"], maxPeers: 16 },
      testing: { startDataplane: plane.start },
    });
    running.add(node);
    nodes.push({ name, node, plane });
    token ??= (await node.control.invite({ uses: 2 })).token;
  }
  for (const { plane } of nodes) plane.loss = 0.02;
  let killed = 0;
  const killing = setInterval(() => (killed += nodes[random.u32() % nodes.length].plane.killConnections()), 300);
  const outcomes = new Map<string, string>();
  const tookMs: number[] = [];
  await Promise.all(
    nodes.flatMap(({ name, node }) =>
      names
        .filter((to) => to !== name)
        .flatMap((to) =>
          Array.from({ length: EACH }, async (_, n) => {
            await new Promise((resolve) => setTimeout(resolve, n * 40));
            const text = `${name} ${to} ${n}`;
            const payload = Buffer.from(text);
            const view = await node.control.messaging?.direct?.send({ from: "node", to, name: "test", payload });
            outcomes.set(text, view?.outcome ?? "none");
            tookMs.push(view?.stages.totalMs ?? 0);
          }),
        ),
    ),
  );
  clearInterval(killing);
  const arrived = new Map<string, number>();
  for (const { node } of nodes) {
    for (const { text } of (await node.control.messaging?.direct?.inbox("node", undefined, 1_000))?.messages ?? [])
      arrived.set(text ?? "", (arrived.get(text ?? "") ?? 0) + 1);
  }
  for (const [text, outcome] of outcomes) {
    if (outcome === "acknowledged") assert.equal(arrived.get(text), 1, `${text} was acknowledged`);
    if (outcome === "refused") assert.equal(arrived.get(text), undefined, `${text} was refused`);
  }
  assert.ok([...arrived.values()].every((count) => count === 1));
  const acknowledged = [...outcomes.values()].filter((outcome) => outcome === "acknowledged").length;
  tookMs.sort((a, b) => a - b);
  t.diagnostic(
    `${acknowledged} of ${outcomes.size} acknowledged, ${killed} connections killed; p50 ${tookMs[tookMs.length >> 1].toFixed(1)} ms, largest ${tookMs.at(-1)?.toFixed(0)} ms`,
  );
  assert.equal(outcomes.size, EACH * 6);
  assert.ok(acknowledged > EACH * 3, "control: most were acknowledged");
  assert.ok(killed > 0, "control: connections were killed");
});

test("a node whose message store is damaged runs without messages, and its health says so; one that is told to has none", async () => {
  const stateDirectory = join(root, "damaged");
  await initNetwork({ stateDirectory, network: "damaged", name: "damaged" });
  writeFileSync(
    join(stateDirectory, "messages.db"),
    "this is no database, and long enough to be looked at ".repeat(100),
    {
      mode: 0o600,
    },
  );
  const config = { tun: false as const, listen: ["127.0.0.1:0"], maxPeers: 16 };
  const node = await createNode({ stateDirectory, config });
  assert.equal(node.control.messaging, undefined);
  assert.ok(node.control.health().some(({ code }) => code === "no-messages"));
  await node.stop();
  const silent = await createNode({ stateDirectory, config: { ...config, messaging: false } });
  assert.equal(silent.control.messaging, undefined);
  assert.ok(!silent.control.health().some(({ code }) => code === "no-messages"));
  await silent.stop();
});

async function invite(): Promise<string> {
  const [first] = running;
  return (await first.control.invite({})).token;
}
