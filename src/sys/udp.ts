/**
 * The underlay: one non-blocking UDP socket per family, datagrams in trains (UDP GSO and GRO), replies from the address they came to
 * (PKTINFO), and the error queue; for hole punching also extra IPv4 sockets (udp-extra.ts), named by NAME_SOCKET. Source: docs/protocol.md, "UDP"; udp(7), cmsg(3), recvmmsg(2).
 *
 * Memory, all in the slab and laid out once: 16 receive slots of 65,536 bytes, contiguous and shared by both families, each with its
 * mmsghdr, iovec, sockaddr, control buffer and name block; one msghdr per family for sending; one for the error queue.
 * Numbers only; nothing allocates after openUdp().
 */
import { NAME_ECN, NAME_FAMILY, NAME_INTERFACE, NAME_LOCAL, NAME_REMOTE, NAME_SOCKET } from "../base/name.ts";
import type { UdpError, UdpPort } from "../dataplane/ports.ts";
import { Errno, SysError } from "./errno.ts";
import { lastErrno, libc } from "./libc.ts";
import { setU64, slabAddress, type SlabMemory } from "./memory.ts";
import { readSockaddr, V4_MAPPED_WORD, writeSockaddr } from "./sockaddr.ts";
import { ExtraSockets } from "./udp-extra.ts";
import {
  DEFAULT_RECEIVE_BUFFER_BYTES,
  openSocket,
  type OpenedSocket,
  SocketOptions,
  SOL_IP,
  SOL_IPV6,
  SOL_UDP,
  UDP_SEGMENT,
  type UdpSocketOptions,
} from "./udp-socket.ts";

export type { UdpSocketOptions } from "./udp-socket.ts";

export const UDP_SLOTS = 16;
const UDP_SLOT_BYTES = 65_536;

/** msghdr: 0 name | 8 name length u32 | 16 iovec | 24 count | 32 control | 40 control length | 48 flags i32; mmsghdr adds 56 length u32. */
const MSG_NAME = 0;
const MSG_NAME_LENGTH = 8;
const MSG_IOV = 16;
const MSG_IOV_COUNT = 24;
const MSG_CONTROL = 32;
const MSG_CONTROL_LENGTH = 40;
const MMSG_LENGTH = 56;
const MMSGHDR_BYTES = 64;
/** iovec: 0 base | 8 length */
const IOVEC_BYTES = 16;
/** cmsghdr: 0 length u64 | 8 level i32 | 12 type i32, then the data; padded to 8. */
const CMSG_DATA = 16;
const SLOT_CONTROL_BYTES = 256;
const ERROR_CONTROL_BYTES = 512;
const SLOT_NAME_BYTES = 64;
const SLOT_SOCKADDR_BYTES = 32;

const SOL_SOCKET = 1;
const CMSG_SO_RXQ_OVFL = 40;
const CMSG_UDP_GRO = 104;
const CMSG_IP_TOS = 1;
const CMSG_IP_PKTINFO = 8;
const CMSG_IP_RECVERR = 11;
const CMSG_IPV6_RECVERR = 25;
const CMSG_IPV6_PKTINFO = 50;
const CMSG_IPV6_TCLASS = 67;
const MSG_ERRQUEUE = 0x2000;
/** CMSG_SPACE of a u16, in_pktinfo and in6_pktinfo. */
const SEGMENT_CMSG_SPACE = 24;
const ECN_CMSG_SPACE = 24;
const PKTINFO4_CMSG_SPACE = 32;
const PKTINFO6_CMSG_SPACE = 40;

export interface UdpOptions {
  readonly slab: SlabMemory;
  /** At most one per family. A family that this host lacks is left out (see `skipped`) as long as another opens. */
  readonly sockets: readonly UdpSocketOptions[];
  /** Let the kernel join datagrams of one flow. @default true */
  readonly gro?: boolean;
  /** SO_MARK for policy routing; 0 = none. @default 0 */
  readonly mark?: number;
  /** @default 8 MiB; without CAP_NET_ADMIN the kernel caps it at net.core.rmem_max */
  readonly receiveBufferBytes?: number;
}

export interface Udp extends UdpPort {
  /** −1 when that family is not open. */
  readonly fd4: number;
  readonly fd6: number;
  /** Readable when an extra socket has something for receive(4). */
  readonly fdExtra: number;
  /** This kernel knows UDP_SEGMENT. When false send() must be given single datagrams. */
  readonly gso: boolean;
  readonly gro: boolean;
  /** SO_MARK was allowed. */
  readonly marked: boolean;
  /** Families that this host lacks. */
  readonly skipped: readonly SysError[];
  /** @returns the bound port, 0 when that family is not open */
  localPort(family: 4 | 6): number;
  /** @returns the receive buffer the kernel granted, bytes; 0 when that family is not open */
  receiveBufferBytes(family: 4 | 6): number;
  /** Kill switch `gro` at run time. */
  setGro(enabled: boolean): void;
  /** Idempotent; afterwards every call answers −EBADF or nothing. */
  close(): void;
}

/** Takes about 1.1 MB of the slab. @throws SysError PORT_BUSY, PORT_DENIED, ADDRESS_MISSING, FAMILY_MISSING, ADDRESS_INVALID, UDP_FAILED */
export function openUdp(options: UdpOptions): Udp {
  const socketOptions = new SocketOptions(options.slab);
  const settings = {
    gro: options.gro ?? true,
    mark: options.mark ?? 0,
    receiveBufferBytes: options.receiveBufferBytes ?? DEFAULT_RECEIVE_BUFFER_BYTES,
  };
  const opened: { 4: OpenedSocket | undefined; 6: OpenedSocket | undefined } = { 4: undefined, 6: undefined };
  const skipped: SysError[] = [];
  try {
    for (const socket of options.sockets) {
      if (opened[socket.family] !== undefined) throw new RangeError(`two sockets of family ${socket.family}`);
      try {
        opened[socket.family] = openSocket(options.slab, socketOptions, socket, settings);
      } catch (error) {
        if (!(error instanceof SysError) || error.code !== "FAMILY_MISSING") throw error;
        skipped.push(error);
      }
    }
    if (opened[4] === undefined && opened[6] === undefined) {
      throw skipped[0] ?? new RangeError("no UDP socket was asked for");
    }
    const extra = new ExtraSockets(options.slab, socketOptions, settings.mark);
    const listen4 = options.sockets.find((socket) => socket.family === 4)?.address ?? "0.0.0.0";
    return new UdpSockets(options.slab, socketOptions, opened[4], opened[6], skipped, extra, listen4);
  } catch (error) {
    if (opened[4] !== undefined) libc.close(opened[4].fd);
    if (opened[6] !== undefined) libc.close(opened[6].fd);
    throw error;
  }
}

/** Slab offsets of what one family's sendmsg() points to. */
interface SendBlock {
  readonly message: number;
  readonly address: number;
  readonly iov: number;
  readonly sockaddr: number;
  /** UDP_SEGMENT control message, directly followed by the PKTINFO one. */
  readonly segment: number;
  readonly pktinfo: number;
  /** ECN control message with room behind it for copies of the two others. */
  readonly ecn: number;
}

class UdpSockets implements Udp {
  fd4: number;
  fd6: number;
  readonly gso: boolean;
  readonly gro: boolean;
  readonly marked: boolean;
  readonly skipped: readonly SysError[];
  readonly messageOffset: Int32Array = new Int32Array(UDP_SLOTS);
  readonly messageBytes: Int32Array = new Int32Array(UDP_SLOTS);
  readonly messageSegmentBytes: Int32Array = new Int32Array(UDP_SLOTS);
  readonly messageName: Int32Array = new Int32Array(UDP_SLOTS);
  /** [0] IPv4, [1] IPv6 */
  readonly overflowed: Float64Array = new Float64Array(2);
  readonly error: UdpError = { errno: 0, origin: 0, info: 0, name: 0 };

  readonly #slab: SlabMemory;
  readonly #view: DataView;
  readonly #base: number;
  readonly #options: SocketOptions;
  readonly #extra: ExtraSockets;
  readonly #listen4: string;
  readonly #messages: number;
  readonly #messagesAddress: number;
  readonly #sockaddrs: number;
  readonly #controls: number;
  /** Receive messages whose lengths the kernel overwrote. */
  #used = 0;
  /** Last SO_RXQ_OVFL value per family: a u32 that wraps. */
  readonly #dropped: Uint32Array = new Uint32Array(2);
  readonly #send4: SendBlock;
  readonly #send6: SendBlock;
  readonly #errorMessage: number;
  readonly #errorControl: number;
  readonly #errorSockaddr: number;

  constructor(
    slab: SlabMemory,
    options: SocketOptions,
    four: OpenedSocket | undefined,
    six: OpenedSocket | undefined,
    skipped: readonly SysError[],
    extra: ExtraSockets,
    listen4: string,
  ) {
    this.#extra = extra;
    this.#listen4 = listen4;
    this.#slab = slab;
    this.#view = slab.view;
    this.#base = slabAddress(slab);
    this.#options = options;
    this.fd4 = four?.fd ?? -1;
    this.fd6 = six?.fd ?? -1;
    this.gso = (four?.gso ?? true) && (six?.gso ?? true);
    this.gro = (four?.gro ?? false) || (six?.gro ?? false);
    this.marked = (four?.marked ?? true) && (six?.marked ?? true);
    this.skipped = skipped;
    const slots = slab.allocate(UDP_SLOTS * UDP_SLOT_BYTES, 4096);
    this.#messages = this.#allocateZeroed(UDP_SLOTS * MMSGHDR_BYTES);
    this.#messagesAddress = this.#base + this.#messages;
    const iovecs = this.#allocateZeroed(UDP_SLOTS * IOVEC_BYTES);
    this.#sockaddrs = this.#allocateZeroed(UDP_SLOTS * SLOT_SOCKADDR_BYTES);
    this.#controls = this.#allocateZeroed(UDP_SLOTS * SLOT_CONTROL_BYTES);
    const names = this.#allocateZeroed(UDP_SLOTS * SLOT_NAME_BYTES);
    for (let i = 0; i < UDP_SLOTS; i++) {
      this.messageOffset[i] = slots + i * UDP_SLOT_BYTES;
      this.messageName[i] = names + i * SLOT_NAME_BYTES;
      const iov = iovecs + i * IOVEC_BYTES;
      setU64(this.#view, iov, this.#base + slots + i * UDP_SLOT_BYTES);
      setU64(this.#view, iov + 8, UDP_SLOT_BYTES);
      this.#prepareMessage(this.#messages + i * MMSGHDR_BYTES, this.#sockaddrs + i * SLOT_SOCKADDR_BYTES, iov);
      setU64(
        this.#view,
        this.#messages + i * MMSGHDR_BYTES + MSG_CONTROL,
        this.#base + this.#controls + i * SLOT_CONTROL_BYTES,
      );
    }
    this.#used = UDP_SLOTS;
    this.#send4 = this.#prepareSend(SOL_IP, CMSG_IP_PKTINFO, CMSG_DATA + 12);
    this.#send6 = this.#prepareSend(SOL_IPV6, CMSG_IPV6_PKTINFO, CMSG_DATA + 20);
    this.#errorMessage = this.#allocateZeroed(MMSGHDR_BYTES);
    this.#errorControl = this.#allocateZeroed(ERROR_CONTROL_BYTES);
    this.#errorSockaddr = this.#allocateZeroed(SLOT_SOCKADDR_BYTES);
    this.error.name = this.#allocateZeroed(SLOT_NAME_BYTES);
    const errorIov = this.#allocateZeroed(IOVEC_BYTES);
    // the datagram that failed is not looked at: no room for its bytes
    this.#prepareMessage(this.#errorMessage, this.#errorSockaddr, errorIov);
    setU64(this.#view, this.#errorMessage + MSG_IOV_COUNT, 0);
    setU64(this.#view, this.#errorMessage + MSG_CONTROL, this.#base + this.#errorControl);
  }

  #allocateZeroed(bytes: number): number {
    const offset = this.#slab.allocate(bytes);
    this.#slab.u8.fill(0, offset, offset + bytes);
    return offset;
  }

  #prepareMessage(message: number, sockaddr: number, iov: number): void {
    setU64(this.#view, message + MSG_NAME, this.#base + sockaddr);
    setU64(this.#view, message + MSG_IOV, this.#base + iov);
    setU64(this.#view, message + MSG_IOV_COUNT, 1);
  }

  #prepareSend(level: number, type: number, pktinfoLength: number): SendBlock {
    const view = this.#view;
    const message = this.#allocateZeroed(320);
    const iov = message + 64;
    const sockaddr = message + 80;
    const segment = message + 112;
    const pktinfo = segment + SEGMENT_CMSG_SPACE;
    this.#prepareMessage(message, sockaddr, iov);
    setU64(view, segment, CMSG_DATA + 2);
    view.setInt32(segment + 8, SOL_UDP, true);
    view.setInt32(segment + 12, UDP_SEGMENT, true);
    setU64(view, pktinfo, pktinfoLength);
    view.setInt32(pktinfo + 8, level, true);
    view.setInt32(pktinfo + 12, type, true);
    const ecn = pktinfo + PKTINFO6_CMSG_SPACE;
    setU64(view, ecn, CMSG_DATA + 4);
    view.setInt32(ecn + 8, level, true);
    view.setInt32(ecn + 12, level === SOL_IP ? CMSG_IP_TOS : CMSG_IPV6_TCLASS, true);
    return { message, address: this.#base + message, iov, sockaddr, segment, pktinfo, ecn };
  }

  receive(family: 4 | 6, maxMessages: number): number {
    if (family === 4 && this.#extra.count > 0) {
      const id = this.#extra.ready();
      if (id !== 0) {
        const count = this.#receiveFrom(this.#extra.descriptor(id), 4, maxMessages);
        for (let i = 0; i < count; i++) this.#view.setUint32(this.messageName[i] + NAME_SOCKET, id, true);
        if (count > 0) return count;
      }
    }
    return this.#receiveFrom(family === 4 ? this.fd4 : this.fd6, family, maxMessages);
  }

  #receiveFrom(fd: number, family: 4 | 6, maxMessages: number): number {
    if (fd < 0) return -Errno.EBADF;
    const view = this.#view;
    for (let i = 0, at = this.#messages; i < this.#used; i++, at += MMSGHDR_BYTES) {
      view.setUint32(at + MSG_NAME_LENGTH, SLOT_SOCKADDR_BYTES, true);
      view.setUint32(at + MSG_CONTROL_LENGTH, SLOT_CONTROL_BYTES, true);
    }
    this.#used = 0;
    let count = this.#receiveOnce(fd, maxMessages);
    if (count < 0) {
      let errno = lastErrno();
      if (isForeign(errno)) {
        count = this.#receiveOnce(fd, maxMessages);
        errno = count < 0 ? lastErrno() : 0;
      }
      if (count < 0) return -errno;
    }
    this.#used = count;
    for (let i = 0; i < count; i++) this.#parse(i, family);
    return count;
  }

  /** @returns messages, or -1; the lengths are in the mmsghdrs */
  #receiveOnce(fd: number, maxMessages: number): number {
    if (maxMessages > 1) {
      return libc.recvmmsg(fd, this.#messagesAddress, maxMessages < UDP_SLOTS ? maxMessages : UDP_SLOTS, 0, 0);
    }
    // one message: recvmsg() is the cheaper call, and an mmsghdr begins with its msghdr
    const bytes = libc.recvmsg(fd, this.#messagesAddress, 0);
    if (bytes < 0) return -1;
    this.#view.setUint32(this.#messages + MMSG_LENGTH, bytes, true);
    return 1;
  }

  #parse(i: number, family: 4 | 6): void {
    const view = this.#view;
    const message = this.#messages + i * MMSGHDR_BYTES;
    const bytes = view.getUint32(message + MMSG_LENGTH, true);
    const name = this.messageName[i];
    let segmentBytes = bytes;
    readSockaddr(view, this.#sockaddrs + i * SLOT_SOCKADDR_BYTES, name);
    const control = this.#controls + i * SLOT_CONTROL_BYTES;
    const end = control + view.getUint32(message + MSG_CONTROL_LENGTH, true);
    for (let at = control; at + CMSG_DATA <= end;) {
      const length = view.getUint32(at, true);
      if (length < CMSG_DATA) break;
      const level = view.getInt32(at + 8, true);
      const type = view.getInt32(at + 12, true);
      const data = at + CMSG_DATA;
      if (level === SOL_UDP) {
        if (type === CMSG_UDP_GRO) {
          const segment = view.getUint16(data, true);
          if (segment !== 0 && segment < bytes) segmentBytes = segment;
        }
      } else if (level === SOL_IP) {
        if (type === CMSG_IP_PKTINFO) {
          // in_pktinfo: interface i32, local address to answer from 4, destination of the header 4
          view.setUint32(name + NAME_LOCAL + 8, V4_MAPPED_WORD, true);
          view.setUint32(name + NAME_LOCAL + 12, view.getUint32(data + 4, true), true);
        } else if (type === CMSG_IP_TOS) {
          view.setUint8(name + NAME_ECN, view.getUint8(data) & 3);
        }
      } else if (level === SOL_IPV6) {
        if (type === CMSG_IPV6_PKTINFO) this.#readPktinfo6(data, name);
        else if (type === CMSG_IPV6_TCLASS) view.setUint8(name + NAME_ECN, view.getUint8(data) & 3);
      } else if (level === SOL_SOCKET && type === CMSG_SO_RXQ_OVFL) {
        const index = family === 4 ? 0 : 1;
        const dropped = view.getUint32(data, true);
        const before = this.#dropped[index];
        this.#dropped[index] = dropped;
        this.overflowed[index] = this.overflowed[index] + ((dropped - before) >>> 0);
      }
      at += (length + 7) & ~7;
    }
    this.messageBytes[i] = bytes;
    this.messageSegmentBytes[i] = segmentBytes;
  }

  /**
   * The interface is kept for link-local remotes only: forcing it elsewhere would pin replies to a link that routing has left, while the
   * local address alone makes them leave from where they came to.
   */
  #readPktinfo6(data: number, name: number): void {
    const view = this.#view;
    view.setUint32(name + NAME_LOCAL, view.getUint32(data, true), true);
    view.setUint32(name + NAME_LOCAL + 4, view.getUint32(data + 4, true), true);
    view.setUint32(name + NAME_LOCAL + 8, view.getUint32(data + 8, true), true);
    view.setUint32(name + NAME_LOCAL + 12, view.getUint32(data + 12, true), true);
    const linkLocal = (view.getUint16(name + NAME_REMOTE) & 0xffc0) === 0xfe80;
    if (linkLocal) view.setUint32(name + NAME_INTERFACE, view.getUint32(data + 16, true), true);
  }

  send(offset: number, bytes: number, segmentBytes: number, name: number): number {
    const view = this.#view;
    const six = view.getUint8(name + NAME_FAMILY) === 6;
    const socket = view.getUint32(name + NAME_SOCKET, true);
    const fd = socket !== 0 ? this.#extra.descriptor(socket) : six ? this.fd6 : this.fd4;
    if (fd < 0) return -Errno.EAFNOSUPPORT;
    const block = six ? this.#send6 : this.#send4;
    const message = block.message;
    view.setUint32(message + MSG_NAME_LENGTH, writeSockaddr(view, name, block.sockaddr), true);
    const address = this.#base + offset;
    view.setUint32(block.iov, address >>> 0, true);
    view.setUint32(block.iov + 4, (address / 4294967296) >>> 0, true);
    view.setUint32(block.iov + 8, bytes, true);
    const sourced = six ? this.#source6(block.pktinfo, name) : this.#source4(block.pktinfo, name);
    const segmented = segmentBytes < bytes;
    let control = 0;
    let controlLength = 0;
    if (sourced) {
      control = block.pktinfo;
      controlLength = six ? PKTINFO6_CMSG_SPACE : PKTINFO4_CMSG_SPACE;
    }
    if (segmented) {
      view.setUint16(block.segment + CMSG_DATA, segmentBytes, true);
      control = block.segment;
      controlLength += SEGMENT_CMSG_SPACE;
    }
    const ecn = view.getUint8(name + NAME_ECN) & 3;
    if (ecn !== 0) {
      // rare enough to put the messages together anew: ECN first, then what there is of the others
      view.setInt32(block.ecn + CMSG_DATA, ecn, true);
      if (controlLength > 0) this.#slab.u8.copyWithin(block.ecn + ECN_CMSG_SPACE, control, control + controlLength);
      control = block.ecn;
      controlLength += ECN_CMSG_SPACE;
    }
    const controlAddress = control === 0 ? 0 : this.#base + control;
    view.setUint32(message + MSG_CONTROL, controlAddress >>> 0, true);
    view.setUint32(message + MSG_CONTROL + 4, (controlAddress / 4294967296) >>> 0, true);
    view.setUint32(message + MSG_CONTROL_LENGTH, controlLength, true);
    let sent = libc.sendmsg(fd, block.address, 0);
    if (sent >= 0) return sent;
    let errno = lastErrno();
    if (isForeign(errno)) {
      sent = libc.sendmsg(fd, block.address, 0);
      if (sent >= 0) return sent;
      errno = lastErrno();
    }
    return -errno;
  }

  /** @returns whether the name block pins a source (local address or interface) */
  #source4(pktinfo: number, name: number): boolean {
    const view = this.#view;
    const local = view.getUint32(name + NAME_LOCAL + 12, true);
    const interfaceIndex = view.getUint32(name + NAME_INTERFACE, true);
    if (local === 0 && interfaceIndex === 0) return false;
    view.setUint32(pktinfo + CMSG_DATA, interfaceIndex, true);
    view.setUint32(pktinfo + CMSG_DATA + 4, local, true);
    return true;
  }

  #source6(pktinfo: number, name: number): boolean {
    const view = this.#view;
    const a = view.getUint32(name + NAME_LOCAL, true);
    const b = view.getUint32(name + NAME_LOCAL + 4, true);
    const c = view.getUint32(name + NAME_LOCAL + 8, true);
    const d = view.getUint32(name + NAME_LOCAL + 12, true);
    const interfaceIndex = view.getUint32(name + NAME_INTERFACE, true);
    if ((a | b | c | d | interfaceIndex) === 0) return false;
    const data = pktinfo + CMSG_DATA;
    view.setUint32(data, a, true);
    view.setUint32(data + 4, b, true);
    view.setUint32(data + 8, c, true);
    view.setUint32(data + 12, d, true);
    view.setUint32(data + 16, interfaceIndex, true);
    return true;
  }

  get fdExtra(): number {
    return this.#extra.fd;
  }

  openExtra(count: number, ids: number[]): number {
    return this.fd4 < 0 ? 0 : this.#extra.openMany(this.#listen4, count, ids);
  }

  closeExtra(id: number): void {
    this.#extra.close(id);
  }

  setSendBuffer(family: 4 | 6, bytes: number): void {
    const fd = family === 4 ? this.fd4 : this.fd6;
    if (fd >= 0) this.#options.setSendBuffer(fd, bytes);
  }

  /** Entries without an extended error are skipped; error.errno is never 0 after a 1. */
  takeError(family: 4 | 6): number {
    const fd = family === 4 ? this.fd4 : this.fd6;
    if (fd < 0) return 0;
    const view = this.#view;
    const message = this.#errorMessage;
    for (let tries = 0; tries < 16; tries++) {
      view.setUint32(message + MSG_NAME_LENGTH, SLOT_SOCKADDR_BYTES, true);
      view.setUint32(message + MSG_CONTROL_LENGTH, ERROR_CONTROL_BYTES, true);
      view.setUint32(this.#errorSockaddr, 0, true);
      if (libc.recvmsg(fd, this.#base + message, MSG_ERRQUEUE) < 0) return 0;
      if (this.#parseError()) return 1;
    }
    return 0;
  }

  #parseError(): boolean {
    const view = this.#view;
    const error = this.error;
    const control = this.#errorControl;
    const end = control + view.getUint32(this.#errorMessage + MSG_CONTROL_LENGTH, true);
    for (let at = control; at + CMSG_DATA + 16 <= end;) {
      const length = view.getUint32(at, true);
      if (length < CMSG_DATA) break;
      const level = view.getInt32(at + 8, true);
      const type = view.getInt32(at + 12, true);
      if ((level === SOL_IP && type === CMSG_IP_RECVERR) || (level === SOL_IPV6 && type === CMSG_IPV6_RECVERR)) {
        // sock_extended_err: errno u32, origin u8, type u8, code u8, pad, info u32, data u32
        const data = at + CMSG_DATA;
        error.errno = view.getUint32(data, true);
        error.origin = view.getUint8(data + 4);
        error.info = view.getUint32(data + 8, true);
        readSockaddr(view, this.#errorSockaddr, error.name);
        return error.errno !== 0;
      }
      at += (length + 7) & ~7;
    }
    return false;
  }

  localPort(family: 4 | 6): number {
    const fd = family === 4 ? this.fd4 : this.fd6;
    if (fd < 0) return 0;
    // getsockname() needs a sockaddr and a length: the error queue's are free between calls
    const view = this.#view;
    view.setUint32(this.#errorControl, SLOT_SOCKADDR_BYTES, true);
    if (libc.getsockname(fd, this.#base + this.#errorSockaddr, this.#base + this.#errorControl) !== 0) return 0;
    return view.getUint16(this.#errorSockaddr + 2);
  }

  receiveBufferBytes(family: 4 | 6): number {
    const fd = family === 4 ? this.fd4 : this.fd6;
    return fd < 0 ? 0 : this.#options.receiveBufferBytes(fd);
  }

  setGro(enabled: boolean): void {
    if (this.fd4 >= 0) this.#options.setGro(this.fd4, enabled);
    if (this.fd6 >= 0) this.#options.setGro(this.fd6, enabled);
  }

  close(): void {
    this.#extra.closeAll();
    if (this.fd4 >= 0) libc.close(this.fd4);
    if (this.fd6 >= 0) libc.close(this.fd6);
    this.fd4 = -1;
    this.fd6 = -1;
  }
}

/**
 * With IP_RECVERR an ICMP error about any earlier datagram is reported, once, by the next call on the socket, whatever that is about.
 * Such an errno is worth one repetition; those here can only be about the call itself.
 */
function isForeign(errno: number): boolean {
  switch (errno) {
    case Errno.EAGAIN:
    case Errno.ENOBUFS:
    case Errno.EIO:
    case Errno.EINVAL:
    case Errno.EPERM:
    case Errno.EBADF:
    case Errno.EADDRNOTAVAIL:
      return false;
    default:
      return true;
  }
}
