/**
 * The programs of the machine that lab, demo and tests use, the Debian package of each, and how a missing one is got: with apt-get when
 * this process is root and apt-get is there (said in one line before), else the caller learns what is missing and what to run.
 */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { LabError, run } from "./process.ts";

const PACKAGES = {
  ip: "iproute2",
  tc: "iproute2",
  nft: "nftables",
  ping: "iputils-ping",
  iperf3: "iperf3",
  curl: "curl",
  ssh: "openssh-client",
  scp: "openssh-client",
  "ssh-keygen": "openssh-client",
  sshd: "openssh-server",
  tcpdump: "tcpdump",
  setpriv: "util-linux",
  nginx: "nginx",
  turnserver: "coturn",
  miniupnpd: "miniupnpd-nftables",
  openssl: "openssl",
} as const;

export type Tool = keyof typeof PACKAGES;

/** Absolute path of a program on the PATH or in the system folders that an ordinary user's PATH leaves out. */
export function findTool(name: string): string | undefined {
  for (const folder of [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin", "/usr/bin", "/bin"]) {
    if (folder === "") continue;
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** @returns the Debian packages that hold the missing ones of `tools`, each once */
export function missingPackages(tools: readonly Tool[]): string[] {
  return [...new Set(tools.filter((tool) => findTool(tool) === undefined).map((tool) => PACKAGES[tool]))];
}

/**
 * Makes sure that `tools` are there. Rejects with LabError naming the missing packages and the command that installs them.
 * @param say receives the one line that announces an installation
 */
export async function ensureTools(
  tools: readonly Tool[],
  say: (line: string) => void = (line) => void process.stdout.write(`${line}\n`),
): Promise<void> {
  const packages = missingPackages(tools);
  if (packages.length === 0) return;
  const command = `apt-get install --yes --no-install-recommends ${packages.join(" ")}`;
  const aptGet = findTool("apt-get");
  if (process.getuid?.() !== 0 || aptGet === undefined) {
    throw new LabError("TOOLS_MISSING", `missing: ${packages.join(", ")}; install them with: sudo ${command}`);
  }
  say(`installing ${packages.join(", ")} with apt-get`);
  const env = { DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
  const install = (): ReturnType<typeof run> =>
    run(aptGet, ["install", "--yes", "--no-install-recommends", ...packages], { env, timeoutMs: 300_000 });
  let result = await install();
  if (result.code !== 0) {
    // A fresh machine has no package lists yet.
    await run(aptGet, ["update"], { env, timeoutMs: 120_000 });
    result = await install();
  }
  const still = missingPackages(tools);
  if (result.code !== 0 || still.length > 0) {
    const why = result.stderr.trim().split("\n").at(-1) ?? "";
    throw new LabError("TOOLS_MISSING", `could not install ${packages.join(", ")} (${why}); try: ${command}`);
  }
}
