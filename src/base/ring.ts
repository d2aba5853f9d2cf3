/**
 * Single-producer single-consumer ring of byte records in a SharedArrayBuffer: how two threads pass messages without locks.
 *
 * Stages: the producer reserves, copies the record, then publishes the head with one atomic store; the consumer reads up to the
 * head and publishes the tail. Order is kept. When a record does not fit, push() says false and the ring counts it: nothing
 * blocks and nothing is overwritten. A record is: length u32 | bytes, padded to 4; a length of 0xFFFFFFFF means "wrap here".
 *
 * Header words (Int32): 0 head | 1 tail | 2 refused records | 3 consumer parked flag.
 */
const HEADER_WORDS = 16;
const HEADER_BYTES = HEADER_WORDS * 4;
const HEAD = 0;
const TAIL = 1;
const REFUSED = 2;
const PARKED = 3;
const WRAP = 0xffffffff;

/** @param bytes capacity, a multiple of 4 @returns memory to give to one ByteRing on each side */
export function createRingMemory(bytes: number): SharedArrayBuffer {
  return new SharedArrayBuffer(HEADER_BYTES + bytes);
}

export class ByteRing {
  readonly #words: Int32Array;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #capacity: number;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory, 0, HEADER_WORDS);
    this.#u8 = new Uint8Array(memory, HEADER_BYTES);
    this.#view = new DataView(memory, HEADER_BYTES);
    this.#capacity = memory.byteLength - HEADER_BYTES;
  }

  get capacityBytes(): number {
    return this.#capacity;
  }

  /** Bytes waiting, seen from either side. */
  get usedBytes(): number {
    const used = Atomics.load(this.#words, HEAD) - Atomics.load(this.#words, TAIL);
    return used >= 0 ? used : used + this.#capacity;
  }

  /** Records refused since the ring was made. */
  get refused(): number {
    return Atomics.load(this.#words, REFUSED);
  }

  /** Producer. Copies `length` bytes of `source`. @returns false when they do not fit (counted) */
  push(source: Uint8Array, offset: number, length: number): boolean {
    const need = 4 + ((length + 3) & ~3);
    const head = Atomics.load(this.#words, HEAD);
    const tail = Atomics.load(this.#words, TAIL);
    let at = head;
    // one word stays free, so that head = tail means empty
    if (head >= tail) {
      if (head + need > this.#capacity - (tail === 0 ? 4 : 0)) {
        if (need + 4 > tail) return this.#refuse();
        if (head < this.#capacity) this.#view.setUint32(head, WRAP, true);
        at = 0;
      }
    } else if (head + need + 4 > tail) {
      return this.#refuse();
    }
    this.#view.setUint32(at, length, true);
    const target = at + 4;
    const u8 = this.#u8;
    if (length <= 64) for (let i = 0; i < length; i++) u8[target + i] = source[offset + i];
    else u8.set(offset === 0 && source.length === length ? source : source.subarray(offset, offset + length), target);
    let next = at + need;
    if (next >= this.#capacity) next = 0;
    Atomics.store(this.#words, HEAD, next);
    return true;
  }

  /** Consumer. @returns a copy of the oldest record, or undefined when the ring is empty */
  pop(): Uint8Array | undefined {
    const head = Atomics.load(this.#words, HEAD);
    let tail = Atomics.load(this.#words, TAIL);
    if (head === tail) return undefined;
    let length = this.#view.getUint32(tail, true);
    if (length === WRAP) {
      tail = 0;
      length = this.#view.getUint32(0, true);
    }
    const record = this.#u8.slice(tail + 4, tail + 4 + length);
    let next = tail + 4 + ((length + 3) & ~3);
    if (next >= this.#capacity) next = 0;
    Atomics.store(this.#words, TAIL, next);
    return record;
  }

  get isEmpty(): boolean {
    return Atomics.load(this.#words, HEAD) === Atomics.load(this.#words, TAIL);
  }

  /** Consumer: says that it is about to sleep. Check isEmpty once more afterwards, before sleeping. */
  park(): void {
    Atomics.store(this.#words, PARKED, 1);
  }

  unpark(): void {
    Atomics.store(this.#words, PARKED, 0);
  }

  /** Producer, after push(): true when the consumer sleeps and must be woken; clears the flag, so only one waker acts. */
  takeParked(): boolean {
    return Atomics.exchange(this.#words, PARKED, 0) === 1;
  }

  /** Consumer on an event loop: resolves when the producer calls wake(); at once when something is there already. */
  async waitAsync(): Promise<void> {
    const head = Atomics.load(this.#words, HEAD);
    if (head !== Atomics.load(this.#words, TAIL)) return;
    const result = Atomics.waitAsync(this.#words, HEAD, head);
    if (result.async) await result.value;
  }

  /** Producer, after push(): wakes a consumer in waitAsync(). */
  wake(): void {
    Atomics.notify(this.#words, HEAD, 1);
  }

  #refuse(): false {
    Atomics.add(this.#words, REFUSED, 1);
    return false;
  }
}
