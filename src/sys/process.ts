/**
 * What a daemon asks the kernel about itself: thread names, dying with its parent, capabilities, and the lock that keeps a second
 * daemon off the same state directory.
 */
import { constants, ftruncateSync, readFileSync, writeSync } from "node:fs";
import { Errno, SysError } from "./errno.ts";
import { lastErrno, libc, rawAddress } from "./libc.ts";

const PR_SET_PDEATHSIG = 1;
const PR_SET_NAME = 15;
const CAP_NET_ADMIN = 12;
const CAP_SYS_ADMIN = 21;
/** O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW (the last differs on arm64). */
const O_RDWR_CREAT_CLOEXEC: number = 0o2 | 0o100 | 0o2000000 | constants.O_NOFOLLOW;
const LOCK_EX_NB = 2 | 4;
const SIGTERM = 15;

/** Names the calling thread as `ps -L` and `top -H` show it. @param name the first 15 bytes count */
export function setThreadName(name: string): void {
  const bytes = new Uint8Array(16);
  bytes.set(new TextEncoder().encode(name).subarray(0, 15));
  libc.prctl(PR_SET_NAME, rawAddress(bytes), 0, 0, 0);
}

/**
 * The kernel sends `signal` to this process when the thread that started it ends. Call it from the main thread, early; a parent that died
 * before is seen as getppid() = 1.
 */
export function dieWithParent(signal: number = SIGTERM): void {
  libc.prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0);
}

/** Effective capability of the calling thread. @param capability number as in capabilities(7) */
export function hasCapability(capability: number): boolean {
  const match = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/thread-self/status", "latin1"));
  if (match === null) return false;
  return ((BigInt(`0x${match[1]}`) >> BigInt(capability)) & 1n) === 1n;
}

/** May create TUN devices, set SO_MARK and exceed the socket buffer limits. */
export function hasNetAdmin(): boolean {
  return hasCapability(CAP_NET_ADMIN);
}

/** May enter network namespaces. */
export function hasSysAdmin(): boolean {
  return hasCapability(CAP_SYS_ADMIN);
}

export interface FileLock {
  readonly path: string;
  /** Gives the lock up; the file stays (removing it would let two processes lock different files of one name). Idempotent. */
  release(): void;
}

/**
 * Takes an exclusive flock(2), which the kernel drops when the process dies, however it dies. Child processes do not inherit it. The
 * file holds the owner's process id for people to read.
 * @returns undefined when someone else holds it (another process, or another lockFile() of this one)
 * @throws SysError LOCK_FAILED when the file cannot be opened
 */
export function lockFile(path: string): FileLock | undefined {
  const fd = libc.open(path, O_RDWR_CREAT_CLOEXEC, 0o600);
  if (fd < 0) {
    throw new SysError("open", lastErrno(), {
      code: "LOCK_FAILED",
      what: `cannot open lock file ${path}`,
      remedy: "make its directory exist and writable for this user",
    });
  }
  for (;;) {
    if (libc.flock(fd, LOCK_EX_NB) === 0) break;
    const errno = lastErrno();
    if (errno === Errno.EINTR) continue;
    libc.close(fd);
    if (errno === Errno.EAGAIN) return undefined;
    throw new SysError("flock", errno, { code: "LOCK_FAILED", what: `cannot lock ${path}` });
  }
  ftruncateSync(fd, 0);
  writeSync(fd, `${process.pid}\n`, 0);
  let held = true;
  return {
    path,
    release(): void {
      if (!held) return;
      held = false;
      libc.close(fd);
    },
  };
}

/** @returns process id that the file names, undefined when there is none; meaningful only while lockFile() says it is taken */
export function lockHolder(path: string): number | undefined {
  let text: string;
  try {
    text = readFileSync(path, "latin1");
  } catch {
    return undefined;
  }
  const pid = Number.parseInt(text, 10);
  return Number.isInteger(pid) && pid > 0 ? pid : undefined;
}
