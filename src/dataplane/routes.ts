/**
 * Longest-prefix-match table: destination address → peer slot, for IPv4 and IPv6. It is also the table of the source check.
 *
 * One path-compressed binary trie (PATRICIA, Morrison 1968; the shape of 4.4BSD's radix tree) per family, in typed arrays. A lookup walks down on the
 * address bits that distinguish stored prefixes only, then compares once and climbs the covering prefixes: O(distinct bits) ≤ 32 or
 * 128 steps, about log2(routes) for host routes. Lookups do not allocate and do not write. load() replaces everything at once.
 */
import type { RouteEntry } from "./messages.ts";

/** Fields of one node in the Int32Array. */
const NODE_FIELDS = 5;
/** Prefix length of the node = index of the first bit that tells its children apart. */
const BITS = 0;
/** Child for a 0 bit, child for a 1 bit; −1 = none. */
const CHILD = 1;
/** Peer slot, −1 when the node only branches. */
const PEER = 3;
/** Parent node; −1 at the root. */
const PARENT = 4;

const MAPPED_BITS = 96;

export class RouteTable {
  /** Entries of the last load() that were not taken: malformed, or beyond maxRoutes. */
  refused = 0;
  /** Prefixes in the table now. */
  size = 0;
  readonly #maxRoutes: number;
  readonly #v4: Trie;
  readonly #v6: Trie;

  /** @param maxRoutes bound of prefixes over both families; memory is reserved for it at once (about 80 bytes per route and family) */
  constructor(maxRoutes: number) {
    this.#maxRoutes = maxRoutes;
    this.#v4 = new Trie(maxRoutes, 1);
    this.#v6 = new Trie(maxRoutes, 4);
  }

  /**
   * Replaces the table. IPv4 prefixes are v4-mapped with at least 96 prefix bits. Host bits beyond the prefix length are ignored; of two
   * equal prefixes the later one counts; what exceeds the bound is left out and counted in `refused`.
   */
  load(routes: readonly RouteEntry[]): void {
    this.#v4.clear();
    this.#v6.clear();
    this.refused = 0;
    this.size = 0;
    const key = new Uint32Array(4);
    for (const route of routes) {
      const { prefix, prefixBits, peer } = route;
      const sound = prefix.length === 16 && Number.isInteger(prefixBits) && prefixBits >= 0 && prefixBits <= 128;
      if (!sound || peer < 0 || this.size >= this.#maxRoutes) {
        this.refused++;
        continue;
      }
      const view = new DataView(prefix.buffer, prefix.byteOffset, 16);
      for (let word = 0; word < 4; word++) key[word] = view.getUint32(word * 4);
      let added: boolean;
      if (prefixBits >= MAPPED_BITS && key[0] === 0 && key[1] === 0 && key[2] === 0xffff) {
        key[0] = key[3]!;
        added = this.#v4.insert(key, prefixBits - MAPPED_BITS, peer);
      } else {
        added = this.#v6.insert(key, prefixBits, peer);
      }
      if (added) this.size++;
    }
  }

  /** @param address32 IPv4 address as a 32-bit number in host order (signed or unsigned) @returns peer slot or −1 */
  lookup4(address32: number): number {
    const trie = this.#v4;
    const nodes = trie.nodes;
    let node = trie.root;
    if (node < 0) return -1;
    let last = node;
    while (node >= 0) {
      last = node;
      const bits = nodes[node + BITS];
      if (bits >= 32) break;
      node = nodes[node + CHILD + ((address32 >>> (31 - bits)) & 1)]!;
    }
    const common = Math.clz32(address32 ^ trie.keys[last / NODE_FIELDS]);
    return trie.coveringPeer(last, common);
  }

  /** @param offset of 16 address bytes in `view`; a v4-mapped address finds IPv6 routes only @returns peer slot or −1 */
  lookup6(view: DataView, offset: number): number {
    const trie = this.#v6;
    const nodes = trie.nodes;
    let node = trie.root;
    if (node < 0) return -1;
    let last = node;
    while (node >= 0) {
      last = node;
      const bits = nodes[node + BITS];
      if (bits >= 128) break;
      node = nodes[node + CHILD + ((view.getUint8(offset + (bits >>> 3)) >>> (7 - (bits & 7))) & 1)]!;
    }
    const keys = trie.keys;
    const key = (last / NODE_FIELDS) * 4;
    let common = 0;
    for (let word = 0; word < 4; word++) {
      const equal = Math.clz32(view.getUint32(offset + word * 4) ^ keys[key + word]);
      common += equal;
      if (equal < 32) break;
    }
    return trie.coveringPeer(last, common);
  }
}

/** The trie of one family; `words` 32-bit words make a key. A node reference is its index in `nodes` (a multiple of NODE_FIELDS). */
class Trie {
  readonly nodes: Int32Array;
  readonly keys: Uint32Array;
  root = -1;
  readonly #words: number;
  #used = 0;

  constructor(maxRoutes: number, words: number) {
    this.#words = words;
    // Every insertion adds one node, or two when it splits a path.
    this.nodes = new Int32Array(2 * maxRoutes * NODE_FIELDS);
    this.keys = new Uint32Array(2 * maxRoutes * words);
  }

  clear(): void {
    this.root = -1;
    this.#used = 0;
  }

  /** Peer of the longest stored prefix on the way from `node` to the root that is no longer than `common` bits. */
  coveringPeer(node: number, common: number): number {
    const nodes = this.nodes;
    for (let at = node; at >= 0; at = nodes[at + PARENT]!) {
      if (nodes[at + BITS] <= common && nodes[at + PEER] >= 0) return nodes[at + PEER];
    }
    return -1;
  }

  /** @returns true when the prefix was not there before */
  insert(key: Uint32Array, bits: number, peer: number): boolean {
    const nodes = this.nodes;
    let parent = -1;
    let node = this.root;
    let common = 0;
    while (node >= 0) {
      common = Math.min(this.#commonBits(key, node), bits, nodes[node + BITS]);
      if (common < nodes[node + BITS] || common === bits) break;
      parent = node;
      node = nodes[node + CHILD + bitOf(key, nodes[node + BITS])]!;
    }
    if (node >= 0 && nodes[node + BITS] === bits && common === bits) {
      const known = nodes[node + PEER] >= 0;
      nodes[node + PEER] = peer;
      return !known;
    }
    const leaf = this.#add(key, bits, peer);
    if (node < 0) {
      this.#attach(parent, key, leaf);
    } else if (common === bits) {
      // The prefix covers the node: it goes between parent and node.
      this.#attach(parent, key, leaf);
      this.#adopt(leaf, node);
    } else {
      const fork = this.#add(key, common, -1);
      this.#attach(parent, key, fork);
      this.#adopt(fork, node);
      this.#adopt(fork, leaf);
    }
    return true;
  }

  #attach(parent: number, key: Uint32Array, child: number): void {
    if (parent < 0) this.root = child;
    else this.nodes[parent + CHILD + bitOf(key, this.nodes[parent + BITS])] = child;
    this.nodes[child + PARENT] = parent;
  }

  #adopt(parent: number, child: number): void {
    const bit = this.nodes[parent + BITS];
    const word = this.keys[(child / NODE_FIELDS) * this.#words + (bit >>> 5)];
    this.nodes[parent + CHILD + ((word >>> (31 - (bit & 31))) & 1)] = child;
    this.nodes[child + PARENT] = parent;
  }

  #add(key: Uint32Array, bits: number, peer: number): number {
    const index = this.#used++;
    const node = index * NODE_FIELDS;
    for (let word = 0; word < this.#words; word++) {
      const kept = Math.min(32, Math.max(0, bits - word * 32));
      this.keys[index * this.#words + word] = kept === 0 ? 0 : key[word] & (-1 << (32 - kept));
    }
    this.nodes[node + BITS] = bits;
    this.nodes[node + CHILD] = -1;
    this.nodes[node + CHILD + 1] = -1;
    this.nodes[node + PEER] = peer;
    this.nodes[node + PARENT] = -1;
    return node;
  }

  #commonBits(key: Uint32Array, node: number): number {
    const at = (node / NODE_FIELDS) * this.#words;
    let common = 0;
    for (let word = 0; word < this.#words; word++) {
      const equal = Math.clz32(key[word] ^ this.keys[at + word]);
      common += equal;
      if (equal < 32) break;
    }
    return common;
  }
}

function bitOf(key: Uint32Array, bit: number): number {
  return (key[bit >>> 5] >>> (31 - (bit & 31))) & 1;
}
