import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TransferView } from "../../../api/messaging/files-control.ts";
import { CHUNK_BYTES } from "../../../messaging/files/tree.ts";
import type { FilesConfig } from "../services/config.ts";
import { createTestPair, type TestNode } from "../services/testing.ts";
import { FilesPart } from "./files.ts";
import { Shares } from "./shares.ts";

const CONFIG: FilesConfig = { accept: undefined, directory: undefined, quotaBytes: 1e9, largestBytes: 1e9 };
const world = createTestPair();
const parts = new Set<FilesPart>();
after(async () => {
  for (const part of parts) await part.close();
  world.close();
});

async function part(node: TestNode, config: Partial<FilesConfig> = {}): Promise<FilesPart> {
  const made = new FilesPart(node.context, { ...CONFIG, ...config });
  parts.add(made);
  await made.start();
  return made;
}

async function stop(made: FilesPart): Promise<void> {
  parts.delete(made);
  await made.close();
}

function fileOf(node: TestNode, name: string, bytes: Uint8Array): string {
  const directory = `${node.context.stateDirectory}-home`;
  mkdirSync(directory, { recursive: true });
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return path;
}

async function until<T>(look: () => T | undefined | false): Promise<T> {
  for (let i = 0; i < 2_000; i++) {
    const found = look();
    if (found !== undefined && found !== false) return found;
    await sleep(10);
  }
  throw new Error("it did not come about");
}

const over = (view: TransferView): boolean => ["done", "failed", "refused", "cancelled"].includes(view.state);
const ended = (of: FilesPart, key: string): Promise<TransferView> =>
  until(() => {
    const view = of.transfer(key);
    return over(view) && view;
  });
const received = (of: FilesPart, id: string): Promise<TransferView> =>
  until(() => of.files().transfers.find((view) => view.id === id && view.kind !== "send" && view.state === "done"));
const sha = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

let [one, two] = await Promise.all(world.nodes.map((node) => part(node)));
let [first, second] = world.nodes;

test("a file that is sent arrives whole, under a harmless name, and never over another one", async () => {
  const bytes = randomBytes(5 * CHUNK_BYTES + 77);
  const path = fileOf(first, "report.pdf", bytes);
  const sent = await ended(one, (await one.send(path, "two", "../../.report.pdf")).key);
  assert.equal(sent.state, "done", sent.error ?? "");
  assert.equal(sent.doneBytes, bytes.length);
  const got = await received(two, sent.id as string);
  assert.equal(got.path, join(second.context.stateDirectory, "files/received/_report.pdf"));
  assert.ok(readFileSync(got.path).equals(bytes));
  assert.equal(statSync(got.path).mode & 0o077, 0);
  const other = fileOf(first, "other", randomBytes(10));
  const again = await ended(one, (await one.send(other, "two", ".report.pdf")).key);
  assert.match((await received(two, again.id as string)).path as string, /_report \(2\)\.pdf$/);
  assert.match(second.audit.join("\n"), /files: one sends "_report\.pdf"/);
});

test("an empty file, one of a byte and one of whole chunks arrive", async () => {
  for (const size of [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES]) {
    const bytes = randomBytes(size);
    const sent = await ended(one, (await one.send(fileOf(first, `size-${size}`, bytes), "two", undefined)).key);
    assert.equal(sent.state, "done", sent.error ?? "");
    assert.ok(readFileSync((await received(two, sent.id as string)).path as string).equals(bytes));
  }
});

test("a shared file is fetched by its id, and nobody gets one that was sent to somebody else", async () => {
  const bytes = randomBytes(3 * CHUNK_BYTES);
  const shared = await ended(one, (await one.share(fileOf(first, "shared", bytes), undefined)).key);
  const target = join(second.context.stateDirectory, "chosen");
  const got = await ended(two, (await two.get({ id: shared.id as string, from: ["one"], path: target })).key);
  assert.equal(got.state, "done", got.error ?? "");
  assert.ok(readFileSync(target).equals(bytes));
  await assert.rejects(two.get({ id: shared.id as string, path: target }), { code: "FILE_EXISTS" });
  // it is a source now itself
  assert.ok(two.files().shares.some(({ id }) => id === shared.id));
  await one.unshare(shared.id as string);
  await two.unshare(shared.id as string);
  const late = await two.get({ id: shared.id as string, from: ["one"], name: "late" });
  await until(() => two.transfer(late.key).peers[0].state === "without");
  await two.cancel(late.key);
  assert.equal(two.transfer(late.key).state, "cancelled");
});

test("a receiver that is stopped in the middle goes on where it was, and verifies what it had", async () => {
  const bytes = randomBytes(96 * CHUNK_BYTES + 5);
  const { key } = await one.send(fileOf(first, "large", bytes), "two", undefined);
  await until(() =>
    two.files().transfers.some((view) => view.state === "fetching" && view.doneBytes > 10 * CHUNK_BYTES),
  );
  const before = two.files().transfers.find((view) => view.state === "fetching") as TransferView;
  await stop(two);
  // what a crash may leave: bytes that never were written, and such as are not the file's
  const data = join(second.context.stateDirectory, "files/incoming", before.key, "data");
  const partial = readFileSync(data);
  partial.fill(0xee, 1_000, 1_100);
  writeFileSync(data, partial);
  second = world.restart(1);
  two = await part(second);
  const sent = await ended(one, key);
  assert.equal(sent.state, "done", sent.error ?? "");
  const got = await received(two, sent.id as string);
  assert.equal(sha(readFileSync(got.path as string)), sha(bytes));
  const fetched = two.metrics().find(({ name }) => name === "weft_files_fetched_bytes_total")?.value as number;
  assert.ok(
    fetched > 0 && fetched < bytes.length - 5 * CHUNK_BYTES,
    `${fetched} of ${bytes.length} bytes were fetched again`,
  );
});

test("a sender that is restarted goes on offering, and the receiver goes on fetching", async () => {
  const bytes = randomBytes(96 * CHUNK_BYTES);
  const { key } = await one.send(fileOf(first, "longer", bytes), "two", undefined);
  await until(() =>
    two.files().transfers.some((view) => view.state === "fetching" && view.doneBytes > 10 * CHUNK_BYTES),
  );
  await stop(one);
  first = world.restart(0);
  one = await part(first);
  two.peerUp(first.nodeId);
  const sent = await ended(one, key);
  assert.equal(sent.state, "done", sent.error ?? "");
  const got = await received(two, sent.id as string);
  assert.equal(sha(readFileSync(got.path as string)), sha(bytes));
});

test("a file that changed after it was hashed is not served, and never arrives half old, half new", async () => {
  const path = fileOf(first, "moving", randomBytes(2 * CHUNK_BYTES));
  const shared = await ended(one, (await one.share(path, undefined)).key);
  await sleep(5);
  writeFileSync(path, randomBytes(2 * CHUNK_BYTES));
  const { key } = await two.get({ id: shared.id as string, from: ["one"] });
  const source = await until(() => two.transfer(key).peers.find(({ state }) => state === "without"));
  assert.match(source.error as string, /does not have/);
  await two.cancel(key);
});

test("what the configuration does not let in is refused, with the reason at the sender", async () => {
  await stop(two);
  second = world.restart(1);
  two = await part(second, { accept: ["friend"] });
  const path = fileOf(first, "unwanted", randomBytes(10));
  const refused = await ended(one, (await one.send(path, "two", undefined)).key);
  assert.deepEqual([refused.state, refused.error], ["refused", "it takes no files from this node"]);
  await stop(two);
  second = world.restart(1);
  two = await part(second, { largestBytes: 5 });
  const large = await ended(one, (await one.send(path, "two", "another")).key);
  assert.deepEqual([large.state, large.error], ["refused", "it takes no files of this size"]);
  await stop(two);
  second = world.restart(1);
  two = await part(second, { quotaBytes: two.files().usedBytes + 5 });
  const { key } = await one.send(path, "two", "one more");
  await until(() => one.transfer(key).state === "waiting" && one.transfer(key).error === "its quota is used up");
  await one.cancel(key);
});

test("what was for a member that is removed ends", async () => {
  const { key } = await one.send(fileOf(first, "for nobody", randomBytes(10)), "two", undefined);
  one.memberGone(second.nodeId);
  const gone = await ended(one, key);
  assert.deepEqual([gone.state, gone.error], ["failed", "the receiver is no member any more"]);
});

test("nothing of the node's own directory is sent or shared, whatever way leads there", async () => {
  const { stateDirectory } = first.context;
  const secret = join(stateDirectory, "identity");
  writeFileSync(secret, "the key");
  const link = fileOf(first, "notes.txt", randomBytes(1));
  rmSync(link);
  symlinkSync(secret, link);
  const folder = join(dirname(link), "folder");
  symlinkSync(stateDirectory, folder);
  for (const path of [secret, link, join(folder, "identity"), `${dirname(link)}/../one/identity`]) {
    await assert.rejects(one.send(path, "two", undefined), { code: "FILE_PRIVATE" }, path);
    await assert.rejects(one.share(path, undefined), { code: "FILE_PRIVATE" }, path);
  }
  // a name that only begins like it is another place
  const { key } = await one.share(fileOf(first, "public", randomBytes(3)), undefined);
  assert.equal((await ended(one, key)).state, "done");
});

test("a path that is bent to the node's own directory after it was named is not read", async () => {
  const { stateDirectory, log } = first.context;
  const secret = join(stateDirectory, "identity");
  writeFileSync(secret, "the key");
  const link = fileOf(first, "bent", randomBytes(1));
  rmSync(link);
  symlinkSync(secret, link);
  const shares = new Shares(join(stateDirectory, "other"), log, stateDirectory);
  await shares.load();
  const added = shares.add(link, { atMs: 0 }, () => undefined, new AbortController().signal);
  await assert.rejects(added, { code: "FILE_PRIVATE" });
});

test("mistakes name what is wrong", async () => {
  await assert.rejects(one.send("relative", "two", undefined), { code: "FILE_UNREADABLE" });
  await assert.rejects(one.send("/", "two", undefined), { code: "FILE_UNREADABLE" });
  await assert.rejects(one.send("/nowhere/at/all", "two", undefined), { code: "FILE_UNREADABLE" });
  await assert.rejects(one.send("/etc/hostname", "nobody", undefined), { code: "NODE_UNKNOWN" });
  await assert.rejects(one.get({ id: "f1x" }), { code: "FILE_ID" });
  await assert.rejects(one.cancel("none"), { code: "TRANSFER_UNKNOWN" });
  assert.throws(() => one.transfer("none"), { code: "TRANSFER_UNKNOWN" });
});
