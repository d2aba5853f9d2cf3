/** A file in memory with its tree, for tests that serve by hand. */
import { concat } from "../../../base/bytes.ts";
import {
  CHUNK_BYTES,
  chunkCount,
  chunkLength,
  fileIdOf,
  type FileShape,
  leafHash,
  pageRootsOf,
} from "../../../messaging/files/tree.ts";

export interface Source {
  readonly shape: FileShape;
  readonly leaves: Uint8Array;
  readonly bytes: Uint8Array;
}

export function sourceOf(bytes: Uint8Array): Source {
  const leaves = concat(
    ...Array.from({ length: chunkCount(bytes.length) }, (_, chunk) => {
      const at = chunk * CHUNK_BYTES;
      return leafHash(concat(Uint8Array.of(0), bytes.subarray(at, at + chunkLength(bytes.length, chunk))));
    }),
  );
  const pageRoots = pageRootsOf(leaves);
  return { shape: { id: fileIdOf(bytes.length, pageRoots), sizeBytes: bytes.length, pageRoots }, leaves, bytes };
}
