/**
 * Single-producer single-consumer ring of byte records in a SharedArrayBuffer: how two threads pass messages without locks.
 *
 * Stages: the producer reserves, copies the record, then publishes the head with one atomic store; the consumer reads up to the
 * head and publishes the tail. Order is kept. When a record does not fit, push() says false and the ring counts it: nothing
 * blocks and nothing is overwritten. A record is: length u32 | zero u32 | bytes, padded to 8 (memory that two threads share is copied word by word
 * only when both sides are aligned); a length of 0xFFFFFFFF means "wrap here".
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
const RECORD_HEADER_BYTES = 8;
const RECORD_BYTES = 16_384;

/** @param bytes capacity, a multiple of 8 @returns memory to give to one ByteRing on each side */
export function createRingMemory(bytes: number): SharedArrayBuffer {
  return new SharedArrayBuffer(HEADER_BYTES + bytes);
}

export class ByteRing {
  readonly #words: Int32Array;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #capacity: number;
  /** What pop() gives out; longer records get memory of their own. */
  readonly #record = new Uint8Array(RECORD_BYTES);

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
    const at = this.#reserve(length);
    if (at < 0) return this.#refuse();
    const target = at + RECORD_HEADER_BYTES;
    const u8 = this.#u8;
    if (length <= 64) for (let i = 0; i < length; i++) u8[target + i] = source[offset + i];
    else u8.set(offset === 0 && source.length === length ? source : source.subarray(offset, offset + length), target);
    this.#publish(at, length);
    return true;
  }

  /** Producer. One record of two parts. @param head short @returns false when they do not fit (counted) */
  pushTwo(head: Uint8Array, body: Uint8Array): boolean {
    const length = head.length + body.length;
    const at = this.#reserve(length);
    if (at < 0) return this.#refuse();
    const target = at + RECORD_HEADER_BYTES;
    const u8 = this.#u8;
    for (let i = 0; i < head.length; i++) u8[target + i] = head[i];
    u8.set(body, target + head.length);
    this.#publish(at, length);
    return true;
  }

  /** @returns where a record of this length may lie, −1 when it does not fit */
  #reserve(length: number): number {
    const need = RECORD_HEADER_BYTES + ((length + 7) & ~7);
    const head = Atomics.load(this.#words, HEAD);
    const tail = Atomics.load(this.#words, TAIL);
    // one place stays free, so that head = tail means empty
    if (head < tail) return head + need + RECORD_HEADER_BYTES > tail ? -1 : head;
    if (head + need <= this.#capacity - (tail === 0 ? RECORD_HEADER_BYTES : 0)) return head;
    if (need + RECORD_HEADER_BYTES > tail) return -1;
    if (head < this.#capacity) this.#view.setUint32(head, WRAP, true);
    return 0;
  }

  #publish(at: number, length: number): void {
    this.#view.setUint32(at, length, true);
    let next = at + RECORD_HEADER_BYTES + ((length + 7) & ~7);
    if (next >= this.#capacity) next = 0;
    Atomics.store(this.#words, HEAD, next);
  }

  /** Consumer. @returns a copy of the oldest record, good until the next call, or undefined when the ring is empty */
  pop(): Uint8Array<ArrayBuffer> | undefined {
    const head = Atomics.load(this.#words, HEAD);
    let tail = Atomics.load(this.#words, TAIL);
    if (head === tail) return undefined;
    let length = this.#view.getUint32(tail, true);
    if (length === WRAP) {
      tail = 0;
      length = this.#view.getUint32(0, true);
    }
    const from = tail + RECORD_HEADER_BYTES;
    const record = length <= RECORD_BYTES ? this.#record.subarray(0, length) : new Uint8Array(length);
    record.set(this.#u8.subarray(from, from + length));
    let next = from + ((length + 7) & ~7);
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
