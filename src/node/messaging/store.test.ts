import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { utf8 } from "../../base/bytes.ts";
import { StorageThread } from "../storage.ts";
import { MessageStoreThread, type StoreOp, type TableSet } from "./store.ts";
import { ALL_TABLES } from "./tables/all.ts";

const root = mkdtempSync(join(tmpdir(), "weft-messages-"));
after(() => rmSync(root, { recursive: true }));
let counter = 0;
const fresh = (): string => join(root, `${++counter}.db`);

const TABLES: readonly TableSet[] = [
  {
    schema: "CREATE TABLE IF NOT EXISTS a_rows (key INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT",
    statements: {
      "a.insert": "INSERT INTO a_rows VALUES (?, ?)",
      "a.delete": "DELETE FROM a_rows WHERE key <= ?",
      "a.all": "SELECT key, value FROM a_rows ORDER BY key",
    },
  },
  {
    schema: "CREATE TABLE IF NOT EXISTS b_rows (key TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    statements: { "b.insert": "INSERT INTO b_rows VALUES (?)", "b.all": "SELECT key FROM b_rows" },
  },
];

const insert = (key: number, value: Uint8Array = utf8(String(key))): StoreOp => ({
  name: "a.insert",
  values: [key, value],
});
const keys = async (store: MessageStoreThread): Promise<unknown[]> =>
  (await store.query("a.all", [], 10_000)).map((row) => row["key"]);

test("what was committed is there after a restart, parts side by side", async () => {
  const file = fresh();
  const first = new MessageStoreThread(file, TABLES);
  await first.commit([insert(1), { name: "b.insert", values: ["x"] }]);
  await first.close();
  const second = new MessageStoreThread(file, TABLES);
  assert.deepEqual(await keys(second), [1]);
  assert.deepEqual(await second.query("b.all", []), [{ key: "x" }]);
  await second.close();
});

test("a query sees every commit that was asked for before it, and no more rows than it asks for", async () => {
  const store = new MessageStoreThread(fresh(), TABLES, { commitDelayMs: 5 });
  for (let key = 1; key <= 20; key++) void store.commit([insert(key)]);
  assert.equal((await store.query("a.all", [])).length, 20);
  assert.equal((await store.query("a.all", [], 3)).length, 3);
  await store.close();
});

test("commits that wait for a slow disk share transactions", async () => {
  const store = new MessageStoreThread(fresh(), TABLES, { commitDelayMs: 20 });
  await store.commit([insert(0)]);
  await Promise.all(Array.from({ length: 500 }, (_, i) => store.commit([insert(i + 1)])));
  const { commits, transactions, pending, pendingBytes } = store.counters();
  assert.equal(commits, 501);
  assert.ok(transactions < 50, `${transactions} transactions`);
  assert.equal(pending, 0);
  assert.equal(pendingBytes, 0);
  await store.close();
});

test("a commit that fails is undone whole and harms no other", async () => {
  const store = new MessageStoreThread(fresh(), TABLES, { commitDelayMs: 5 });
  await store.commit([insert(1)]);
  const results = await Promise.allSettled([
    store.commit([insert(2)]),
    store.commit([insert(3), insert(1)]),
    store.commit([insert(4)]),
  ]);
  assert.deepEqual(
    results.map(({ status }) => status),
    ["fulfilled", "rejected", "fulfilled"],
  );
  assert.deepEqual(await keys(store), [1, 2, 4]);
  assert.equal(store.counters().failed, 1);
  await store.close();
});

test("a full queue refuses and counts instead of growing", async () => {
  const store = new MessageStoreThread(fresh(), TABLES, { commitDelayMs: 20 });
  const results = await Promise.allSettled(Array.from({ length: 5_000 }, (_, i) => store.commit([insert(i)])));
  const refused = results.filter((result) => result.status === "rejected");
  assert.equal(refused.length, 5_000 - 4_096);
  assert.equal(refused[0]?.reason.code, "STORE_BUSY");
  assert.equal(store.counters().refused, refused.length);
  await store.close();
});

test("the file stays below its quota; what was deleted makes room again", async () => {
  const store = new MessageStoreThread(fresh(), TABLES, { quotaBytes: 2 << 20 });
  const large = new Uint8Array(100_000);
  let key = 0;
  await assert.rejects(
    async () => {
      for (;;) await store.commit([insert(++key, large)]);
    },
    { code: "STORE_FULL" },
  );
  assert.ok(key > 10 && key < 25, `${key} rows fit`);
  await store.commit([{ name: "a.delete", values: [5] }]);
  await store.commit([insert(1, large), insert(2, large)]);
  await store.close();
});

test("a view into a larger buffer is stored as it is, and may be changed afterwards", async () => {
  const store = new MessageStoreThread(fresh(), TABLES);
  const pool = Buffer.alloc(64).fill(7);
  const view = pool.subarray(8, 12);
  const committing = store.commit([insert(1, view)]);
  pool.fill(0);
  await committing;
  assert.deepEqual(await store.query("a.all", []), [{ key: 1, value: new Uint8Array(4).fill(7) }]);
  await store.close();
});

test("in the storage thread both files are kept, each in the order of its calls, and a slow one holds back neither's answers", async () => {
  const [file, messages] = [fresh(), fresh()];
  const host = new StorageThread(file, { commitDelayMs: 20 });
  const store = new MessageStoreThread(messages, TABLES, { host, commitDelayMs: 5 });
  const order: string[] = [];
  const noted = <T>(name: string, work: Promise<T>): Promise<T> => work.finally(() => order.push(name));
  const meta = (value: number) => host.write([{ kind: "meta", key: "k", value: Uint8Array.of(value) }]);
  const works: Promise<unknown>[] = [];
  for (let i = 0; i < 20; i++)
    works.push(
      noted(`m${i}`, store.commit([insert(i)])),
      noted(`s${i}`, meta(i)),
      noted(`q${i}`, store.query("a.all", [])),
    );
  await Promise.all(works);
  const of = (letter: string): string[] => order.filter((name) => name.startsWith(letter));
  for (const letter of ["m", "s", "q"])
    assert.deepEqual(
      of(letter),
      Array.from({ length: 20 }, (_, i) => `${letter}${i}`),
    );
  assert.equal((await store.query("a.all", [])).length, 20);
  assert.deepEqual((await host.load()).meta.get("k"), Uint8Array.of(19));
  await store.close();
  await host.close();
  const again = new MessageStoreThread(messages, TABLES);
  assert.equal((await again.query("a.all", [])).length, 20);
  await again.close();
});

test("the end of the thread that it lives in ends every wait, and fails what comes later", async () => {
  const host = new StorageThread(fresh());
  const store = new MessageStoreThread(fresh(), TABLES, { host, commitDelayMs: 50 });
  await store.commit([insert(1)]);
  // on disk or failed, but never without an answer
  const waiting = store.commit([insert(2)]).then(
    () => "",
    (error: { code: string }) => error.code,
  );
  await host.close();
  assert.ok(["", "STORE_FAILED"].includes(await waiting));
  await assert.rejects(store.query("a.all", []), { code: "STORE_FAILED" });
  await store.close();
  const late = new MessageStoreThread(fresh(), TABLES, { host });
  await assert.rejects(late.commit([insert(1)]), { code: "STORE_FAILED" });
});

test("a damaged file is reported and left as it is", async () => {
  const file = fresh();
  writeFileSync(file, "this is no database, and it is long enough to be looked at as if it were one");
  const before = readFileSync(file);
  const store = new MessageStoreThread(file, TABLES);
  await assert.rejects(store.commit([insert(1)]), { code: "STORE_DAMAGED" });
  await store.close();
  assert.deepEqual(readFileSync(file), before);
});

test("after close nothing is taken, and what was asked for before is on disk", async () => {
  const file = fresh();
  const store = new MessageStoreThread(file, TABLES, { commitDelayMs: 10 });
  const committing = store.commit([insert(1)]);
  await store.close();
  await committing;
  await assert.rejects(store.commit([insert(2)]), { code: "STORE_CLOSED" });
  const database = new DatabaseSync(file);
  assert.equal(database.prepare("SELECT count(*) AS n FROM a_rows").get()?.["n"], 1);
  database.close();
});

test("the statements of all parts are SQL for their tables, and each name begins with its part", () => {
  const database = new DatabaseSync(":memory:");
  for (const { schema, statements } of ALL_TABLES) {
    database.exec(schema);
    for (const [name, sql] of Object.entries(statements)) {
      assert.match(name, /^[a-z]+\.[a-z.]+$/i);
      database.prepare(sql);
    }
  }
  database.close();
});
