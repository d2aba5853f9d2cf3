/**
 * Name blocks (base/name.ts) to and from what the kernel calls an address, without allocating:
 *   sockaddr_in   0 family u16 = 2  | 2 port u16 big-endian | 4 address 4
 *   sockaddr_in6  0 family u16 = 10 | 2 port u16 big-endian | 4 flow u32 | 8 address 16 | 24 scope u32
 */
import { NAME_FAMILY, NAME_LOCAL, NAME_PORT, NAME_REMOTE, NAME_SCOPE } from "../base/name.ts";

export const AF_INET = 2;
export const AF_INET6 = 10;
const SOCKADDR_IN_BYTES = 16;
const SOCKADDR_IN6_BYTES = 28;
/** Bytes 8–11 of a v4-mapped address, read as a little-endian u32. */
export const V4_MAPPED_WORD = 0xffff0000;

/** Writes the sockaddr of the block's remote side. @returns its length */
export function writeSockaddr(view: DataView, name: number, target: number): number {
  view.setUint16(target + 2, view.getUint16(name + NAME_PORT, true));
  if (view.getUint8(name + NAME_FAMILY) === 4) {
    view.setUint16(target, AF_INET, true);
    view.setUint32(target + 4, view.getUint32(name + NAME_REMOTE + 12, true), true);
    return SOCKADDR_IN_BYTES;
  }
  view.setUint16(target, AF_INET6, true);
  view.setUint32(target + 4, 0, true);
  view.setUint32(target + 8, view.getUint32(name + NAME_REMOTE, true), true);
  view.setUint32(target + 12, view.getUint32(name + NAME_REMOTE + 4, true), true);
  view.setUint32(target + 16, view.getUint32(name + NAME_REMOTE + 8, true), true);
  view.setUint32(target + 20, view.getUint32(name + NAME_REMOTE + 12, true), true);
  view.setUint32(target + 24, view.getUint32(name + NAME_SCOPE, true), true);
  return SOCKADDR_IN6_BYTES;
}

/** Fills a whole name block: the remote side from a sockaddr, the local side, interface and ECN with zeros. */
export function readSockaddr(view: DataView, source: number, name: number): void {
  const six = view.getUint16(source, true) === AF_INET6;
  if (six) {
    view.setUint32(name + NAME_REMOTE, view.getUint32(source + 8, true), true);
    view.setUint32(name + NAME_REMOTE + 4, view.getUint32(source + 12, true), true);
    view.setUint32(name + NAME_REMOTE + 8, view.getUint32(source + 16, true), true);
    view.setUint32(name + NAME_REMOTE + 12, view.getUint32(source + 20, true), true);
    view.setUint32(name + NAME_SCOPE, view.getUint32(source + 24, true), true);
  } else {
    view.setUint32(name + NAME_REMOTE, 0, true);
    view.setUint32(name + NAME_REMOTE + 4, 0, true);
    view.setUint32(name + NAME_REMOTE + 8, V4_MAPPED_WORD, true);
    view.setUint32(name + NAME_REMOTE + 12, view.getUint32(source + 4, true), true);
    view.setUint32(name + NAME_SCOPE, 0, true);
  }
  view.setUint32(name + NAME_LOCAL, 0, true);
  view.setUint32(name + NAME_LOCAL + 4, 0, true);
  view.setUint32(name + NAME_LOCAL + 8, 0, true);
  view.setUint32(name + NAME_LOCAL + 12, 0, true);
  view.setUint16(name + NAME_PORT, view.getUint16(source + 2), true);
  // family, ECN, then the interface and the socket (the main one)
  view.setUint16(name + NAME_FAMILY, six ? 6 : 4, true);
  view.setUint32(name + 36, 0, true);
  view.setUint32(name + 44, 0, true);
}
