/**
 * Where the data-plane worker sleeps: ppoll(2) over TUN, the UDP sockets, an eventfd and the netlink socket, with a fractional
 * time-out. A descriptor that is absent or that nobody is interested in is negative in the array, which ppoll skips.
 */
import { type PollPort, Ready } from "../dataplane/ports.ts";
import { readEventFd } from "./eventfd.ts";
import { libc } from "./libc.ts";
import { slabAddress, type SlabMemory } from "./memory.ts";
import type { NetlinkListener } from "./netlink.ts";

/** struct pollfd: fd i32, events i16, revents i16 */
const POLLFD_BYTES = 8;
const POLLIN = 0x001;
const POLLOUT = 0x004;
const POLLERR = 0x008;
const POLLHUP = 0x010;
const POLLNVAL = 0x020;
const SLOTS = 6;
const MAX_WAIT_MS = 1000;

/** Ready bits per slot: readable, writable, error (0 = a failure makes it readable, so that the next read tells). */
const READABLE: readonly number[] = [Ready.TUN, Ready.UDP4, Ready.UDP6, Ready.WAKE, Ready.NETLINK, Ready.UDP4];
const WRITABLE: readonly number[] = [Ready.TUN_WRITABLE, Ready.UDP4_WRITABLE, Ready.UDP6_WRITABLE, 0, 0, 0];
const FAILED: readonly number[] = [0, Ready.UDP4_ERROR, Ready.UDP6_ERROR, 0, 0, 0];

export interface PollDescriptors {
  /** −1 or left out: none. They stay the caller's to close, after the last wait(). */
  readonly tun?: number;
  readonly udp4?: number;
  readonly udp6?: number;
  readonly wake?: number;
  readonly netlink?: NetlinkListener | undefined;
  /** Readiness of the extra IPv4 sockets; shows as UDP4. */
  readonly udpExtra?: number;
}

/**
 * Takes 128 bytes of the slab. wait() also reports UDP4_ERROR and UDP6_ERROR of sockets that are waited for, asked for or not: the kernel wakes
 * the sleeper for an error queue in any case, so it has to be drained.
 */
export function createPoll(deps: { readonly slab: SlabMemory }, descriptors: PollDescriptors): PollPort {
  return new Poll(deps.slab, descriptors);
}

class Poll implements PollPort {
  readonly #slab: SlabMemory;
  readonly #view: DataView;
  readonly #pollfds: number;
  readonly #pollfdsAddress: number;
  readonly #timespec: number;
  readonly #timespecAddress: number;
  readonly #scratch: number;
  readonly #descriptors: Int32Array;
  readonly #netlink: NetlinkListener | undefined;
  #interest = -1;

  constructor(slab: SlabMemory, descriptors: PollDescriptors) {
    this.#slab = slab;
    this.#view = slab.view;
    this.#pollfds = slab.allocate(128);
    this.#timespec = this.#pollfds + SLOTS * POLLFD_BYTES;
    this.#scratch = this.#timespec + 16;
    this.#pollfdsAddress = slabAddress(slab) + this.#pollfds;
    this.#timespecAddress = slabAddress(slab) + this.#timespec;
    this.#netlink = descriptors.netlink;
    this.#descriptors = Int32Array.of(
      descriptors.tun ?? -1,
      descriptors.udp4 ?? -1,
      descriptors.udp6 ?? -1,
      descriptors.wake ?? -1,
      descriptors.netlink?.fd ?? -1,
      descriptors.udpExtra ?? -1,
    );
    slab.u8.fill(0, this.#pollfds, this.#pollfds + 128);
  }

  wait(interest: number, timeoutMs: number): number {
    const view = this.#view;
    if (interest !== this.#interest) this.#arm(interest);
    // NaN counts as 0; a whole second or more is exactly one second
    const wholeSecond = timeoutMs >= MAX_WAIT_MS;
    view.setUint32(this.#timespec, wholeSecond ? 1 : 0, true);
    view.setUint32(this.#timespec + 8, wholeSecond || !(timeoutMs > 0) ? 0 : (timeoutMs * 1e6) >>> 0, true);
    // ≤ 0: time-out, or EINTR from a signal; either way the caller looks at its clock and comes back
    if (libc.ppoll(this.#pollfdsAddress, SLOTS, this.#timespecAddress, 0) <= 0) return 0;
    let ready = 0;
    for (let i = 0, at = this.#pollfds + 6; i < SLOTS; i++, at += POLLFD_BYTES) {
      const events = view.getUint16(at, true);
      if (events === 0) continue;
      if ((events & POLLIN) !== 0) ready |= READABLE[i];
      if ((events & POLLOUT) !== 0) ready |= WRITABLE[i];
      if ((events & (POLLERR | POLLHUP | POLLNVAL)) !== 0) {
        const failed = FAILED[i];
        ready |= failed !== 0 ? failed : READABLE[i];
      }
    }
    return ready;
  }

  #arm(interest: number): void {
    this.#interest = interest;
    for (let i = 0, at = this.#pollfds; i < SLOTS; i++, at += POLLFD_BYTES) {
      const readable = READABLE[i];
      const writable = WRITABLE[i];
      const any = readable | writable | FAILED[i];
      this.#view.setInt32(at, (interest & any) === 0 ? -1 : this.#descriptors[i], true);
      this.#view.setUint16(
        at + 4,
        ((interest & readable) === 0 ? 0 : POLLIN) | ((interest & writable) === 0 ? 0 : POLLOUT),
        true,
      );
      this.#view.setUint16(at + 6, 0, true);
    }
  }

  clearWake(): void {
    readEventFd(this.#descriptors[3], this.#slab, this.#scratch);
  }

  drainNetlink(): boolean {
    return this.#netlink === undefined ? false : this.#netlink.drain();
  }
}
