/**
 * A neighbour digest: which nodes its author has sessions with. Up to MAX_EXACT neighbours it is a list of id prefixes, above that a Bloom filter
 * (Bloom 1970) whose size follows the number of neighbours. A node that is in it may be missing there in truth (a prefix or a filter collides); one
 * that is not in it is no neighbour. Positions come from the node id itself, which is a public key and so as good as random; who grinds an id
 * for collisions gains lookups that lead nowhere.
 * Source: docs/protocol.md, "Routing through members".
 */
import { compare } from "../../base/bytes.ts";

export const PREFIX_BYTES = 8;
export const MAX_EXACT = 32;
export const MAX_BLOOM_BYTES = 1024;
const MIN_BLOOM_BYTES = 64;
const BITS_PER_NODE = 10;
const HASHES = 7;

export class NeighbourDigest {
  readonly isExact: boolean;
  /** Id prefixes one after the other, sorted; or the filter. Not changed after construction. */
  readonly bytes: Uint8Array;
  /** Neighbours in it, as its author says. */
  readonly count: number;

  private constructor(isExact: boolean, bytes: Uint8Array, count: number) {
    this.isExact = isExact;
    this.bytes = bytes;
    this.count = count;
  }

  /** @param nodeIds 32 bytes each, distinct */
  static of(nodeIds: readonly Uint8Array[]): NeighbourDigest {
    if (nodeIds.length <= MAX_EXACT) {
      const bytes = new Uint8Array(nodeIds.length * PREFIX_BYTES);
      const sorted = nodeIds.toSorted(compare);
      sorted.forEach((nodeId, i) => bytes.set(nodeId.subarray(0, PREFIX_BYTES), i * PREFIX_BYTES));
      return new NeighbourDigest(true, bytes, nodeIds.length);
    }
    let size = MIN_BLOOM_BYTES;
    while (size < MAX_BLOOM_BYTES && size * 8 < nodeIds.length * BITS_PER_NODE) size *= 2;
    const filter = new Uint8Array(size);
    for (const nodeId of nodeIds) {
      for (let i = 0; i < HASHES; i++) {
        const bit = position(nodeId, i, size * 8);
        filter[bit >>> 3] |= 1 << (bit & 7);
      }
    }
    return new NeighbourDigest(false, filter, nodeIds.length);
  }

  /** @param bytes from the wire, kept @returns undefined for a size that no list has */
  static exact(bytes: Uint8Array): NeighbourDigest | undefined {
    if (bytes.length > MAX_EXACT * PREFIX_BYTES || bytes.length % PREFIX_BYTES !== 0) return undefined;
    return new NeighbourDigest(true, bytes, bytes.length / PREFIX_BYTES);
  }

  /** @param bytes from the wire, kept @returns undefined for a size that no filter has */
  static bloom(bytes: Uint8Array | undefined, count: number): NeighbourDigest | undefined {
    if (bytes === undefined || bytes.length < MIN_BLOOM_BYTES || bytes.length > MAX_BLOOM_BYTES) return undefined;
    if ((bytes.length & (bytes.length - 1)) !== 0) return undefined;
    return new NeighbourDigest(false, bytes, count);
  }

  /** @param nodeId 32 bytes */
  has(nodeId: Uint8Array): boolean {
    const { bytes } = this;
    if (!this.isExact) {
      for (let i = 0; i < HASHES; i++) {
        const bit = position(nodeId, i, bytes.length * 8);
        if ((bytes[bit >>> 3] & (1 << (bit & 7))) === 0) return false;
      }
      return true;
    }
    for (let at = 0; at < bytes.length; at += PREFIX_BYTES) {
      let same = 0;
      while (same < PREFIX_BYTES && bytes[at + same] === nodeId[same]) same++;
      if (same === PREFIX_BYTES) return true;
    }
    return false;
  }
}

/** Double hashing (Kirsch, Mitzenmacher 2006). @param bits a power of two */
function position(nodeId: Uint8Array, i: number, bits: number): number {
  const view = new DataView(nodeId.buffer, nodeId.byteOffset, nodeId.byteLength);
  const first = view.getUint32(0, true);
  const step = view.getUint32(8, true) | 1;
  return ((first + Math.imul(i, step)) >>> 0) & (bits - 1);
}
