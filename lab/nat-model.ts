/**
 * The table of a network address translator, without clocks or packets: which external endpoint an internal one gets, and who may answer.
 *
 *   mapping    one external endpoint per internal endpoint for all destinations, per destination address, or per destination endpoint
 *   filtering  in comes what everybody sends, what addresses send that were sent to, or what endpoints send that were sent to
 *
 * Guarantees: no two mappings share an external endpoint; a mapping lives for its time-out after the last packet from inside (from outside
 * too with `inboundRefresh`), and a permission as long as its mapping and no longer than one time-out after it was last used from inside;
 * the same seed and the same packets give the same ports. At `maxMappings` a new mapping is refused and counted; at `maxPermits` the
 * permission that was not used for longest goes.
 * Source: RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP).
 */
import type { Random } from "../src/base/random.ts";

/** What mapping and filtering depend on (RFC 4787 sections 4.1 and 5). */
export const DEPENDENCES = ["endpoint-independent", "address-dependent", "address-and-port-dependent"] as const;
export type Dependence = (typeof DEPENDENCES)[number];

export interface NatSettings {
  /** @default "endpoint-independent" */
  readonly mapping: Dependence;
  /** @default "address-and-port-dependent" */
  readonly filtering: Dependence;
  /** The port of the inside when it is free, else the next free one; or any free one. @default "preserve" */
  readonly ports: "preserve" | "random";
  /** With several external addresses: one for all mappings of an internal address, or any. @default "paired" */
  readonly pooling: "paired" | "arbitrary";
  /** Packets from inside to an external endpoint of this translator come back in, from the sender's external endpoint. @default true */
  readonly hairpin: boolean;
  /** @default 120_000 */
  readonly udpTimeoutMs: number;
  /** @default 7_440_000 */
  readonly tcpTimeoutMs: number;
  /** @default 60_000 */
  readonly icmpTimeoutMs: number;
  /** Packets from outside keep a mapping alive as well. @default false */
  readonly inboundRefresh: boolean;
  /** @default 65_536 */
  readonly maxMappings: number;
  /** Of one mapping. @default 4_096 */
  readonly maxPermits: number;
}

export const NAT_DEFAULTS: Readonly<NatSettings> = {
  mapping: "endpoint-independent",
  filtering: "address-and-port-dependent",
  ports: "preserve",
  pooling: "paired",
  hairpin: true,
  udpTimeoutMs: 120_000,
  tcpTimeoutMs: 7_440_000,
  icmpTimeoutMs: 60_000,
  inboundRefresh: false,
  maxMappings: 65_536,
  maxPermits: 4_096,
};

/** What outbound() and inbound() decided. */
export const Verdict = { TRANSLATED: 0, NO_MAPPING: 1, FILTERED: 2, FULL: 3 } as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

/** IANA numbers of what has ports, or an identifier in their place. */
export const ICMP = 1;
export const TCP = 6;
const FIRST_DYNAMIC_PORT = 1_024;
const LAST_PORT = 65_535;
/** Tries of a random port before the table is searched in order. */
const RANDOM_TRIES = 64;

interface Mapping {
  readonly outKey: string;
  readonly inKey: string;
  readonly insideAddress: number;
  readonly insidePort: number;
  readonly externalAddress: number;
  readonly externalPort: number;
  readonly timeoutMs: number;
  usedMs: number;
  /** Remote address or endpoint → when it was last sent to. Least recently used first. */
  readonly permits: Map<number, number>;
}

/** Addresses are IPv4 as unsigned 32-bit numbers. */
export class NatTable {
  readonly settings: Readonly<NatSettings>;
  /** The translated endpoint after TRANSLATED. */
  address = 0;
  port = 0;
  created = 0;
  expired = 0;
  refused = 0;
  permitsEvicted = 0;
  readonly #random: Random;
  readonly #externals: readonly number[];
  readonly #byInside = new Map<string, Mapping>();
  readonly #byExternal = new Map<string, Mapping>();

  /** @param externals at least one address */
  constructor(random: Random, externals: readonly number[], settings: Partial<NatSettings> = {}) {
    this.settings = Object.freeze({ ...NAT_DEFAULTS, ...settings });
    this.#random = random;
    this.#externals = externals;
  }

  get mappings(): number {
    return this.#byInside.size;
  }

  /** A packet from inside: its source becomes `address` and `port`. @returns TRANSLATED or FULL */
  outbound(
    nowMs: number,
    protocol: number,
    address: number,
    port: number,
    remoteAddress: number,
    remotePort: number,
  ): Verdict {
    const outKey = this.#outKey(protocol, address, port, remoteAddress, remotePort);
    let mapping = this.#live(nowMs, this.#byInside.get(outKey));
    if (mapping === undefined) {
      mapping = this.#create(nowMs, outKey, protocol, address, port);
      if (mapping === undefined) {
        this.refused++;
        return Verdict.FULL;
      }
    }
    mapping.usedMs = nowMs;
    this.#permit(nowMs, mapping, remoteAddress, remotePort);
    this.address = mapping.externalAddress;
    this.port = mapping.externalPort;
    return Verdict.TRANSLATED;
  }

  /** A packet from outside to an external endpoint: its destination becomes `address` and `port`. */
  inbound(
    nowMs: number,
    protocol: number,
    externalAddress: number,
    externalPort: number,
    remoteAddress: number,
    remotePort: number,
  ): Verdict {
    const mapping = this.#find(nowMs, protocol, externalAddress, externalPort);
    if (mapping === undefined) return Verdict.NO_MAPPING;
    const { filtering } = this.settings;
    if (filtering !== "endpoint-independent") {
      const sentMs = mapping.permits.get(permitKey(filtering, remoteAddress, remotePort));
      if (sentMs === undefined || nowMs - sentMs >= mapping.timeoutMs) return Verdict.FILTERED;
    }
    if (this.settings.inboundRefresh) mapping.usedMs = nowMs;
    this.address = mapping.insideAddress;
    this.port = mapping.insidePort;
    return Verdict.TRANSLATED;
  }

  /** Whom an external endpoint stands for, for errors about its packets: nothing is filtered or kept alive. @returns TRANSLATED or NO_MAPPING */
  owner(nowMs: number, protocol: number, externalAddress: number, externalPort: number): Verdict {
    const mapping = this.#find(nowMs, protocol, externalAddress, externalPort);
    if (mapping === undefined) return Verdict.NO_MAPPING;
    this.address = mapping.insideAddress;
    this.port = mapping.insidePort;
    return Verdict.TRANSLATED;
  }

  /** Which external endpoint stands for an internal one towards a remote: the opposite of owner(). @returns TRANSLATED or NO_MAPPING */
  external(
    nowMs: number,
    protocol: number,
    address: number,
    port: number,
    remoteAddress: number,
    remotePort: number,
  ): Verdict {
    const key = this.#outKey(protocol, address, port, remoteAddress, remotePort);
    const mapping = this.#live(nowMs, this.#byInside.get(key));
    if (mapping === undefined) return Verdict.NO_MAPPING;
    this.address = mapping.externalAddress;
    this.port = mapping.externalPort;
    return Verdict.TRANSLATED;
  }

  /** Removes what has expired. Needed for memory alone: an expired mapping never translates. */
  sweep(nowMs: number): void {
    for (const mapping of this.#byInside.values()) this.#live(nowMs, mapping);
  }

  /** Forgets everything, as a translator does that is restarted. */
  forget(): void {
    this.#byInside.clear();
    this.#byExternal.clear();
  }

  #outKey(protocol: number, address: number, port: number, remoteAddress: number, remotePort: number): string {
    const inside = `${protocol}:${address}:${port}`;
    if (this.settings.mapping === "endpoint-independent") return inside;
    return `${inside}:${permitKey(this.settings.mapping, remoteAddress, remotePort)}`;
  }

  #find(nowMs: number, protocol: number, externalAddress: number, externalPort: number): Mapping | undefined {
    return this.#live(nowMs, this.#byExternal.get(`${protocol}:${externalAddress}:${externalPort}`));
  }

  /** The same mapping, or undefined after removing it because its time is over. */
  #live(nowMs: number, mapping: Mapping | undefined): Mapping | undefined {
    if (mapping === undefined || nowMs - mapping.usedMs < mapping.timeoutMs) return mapping;
    this.#byInside.delete(mapping.outKey);
    this.#byExternal.delete(mapping.inKey);
    this.expired++;
    return undefined;
  }

  #create(nowMs: number, outKey: string, protocol: number, address: number, port: number): Mapping | undefined {
    if (this.#byInside.size >= this.settings.maxMappings) this.sweep(nowMs);
    if (this.#byInside.size >= this.settings.maxMappings) return undefined;
    const count = this.#externals.length;
    const index = this.settings.pooling === "paired" ? address % count : this.#random.u32() % count;
    const externalAddress = this.#externals[index] ?? 0;
    const externalPort = this.#freePort(nowMs, protocol, externalAddress, port);
    if (externalPort < 0) return undefined;
    const { udpTimeoutMs, tcpTimeoutMs, icmpTimeoutMs } = this.settings;
    const mapping: Mapping = {
      outKey,
      inKey: `${protocol}:${externalAddress}:${externalPort}`,
      insideAddress: address,
      insidePort: port,
      externalAddress,
      externalPort,
      timeoutMs: protocol === TCP ? tcpTimeoutMs : protocol === ICMP ? icmpTimeoutMs : udpTimeoutMs,
      usedMs: nowMs,
      permits: new Map(),
    };
    this.#byInside.set(mapping.outKey, mapping);
    this.#byExternal.set(mapping.inKey, mapping);
    this.created++;
    return mapping;
  }

  /** @returns −1 when every port of the address is taken */
  #freePort(nowMs: number, protocol: number, externalAddress: number, wanted: number): number {
    const isFree = (port: number): boolean => this.#find(nowMs, protocol, externalAddress, port) === undefined;
    const span = LAST_PORT - FIRST_DYNAMIC_PORT + 1;
    let first = wanted;
    if (this.settings.ports === "preserve") {
      if (isFree(wanted)) return wanted;
    } else {
      for (let tries = 0; tries < RANDOM_TRIES; tries++) {
        first = FIRST_DYNAMIC_PORT + (this.#random.u32() % span);
        if (isFree(first)) return first;
      }
    }
    const start = Math.max(0, first - FIRST_DYNAMIC_PORT);
    for (let step = 1; step <= span; step++) {
      const port = FIRST_DYNAMIC_PORT + ((start + step) % span);
      if (isFree(port)) return port;
    }
    return -1;
  }

  #permit(nowMs: number, mapping: Mapping, remoteAddress: number, remotePort: number): void {
    const { filtering, maxPermits } = this.settings;
    if (filtering === "endpoint-independent") return;
    const key = permitKey(filtering, remoteAddress, remotePort);
    const { permits } = mapping;
    if (!permits.delete(key) && permits.size >= maxPermits) {
      for (const oldest of permits.keys()) {
        permits.delete(oldest);
        this.permitsEvicted++;
        break;
      }
    }
    permits.set(key, nowMs);
  }

  counters(): Record<string, number> {
    const { mappings, created, expired, refused, permitsEvicted } = this;
    return { mappings, created, expired, refused, permitsEvicted };
  }
}

function permitKey(dependence: Dependence, address: number, port: number): number {
  return dependence === "address-dependent" ? address : address * 65_536 + port;
}
