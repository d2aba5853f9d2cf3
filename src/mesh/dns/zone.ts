/**
 * The names of a network as DNS data: NAME.NETWORK.weft (A, AAAA), the reverse names of the overlay's prefixes (PTR) and services that members
 * announce (SRV). Pure data built from the roster; answers come from answer.ts. Names are compared in lower case (RFC 4343).
 * Source: docs/protocol.md, "Names".
 */
export const TOP_DOMAIN = "weft";
/** Reverse zones of an IPv4 prefix whose length is no multiple of eight; beyond this many none is named. */
const MAX_REVERSE_ZONES = 64;

export interface ZoneHost {
  /** DNS label, lower case. */
  readonly name: string;
  readonly ipv4: string;
  /** RFC 5952 text. */
  readonly ipv6: string;
}

export interface ZoneService {
  /** "_http._tcp" */
  readonly label: string;
  /** Name of the host that offers it. */
  readonly host: string;
  readonly port: number;
}

export interface ZoneContents {
  /** DNS label of the network. */
  readonly network: string;
  /** "100.64.0.0/16" */
  readonly ipv4Prefix: string;
  /** "fd…::/48"; a multiple of four bits. */
  readonly ipv6Prefix: string;
  readonly hosts: readonly ZoneHost[];
  readonly services: readonly ZoneService[];
  /** Changes with the contents; of it the SOA's serial. */
  readonly serial: number;
}

export interface SrvData {
  readonly port: number;
  readonly target: string;
}

export class Zone {
  /** "home.weft" */
  readonly domain: string;
  /** Reverse zones, for example "64.100.in-addr.arpa"; empty beyond MAX_REVERSE_ZONES. */
  readonly reverseDomains: readonly string[];
  readonly serial: number;
  readonly #hosts = new Map<string, ZoneHost>();
  readonly #pointers = new Map<string, string>();
  readonly #services = new Map<string, SrvData[]>();
  /** Names that have something below them, such as "_tcp.home.weft" (RFC 8020). */
  readonly #branches = new Set<string>();

  constructor(contents: ZoneContents) {
    this.domain = `${contents.network}.${TOP_DOMAIN}`;
    this.serial = contents.serial >>> 0;
    this.reverseDomains = [...reverseZones4(contents.ipv4Prefix), ...reverseZones6(contents.ipv6Prefix)];
    for (const host of contents.hosts) {
      const name = `${host.name}.${this.domain}`;
      this.#hosts.set(name, host);
      this.#pointers.set(reverseName(host.ipv4), name);
      this.#pointers.set(reverseName(host.ipv6), name);
    }
    for (const service of contents.services) {
      const target = `${service.host}.${this.domain}`;
      if (!this.#hosts.has(target)) continue;
      for (const owner of [`${service.label}.${target}`, `${service.label}.${this.domain}`]) {
        const list = this.#services.get(owner) ?? [];
        list.push({ port: service.port, target });
        this.#services.set(owner, list);
        this.#branches.add(owner.slice(owner.indexOf(".") + 1));
      }
    }
    for (const pointer of this.#pointers.keys()) this.#addBranches(pointer);
  }

  /** @param name lower case, without the last dot @returns the apex of the zone that holds it, or undefined */
  zoneOf(name: string): string | undefined {
    if (isBelow(name, this.domain)) return this.domain;
    return this.reverseDomains.find((zone) => isBelow(name, zone));
  }

  host(name: string): ZoneHost | undefined {
    return this.#hosts.get(name);
  }

  pointer(name: string): string | undefined {
    return this.#pointers.get(name);
  }

  services(name: string): readonly SrvData[] {
    return this.#services.get(name) ?? [];
  }

  /** True when the name exists, with or without data of its own. */
  exists(name: string): boolean {
    return (
      name === this.domain ||
      this.reverseDomains.includes(name) ||
      this.#hosts.has(name) ||
      this.#pointers.has(name) ||
      this.#services.has(name) ||
      this.#branches.has(name)
    );
  }

  #addBranches(pointer: string): void {
    const apex = this.zoneOf(pointer);
    if (apex === undefined) return;
    for (let name = pointer; name !== apex && name.length > apex.length;) {
      name = name.slice(name.indexOf(".") + 1);
      this.#branches.add(name);
    }
  }
}

/** @param address dotted IPv4 or IPv6 text @returns its name below in-addr.arpa or ip6.arpa */
export function reverseName(address: string): string {
  if (!address.includes(":")) return `${address.split(".").toReversed().join(".")}.in-addr.arpa`;
  return `${nibbles(address).toReversed().join(".")}.ip6.arpa`;
}

/** RFC 2317 has no answer for prefixes between octets, so every octet's zone is named. */
function reverseZones4(prefix: string): string[] {
  const [address = "", length = ""] = prefix.split("/");
  const bits = Number(length);
  const octets = address.split(".").map(Number);
  if (octets.length !== 4 || !(bits >= 8 && bits <= 32)) return [];
  const whole = Math.ceil(bits / 8);
  const count = 2 ** (whole * 8 - bits);
  if (count > MAX_REVERSE_ZONES) return [];
  return Array.from({ length: count }, (_, i) => {
    const labels = octets.slice(0, whole);
    labels[whole - 1] = (labels[whole - 1] ?? 0) + i;
    return `${labels.toReversed().join(".")}.in-addr.arpa`;
  });
}

function reverseZones6(prefix: string): string[] {
  const [address = "", length = ""] = prefix.split("/");
  const bits = Number(length);
  if (!address.includes(":") || !(bits >= 4 && bits <= 128) || bits % 4 !== 0) return [];
  return [
    `${nibbles(address)
      .slice(0, bits / 4)
      .toReversed()
      .join(".")}.ip6.arpa`,
  ];
}

function nibbles(address: string): string[] {
  const [head = "", tail] = address.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length);
  const groups = [...left, ...Array.from({ length: zeros }, () => "0"), ...right];
  return groups.flatMap((group) => group.padStart(4, "0").split(""));
}

function isBelow(name: string, zone: string): boolean {
  return name === zone || name.endsWith(`.${zone}`);
}
