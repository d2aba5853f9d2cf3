/**
 * Opening the underlay sockets: options in the order that matters, what may fail and what may not, and errors with a remedy.
 * Source: docs/protocol.md, "UDP"; ip(7), ipv6(7), udp(7), socket(7).
 */
import { parseAddress } from "../base/endpoint.ts";
import { NAME_BYTES, NAME_FAMILY, NAME_PORT } from "../base/name.ts";
import { Errno, SysError } from "./errno.ts";
import { lastErrno, libc } from "./libc.ts";
import { slabAddress, type SlabMemory } from "./memory.ts";
import { AF_INET, AF_INET6, writeSockaddr } from "./sockaddr.ts";

const SOCK_DGRAM_NONBLOCK_CLOEXEC = 2 | 0o4000 | 0o2000000;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SO_MARK = 36;
const SO_RXQ_OVFL = 40;
const IP_PKTINFO = 8;
const IP_MTU_DISCOVER = 10;
const IP_RECVERR = 11;
const IP_RECVTOS = 13;
const IPV6_MTU_DISCOVER = 23;
const IPV6_RECVERR = 25;
const IPV6_V6ONLY = 26;
const IPV6_RECVPKTINFO = 49;
const IPV6_RECVTCLASS = 66;
/** Set DF, ignore the kernel's idea of the path MTU: the path layer probes it. */
const PMTUDISC_PROBE = 3;
const UDP_GRO = 104;

/** Levels and control message types that udp.ts parses too. */
export const SOL_IP = 0;
export const SOL_UDP = 17;
export const SOL_IPV6 = 41;
export const UDP_SEGMENT = 103;
export const DEFAULT_RECEIVE_BUFFER_BYTES: number = 8 << 20;

export interface UdpSocketOptions {
  readonly family: 4 | 6;
  /** IP address as text, "0.0.0.0" or "::" for all. */
  readonly address: string;
  /** 0 = any */
  readonly port: number;
}

export interface UdpSocketSettings {
  readonly gro: boolean;
  /** SO_MARK, left out when not allowed; 0 = none */
  readonly mark: number;
  readonly receiveBufferBytes: number;
  /** The kernel says how many datagrams it threw away. @default true */
  readonly countsOverflow?: boolean;
}

/** What opening found out. */
export interface OpenedSocket {
  readonly fd: number;
  /** UDP_SEGMENT is known to this kernel. */
  readonly gso: boolean;
  readonly gro: boolean;
  readonly marked: boolean;
}

/** setsockopt() and getsockopt() of integers, and room for what bind() points to; takes 160 bytes of the slab. */
export class SocketOptions {
  /** A name block and a sockaddr. */
  readonly bindScratch: number;
  readonly #view: DataView;
  readonly #scratch: number;
  readonly #address: number;

  constructor(slab: SlabMemory) {
    this.#view = slab.view;
    this.#scratch = slab.allocate(64);
    this.bindScratch = slab.allocate(NAME_BYTES + 32);
    this.#address = slabAddress(slab) + this.#scratch;
  }

  /** @returns 0 or -errno */
  set(fd: number, level: number, option: number, value: number): number {
    this.#view.setInt32(this.#scratch, value, true);
    return libc.setsockopt(fd, level, option, this.#address, 4) === 0 ? 0 : -lastErrno();
  }

  /** @returns the value, or -errno */
  get(fd: number, level: number, option: number): number {
    this.#view.setInt32(this.#scratch + 8, 4, true);
    if (libc.getsockopt(fd, level, option, this.#address, this.#address + 8) !== 0) return -lastErrno();
    return this.#view.getInt32(this.#scratch, true);
  }

  /** Beyond net.core.wmem_max when allowed. The kernel doubles the value for its bookkeeping. */
  setSendBuffer(fd: number, bytes: number): void {
    if (this.set(fd, SOL_SOCKET, SO_SNDBUFFORCE, bytes) !== 0) this.set(fd, SOL_SOCKET, SO_SNDBUF, bytes);
  }

  setReceiveBuffer(fd: number, bytes: number): void {
    if (this.set(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes) !== 0) this.set(fd, SOL_SOCKET, SO_RCVBUF, bytes);
  }

  /** @returns what the kernel granted, in the caller's measure */
  receiveBufferBytes(fd: number): number {
    return this.get(fd, SOL_SOCKET, SO_RCVBUF) / 2;
  }

  /** @returns whether it took effect */
  setGro(fd: number, enabled: boolean): boolean {
    return this.set(fd, SOL_UDP, UDP_GRO, enabled ? 1 : 0) === 0 && enabled;
  }
}

/** @throws SysError PORT_BUSY, PORT_DENIED, ADDRESS_MISSING, FAMILY_MISSING, ADDRESS_INVALID, UDP_FAILED */
export function openSocket(
  slab: SlabMemory,
  options: SocketOptions,
  socket: UdpSocketOptions,
  settings: UdpSocketSettings,
): OpenedSocket {
  const { family, address, port } = socket;
  const bytes = parseAddress(address);
  if (
    bytes === undefined ||
    !Number.isInteger(port) ||
    port < 0 ||
    port > 65535 ||
    address.includes(":") !== (family === 6)
  ) {
    throw new SysError("bind", 0, {
      code: "ADDRESS_INVALID",
      what: `cannot listen on ${address} port ${port}: not an IPv${family} address and port`,
      remedy: 'use an IP address of this host, "0.0.0.0" or "::", and a port of 0 to 65535',
    });
  }
  const fd = libc.socket(family === 4 ? AF_INET : AF_INET6, SOCK_DGRAM_NONBLOCK_CLOEXEC, 0);
  if (fd < 0) throw openFailure("socket", lastErrno(), socket);
  try {
    const require = (level: number, option: number, value: number, what: string): void => {
      const result = options.set(fd, level, option, value);
      if (result !== 0) throw new SysError(`setsockopt ${what}`, -result, { code: "UDP_FAILED" });
    };
    if (family === 4) {
      require(SOL_IP, IP_PKTINFO, 1, "IP_PKTINFO");
      require(SOL_IP, IP_RECVERR, 1, "IP_RECVERR");
      require(SOL_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE, "IP_MTU_DISCOVER");
      options.set(fd, SOL_IP, IP_RECVTOS, 1);
    } else {
      require(SOL_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY");
      require(SOL_IPV6, IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO");
      require(SOL_IPV6, IPV6_RECVERR, 1, "IPV6_RECVERR");
      require(SOL_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE, "IPV6_MTU_DISCOVER");
      options.set(fd, SOL_IPV6, IPV6_RECVTCLASS, 1);
    }
    if (settings.countsOverflow !== false) options.set(fd, SOL_SOCKET, SO_RXQ_OVFL, 1);
    options.setReceiveBuffer(fd, settings.receiveBufferBytes);
    const gro = settings.gro && options.setGro(fd, true);
    const gso = options.set(fd, SOL_UDP, UDP_SEGMENT, 0) === 0;
    const marked = settings.mark !== 0 && options.set(fd, SOL_SOCKET, SO_MARK, settings.mark) === 0;
    bindSocket(slab, options.bindScratch, fd, socket, bytes);
    return { fd, gso, gro, marked };
  } catch (error) {
    libc.close(fd);
    throw error;
  }
}

function bindSocket(slab: SlabMemory, name: number, fd: number, socket: UdpSocketOptions, address: Uint8Array): void {
  const sockaddr = name + NAME_BYTES;
  slab.u8.fill(0, name, name + NAME_BYTES + 32);
  slab.u8.set(address, name);
  slab.view.setUint16(name + NAME_PORT, socket.port, true);
  slab.view.setUint8(name + NAME_FAMILY, socket.family);
  const length = writeSockaddr(slab.view, name, sockaddr);
  if (libc.bind(fd, slabAddress(slab) + sockaddr, length) < 0) throw openFailure("bind", lastErrno(), socket);
}

function openFailure(call: string, errno: number, socket: UdpSocketOptions): SysError {
  const where = `${socket.family === 6 ? `[${socket.address}]` : socket.address}:${socket.port}`;
  switch (errno) {
    case Errno.EADDRINUSE:
      return new SysError(call, errno, {
        code: "PORT_BUSY",
        what: `UDP port ${socket.port} is taken by another program (${where})`,
        remedy: `stop that program (ss -ulpn 'sport = :${socket.port}' names it), or listen on another port`,
      });
    case Errno.EACCES:
    case Errno.EPERM:
      return new SysError(call, errno, {
        code: "PORT_DENIED",
        what: `cannot listen on UDP ${where}`,
        remedy: "choose a port of 1024 or above, or grant CAP_NET_BIND_SERVICE",
      });
    case Errno.EADDRNOTAVAIL:
      return new SysError(call, errno, {
        code: "ADDRESS_MISSING",
        what: `cannot listen on UDP ${where}`,
        remedy: `give this host the address, or listen on ${socket.family === 6 ? '"::"' : '"0.0.0.0"'}`,
      });
    case Errno.EAFNOSUPPORT:
      return new SysError(call, errno, {
        code: "FAMILY_MISSING",
        what: `this host has no IPv${socket.family}`,
        remedy: `leave the IPv${socket.family} listen address out, or enable IPv${socket.family} in the kernel`,
      });
    default:
      return new SysError(call, errno, { code: "UDP_FAILED", what: `cannot listen on UDP ${where}` });
  }
}
