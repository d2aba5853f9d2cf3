import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Client } from "@modelcontextprotocol/client";
import { InMemoryTransport } from "@modelcontextprotocol/server";
import type { WeftClient } from "../client/client.ts";
import { fileBelow, openFilesRoot } from "./file-tools.ts";
import { createMcpServer } from "./server.ts";
import type { ToolOptions } from "./tool.ts";

const place = realpathSync(mkdtempSync(join(tmpdir(), "weft-mcp-")));
after(() => rmSync(place, { recursive: true }));
const root = join(place, "out");
mkdirSync(join(root, "sub"), { recursive: true });
mkdirSync(join(place, "out-of-reach"));
for (const file of ["out/a.txt", "out/sub/..b", "secret", "out-of-reach/secret"]) writeFileSync(join(place, file), "x");
symlinkSync("../secret", join(root, "link"));
symlinkSync("..", join(root, "up"));
symlinkSync("a.txt", join(root, "inside"));
symlinkSync(root, join(place, "alias"));

test("a file is handed out when it really is below the directory, and everything else is the same refusal", () => {
  for (const directory of [root, join(place, "alias")]) {
    const opened = openFilesRoot(directory);
    assert.equal(opened, root);
    for (const path of ["a.txt", join(root, "a.txt"), "sub/../a.txt", "inside", join(place, "alias/a.txt")])
      assert.equal(fileBelow(opened, path), join(root, "a.txt"), path);
    assert.equal(fileBelow(opened, "sub/..b"), join(root, "sub/..b"));
    for (const path of [
      "../secret",
      join(place, "secret"),
      "link",
      "up/secret",
      "up/out-of-reach/secret",
      join(place, "out-of-reach/secret"),
      "/etc/passwd",
      "/proc/self/environ",
      "",
      ".",
      "sub",
      "nothing",
      "a.txt\0",
    ])
      assert.throws(() => fileBelow(opened, path), { code: "FORBIDDEN", message: /is no file below/ }, path);
  }
  assert.throws(() => openFilesRoot(join(root, "a.txt")), { code: "USAGE" });
  assert.throws(() => openFilesRoot(join(root, "nothing")), { code: "USAGE" });
});

/** @returns names of the tools, and what a call of weft_file_send made the daemon do */
async function send(options: ToolOptions, path: string): Promise<{ names: string[]; asked: unknown[] }> {
  const asked: unknown[] = [];
  const client = {
    call: (_method: string, _path: string, { body }: { body: unknown }) => {
      asked.push(body);
      return Promise.resolve({});
    },
  } as unknown as WeftClient;
  const server = createMcpServer(client, options);
  const [here, there] = InMemoryTransport.createLinkedPair();
  const model = new Client({ name: "test", version: "1" });
  await Promise.all([server.connect(here), model.connect(there)]);
  const names = (await model.listTools()).tools.map(({ name }) => name);
  await model.callTool({ name: "weft_file_send", arguments: { path, to: "nas" } }).catch(() => undefined);
  await Promise.all([model.close(), server.close()]);
  return { names, asked };
}

test("without a directory there is no tool that hands out files; with one only its files reach the daemon", async () => {
  const none = await send({}, join(root, "a.txt"));
  assert.deepEqual(
    none.names.filter((name) => /send|share/.test(name)),
    ["weft_send"],
  );
  assert.deepEqual(none.asked, []);
  const some = await send({ filesRoot: root }, "inside");
  assert.ok(some.names.includes("weft_file_send") && some.names.includes("weft_file_share"));
  assert.deepEqual(some.asked, [{ path: join(root, "a.txt"), to: "nas" }]);
  assert.deepEqual((await send({ filesRoot: root }, "link")).asked, []);
});
