/** Reading, hashing and writing of files, all of it in libuv's threads: the control thread never waits for a disk or a hash. */
import { webcrypto } from "node:crypto";
import { constants, type FileHandle, link, mkdir, open, rename, rm, statfs, unlink, copyFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { WeftError } from "../../../base/errors.ts";
import { numberedName } from "../../../messaging/files/names.ts";
import { CHUNK_BYTES, chunkCount, chunkLength, HASH_BYTES, LEAF_PREFIX } from "../../../messaging/files/tree.ts";

/** Chunks that are read and hashed at once. */
const LANES = 3;
/** Left free on the disk for everybody else. */
const RESERVE_BYTES = 64 << 20;
const MAX_NAMES = 1_000;

/** @param prefixed LEAF_PREFIX ‖ chunk; not to be changed meanwhile @returns 32 bytes */
export async function hashLeaf(prefixed: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  return new Uint8Array(await webcrypto.subtle.digest("SHA-256", prefixed));
}

/** Exactly `length` bytes at `offset` of the buffer. @returns false when the file is shorter */
export async function readFully(
  handle: FileHandle,
  buffer: Uint8Array,
  offset: number,
  length: number,
  position: number,
): Promise<boolean> {
  for (let done = 0; done < length;) {
    const { bytesRead } = await handle.read(buffer, offset + done, length - done, position + done);
    if (bytesRead === 0) return false;
    done += bytesRead;
  }
  return true;
}

export async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/**
 * Hashes the chunks of a file, several at once.
 * @param take gets each leaf hash, in any order; may be told to stop by the signal
 * @throws the signal's reason; WeftError FILE_CHANGED when it is shorter than it was
 */
export async function hashChunks(
  handle: FileHandle,
  sizeBytes: number,
  take: (chunk: number, hash: Uint8Array, bytes: number) => void,
  signal: AbortSignal,
): Promise<void> {
  let next = 0;
  const count = chunkCount(sizeBytes);
  const lane = async (): Promise<void> => {
    const buffer = new Uint8Array(CHUNK_BYTES + 1);
    buffer[0] = LEAF_PREFIX;
    while (next < count) {
      signal.throwIfAborted();
      const chunk = next++;
      const length = chunkLength(sizeBytes, chunk);
      if (!(await readFully(handle, buffer, 1, length, chunk * CHUNK_BYTES)))
        throw new WeftError(
          "FILE_CHANGED",
          "the file became shorter while it was read",
          "do it again when it is whole",
        );
      take(chunk, await hashLeaf(buffer.subarray(0, length + 1)), length);
    }
  };
  await Promise.all(Array.from({ length: Math.min(LANES, count) }, lane));
}

/** Leaf hashes of a whole file. @throws as hashChunks() */
export async function leavesOf(
  handle: FileHandle,
  sizeBytes: number,
  onProgress: (bytes: number) => void,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const leaves = new Uint8Array(chunkCount(sizeBytes) * HASH_BYTES);
  await hashChunks(
    handle,
    sizeBytes,
    (chunk, hash, bytes) => {
      leaves.set(hash, chunk * HASH_BYTES);
      onProgress(bytes);
    },
    signal,
  );
  return leaves;
}

let temporaries = 0;

/** Temporary file, fsync, rename, fsync of the directory: a crash leaves the old file or the new one. */
export async function saveDurably(file: string, contents: string | Uint8Array): Promise<void> {
  const temporary = `${file}.${process.pid}.${++temporaries}.tmp`;
  try {
    const handle = await open(temporary, "wx", 0o600);
    try {
      await handle.writeFile(contents);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
    await syncDirectory(dirname(file));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Bytes that may still be written to the file system of a directory. */
export async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return Math.max(0, bavail * bsize - RESERVE_BYTES);
}

/**
 * Gives a finished file its place without overwriting anything: "name", "name (2)", …
 * @param name undefined: `target` is the whole path and must be free; else `target` is the directory @returns the path
 * @throws WeftError FILE_EXISTS; system errors
 */
export async function place(temporary: string, target: string, name: string | undefined): Promise<string> {
  await mkdir(name === undefined ? dirname(target) : target, { recursive: true, mode: 0o700 });
  for (let number = 1; number <= MAX_NAMES; number++) {
    const path = name === undefined ? target : join(target, numberedName(name, number));
    try {
      await linkOrCopy(temporary, path);
      await syncDirectory(dirname(path));
      await unlink(temporary);
      return path;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      if (name === undefined) break;
    }
  }
  throw new WeftError("FILE_EXISTS", `${target} is there already`, "choose another name");
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") throw error;
    // another file system, or one without hard links
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
    const handle = await open(to, "r+");
    try {
      await handle.datasync();
    } finally {
      await handle.close();
    }
  }
}
