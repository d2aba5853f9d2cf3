/**
 * One block of memory that holds every buffer the kernel or OpenSSL touches, with a bump allocator for what lives as long as
 * the slab and fixed-size pools on top for what comes and goes. Offsets, not addresses: src/sys alone knows where the slab is.
 */
import { WeftError } from "./errors.ts";

export class Slab {
  readonly buffer: ArrayBuffer;
  readonly u8: Uint8Array;
  readonly view: DataView;
  #used = 64;

  /** @param memory its size in bytes, fixed for life, or the memory itself; offset 0 is never handed out, so 0 can mean "none" */
  constructor(memory: number | ArrayBuffer) {
    this.buffer = typeof memory === "number" ? new ArrayBuffer(memory) : memory;
    this.u8 = new Uint8Array(this.buffer);
    this.view = new DataView(this.buffer);
  }

  get usedBytes(): number {
    return this.#used;
  }

  /** Takes `bytes` for the life of the slab. @param align a power of two @throws WeftError SLAB_FULL */
  allocate(bytes: number, align = 64): number {
    const offset = (this.#used + align - 1) & ~(align - 1);
    if (offset + bytes > this.buffer.byteLength) {
      throw new WeftError(
        "SLAB_FULL",
        `packet memory is too small: ${offset + bytes} of ${this.buffer.byteLength} bytes wanted`,
        "lower max_peers",
      );
    }
    this.#used = offset + bytes;
    return offset;
  }
}

/** Equal blocks taken from a slab, handed out and given back in O(1) without allocating. */
export class BlockPool {
  readonly blockBytes: number;
  readonly capacity: number;
  readonly #free: Int32Array;
  #freeCount: number;

  constructor(slab: Slab, blockBytes: number, capacity: number) {
    this.blockBytes = blockBytes;
    this.capacity = capacity;
    this.#free = new Int32Array(capacity);
    this.#freeCount = capacity;
    const stride = (blockBytes + 63) & ~63;
    const base = slab.allocate(stride * capacity);
    for (let i = 0; i < capacity; i++) this.#free[i] = base + (capacity - 1 - i) * stride;
  }

  get available(): number {
    return this.#freeCount;
  }

  /** @returns a block's offset, or 0 when the pool is empty */
  take(): number {
    if (this.#freeCount === 0) return 0;
    return this.#free[--this.#freeCount];
  }

  /** @param offset one that take() returned and that was not given back since */
  give(offset: number): void {
    this.#free[this.#freeCount++] = offset;
  }
}
