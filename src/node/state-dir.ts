/**
 * The state directory: made with mode 0700, locked by whoever uses it, home of the identity file. Files are written to a temporary
 * name, fsynced and renamed, and the directory is fsynced, so that a crash leaves the old file or the new one. An identity that is
 * there is never overwritten, and a damaged one is an error.
 *   identity (0600) | weft.db | weft.sock (0660) | lock | weft.toml (optional)
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { WeftError } from "../base/errors.ts";
import { decodeIdentityFile, encodeIdentityFile } from "../crypto/identity-file.ts";
import type { Identity } from "../crypto/identity.ts";
import { lockFile } from "../sys/process.ts";
import type { FileLock } from "../sys/process.ts";

const MAX_IDENTITY_BYTES = 4096;

export class StateDirectory {
  readonly path: string;
  readonly #lock: FileLock;

  /**
   * Makes the directory when it is missing and takes its lock.
   * @param path absolute @throws WeftError STATE_DENIED, STATE_UNSAFE, STATE_LOCKED
   */
  constructor(path: string) {
    this.path = path;
    try {
      mkdirSync(path, { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw denied(`cannot make the state directory ${path}`, cause);
    }
    const stat = statSync(path);
    if (!stat.isDirectory())
      throw new WeftError("STATE_DENIED", `${path} is no directory`, "choose another one with --state");
    if ((stat.mode & 0o022) !== 0) {
      throw new WeftError(
        "STATE_UNSAFE",
        `others may write to ${path}`,
        `choose another state directory with --state, or run: chmod 700 ${path}`,
      );
    }
    const uid = process.geteuid?.() ?? stat.uid;
    if (stat.uid !== uid) {
      throw new WeftError(
        "STATE_UNSAFE",
        `${path} belongs to user ${stat.uid}, and this is user ${uid}`,
        `choose another state directory with --state, or run: chown ${uid} ${path}`,
      );
    }
    let lock: FileLock | undefined;
    try {
      lock = lockFile(join(path, "lock"));
    } catch (cause) {
      throw denied(`cannot lock the state directory ${path}`, cause);
    }
    if (lock === undefined) {
      throw new WeftError(
        "STATE_LOCKED",
        `another weft uses the state directory ${path}`,
        "stop it with `weft down`, or give this one a directory of its own with --state DIR",
      );
    }
    this.#lock = lock;
  }

  /** @param name @default "weft.db" @returns path of the database, made empty with mode 0600 when it is missing; SQLite gives its side files the same mode. */
  prepareDatabase(name: string = "weft.db"): string {
    const file = join(this.path, name);
    try {
      closeSync(openSync(file, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600));
    } catch (cause) {
      throw denied(`cannot open ${file}`, cause);
    }
    return file;
  }

  get identityFile(): string {
    return join(this.path, "identity");
  }

  /** @returns undefined when there is none yet @throws WeftError IDENTITY_DAMAGED or IDENTITY_UNSAFE; the file is left as it is */
  readIdentity(): Identity | undefined {
    const file = this.identityFile;
    let text: string;
    try {
      const stat = lstatSync(file);
      if (!stat.isFile() || stat.size > MAX_IDENTITY_BYTES)
        throw damaged(file, stat.isFile() ? "it is far too large" : "it is no regular file");
      if ((stat.mode & 0o077) !== 0) {
        throw new WeftError(
          "IDENTITY_UNSAFE",
          `others may read the identity file ${file}`,
          `it is this node's secret key; run: chmod 600 ${file}`,
        );
      }
      text = readFileSync(file, "utf8");
    } catch (cause) {
      if (cause instanceof WeftError) throw cause;
      if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw denied(`cannot read ${file}`, cause);
    }
    try {
      return decodeIdentityFile(text);
    } catch (cause) {
      if (!(cause instanceof WeftError)) throw cause;
      throw damaged(file, cause.message.replace(/^the identity file is damaged: /, ""), cause);
    }
  }

  /** @throws WeftError IDENTITY_EXISTS when there is one, whatever its state */
  writeIdentity(identity: Identity): void {
    if (lstatSync(this.identityFile, { throwIfNoEntry: false }) !== undefined) {
      throw new WeftError(
        "IDENTITY_EXISTS",
        `${this.identityFile} is there already`,
        "choose another state directory with --state",
      );
    }
    writeFileDurably(this.identityFile, encodeIdentityFile(identity), 0o600);
  }

  /** Gives the lock back. */
  close(): void {
    this.#lock.release();
  }
}

/** Temporary file, fsync, rename, fsync of the directory. @throws WeftError STATE_DENIED */
export function writeFileDurably(file: string, text: string, mode: number): void {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    rmSync(temporary, { force: true });
    const descriptor = openSync(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, mode);
    try {
      fchmodSync(descriptor, mode);
      writeSync(descriptor, text);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(temporary, file);
    const directory = openSync(dirname(file), constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      fsyncSync(directory);
    } finally {
      closeSync(directory);
    }
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw denied(`cannot write ${file}`, cause);
  }
}

function denied(what: string, cause: unknown): WeftError {
  return new WeftError(
    "STATE_DENIED",
    `${what}: ${(cause as Error).message}`,
    "check owner and permissions, or choose another directory with --state",
    { cause },
  );
}

function damaged(file: string, why: string, cause?: unknown): WeftError {
  return new WeftError(
    "IDENTITY_DAMAGED",
    `the identity file ${file} is damaged: ${why}; it was left as it is`,
    "restore it from a backup, or move the state directory away and join again as a fresh node",
    cause === undefined ? undefined : { cause },
  );
}
