/**
 * Kind 9: cuts an inner message that may not be refused and does not fit the path, and puts the pieces together again. The header is
 * src/wire/fragment.ts. Source: docs/protocol.md, "Data".
 *
 * Pieces arrive authenticated, in any order, at most 16 unfinished messages per peer for 1 s each. Buffers come from a fixed pool in the
 * slab; a message over a bound displaces the oldest one of the same peer (or of all, when the pool is empty), which is counted.
 */
import { Drop } from "../base/drop.ts";
import { BlockPool, type Slab } from "../base/slab.ts";
import {
  decodeFragment,
  encodeFragment,
  FRAGMENT_HEADER_BYTES,
  FRAGMENT_MAX_COUNT,
  FragmentHeader,
} from "../wire/fragment.ts";

/** Largest piece a receiver keeps, bytes of the original message. */
export const MAX_PIECE_BYTES = 1472;
/** Free bytes in front of a finished message, for the header that its taker puts there. */
export const HEADROOM_BYTES = 64;
const FRAGMENT_TIMEOUT_MS = 1000;
export const FRAGMENTED_PER_PEER = 16;

class Partial {
  readonly block: number;
  readonly peer: number;
  readonly id: number;
  readonly count: number;
  readonly kind: number;
  readonly flags: number;
  readonly startedAtMs: number;
  readonly lengths: Int32Array = new Int32Array(FRAGMENT_MAX_COUNT).fill(-1);
  have = 0;

  constructor(block: number, peer: number, id: number, count: number, kind: number, flags: number, nowMs: number) {
    this.block = block;
    this.peer = peer;
    this.id = id;
    this.count = count;
    this.kind = kind;
    this.flags = flags;
    this.startedAtMs = nowMs;
  }
}

export class Fragmenter {
  readonly #slab: Slab;
  readonly #pool: BlockPool;
  readonly #parts: number;
  readonly #header = new FragmentHeader();
  /** In order of arrival; at most the pool's capacity. */
  #partials: Partial[] = [];
  #finishedBlock = 0;
  #expired = 0;

  /** The pieces made by split(): kind 9 payloads (fragment header and bytes), valid until the next split(). */
  readonly partOffset: Int32Array = new Int32Array(FRAGMENT_MAX_COUNT);
  readonly partBytes: Int32Array = new Int32Array(FRAGMENT_MAX_COUNT);

  /** The message that add() completed; its memory, with HEADROOM_BYTES free in front, is valid until the next add(). */
  wholeOffset = 0;
  wholeKind = 0;
  wholeFlags = 0;

  /** @param capacity unfinished messages of all peers together @default 64 */
  constructor(slab: Slab, capacity: number = 64) {
    this.#slab = slab;
    this.#pool = new BlockPool(slab, HEADROOM_BYTES + FRAGMENT_MAX_COUNT * MAX_PIECE_BYTES, capacity);
    this.#parts = slab.allocate(FRAGMENT_MAX_COUNT * (FRAGMENT_HEADER_BYTES + MAX_PIECE_BYTES));
  }

  /** Unfinished messages now. */
  get pending(): number {
    return this.#partials.length;
  }

  /**
   * Cuts a message into nearly equal pieces, copied with their headers; see partOffset and partBytes.
   * @param id number of the message, counted up by the caller per peer @param maxBytes of one kind 9 payload
   * @returns 2–4 pieces, or 0 when it does not fit four
   */
  split(id: number, kind: number, flags: number, offset: number, bytes: number, maxBytes: number): number {
    const room = Math.min(maxBytes - FRAGMENT_HEADER_BYTES, MAX_PIECE_BYTES);
    if (room <= 0) return 0;
    const count = Math.max(2, Math.ceil(bytes / room));
    if (count > FRAGMENT_MAX_COUNT || bytes < count) return 0;
    const header = this.#header;
    header.id = id;
    header.count = count;
    header.kind = kind;
    header.flags = flags;
    let start = 0;
    for (let index = 0; index < count; index++) {
      const end = Math.ceil((bytes * (index + 1)) / count);
      const at = this.#parts + index * (FRAGMENT_HEADER_BYTES + MAX_PIECE_BYTES);
      header.index = index;
      encodeFragment(this.#slab.view, at, header);
      this.#slab.u8.copyWithin(at + FRAGMENT_HEADER_BYTES, offset + start, offset + end);
      this.partOffset[index] = at;
      this.partBytes[index] = FRAGMENT_HEADER_BYTES + end - start;
      start = end;
    }
    return count;
  }

  /**
   * One authenticated kind 9 message. @param offset,bytes what follows the inner header; anything may be in it
   * @returns > 0: a message of so many bytes is complete, see wholeOffset; 0: kept; < 0: the negative of a Drop reason
   */
  add(nowMs: number, peer: number, offset: number, bytes: number): number {
    this.#release();
    this.#expireOld(nowMs);
    const malformed = decodeFragment(this.#slab.view, offset, bytes, this.#header);
    if (malformed !== Drop.NONE) return -malformed;
    const { id, index, count, kind, flags } = this.#header;
    const length = bytes - FRAGMENT_HEADER_BYTES;
    if (length > MAX_PIECE_BYTES) return -Drop.TOO_BIG;
    let partial = this.#find(peer, id);
    if (partial !== undefined && (partial.count !== count || partial.kind !== kind || partial.flags !== flags)) {
      this.#drop(partial);
      return -Drop.FRAGMENT;
    }
    if (partial === undefined) {
      this.#makeRoom(peer);
      partial = new Partial(this.#pool.take(), peer, id, count, kind, flags, nowMs);
      this.#partials.push(partial);
    }
    if (partial.lengths[index] >= 0) return -Drop.UNEXPECTED;
    partial.lengths[index] = length;
    partial.have++;
    const from = offset + FRAGMENT_HEADER_BYTES;
    this.#slab.u8.copyWithin(pieceAt(partial.block, index), from, from + length);
    return partial.have === count ? this.#finish(partial) : 0;
  }

  /** Gives up what is older than 1 s. @returns messages given up since the last call, by age or for want of room */
  expire(nowMs: number): number {
    this.#expireOld(nowMs);
    const expired = this.#expired;
    this.#expired = 0;
    return expired;
  }

  nextTimeout(): number {
    const oldest = this.#partials[0];
    return oldest === undefined ? Infinity : oldest.startedAtMs + FRAGMENT_TIMEOUT_MS;
  }

  /** Drops everything of a peer. */
  forget(peer: number): void {
    for (const partial of this.#partials.filter((one) => one.peer === peer)) this.#drop(partial);
  }

  #find(peer: number, id: number): Partial | undefined {
    for (const partial of this.#partials) if (partial.id === id && partial.peer === peer) return partial;
    return undefined;
  }

  #makeRoom(peer: number): void {
    let mine = 0;
    for (const partial of this.#partials) if (partial.peer === peer) mine++;
    const victim =
      mine >= FRAGMENTED_PER_PEER
        ? this.#partials.find((one) => one.peer === peer)
        : this.#pool.available === 0
          ? this.#partials[0]
          : undefined;
    if (victim === undefined) return;
    this.#expired++;
    this.#drop(victim);
  }

  /** Moves the pieces together behind the headroom; the block stays taken until the next add(). */
  #finish(partial: Partial): number {
    const start = partial.block + HEADROOM_BYTES;
    let total = 0;
    for (let index = 0; index < partial.count; index++) {
      const length = partial.lengths[index];
      const from = pieceAt(partial.block, index);
      this.#slab.u8.copyWithin(start + total, from, from + length);
      total += length;
    }
    this.#partials.splice(this.#partials.indexOf(partial), 1);
    this.#finishedBlock = partial.block;
    this.wholeOffset = start;
    this.wholeKind = partial.kind;
    this.wholeFlags = partial.flags;
    return total;
  }

  #release(): void {
    if (this.#finishedBlock !== 0) this.#pool.give(this.#finishedBlock);
    this.#finishedBlock = 0;
  }

  #expireOld(nowMs: number): void {
    while (this.#partials.length > 0) {
      const oldest = this.#partials[0];
      if (nowMs - oldest.startedAtMs < FRAGMENT_TIMEOUT_MS) return;
      this.#expired++;
      this.#drop(oldest);
    }
  }

  #drop(partial: Partial): void {
    this.#pool.give(partial.block);
    this.#partials.splice(this.#partials.indexOf(partial), 1);
  }
}

function pieceAt(block: number, index: number): number {
  return block + HEADROOM_BYTES + index * MAX_PIECE_BYTES;
}
