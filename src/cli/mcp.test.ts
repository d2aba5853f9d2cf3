import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Command } from "@commander-js/extra-typings";
import { mcpClient, register } from "./mcp.ts";

const root = mkdtempSync(join(tmpdir(), "weft-cli-mcp-"));
after(() => rmSync(root, { recursive: true }));
const file = (text: string): string => {
  const path = join(root, "token");
  writeFileSync(path, text);
  return path;
};
const url = "http://127.0.0.1:9339";

test("weft mcp uses the socket, or the door for tokens with one from a file or the environment, never a mix", () => {
  assert.match(mcpClient({ state: root }, undefined).place, /weft\.sock$/);
  assert.equal(mcpClient({ url }, "weft_1_x").place, "127.0.0.1:9339");
  assert.equal(mcpClient({ url, tokenFile: file("weft_1_x\n") }, undefined).place, "127.0.0.1:9339");
  for (const [options, inherited] of [
    [{ url }, undefined],
    [{ url }, ""],
    [{ url: "nonsense" }, "weft_1_x"],
    [{ url: "https://127.0.0.1" }, "weft_1_x"],
    // its owner believes that the token bounds what agents may do
    [{}, "weft_1_x"],
    [{ tokenFile: file("weft_1_x") }, undefined],
    [{ url, tokenFile: join(root, "nothing") }, "weft_1_x"],
    [{ url, tokenFile: file("two words") }, undefined],
    [{ url, tokenFile: file("") }, "weft_1_x"],
  ] as const)
    assert.throws(() => mcpClient(options, inherited), { code: "USAGE" }, JSON.stringify(options));
});

test("no option of weft mcp takes a secret: others see what a command was started with", () => {
  const program = new Command();
  register(program);
  assert.deepEqual(
    program.commands[0].options.map(({ long }) => long).filter((name) => /token|secret/.test(name ?? "")),
    ["--token-file"],
  );
});
