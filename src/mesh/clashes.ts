/**
 * What every member gets of its own: name, IPv4 address, key, IPv6 address. Whoever claimed it first keeps it; a later name gets a suffix,
 * a later IPv4 address becomes the next free one, and a node with another member's key or IPv6 address is none.
 * Source: docs/protocol.md, "Roster".
 */
import { toHex } from "../base/bytes.ts";
import { type Ipv4Prefix, firstHost, lastHost, nextFreeIpv4 } from "./addresses.ts";
import type { Statement } from "./statement.ts";
import type { Role } from "./types.ts";

export interface Derived {
  readonly staticKey: Uint8Array;
  readonly ipv6: Uint8Array;
}

/** One node's claim to membership, with what the latest updates made of it. */
export interface Claim {
  /** Its admission. */
  readonly statement: Statement;
  readonly node: Uint8Array;
  readonly derived: Derived;
  readonly wantedName: string;
  /** Where the claim to the name stands among others; the admission's or a renaming's. */
  readonly nameOrder: number;
  readonly wantedIpv4: number;
  /** Without "admin". */
  readonly roles: readonly Role[];
  readonly isAdmin: boolean;
  readonly tags: readonly string[];
  readonly expiresAtMs: number | undefined;
}

/** @param claims in order of admission @returns those that hold a key, an address and a place */
export function settleKeys(claims: readonly Claim[], maxMembers: number, voids: Map<string, string>): Claim[] {
  const keys = new Set<string>();
  const settled: Claim[] = [];
  for (const claim of claims) {
    const key = toHex(claim.derived.staticKey);
    const ipv6 = toHex(claim.derived.ipv6);
    if (keys.has(key) || keys.has(ipv6)) {
      voids.set(claim.statement.hashHex, "another member has its key or address");
    } else if (settled.length >= maxMembers) {
      voids.set(claim.statement.hashHex, "the network is full");
    } else {
      keys.add(key).add(ipv6);
      settled.push(claim);
    }
  }
  return settled;
}

/** First come, first served; the others get suffixes that nobody asked for. @returns in the order of `claims` */
export function settleNames(claims: readonly Claim[]): string[] {
  const inOrder = claims.toSorted((a, b) => a.nameOrder - b.nameOrder);
  const owners = new Map<string, Claim>();
  for (const claim of inOrder) if (!owners.has(claim.wantedName)) owners.set(claim.wantedName, claim);
  const taken = new Set(owners.keys());
  const names = new Map<Claim, string>();
  for (const claim of inOrder) {
    const isOwner = owners.get(claim.wantedName) === claim;
    const name = isOwner ? claim.wantedName : suffixedName(claim.wantedName, taken);
    taken.add(name);
    names.set(claim, name);
  }
  return claims.map((claim) => names.get(claim) as string);
}

/** @returns "name-2", "name-3" …: the first that is not taken, at most 63 characters */
export function suffixedName(name: string, taken: { has(name: string): boolean }): string {
  for (let n = 2; ; n++) {
    const suffix = `-${n}`;
    const candidate = name.slice(0, 63 - suffix.length).replace(/-+$/, "") + suffix;
    if (!taken.has(candidate)) return candidate;
  }
}

/** @param claims in order of admission @returns undefined for those that found no free address */
export function settleIpv4(claims: readonly Claim[], prefix: Ipv4Prefix): (number | undefined)[] {
  const taken = new Set<number>();
  const owners = new Map<number, Claim>();
  for (const claim of claims) {
    const wanted = claim.wantedIpv4;
    if (wanted < firstHost(prefix) || wanted > lastHost(prefix) || owners.has(wanted)) continue;
    owners.set(wanted, claim);
    taken.add(wanted);
  }
  return claims.map((claim) => {
    if (owners.get(claim.wantedIpv4) === claim) return claim.wantedIpv4;
    const free = nextFreeIpv4(prefix, claim.wantedIpv4, taken);
    if (free !== undefined) taken.add(free);
    return free;
  });
}
