/**
 * Prefixes behind members, of either family, as `route` statements and routing tables name them: host bits zero, one text form each.
 * Overlay addresses themselves are addresses.ts. Source: docs/protocol.md, "Roster".
 */
import { compare } from "../base/bytes.ts";
import { formatAddress, parseAddress } from "../base/endpoint.ts";

export interface RoutePrefix {
  readonly family: 4 | 6;
  /** 4 or 16 bytes, host bits zero. */
  readonly address: Uint8Array;
  /** 0–32 or 0–128 */
  readonly bits: number;
}

/** @param text "10.20.0.0/24", "fd12::/64", "0.0.0.0/0" @returns undefined when it is no prefix, or has host bits */
export function parseRoutePrefix(text: string): RoutePrefix | undefined {
  const match = /^([0-9a-fA-F:.]+)\/(\d{1,3})$/.exec(text.trim());
  const address = match === null ? undefined : parseAddress(match[1]);
  if (match === null || address === undefined) return undefined;
  // a v4-mapped IPv6 text would name IPv4 twice
  const isIpv4 = !match[1].includes(":");
  if (!isIpv4 && formatAddress(address).includes(".")) return undefined;
  return routePrefix(isIpv4 ? address.subarray(12) : address, Number(match[2]));
}

/** @param address 4 or 16 bytes @returns undefined when the length is another, bits are too many, or a host bit is set */
export function routePrefix(address: Uint8Array, bits: number): RoutePrefix | undefined {
  if (address.length !== 4 && address.length !== 16) return undefined;
  if (!Number.isInteger(bits) || bits < 0 || bits > address.length * 8) return undefined;
  for (let bit = bits; bit < address.length * 8; bit++) {
    if (((address[bit >>> 3] >>> (7 - (bit & 7))) & 1) !== 0) return undefined;
  }
  return { family: address.length === 4 ? 4 : 6, address: new Uint8Array(address), bits };
}

export function formatRoutePrefix(prefix: RoutePrefix): string {
  if (prefix.family === 4) return `${prefix.address.join(".")}/${prefix.bits}`;
  return `${formatAddress(prefix.address)}/${prefix.bits}`;
}

/** True when every address of `inner` is in `outer`. */
export function containsPrefix(outer: RoutePrefix, inner: RoutePrefix): boolean {
  if (outer.family !== inner.family || outer.bits > inner.bits) return false;
  const whole = outer.bits >>> 3;
  for (let i = 0; i < whole; i++) if (outer.address[i] !== inner.address[i]) return false;
  const rest = outer.bits & 7;
  return rest === 0 || (outer.address[whole] ^ inner.address[whole]) >>> (8 - rest) === 0;
}

/** IPv4 first, by address, the longer prefix first. */
export function compareRoutePrefixes(a: RoutePrefix, b: RoutePrefix): number {
  return a.family - b.family || compare(a.address, b.address) || b.bits - a.bits;
}
