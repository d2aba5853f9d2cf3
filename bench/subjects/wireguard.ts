/** The userspace WireGuards, wireguard-go and boringtun: same protocol, same configuration interface, each with its own defaults. */
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { run, until, type Daemon } from "../../lab/process.ts";
import type { Host } from "../../lab/namespaces.ts";
import type { TwoHosts } from "../../lab/topologies.ts";
import { findProgram, goModuleVersion } from "../tools/binaries.ts";
import { configure, generateKeys, UAPI_FOLDER, uapiPath } from "../tools/uapi.ts";
import { deviceMtu, overlay, underlayPort, type Found, type Subject, type Tunnel } from "./types.ts";

/** What wg-quick(8) sets on a 1,500-byte underlay: 80 bytes of room, so that IPv6 works too. */
const MTU_BYTES = 1420;

interface Program {
  readonly name: string;
  readonly programs: readonly string[];
  readonly arguments: readonly string[];
  /** Begins its device names. */
  readonly tag: string;
  version(path: string): Promise<string>;
}

async function find(program: Program): Promise<Found> {
  const path = findProgram(...program.programs);
  if (path === undefined) return { why: `${program.programs[0]} is not installed (npm run bench -- peers --install)` };
  return { version: await program.version(path) };
}

async function start(program: Program, { lab, a, b, link }: TwoHosts, index: number): Promise<Tunnel> {
  const path = findProgram(...program.programs);
  if (path === undefined) throw new Error(`${program.programs[0]} is not installed`);
  sweepSockets();
  const addresses = overlay(index);
  const port = underlayPort(index);
  const keys = { a: generateKeys(), b: generateKeys() };
  const launch = async (host: Host, letter: string, address: string): Promise<{ daemon: Daemon; device: string }> => {
    // The sockets of all network namespaces share one folder: the process id keeps runs apart.
    const device = `${program.tag}-${process.pid.toString(36)}-${index.toString(16)}${letter}`;
    const remove = (): void => rmSync(uapiPath(device), { force: true });
    lab.onClose(remove);
    process.once("exit", remove);
    const daemon = host.spawn(path, [...program.arguments, device], {
      env: { LOG_LEVEL: "error", WG_PROCESS_FOREGROUND: "1" },
    });
    await until(`${program.name} on ${host.name}`, 10_000, () => {
      if (daemon.exitCode !== undefined) throw new Error(daemon.tail(5));
      return Promise.resolve(existsSync(uapiPath(device)) ? true : undefined);
    });
    await host.ip("addr", "add", `${address}/24`, "dev", device);
    await host.ip("link", "set", device, "mtu", String(MTU_BYTES), "up");
    return { daemon, device };
  };
  const sideA = await launch(a, "a", addresses.a);
  const sideB = await launch(b, "b", addresses.b);
  await configure(sideA.device, keys.a.privateKey, port, [
    { publicKey: keys.b.publicKey, endpoint: `${link.b.address4}:${port}`, allowedIps: [`${addresses.b}/32`] },
  ]);
  await configure(sideB.device, keys.b.privateKey, port, [
    { publicKey: keys.a.publicKey, endpoint: `${link.a.address4}:${port}`, allowedIps: [`${addresses.a}/32`] },
  ]);
  return {
    a: { host: a, address: addresses.a, device: sideA.device, pid: sideA.daemon.pid },
    b: { host: b, address: addresses.b, device: sideB.device, pid: sideB.daemon.pid },
    mtuBytes: await deviceMtu(a, sideA.device),
    portB: port,
    async stop(): Promise<void> {
      await Promise.all([sideA.daemon.stop("SIGTERM", 3_000), sideB.daemon.stop("SIGTERM", 3_000)]);
    },
  };
}

/** Removes sockets of runs that were killed; those of living processes and all other names are left alone. */
function sweepSockets(): void {
  for (const name of existsSync(UAPI_FOLDER) ? readdirSync(UAPI_FOLDER) : []) {
    const pid = /^(?:wgb|btb)-([0-9a-z]+)-[0-9a-f][ab]\.sock$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${Number.parseInt(pid, 36)}`))
      rmSync(join(UAPI_FOLDER, name), { force: true });
  }
}

function subject(program: Program): Subject {
  return {
    name: program.name,
    find: () => find(program),
    start: (hosts, index) => start(program, hosts, index),
  };
}

export const wireguardGo: Subject = subject({
  name: "wireguard-go",
  programs: ["wireguard-go", "wireguard"],
  arguments: ["-f"],
  tag: "wgb",
  version: async (path) => (await goModuleVersion(path)) ?? "unknown version",
});

export const boringtun: Subject = subject({
  name: "boringtun",
  programs: ["boringtun-cli"],
  // Without this flag it wants to become the user who called sudo, and fails where there is none.
  arguments: ["-f", "--disable-drop-privileges"],
  tag: "btb",
  version: async (path) => (await run(path, ["--version"])).stdout.trim().split(" ").at(-1) ?? "unknown version",
});
