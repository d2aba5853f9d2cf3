import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { Journal, JOURNAL_NAME } from "./journal.ts";
import type { Change } from "./system-changes.ts";

const root = mkdtempSync(join(tmpdir(), "weft-journal-"));
after(() => rmSync(root, { recursive: true, force: true }));
const folder = (): string => mkdtempSync(join(root, "j-"));
const sysctl = (path: string): Change => ({ kind: "sysctl", path, before: "0", after: "1" });

test("an intent is on disk when add() resolves, and outlives its process", async () => {
  const state = folder();
  const journal = await Journal.open(state, "boot/1");
  const entry = await journal.add(sysctl("a"));
  assert.match(readFileSync(join(state, JOURNAL_NAME), "utf8"), /"path":"a"/);
  // not closed: the process was killed
  const again = await Journal.open(state, "boot/1");
  assert.deepEqual(again.outstanding, [entry]);
  const next = await again.add(sysctl("b"));
  assert.ok(next.id > entry.id, "ids are not used twice");
  await Promise.all([journal.close(), again.close()]);
});

test("when everything is undone the file is empty", async () => {
  const state = folder();
  const journal = await Journal.open(state, "s");
  const [a, b] = [await journal.add(sysctl("a")), await journal.add(sysctl("b"))];
  await journal.done(a.id);
  assert.deepEqual(
    (await reopen(state)).map(({ id }) => id),
    [b.id],
  );
  await journal.done(b.id);
  await journal.done(b.id);
  assert.equal(readFileSync(join(state, JOURNAL_NAME), "utf8"), "");
  await journal.close();
});

async function reopen(state: string): Promise<readonly { id: number }[]> {
  const journal = await Journal.open(state, "s");
  await journal.close();
  return journal.outstanding;
}

test("a torn last line is an intent whose change never began; appending goes on behind whole lines", async () => {
  const state = folder();
  const first = await Journal.open(state, "s");
  const entry = await first.add(sysctl("a"));
  await first.close();
  appendFileSync(join(state, JOURNAL_NAME), '{"id":2,"scope":"s","change":{"kind":"sys');
  const second = await Journal.open(state, "s");
  assert.deepEqual(second.outstanding, [entry]);
  assert.equal(second.damaged, 0);
  await second.add(sysctl("b"));
  await second.close();
  assert.equal((await reopen(state)).length, 2);
});

test("a damaged line is counted and does not hide the others", async () => {
  const state = folder();
  const first = await Journal.open(state, "s");
  await first.add(sysctl("a"));
  await first.close();
  const file = join(state, JOURNAL_NAME);
  writeFileSync(file, `\u0000garbage\n{"id":"x"}\n[]\n${readFileSync(file, "utf8")}`);
  const second = await Journal.open(state, "s");
  assert.equal(second.outstanding.length, 1);
  assert.equal(second.damaged, 3);
  await second.close();
});

test("any bytes in the file: it opens, and takes new intents", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
      const state = folder();
      writeFileSync(join(state, JOURNAL_NAME), bytes);
      const journal = await Journal.open(state, "s");
      const before = journal.outstanding.length;
      await journal.add(sysctl("a"));
      await journal.close();
      assert.equal((await reopen(state)).length, before + 1);
    }),
    { numRuns: 100 },
  );
});

test("more changes than the bound are refused before they are made", async () => {
  const journal = await Journal.open(folder(), "s");
  for (let i = 0; i < 1024; i++) await journal.add(sysctl(String(i)));
  await assert.rejects(journal.add(sysctl("one more")), { code: "JOURNAL_FULL" });
  await journal.close();
});
