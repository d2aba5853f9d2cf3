/**
 * What a member offers the others, as part of its signed endpoint message: prefixes behind it (0.0.0.0/0 and ::/0 = an exit) and services for
 * SRV records. An offer alone changes nothing: a prefix counts when an admin's `route` statement approves it.
 *   prefixes: [[address 4|16 bytes, bits] …] | services: [[label, port] …], label like "_http._tcp"; both absent when empty
 * Source: docs/protocol.md, "Subnet routes and exits".
 */
import { asBytes, asList, asListOf, asText, asUint, type Cbor, type CborMap } from "./cbor.ts";
import { compareRoutePrefixes, formatRoutePrefix, routePrefix, type RoutePrefix } from "./route-prefix.ts";

export const MAX_OFFERED_PREFIXES = 16;
export const MAX_OFFERED_SERVICES = 8;
const MAX_LABEL_CHARACTERS = 32;
const LABEL = /^_[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?\._(?:tcp|udp)$/;

export interface OfferedService {
  /** "_http._tcp" (RFC 2782, RFC 6335 section 5.1) */
  readonly label: string;
  readonly port: number;
}

export interface Offers {
  readonly prefixes: readonly RoutePrefix[];
  readonly services: readonly OfferedService[];
}

export const NO_OFFERS: Offers = { prefixes: [], services: [] };

/** @param text "_http._tcp:8080" @returns undefined when it is none */
export function parseService(text: string): OfferedService | undefined {
  const [label = "", port = "", ...rest] = text.split(":");
  const number = Number(port);
  if (rest.length > 0 || !LABEL.test(label) || !/^\d{1,5}$/.test(port) || number < 1 || number > 65_535)
    return undefined;
  return { label, port: number };
}

/** Doubles and what is beyond the bounds are left out. */
export function boundOffers(offers: Offers): Offers {
  const prefixes = new Map(offers.prefixes.map((prefix) => [formatRoutePrefix(prefix), prefix]));
  const services = new Map(offers.services.map((service) => [`${service.label}:${service.port}`, service]));
  return {
    prefixes: [...prefixes.values()].toSorted(compareRoutePrefixes).slice(0, MAX_OFFERED_PREFIXES),
    services: [...services.values()].slice(0, MAX_OFFERED_SERVICES),
  };
}

/** The fields of the endpoint message. */
export function offersToCbor(offers: Offers): CborMap {
  const { prefixes, services } = offers;
  return {
    prefixes: prefixes.length === 0 ? undefined : prefixes.map(({ address, bits }) => [address, bits]),
    services: services.length === 0 ? undefined : services.map(({ label, port }) => [label, port]),
  };
}

/** @returns undefined when a field is malformed; a service that makes no sense is left out */
export function readOffers(map: CborMap | undefined): Offers | undefined {
  const prefixes = asListOf(map?.["prefixes"] ?? [], MAX_OFFERED_PREFIXES, readPrefix);
  const services = asListOf(map?.["services"] ?? [], MAX_OFFERED_SERVICES, readService);
  if (prefixes === undefined || services === undefined) return undefined;
  return { prefixes, services: services.filter(({ label, port }) => LABEL.test(label) && port > 0) };
}

export function sameOffers(a: Offers, b: Offers): boolean {
  const text = ({ prefixes, services }: Offers): string =>
    [...prefixes.map(formatRoutePrefix), ...services.map(({ label, port }) => `${label}:${port}`)].join();
  return text(a) === text(b);
}

function readPrefix(item: Cbor): RoutePrefix | undefined {
  const list = asList(item, 2);
  if (list?.length !== 2) return undefined;
  const bits = asUint(list[1]);
  const address = asBytes(list[0], 16, true);
  return address === undefined || bits === undefined ? undefined : routePrefix(address, bits);
}

function readService(item: Cbor): OfferedService | undefined {
  const list = asList(item, 2);
  if (list?.length !== 2) return undefined;
  const label = asText(list[0], MAX_LABEL_CHARACTERS);
  const port = asUint(list[1]);
  return label === undefined || port === undefined || port > 65_535 ? undefined : { label, port };
}
