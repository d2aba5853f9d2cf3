import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { SysError } from "./errno.ts";
import { enterNetworkNamespace, unshareNetwork } from "./netns.ts";
import { hasCapability, hasNetAdmin, lockFile, lockHolder, setThreadName } from "./process.ts";
import { ip, skipWithoutNamespaces } from "./testing.ts";

const moduleUrl = new URL("./process.ts", import.meta.url).href;
const netnsUrl = new URL("./netns.ts", import.meta.url).href;

/** @returns "got" or "taken" */
function lockInChild(path: string): string {
  const code = `
    import { lockFile } from ${JSON.stringify(moduleUrl)};
    process.stdout.write(lockFile(${JSON.stringify(path)}) === undefined ? "taken" : "got");`;
  return spawnSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8" }).stdout;
}

function linkNames(): string[] {
  return ip("-o", "link", "show")
    .trim()
    .split("\n")
    .map((line) => line.split(": ")[1]);
}

function currentNetwork(): string {
  return readlinkSync("/proc/thread-self/ns/net");
}

describe("lockFile", () => {
  let directory: string;
  before(() => {
    directory = mkdtempSync(join(tmpdir(), "weft-lock-"));
  });
  after(() => rmSync(directory, { recursive: true, force: true }));

  it("keeps another process out until it is released", () => {
    const path = join(directory, "a");
    const lock = lockFile(path);
    assert.ok(lock !== undefined);
    assert.equal(lock.path, path);
    assert.equal(lockInChild(path), "taken");
    assert.equal(lockHolder(path), process.pid);
    lock.release();
    lock.release();
    assert.equal(lockInChild(path), "got");
  });

  it("keeps a second taker in the same process out", () => {
    const path = join(directory, "b");
    const lock = lockFile(path);
    assert.equal(lockFile(path), undefined);
    lock?.release();
    const again = lockFile(path);
    assert.ok(again !== undefined);
    again.release();
  });

  it("dies with a process that is killed, and is not kept by that process's children", async () => {
    const path = join(directory, "c");
    const code = `
      import { spawn } from "node:child_process";
      import { lockFile } from ${JSON.stringify(moduleUrl)};
      const lock = lockFile(${JSON.stringify(path)});
      const child = spawn("sleep", ["60"], { stdio: "ignore", detached: true });
      console.log(lock === undefined ? "taken" : child.pid);
      setInterval(() => {}, 1000);`;
    const holder = spawn(process.execPath, ["--input-type=module", "-e", code], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [line] = (await once(holder.stdout, "data")) as [Buffer];
    const sleeper = Number(line.toString());
    assert.ok(sleeper > 0, line.toString());
    assert.equal(lockFile(path), undefined);
    assert.equal(lockHolder(path), holder.pid);
    holder.kill("SIGKILL");
    await once(holder, "exit");
    const lock = lockFile(path);
    process.kill(sleeper, "SIGKILL");
    assert.ok(lock !== undefined, "free although a grandchild lives on");
    lock.release();
  });

  it("says what to do when the file cannot be made", () => {
    assert.throws(
      () => lockFile(join(directory, "missing", "lock")),
      (error) => error instanceof SysError && error.code === "LOCK_FAILED" && /directory/.test(error.remedy),
    );
    assert.equal(lockHolder(join(directory, "missing", "lock")), undefined);
  });
});

describe("process", () => {
  it("names its thread", () => {
    const before = readFileSync("/proc/thread-self/comm", "latin1").trim();
    setThreadName("weft-test-with-a-long-name");
    assert.equal(readFileSync("/proc/thread-self/comm", "latin1").trim(), "weft-test-with-");
    setThreadName(before);
  });

  it("knows its capabilities", () => {
    const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1];
    const mask = BigInt(`0x${effective as string}`);
    assert.equal(hasNetAdmin(), (mask & (1n << 12n)) !== 0n);
    assert.equal(hasCapability(63), false);
  });

  it("dies when its parent does, if it asked to", async () => {
    const child = `import { dieWithParent } from ${JSON.stringify(moduleUrl)}; dieWithParent(); console.log(process.pid); setInterval(() => {}, 1000);`;
    const parent = `
      import { spawn } from "node:child_process";
      spawn(process.execPath, ["--input-type=module", "-e", ${JSON.stringify(child)}], { stdio: ["ignore", "inherit", "inherit"] });`;
    const process1 = spawn(process.execPath, ["--input-type=module", "-e", parent], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [line] = (await once(process1.stdout, "data")) as [Buffer];
    const pid = Number(line.toString());
    assert.ok(pid > 0);
    process1.kill("SIGKILL");
    // the pipe ends when the last process that holds it is gone
    process1.stdout.resume();
    await once(process1.stdout, "close");
    assert.equal(alive(pid), false);
  });
});

function alive(pid: number): boolean {
  try {
    // a zombie waiting for init to collect it counts as dead
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "latin1"));
  } catch {
    return false;
  }
}

describe("network namespaces", { skip: skipWithoutNamespaces }, () => {
  it("unshareNetwork() leaves every link but an own loopback behind, and can be undone", () => {
    const before = linkNames();
    const home = currentNetwork();
    const back = unshareNetwork();
    assert.notEqual(currentNetwork(), home);
    try {
      ip("tuntap", "add", "weft-probe0", "mode", "tun");
      assert.ok(linkNames().includes("weft-probe0"));
    } finally {
      back();
    }
    back();
    assert.equal(currentNetwork(), home);
    assert.deepEqual(linkNames(), before);
  });

  it("enterNetworkNamespace() moves into a named namespace", () => {
    const name = `weft-test-${process.pid}`;
    ip("netns", "add", name);
    try {
      ip("netns", "exec", name, "ip", "tuntap", "add", "inside0", "mode", "tun");
      const code = `
        import { execFileSync } from "node:child_process";
        import { enterNetworkNamespace } from ${JSON.stringify(netnsUrl)};
        enterNetworkNamespace(${JSON.stringify(name)});
        process.stdout.write(execFileSync("ip", ["-o", "link", "show"]));`;
      const result = spawnSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8" });
      assert.match(result.stdout, /inside0/);
    } finally {
      ip("netns", "delete", name);
    }
  });

  it("a missing namespace is an error with a remedy, a strange name a misuse", () => {
    assert.throws(
      () => enterNetworkNamespace("weft-no-such"),
      (error) =>
        error instanceof SysError &&
        error.code === "NETNS_MISSING" &&
        error.remedy.includes("ip netns add weft-no-such"),
    );
    assert.throws(() => enterNetworkNamespace("../x"), RangeError);
    assert.throws(() => enterNetworkNamespace(".."), RangeError);
  });
});
