/**
 * Who is at the other end of a connection that came through a reverse proxy: the standard headers `Forwarded` (RFC 7239) and
 * `X-Forwarded-For` are believed from trusted proxies only, and only back to the first address that is no trusted proxy itself,
 * so that a client cannot write itself another address. Used for limits per address, never for authentication.
 */
import { BlockList } from "node:net";
import { formatAddress, parseAddress } from "../../base/endpoint.ts";

/** Longer lists of proxies are read from their end. */
const MAX_HOPS = 16;

export interface ProxyHeaders {
  readonly forwarded?: string | undefined;
  readonly "x-forwarded-for"?: string | string[] | undefined;
}

/** @returns undefined when the text is neither an address nor a prefix such as "10.0.0.0/8" */
export function parseProxyPrefix(text: string): { readonly address: string; readonly bits: number } | undefined {
  const [address = "", bitsText, ...rest] = text.split("/");
  if (rest.length > 0 || parseAddress(address) === undefined) return undefined;
  const longest = address.includes(":") ? 128 : 32;
  if (bitsText === undefined) return { address, bits: longest };
  if (!/^\d{1,3}$/.test(bitsText) || Number(bitsText) > longest) return undefined;
  return { address, bits: Number(bitsText) };
}

export class TrustedProxies {
  readonly #list = new BlockList();

  /** @param prefixes addresses and prefixes; texts that are neither are skipped (the configuration refuses them) */
  constructor(prefixes: readonly string[]) {
    for (const text of prefixes) {
      const prefix = parseProxyPrefix(text);
      if (prefix !== undefined)
        this.#list.addSubnet(prefix.address, prefix.bits, prefix.address.includes(":") ? "ipv6" : "ipv4");
    }
  }

  has(address: string): boolean {
    return this.#list.check(address, address.includes(":") ? "ipv6" : "ipv4");
  }

  /** @param remote address of the TCP connection @returns address of the client, IPv4 dotted, IPv6 as RFC 5952 */
  clientAddress(remote: string, headers: ProxyHeaders): string {
    let client = canonical(remote) ?? remote;
    if (!this.has(client)) return client;
    for (const hop of hops(headers).toReversed()) {
      const address = canonical(hop);
      if (address === undefined) return client;
      client = address;
      if (!this.has(client)) return client;
    }
    return client;
  }
}

/** Addresses as the proxies wrote them, the client's first. `Forwarded` wins when both are there. */
function hops(headers: ProxyHeaders): string[] {
  const standard = headers.forwarded;
  if (standard !== undefined) {
    return standard
      .split(",")
      .slice(-MAX_HOPS)
      .map((element) => /(?:^|;)\s*for=("[^"]*"|[^;,\s]*)/i.exec(element.trim())?.[1] ?? "")
      .map((node) => node.replaceAll('"', ""));
  }
  const common = headers["x-forwarded-for"];
  const text = Array.isArray(common) ? common.join(",") : (common ?? "");
  return text === "" ? [] : text.split(",").slice(-MAX_HOPS);
}

/** "1.2.3.4", "1.2.3.4:5", "[2001:db8::1]:5", "::ffff:1.2.3.4" → the address; undefined for "unknown", names and anything else */
function canonical(text: string): string | undefined {
  const trimmed = text.trim();
  const bare = /^\[([^\]]*)\](?::\d+)?$/.exec(trimmed)?.[1] ?? /^([\d.]+):\d+$/.exec(trimmed)?.[1] ?? trimmed;
  const bytes = parseAddress(bare.replace(/%.*$/, ""));
  return bytes === undefined ? undefined : formatAddress(bytes);
}

/** What a limit per address counts: an IPv4 address, or an IPv6 /64, since whoever has one has them all. */
export function limitKey(address: string): string {
  const bytes = parseAddress(address);
  if (bytes === undefined || !address.includes(":")) return address;
  return formatAddress(Uint8Array.from(bytes, (byte, i) => (i < 8 ? byte : 0)));
}
