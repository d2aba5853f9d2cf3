/**
 * Extra IPv4 sockets for hole punching through a NAT that gives every destination another port: many sockets mean many mappings, and
 * one of them is met (docs/protocol.md, "Hole punching"). They stand in one epoll set, whose descriptor the worker polls beside the main sockets. At most
 * EXTRA_SOCKETS at once; beyond that openMany() opens fewer. Numbers only; nothing allocates while packets flow.
 */
import { libc } from "./libc.ts";
import { slabAddress, type SlabMemory } from "./memory.ts";
import { openSocket, type SocketOptions } from "./udp-socket.ts";

export const EXTRA_SOCKETS = 256;
const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLLIN = 1;
/** struct epoll_event is packed on x86-64 only: events u32, then data u64 at 4 or at 8; 12 or 16 bytes. */
const EVENT_DATA: number = process.arch === "x64" ? 4 : 8;
/** A probe socket receives little: the kernel's smallest buffers do. */
const BUFFER_BYTES = 64 << 10;

export class ExtraSockets {
  /** Of the epoll set; −1 after close(). */
  fd: number;
  count = 0;
  readonly #slab: SlabMemory;
  readonly #options: SocketOptions;
  readonly #mark: number;
  readonly #event: number;
  readonly #eventAddress: number;
  /** Descriptor by id − 1; −1 = none. */
  readonly #fds: Int32Array = new Int32Array(EXTRA_SOCKETS).fill(-1);

  constructor(slab: SlabMemory, options: SocketOptions, mark: number) {
    this.#slab = slab;
    this.#options = options;
    this.#mark = mark;
    this.#event = slab.allocate(16);
    this.#eventAddress = slabAddress(slab) + this.#event;
    this.fd = libc.epoll_create1(EPOLL_CLOEXEC);
  }

  /** Opens up to `count` sockets on ports of the kernel's choice. @param ids takes their numbers, 1–256 @returns how many */
  openMany(address: string, count: number, ids: number[]): number {
    const before = ids.length;
    for (let id = 1; id <= EXTRA_SOCKETS && ids.length - before < count; id++) {
      if (this.#fds[id - 1] >= 0 || this.fd < 0) continue;
      const settings = { gro: false, mark: this.#mark, receiveBufferBytes: BUFFER_BYTES, countsOverflow: false };
      let fd: number;
      try {
        fd = openSocket(this.#slab, this.#options, { family: 4, address, port: 0 }, settings).fd;
      } catch {
        // descriptors or ports are used up: fewer sockets are fewer chances, not a failure
        break;
      }
      this.#slab.view.setUint32(this.#event, EPOLLIN, true);
      this.#slab.view.setUint32(this.#event + EVENT_DATA, id, true);
      this.#slab.view.setUint32(this.#event + EVENT_DATA + 4, 0, true);
      if (libc.epoll_ctl(this.fd, EPOLL_CTL_ADD, fd, this.#eventAddress) !== 0) {
        libc.close(fd);
        break;
      }
      this.#fds[id - 1] = fd;
      this.count++;
      ids.push(id);
    }
    return ids.length - before;
  }

  /** @returns the descriptor, or −1 when that socket is not open */
  descriptor(id: number): number {
    return id >= 1 && id <= EXTRA_SOCKETS ? this.#fds[id - 1] : -1;
  }

  /** @returns the id of a socket with something to read, 0 = none */
  ready(): number {
    if (libc.epoll_wait(this.fd, this.#eventAddress, 1, 0) !== 1) return 0;
    return this.#slab.view.getUint32(this.#event + EVENT_DATA, true);
  }

  /** Closing a descriptor takes it out of the epoll set. */
  close(id: number): void {
    const fd = this.descriptor(id);
    if (fd < 0) return;
    libc.close(fd);
    this.#fds[id - 1] = -1;
    this.count--;
  }

  /** Every socket and the set itself. */
  closeAll(): void {
    for (let id = 1; id <= EXTRA_SOCKETS; id++) this.close(id);
    if (this.fd >= 0) libc.close(this.fd);
    this.fd = -1;
  }
}
