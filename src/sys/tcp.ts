/**
 * A TCP socket that carries a mark before its first packet leaves. Node opens sockets itself and has no way to set SO_MARK before it
 * connects them, so the socket is made here and handed to Node as a descriptor, which owns it from then on:
 *
 *   const socket = new Socket({ fd: openMarkedTcp(address, mark).fd });
 *   socket.connect({ host: address, port });          // in the same turn: Node begins to read at once
 *
 * Source: socket(7), tcp(7).
 */
import { parseAddress } from "../base/endpoint.ts";
import { SysError } from "./errno.ts";
import { lastErrno, libc, rawAddress } from "./libc.ts";
import { AF_INET, AF_INET6 } from "./sockaddr.ts";

const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000;
const SOL_SOCKET = 1;
const SO_MARK = 36;

export interface MarkedSocket {
  /** The caller's to close, usually by giving it to a Socket. */
  readonly fd: number;
  /** False when the kernel did not allow the mark (no CAP_NET_ADMIN). */
  readonly marked: boolean;
}

/**
 * @param address IP address that is going to be connected to; its family counts @param mark SO_MARK, not 0
 * @throws SysError SOCKET_FAILED
 */
export function openMarkedTcp(address: string, mark: number): MarkedSocket {
  const fail = (errno: number): SysError =>
    new SysError("socket", errno, { code: "SOCKET_FAILED", what: `no socket for a connection to ${address}` });
  if (parseAddress(address) === undefined) throw fail(0);
  const fd = libc.socket(address.includes(":") ? AF_INET6 : AF_INET, SOCK_STREAM_NONBLOCK_CLOEXEC, 0);
  if (fd < 0) throw fail(lastErrno());
  const value = Uint32Array.of(mark);
  return { fd, marked: libc.setsockopt(fd, SOL_SOCKET, SO_MARK, rawAddress(value), 4) === 0 };
}
