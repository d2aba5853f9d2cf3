/**
 * Files of this machine that members may fetch, where they lie: nothing is copied. Of each one its record (ID.json) and the hashes of its
 * chunks (ID.tree) are kept in files/shares of the state directory, so that a restart serves on at once. A file whose size or time of
 * change is another one than when it was hashed is not served any more.
 * Bounds: 4,096 shares; hashes of 128 KiB per GiB, on disk. Source: docs/protocol.md, "Files".
 */
import { type FileHandle, mkdir, open, readdir, readFile, rm, stat } from "node:fs/promises";
import { basename, isAbsolute, join } from "node:path";
import { fromHex, toHex } from "../../../base/bytes.ts";
import { WeftError } from "../../../base/errors.ts";
import type { Logger } from "../../../base/log.ts";
import { safeFileName } from "../../../messaging/files/names.ts";
import {
  fileIdOf,
  type FileShape,
  HASH_BYTES,
  MAX_FILE_BYTES,
  PAGE_CHUNKS,
  pageLength,
  pageRootsOf,
  provesShape,
} from "../../../messaging/files/tree.ts";
import { leavesOf, readFully, saveDurably } from "./disk.ts";
import { isHandleInside } from "./paths.ts";

const MAX_SHARES = 4_096;
const MAX_RECORD_BYTES = 262_144;
const MAX_PEERS = 256;

export interface Share extends FileShape {
  readonly idHex: string;
  readonly path: string;
  readonly name: string;
  readonly modifiedMs: number;
  readonly addedAtMs: number;
  /** Every member may fetch it. */
  isPublic: boolean;
  /** Node ids in hex that may fetch it besides. */
  readonly peers: Set<string>;
  bytesServed: number;
}

export class Shares {
  readonly #directory: string;
  readonly #log: Logger;
  readonly #stateDirectory: string;
  readonly #received: string;
  readonly #shares = new Map<string, Share>();

  /** @param directory "files" of the state directory */
  constructor(directory: string, log: Logger, stateDirectory: string) {
    this.#directory = join(directory, "shares");
    this.#received = join(directory, "received");
    this.#stateDirectory = stateDirectory;
    this.#log = log;
  }

  get all(): readonly Share[] {
    return [...this.#shares.values()];
  }

  async load(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const names = (await readdir(this.#directory)).filter((name) => /^[0-9a-f]{64}\.json$/.test(name));
    for (const name of names.slice(0, MAX_SHARES)) {
      const file = join(this.#directory, name);
      const share = (await stat(file)).size > MAX_RECORD_BYTES ? undefined : readShare(await readFile(file, "utf8"));
      if (share === undefined || `${share.idHex}.json` !== name) this.#log.warn(`${file} is no record of a share`);
      else this.#shares.set(share.idHex, share);
    }
  }

  /** @returns undefined when there is none, or that peer may not have it */
  find(idHex: string, peerHex: string): Share | undefined {
    const share = this.#shares.get(idHex);
    return share !== undefined && (share.isPublic || share.peers.has(peerHex)) ? share : undefined;
  }

  byId(idHex: string): Share | undefined {
    return this.#shares.get(idHex);
  }

  /**
   * Hashes a file and serves it from then on.
   * @param peer node id in hex of who may fetch it; undefined: every member
   * @throws WeftError FILE_UNREADABLE, FILE_PRIVATE, FILE_TOO_LARGE, FILE_CHANGED, FILES_FULL; the signal's reason
   */
  async add(
    path: string,
    options: { readonly name?: string | undefined; readonly peer?: string | undefined; readonly atMs: number },
    onProgress: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<Share> {
    const handle = await openFile(path);
    try {
      // a link may lead elsewhere than when the path was named
      if (await isHandleInside(this.#stateDirectory, handle)) throw privateFile(path);
      const before = await handle.stat();
      const leaves = await leavesOf(handle, before.size, onProgress, signal);
      const after = await handle.stat();
      if (after.size !== before.size || after.mtimeMs !== before.mtimeMs)
        throw new WeftError(
          "FILE_CHANGED",
          `${path} changed while it was read`,
          "do it again when nobody writes to it",
        );
      const name = safeFileName(options.name ?? basename(path));
      return await this.#put(path, name, before.size, before.mtimeMs, leaves, options);
    } finally {
      await handle.close();
    }
  }

  /** A file whose hashes are known already. @param leaves of all chunks, proven */
  async adopt(path: string, name: string, leaves: Uint8Array, atMs: number): Promise<Share> {
    const { size, mtimeMs } = await stat(path);
    return this.#put(path, name, size, mtimeMs, leaves, { atMs });
  }

  async #put(
    path: string,
    name: string,
    sizeBytes: number,
    modifiedMs: number,
    leaves: Uint8Array,
    { peer, atMs }: { readonly peer?: string | undefined; readonly atMs: number },
  ): Promise<Share> {
    const pageRoots = pageRootsOf(leaves);
    const id = fileIdOf(sizeBytes, pageRoots);
    const idHex = toHex(id);
    const before = this.#shares.get(idHex);
    if (before === undefined && this.#shares.size >= MAX_SHARES)
      throw new WeftError(
        "FILES_FULL",
        `${MAX_SHARES} files are shared already`,
        "end a share with `weft files unshare`",
      );
    const share: Share = {
      id,
      idHex,
      sizeBytes,
      pageRoots,
      path,
      name,
      modifiedMs,
      addedAtMs: atMs,
      isPublic: peer === undefined || before?.isPublic === true,
      peers: before?.peers ?? new Set(),
      bytesServed: before?.bytesServed ?? 0,
    };
    if (peer !== undefined && share.peers.size < MAX_PEERS) share.peers.add(peer);
    // the hashes first: a record without them would not be served
    await saveDurably(this.#treeFile(idHex), leaves);
    this.#shares.set(idHex, share);
    await this.#save(share);
    return share;
  }

  /** @returns what is not shared any more, undefined when it was not */
  async unshare(idHex: string): Promise<Share | undefined> {
    const share = this.#shares.get(idHex);
    if (share === undefined || !share.isPublic) return undefined;
    share.isPublic = false;
    await this.#saveOrDrop(share);
    return share;
  }

  async forgetPeer(idHex: string, peerHex: string): Promise<void> {
    const share = this.#shares.get(idHex);
    if (share?.peers.delete(peerHex) === true) await this.#saveOrDrop(share);
  }

  /** For reading; the caller closes it. @returns undefined when the file is not the one that was hashed */
  async open(share: Share): Promise<FileHandle | undefined> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(share.path, "r");
      if ((await isUnchanged(handle, share)) && !(await this.#isPrivate(handle))) return handle;
    } catch {
      // gone, or not readable any more
    }
    await handle?.close();
    return undefined;
  }

  /** Files that were fetched are shared on from where they were put; nothing else of the node's directory is. */
  async #isPrivate(handle: FileHandle): Promise<boolean> {
    if (!(await isHandleInside(this.#stateDirectory, handle))) return false;
    return !(await isHandleInside(this.#received, handle).catch(() => false));
  }

  /** Leaves of a page; undefined when they cannot be read. */
  async page(share: Share, page: number): Promise<Uint8Array | undefined> {
    const length = pageLength(share.sizeBytes, page) * HASH_BYTES;
    if (length <= 0) return undefined;
    const bytes = new Uint8Array(length);
    try {
      const handle = await open(this.#treeFile(share.idHex), "r");
      try {
        return (await readFully(handle, bytes, 0, length, page * PAGE_CHUNKS * HASH_BYTES)) ? bytes : undefined;
      } finally {
        await handle.close();
      }
    } catch {
      return undefined;
    }
  }

  #treeFile(idHex: string): string {
    return join(this.#directory, `${idHex}.tree`);
  }

  async #saveOrDrop(share: Share): Promise<void> {
    if (share.isPublic || share.peers.size > 0) return this.#save(share);
    this.#shares.delete(share.idHex);
    await rm(join(this.#directory, `${share.idHex}.json`), { force: true });
    await rm(this.#treeFile(share.idHex), { force: true });
  }

  #save(share: Share): Promise<void> {
    const { path, name, sizeBytes, modifiedMs, addedAtMs, isPublic } = share;
    const record = {
      id: share.idHex,
      path,
      name,
      sizeBytes,
      modifiedMs,
      addedAtMs,
      isPublic,
      peers: [...share.peers],
      pageRoots: toHex(share.pageRoots),
    };
    return saveDurably(join(this.#directory, `${share.idHex}.json`), `${JSON.stringify(record)}\n`);
  }
}

export function privateFile(path: string): WeftError {
  return new WeftError(
    "FILE_PRIVATE",
    `${path} lies in this node's own directory`,
    "keys and records of the node are not sent; copy a received file to another place, or set directory in [files]",
  );
}

export async function isUnchanged(handle: FileHandle, share: Share): Promise<boolean> {
  const { size, mtimeMs } = await handle.stat();
  return size === share.sizeBytes && mtimeMs === share.modifiedMs;
}

/** @throws WeftError FILE_UNREADABLE, FILE_TOO_LARGE */
async function openFile(path: string): Promise<FileHandle> {
  const unreadable = (why: string, cause?: unknown): WeftError =>
    new WeftError(
      "FILE_UNREADABLE",
      `cannot read ${path}: ${why}`,
      "name a file that the daemon may read, by its absolute path",
      {
        cause,
      },
    );
  if (!isAbsolute(path)) throw unreadable("it is no absolute path");
  let handle: FileHandle;
  try {
    // a FIFO or a device must not hold the daemon up
    const found = await stat(path);
    if (!found.isFile()) throw new Error("it is no regular file");
    handle = await open(path, "r");
  } catch (cause) {
    throw unreadable((cause as Error).message, cause);
  }
  const { size } = await handle.stat();
  if (size <= MAX_FILE_BYTES) return handle;
  await handle.close();
  throw new WeftError("FILE_TOO_LARGE", `${path} has ${size} bytes`, `files have at most ${MAX_FILE_BYTES}`);
}

/** @returns undefined for what is no record, or proves nothing */
function readShare(text: string): Share | undefined {
  try {
    const value = JSON.parse(text) as Record<string, unknown>;
    const { id, path, name, sizeBytes, modifiedMs, addedAtMs, isPublic, peers, pageRoots } = value;
    const idBytes = typeof id === "string" ? fromHex(id) : undefined;
    const roots = typeof pageRoots === "string" ? fromHex(pageRoots) : undefined;
    if (idBytes?.length !== HASH_BYTES || roots === undefined) return undefined;
    if (typeof path !== "string" || typeof name !== "string" || typeof sizeBytes !== "number") return undefined;
    if (typeof modifiedMs !== "number" || typeof addedAtMs !== "number" || !Array.isArray(peers)) return undefined;
    const shape = { id: idBytes, sizeBytes, pageRoots: roots };
    if (!provesShape(shape)) return undefined;
    return {
      ...shape,
      idHex: toHex(idBytes),
      path,
      name,
      modifiedMs,
      addedAtMs,
      isPublic: isPublic === true,
      peers: new Set(peers.filter((peer) => typeof peer === "string").slice(0, MAX_PEERS)),
      bytesServed: 0,
    };
  } catch {
    return undefined;
  }
}
