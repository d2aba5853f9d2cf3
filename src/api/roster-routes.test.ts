import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { WeftError } from "../base/errors.ts";
import { nullLogger } from "../base/log.ts";
import { WeftClient } from "../client/client.ts";
import type { NodeControl } from "./control.ts";
import type { RosterControl } from "./roster-control.ts";
import { MAX_IMPORT_STATEMENTS } from "./roster-routes.ts";
import { serveApi } from "./server.ts";

/** Answers every call with what it was asked. */
function recorder(asked: unknown[]): RosterControl {
  const answer = (name: string): unknown => {
    return (...args: readonly unknown[]) => {
      asked.push([name, ...args]);
      if (args[0] === "nobody")
        throw new WeftError("REQUEST_UNKNOWN", 'no request by "nobody" waits here', "weft requests");
      return name === "requests" || name === "invites" ? [] : { name };
    };
  };
  return new Proxy({}, { get: (_, name) => answer(String(name)) }) as RosterControl;
}

test("client and server agree on every route about membership, and bad bodies never reach the node", async () => {
  const folder = mkdtempSync(join(tmpdir(), "weft-roster-"));
  const asked: unknown[] = [];
  const control = { roster: recorder(asked) } as unknown as NodeControl;
  const server = await serveApi(control, join(folder, "weft.sock"), nullLogger);
  const client = new WeftClient(join(folder, "weft.sock"));
  try {
    assert.deepEqual(await client.invites(), []);
    assert.deepEqual(await client.requests(), []);
    await client.endInvite("00ff", "leaked");
    await client.approve("w1abc", "kitchen");
    await client.approve("w1abc", undefined);
    await client.deny("w1abc", "no");
    await client.updateMember({ node: "x", roles: ["beacon"], tags: [], expiresAt: "never" });
    await client.roster();
    await client.setPolicy("refuse");
    await client.exportRoster();
    await client.importRoster("0".repeat(64), ["AAAA"]);
    assert.deepEqual(asked, [
      ["invites"],
      ["requests"],
      ["endInvite", "00ff", "leaked"],
      ["approve", "w1abc", "kitchen"],
      ["approve", "w1abc", undefined],
      ["deny", "w1abc", "no"],
      ["updateMember", { node: "x", roles: ["beacon"], tags: [], expiresAt: "never" }],
      ["roster"],
      ["setPolicy", "refuse"],
      ["exportRoster"],
      ["importRoster", "0".repeat(64), ["AAAA"]],
    ]);
    await assert.rejects(client.approve("nobody", undefined), { code: "REQUEST_UNKNOWN" });
    const before = asked.length;
    const bad = { code: "BAD_REQUEST" };
    await assert.rejects(client.updateMember({ node: "x", roles: ["king"] }), bad);
    await assert.rejects(client.updateMember({ node: "x", tags: [""] }), bad);
    await assert.rejects(client.setPolicy("maybe" as "allow"), bad);
    await assert.rejects(client.endInvite("0", ""), bad);
    await assert.rejects(client.importRoster("short", []), bad);
    const many = Array.from({ length: MAX_IMPORT_STATEMENTS + 1 }, () => "AAAA");
    await assert.rejects(client.importRoster("0".repeat(64), many), bad);
    assert.equal(asked.length, before);
  } finally {
    await server.close();
    rmSync(folder, { recursive: true });
  }
});
