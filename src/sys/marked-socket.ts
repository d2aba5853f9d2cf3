/**
 * UDP sockets for Node's own event loop that carry the underlay mark: opened, marked and bound here, then handed to node:dgram, which owns
 * and closes the descriptor. node:dgram alone cannot set SO_MARK, and unmarked traffic is what exit routes and the leak guard take.
 * Source: socket(7), ip(7); docs/protocol.md, "Discovery and candidates".
 */
import { isIPv4Mapped, parseAddress } from "../base/endpoint.ts";
import { Errno, SysError } from "./errno.ts";
import { lastErrno, libc, rawAddress } from "./libc.ts";
import { AF_INET, AF_INET6 } from "./sockaddr.ts";

const SOCK_DGRAM_NONBLOCK_CLOEXEC = 2 | 0o4000 | 0o2000000;
const SOL_SOCKET = 1;
const SOL_IPV6 = 41;
const SO_REUSEADDR = 2;
const SO_MARK = 36;
const SOL_IP = 0;
const IP_MULTICAST_ALL = 49;
const IPV6_V6ONLY = 26;
const IPV6_MULTICAST_ALL = 29;

export interface MarkedSocketOptions {
  /** Text, "0.0.0.0" or "::" for all. */
  readonly address: string;
  /** 0 = any */
  readonly port: number;
  /** Several sockets on one port, as multicast needs; each gets only what comes in where it joined itself. @default false */
  readonly shared?: boolean;
  /** SO_MARK, left out when not allowed; 0 = none */
  readonly mark: number;
}

/** @returns a bound descriptor, the caller's to close, and whether it carries the mark @throws SysError SOCKET_FAILED */
export function openMarkedSocket(options: MarkedSocketOptions): { readonly fd: number; readonly marked: boolean } {
  const { address, port, shared = false, mark } = options;
  const bytes = parseAddress(address);
  if (bytes === undefined) throw new RangeError(`not an IP address: ${address}`);
  const six = address === "::" || !isIPv4Mapped(bytes);
  const fd = libc.socket(six ? AF_INET6 : AF_INET, SOCK_DGRAM_NONBLOCK_CLOEXEC, 0);
  if (fd < 0) throw failure("socket", address, port);
  const memory = new Uint8Array(32);
  const view = new DataView(memory.buffer);
  const at = rawAddress(memory);
  const set = (level: number, option: number, value: number): boolean => {
    view.setUint32(0, value, true);
    return libc.setsockopt(fd, level, option, at, 4) === 0;
  };
  if (six) set(SOL_IPV6, IPV6_V6ONLY, 1);
  if (shared) {
    set(SOL_SOCKET, SO_REUSEADDR, 1);
    if (six) set(SOL_IPV6, IPV6_MULTICAST_ALL, 0);
    else set(SOL_IP, IP_MULTICAST_ALL, 0);
  }
  const marked = mark !== 0 && set(SOL_SOCKET, SO_MARK, mark);
  memory.fill(0);
  view.setUint16(0, six ? AF_INET6 : AF_INET, true);
  view.setUint16(2, port);
  memory.set(six ? bytes : bytes.subarray(12), six ? 8 : 4);
  if (libc.bind(fd, at, six ? 28 : 16) !== 0) {
    const error = failure("bind", address, port);
    libc.close(fd);
    throw error;
  }
  return { fd, marked };
}

function failure(call: string, address: string, port: number): SysError {
  const errno = lastErrno();
  const remedy = errno === Errno.EADDRINUSE ? "another program has the port for itself" : undefined;
  const what = `cannot open UDP ${address} port ${port}`;
  return new SysError(call, errno, { code: "SOCKET_FAILED", what, ...(remedy === undefined ? {} : { remedy }) });
}
