/** The message commands as people use them: pipes, JSON, exit codes, against two live nodes. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startApiNode, startPair } from "../support/api-node.ts";
import { assertOneLine, run, weft } from "../support/weft-command.ts";

const WEFT = fileURLToPath(new URL("../../bin/weft", import.meta.url));
const started = new Set<ChildProcess>();
after(() => {
  for (const child of started) child.kill("SIGKILL");
});

/** A command that goes on, and its output so far. */
function follow(...args: string[]): {
  child: ChildProcess;
  out: () => string;
  until: (ready: (out: string) => boolean) => Promise<void>;
} {
  const child = spawn(WEFT, args, { stdio: ["ignore", "pipe", "pipe"] });
  started.add(child);
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  return {
    child,
    out: () => output,
    until: async (ready) => {
      const giveUp = performance.now() + 60_000;
      while (!ready(output)) {
        if (performance.now() > giveUp) throw new Error(`weft ${args.join(" ")} printed only: ${output.slice(-2000)}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
  };
}

interface Message {
  readonly id: string;
  readonly from: string;
  readonly topic: string;
  readonly text: string | null;
  readonly receivedAt: string;
}

test("messages from the command line: topics through pipes, receipts and exit codes, the inbox, requests, tokens", async () => {
  const pair = await startPair();
  const [one, two] = pair.map(({ state }) => state);

  // send, inbox
  const sent = await weft("send", "two", "hello", "--topic", "greeting", "--json", "--state", one);
  assert.equal(sent.code, 0, sent.stderr);
  const { outcome, id } = JSON.parse(sent.stdout) as { outcome: string; id: string };
  assert.equal(outcome, "acknowledged");
  const piped = await run(["send", "two", "--state", one], "from a pipe", {});
  assert.match(piped.stdout, /^two has it \(/);
  const { messages } = JSON.parse((await weft("inbox", "--json", "--state", two)).stdout) as { messages: Message[] };
  assert.deepEqual(
    messages.map(({ from, topic, text }) => [from, topic, text]),
    [
      ["one", "greeting", "hello"],
      ["one", "", "from a pipe"],
    ],
  );
  assert.equal(messages[0].id, id);
  assert.match(messages[0].receivedAt, /^\d{4}-/);
  assert.match((await weft("inbox", "--acknowledge", "--state", two)).stdout, /one \[greeting\]: hello/);
  assert.equal((await weft("inbox", "--state", two)).stdout, "no new messages\n");
  assert.equal((await weft("send", "--status", id, "--state", one)).code, 0);
  assertOneLine(await weft("send", "nobody", "x", "--state", one), 4, /nobody/);

  // pub, sub
  const reader = follow("sub", "logs", "--json", "--state", two);
  const plain = follow("sub", "logs", "--count", "1", "--state", two);
  while ((await pair[1].client.topics()).every(({ subscribers }) => subscribers === 0))
    await new Promise((resolve) => setTimeout(resolve, 20));
  const first = setInterval(() => void pair[0].client.publish("logs", { text: "begin" }), 300);
  try {
    await Promise.all([reader, plain].map((one) => one.until((out) => out.includes("begin"))));
  } finally {
    clearInterval(first);
  }
  await new Promise((resolve) =>
    plain.child.exitCode === null ? plain.child.once("exit", resolve) : resolve(undefined),
  );
  assert.equal(plain.out(), "begin\n");
  assert.equal(plain.child.exitCode, 0);
  const lines = Array.from({ length: 200 }, (_, i) => `line ${i}`);
  const published = await run(["pub", "logs", "--state", one], `${lines.join("\n")}\n`, {});
  assert.equal(published.stdout, "published 200 messages to logs\n");
  await reader.until((out) => out.includes('"line 199"'));
  const texts = reader
    .out()
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as Message).text ?? "");
  assert.deepEqual(texts.filter((text) => text.startsWith("line")).toSorted(), lines.toSorted());

  // request: nobody serves it
  const alone = await weft("request", "two", "nothing", "x", "--deadline", "5s", "--state", one);
  assert.equal(alone.code, 1, alone.stderr);
  assert.match(alone.stderr, /it did not run: no-service/);

  // why not delivered
  assert.equal((await weft("explain", "two", "--messages", "--state", one)).code, 0);

  // the reader's node restarts: it is subscribed again by itself, and told of the gap
  await pair[1].stop();
  const again = await startApiNode("two");
  await reader.until((out) => out.includes('"reason":"restarted"'));
  assert.ok(reader.out().indexOf('"reason":"restarted"') > reader.out().indexOf('"line 199"'), reader.out());
  const logs = (await again.client.topics()).find(({ topic }) => topic === "logs");
  assert.equal(logs?.role, "subscriber");

  // tokens over TCP
  const made = await weft("token", "create", "reader", "--scope", "read", "--state", one);
  const { address } = JSON.parse((await weft("token", "list", "--json", "--state", one)).stdout) as { address: string };
  const curl = promisify(execFile);
  const answer = await curl(
    process.execPath,
    [
      "-e",
      `fetch("http://${address}/v1/status", { headers: { authorization: "Bearer " + process.env.TOKEN } }).then(async (r) => console.log(r.status, (await r.json()).node.name))`,
    ],
    { env: { ...process.env, TOKEN: made.stdout.trim() } },
  );
  assert.equal(answer.stdout, "200 one\n");
  assert.equal((await weft("token", "revoke", "reader", "--state", one)).code, 0);
  assertOneLine(await weft("token", "revoke", "reader", "--state", one), 4, /reader/);
  assertOneLine(await weft("token", "create", "x", "--scope", "everything", "--state", one), 2, /everything/);

  // what cannot be delivered is no success
  await again.stop();
  const lost = await weft("send", "two", "x", "--deadline", "500ms", "--state", one);
  assert.ok([1, 5].includes(lost.code), lost.stderr);
});
