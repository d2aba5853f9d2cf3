import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { ExecExit } from "../../../api/messaging/exec-control.ts";
import { encodeExecRecord, EXEC_KIND, ExecRecord } from "../../../messaging/services/exec-frames.ts";
import type { MeshStream } from "../../../stream/types.ts";
import type { ExecCommand } from "./config.ts";
import { ExecPart } from "./exec.ts";
import { createTestPair } from "./testing.ts";

const world = createTestPair();
const [one, two] = world.nodes;
const command = (name: string, run: ExecCommand["run"], more: Partial<ExecCommand> = {}): [string, ExecCommand] => [
  name,
  { name, run, peers: ["one"], extraArguments: 0, timeoutMs: 10_000, directory: "/", ...more },
];
const COMMANDS = new Map([
  command("echo", ["/bin/echo", "fixed"], { extraArguments: 2 }),
  command("cat", ["/bin/cat"]),
  command("environment", ["/usr/bin/env"]),
  command("fails", ["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]),
  command("sleep", ["/bin/sh", "-c", "sleep 60 & echo $$; wait"], { timeoutMs: 2_000 }),
  command("long", ["/bin/sh", "-c", "echo $$; sleep 60"]),
  command("leaves", ["/bin/sh", "-c", "sleep 60 & echo done"]),
  command("missing", ["/nowhere/program"]),
  command("much", ["/bin/sh", "-c", "head -c 3000000 /dev/zero"]),
  command("flood", ["/bin/cat", "/dev/zero"]),
  command("forks", ["/bin/sh", "-c", "setsid sleep 8 & sleep 0.3; echo done"], { timeoutMs: 7_000 }),
  command("theirs", ["/bin/echo"], { peers: ["somebody"] }),
]);
const client = new ExecPart(one.context, new Map());
const server = new ExecPart(two.context, COMMANDS);
client.start();
server.start();
after(() => {
  client.close();
  server.close();
  world.close();
});

async function collect(key: string): Promise<{ out: string; err: string; exit: ExecExit }> {
  const text = { out: "", err: "" };
  for (let after = 0; ;) {
    const { chunks, next, exit } = await client.read(key, after, 5_000);
    after = next;
    for (const { stream, data } of chunks) text[stream] += Buffer.from(data, "base64").toString();
    if (exit !== null) return { ...text, exit };
  }
}

const run = (name: string, args: readonly string[] = []): ReturnType<typeof collect> =>
  collect(client.run({ node: "two", command: name, args }).key);

const ENDED = { signal: null, reason: null };

test("a program runs with its arguments as they are: no shell sees them", async () => {
  const { out, exit } = await run("echo", ["$(id); `id` | cat", "a  b"]);
  assert.equal(out, "fixed $(id); `id` | cat a  b\n");
  assert.deepEqual(exit, { ...ENDED, code: 0 });
  assert.match(two.audit.join("\n"), /exec: one runs echo as process \d+/);
  assert.match(two.audit.join("\n"), /exec: echo of one ended with 0/);
});

test("output, errors and exit code come as they are", async () => {
  assert.deepEqual(await run("fails"), { out: "out\n", err: "err\n", exit: { ...ENDED, code: 7 } });
});

test("nothing of the daemon's environment goes with a program", async () => {
  process.env["WEFT_TEST_SECRET"] = "x";
  const { out } = await run("environment");
  const names = out
    .trim()
    .split("\n")
    .map((line) => line.split("=")[0]);
  assert.deepEqual(names.toSorted(), ["LC_ALL", "PATH", "WEFT_PEER", "WEFT_PEER_ID"]);
});

test("what is not on the list, or not for this member, or has more arguments, is refused and said in the audit log", async () => {
  const reason = async (name: string, args: readonly string[] = []): Promise<string | null> =>
    (await run(name, args)).exit.reason;
  const none = await reason("nothing");
  assert.match(none as string, /no such command/);
  assert.equal(await reason("theirs"), none);
  assert.match((await reason("cat", ["/etc/shadow"])) as string, /no more arguments/);
  assert.match((await reason("missing")) as string, /could not be started/);
  assert.match(two.audit.join("\n"), /exec: one may not run "theirs"/);
  assert.throws(() => client.run({ node: "two", command: "a b" }), { code: "EXEC_BAD" });
  assert.throws(() => client.run({ node: "nobody", command: "x" }), { code: "NODE_UNKNOWN" });
});

test("a member sees the commands that are for it", async () => {
  const names = await client.commands("two");
  assert.ok(names.includes("echo") && !names.includes("theirs"));
});

test("standard input arrives, and its end", async () => {
  const { key } = client.run({ node: "two", command: "cat", input: true });
  await client.input(key, Buffer.from("first ").toString("base64"), false);
  await client.input(key, Buffer.from("second").toString("base64"), true);
  assert.equal((await collect(key)).out, "first second");
  await assert.rejects(client.input(key, "", false), { code: "EXEC_ENDED" });
});

/** Some process of this group runs; one that only waits to be collected does not. */
function isAlive(group: number): boolean {
  return readdirSync("/proc").some((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      const [state, , pgrp] = readFileSync(`/proc/${name}/stat`, "latin1")
        .replace(/^.*\) /s, "")
        .split(" ");
      return Number(pgrp) === group && state !== "Z";
    } catch {
      return false;
    }
  });
}

async function dies(group: number): Promise<void> {
  for (let i = 0; i < 500 && isAlive(group); i++) await sleep(10);
  assert.equal(isAlive(group), false);
}

test("a program that runs too long ends with all that it started", async () => {
  const { out, exit } = await run("sleep");
  assert.equal(exit.reason, "the program ran for too long");
  await dies(Number(out));
});

test("what a program leaves in its group does not outlive it", async () => {
  const { out, exit } = await run("leaves");
  assert.equal(out, "done\n");
  assert.equal(exit.code, 0);
});

test("a client that stops a run ends the program", async () => {
  const { key } = client.run({ node: "two", command: "long" });
  const { chunks } = await client.read(key, 0, 5_000);
  const pid = Number(Buffer.from(chunks[0].data, "base64").toString());
  assert.ok(isAlive(pid));
  client.stop(key);
  await dies(pid);
  await assert.rejects(client.read(key, 0, 0), { code: "EXEC_UNKNOWN" });
});

test("a client that reads slowly holds the program, not memory, and loses nothing", async () => {
  const { key } = client.run({ node: "two", command: "much" });
  let total = 0;
  for (let after = 0; ;) {
    const { chunks, next, exit } = await client.read(key, after, 5_000);
    after = next;
    const bytes = chunks.reduce((sum, { data }) => sum + Buffer.from(data, "base64").length, 0);
    assert.ok(bytes <= 131_072);
    total += bytes;
    if (exit !== null) break;
  }
  assert.equal(total, 3_000_000);
});

const served = (): number => server.metrics().find(({ name }) => name === "weft_exec_served")?.value as number;

async function until(look: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !look(); i++) await sleep(10);
  assert.ok(look(), "it did not come about");
}

test("a client that goes while output is pending leaves no place taken", async () => {
  await until(() => served() === 0);
  const keys = Array.from({ length: 4 }, () => client.run({ node: "two", command: "flood" }).key);
  for (const key of keys) await client.read(key, 0, 5_000);
  // nobody reads on: all buffers fill
  await sleep(300);
  assert.equal(served(), 4);
  for (const key of keys) client.stop(key);
  await until(() => served() === 0);
  assert.equal((await run("echo")).exit.code, 0);
});

test("what has left the group of its program holds neither the place nor the answer", async () => {
  const { out, exit } = await run("forks");
  assert.deepEqual([out, exit], ["done\n", { ...ENDED, code: 0 }]);
  await until(() => served() === 0);
});

test("without file descriptors a program is refused, and the daemon goes on", async (t) => {
  const script = `P=$1; OLD=$(prlimit --pid $P --nofile --output=SOFT --noheadings | tr -d " ") || exit 1
    echo ready; read N; prlimit --pid $P --nofile=$N:; echo low; read X; prlimit --pid $P --nofile=$OLD:; echo high`;
  const helper = spawn("/bin/sh", ["-c", script, "sh", String(process.pid)], { stdio: ["pipe", "pipe", "ignore"] });
  const said = createInterface(helper.stdout)[Symbol.asyncIterator]();
  if ((await said.next()).value !== "ready") return t.skip("there is no prlimit here");
  const open = new Set(readdirSync("/proc/self/fd").map(Number));
  let free = 0;
  while (open.has(free)) free++;
  helper.stdin.write(`${free}\n`);
  assert.equal((await said.next()).value, "low");
  let reason: string | null;
  try {
    reason = (await run("echo")).exit.reason;
  } finally {
    helper.stdin.write("\n");
    assert.equal((await said.next()).value, "high");
    helper.stdin.end();
  }
  assert.match(reason as string, /could not be started/);
  await until(() => served() === 0);
  assert.equal((await run("echo")).exit.code, 0);
});

/** A member whose exec server is not ours. */
async function hostile<T>(answer: (stream: MeshStream) => void, use: (part: ExecPart) => Promise<T>): Promise<T> {
  const other = createTestPair();
  other.pair.server.serve(EXEC_KIND, (stream) => {
    stream.on("error", () => undefined);
    stream.resume();
    answer(stream);
  });
  const part = new ExecPart(other.nodes[0].context, new Map());
  part.start();
  try {
    return await use(part);
  } finally {
    part.close();
    other.close();
  }
}

test("a list of commands that does not end is given up, not kept", async () => {
  const names = encodeExecRecord(ExecRecord.OUT, Buffer.alloc(60_000, "name\n"));
  const list = hostile(
    (stream) => stream.write(names),
    (part) => part.commands("two"),
  );
  await assert.rejects(list, /is no list of commands/);
});

test("records without bytes are not kept, and tiny ones count with what they cost", async () => {
  const record = encodeExecRecord(ExecRecord.OUT, Buffer.from("x"));
  const empty = encodeExecRecord(ExecRecord.ERR, new Uint8Array(0));
  const flood = Buffer.concat([
    ...Array.from({ length: 5_000 }, () => empty),
    ...Array.from({ length: 200_000 }, () => record),
  ]);
  await hostile(
    (stream) => stream.write(flood),
    async (part) => {
      const { key } = part.run({ node: "two", command: "any" });
      let taken = 0;
      for (let after = 0; taken < 10_000;) {
        const { chunks, next } = await part.read(key, after, 5_000);
        after = next;
        assert.ok(chunks.length > 0 && chunks.length <= 1_024, `${chunks.length} at once`);
        assert.ok(chunks.every(({ stream }) => stream === "out"));
        taken += chunks.length;
      }
    },
  );
});
