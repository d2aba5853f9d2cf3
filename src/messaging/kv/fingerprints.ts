/**
 * Fingerprints of a set of 16-byte ids, by the first digits of the ids: two sets are compared by walking down only where they differ. A node of
 * depth d covers all ids that begin with its d hexadecimal digits and keeps their number and their sum modulo 2^128, so that adding
 * and removing cost four steps. What goes over the wire is a hash of the sum, because a bare sum could be steered.
 * Depth 0 is everything, depth 3 the 4,096 leaves, which hold the ids. Source: docs/protocol.md, "Replicated stores" (comparison).
 */
import { sha256 } from "../../crypto/kdf.ts";

export const LEAF_DEPTH = 3;
export const FINGERPRINT_BYTES = 16;

export interface TreeNode {
  count: number;
  /** Sum of the ids, four u32, lowest first. */
  readonly sum: Uint32Array;
}

const EMPTY: TreeNode = { count: 0, sum: new Uint32Array(4) };

export class Fingerprints {
  readonly #levels: readonly Map<number, TreeNode>[] = [new Map(), new Map(), new Map(), new Map()];
  readonly #leaves = new Map<number, Map<string, Uint8Array>>();

  get count(): number {
    return this.node(0, 0).count;
  }

  /** @returns false when it was there */
  add(id: Uint8Array, idHex: string): boolean {
    const leaf = prefixOf(id, LEAF_DEPTH);
    let ids = this.#leaves.get(leaf);
    if (ids === undefined) this.#leaves.set(leaf, (ids = new Map()));
    if (ids.has(idHex)) return false;
    ids.set(idHex, id);
    for (let depth = 0; depth <= LEAF_DEPTH; depth++) {
      const level = this.#levels[depth];
      const prefix = prefixOf(id, depth);
      let node = level.get(prefix);
      if (node === undefined) level.set(prefix, (node = { count: 0, sum: new Uint32Array(4) }));
      node.count++;
      accumulate(node.sum, id, false);
    }
    return true;
  }

  /** @returns false when it was not there */
  remove(id: Uint8Array, idHex: string): boolean {
    const leaf = prefixOf(id, LEAF_DEPTH);
    const ids = this.#leaves.get(leaf);
    if (ids?.delete(idHex) !== true) return false;
    if (ids.size === 0) this.#leaves.delete(leaf);
    for (let depth = 0; depth <= LEAF_DEPTH; depth++) {
      const level = this.#levels[depth];
      const prefix = prefixOf(id, depth);
      const node = level.get(prefix)!;
      node.count--;
      accumulate(node.sum, id, true);
      if (node.count === 0) level.delete(prefix);
    }
    return true;
  }

  node(depth: number, prefix: number): Readonly<TreeNode> {
    return this.#levels[depth].get(prefix) ?? EMPTY;
  }

  /** @returns 16 bytes */
  fingerprint(depth: number, prefix: number): Uint8Array {
    return fingerprintOf(this.node(depth, prefix));
  }

  /** All ids under a node, by hexadecimal form. */
  *ids(depth: number, prefix: number): Generator<[idHex: string, id: Uint8Array]> {
    const shift = 4 * (LEAF_DEPTH - depth);
    const end = (prefix + 1) << shift;
    for (let leaf = prefix << shift; leaf < end; leaf++) yield* this.#leaves.get(leaf) ?? [];
  }
}

/** The first `depth` hexadecimal digits of an id as a number. */
export function prefixOf(id: Uint8Array, depth: number): number {
  if (depth === 0) return 0;
  return ((id[0] << 8) | id[1]) >>> (16 - 4 * depth);
}

export function fingerprintOf(node: Readonly<TreeNode>): Uint8Array {
  const bytes = new Uint8Array(20);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, node.count, true);
  for (let i = 0; i < 4; i++) view.setUint32(4 + 4 * i, node.sum[i], true);
  return sha256(bytes).slice(0, FINGERPRINT_BYTES);
}

function accumulate(sum: Uint32Array, id: Uint8Array, isMinus: boolean): void {
  let carry = isMinus ? 1 : 0;
  for (let i = 0; i < 4; i++) {
    const word = (id[4 * i] | (id[4 * i + 1] << 8) | (id[4 * i + 2] << 16) | (id[4 * i + 3] << 24)) >>> 0;
    const total = sum[i] + (isMinus ? ~word >>> 0 : word) + carry;
    sum[i] = total;
    carry = total > 0xffffffff ? 1 : 0;
  }
}
