/**
 * Fields of binary frames: little-endian integers and byte strings of known length. The reader never throws and never reads beyond its bytes: what is
 * missing reads as zero and makes `isWhole` false, so that a decoder reads everything and asks once at the end.
 */
import { concat } from "../base/bytes.ts";

const TWO_32 = 4_294_967_296;
/** High word of the largest safe integer. */
const MAX_HIGH = 0x1fffff;

export class FieldReader {
  readonly #bytes: Uint8Array;
  #at: number;
  #isShort = false;

  /** @param bytes read until the answer is used; byte strings are copied out of it */
  constructor(bytes: Uint8Array, at = 0) {
    this.#bytes = bytes;
    this.#at = at;
  }

  /** True when every field was there and nothing is left. */
  get isWhole(): boolean {
    return !this.#isShort && this.#at === this.#bytes.length;
  }

  get left(): number {
    return this.#isShort ? 0 : this.#bytes.length - this.#at;
  }

  u8(): number {
    return this.#take(1) ? this.#bytes[this.#at - 1] : 0;
  }

  u16(): number {
    if (!this.#take(2)) return 0;
    return this.#bytes[this.#at - 2] | (this.#bytes[this.#at - 1] << 8);
  }

  u32(): number {
    if (!this.#take(4)) return 0;
    const at = this.#at - 4;
    const b = this.#bytes;
    return (b[at] | (b[at + 1] << 8) | (b[at + 2] << 16) | (b[at + 3] << 24)) >>> 0;
  }

  /** Above 2^53 − 1 it counts as missing. */
  u64(): number {
    const low = this.u32();
    const high = this.u32();
    if (high > MAX_HIGH) {
      this.#isShort = true;
      return 0;
    }
    return high * TWO_32 + low;
  }

  /** @returns a copy; zeros when they are not there */
  bytes(length: number): Uint8Array {
    return this.#take(length) ? this.#bytes.slice(this.#at - length, this.#at) : new Uint8Array(0);
  }

  #take(length: number): boolean {
    if (this.#isShort || this.#bytes.length - this.#at < length) {
      this.#isShort = true;
      return false;
    }
    this.#at += length;
    return true;
  }
}

export function u8(value: number): Uint8Array {
  return Uint8Array.of(value);
}

export function u16(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, (value >>> 8) & 0xff);
}

export function u32(value: number): Uint8Array {
  return Uint8Array.of(value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, (value >>> 24) & 0xff);
}

/** @param value 0 … 2^53 − 1 */
export function u64(value: number): Uint8Array {
  return concat(u32(value % TWO_32), u32(Math.floor(value / TWO_32)));
}
