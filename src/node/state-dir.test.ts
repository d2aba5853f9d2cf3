import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Identity } from "../crypto/identity.ts";
import { systemRandom } from "./random.ts";
import { StateDirectory, writeFileDurably } from "./state-dir.ts";

const root = mkdtempSync(join(tmpdir(), "weft-state-"));
after(() => rmSync(root, { recursive: true }));
let counter = 0;
const fresh = (): string => join(root, `d${++counter}`, "nested");

test("directory and identity are private, and the identity comes back the same", () => {
  const path = fresh();
  const state = new StateDirectory(path);
  assert.equal(state.readIdentity(), undefined);
  const made = Identity.generate(systemRandom);
  state.writeIdentity(made);
  assert.equal(statSync(path).mode & 0o777, 0o700);
  assert.equal(statSync(state.identityFile).mode & 0o777, 0o600);
  assert.deepEqual(state.readIdentity()?.nodeId, made.nodeId);
  assert.deepEqual(
    readdirSync(path).filter((name) => name.endsWith(".tmp")),
    [],
  );
  state.close();
});

test("a second user of a state directory is told so, until the first lets go", () => {
  const path = fresh();
  const first = new StateDirectory(path);
  assert.throws(() => new StateDirectory(path), { code: "STATE_LOCKED", message: new RegExp(path) });
  first.close();
  new StateDirectory(path).close();
});

test("a damaged identity is an error that leaves the file as it is", () => {
  const state = new StateDirectory(fresh());
  state.writeIdentity(Identity.generate(systemRandom));
  const sound = readFileSync(state.identityFile, "utf8");
  const seed = sound.indexOf("seed ") + 10;
  const damages = [
    "",
    "\0".repeat(100),
    sound.slice(0, -20),
    `${sound.slice(0, seed)}${sound[seed] === "a" ? "b" : "a"}${sound.slice(seed + 1)}`,
    "x".repeat(10_000),
  ];
  for (const damage of damages) {
    writeFileSync(state.identityFile, damage);
    assert.throws(() => state.readIdentity(), { code: "IDENTITY_DAMAGED", message: /left as it is/ });
    assert.throws(() => state.writeIdentity(Identity.generate(systemRandom)), { code: "IDENTITY_EXISTS" });
    assert.equal(readFileSync(state.identityFile, "utf8"), damage);
  }
  state.close();
});

test("an identity others may read is refused", () => {
  const state = new StateDirectory(fresh());
  state.writeIdentity(Identity.generate(systemRandom));
  chmodSync(state.identityFile, 0o644);
  assert.throws(() => state.readIdentity(), { code: "IDENTITY_UNSAFE", remedy: /chmod 600/ });
  state.close();
});

test("a directory everybody may write to is refused", () => {
  const path = fresh();
  new StateDirectory(path).close();
  chmodSync(path, 0o777);
  assert.throws(() => new StateDirectory(path), { code: "STATE_UNSAFE" });
});

test("a write that cannot happen leaves the old file and no rubbish", () => {
  const path = fresh();
  const state = new StateDirectory(path);
  const file = join(path, "value");
  writeFileDurably(file, "one", 0o600);
  writeFileDurably(file, "two", 0o600);
  assert.equal(readFileSync(file, "utf8"), "two");
  assert.throws(() => writeFileDurably(join(path, "missing", "value"), "x", 0o600), { code: "STATE_DENIED" });
  assert.deepEqual(readdirSync(path).toSorted(), ["lock", "value"]);
  state.close();
});
