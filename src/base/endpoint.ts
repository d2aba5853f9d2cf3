/**
 * Underlay addresses in their three forms: text for people, 16 bytes (IPv4 as v4-mapped IPv6, RFC 4291 section 2.5.5.2) for
 * protocols, and 18 bytes with the port for messages: address 16 ‖ port u16 little-endian.
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

export function formatEndpoint(endpoint: Endpoint): string {
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
