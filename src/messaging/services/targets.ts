/**
 * Where forwarded connections go, as people write it, and the rules by which a node lets members go there.
 *   target  NODE:PORT (the node's loopback) or NODE:HOST:PORT, IPv6 in brackets
 *   rule    HOSTS:PORTS with HOSTS = loopback | address | prefix | name | *, PORTS = number | low-high | *
 * Nothing is allowed that no rule names. An unspecified address (0.0.0.0, ::) is never allowed: the kernel takes it for loopback.
 * Loopback, link-local addresses and the metadata services of clouds are allowed by rules that mean them and by no wider one: "loopback", or an
 * address or prefix that lies inside. "*" and a prefix of length 0 leave out the addresses of the machine itself.
 * A name that a rule names is trusted with every other address it has; any other name is judged by the address it leads to, and that address
 * is the one to connect to. Source: docs/protocol.md, "Forwards"; sans-I/O.
 */
import { formatAddress, isIPv4Mapped, parseAddress } from "../../base/endpoint.ts";

/** A place to connect to as the serving node sees it. */
export interface Target {
  /** Address or name; "" is the serving node's loopback. */
  readonly host: string;
  /** 1–65535 */
  readonly port: number;
}

export interface NodeTarget {
  /** Name, id or overlay address. */
  readonly node: string;
  readonly target: Target;
}

/** What a rule's list of peers is compared with. */
export interface PeerNames {
  /** Text form of the node id. */
  readonly id: string;
  readonly name: string;
  readonly tags: readonly string[];
}

interface HostRule {
  readonly kind: "loopback" | "any" | "name" | "prefix";
  readonly name: string;
  readonly prefix: Uint8Array;
  readonly bits: number;
}

export interface TargetRule extends HostRule {
  readonly lowPort: number;
  readonly highPort: number;
}

export interface AllowRule {
  /** Names, ids or "tag:NAME"; undefined = every member. */
  readonly peers: readonly string[] | undefined;
  readonly targets: readonly TargetRule[];
}

/** Where a connection would go. */
export interface Place {
  /** As the peer wrote it; "" when it gave an address or loopback. */
  readonly name: string;
  /** 16 bytes */
  readonly address: Uint8Array;
  readonly port: number;
  /** The address is one of this machine's interfaces. */
  readonly isOwn: boolean;
}

export const MAX_HOST_BYTES = 253;
const HOST = String.raw`\[[0-9a-fA-F:.]+\]|[^\s:[\]]+`;
const TARGET_PATTERN = new RegExp(String.raw`^(${HOST})(?::(${HOST}))?:(\d{1,5})$`);
const RULE_PATTERN = /^(\[[0-9a-fA-F:.]+(?:\/\d{1,3})?\]|[^\s:[\]]+):(\*|\d{1,5}(?:-\d{1,5})?)$/;
const NAME_PATTERN = /^(?!-)[A-Za-z0-9._-]{1,253}$/;
const NO_PREFIX = new Uint8Array(16);

function unbracketed(text: string): string {
  return text.startsWith("[") ? text.slice(1, -1) : text;
}

function port(text: string, low = 1): number | undefined {
  const value = Number(text);
  return value >= low && value <= 65_535 ? value : undefined;
}

/** An address or a DNS name. */
export function isHost(text: string): boolean {
  return parseAddress(text) !== undefined || (NAME_PATTERN.test(text) && !/^[0-9.]+$/.test(text));
}

/** "nas:80", "nas:10.0.0.5:443", "100.64.0.2:80" @returns undefined when it is none of these */
export function parseNodeTarget(text: string): NodeTarget | undefined {
  const match = TARGET_PATTERN.exec(text);
  const number = match === null ? undefined : port(match[3]);
  if (match === null || number === undefined) return undefined;
  const host = match[2] === undefined ? "" : unbracketed(match[2]);
  if (host !== "" && !isHost(host)) return undefined;
  return { node: unbracketed(match[1]), target: { host: isLoopbackHost(host) ? "" : host, port: number } };
}

/** The line of weft.toml, in [forward], by which a node lets a member go there. */
export function allowLine(peer: string, { host, port: number }: Target): string {
  const hosts = host === "" ? "loopback" : host.includes(":") ? `[${host}]` : host;
  return `allow = [{ peers = ["${peer}"], targets = ["${hosts}:${number}"] }]`;
}

export function formatNodeTarget({ node, target }: NodeTarget): string {
  const bracketed = (host: string): string => (host.includes(":") ? `[${host}]` : host);
  return `${bracketed(node)}${target.host === "" ? "" : `:${bracketed(target.host)}`}:${target.port}`;
}

/** "8080", "127.0.0.1:8080", "[::1]:0" (0: any free port) @returns undefined otherwise */
export function parseListenAddress(text: string): { readonly address: string; readonly port: number } | undefined {
  const match = /^(?:(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):)?(\d{1,5})$/.exec(text);
  const number = match === null ? undefined : port(match[3], 0);
  if (match === null || number === undefined) return undefined;
  const bytes = parseAddress(match[1] ?? match[2] ?? "127.0.0.1");
  return bytes === undefined ? undefined : { address: formatAddress(bytes), port: number };
}

function isLoopbackHost(host: string): boolean {
  return host === "" || /^localhost\.?$/i.test(host);
}

function isUnspecified(address: Uint8Array): boolean {
  for (let i = isIPv4Mapped(address) ? 12 : 0; i < 16; i++) if (address[i] !== 0) return false;
  return true;
}

/** "loopback:80", "10.0.0.0/8:22", "[fd00::/8]:*", "db.internal:5432", "*:443" @returns undefined when it is no rule */
export function parseTargetRule(text: string): TargetRule | undefined {
  const match = RULE_PATTERN.exec(text);
  if (match === null) return undefined;
  const host = parseHostRule(unbracketed(match[1]));
  const [low, high] = match[2] === "*" ? ["1", "65535"] : match[2].split("-");
  const lowPort = port(low);
  const highPort = port(high ?? low);
  if (host === undefined || lowPort === undefined || highPort === undefined || lowPort > highPort) return undefined;
  return { ...host, lowPort, highPort };
}

function parseHostRule(text: string): HostRule | undefined {
  if (text === "loopback" || isLoopbackHost(text)) return { kind: "loopback", name: "", prefix: NO_PREFIX, bits: 0 };
  if (text === "*") return { kind: "any", name: "", prefix: NO_PREFIX, bits: 0 };
  const [address, length, more] = text.split("/");
  const bytes = parseAddress(address);
  if (bytes !== undefined && more === undefined) {
    const most = isIPv4Mapped(bytes) ? 32 : 128;
    const bits = length === undefined ? most : Number(length);
    if (length !== undefined && !/^\d{1,3}$/.test(length)) return undefined;
    if (bits > most) return undefined;
    return { kind: "prefix", name: "", prefix: bytes, bits: bits + 128 - most };
  }
  if (length !== undefined || !isHost(text)) return undefined;
  return { kind: "name", name: text.toLowerCase(), prefix: NO_PREFIX, bits: 0 };
}

const LOOPBACK = ["127.0.0.0/8", "[::1/128]"].map(hostRule);
/** Link-local (RFC 3927, RFC 4291 section 2.5.6), and where clouds serve credentials outside of it. */
const METADATA = [
  "169.254.0.0/16",
  "168.63.129.16",
  "192.0.0.192",
  "100.100.100.200",
  "[fe80::/10]",
  "[fd00:ec2::254]",
  "[fd20:ce::254]",
].map(hostRule);

function hostRule(text: string): HostRule {
  return parseHostRule(unbracketed(text)) as HostRule;
}

export function matchesPeer(peers: readonly string[] | undefined, peer: PeerNames): boolean {
  if (peers === undefined) return true;
  return peers.some(
    (one) => one === peer.name || one === peer.id || (one.startsWith("tag:") && peer.tags.includes(one.slice(4))),
  );
}

/** Could a name lead somewhere that is allowed? Asked before it is looked up. */
export function mayLookUp(rules: readonly AllowRule[], peer: PeerNames, name: string, portNumber: number): boolean {
  return matching(rules, peer, portNumber).some(
    (rule) =>
      rule.kind === "any" || rule.kind === "prefix" || (rule.kind === "name" && rule.name === name.toLowerCase()),
  );
}

export function allowsTarget(rules: readonly AllowRule[], peer: PeerNames, place: Place): boolean {
  const { name, address, isOwn } = place;
  if (isUnspecified(address)) return false;
  const special = [...LOOPBACK, ...METADATA].find((one) => inPrefix(address, one));
  return matching(rules, peer, place.port).some((rule) => {
    switch (rule.kind) {
      case "loopback":
        return special !== undefined && LOOPBACK.includes(special);
      case "any":
        return special === undefined && !isOwn;
      case "name":
        return special === undefined && name !== "" && rule.name === name.toLowerCase();
      case "prefix":
        if (special !== undefined && !(rule.bits >= special.bits && inPrefix(rule.prefix, special))) return false;
        return inPrefix(address, rule) && !(isOwn && isEverything(rule));
    }
  });
}

/** "0.0.0.0/0" and "[::/0]" say no more than "*". */
function isEverything({ prefix, bits }: HostRule): boolean {
  return bits === (isIPv4Mapped(prefix) ? 96 : 0);
}

function matching(rules: readonly AllowRule[], peer: PeerNames, portNumber: number): TargetRule[] {
  return rules
    .filter(({ peers }) => matchesPeer(peers, peer))
    .flatMap(({ targets }) => targets.filter((one) => portNumber >= one.lowPort && portNumber <= one.highPort));
}

function inPrefix(address: Uint8Array, { prefix, bits }: HostRule): boolean {
  // an IPv4 prefix covers 96 bits and more, so that only IPv4 fits it, and an IPv6 one never means IPv4
  if (isIPv4Mapped(address) !== isIPv4Mapped(prefix)) return false;
  for (let bit = 0; bit < bits; bit++) {
    const mask = 0x80 >> (bit & 7);
    if ((address[bit >> 3] & mask) !== (prefix[bit >> 3] & mask)) return false;
  }
  return true;
}
