/**
 * Name block: how the data plane names one flow of datagrams (remote and local address), independent of the platform's sockaddr.
 *   0 remote address 16 (IPv4 as v4-mapped IPv6) | 16 local address 16 (same form, all zero = any) | 32 remote port u16
 *   34 family u8: 4, 6, or the VirtualType of a virtual endpoint (1, 2) | 35 ECN bits of the outer IP header u8, received or to send | 36 interface index u32, 0 = any | 40 scope id u32 | 44 socket u32, 0 = the main one
 * Little-endian. Lives in the slab; whoever holds the offset owns the block.
 */
import { ENDPOINT_BYTES, isIPv4Mapped, virtualOf } from "./endpoint.ts";

export const NAME_BYTES = 48;
export const NAME_REMOTE = 0;
export const NAME_LOCAL = 16;
export const NAME_PORT = 32;
export const NAME_FAMILY = 34;
export const NAME_ECN = 35;
export const NAME_INTERFACE = 36;
export const NAME_SCOPE = 40;
export const NAME_SOCKET = 44;

/** True when both blocks name the same remote address and port, seen from the same socket (local address and ECN are not compared). */
export function sameRemote(view: DataView, a: number, b: number): boolean {
  return (
    view.getUint32(a + 12, true) === view.getUint32(b + 12, true) &&
    view.getUint16(a + NAME_PORT, true) === view.getUint16(b + NAME_PORT, true) &&
    view.getUint32(a + 8, true) === view.getUint32(b + 8, true) &&
    view.getUint32(a + 4, true) === view.getUint32(b + 4, true) &&
    view.getUint32(a, true) === view.getUint32(b, true) &&
    view.getUint32(a + NAME_SCOPE, true) === view.getUint32(b + NAME_SCOPE, true) &&
    view.getUint32(a + NAME_SOCKET, true) === view.getUint32(b + NAME_SOCKET, true)
  );
}

/** True when both blocks name the same local address, or both none. */
export function sameLocal(view: DataView, a: number, b: number): boolean {
  return (
    view.getUint32(a + NAME_LOCAL + 12, true) === view.getUint32(b + NAME_LOCAL + 12, true) &&
    view.getUint32(a + NAME_LOCAL + 8, true) === view.getUint32(b + NAME_LOCAL + 8, true) &&
    view.getUint32(a + NAME_LOCAL + 4, true) === view.getUint32(b + NAME_LOCAL + 4, true) &&
    view.getUint32(a + NAME_LOCAL, true) === view.getUint32(b + NAME_LOCAL, true)
  );
}

/** The block names a local address. */
export function hasLocal(view: DataView, a: number): boolean {
  for (let i = 0; i < 16; i += 4) if (view.getUint32(a + NAME_LOCAL + i, true) !== 0) return true;
  return false;
}

/** Writes a whole block for an endpoint: any local address, interface and scope. @param endpoint 18 bytes @returns `at` */
export function writeName(u8: Uint8Array, endpoint: Uint8Array, at: number): number {
  u8.fill(0, at, at + NAME_BYTES);
  u8.set(endpoint.subarray(0, 16), at + NAME_REMOTE);
  u8[at + NAME_PORT] = endpoint[16];
  u8[at + NAME_PORT + 1] = endpoint[17];
  u8[at + NAME_FAMILY] = isIPv4Mapped(endpoint) ? 4 : (virtualOf(endpoint)?.type ?? 6);
  return at;
}

/** The remote address and port of a block, 18 bytes, a copy. */
export function readName(u8: Uint8Array, at: number): Uint8Array {
  const out = new Uint8Array(ENDPOINT_BYTES);
  out.set(u8.subarray(at + NAME_REMOTE, at + NAME_REMOTE + 16));
  out[16] = u8[at + NAME_PORT];
  out[17] = u8[at + NAME_PORT + 1];
  return out;
}
