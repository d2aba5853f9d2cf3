/**
 * Copies of short byte strings, cut from pieces of 64 KiB: a memory block of its own costs more than the copy. A copy keeps its piece alive, so this is
 * for what is used soon and then dropped. Copies are the callee's and lie at multiples of eight.
 */
const PIECE_BYTES = 65_536;
/** Longer ones get memory of their own. */
const LARGEST_BYTES = 4_096;

export class CopyPool {
  #piece: Uint8Array<ArrayBuffer> = new Uint8Array(PIECE_BYTES);
  #at = 0;

  /** @returns `length` bytes with anything in them */
  take(length: number): Uint8Array<ArrayBuffer> {
    if (length > LARGEST_BYTES) return new Uint8Array(length);
    if (this.#at + length > PIECE_BYTES) {
      this.#piece = new Uint8Array(PIECE_BYTES);
      this.#at = 0;
    }
    const from = this.#at;
    this.#at = (from + length + 7) & ~7;
    return this.#piece.subarray(from, from + length);
  }

  /** Like source.slice(from, to). */
  copy(source: Uint8Array, from: number, to: number): Uint8Array<ArrayBuffer> {
    const out = this.take(to - from);
    out.set(source.subarray(from, to));
    return out;
  }
}
