/**
 * How the NAT in front of this node maps ports (RFC 4787 section 4.1, RFC 5780 section 4.3), judged from observations: a destination and
 * the address at which it saw this node's one underlay socket. STUN servers and peers say so. No I/O, no clock.
 *
 *   all destinations saw the same, two addresses among them    endpoint-independent: punching works
 *   two ports of one address saw different ones                 address- and port-dependent
 *   ports of one address agree, addresses do not                address-dependent
 *   only different addresses, and they disagree                 dependent, which of the two is unknown
 *
 * Only destinations of one scope are compared: behind two NATs those inside the carrier's network see another address than the rest.
 * Bounds: `maxObservations`, the oldest goes first; each counts for `lifeMs`. Where older and newer ones disagree the newest `windowMs` decide
 * if they can, so that an easy NAT that forgot and mapped anew does not look hard.
 */
import { equal, toHex } from "../../base/bytes.ts";
import { endpointFromBytes, formatEndpoint, isIPv4Mapped } from "../../base/endpoint.ts";
import type { LocalAddress, Scope } from "./fits.ts";
import { isOnLink, scopeOf } from "./fits.ts";

export type NatMapping =
  | "unknown"
  | "none"
  | "endpoint-independent"
  | "address-dependent"
  | "address-and-port-dependent"
  | "dependent";

/** How external ports come about, for guessing the next one. */
export type PortPattern = "unknown" | "preserved" | "sequential" | "random";

export interface NatReport {
  readonly mapping: NatMapping;
  readonly ports: PortPattern;
  /** 18 bytes each, newest first, without doubles: where others see this node. */
  readonly mapped: readonly Uint8Array[];
  /** Average step from one mapping to the next when `ports` is "sequential", else 0. */
  readonly portStep: number;
  /** One line for people. */
  readonly text: string;
}

export interface NatOptions {
  /** @default 600_000 */
  readonly lifeMs?: number;
  /** @default 120_000 */
  readonly windowMs?: number;
  /** @default 64 */
  readonly maxObservations?: number;
}

interface Observation {
  readonly to: Uint8Array;
  readonly mapped: Uint8Array;
  readonly atMs: number;
}

/** Steps up to this many ports look like a counter that others use as well. */
const MAX_STEP = 16;

export class NatClassifier {
  readonly #lifeMs: number;
  readonly #windowMs: number;
  readonly #maxObservations: number;
  /** By destination; in order of arrival. */
  readonly #observations = new Map<string, Observation>();
  #interfaces: readonly LocalAddress[] = [];
  #ports: readonly number[] = [];

  constructor(options: NatOptions = {}) {
    this.#lifeMs = options.lifeMs ?? 600_000;
    this.#windowMs = options.windowMs ?? 120_000;
    this.#maxObservations = options.maxObservations ?? 64;
  }

  get size(): number {
    return this.#observations.size;
  }

  /** Where this host is now; what was observed before a change says nothing any more. */
  setLocal(interfaces: readonly LocalAddress[], ports: readonly number[]): void {
    const isSame =
      interfaces.length === this.#interfaces.length &&
      interfaces.every((local, i) => equal(local.address, this.#interfaces[i].address)) &&
      ports.length === this.#ports.length &&
      ports.every((port, i) => port === this.#ports[i]);
    if (!isSame) this.#observations.clear();
    this.#interfaces = interfaces;
    this.#ports = ports;
  }

  /** @param to the destination, 18 bytes @param mapped how it saw this node, 18 bytes; both copied */
  observe(nowMs: number, to: Uint8Array, mapped: Uint8Array): void {
    // a neighbour on the same subnet sees us without any NAT in between and says nothing about one
    if (isOnLink(to, this.#interfaces) || isIPv4Mapped(to) !== isIPv4Mapped(mapped)) return;
    const key = toHex(to);
    this.#observations.delete(key);
    if (this.#observations.size >= this.#maxObservations)
      this.#observations.delete(this.#observations.keys().next().value as string);
    this.#observations.set(key, { to: to.slice(), mapped: mapped.slice(), atMs: nowMs });
  }

  report(nowMs: number, family: 4 | 6): NatReport {
    const fresh = [...this.#observations.values()].filter(
      (one) => nowMs - one.atMs < this.#lifeMs && isIPv4Mapped(one.to) === (family === 4),
    );
    const group = largestScope(fresh);
    const all = group.filter((one) => !this.#isOwn(one.mapped));
    const translated = this.#decisive(all);
    const mapped = distinct(translated.toReversed().map((one) => one.mapped));
    if (group.length === 0) return report("unknown", "unknown", [], 0, "nobody outside has said how it sees this node");
    if (translated.length === 0) {
      const own = distinct(group.map((one) => one.mapped));
      return report("none", "preserved", own, 0, "no NAT: others see this node's own address");
    }
    const { pattern, step } = this.#portPattern(translated);
    const mapping = judge(translated);
    return report(mapping, pattern, mapped, step, describe(mapping, pattern, translated));
  }

  /** All of them, or the newest ones where those say something else by themselves. */
  #decisive(all: readonly Observation[]): readonly Observation[] {
    const newestMs = all.at(-1)?.atMs ?? 0;
    const recent = all.filter((one) => newestMs - one.atMs < this.#windowMs);
    return isHardMapping(judge(all)) && judge(recent) !== "unknown" ? recent : all;
  }

  #isOwn(endpoint: Uint8Array): boolean {
    const port = endpoint[16] | (endpoint[17] << 8);
    return (
      (this.#ports.length === 0 || this.#ports.includes(port)) &&
      this.#interfaces.some((local) => equal(local.address, endpoint.subarray(0, 16)))
    );
  }

  #portPattern(observations: readonly Observation[]): { pattern: PortPattern; step: number } {
    const ports = observations.map((one) => one.mapped[16] | (one.mapped[17] << 8));
    if (ports.every((port) => this.#ports.includes(port))) return { pattern: "preserved", step: 0 };
    const inOrder = ports.filter((port, i) => i === 0 || port !== ports[i - 1]);
    if (inOrder.length < 3) return { pattern: "unknown", step: 0 };
    const steps = inOrder.slice(1).map((port, i) => port - inOrder[i]);
    const isCounter =
      steps.every((step) => step > 0 && step <= MAX_STEP) || steps.every((step) => step < 0 && step >= -MAX_STEP);
    if (!isCounter) return { pattern: "random", step: 0 };
    return { pattern: "sequential", step: steps.reduce((sum, step) => sum + step, 0) / steps.length };
  }
}

/** Whether the other side of a pair has to do the guessing: this NAT maps every destination anew. */
export function isHardMapping(mapping: NatMapping): boolean {
  return mapping === "address-dependent" || mapping === "address-and-port-dependent" || mapping === "dependent";
}

function judge(observations: readonly Observation[]): NatMapping {
  const byAddress = new Map<string, Observation[]>();
  for (const one of observations) {
    const key = toHex(one.to.subarray(0, 16));
    const list = byAddress.get(key);
    if (list === undefined) byAddress.set(key, [one]);
    else list.push(one);
  }
  const groups = [...byAddress.values()];
  if (groups.some((group) => distinct(group.map((one) => one.mapped)).length > 1)) return "address-and-port-dependent";
  if (distinct(observations.map((one) => one.mapped)).length === 1)
    return groups.length > 1 ? "endpoint-independent" : "unknown";
  return groups.some((group) => group.length > 1) ? "address-dependent" : "dependent";
}

/** Observations whose destinations have the scope that most of them have; global ones before all others. */
function largestScope(observations: readonly Observation[]): Observation[] {
  const byScope = new Map<Scope, Observation[]>();
  for (const one of observations) {
    const scope = scopeOf(one.to);
    const list = byScope.get(scope);
    if (list === undefined) byScope.set(scope, [one]);
    else list.push(one);
  }
  const global = byScope.get("global");
  if (global !== undefined) return global;
  return [...byScope.values()].reduce<Observation[]>((best, list) => (list.length > best.length ? list : best), []);
}

function distinct(endpoints: readonly Uint8Array[]): Uint8Array[] {
  const out: Uint8Array[] = [];
  for (const endpoint of endpoints) if (!out.some((other) => equal(other, endpoint))) out.push(endpoint);
  return out;
}

function report(
  mapping: NatMapping,
  ports: PortPattern,
  mapped: readonly Uint8Array[],
  portStep: number,
  text: string,
): NatReport {
  return { mapping, ports, mapped, portStep, text };
}

function describe(mapping: NatMapping, ports: PortPattern, observations: readonly Observation[]): string {
  const seen = distinct(observations.map((one) => one.mapped));
  const places = `${observations.length} observation${observations.length === 1 ? "" : "s"}`;
  const where =
    seen.length === 1 ? ` as ${formatEndpoint(endpointFromBytes(seen[0]))}` : ` as ${seen.length} different endpoints`;
  const portText = ports === "unknown" ? "" : `, ports ${ports}`;
  switch (mapping) {
    case "endpoint-independent":
      return `easy NAT: every destination sees this node${where} (${places}${portText})`;
    case "address-dependent":
      return `hard NAT: another mapping for every address (${places}${portText})`;
    case "address-and-port-dependent":
      return `hard NAT: another mapping for every address and port (${places}${portText})`;
    case "dependent":
      return `hard NAT: destinations see this node${where} (${places}${portText})`;
    default:
      return `behind a NAT, seen${where}; its kind shows with a second destination`;
  }
}
