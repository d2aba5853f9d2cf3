/**
 * Underlay addresses in their three forms: text for people, 16 bytes (IPv4 as v4-mapped IPv6, RFC 4291 section 2.5.5.2) for
 * protocols, and 18 bytes with the port for messages: address 16 ‖ port u16 little-endian.
 *
 * Endpoints in 0100::/64 (RFC 6666, discard-only: never a source on a wire) are *virtual*: they name another way to a peer than a UDP address.
 *   0 01 00 00 00 00 00 00 00 | 8 type u8 | 9 path kind u8 (1 relay, 2 transit) | 10 zero u16 | 12 id u32, big-endian | 16 port = 1
 * They live inside one node: never announced, never accepted from another node, never cached. Source: docs/protocol.md, "Vias".
 */
import ipaddr from "ipaddr.js";

export interface Endpoint {
  /** Dotted IPv4 or RFC 5952 IPv6 text. */
  readonly address: string;
  readonly port: number;
}

export const ENDPOINT_BYTES = 18;

/** @returns 16 bytes, or undefined when the text is no IP address */
export function parseAddress(text: string): Uint8Array | undefined {
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) {
    const bytes = new Uint8Array(16);
    bytes[10] = 0xff;
    bytes[11] = 0xff;
    bytes.set(ipaddr.IPv4.parse(text).toByteArray(), 12);
    return bytes;
  }
  if (ipaddr.IPv6.isValid(text) && !text.includes("%")) return Uint8Array.from(ipaddr.IPv6.parse(text).toByteArray());
  return undefined;
}

export function isIPv4Mapped(bytes16: Uint8Array): boolean {
  for (let i = 0; i < 10; i++) if (bytes16[i] !== 0) return false;
  return bytes16[10] === 0xff && bytes16[11] === 0xff;
}

/** @param bytes16 v4-mapped or IPv6; v4-mapped prints as dotted IPv4 */
export function formatAddress(bytes16: Uint8Array): string {
  if (isIPv4Mapped(bytes16)) return `${bytes16[12]}.${bytes16[13]}.${bytes16[14]}.${bytes16[15]}`;
  return new ipaddr.IPv6(Array.from(bytes16.subarray(0, 16))).toRFC5952String();
}

/** "1.2.3.4:5", "[::1]:5" @returns undefined when it is not an IP address with a port of 1–65535 */
export function parseEndpoint(text: string): Endpoint | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const bytes = parseAddress(match[1] ?? match[2]);
  const port = Number(match[3]);
  if (bytes === undefined || port < 1 || port > 65535) return undefined;
  return { address: formatAddress(bytes), port };
}

/** "1.2.3.4:5", "[::1]:5"; a virtual one shows as "relay#7", "transit#7" or "channel#7", which is for reading only */
export function formatEndpoint(endpoint: Endpoint): string {
  const virtual = endpoint.address.startsWith("100:") ? virtualOf(endpointToBytes(endpoint)) : undefined;
  if (virtual !== undefined) {
    const kind = virtual.type === VirtualType.CHANNEL ? "channel" : virtual.pathKind === 1 ? "relay" : "transit";
    return `${kind}#${virtual.id}`;
  }
  return endpoint.address.includes(":")
    ? `[${endpoint.address}]:${endpoint.port}`
    : `${endpoint.address}:${endpoint.port}`;
}

/** @throws TypeError when endpoint.address is no address (endpoints come from the functions above) */
export function endpointToBytes(endpoint: Endpoint): Uint8Array {
  const address = parseAddress(endpoint.address);
  if (address === undefined) throw new TypeError(`not an IP address: ${endpoint.address}`);
  const bytes = new Uint8Array(ENDPOINT_BYTES);
  bytes.set(address);
  bytes[16] = endpoint.port & 255;
  bytes[17] = endpoint.port >>> 8;
  return bytes;
}

/** @param bytes at least 18 from `offset` */
export function endpointFromBytes(bytes: Uint8Array, offset = 0): Endpoint {
  return {
    address: formatAddress(bytes.subarray(offset, offset + 16)),
    port: bytes[offset + 16] | (bytes[offset + 17] << 8),
  };
}

/** What carries the datagrams of a virtual endpoint: a label of another peer's session, or a byte channel of the control thread. */
export const VirtualType = { LABEL: 1, CHANNEL: 2 } as const;
export type VirtualType = (typeof VirtualType)[keyof typeof VirtualType];

export interface VirtualEndpoint {
  readonly type: VirtualType;
  /** 1 relay, 2 transit: how the path is judged against others. */
  readonly pathKind: number;
  /** u32, the owner's number of the via or channel. */
  readonly id: number;
}

const VIRTUAL_PORT = 1;

/** @param pathKind 1 relay, 2 transit @param id u32 @returns 18 bytes */
export function virtualEndpoint(type: VirtualType, pathKind: number, id: number): Uint8Array {
  const bytes = new Uint8Array(ENDPOINT_BYTES);
  bytes[0] = 1;
  bytes[8] = type;
  bytes[9] = pathKind;
  for (let i = 0; i < 4; i++) bytes[12 + i] = (id >>> (24 - 8 * i)) & 255;
  bytes[16] = VIRTUAL_PORT;
  return bytes;
}

/** True for every address in 0100::/64, well-formed or not: nothing from a wire may name one. @param bytes 16 or more from `offset` */
export function isVirtualAddress(bytes: Uint8Array, offset = 0): boolean {
  if (bytes[offset] !== 1) return false;
  for (let i = 1; i < 8; i++) if (bytes[offset + i] !== 0) return false;
  return true;
}

/** @param bytes 18 from `offset` @returns undefined when it is no virtual endpoint of a known type */
export function virtualOf(bytes: Uint8Array, offset = 0): VirtualEndpoint | undefined {
  if (!isVirtualAddress(bytes, offset)) return undefined;
  const type = bytes[offset + 8];
  const pathKind = bytes[offset + 9];
  if (type !== VirtualType.LABEL && type !== VirtualType.CHANNEL) return undefined;
  if (pathKind !== 1 && pathKind !== 2) return undefined;
  let id = 0;
  for (let i = 0; i < 4; i++) id = id * 256 + bytes[offset + 12 + i];
  return { type, pathKind, id };
}
