/**
 * What a file is called by its contents: a SHA-256 tree over chunks of 256 KiB (the form of RFC 6962 section 2.1), bound to its size.
 *   leaf    SHA-256(00 ‖ chunk)               node  SHA-256(01 ‖ left ‖ right); an odd one at the end of a level goes up as it is
 *   file id SHA-256("weft file v1" ‖ size u64 ‖ root)
 *   text    "f1" ‖ base32(id 32 ‖ checksum 3), 58 characters; checksum = first 3 bytes of SHA-256("weft file id v1" ‖ id)
 * Leaves are handled in pages of 4,096 (1 GiB of file, 128 KiB of hashes): aligned, so the root of a page is a node of the tree, and a page
 * is proven by its root alone. Whoever has the id can verify size and page roots, then each page, then each chunk.
 * Source: docs/protocol.md, "Files"; sans-I/O.
 */
import { createHash } from "node:crypto";
import { decodeBase32, encodeBase32 } from "../../base/base32.ts";
import { concat, equal, utf8 } from "../../base/bytes.ts";
import { u64 } from "../fields.ts";

export const CHUNK_BYTES = 262_144;
export const HASH_BYTES = 32;
/** Chunks, and so leaves, of a full page; a power of two. */
export const PAGE_CHUNKS = 4_096;
export const MAX_PAGES = 1_024;
export const MAX_FILE_BYTES: number = MAX_PAGES * PAGE_CHUNKS * CHUNK_BYTES;
/** First byte of what a leaf is the hash of. */
export const LEAF_PREFIX = 0;
const NODE_PREFIX = 1;
const ID_LABEL = utf8("weft file v1");
const CHECKSUM_LABEL = utf8("weft file id v1");
const CHECKSUM_BYTES = 3;
const TEXT_PREFIX = "f1";
const TEXT_LENGTH = 58;

/** What is known of a file once its id has proven it. */
export interface FileShape {
  readonly id: Uint8Array;
  readonly sizeBytes: number;
  /** 32 bytes for each page. */
  readonly pageRoots: Uint8Array;
}

export function chunkCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / CHUNK_BYTES);
}

/** All chunks but the last are full. */
export function chunkLength(sizeBytes: number, chunk: number): number {
  return Math.min(CHUNK_BYTES, sizeBytes - chunk * CHUNK_BYTES);
}

export function pageCount(sizeBytes: number): number {
  return Math.ceil(chunkCount(sizeBytes) / PAGE_CHUNKS);
}

/** Leaves of a page. */
export function pageLength(sizeBytes: number, page: number): number {
  return Math.min(PAGE_CHUNKS, chunkCount(sizeBytes) - page * PAGE_CHUNKS);
}

/** @param prefixed LEAF_PREFIX ‖ chunk */
export function leafHash(prefixed: Uint8Array): Uint8Array {
  return createHash("sha256").update(prefixed).digest();
}

/** @param hashes 32 bytes each @returns 32 bytes; of none: SHA-256 of nothing */
export function treeRoot(hashes: Uint8Array): Uint8Array {
  let level = hashes;
  if (level.length === 0) return createHash("sha256").digest();
  while (level.length > HASH_BYTES) {
    const count = level.length / HASH_BYTES;
    const above = new Uint8Array(Math.ceil(count / 2) * HASH_BYTES);
    for (let i = 0; i < count; i += 2) {
      const at = i * HASH_BYTES;
      const isPair = i + 1 < count;
      const node = isPair
        ? createHash("sha256")
            .update(Uint8Array.of(NODE_PREFIX))
            .update(level.subarray(at, at + 2 * HASH_BYTES))
            .digest()
        : level.subarray(at, at + HASH_BYTES);
      above.set(node, (i / 2) * HASH_BYTES);
    }
    level = above;
  }
  return level.slice();
}

/** @param leaves of the whole file */
export function pageRootsOf(leaves: Uint8Array): Uint8Array {
  const pageBytes = PAGE_CHUNKS * HASH_BYTES;
  const roots: Uint8Array[] = [];
  for (let at = 0; at < leaves.length; at += pageBytes) roots.push(treeRoot(leaves.subarray(at, at + pageBytes)));
  return concat(...roots);
}

export function fileIdOf(sizeBytes: number, pageRoots: Uint8Array): Uint8Array {
  return createHash("sha256").update(ID_LABEL).update(u64(sizeBytes)).update(treeRoot(pageRoots)).digest();
}

/** Do size and page roots belong to the id? Cheap: at most 2,048 hashes of 65 bytes. */
export function provesShape({ id, sizeBytes, pageRoots }: FileShape): boolean {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > MAX_FILE_BYTES) return false;
  if (pageRoots.length !== pageCount(sizeBytes) * HASH_BYTES) return false;
  return equal(fileIdOf(sizeBytes, pageRoots), id);
}

/** Are these the leaves of the page? */
export function provesPage(shape: FileShape, page: number, leaves: Uint8Array): boolean {
  if (leaves.length !== pageLength(shape.sizeBytes, page) * HASH_BYTES) return false;
  return equal(treeRoot(leaves), shape.pageRoots.subarray(page * HASH_BYTES, (page + 1) * HASH_BYTES));
}

function checksum(id: Uint8Array): Uint8Array {
  return createHash("sha256").update(CHECKSUM_LABEL).update(id).digest().subarray(0, CHECKSUM_BYTES);
}

/** @returns "f1…", 58 characters */
export function formatFileId(id: Uint8Array): string {
  return TEXT_PREFIX + encodeBase32(concat(id, checksum(id)));
}

/** @returns 32 bytes, undefined when form or checksum is wrong */
export function parseFileId(text: string): Uint8Array | undefined {
  if (text.length !== TEXT_LENGTH || text.slice(0, 2).toLowerCase() !== TEXT_PREFIX) return undefined;
  const bytes = decodeBase32(text.slice(2));
  if (bytes === undefined || bytes.length !== HASH_BYTES + CHECKSUM_BYTES) return undefined;
  const id = bytes.slice(0, HASH_BYTES);
  return equal(bytes.subarray(HASH_BYTES), checksum(id)) ? id : undefined;
}
