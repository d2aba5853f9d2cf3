import assert from "node:assert/strict";
import { test } from "node:test";
import { createLoggerOn, printable } from "./log.ts";

function setup(level: "debug" | "info"): {
  lines: string[];
  clock: { ms: number };
  log: ReturnType<typeof createLoggerOn>;
} {
  const lines: string[] = [];
  const clock = { ms: 0 };
  const sink = {
    write: (at: string, room: string, message: string): void => void lines.push(`${at} ${room} ${message}`),
  };
  return { lines, clock, log: createLoggerOn(sink, level, () => clock.ms) };
}

test("a line that repeats is held back and counted", () => {
  const { lines, clock, log } = setup("info");
  for (let i = 0; i < 1000; i++) log.warn("no answer");
  log.info("other");
  clock.ms = 10_000;
  log.warn("no answer");
  assert.deepEqual(lines, ["warn  no answer", "info  other", "warn  no answer (and 999 times more before)"]);
});

test("levels below the threshold are not written, and rooms are named", () => {
  const { lines, log } = setup("info");
  log.debug("nothing");
  log.child("mesh").child("join").info("done");
  assert.deepEqual(lines, ["info mesh/join done"]);
});

test("what is remembered of lines is bounded", () => {
  const { lines, log } = setup("debug");
  for (let i = 0; i < 1000; i++) log.debug(`line ${i}`);
  log.debug("line 999");
  log.debug("line 0");
  assert.equal(lines.length, 1001);
});

test("control characters that came from elsewhere do not reach the terminal", () => {
  assert.equal(printable("a\nb\u001b[2Jc\rd\u009be"), "a\\nb\\x1b[2Jc\\x0dd\\x9be");
  assert.equal(printable("größe – ok"), "größe – ok");
});
