/** Reading and overwriting files of the machine in place, so that mode, owner, links and bind mounts stay. */
import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { WeftError } from "../base/errors.ts";

/** @throws WeftError FILE_FAILED when it is not there or larger */
export function readSmall(path: string, maxBytes: number): Buffer {
  try {
    const content = readFileSync(path);
    if (content.length <= maxBytes) return content;
  } catch (cause) {
    throw fileFailed(path, (cause as Error).message, cause);
  }
  throw fileFailed(path, `it is larger than ${maxBytes} bytes`);
}

/** In place and without a moment of emptiness: the new bytes first, then the length. */
export function overwrite(path: string, content: Buffer): void {
  try {
    const descriptor = openSync(path, "r+");
    try {
      writeSync(descriptor, content, 0, content.length, 0);
      ftruncateSync(descriptor, content.length);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch (cause) {
    throw fileFailed(path, (cause as Error).message, cause);
  }
}

/** True for `after`, and for what a cut-off overwrite in either direction leaves: the beginning of one and the rest of the other. */
export function isMixture(now: Buffer, before: Buffer, after: Buffer): boolean {
  if (now.equals(after)) return true;
  return isCutOff(now, before, after) || isCutOff(now, after, before);
}

function isCutOff(now: Buffer, old: Buffer, written: Buffer): boolean {
  if (now.length !== Math.max(old.length, written.length)) return false;
  let same = 0;
  while (same < now.length && same < written.length && now[same] === written[same]) same++;
  return (
    now.subarray(same).equals(old.subarray(same, now.length)) ||
    (same === written.length && now.subarray(same).equals(old.subarray(same)))
  );
}

/** Whole lines from `begin` to `end`. */
export function findBlock(
  text: string,
  begin: string,
  end: string,
): { readonly from: number; readonly to: number } | undefined {
  const lines = text.split("\n");
  const first = lines.indexOf(begin);
  if (first < 0) return undefined;
  const last = lines.indexOf(end, first);
  if (last < 0) return undefined;
  const from = lines.slice(0, first).reduce((sum, line) => sum + line.length + 1, 0);
  const bytes = lines.slice(first, last + 1).reduce((sum, line) => sum + line.length + 1, 0);
  return { from, to: Math.min(text.length, from + bytes) };
}

function fileFailed(path: string, why: string, cause?: unknown): WeftError {
  return new WeftError(
    "FILE_FAILED",
    `cannot change ${path}: ${why}`,
    "check that it exists and that weft may write to it",
    cause === undefined ? undefined : { cause },
  );
}
