import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import { test } from "node:test";
import fc from "fast-check";
import { HISTORY_TABLES } from "../../node/messaging/tables/history.ts";
import { searchQuery } from "./query.ts";
import { HistoryQuota } from "./quota.ts";

function database(): DatabaseSync {
  const db = new DatabaseSync(":memory:");
  db.exec(HISTORY_TABLES.schema);
  return db;
}

function insert(db: DatabaseSync, ref: string, text: string, agent = "node"): void {
  const values = [ref, "direct", "", agent, new Uint8Array(32), "", null, 1, new TextEncoder().encode(text), text];
  db.prepare(HISTORY_TABLES.statements["history.insert"]).run(...values);
}

function search(db: DatabaseSync, typed: string, agent = "node"): string[] {
  const query = searchQuery(typed);
  if (query === undefined) return [];
  const rows = db.prepare(HISTORY_TABLES.statements["history.search"]).all(query, 2 ** 50, agent);
  return rows.map((row) => row["ref"] as string).toSorted();
}

test("whatever is typed is a query that SQLite takes", () => {
  const db = database();
  insert(db, "1", "some words");
  const typed = fc.oneof(
    fc.string({ unit: "binary", maxLength: 40 }),
    fc.string({ unit: "grapheme", maxLength: 40 }),
    fc
      .array(
        fc.constantFrom(
          '"',
          "*",
          "AND",
          "NOT",
          "(",
          ")",
          "^",
          "text:",
          "-",
          " ",
          "a",
          "NEAR",
          "+",
          "'",
          "\0",
          "{",
          "}",
        ),
        { maxLength: 12 },
      )
      .map((parts) => parts.join("")),
  );
  fc.assert(
    fc.property(typed, (text) => void search(db, text)),
    { numRuns: 300 },
  );
});

test("all words must be there; phrases stay together, a star stands for any ending; case and accents do not matter", () => {
  const db = database();
  insert(db, "a", "Deploy of the gateway failed");
  insert(db, "b", "the gateway is out of memory");
  insert(db, "c", "memory out of stock — Déploy");
  assert.deepEqual(search(db, "gateway"), ["a", "b"]);
  assert.deepEqual(search(db, "gateway failed"), ["a"]);
  assert.deepEqual(search(db, '"out of memory"'), ["b"]);
  assert.deepEqual(search(db, "fail*"), ["a"]);
  assert.deepEqual(search(db, "fail"), []);
  assert.deepEqual(search(db, "deploy"), ["a", "c"]);
  assert.deepEqual(search(db, "OR"), []);
  assert.equal(searchQuery("  *** "), undefined);
});

test("an agent finds its own messages alone; the same message is kept once; what is trimmed is found no more", () => {
  const db = database();
  insert(db, "1", "secret plan", "bot");
  insert(db, "2", "open plan");
  insert(db, "2", "open plan");
  assert.deepEqual(search(db, "plan"), ["2"]);
  assert.deepEqual(search(db, "plan", "bot"), ["1"]);
  assert.deepEqual(
    { ...db.prepare(HISTORY_TABLES.statements["history.figures"]).get() },
    { rows: 2, bytes: 60 },
    "bytes, text and index",
  );
  db.prepare(HISTORY_TABLES.statements["history.trim"]).run(1);
  assert.deepEqual(search(db, "plan", "bot"), []);
  assert.deepEqual(search(db, "plan"), ["2"]);
  db.exec("INSERT INTO history_text (history_text) VALUES ('integrity-check')");
});

test("the history never grows beyond its quota, whatever comes", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(5000), { maxLength: 300 }), (sizes) => {
      const limits = { maxRows: 50, maxBytes: 100_000 };
      const quota = new HistoryQuota(limits);
      const rows: number[] = [];
      for (const size of sizes) {
        const surplus = quota.add(size);
        rows.push(size);
        if (surplus === 0) continue;
        rows.splice(0, surplus);
        quota.measured(
          rows.length,
          rows.reduce((sum, one) => sum + one, 0),
        );
      }
      assert.equal(quota.rows, rows.length);
      assert.ok(rows.length <= limits.maxRows);
      // one step removes a tenth of the rows; large ones may need the next message too
      assert.ok(quota.bytes <= limits.maxBytes + 5768, `${quota.bytes}`);
    }),
  );
});
