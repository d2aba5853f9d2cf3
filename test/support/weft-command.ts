/** The `weft` command as its users run it: one process per call, daemons that end with the test. */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { fileURLToPath } from "node:url";

const WEFT = fileURLToPath(new URL("../../bin/weft", import.meta.url));
/** Removed after the tests of the file. */
export const root: string = mkdtempSync(join(tmpdir(), "weft-cli-"));
const daemons = new Set<ChildProcess>();
after(async () => {
  for (const daemon of daemons) daemon.kill("SIGKILL");
  rmSync(root, { recursive: true, force: true });
});

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export function weft(...args: string[]): Promise<Result> {
  return run(args, "", {});
}

/** @param input for standard input */
export function run(args: string[], input: string, env: Record<string, string>): Promise<Result> {
  return new Promise((resolve) => {
    const child = execFile(WEFT, args, { env: { ...process.env, ...env } }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
    child.stdin?.end(input);
  });
}

/** Starts `weft up` as an agent node and waits for its line. */
export async function up(state: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(WEFT, ["up", "--state", state, "--no-tun", "--listen", "127.0.0.1:0", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  daemons.add(child);
  let output = "";
  let errors = "";
  child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
  await new Promise<void>((resolve, reject) => {
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString();
      if (output === "ready\n") resolve();
    });
    child.once("exit", (code) => reject(new Error(`weft up ended with ${code}: ${errors}`)));
  });
  return child;
}

export async function exited(child: ChildProcess): Promise<number | null> {
  daemons.delete(child);
  return child.exitCode ?? new Promise((resolve) => child.once("exit", resolve));
}

/** The command failed with that code and said why and what to do in one line. */
export function assertOneLine(result: Result, code: number, pattern: RegExp): void {
  assert.equal(result.code, code, result.stderr);
  assert.match(result.stderr, pattern);
  assert.match(result.stderr, /^weft: .+; .+\n$/);
}
