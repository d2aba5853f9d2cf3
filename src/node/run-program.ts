/** Runs a small system program (`ip`) without blocking the event loop. Output and time are bounded. */
import { spawn } from "node:child_process";
import { WeftError } from "../base/errors.ts";

const TIMEOUT_MS = 10_000;
const MAX_OUTPUT_BYTES = 8 * 1024 * 1024;

/** @param input written to its standard input @returns its standard output @throws WeftError PROGRAM_MISSING or PROGRAM_FAILED */
export function runProgram(program: string, args: readonly string[], input = ""): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ["pipe", "pipe", "pipe"],
      timeout: TIMEOUT_MS,
      env: { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`, LC_ALL: "C" },
    });
    const output: Buffer[] = [];
    let errors = "";
    let total = 0;
    child.stdout.on("data", (chunk: Buffer) => {
      total += chunk.length;
      if (total > MAX_OUTPUT_BYTES) child.kill();
      else output.push(chunk);
    });
    child.stderr.on("data", (chunk: Buffer) => {
      if (errors.length < 2000) errors += chunk.toString("utf8");
    });
    child.on("error", (cause: NodeJS.ErrnoException) => {
      const missing = cause.code === "ENOENT";
      reject(
        new WeftError(
          missing ? "PROGRAM_MISSING" : "PROGRAM_FAILED",
          missing ? `the program \`${program}\` is not installed` : `cannot run ${program}: ${cause.message}`,
          program === "ip" ? "install iproute2 (apt install iproute2)" : `install ${program}`,
          { cause },
        ),
      );
    });
    child.on("close", (code, signal) => {
      if (code === 0) {
        resolve(Buffer.concat(output).toString("utf8"));
        return;
      }
      const why = errors.trim().split("\n").slice(0, 2).join(" ") || `ended with ${signal ?? code}`;
      reject(
        new WeftError(
          "PROGRAM_FAILED",
          `${program} ${args.join(" ")}: ${why}`,
          "check that the program works on this machine",
        ),
      );
    });
    child.stdin.on("error", () => undefined);
    child.stdin.end(input);
  });
}
