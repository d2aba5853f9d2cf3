import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { SeededRandom } from "../base/random.ts";
import { ApiTokens } from "./api-tokens.ts";

const root = mkdtempSync(join(tmpdir(), "weft-tokens-"));
after(() => rmSync(root, { recursive: true }));
let folders = 0;

function open(directory?: string): { tokens: ApiTokens; directory: string; clock: { wallMs: number } } {
  const clock = { wallMs: Date.UTC(2030, 0, 1) };
  const folder = directory ?? mkdtempSync(join(root, `d${++folders}`));
  const random = new SeededRandom(++folders);
  return { tokens: new ApiTokens(folder, { random, wallMs: () => clock.wallMs }), directory: folder, clock };
}

test("a token says who calls and what it may, also after a restart; its secret is nowhere on disk", async () => {
  const { tokens, directory } = open();
  const made = await tokens.create({ name: "bot", scopes: ["send", "read"], agent: "helper" });
  const file = join(directory, "tokens.json");
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.ok(!readFileSync(file, "utf8").includes(made.token.slice(14)));
  for (const store of [tokens, open(directory).tokens]) {
    const caller = store.verify(made.token);
    assert.deepEqual(
      { ...caller, scopes: [...(caller?.scopes ?? [])] },
      { via: "token", id: made.id, scopes: ["read", "send"], agent: "helper" },
    );
  }
  assert.equal(tokens.list()[0].lastUsedAt, "2030-01-01T00:00:00.000Z");
});

test("any other text, a revoked token and one past its end are nobody", async () => {
  const { tokens, clock } = open();
  const one = await tokens.create({ name: "one", scopes: ["admin"] });
  const two = await tokens.create({ name: "two", scopes: ["read"], expiresSeconds: 60 });
  const flipped = one.token.slice(0, -2) + (one.token.at(-2) === "A" ? "B" : "A") + one.token.slice(-1);
  const crossed = `weft_${one.id}_${two.token.slice(14)}`;
  const unknown = `weft_00000000_${one.token.slice(14)}`;
  for (const wrong of ["", "x", flipped, crossed, unknown, `${one.token}A`, one.token.toUpperCase(), "weft___proto___"])
    assert.equal(tokens.verify(wrong), undefined, wrong);
  assert.notEqual(tokens.verify(two.token), undefined);
  clock.wallMs += 60_000;
  assert.equal(tokens.verify(two.token), undefined);
  await tokens.revoke("one");
  assert.equal(tokens.verify(one.token), undefined);
  await assert.rejects(tokens.revoke("one"), { code: "TOKEN_UNKNOWN" });
});

test("whoever holds something open is told once when its token ends, and not when another one does", async (t) => {
  const { tokens, clock } = open();
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const told: string[] = [];
  const one = await tokens.create({ name: "one", scopes: ["read"] });
  const two = await tokens.create({ name: "two", scopes: ["read"], expiresSeconds: 90 });
  for (const { id, name } of [one, two]) tokens.onEnd(id, () => told.push(name));
  tokens.onEnd(one.id, () => told.push("forgotten"))();
  const pass = (ms: number): void => {
    clock.wallMs += ms;
    t.mock.timers.tick(ms);
  };
  pass(60_000);
  assert.deepEqual([told, tokens.isLive(one.id), tokens.isLive(two.id)], [[], true, true]);
  pass(30_000);
  assert.deepEqual([told, tokens.isLive(one.id), tokens.isLive(two.id)], [["two"], true, false]);
  await tokens.revoke("one");
  assert.deepEqual([told, tokens.isLive(one.id)], [["two", "one"], false]);
  tokens.onEnd(one.id, () => told.push("late"));
  assert.deepEqual(told, ["two", "one", "late"]);
});

test("a token that includes everything is not bound to an agent", async () => {
  const { tokens } = open();
  await assert.rejects(tokens.create({ name: "x", scopes: ["admin"], agent: "helper" }), { code: "BAD_REQUEST" });
});

test("a hash of zeros in the file is no way in for unknown ids", () => {
  const { directory } = open();
  const entry = { id: "0a0a0a0a", name: "x", scopes: ["admin"], agent: null, createdAtMs: 0, expiresAtMs: null };
  writeFileSync(
    join(directory, "tokens.json"),
    JSON.stringify({ version: 1, tokens: [{ ...entry, hash: "0".repeat(64) }] }),
    {
      mode: 0o600,
    },
  );
  assert.equal(open(directory).tokens.verify(`weft_0a0a0a0a_${"A".repeat(43)}`), undefined);
});

test("names are unique, the number of tokens is bounded, and expired ones make room", async () => {
  const { tokens, clock } = open();
  await tokens.create({ name: "a", scopes: ["read"] });
  await assert.rejects(tokens.create({ name: "a", scopes: ["read"] }), { code: "TOKEN_EXISTS" });
  for (let i = 1; i < 64; i++) await tokens.create({ name: `n${i}`, scopes: ["read"], expiresSeconds: 5 });
  await assert.rejects(tokens.create({ name: "z", scopes: ["read"] }), { code: "TOKENS_FULL" });
  clock.wallMs += 5000;
  await tokens.create({ name: "z", scopes: ["read"] });
  assert.deepEqual(
    tokens.list().map(({ name }) => name),
    ["a", "z"],
  );
});

test("a damaged file, or one that others may read, is an error and not an empty list", async () => {
  const { tokens, directory } = open();
  await tokens.create({ name: "a", scopes: ["read"] });
  const file = join(directory, "tokens.json");
  chmodSync(file, 0o644);
  assert.throws(() => open(directory), { code: "TOKENS_UNSAFE" });
  chmodSync(file, 0o600);
  for (const text of ["", "{", '{"version":2,"tokens":[]}', '{"version":1,"tokens":[{"id":"x"}]}']) {
    writeFileSync(file, text);
    assert.throws(() => open(directory), { code: "TOKENS_DAMAGED" });
  }
});
