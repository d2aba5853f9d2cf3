/**
 * Failures of system calls in words: errno numbers to names, names to sentences, and the one error class of src/sys.
 * Numbers are those of Linux on x86-64 and arm64 (asm-generic/errno.h), the platforms src/sys runs on.
 */
import { constants } from "node:os";
import { getSystemErrorMap } from "node:util";
import { WeftError } from "../base/errors.ts";

/** The errno values that src/sys decides on. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  ENODEV: 19,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  EBADFD: 77,
  EMSGSIZE: 90,
  ENOPROTOOPT: 92,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETDOWN: 100,
  ENETUNREACH: 101,
  ENOBUFS: 105,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
} as const;

/** Names that node:os does not list, or lists twice (the first name wins there, e.g. EAGAIN over EWOULDBLOCK). */
const NAMES = new Map<number, string>([[Errno.EBADFD, "EBADFD"]]);
for (const [name, number] of Object.entries(constants.errno)) if (!NAMES.has(number)) NAMES.set(number, name);

const REMEDIES = new Map<number, string>([
  [Errno.EPERM, "run as root, or grant CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN)"],
  [Errno.EACCES, "run as root, or grant the user access"],
  [Errno.EMFILE, "raise the limit of open files of this process (ulimit -n, systemd: LimitNOFILE)"],
  [Errno.ENFILE, "raise the system's limit of open files (sysctl fs.file-max)"],
  [Errno.ENOMEM, "free memory, or raise the memory limit of the service"],
  [Errno.ENOBUFS, "raise net.core.wmem_max and net.core.rmem_max, or lower the load"],
]);

/** @param errno positive @returns "EPERM", or "errno 9999" when it has no name */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `errno ${errno}`;
}

/** @param errno positive @returns e.g. "operation not permitted (EPERM)" */
export function errnoText(errno: number): string {
  const name = errnoName(errno);
  const sentence = getSystemErrorMap().get(-errno)?.[1];
  return sentence === undefined ? name : `${sentence} (${name})`;
}

export interface SysErrorOptions {
  /** @default "SYS_FAILED" */
  readonly code?: string;
  /** What was attempted, e.g. "cannot bind UDP port 7000". @default "CALL failed" */
  readonly what?: string;
  /** @default the usual remedy of that errno */
  readonly remedy?: string;
  readonly cause?: unknown;
}

/** A failed system call: `message` reads "what: reason (ENAME)". */
export class SysError extends WeftError {
  /** The function that failed, e.g. "bind". */
  readonly call: string;
  /** Positive errno; 0 when the failure has none. */
  readonly errno: number;

  constructor(call: string, errno: number, options: SysErrorOptions = {}) {
    const what = options.what ?? `${call} failed`;
    super(
      options.code ?? "SYS_FAILED",
      errno === 0 ? what : `${what}: ${errnoText(errno)}`,
      options.remedy ?? REMEDIES.get(errno) ?? "this is unexpected: run `weft doctor` and report what it says",
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.name = "SysError";
    this.call = call;
    this.errno = errno;
  }
}
