import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { utf8 } from "../base/bytes.ts";
import { StorageThread } from "./storage.ts";
import { Store } from "./store.ts";

const root = mkdtempSync(join(tmpdir(), "weft-store-"));
after(() => rmSync(root, { recursive: true }));
let counter = 0;
const fresh = (): string => join(root, `${++counter}.db`);

const statement = (text: string): { kind: "statement"; hash: Uint8Array; bytes: Uint8Array } => ({
  kind: "statement",
  hash: utf8(`hash ${text}`),
  bytes: utf8(text),
});

test("what was written is there after a restart, in order and once", async () => {
  const file = fresh();
  const first = new StorageThread(file);
  await Promise.all([
    first.write([statement("a")]),
    first.write([statement("b"), { kind: "meta", key: "k", value: utf8("v") }]),
    first.write([statement("a"), { kind: "timestamp", key: utf8("peer"), value: utf8("t1"), atMs: 1 }]),
    first.write([{ kind: "timestamp", key: utf8("peer"), value: utf8("t2"), atMs: 2 }]),
  ]);
  await first.close();
  const second = new StorageThread(file);
  const contents = await second.load();
  assert.deepEqual(
    contents.statements.map((row) => Buffer.from(row.bytes).toString()),
    ["a", "b"],
  );
  assert.equal(Buffer.from(contents.meta.get("k") as Uint8Array).toString(), "v");
  assert.deepEqual(
    contents.timestamps.map((row) => Buffer.from(row.value).toString()),
    ["t2"],
  );
  await second.write([
    { kind: "meta", key: "k", value: undefined },
    { kind: "meta", key: "mine", value: utf8("kept") },
    { kind: "forget", except: ["mine"] },
  ]);
  const left = await second.load();
  assert.deepEqual(left.statements, []);
  assert.deepEqual([...left.meta.keys()], ["mine"]);
  await second.close();
});

test("writes that arrive during a slow commit share the next one", async () => {
  const storage = new StorageThread(fresh(), { commitDelayMs: 50 });
  await storage.load();
  const started = performance.now();
  await Promise.all(Array.from({ length: 100 }, (_, i) => storage.write([statement(String(i))])));
  // one commit each would take five seconds
  assert.ok(performance.now() - started < 2500);
  assert.equal((await storage.load()).statements.length, 100);
  assert.equal(storage.counters().commits, 100);
  assert.equal(storage.counters().pending, 0);
  await storage.close();
});

test("a full queue refuses and counts instead of growing", async () => {
  const storage = new StorageThread(fresh(), { commitDelayMs: 20 });
  const results = await Promise.allSettled(
    Array.from({ length: 1100 }, (_, i) => storage.write([statement(String(i))])),
  );
  const refused = results.filter((result) => result.status === "rejected");
  assert.equal(refused.length, 76);
  assert.equal(refused[0]?.reason.code, "STORE_BUSY");
  assert.equal(storage.counters().refused, 76);
  assert.equal((await storage.load()).statements.length, 1024);
  await storage.close();
});

test("a bad request fails alone", async () => {
  const storage = new StorageThread(fresh());
  const bad = { kind: "statement", hash: utf8("x"), bytes: undefined } as unknown as ReturnType<typeof statement>;
  const results = await Promise.allSettled([
    storage.write([statement("a")]),
    storage.write([bad]),
    storage.write([statement("b")]),
  ]);
  assert.deepEqual(
    results.map((result) => result.status),
    ["fulfilled", "rejected", "fulfilled"],
  );
  assert.equal((await storage.load()).statements.length, 2);
  await storage.close();
});

test("a damaged or foreign database is an error and stays as it is", async () => {
  const file = fresh();
  writeFileSync(file, "this is no database, but somebody's only copy of something");
  const before = readFileSync(file);
  const storage = new StorageThread(file);
  await assert.rejects(storage.load(), { code: "STORE_DAMAGED", message: /left as it is/ });
  await storage.close();
  assert.deepEqual(readFileSync(file), before);
});

test("a database of a newer version is refused", () => {
  const file = fresh();
  new Store(file).close();
  const database = new DatabaseSync(file);
  database.exec("PRAGMA user_version = 99");
  database.close();
  assert.throws(() => new Store(file), { code: "STORE_NEWER" });
});

test("after close every request is refused", async () => {
  const storage = new StorageThread(fresh());
  await storage.close();
  await assert.rejects(storage.write([statement("a")]), { code: "STORE_CLOSED" });
});
