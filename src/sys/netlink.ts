/**
 * Route netlink listener (rtnetlink(7)): says that links, addresses or routes of this host changed, and nothing more; what they are now
 * is asked elsewhere. Repetitions that change nothing (router advertisements renewing an address, counters of a link) are told apart
 * by remembering, per interface and address, what was last said about it.
 */
import { Errno, SysError } from "./errno.ts";
import { lastErrno, libc } from "./libc.ts";
import { slabAddress, type SlabMemory } from "./memory.ts";

const AF_NETLINK = 16;
const SOCK_RAW_NONBLOCK_CLOEXEC = 3 | 0o4000 | 0o2000000;
const NETLINK_ROUTE = 0;
const RTMGRP_LINK = 0x1;
const RTMGRP_IPV4_IFADDR = 0x10;
const RTMGRP_IPV4_ROUTE = 0x40;
const RTMGRP_IPV6_IFADDR = 0x100;
const RTMGRP_IPV6_ROUTE = 0x400;

const NLMSG_HEADER_BYTES = 16;
const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_NEWADDR = 20;
const RTM_DELADDR = 21;
const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
/** Cached routes to single destinations (path MTU), not configuration. */
const RTM_F_CLONED = 0x200;
/** The local table mirrors addresses, which are announced themselves. */
const RT_TABLE_LOCAL = 255;
const IFLA_MTU = 4;
const BUFFER_BYTES = 32_768;
/** Remembered interfaces and addresses; when full it is forgotten, which costs needless announcements only. */
const MAX_REMEMBERED = 1024;

export interface NetlinkListener {
  readonly fd: number;
  /** Reads everything that waits. @returns true when a link, address or route changed (or messages were lost) */
  drain(): boolean;
  /** Messages read and put aside as no change, since start. */
  readonly ignored: number;
  close(): void;
}

/**
 * Takes 32 kB of the slab.
 * @param ignoreInterface name-index of the own TUN, whose addresses and routes are this node's doing; 0 = none
 * @throws SysError
 */
export function openNetlink(deps: { readonly slab: SlabMemory; readonly ignoreInterface?: number }): NetlinkListener {
  const { slab } = deps;
  const fd = libc.socket(AF_NETLINK, SOCK_RAW_NONBLOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) throw new SysError("socket", lastErrno(), { what: "cannot listen for network changes" });
  const buffer = slab.allocate(BUFFER_BYTES);
  // sockaddr_nl: family u16, pad u16, pid u32, groups u32
  slab.u8.fill(0, buffer, buffer + 12);
  slab.view.setUint16(buffer, AF_NETLINK, true);
  const groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE;
  slab.view.setUint32(buffer + 8, groups, true);
  if (libc.bind(fd, slabAddress(slab) + buffer, 12) < 0) {
    const errno = lastErrno();
    libc.close(fd);
    throw new SysError("bind", errno, { what: "cannot listen for network changes" });
  }
  return new Listener(fd, slab, buffer, deps.ignoreInterface ?? 0);
}

class Listener implements NetlinkListener {
  fd: number;
  ignored = 0;
  readonly #slab: SlabMemory;
  readonly #view: DataView;
  readonly #buffer: number;
  readonly #address: number;
  readonly #ignoreInterface: number;
  /** What was last announced: "link INDEX" → flags and MTU, "address INDEX PREFIX BYTES" → scope and flags. */
  readonly #remembered = new Map<string, string>();

  constructor(fd: number, slab: SlabMemory, buffer: number, ignoreInterface: number) {
    this.fd = fd;
    this.#slab = slab;
    this.#view = slab.view;
    this.#buffer = buffer;
    this.#address = slabAddress(slab) + buffer;
    this.#ignoreInterface = ignoreInterface;
  }

  drain(): boolean {
    let changed = false;
    // bounded: 64 reads empty the default receive buffer; the next poll brings the rest
    for (let reads = 0; reads < 64; reads++) {
      const bytes = libc.recv(this.fd, this.#address, BUFFER_BYTES, 0);
      if (bytes < 0) {
        const errno = lastErrno();
        if (errno === Errno.EINTR) continue;
        if (errno !== Errno.ENOBUFS) return changed;
        // the kernel dropped messages: something changed and we do not know what
        changed = true;
        this.#remembered.clear();
        continue;
      }
      if (this.#scan(bytes)) changed = true;
    }
    return changed;
  }

  #scan(bytes: number): boolean {
    const view = this.#view;
    const end = this.#buffer + bytes;
    let changed = false;
    for (let at = this.#buffer; at + NLMSG_HEADER_BYTES <= end;) {
      const length = view.getUint32(at, true);
      if (length < NLMSG_HEADER_BYTES || at + length > end) break;
      if (this.#matters(view.getUint16(at + 4, true), at + NLMSG_HEADER_BYTES, at + length)) changed = true;
      else this.ignored++;
      at += (length + 3) & ~3;
    }
    return changed;
  }

  #matters(type: number, body: number, end: number): boolean {
    const view = this.#view;
    switch (type) {
      case RTM_NEWLINK:
      case RTM_DELLINK: {
        // ifinfomsg: family u8, pad, type u16, index i32, flags u32, change u32; then attributes
        if (body + 16 > end) return false;
        const index = view.getInt32(body + 4, true);
        if (index === this.#ignoreInterface) return false;
        const state = `${view.getUint32(body + 8, true)} ${this.#attribute(body + 16, end, IFLA_MTU)}`;
        return this.#differs(`link ${index}`, type === RTM_NEWLINK ? state : undefined);
      }
      case RTM_NEWADDR:
      case RTM_DELADDR: {
        // ifaddrmsg: family u8, prefix length u8, flags u8, scope u8, index u32; then attributes (address, local, label, cache info)
        if (body + 8 > end) return false;
        const index = view.getUint32(body + 4, true);
        if (index === this.#ignoreInterface) return false;
        const address = `${this.#attribute(body + 8, end, 1)} ${this.#attribute(body + 8, end, 2)}`;
        const state = `${view.getUint8(body + 2)} ${view.getUint8(body + 3)}`;
        return this.#differs(
          `address ${index} ${view.getUint8(body + 1)} ${address}`,
          type === RTM_NEWADDR ? state : undefined,
        );
      }
      case RTM_NEWROUTE:
      case RTM_DELROUTE: {
        // rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type: u8 each; flags u32; then attributes
        if (body + 12 > end) return false;
        if ((view.getUint32(body + 8, true) & RTM_F_CLONED) !== 0) return false;
        if (view.getUint8(body + 4) === RT_TABLE_LOCAL) return false;
        const interfaceIndex = this.#attribute(body + 12, end, 4 /* RTA_OIF */);
        return this.#ignoreInterface === 0 || interfaceIndex !== littleEndianHex(this.#ignoreInterface);
      }
      default:
        return false;
    }
  }

  /** @param state undefined: gone @returns true when it is not what was last announced */
  #differs(key: string, state: string | undefined): boolean {
    if (state === undefined) {
      this.#remembered.delete(key);
      return true;
    }
    if (this.#remembered.get(key) === state) return false;
    if (this.#remembered.size >= MAX_REMEMBERED) this.#remembered.clear();
    this.#remembered.set(key, state);
    return true;
  }

  /** @returns the attribute's bytes as hexadecimal, "" when absent */
  #attribute(from: number, end: number, wanted: number): string {
    const view = this.#view;
    for (let at = from; at + 4 <= end;) {
      const length = view.getUint16(at, true);
      if (length < 4 || at + length > end) return "";
      if ((view.getUint16(at + 2, true) & 0x3fff) === wanted) {
        return Buffer.from(this.#slab.buffer, at + 4, length - 4).toString("hex");
      }
      at += (length + 3) & ~3;
    }
    return "";
  }

  close(): void {
    if (this.fd < 0) return;
    libc.close(this.fd);
    this.fd = -1;
  }
}

function littleEndianHex(value: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes.toString("hex");
}
