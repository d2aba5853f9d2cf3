/** Runs one of the programs that live beside the sources (lab, bench) as a process of its own: nothing in src imports them. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { WeftError } from "../base/errors.ts";

/** @param program path below the root of the repository @returns its exit code */
export async function runChild(program: string, args: readonly string[]): Promise<number> {
  const root = new URL("../../", import.meta.url);
  const file = fileURLToPath(new URL(program, root));
  if (!existsSync(file)) {
    throw new WeftError(
      "NOT_INSTALLED",
      `${program} is not part of this installation`,
      "run it from a checkout of the repository",
    );
  }
  const child = spawn(fileURLToPath(new URL("bin/weft-node", root)), [file, ...args], { stdio: "inherit" });
  // a terminal sends Ctrl-C to both; a service manager only to us
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal);
  const ignore = (): void => undefined;
  process.on("SIGTERM", forward);
  process.on("SIGHUP", forward);
  process.on("SIGINT", process.stdin.isTTY ? ignore : forward);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => resolve(code ?? (signal === "SIGINT" ? 130 : 1)));
  });
}
