/**
 * Where the programs that Weft is compared with are found, and how they are built: never part of the product, only for these
 * benchmarks. `npm run bench -- peers --install` builds the newest release of each with the Go and Rust toolchains that are present,
 * through the module proxy and the crate registry those toolchains are set up for, into .cache/peers (git-ignored).
 */
import { accessSync, constants, mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "../../lab/process.ts";
import { findTool } from "../../lab/tools.ts";
import { reasonOf } from "./reading.ts";

export const ROOT: string = fileURLToPath(new URL("../..", import.meta.url));
const CACHE: string = join(ROOT, ".cache", "peers");
const CACHE_BIN: string = join(CACHE, "bin");

/** A build takes the machine's idle time only, and at most this long. */
const BUILD_TIMEOUT_MS = 30 * 60_000;
/** How many releases are tried, newest first, when one cannot be built because a module it needs is not served. */
const MAX_RELEASES = 4;

/** @returns full path of the first of `names` that is in the cache, else on the PATH */
export function findProgram(...names: readonly string[]): string | undefined {
  return names.map((name) => existing(join(CACHE_BIN, name))).find(Boolean) ?? names.map(findTool).find(Boolean);
}

export interface Built {
  readonly peer: string;
  /** undefined: not built. */
  readonly version: string | undefined;
  /** What was done, or why not, in one line. */
  readonly text: string;
}

/** Module version of a Go program as `go version -m` reads it from the file; undefined without Go or when it is no Go program. */
export async function goModuleVersion(path: string): Promise<string | undefined> {
  const go = findGo();
  if (go === undefined) return undefined;
  const result = await run(go, ["version", "-m", path]);
  return /^\s+mod\s+\S+\s+(\S+)/m.exec(result.stdout)?.[1];
}

/** Builds every peer whose toolchain is here. @param say one line for every step */
export async function installPeers(say: (line: string) => void): Promise<Built[]> {
  mkdirSync(CACHE_BIN, { recursive: true });
  const built: Built[] = [];
  for (const build of [buildWireguardGo, buildBoringtun, buildNebula]) built.push(await build(say));
  return built;
}

function findGo(): string | undefined {
  return findProgram("go") ?? existing("/usr/local/go/bin/go");
}

function existing(path: string): string | undefined {
  try {
    accessSync(path, constants.X_OK);
    return path;
  } catch {
    return undefined;
  }
}

function buildWireguardGo(say: (line: string) => void): Promise<Built> {
  return goInstall("wireguard-go", "golang.zx2c4.com/wireguard", [""], "wireguard", say);
}

function buildNebula(say: (line: string) => void): Promise<Built> {
  return goInstall("nebula", "github.com/slackhq/nebula", ["/cmd/nebula", "/cmd/nebula-cert"], "nebula", say);
}

async function goInstall(
  peer: string,
  module: string,
  packages: readonly string[],
  program: string,
  say: (line: string) => void,
): Promise<Built> {
  const go = findGo();
  if (go === undefined) return { peer, version: undefined, text: "not built: no Go toolchain (https://go.dev/dl)" };
  let first = "";
  for (const release of await goReleases(go, module)) {
    say(`${peer}: go install ${module}@${release}`);
    const targets = packages.map((path) => `${module}${path}@${release}`);
    const result = await run("nice", ["-n", "19", go, "install", ...targets], {
      timeoutMs: BUILD_TIMEOUT_MS,
      env: { GOBIN: CACHE_BIN },
    });
    if (result.code === 0) {
      const version = (await goModuleVersion(join(CACHE_BIN, program))) ?? release;
      return { peer, version, text: `built ${version}${first === "" ? "" : ` (${first})`}` };
    }
    const why = reasonOf(
      result.stderr
        .trim()
        .split("\n")
        .findLast((line) => line.trim() !== "" && !line.startsWith("go: downloading")) ?? "no output",
    );
    say(`${peer}: ${release} cannot be built: ${why}`);
    if (first === "") first = `${release} cannot be built here`;
  }
  return { peer, version: undefined, text: `not built: ${first}` };
}

/** "latest", then the releases before it, newest first. */
async function goReleases(go: string, module: string): Promise<string[]> {
  // Outside of any module, `go list -m` needs a scratch one around it.
  const folder = join(CACHE, "list");
  mkdirSync(folder, { recursive: true });
  await run(go, ["mod", "init", "list"], { cwd: folder });
  const result = await run(go, ["list", "-m", "-versions", module], { cwd: folder, timeoutMs: 120_000 });
  const versions = result.stdout.trim().split(/\s+/).slice(1).toReversed();
  return ["latest", ...versions.slice(1, MAX_RELEASES)];
}

async function buildBoringtun(say: (line: string) => void): Promise<Built> {
  const peer = "boringtun";
  const cargo = findProgram("cargo") ?? existing(join(process.env["HOME"] ?? "/root", ".cargo", "bin", "cargo"));
  if (cargo === undefined)
    return { peer, version: undefined, text: "not built: no Rust toolchain (https://rustup.rs)" };
  say(`${peer}: cargo install boringtun-cli (takes minutes)`);
  const result = await run("nice", ["-n", "19", cargo, "install", "boringtun-cli", "--root", CACHE], {
    timeoutMs: BUILD_TIMEOUT_MS,
  });
  if (result.code !== 0)
    return { peer, version: undefined, text: `not built: ${reasonOf(result.stderr.trim().split("\n").at(-1) ?? "")}` };
  const version = (await run(join(CACHE_BIN, "boringtun-cli"), ["--version"])).stdout.trim().split(" ").at(-1);
  return { peer, version, text: `built ${version}` };
}
