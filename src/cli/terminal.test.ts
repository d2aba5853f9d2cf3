import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { styleText } from "node:util";
import fc from "fast-check";
import type { InboxMessageView } from "../api/messaging/direct-control.ts";
import type { HistoryMessageView } from "../api/messaging/history-control.ts";
import { print, reportError, show } from "./context.ts";
import { table } from "./format.ts";
import { messageLine } from "./history.ts";
import { describe } from "./inbox.ts";
import { forTerminal, write, writeBytes } from "./terminal.ts";

/** Clears the screen, sets the title, hides what follows, types an answer, turns the direction. */
const EVIL = "a\u001b[2J\u001b]0;x\u0007\u001b[8m\u009b6n\r\b\u007f\u202eb";
const SHOWN = String.raw`a\u001b[2J\u001b]0;x\u0007\u001b[8m\u009b6n\u000d\u0008\u007f\u202eb`;

/** What `work` writes when both outputs are terminals, or when neither is. */
function written(isTTY: boolean, work: () => void): string {
  let text = "";
  const streams = [process.stdout, process.stderr].map((stream) => ({
    stream,
    isTTY: Object.getOwnPropertyDescriptor(stream, "isTTY"),
    write: Object.getOwnPropertyDescriptor(stream, "write"),
  }));
  const take = (chunk: string): boolean => {
    text += chunk;
    return true;
  };
  for (const { stream } of streams) {
    Object.defineProperty(stream, "isTTY", { configurable: true, value: isTTY });
    Object.defineProperty(stream, "write", { configurable: true, value: take });
  }
  try {
    work();
  } finally {
    for (const { stream, ...before } of streams)
      for (const name of ["isTTY", "write"] as const) {
        delete (stream as unknown as Record<string, unknown>)[name];
        if (before[name] !== undefined) Object.defineProperty(stream, name, before[name]);
      }
  }
  return text;
}

test("control characters of others reach no terminal, and a pipe gets the text as it is", () => {
  for (const work of [
    () => print(EVIL),
    () => show({}, EVIL, (text) => text),
    () => write(`${EVIL}\n`, process.stderr),
    () => void writeBytes(Buffer.from(`${EVIL}\n`)),
  ]) {
    assert.equal(written(true, work), `${SHOWN}\n`);
    assert.equal(Buffer.from(written(false, work)).toString(), `${EVIL}\n`);
  }
  const error = written(true, () => void reportError(new Error(EVIL), []));
  assert.ok(error.includes(SHOWN) && !error.includes("\u001b"), JSON.stringify(error));
});

test("nothing but text, new lines, tabs and own colours passes, and JSON stays what it was", () => {
  const nasty = fc.string({ unit: fc.constantFrom(...'\u001b[]?0123456789;mJHK\u0000\r\n\t\u009b\u202ea\\"') });
  fc.assert(
    fc.property(nasty, (text) => {
      // oxlint-disable-next-line no-control-regex -- colours that pass
      const rest = forTerminal(text).replace(/\u001b\[(1|22|3[1236]|39|90)m/g, "");
      // oxlint-disable-next-line no-control-regex -- that is what must not be there
      assert.doesNotMatch(rest, /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e]/);
      assert.deepEqual(JSON.parse(forTerminal(JSON.stringify({ text }))), { text });
    }),
    { numRuns: 500 },
  );
});

test("what the command paints itself stays", () => {
  for (const style of ["bold", "red", "green", "yellow", "cyan", "gray"] as const) {
    const text = styleText(style, "x", { validateStream: false });
    assert.equal(forTerminal(text), text, style);
  }
});

test("a value cannot look like another row or another message", () => {
  const node = { id: "n1", name: "nas" };
  const fake = "x\n43  2026-01-01 00:00:00  boss: go";
  assert.equal(table(["A"], [[fake]]).split("\n").length, 2);
  const common = { from: node, payload: "", text: fake };
  const message = { ...common, sequence: 42, receivedAt: "2026-01-01T00:00:00Z", name: fake };
  const kept = { ...common, at: "2026-01-01T00:00:00Z", kind: "group", conversation: fake, fromAgent: "", to: null };
  for (const shown of [
    describe(message as unknown as InboxMessageView),
    messageLine(kept as unknown as HistoryMessageView),
  ])
    assert.ok(
      shown
        .split("\n")
        .slice(1)
        .every((line) => line.startsWith("    ")),
      shown,
    );
});

test("no command writes to the terminal in another way", () => {
  const folder = new URL(".", import.meta.url);
  const own = new Set(["terminal.ts"]);
  const found: string[] = [];
  for (const file of readdirSync(folder)) {
    if (!file.endsWith(".ts") || file.endsWith(".test.ts") || own.has(file)) continue;
    for (const line of readFileSync(new URL(file, folder), "utf8").split("\n")) {
      if (!/\b(?:stdout|stderr|stream)\)?\.write\(|\bconsole\./.test(line)) continue;
      // constants, and what is made fit on the spot
      if (/\.write\("[^"]*"\)/.test(line) || line.includes("forTerminal(")) continue;
      found.push(`${file}: ${line.trim()}`);
    }
  }
  // the output of a program that was asked for, as ssh gives it
  assert.deepEqual(found, ['exec.ts: else (stream === "out" ? process.stdout : process.stderr).write(bytes);']);
});
