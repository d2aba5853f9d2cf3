/**
 * Where the slab is: addresses of memory for the kernel and OpenSSL, and packet memory at low addresses.
 *
 * An address below 2^31 is a small integer to V8, so computing it and passing it to a foreign call allocates nothing and costs
 * 2–3 ns less per argument than a double: createPacketMemory() maps such memory where the platform lets it.
 */
import { lastErrno, libc, rawAddress, viewMemory } from "./libc.ts";

/** What src/sys needs of the slab (base/slab.ts). */
export interface SlabMemory {
  readonly buffer: ArrayBuffer;
  readonly u8: Uint8Array;
  readonly view: DataView;
  allocate(bytes: number, align?: number): number;
}

const addresses = new WeakMap<ArrayBuffer, number>();
const mapped = new WeakMap<ArrayBuffer, { readonly address: number; readonly bytes: number }>();

/**
 * Address of byte 0 of the slab. An ArrayBuffer's memory never moves, and the slab's owner keeps it for the life of its ports;
 * the ports keep the slab referenced themselves.
 */
export function slabAddress(slab: SlabMemory): number {
  let address = addresses.get(slab.buffer);
  if (address === undefined) {
    address = rawAddress(slab.buffer);
    addresses.set(slab.buffer, address);
  }
  return address;
}

/** Writes a pointer or size_t (below 2^53) into native memory, little-endian. */
export function setU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setUint32(offset + 4, (value / 4294967296) >>> 0, true);
}

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
/** x86-64 only: the first 2 GiB. */
const MAP_32BIT = 0x40;
const MAP_FIXED_NOREPLACE = 0x100000;
const LOW_LIMIT = 2 ** 31;
const LOW_FLOOR = 0x1000_0000;

/**
 * Zeroed memory for one slab, below 2^31 where possible, else an ordinary ArrayBuffer. A low mapping lives until
 * releasePacketMemory(): the garbage collector does not know it.
 */
export function createPacketMemory(bytes: number): ArrayBuffer {
  const rounded = Math.ceil(bytes / 4096) * 4096;
  const address = process.arch === "x64" ? mapLow32(rounded) : mapLowSearch(rounded);
  if (address === 0) return new ArrayBuffer(bytes);
  const buffer = viewMemory(address, bytes);
  mapped.set(buffer, { address, bytes: rounded });
  return buffer;
}

/**
 * Gives the memory back and with it every secret in it. The buffer and all views of it become empty (length 0); ports on it must be closed.
 * An ordinary ArrayBuffer is left to the garbage collector. Idempotent.
 */
export function releasePacketMemory(buffer: ArrayBuffer): void {
  const mapping = mapped.get(buffer);
  if (mapping === undefined) return;
  mapped.delete(buffer);
  addresses.delete(buffer);
  buffer.transfer(0);
  libc.munmap(mapping.address, mapping.bytes);
}

function isLow(address: number, bytes: number): boolean {
  return address >= LOW_FLOOR && address + bytes <= LOW_LIMIT;
}

function mapLow32(bytes: number): number {
  const address = libc.mmap(0, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS | MAP_32BIT, -1, 0);
  // MAP_FAILED is (void *)-1, far above the limit
  return isLow(address, bytes) ? address : 0;
}

function mapLowSearch(bytes: number): number {
  const step = 64 << 20;
  for (let hint = LOW_LIMIT - Math.ceil(bytes / step) * step; hint >= LOW_FLOOR; hint -= step) {
    const address = libc.mmap(hint, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (isLow(address, bytes)) return address;
    if (lastErrno() === 12 /* ENOMEM */) return 0;
  }
  return 0;
}
