/**
 * Name block: how the data plane names one flow of datagrams (remote and local address), independent of the platform's sockaddr.
 *   0 remote address 16 (IPv4 as v4-mapped IPv6) | 16 local address 16 (same form, all zero = any) | 32 remote port u16
 *   34 family u8, 4 or 6 | 35 ECN bits of the outer IP header u8, received or to send | 36 interface index u32, 0 = any | 40 scope id u32 | 44 zero u32
 * Little-endian. Lives in the slab; whoever holds the offset owns the block.
 */
export const NAME_BYTES = 48;
export const NAME_REMOTE = 0;
export const NAME_LOCAL = 16;
export const NAME_PORT = 32;
export const NAME_FAMILY = 34;
export const NAME_ECN = 35;
export const NAME_INTERFACE = 36;
export const NAME_SCOPE = 40;

/** True when both blocks name the same remote address and port (local side and ECN are not compared). */
export function sameRemote(view: DataView, a: number, b: number): boolean {
  return (
    view.getUint32(a + 12, true) === view.getUint32(b + 12, true) &&
    view.getUint16(a + NAME_PORT, true) === view.getUint16(b + NAME_PORT, true) &&
    view.getUint32(a + 8, true) === view.getUint32(b + 8, true) &&
    view.getUint32(a + 4, true) === view.getUint32(b + 4, true) &&
    view.getUint32(a, true) === view.getUint32(b, true) &&
    view.getUint32(a + NAME_SCOPE, true) === view.getUint32(b + NAME_SCOPE, true)
  );
}
