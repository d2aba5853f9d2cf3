/**
 * Overlay IPv4: one prefix chosen at the birth of the network, host addresses in order of admission. Addresses are unsigned numbers here.
 * (Overlay IPv6 follows from the node id: crypto/node-id.ts.) Source: docs/protocol.md, "Roster".
 */
import { parseAddress } from "../base/endpoint.ts";

/** An IPv4 prefix; host bits of `base` are zero. */
export interface Ipv4Prefix {
  readonly base: number;
  /** 8–30 */
  readonly bits: number;
}

/** "10.1.0.0/16" @returns undefined when it is no IPv4 prefix of 8–30 bits with zero host bits */
export function parseIpv4Prefix(text: string): Ipv4Prefix | undefined {
  const any = parseAnyIpv4Prefix(text);
  if (any === undefined || any.bits < 8 || any.bits > 30) return undefined;
  return (any.base & hostMask(any.bits)) === 0 ? any : undefined;
}

export function formatIpv4Prefix(prefix: Ipv4Prefix): string {
  return `${formatIpv4(prefix.base)}/${prefix.bits}`;
}

export function formatIpv4(value: number): string {
  return `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;
}

/** @returns the address as an unsigned number, or undefined */
export function parseIpv4(text: string): number | undefined {
  const bytes = parseAddress(text);
  return bytes === undefined || text.includes(":") ? undefined : readIpv4(bytes, 12);
}

export function readIpv4(bytes: Uint8Array, at = 0): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}

export function ipv4Bytes(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255);
}

export function firstHost(prefix: Ipv4Prefix): number {
  return prefix.base + 1;
}

/** The broadcast address is left out. */
export function lastHost(prefix: Ipv4Prefix): number {
  return prefix.base + hostMask(prefix.bits) - 1;
}

/** @returns the first address after `after` (cyclic over the prefix's hosts) that `taken` does not have, or undefined when all are */
export function nextFreeIpv4(prefix: Ipv4Prefix, after: number, taken: ReadonlySet<number>): number | undefined {
  const first = firstHost(prefix);
  const last = lastHost(prefix);
  let candidate = after < first || after >= last ? first : after + 1;
  for (let tried = first; tried <= last; tried++) {
    if (!taken.has(candidate)) return candidate;
    candidate = candidate === last ? first : candidate + 1;
    if (tried - first > taken.size) return undefined;
  }
  return undefined;
}

/**
 * A /16 out of 100.64.0.0/10 (RFC 6598) that overlaps none of `avoid`; where to begin is decided by `seed`, so that two networks seldom get
 * the same one. @returns undefined when all 64 overlap
 */
export function pickIpv4Prefix(seed: number, avoid: readonly string[]): Ipv4Prefix | undefined {
  const avoided: Ipv4Prefix[] = [];
  for (const text of avoid) {
    const prefix = parseAnyIpv4Prefix(text);
    // a default route covers everything and collides with nothing
    if (prefix !== undefined && prefix.bits > 0) avoided.push(prefix);
  }
  for (let i = 0; i < 64; i++) {
    const candidate: Ipv4Prefix = { base: ((100 << 24) | ((64 + ((seed + i) & 63)) << 16)) >>> 0, bits: 16 };
    if (!avoided.some((other) => overlaps(candidate, other))) return candidate;
  }
  return undefined;
}

/** Those of `others` that overlap with the prefix; a default route does not count. @param prefix "10.1.0.0/16" */
export function collisions(prefix: string, others: readonly string[]): string[] {
  const own = parseAnyIpv4Prefix(prefix);
  if (own === undefined) return [];
  return others.filter((text) => {
    const other = parseAnyIpv4Prefix(text);
    return other !== undefined && other.bits > 0 && overlaps(own, other);
  });
}

export function overlaps(a: Ipv4Prefix, b: Ipv4Prefix): boolean {
  const mask = ~hostMask(Math.min(a.bits, b.bits)) >>> 0;
  return (a.base & mask) >>> 0 === (b.base & mask) >>> 0;
}

function hostMask(bits: number): number {
  return bits === 0 ? 0xffffffff : 2 ** (32 - bits) - 1;
}

function parseAnyIpv4Prefix(text: string): Ipv4Prefix | undefined {
  const match = /^([0-9.]+)(?:\/(\d{1,2}))?$/.exec(text);
  if (match === null) return undefined;
  const base = parseIpv4(match[1]);
  const bits = match[2] === undefined ? 32 : Number(match[2]);
  return base === undefined || bits > 32 ? undefined : { base, bits };
}
