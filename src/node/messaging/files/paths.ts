/** Where a path really leads: what lies in the node's own directory (its key, its tokens, its messages) is nobody's file. */
import { readlink, realpath, type FileHandle } from "node:fs/promises";
import { join, relative, sep } from "node:path";

/** @param path of something that exists; links are followed @throws system errors */
export async function isInside(directory: string, path: string): Promise<boolean> {
  const below = relative(await realpath(directory), await realpath(path));
  return below === "" || (below !== ".." && !below.startsWith(`..${sep}`));
}

/** As isInside() of what is open, whatever its path leads to by now. */
export async function isHandleInside(directory: string, handle: FileHandle): Promise<boolean> {
  const below = relative(await realpath(directory), await readlink(join("/proc/self/fd", String(handle.fd))));
  return below === "" || (below !== ".." && !below.startsWith(`..${sep}`));
}
