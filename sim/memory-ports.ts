/**
 * The data plane's ports in memory: a TUN, a UDP socket, a poller and an AEAD that need no kernel, for the simulator and for tests.
 * Behaviour follows src/sys: same results, same error numbers, same lifetime of buffers.
 */
import { createCipheriv, createDecipheriv, createHmac } from "node:crypto";
import { NAME_BYTES } from "../src/base/name.ts";
import type { Slab } from "../src/base/slab.ts";
import {
  type AeadPort,
  type MacPort,
  type PollPort,
  Ready,
  type TunPort,
  type UdpError,
  type UdpPort,
} from "../src/dataplane/ports.ts";
import { Cipher } from "../src/session/types.ts";

const EAGAIN = -11;
const TAG_BYTES = 16;

/** Packets with their 10-byte vnet header, in both directions. */
export class MemoryTun implements TunPort {
  readonly offloads: number;
  /** What the kernel would hand out; shift order. */
  readonly incoming: Uint8Array[] = [];
  /** What was written. */
  readonly written: Uint8Array[] = [];
  /** Result of the next writes instead of success, for example −11. */
  failWrites = 0;
  readonly #slab: Slab;
  #parts: Uint8Array[] = [];

  constructor(slab: Slab, offloads = 0x67) {
    this.#slab = slab;
    this.offloads = offloads;
  }

  read(offset: number, maxBytes: number): number {
    const packet = this.incoming.shift();
    if (packet === undefined) return EAGAIN;
    const bytes = Math.min(packet.length, maxBytes);
    this.#slab.u8.set(packet.subarray(0, bytes), offset);
    return bytes;
  }

  beginWrite(): void {
    this.#parts = [];
  }

  addPart(offset: number, bytes: number): void {
    this.#parts.push(this.#slab.u8.slice(offset, offset + bytes));
  }

  commitWrite(): number {
    if (this.failWrites < 0) return this.failWrites;
    const packet = Buffer.concat(this.#parts);
    this.written.push(new Uint8Array(packet));
    return packet.length;
  }
}

/** One GRO train or datagram on its way. */
export interface MemoryDatagram {
  readonly bytes: Uint8Array;
  readonly segmentBytes: number;
  /** 48-byte name block: the destination when sent, the source when received. */
  readonly name: Uint8Array;
}

export class MemoryUdp implements UdpPort {
  readonly messageOffset: Int32Array = new Int32Array(16);
  readonly messageBytes: Int32Array = new Int32Array(16);
  readonly messageSegmentBytes: Int32Array = new Int32Array(16);
  readonly messageName: Int32Array = new Int32Array(16);
  readonly overflowed: Float64Array = new Float64Array(2);
  readonly error: UdpError = { errno: 0, origin: 0, info: 0, name: 0 };
  readonly incoming: MemoryDatagram[] = [];
  readonly sent: MemoryDatagram[] = [];
  /** Decides the result of a send: 0 accepts. */
  onSend: (datagram: MemoryDatagram) => number = () => 0;
  sendBufferBytes = 0;
  readonly #slab: Slab;
  readonly #buffers: number;
  readonly #names: number;

  constructor(slab: Slab) {
    this.#slab = slab;
    this.#buffers = slab.allocate(16 * 65_536);
    this.#names = slab.allocate(16 * 64);
  }

  receive(_family: 4 | 6, maxMessages: number): number {
    if (this.incoming.length === 0) return EAGAIN;
    let count = 0;
    while (count < Math.min(maxMessages, 16) && this.incoming.length > 0) {
      const datagram = this.incoming.shift() as MemoryDatagram;
      const at = this.#buffers + count * 65_536;
      this.#slab.u8.set(datagram.bytes, at);
      this.#slab.u8.set(datagram.name, this.#names + count * 64);
      this.messageOffset[count] = at;
      this.messageBytes[count] = datagram.bytes.length;
      this.messageSegmentBytes[count] = datagram.segmentBytes;
      this.messageName[count] = this.#names + count * 64;
      count++;
    }
    return count;
  }

  send(offset: number, bytes: number, segmentBytes: number, name: number): number {
    const datagram = {
      bytes: this.#slab.u8.slice(offset, offset + bytes),
      segmentBytes,
      name: this.#slab.u8.slice(name, name + NAME_BYTES),
    };
    const result = this.onSend(datagram);
    if (result < 0) return result;
    this.sent.push(datagram);
    return bytes;
  }

  setSendBuffer(_family: 4 | 6, bytes: number): void {
    this.sendBufferBytes = bytes;
  }

  setGro(): void {}
  openExtra(): number {
    return 0;
  }
  closeExtra(): void {}

  takeError(): number {
    return 0;
  }
}

/** Never sleeps: everything that is there is ready, and time is the caller's. */
export class MemoryPoll implements PollPort {
  readonly #tun: MemoryTun | undefined;
  readonly #udp: MemoryUdp;
  /** The longest sleep asked for last, ms: how the simulator knows when to turn again. */
  askedMs = 0;
  networkChanged = false;

  constructor(tun: MemoryTun | undefined, udp: MemoryUdp) {
    this.#tun = tun;
    this.#udp = udp;
  }

  wait(interest: number, timeoutMs: number): number {
    this.askedMs = timeoutMs;
    let ready = Ready.UDP4_WRITABLE | Ready.UDP6_WRITABLE | Ready.TUN_WRITABLE;
    if (this.#tun !== undefined && this.#tun.incoming.length > 0) ready |= Ready.TUN;
    if (this.#udp.incoming.length > 0) ready |= Ready.UDP4;
    if (this.networkChanged) ready |= Ready.NETLINK;
    return ready & interest;
  }

  clearWake(): void {}

  drainNetlink(): boolean {
    const changed = this.networkChanged;
    this.networkChanged = false;
    return changed;
  }
}

/** node:crypto behind the AEAD port: slow and plain, the same bytes on the wire. */
export class PlainAead implements AeadPort {
  readonly #slab: Slab;
  readonly #keys = new Map<number, { readonly cipher: number; readonly key: Uint8Array }>();
  #next = 1;

  constructor(slab: Slab) {
    this.#slab = slab;
  }

  create(cipher: number, key: Uint8Array): number {
    this.#keys.set(this.#next, { cipher, key: key.slice() });
    return this.#next++;
  }

  destroy(handle: number): void {
    this.#keys.delete(handle);
  }

  seal(handle: number, low: number, high: number, source: number, bytes: number, target: number): void {
    const { name, key, nonce } = this.#use(handle, low, high);
    const u8 = this.#slab.u8;
    const cipher = createCipheriv(name as "aes-256-gcm", key, nonce, { authTagLength: TAG_BYTES });
    const sealed = cipher.update(u8.slice(source, source + bytes));
    cipher.final();
    u8.set(sealed, target);
    u8.set(cipher.getAuthTag(), target + bytes);
  }

  open(handle: number, low: number, high: number, source: number, bytes: number, target: number): boolean {
    const { name, key, nonce } = this.#use(handle, low, high);
    const u8 = this.#slab.u8;
    const decipher = createDecipheriv(name as "aes-256-gcm", key, nonce, { authTagLength: TAG_BYTES });
    decipher.setAuthTag(u8.slice(source + bytes, source + bytes + TAG_BYTES));
    const plain = decipher.update(u8.slice(source, source + bytes));
    try {
      decipher.final();
    } catch {
      return false;
    }
    u8.set(plain, target);
    return true;
  }

  #use(handle: number, low: number, high: number): { name: string; key: Uint8Array; nonce: Uint8Array } {
    const entry = this.#keys.get(handle);
    if (entry === undefined) throw new RangeError(`no AEAD context ${handle}`);
    const nonce = new Uint8Array(12);
    const view = new DataView(nonce.buffer);
    view.setUint32(4, low, true);
    view.setUint32(8, high, true);
    return { name: entry.cipher === Cipher.AES_256_GCM ? "aes-256-gcm" : "chacha20-poly1305", key: entry.key, nonce };
  }
}

export class PlainMac implements MacPort {
  readonly #slab: Slab;
  readonly #keys = new Map<number, Uint8Array>();
  #next = 1;

  constructor(slab: Slab) {
    this.#slab = slab;
  }

  create(key: Uint8Array): number {
    this.#keys.set(this.#next, key.slice());
    return this.#next++;
  }

  destroy(handle: number): void {
    this.#keys.delete(handle);
  }

  compute(handle: number, source: number, bytes: number, target: number): void {
    const key = this.#keys.get(handle) as Uint8Array;
    const u8 = this.#slab.u8;
    u8.set(
      createHmac("sha256", key)
        .update(u8.slice(source, source + bytes))
        .digest(),
      target,
    );
  }
}
