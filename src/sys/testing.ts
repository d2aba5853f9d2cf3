/**
 * For the tests of this folder: a network namespace of the test's own, and why it cannot be had.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { unshareNetwork } from "./netns.ts";
import { hasNetAdmin, hasSysAdmin } from "./process.ts";

/** The `skip` option of a test that needs privateNetwork(): false, or the reason, which the runner prints. */
export const skipWithoutNamespaces: string | false = reason();

function reason(): string | false {
  if (!hasNetAdmin() || !hasSysAdmin()) return "needs CAP_NET_ADMIN and CAP_SYS_ADMIN (run as root)";
  if (!existsSync("/dev/net/tun")) return "needs /dev/net/tun (modprobe tun)";
  if (spawnSync("ip", ["-V"]).status !== 0) return "needs the ip program (iproute2)";
  return false;
}

/** Runs `ip` in the calling thread's namespace. @throws when it fails */
export function ip(...parameters: string[]): string {
  return execFileSync("ip", parameters, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** Many `ip` commands in one process. @throws when one fails */
export function ipBatch(commands: readonly string[]): void {
  execFileSync("ip", ["-batch", "-"], { input: commands.join("\n"), stdio: ["pipe", "pipe", "pipe"] });
}

/** Moves the calling thread into its own namespace with loopback up. @returns a function that takes it back */
export function privateNetwork(): () => void {
  const back = unshareNetwork();
  ip("link", "set", "lo", "up");
  return back;
}
