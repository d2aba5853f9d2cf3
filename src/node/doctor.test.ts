import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { localFacts } from "./doctor.ts";

test("what tunnel and streams need of this machine is called and answers, and every fact says what it is about", async () => {
  const directory = mkdtempSync(join(tmpdir(), "weft-doctor-"));
  try {
    const facts = await localFacts(directory);
    for (const code of ["system-calls", "quic"]) {
      const fact = facts.find((one) => one.code === code);
      assert.ok(fact?.ok === true, `${code}: ${fact?.text}`);
      assert.equal(fact.severity, "error", "a machine without it cannot run Weft");
    }
    assert.equal(new Set(facts.map(({ code }) => code)).size, facts.length);
    for (const { ok, code, remedy } of facts) assert.ok(ok || remedy !== "", `${code} comes with a remedy`);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
