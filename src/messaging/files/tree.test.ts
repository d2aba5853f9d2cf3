import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { concat, toHex } from "../../base/bytes.ts";
import {
  CHUNK_BYTES,
  chunkCount,
  chunkLength,
  fileIdOf,
  formatFileId,
  HASH_BYTES,
  leafHash,
  MAX_FILE_BYTES,
  PAGE_CHUNKS,
  pageCount,
  pageLength,
  pageRootsOf,
  parseFileId,
  provesPage,
  provesShape,
  treeRoot,
} from "./tree.ts";

const sha = (...parts: Uint8Array[]): Uint8Array =>
  createHash("sha256")
    .update(concat(...parts))
    .digest();

/** RFC 6962 section 2.1, as it is written there, over leaf hashes. */
function reference(leaves: readonly Uint8Array[]): Uint8Array {
  if (leaves.length === 0) return sha();
  if (leaves.length === 1) return leaves[0];
  let k = 1;
  while (k * 2 < leaves.length) k *= 2;
  return sha(Uint8Array.of(1), reference(leaves.slice(0, k)), reference(leaves.slice(k)));
}

test("the root is the one of RFC 6962, and of its test vectors", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 32, maxLength: 32 }), { maxLength: 40 }), (leaves) => {
      assert.deepEqual(new Uint8Array(treeRoot(concat(...leaves))), new Uint8Array(reference(leaves)));
    }),
  );
  // Certificate Transparency's reference tree (certificate-transparency/cpp/merkletree/merkle_tree_test.cc): 8 leaves
  const inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
  const leaves = inputs.map((hex) => leafHash(concat(Uint8Array.of(0), Uint8Array.fromHex(hex))));
  assert.equal(toHex(treeRoot(concat(...leaves))), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
});

test("roots of pages make the root of the whole tree", () => {
  for (const count of [1, PAGE_CHUNKS, PAGE_CHUNKS + 1, 2 * PAGE_CHUNKS + 3]) {
    const leaves = new Uint8Array(count * HASH_BYTES);
    for (let i = 0; i < count; i++) leaves.set([i & 255, i >> 8], i * HASH_BYTES);
    assert.deepEqual(treeRoot(pageRootsOf(leaves)), treeRoot(leaves));
  }
});

test("chunks and pages cover a file exactly", () => {
  const sizes = fc.oneof(fc.integer({ min: 0, max: 5 * CHUNK_BYTES }), fc.integer({ min: 0, max: 2 ** 40 }));
  fc.assert(
    fc.property(sizes, (size) => {
      const chunks = chunkCount(size);
      if (chunks > 0) {
        const last = chunkLength(size, chunks - 1);
        assert.ok(last >= 1 && last <= CHUNK_BYTES);
        assert.equal((chunks - 1) * CHUNK_BYTES + last, size);
      } else assert.equal(size, 0);
      let leaves = 0;
      for (let page = 0; page < pageCount(size); page++) leaves += pageLength(size, page);
      assert.equal(leaves, chunks);
    }),
  );
});

test("another size, root, page or leaf proves nothing", () => {
  const leaves = new Uint8Array(3 * HASH_BYTES).fill(7);
  const sizeBytes = 2 * CHUNK_BYTES + 5;
  const pageRoots = pageRootsOf(leaves);
  const shape = { id: fileIdOf(sizeBytes, pageRoots), sizeBytes, pageRoots };
  assert.ok(provesShape(shape) && provesPage(shape, 0, leaves));
  assert.equal(provesShape({ ...shape, sizeBytes: sizeBytes + 1 }), false);
  assert.equal(provesShape({ ...shape, sizeBytes: Number.NaN }), false);
  assert.equal(provesShape({ ...shape, sizeBytes: MAX_FILE_BYTES + 1 }), false);
  assert.equal(provesShape({ ...shape, pageRoots: new Uint8Array(32) }), false);
  assert.equal(provesShape({ ...shape, pageRoots: concat(pageRoots, pageRoots) }), false);
  const forged = leaves.slice();
  forged[40] ^= 1;
  assert.equal(provesPage(shape, 0, forged), false);
  assert.equal(provesPage(shape, 0, leaves.subarray(HASH_BYTES)), false);
  assert.equal(provesPage(shape, 1, leaves), false);
});

test("an id has one text form, and a mistake in it is seen", () => {
  const id = sha(Uint8Array.of(1));
  const text = formatFileId(id);
  assert.equal(text.length, 58);
  assert.deepEqual(parseFileId(text), new Uint8Array(id));
  for (let i = 2; i < text.length; i++) {
    const wrong = text.slice(0, i) + (text[i] === "a" ? "b" : "a") + text.slice(i + 1);
    assert.equal(parseFileId(wrong), undefined, wrong);
  }
  for (const wrong of ["", "f1", `w1${text.slice(2)}`, `${text}a`]) assert.equal(parseFileId(wrong), undefined);
});
