/**
 * Which addresses may be tried from here. Others announce every address they have; a private one means something only to hosts that
 * live in the same private space, and trying it from elsewhere sends handshakes to strangers. Pure functions; reasons beside the rules.
 * Source: docs/protocol.md, "Discovery and candidates"; RFC 1918, 3927, 4193, 6598, 6890.
 */
import { ENDPOINT_BYTES, isIPv4Mapped, parseAddress } from "../../base/endpoint.ts";

/** One address of an interface that is up. The overlay's own interface is none of them. */
export interface LocalAddress {
  /** 16 bytes, IPv4 as v4-mapped. */
  readonly address: Uint8Array;
  /** 0–128; for IPv4 counted from 96. */
  readonly prefixBits: number;
  /** Only for nodes that listen on loopback themselves: others leave these out. */
  readonly loopback: boolean;
}

export type Scope = "global" | "private" | "carrier" | "site" | "link-local" | "loopback" | "unusable";

/** @param bytes 16 bytes, or an endpoint's first 16 */
export function scopeOf(bytes: Uint8Array): Scope {
  if (isIPv4Mapped(bytes)) {
    const [a, b] = [bytes[12], bytes[13]];
    if (a === 0 || a >= 224) return "unusable";
    if (a === 127) return "loopback";
    if (a === 10 || (a === 172 && (b & 0xf0) === 16) || (a === 192 && b === 168)) return "private";
    if (a === 100 && (b & 0xc0) === 64) return "carrier";
    if (a === 169 && b === 254) return "link-local";
    return "global";
  }
  if (bytes[0] === 0xff) return "unusable";
  if (bytes[0] === 0xfe && (bytes[1] & 0xc0) === 0x80) return "link-local";
  if ((bytes[0] & 0xfe) === 0xfc) return "site";
  // 0100::/64 is never on a wire (RFC 6666), ::/96 is nothing but the unspecified address, loopback and what nobody uses
  if (bytes[0] === 1 && allZero(bytes, 1, 8)) return "unusable";
  if (allZero(bytes, 0, 12)) return allZero(bytes, 12, 15) && bytes[15] === 1 ? "loopback" : "unusable";
  return "global";
}

/**
 * Whether an endpoint that somebody announced may be tried from a host with these addresses:
 * - never: unspecified, multicast, class E, 0100::/64, port 0, a subnet's own broadcast address, this node itself;
 * - global addresses: always;
 * - loopback: only when this node listens on loopback, too (then `interfaces` has such an address);
 * - 169.254.0.0/16: when an interface has such an address; fe80::/10 never, for it needs a scope that 18 bytes do not carry;
 * - 10/8, 172.16/12, 192.168/16, 100.64/10: when an interface has an address of the same one of these blocks. Not only when the
 *   endpoint is on a directly connected subnet: sites route between their subnets;
 * - fc00::/7: when an interface has an address with the same first 48 bits, which is one site (RFC 4193).
 *
 * @param endpoint 18 bytes of base/endpoint.ts @param ownPorts on which this node listens
 */
export function candidateFits(
  endpoint: Uint8Array,
  interfaces: readonly LocalAddress[],
  ownPorts: readonly number[] = [],
): boolean {
  if (endpoint.length !== ENDPOINT_BYTES) return false;
  const port = endpoint[16] | (endpoint[17] << 8);
  const scope = scopeOf(endpoint);
  if (port === 0 || scope === "unusable") return false;
  for (const local of interfaces) {
    if (shares(endpoint, local.address, 128)) return !ownPorts.includes(port) && fitsScope(endpoint, scope, interfaces);
    if (isBroadcast(endpoint, local)) return false;
  }
  return fitsScope(endpoint, scope, interfaces);
}

/** Whether the endpoint lies in a subnet that this host is connected to. */
export function isOnLink(endpoint: Uint8Array, interfaces: readonly LocalAddress[]): boolean {
  return interfaces.some((local) => local.prefixBits > 0 && shares(endpoint, local.address, local.prefixBits));
}

/** @returns undefined when the text is no address */
export function localAddress(text: string, prefixBits: number, loopback: boolean): LocalAddress | undefined {
  const address = parseAddress(text);
  if (address === undefined) return undefined;
  return { address, prefixBits: isIPv4Mapped(address) ? 96 + prefixBits : prefixBits, loopback };
}

function fitsScope(endpoint: Uint8Array, scope: Scope, interfaces: readonly LocalAddress[]): boolean {
  if (scope === "global") return true;
  if (scope === "loopback") return interfaces.some((local) => local.loopback);
  const bits = blockBits(endpoint, scope);
  return bits > 0 && interfaces.some((local) => !local.loopback && shares(endpoint, local.address, bits));
}

/** Leading bits that addresses of one private space share; 0 = nobody shares it. */
function blockBits(endpoint: Uint8Array, scope: Scope): number {
  switch (scope) {
    case "private":
      return 96 + (endpoint[12] === 10 ? 8 : endpoint[12] === 172 ? 12 : 16);
    case "carrier":
      return 96 + 10;
    case "site":
      return 48;
    case "link-local":
      return isIPv4Mapped(endpoint) ? 96 + 16 : 0;
    default:
      return 0;
  }
}

function isBroadcast(endpoint: Uint8Array, local: LocalAddress): boolean {
  // a /31 and a /32 have none (RFC 3021)
  if (!isIPv4Mapped(endpoint) || local.prefixBits <= 96 || local.prefixBits > 126) return false;
  if (!shares(endpoint, local.address, local.prefixBits)) return false;
  for (let bit = local.prefixBits; bit < 128; bit++) if ((endpoint[bit >> 3] & (0x80 >> (bit & 7))) === 0) return false;
  return true;
}

function shares(a: Uint8Array, b: Uint8Array, bits: number): boolean {
  const whole = bits >> 3;
  for (let i = 0; i < whole; i++) if (a[i] !== b[i]) return false;
  const rest = bits & 7;
  return rest === 0 || (a[whole] ^ b[whole]) >> (8 - rest) === 0;
}

function allZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false;
  return true;
}
