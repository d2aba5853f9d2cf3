/** Where a node keeps its things, and which version this is; shared by the daemon and its clients. */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

/** `--state`, else /var/lib/weft for root, else $XDG_STATE_HOME/weft (default ~/.local/state/weft). @returns an absolute path */
export function stateDirectory(
  given: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
  uid: number | undefined = process.getuid?.(),
): string {
  if (given !== undefined) return resolve(given);
  if (uid === 0) return "/var/lib/weft";
  const base = env["XDG_STATE_HOME"];
  return join(base !== undefined && base.startsWith("/") ? base : join(homedir(), ".local", "state"), "weft");
}

export function socketPathOf(directory: string): string {
  return join(directory, "weft.sock");
}

let version: string | undefined;

/** The version in package.json, for example "0.1.0". */
export function weftVersion(): string {
  version ??= (JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string })
    .version;
  return version;
}

/** Lowest and highest protocol version this build speaks. */
export const PROTOCOL_RANGE: readonly [number, number] = [1, 1];
