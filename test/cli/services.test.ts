/** Files, forwards, SOCKS and execution with daemons of their own, as an unprivileged user's commands use them; daemons are killed on the way. */
import assert from "node:assert/strict";
import { createHash, randomFillSync } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { FilesView, TransferView } from "../../src/api/messaging/files-control.ts";
import { WeftClient } from "../../src/client/index.ts";
import { CHUNK_BYTES } from "../../src/messaging/files/tree.ts";
import { assertOneLine, exited, root, run, up, weft } from "../support/weft-command.ts";

const FILE_BYTES = 256 << 20;
const [one, two] = [join(root, "one"), join(root, "two")];

async function json<T>(...args: string[]): Promise<T> {
  const result = await weft(...args, "--json");
  assert.equal(result.code, 0, result.stderr);
  return JSON.parse(result.stdout) as T;
}

await weft("init", "home", "--name", "a", "--state", one);
let first = await up(one);
const { token } = await json<{ token: string }>("invite", "--state", one);
const tokenFile = join(root, "token");
writeFileSync(tokenFile, `${token}\n`);
let second = await up(two, "--name", "b", "--join", `@${tokenFile}`);
await exited((second.kill("SIGTERM"), second));
const page = createServer((_, response) => response.end("page of b"));
await new Promise<void>((resolve) => page.listen(0, "127.0.0.1", resolve));
after(() => page.close());
const pagePort = (page.address() as AddressInfo).port;
writeFileSync(
  join(two, "weft.toml"),
  `[forward]\nallow = [{ peers = ["a"], targets = ["loopback:${pagePort}"] }]\n\n` +
    '[exec.count]\nrun = ["/usr/bin/wc", "-c"]\npeers = ["a"]\n\n[exec.fail]\nrun = ["/bin/false"]\npeers = ["a"]\n',
);
second = await up(two);

async function receiving(): Promise<TransferView | undefined> {
  const { transfers } = await json<FilesView>("files", "--state", two);
  return transfers.find(({ kind }) => kind === "receive");
}

/** Waits until the receiver has so much of the file. */
async function reaches(bytes: number): Promise<void> {
  for (let i = 0; i < 600; i++) {
    if (((await receiving())?.doneBytes ?? 0) >= bytes) return;
    await sleep(20);
  }
  assert.fail(`the receiver did not get ${bytes} bytes: ${JSON.stringify(await receiving())}`);
}

test("a file arrives whole although both daemons are killed in the middle, and little is fetched twice", async () => {
  const path = join(root, "large.bin");
  const bytes = Buffer.alloc(FILE_BYTES);
  randomFillSync(bytes);
  writeFileSync(path, bytes);
  const sent = await json<TransferView>("files", "send", path, "b", "--no-wait", "--state", one);
  await reaches(FILE_BYTES / 8);
  second.kill("SIGKILL");
  await exited(second);
  second = await up(two);
  await reaches(FILE_BYTES / 4);
  first.kill("SIGKILL");
  await exited(first);
  first = await up(one);
  const done = await json<TransferView>("files", "watch", sent.key, "--state", one);
  assert.equal(done.state, "done", done.error ?? "");
  const got = join(two, "files/received/large.bin");
  const sha = (data: Buffer): string => createHash("sha256").update(data).digest("hex");
  assert.equal(sha(readFileSync(got)), sha(bytes));
  assert.ok(!existsSync(join(two, "files/incoming", (await receiving())?.key ?? "", "data")));
  // what the killed receiver had was not fetched again
  const metrics = await new WeftClient(join(two, "weft.sock")).metrics();
  const fetched = Number(/^weft_files_fetched_bytes_total (\d+)$/m.exec(metrics)?.[1]);
  assert.ok(fetched <= FILE_BYTES - FILE_BYTES / 8 + 32 * CHUNK_BYTES, `${fetched} of ${FILE_BYTES} bytes`);
});

test("a forwarded port serves a page, and a SOCKS proxy reaches the member by name", async () => {
  const port = pagePort;
  const { listen } = await json<{ listen: string }>("forward", "0", `b:${port}`, "--state", one);
  assert.equal(await (await fetch(`http://${listen}/`)).text(), "page of b");
  assert.match((await weft("forward", "--state", one)).stdout, new RegExp(`${listen} +b:${port} +listens`));
  const proxy = await json<{ listen: string }>("socks", "0", "--state", one);
  const socket = connect(Number(proxy.listen.split(":")[1]), "127.0.0.1");
  const request = Buffer.from("GET / HTTP/1.0\r\n\r\n");
  socket.write(Buffer.concat([Buffer.from([5, 1, 0, 5, 1, 0, 3, 1, 98, port >> 8, port & 255]), request]));
  let answer = "";
  for await (const chunk of socket as AsyncIterable<Buffer>) answer += chunk.toString("latin1");
  assert.match(answer, /page of b$/);
  assert.equal((await weft("forward", "--stop", listen, "--state", one)).code, 0);
  assertOneLine(await weft("forward", "--stop", listen, "--state", one), 4, /nothing listens/);
  assertOneLine(await weft("forward", "8080", "nobody:80", "--state", one), 4, /nobody/);
});

test("a forward that the other node does not allow says which line is missing there", async () => {
  const { listen } = await json<{ listen: string }>("forward", "0", "b:9", "--state", one);
  await assert.rejects(fetch(`http://${listen}/`));
  const line =
    'b does not allow it; its weft.toml needs, in [forward]: allow = [{ peers = ["a"], targets = ["loopback:9"] }]';
  assert.equal((await weft("forward", "--state", one)).stdout.split("\n").at(-2), `${listen}: ${line}`);
  assert.equal((await weft("forward", "--stop", listen, "--state", one)).code, 0);
});

test("an allowed program gets standard input and gives its output and exit code", async () => {
  assert.equal((await weft("exec", "b", "--state", one)).stdout, "count\nfail\n");
  const counted = await run(["exec", "--state", one, "b", "count"], "x".repeat(100_000), {});
  assert.deepEqual([counted.code, counted.stdout.trim(), counted.stderr], [0, "100000", ""]);
  assert.equal((await weft("exec", "--state", one, "b", "fail")).code, 1);
  assertOneLine(await weft("exec", "--state", one, "b", "reboot"), 1, /no such command/);
});

test("mistakes are one line with a remedy", async () => {
  assertOneLine(await weft("files", "send", "/nowhere", "b", "--state", one), 1, /cannot read \/nowhere/);
  assertOneLine(await weft("files", "get", "f1x", "--state", one), 2, /id/);
  assertOneLine(await weft("files", "cancel", "none", "--state", one), 4, /none/);
  assertOneLine(await weft("files", "fly", "x", "--state", one), 2, /no action/);
  assertOneLine(await weft("socks", "x", "--state", one), 2, /no address/);
});
