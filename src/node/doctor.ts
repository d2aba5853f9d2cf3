/** The checks of `weft doctor` that need no daemon: does this machine offer what Weft uses, and is the state directory sound. */
import { accessSync, constants, existsSync, lstatSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import type { DoctorFact } from "../api/control.ts";
import { WeftError } from "../base/errors.ts";
import { decodeIdentityFile } from "../crypto/identity-file.ts";
import { hasNetAdmin } from "../sys/process.ts";
import { findConfig, loadConfig } from "./config.ts";
import { runProgram } from "./run-program.ts";

/** Receive buffer the data plane asks for, bytes. */
const WANTED_BUFFER_BYTES = 8 * 1024 * 1024;

type Check = () => DoctorFact | Promise<DoctorFact>;

function fact(code: string, ok: boolean, severity: DoctorFact["severity"], text: string, remedy = ""): DoctorFact {
  return { code, ok, severity, text, remedy };
}

/** @param directory the state directory, which is only looked at */
export async function localFacts(directory: string): Promise<readonly DoctorFact[]> {
  const checks: readonly Check[] = [
    () =>
      fact(
        "runtime",
        true,
        "info",
        `Node ${process.versions.node}, OpenSSL ${process.versions.openssl}, Linux ${release()}, ${process.arch}`,
      ),
    checkSystemCalls,
    checkQuic,
    checkTunDevice,
    checkNetAdmin,
    checkIproute,
    checkSocketBuffers,
    () => checkConfig(directory),
    () => checkIdentity(directory),
  ];
  const facts: DoctorFact[] = [];
  for (const check of checks) facts.push(await check());
  return facts;
}

async function checkSystemCalls(): Promise<DoctorFact> {
  try {
    const { selfTest } = await import("../sys/self-test.ts");
    selfTest();
    return fact("system-calls", true, "error", "system calls and AEAD answer as they should");
  } catch (error) {
    const remedy = error instanceof WeftError ? error.remedy : "reinstall with `npm ci`";
    return fact("system-calls", false, "error", `system calls do not work: ${(error as Error).message}`, remedy);
  }
}

/** Streams are loaded when the first one is wanted, which is late to learn that this machine has no OpenSSL for them. */
async function checkQuic(): Promise<DoctorFact> {
  try {
    const { loadQuic } = await import("../sys/quic-calls.ts");
    loadQuic();
    return fact("quic", true, "error", "OpenSSL's QUIC, which streams need, answers as it should");
  } catch (error) {
    const remedy = error instanceof WeftError ? error.remedy : "reinstall with `npm ci`";
    return fact("quic", false, "error", `there can be no streams: ${(error as Error).message}`, remedy);
  }
}

function checkTunDevice(): DoctorFact {
  if (existsSync("/dev/net/tun")) return fact("tun-device", true, "error", "/dev/net/tun is there");
  return fact(
    "tun-device",
    false,
    "warning",
    "/dev/net/tun is missing",
    "load the module (modprobe tun), give the container the device, or use `weft up --no-tun`",
  );
}

function checkNetAdmin(): DoctorFact {
  if (hasNetAdmin()) return fact("net-admin", true, "info", "CAP_NET_ADMIN is there: an interface can be made");
  return fact(
    "net-admin",
    false,
    "info",
    "no CAP_NET_ADMIN: only an agent node is possible",
    "run as root for an interface, or use `weft up --no-tun`",
  );
}

async function checkIproute(): Promise<DoctorFact> {
  try {
    const version = (await runProgram("ip", ["-V"])).trim();
    return fact("iproute2", true, "warning", `${version} is installed`);
  } catch (error) {
    return fact("iproute2", false, "warning", (error as Error).message, (error as WeftError).remedy);
  }
}

function checkSocketBuffers(): DoctorFact {
  let bytes: number;
  try {
    bytes = Number(readFileSync("/proc/sys/net/core/rmem_max", "utf8"));
  } catch {
    return fact("socket-buffers", true, "info", "the limit of socket buffers cannot be read");
  }
  if (hasNetAdmin() || bytes >= WANTED_BUFFER_BYTES)
    return fact("socket-buffers", true, "info", "socket buffers of 8 MiB can be had");
  return fact(
    "socket-buffers",
    false,
    "info",
    `net.core.rmem_max is ${bytes} bytes`,
    `for full speed: sysctl net.core.rmem_max=${WANTED_BUFFER_BYTES}`,
  );
}

function checkConfig(directory: string): DoctorFact {
  try {
    loadConfig(directory);
    return fact("configuration", true, "error", `${findConfig(directory) ?? "no weft.toml, so the defaults"}: valid`);
  } catch (error) {
    return fact(
      "configuration",
      false,
      "error",
      (error as Error).message,
      error instanceof WeftError ? error.remedy : "",
    );
  }
}

function checkIdentity(directory: string): DoctorFact {
  const file = join(directory, "identity");
  try {
    accessSync(directory, constants.R_OK | constants.X_OK);
    const stat = lstatSync(file);
    if ((stat.mode & 0o077) !== 0)
      return fact("identity", false, "error", `others may read ${file}`, `run: chmod 600 ${file}`);
    decodeIdentityFile(readFileSync(file, "utf8"));
    return fact("identity", true, "error", `${file} is sound`);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT")
      return fact(
        "identity",
        false,
        "info",
        `no identity in ${directory} yet`,
        "create a network with `weft init`, or join one with `weft up --join`",
      );
    if (code === "EACCES")
      return fact(
        "identity",
        false,
        "warning",
        `no permission to look into ${directory}`,
        "run as the user that runs weft",
      );
    return fact(
      "identity",
      false,
      "error",
      `${file}: ${(error as Error).message}`,
      error instanceof WeftError ? error.remedy : "",
    );
  }
}
