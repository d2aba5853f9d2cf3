/**
 * Where members may be reached: endpoint messages, signed by the node they speak of, and a bounded cache of them.
 *
 *   wire = signature 64 ‖ payload; payload = deterministic CBOR {node, endpoints: [18 bytes …], urls: [text …], hlc, expires}
 *   signature over "weft/1 endpoints" ‖ 0 ‖ network id ‖ payload
 *
 * Any member may hand on any message, because only the node itself can have signed it; the one with the higher clock counts. The cache also
 * remembers endpoints through which a node was really reached. `urls`, absent when there are none, say where a channel can be opened
 * (base/channel-url.ts); prefixes and services that the node offers are in offers.ts. Source: docs/protocol.md, "Discovery and candidates".
 */
import { createHash } from "node:crypto";
import { compare, concat, equal, toHex } from "../base/bytes.ts";
import { MAX_CHANNEL_URL_CHARACTERS, parseChannelUrl } from "../base/channel-url.ts";
import { ENDPOINT_BYTES, isIPv4Mapped, isVirtualAddress } from "../base/endpoint.ts";
import {
  asBytes,
  asList,
  asListOf,
  asMap,
  asText,
  asUint,
  decodeCanonicalCbor,
  decodeCbor,
  encodeCbor,
} from "./cbor.ts";
import { type MeshKeys, SignKind, type Signer } from "./keys.ts";
import { boundOffers, NO_OFFERS, type Offers, offersToCbor, readOffers } from "./offers.ts";
import { hlcFromWall, SIGNATURE_BYTES } from "./statement.ts";

export const MAX_ENDPOINTS = 8;
export const MAX_URLS = 2;
export const MAX_ENDPOINT_MESSAGE_BYTES = 1024;
/** Endpoints through which a node was reached, kept per node. */
const MAX_REACHED = 4;
const KEEP_MS = 30 * 86_400_000;
const MAX_EXPORT_BYTES = 4 * 1024 * 1024;

export interface EndpointMessage {
  readonly nodeId: Uint8Array;
  /** 18 bytes each, best first */
  readonly endpoints: readonly Uint8Array[];
  /** Where a channel to the node can be opened, best first. */
  readonly urls: readonly string[];
  readonly offers: Offers;
  readonly hlc: number;
  readonly expiresAtMs: number;
  readonly wire: Uint8Array;
}

/** An address that may be dialled: no unspecified, multicast, broadcast or virtual (base/endpoint.ts) address, no port 0. */
export function isUsableEndpoint(endpoint: Uint8Array): boolean {
  if (endpoint.length !== ENDPOINT_BYTES || (endpoint[16] === 0 && endpoint[17] === 0)) return false;
  if (isIPv4Mapped(endpoint)) {
    const first = endpoint[12];
    return first !== 0 && first < 224;
  }
  if (endpoint[0] === 0xff || isVirtualAddress(endpoint)) return false;
  return endpoint.subarray(0, 16).some((byte) => byte !== 0);
}

/** Endpoints and URLs that cannot be dialled, doubles, and those beyond MAX_ENDPOINTS and MAX_URLS are left out. */
export function signEndpoints(
  endpoints: readonly Uint8Array[],
  hlc: number,
  expiresAtMs: number,
  networkId: Uint8Array,
  signer: Signer,
  urls: readonly string[] = [],
  offers: Offers = NO_OFFERS,
): EndpointMessage {
  const kept: Uint8Array[] = [];
  for (const endpoint of endpoints) {
    if (kept.length === MAX_ENDPOINTS) break;
    if (isUsableEndpoint(endpoint) && !kept.some((other) => equal(other, endpoint)))
      kept.push(new Uint8Array(endpoint));
  }
  const keptUrls = [...new Set(urls)].filter((url) => parseChannelUrl(url) !== undefined).slice(0, MAX_URLS);
  const encode = (given: Offers): Uint8Array =>
    encodeCbor({
      node: signer.nodeId,
      endpoints: kept,
      urls: keptUrls.length === 0 ? undefined : keptUrls,
      ...offersToCbor(given),
      hlc,
      expires: expiresAtMs,
    });
  let keptOffers = boundOffers(offers);
  let payload = encode(keptOffers);
  // addresses come before what is offered: services go first, then prefixes
  while (payload.length > MAX_ENDPOINT_MESSAGE_BYTES - SIGNATURE_BYTES) {
    const { prefixes, services } = keptOffers;
    if (prefixes.length + services.length === 0) break;
    keptOffers =
      services.length > 0
        ? { prefixes, services: services.slice(0, -1) }
        : { prefixes: prefixes.slice(0, -1), services };
    payload = encode(keptOffers);
  }
  const wire = concat(signer.sign(SignKind.ENDPOINTS, networkId, payload), payload);
  const nodeId = new Uint8Array(signer.nodeId);
  return { nodeId, endpoints: kept, urls: keptUrls, offers: keptOffers, hlc, expiresAtMs, wire };
}

/** @param wire any bytes; copied @returns undefined when malformed or the signature is wrong */
export function openEndpoints(wire: Uint8Array, networkId: Uint8Array, keys: MeshKeys): EndpointMessage | undefined {
  const parsed = parseEndpoints(wire);
  if (parsed === undefined) return undefined;
  const payload = parsed.wire.subarray(SIGNATURE_BYTES);
  const signature = parsed.wire.subarray(0, SIGNATURE_BYTES);
  return keys.verify(parsed.nodeId, SignKind.ENDPOINTS, networkId, payload, signature) ? parsed : undefined;
}

/** The fields without the signature's proof: enough to see that a message is old. */
export function parseEndpoints(wire: Uint8Array): EndpointMessage | undefined {
  if (wire.length <= SIGNATURE_BYTES || wire.length > MAX_ENDPOINT_MESSAGE_BYTES) return undefined;
  const copy = new Uint8Array(wire);
  const map = asMap(decodeCanonicalCbor(copy.subarray(SIGNATURE_BYTES), MAX_ENDPOINT_MESSAGE_BYTES));
  const nodeId = asBytes(map?.["node"], 32);
  const endpoints = asListOf(map?.["endpoints"], MAX_ENDPOINTS, (item) => asBytes(item, ENDPOINT_BYTES));
  const urls = asListOf(map?.["urls"] ?? [], MAX_URLS, (item) => asText(item, MAX_CHANNEL_URL_CHARACTERS));
  const offers = readOffers(map);
  const hlc = asUint(map?.["hlc"]);
  const expiresAtMs = asUint(map?.["expires"]);
  if (nodeId === undefined || endpoints === undefined || urls === undefined || offers === undefined) return undefined;
  if (hlc === undefined || expiresAtMs === undefined) return undefined;
  return {
    nodeId,
    endpoints: endpoints.filter(isUsableEndpoint),
    urls: urls.filter((url) => parseChannelUrl(url) !== undefined),
    offers,
    hlc,
    expiresAtMs,
    wire: copy,
  };
}

interface Cached {
  readonly nodeId: Uint8Array;
  message: EndpointMessage | undefined;
  /** Wall-clock time at which the message came. */
  receivedAtMs: number;
  /** Latest first. */
  reached: { readonly endpoint: Uint8Array; readonly atMs: number }[];
}

export const Offer = { NEWER: "newer", OLD: "old", REFUSED: "refused" } as const;
export type Offer = (typeof Offer)[keyof typeof Offer];

/** Bound: `maxNodes` nodes; the one that was heard of longest ago goes first, and `evicted` counts it. */
export class EndpointCache {
  readonly #nodes = new Map<string, Cached>();
  readonly #maxNodes: number;
  evicted = 0;

  constructor(maxNodes = 4096) {
    this.#maxNodes = maxNodes;
  }

  get size(): number {
    return this.#nodes.size;
  }

  /** Takes a verified message when its clock is above the one held. */
  offer(message: EndpointMessage, wallMs: number): Offer {
    const held = this.#nodes.get(toHex(message.nodeId));
    if (held?.message !== undefined && message.hlc <= held.message.hlc) return Offer.OLD;
    const cached = this.#touch(message.nodeId);
    cached.message = message;
    cached.receivedAtMs = wallMs;
    return Offer.NEWER;
  }

  message(nodeId: Uint8Array): EndpointMessage | undefined {
    return this.#nodes.get(toHex(nodeId))?.message;
  }

  /** Milliseconds since the node's message came; undefined when there is none. */
  ageMs(nodeId: Uint8Array, wallMs: number): number | undefined {
    const cached = this.#nodes.get(toHex(nodeId));
    return cached?.message === undefined ? undefined : Math.max(0, wallMs - cached.receivedAtMs);
  }

  /** An authenticated packet came from there. */
  noteReached(nodeId: Uint8Array, endpoint: Uint8Array, wallMs: number): void {
    if (!isUsableEndpoint(endpoint)) return;
    const cached = this.#touch(nodeId);
    const others = cached.reached.filter((one) => !equal(one.endpoint, endpoint));
    cached.reached = [{ endpoint: new Uint8Array(endpoint), atMs: wallMs }, ...others].slice(0, MAX_REACHED);
  }

  /**
   * Best first, at most MAX_ENDPOINTS: where the node was reached last, what it says of itself, where it was reached before. What an expired
   * message says comes last: a node that is back after a long time may still be there.
   */
  candidates(nodeId: Uint8Array, wallMs: number): Uint8Array[] {
    const cached = this.#nodes.get(toHex(nodeId));
    if (cached === undefined) return [];
    const signed = cached.message?.endpoints ?? [];
    const reached = cached.reached.filter((one) => wallMs - one.atMs < KEEP_MS).map((one) => one.endpoint);
    const fresh = cached.message !== undefined && wallMs < cached.message.expiresAtMs;
    const out: Uint8Array[] = [];
    for (const endpoint of fresh ? [...reached.slice(0, 1), ...signed, ...reached] : [...reached, ...signed]) {
      if (out.length < MAX_ENDPOINTS && !out.some((other) => equal(other, endpoint))) out.push(endpoint);
    }
    return out;
  }

  /** Where the node says that a channel to it can be opened, expired or not: a URL lives longer than an address. */
  urls(nodeId: Uint8Array): readonly string[] {
    return this.#nodes.get(toHex(nodeId))?.message?.urls ?? [];
  }

  remove(nodeId: Uint8Array): void {
    this.#nodes.delete(toHex(nodeId));
  }

  /** Messages worth handing on: not expired, in order of node id. */
  current(wallMs: number): EndpointMessage[] {
    const out: EndpointMessage[] = [];
    for (const cached of this.#nodes.values()) {
      if (cached.message !== undefined && wallMs < cached.message.expiresAtMs) out.push(cached.message);
    }
    return out.toSorted((a, b) => compare(a.nodeId, b.nodeId));
  }

  /** Count and 16-byte fingerprint of `messages`. */
  static fingerprint(messages: readonly EndpointMessage[]): {
    readonly count: number;
    readonly fingerprint: Uint8Array;
  } {
    const hash = createHash("sha256");
    for (const message of messages) hash.update(message.nodeId).update(String(message.hlc)).update("\0");
    return { count: messages.length, fingerprint: hash.digest().subarray(0, 16) };
  }

  /** For a file; import() takes it back. Messages keep their signatures and are verified again then. */
  export(): Uint8Array {
    const nodes = [...this.#nodes.values()].map((cached) => ({
      node: cached.nodeId,
      wire: cached.message?.wire,
      at: Math.max(0, Math.floor(cached.receivedAtMs)),
      reached: cached.reached.map((one) => [one.endpoint, Math.max(0, Math.floor(one.atMs))]),
    }));
    return encodeCbor({ nodes });
  }

  /** @param bytes of export(); anything may be in them @returns how many nodes were taken */
  import(bytes: Uint8Array, networkId: Uint8Array, keys: MeshKeys): number {
    const list = asList(asMap(decodeCbor(bytes, MAX_EXPORT_BYTES))?.["nodes"], this.#maxNodes) ?? [];
    let taken = 0;
    for (const item of list) {
      const map = asMap(item);
      const nodeId = asBytes(map?.["node"], 32);
      const receivedAtMs = asUint(map?.["at"]);
      const reached = asListOf(map?.["reached"], MAX_REACHED, readReached);
      if (nodeId === undefined || receivedAtMs === undefined || reached === undefined) continue;
      const wire = asBytes(map?.["wire"], MAX_ENDPOINT_MESSAGE_BYTES, true);
      const message = wire === undefined ? undefined : openEndpoints(wire, networkId, keys);
      if (message !== undefined && equal(message.nodeId, nodeId)) this.offer(message, receivedAtMs);
      for (const one of reached.toReversed()) this.noteReached(nodeId, one.endpoint, one.atMs);
      taken++;
    }
    return taken;
  }

  #touch(nodeId: Uint8Array): Cached {
    const hex = toHex(nodeId);
    let cached = this.#nodes.get(hex);
    if (cached !== undefined) {
      this.#nodes.delete(hex);
    } else {
      cached = { nodeId: new Uint8Array(nodeId), message: undefined, receivedAtMs: 0, reached: [] };
      if (this.#nodes.size >= this.#maxNodes) {
        this.#nodes.delete(this.#nodes.keys().next().value as string);
        this.evicted++;
      }
    }
    this.#nodes.set(hex, cached);
    return cached;
  }
}

/** The clock of a node's next endpoint message. */
export function nextEndpointHlc(lastHlc: number, wallMs: number): number {
  return Math.max(hlcFromWall(wallMs), lastHlc + 1);
}

function readReached(item: unknown): { endpoint: Uint8Array; atMs: number } | undefined {
  if (!Array.isArray(item) || item.length !== 2) return undefined;
  const endpoint = asBytes(item[0], ENDPOINT_BYTES);
  const atMs = asUint(item[1]);
  return endpoint === undefined || atMs === undefined ? undefined : { endpoint, atMs };
}
