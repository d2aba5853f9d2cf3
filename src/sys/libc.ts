/**
 * The functions of libc and OpenSSL that Weft calls, bound through koffi: one table of signatures, because a wrong one kills the
 * process. Pointers are declared size_t and passed as plain numbers (user addresses stay below 2^47), so a call makes no objects.
 * Variadic functions (open, ioctl, prctl) are declared with fixed integer arguments, which both Linux ABIs pass the same way.
 * Importing this file runs a self-test of every class of signature. When something does not hold, or the platform is another one, the
 * import still succeeds, so that a program can say what is wrong; the first use of `libc` throws.
 */
import koffi, { type LibraryHandle } from "koffi";
import { WeftError } from "../base/errors.ts";
import { Errno, SysError } from "./errno.ts";

type ArgumentType = "int" | "size_t" | "uint64_t" | "str";
type Signature = readonly [result: "int" | "size_t", parameters: readonly ArgumentType[]];
type Parameters<P extends readonly ArgumentType[]> = { -readonly [K in keyof P]: P[K] extends "str" ? string : number };
type Bound<T extends Readonly<Record<string, Signature>>> = {
  readonly [K in keyof T]: (...parameters: Parameters<T[K][1]>) => number;
};

const LIBC = {
  open: ["int", ["str", "int", "int"]],
  close: ["int", ["int"]],
  access: ["int", ["str", "int"]],
  read: ["int", ["int", "size_t", "size_t"]],
  write: ["int", ["int", "size_t", "size_t"]],
  writev: ["int", ["int", "size_t", "int"]],
  ioctl: ["int", ["int", "size_t", "size_t"]],
  flock: ["int", ["int", "int"]],
  memcpy: ["size_t", ["size_t", "size_t", "size_t"]],
  mmap: ["size_t", ["size_t", "size_t", "int", "int", "int", "size_t"]],
  munmap: ["int", ["size_t", "size_t"]],
  if_nametoindex: ["int", ["str"]],
  socket: ["int", ["int", "int", "int"]],
  bind: ["int", ["int", "size_t", "int"]],
  getsockname: ["int", ["int", "size_t", "size_t"]],
  getsockopt: ["int", ["int", "int", "int", "size_t", "size_t"]],
  setsockopt: ["int", ["int", "int", "int", "size_t", "int"]],
  sendmsg: ["int", ["int", "size_t", "int"]],
  recvmsg: ["int", ["int", "size_t", "int"]],
  recvmmsg: ["int", ["int", "size_t", "int", "int", "size_t"]],
  recv: ["int", ["int", "size_t", "size_t", "int"]],
  ppoll: ["int", ["size_t", "size_t", "size_t", "size_t"]],
  epoll_create1: ["int", ["int"]],
  epoll_ctl: ["int", ["int", "int", "int", "size_t"]],
  epoll_wait: ["int", ["int", "size_t", "int", "int"]],
  eventfd: ["int", ["int", "int"]],
  eventfd_write: ["int", ["int", "uint64_t"]],
  eventfd_read: ["int", ["int", "size_t"]],
  setns: ["int", ["int", "int"]],
  unshare: ["int", ["int"]],
  prctl: ["int", ["int", "size_t", "size_t", "size_t", "size_t"]],
  getpid: ["int", []],
} as const;

const CRYPTO = {
  EVP_CIPHER_fetch: ["size_t", ["size_t", "str", "size_t"]],
  EVP_CIPHER_CTX_new: ["size_t", []],
  EVP_CIPHER_CTX_free: ["size_t", ["size_t"]],
  EVP_EncryptInit_ex2: ["int", ["size_t", "size_t", "size_t", "size_t", "size_t"]],
  EVP_DecryptInit_ex2: ["int", ["size_t", "size_t", "size_t", "size_t", "size_t"]],
  EVP_EncryptUpdate: ["int", ["size_t", "size_t", "size_t", "size_t", "int"]],
  EVP_DecryptUpdate: ["int", ["size_t", "size_t", "size_t", "size_t", "int"]],
  EVP_EncryptFinal_ex: ["int", ["size_t", "size_t", "size_t"]],
  EVP_DecryptFinal_ex: ["int", ["size_t", "size_t", "size_t"]],
  EVP_CIPHER_CTX_get_params: ["int", ["size_t", "size_t"]],
  EVP_MAC_fetch: ["size_t", ["size_t", "str", "size_t"]],
  EVP_MAC_CTX_new: ["size_t", ["size_t"]],
  EVP_MAC_CTX_free: ["size_t", ["size_t"]],
  EVP_MAC_init: ["int", ["size_t", "size_t", "size_t", "size_t"]],
  EVP_MAC_update: ["int", ["size_t", "size_t", "size_t"]],
  EVP_MAC_final: ["int", ["size_t", "size_t", "size_t", "size_t"]],
} as const;

export type Libc = Bound<typeof LIBC>;
export type Crypto = Bound<typeof CRYPTO>;

function bindAll<T extends Readonly<Record<string, Signature>>>(library: LibraryHandle, table: T): Bound<T> {
  const bound: Record<string, unknown> = {};
  for (const [name, [result, parameters]] of Object.entries(table))
    bound[name] = library.func(name, result, [...parameters]);
  return bound as Bound<T>;
}

function bindLibc(): Libc {
  try {
    if (process.platform !== "linux") {
      throw new WeftError(
        "PLATFORM",
        `system calls of ${process.platform} are not supported`,
        "run Weft on Linux; agent nodes elsewhere use node:dgram",
      );
    }
    const bound = bindAll(koffi.load(null), LIBC);
    checkCalls(bound);
    return bound;
  } catch (error) {
    return new Proxy({} as Libc, {
      get(): never {
        throw error;
      },
    });
  }
}

/** Every function returns what C returns; after a -1 read lastErrno() at once. */
export const libc: Libc = bindLibc();

/** errno of the last call of this thread that failed; meaningful only right after a -1. */
export const lastErrno: () => number = koffi.errno;

/** Address of the first byte, as a number. The caller keeps the memory referenced for as long as the address is used. */
export function rawAddress(memory: ArrayBuffer | SharedArrayBuffer | ArrayBufferView): number {
  return Number(koffi.address(memory));
}

/** An ArrayBuffer over memory that nobody frees. */
export function viewMemory(address: number, bytes: number): ArrayBuffer {
  return koffi.view(BigInt(address), bytes);
}

let crypto: Crypto | undefined;

/**
 * OpenSSL 3: the one inside this Node, or libcrypto.so.3 where a build hides its symbols.
 * @throws SysError CRYPTO_MISSING
 */
export function loadCrypto(): Crypto {
  if (crypto !== undefined) return crypto;
  try {
    crypto = bindAll(koffi.load(null), CRYPTO);
  } catch {
    try {
      crypto = bindAll(koffi.load("libcrypto.so.3"), CRYPTO);
    } catch (cause) {
      throw new SysError("dlsym", 0, {
        code: "CRYPTO_MISSING",
        what: "OpenSSL 3 was found neither in this Node nor as libcrypto.so.3",
        remedy: "use the pinned Node (npm ci), or install OpenSSL 3 (Debian: libssl3)",
        cause,
      });
    }
  }
  return crypto;
}

/** One cheap call of each class of signature. @throws SysError SELF_TEST, saying which class is wrong */
export function selfTestCalls(): void {
  checkCalls(libc);
}

function must(holds: boolean, what: string): void {
  if (holds) return;
  throw new SysError("koffi", 0, {
    code: "SELF_TEST",
    what: `foreign calls are broken on this machine: ${what}`,
    remedy: "use the pinned Node and koffi (npm ci); on another processor than x86-64 or arm64 Weft does not run",
  });
}

function checkCalls(bound: Libc): void {
  must(bound.getpid() === process.pid, "a call without arguments");
  must(bound.access("/proc/self", 0) === 0, "a string argument");
  must(bound.close(-1) === -1 && koffi.errno() === Errno.EBADF, "errno after a failed call");
  const memory = new Uint8Array(64);
  const address = rawAddress(memory);
  must(Number.isSafeInteger(address) && address > 0 && address < 2 ** 47, `an address of ${address}`);
  for (let i = 0; i < 8; i++) memory[i] = 0xa0 + i;
  must(bound.memcpy(address + 8, address, 8) === address + 8, "a pointer as the result");
  for (let i = 0; i < 8; i++) must(memory[8 + i] === 0xa0 + i, "pointers as arguments");
  // a timespec of zero: returns at once
  must(bound.ppoll(0, 0, address + 32, 0) === 0, "four arguments");
  must(bound.setsockopt(-1, 1, 2, address, 4) === -1 && koffi.errno() === Errno.EBADF, "five arguments");
}
