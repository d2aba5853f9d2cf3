/**
 * Where nodes can be reached, from every source that this node has: signed endpoint messages (its own included), endpoints that worked
 * before, and unsigned hints from tokens and configuration. Overlay addresses never get in: they cannot carry the underlay.
 * Bounds: MAX_HINTED_NODES, and MAX_AUTHORS with a rate each, here; the rest in endpoints.ts. Source: docs/protocol.md, "Discovery and candidates".
 */
import type { Now } from "../base/clock.ts";
import { equal, toHex } from "../base/bytes.ts";
import { isIPv4Mapped } from "../base/endpoint.ts";
import type { Random } from "../base/random.ts";
import { networkPrefix } from "../crypto/node-id.ts";
import { type Ipv4Prefix, overlaps, readIpv4 } from "./addresses.ts";
import {
  EndpointCache,
  type EndpointMessage,
  isUsableEndpoint,
  MAX_ENDPOINTS,
  MAX_URLS,
  nextEndpointHlc,
  Offer,
  openEndpoints,
  parseEndpoints,
  signEndpoints,
} from "./endpoints.ts";
import type { MeshKeys, Signer } from "./keys.ts";
import { Bucket } from "./links.ts";
import { boundOffers, NO_OFFERS, type Offers, sameOffers } from "./offers.ts";

const MAX_HINTED_NODES = 4096;
/** New messages taken of one author per second, and at once: each costs everybody a signature. The newest comes again with the next digest. */
const AUTHOR_RATE = 1 / 5;
const AUTHOR_BURST = 10;
const MAX_AUTHORS = 4096;
/** Own endpoints are signed again after this share of their life. */
const RENEW_AT = 0.5;

/** The overlay's own prefixes. */
export interface Overlay {
  readonly networkId: Uint8Array;
  /** undefined until the genesis is known */
  readonly ipv4: Ipv4Prefix | undefined;
}

export interface ReachabilityDeps {
  readonly identity: Signer;
  readonly keys: MeshKeys;
  readonly random: Random;
  /** undefined while this node is in no network */
  overlay(): Overlay | undefined;
}

/** What became of an endpoint message that somebody sent. */
export type Heard =
  | { readonly kind: "newer"; readonly message: EndpointMessage }
  | { readonly kind: "known" }
  | { readonly kind: "refused"; readonly isForged: boolean };

export class Reachability {
  readonly cache: EndpointCache = new EndpointCache();
  /** Monotonic time at which own endpoints are to be signed again. */
  renewDueMs: number = Number.POSITIVE_INFINITY;
  readonly #deps: ReachabilityDeps;
  readonly #lifeMs: number;
  readonly #hints = new Map<string, { readonly endpoints: readonly Uint8Array[]; readonly urls: readonly string[] }>();
  /** How often each author has said something new; insertion order is order of age. */
  readonly #rates = new Map<string, Bucket>();
  #own: readonly Uint8Array[] | undefined;
  #ownUrls: readonly string[] = [];
  #ownOffers: Offers = NO_OFFERS;

  constructor(deps: ReachabilityDeps, lifeMs: number) {
    this.#deps = deps;
    this.#lifeMs = lifeMs;
  }

  /** This node's endpoints, best first; empty until setOwn. */
  get own(): readonly Uint8Array[] {
    return (this.#own ?? []).filter((endpoint) => !this.#isOverlay(endpoint));
  }

  /** Where channels to this node can be opened, best first. */
  get ownUrls(): readonly string[] {
    return this.#ownUrls;
  }

  /** @returns true when they differ from what was said before */
  setOwn(endpoints: readonly Uint8Array[]): boolean {
    const before = this.#own;
    const isSame = endpoints.length === before?.length && endpoints.every((one, i) => equal(one, before[i]));
    this.#own = endpoints.map((endpoint) => new Uint8Array(endpoint));
    return !isSame;
  }

  /** @returns true when they differ from what was said before */
  setOwnUrls(urls: readonly string[]): boolean {
    const before = this.#ownUrls;
    this.#ownUrls = [...urls];
    return urls.length !== before.length || urls.some((url, i) => url !== before[i]);
  }

  /** What this node offers. @returns true when that differs from before */
  setOwnOffers(offers: Offers): boolean {
    const before = this.#ownOffers;
    this.#ownOffers = boundOffers(offers);
    return !sameOffers(before, this.#ownOffers);
  }

  /** What the node says it offers. */
  offers(nodeId: Uint8Array): Offers {
    return this.cache.message(nodeId)?.offers ?? NO_OFFERS;
  }

  /** @returns the message to hand on; undefined outside a network, or before the owner has said where this node is */
  signOwn(now: Now): EndpointMessage | undefined {
    const overlay = this.#deps.overlay();
    this.renewDueMs = Number.POSITIVE_INFINITY;
    if (overlay === undefined || this.#own === undefined) return undefined;
    const { identity, random } = this.#deps;
    const hlc = nextEndpointHlc(this.cache.message(identity.nodeId)?.hlc ?? 0, now.wallMs);
    const expiresAtMs = Math.floor(now.wallMs + this.#lifeMs);
    const message = signEndpoints(
      this.own,
      hlc,
      expiresAtMs,
      overlay.networkId,
      identity,
      this.#ownUrls,
      this.#ownOffers,
    );
    this.cache.offer(message, now.wallMs);
    this.renewDueMs = now.nowMs + this.#lifeMs * RENEW_AT * (0.9 + 0.2 * random.unit());
    return message;
  }

  /** @param isWelcome whether messages of that node are wanted */
  hear(now: Now, wire: Uint8Array, isWelcome: (nodeId: Uint8Array) => boolean): Heard {
    const overlay = this.#deps.overlay();
    const parsed = parseEndpoints(wire);
    if (overlay === undefined || parsed === undefined || !isWelcome(parsed.nodeId))
      return { kind: "refused", isForged: false };
    if (parsed.hlc <= (this.cache.message(parsed.nodeId)?.hlc ?? -1)) return { kind: "known" };
    const isOwn = equal(parsed.nodeId, this.#deps.identity.nodeId);
    const rate = isOwn ? undefined : this.#rateOf(parsed.nodeId, now);
    if (rate?.has(now.nowMs) === false) return { kind: "refused", isForged: false };
    const message = openEndpoints(wire, overlay.networkId, this.#deps.keys);
    // a forged one takes nothing from whom it names
    if (message === undefined) return { kind: "refused", isForged: true };
    rate?.take(now.nowMs);
    return this.cache.offer(message, now.wallMs) === Offer.NEWER ? { kind: "newer", message } : { kind: "known" };
  }

  noteReached(now: Now, nodeId: Uint8Array, endpoint: Uint8Array): void {
    if (isUsableEndpoint(endpoint) && !this.#isOverlay(endpoint)) this.cache.noteReached(nodeId, endpoint, now.wallMs);
  }

  /** Replaces the node's hints. */
  hint(nodeId: Uint8Array, endpoints: readonly Uint8Array[], urls: readonly string[] = []): void {
    const hex = toHex(nodeId);
    this.#hints.delete(hex);
    if (this.#hints.size >= MAX_HINTED_NODES) this.#hints.delete(this.#hints.keys().next().value as string);
    this.#hints.set(hex, { endpoints: endpoints.slice(0, MAX_ENDPOINTS), urls: urls.slice(0, MAX_URLS) });
  }

  /** Best first, at most MAX_ENDPOINTS. */
  candidates(nodeId: Uint8Array, wallMs: number): Uint8Array[] {
    const out = this.cache.candidates(nodeId, wallMs);
    const hints = this.#hints.get(toHex(nodeId))?.endpoints ?? [];
    for (const hint of hints) if (!out.some((other) => equal(other, hint))) out.push(hint);
    return out.filter((endpoint) => !this.#isOverlay(endpoint)).slice(0, MAX_ENDPOINTS);
  }

  /** What the node says itself, else what a token or the configuration says; best first, at most MAX_URLS. */
  urls(nodeId: Uint8Array): readonly string[] {
    const said = this.cache.urls(nodeId);
    return said.length > 0 ? said : (this.#hints.get(toHex(nodeId))?.urls ?? []);
  }

  /** Of endpoints that another node named: those that may be sent to. */
  dialable(endpoints: readonly Uint8Array[]): Uint8Array[] {
    return endpoints.filter((endpoint) => isUsableEndpoint(endpoint) && !this.#isOverlay(endpoint));
  }

  /** @returns how many nodes were taken from an exported cache */
  import(bytes: Uint8Array): number {
    const overlay = this.#deps.overlay();
    return overlay === undefined ? 0 : this.cache.import(bytes, overlay.networkId, this.#deps.keys);
  }

  #rateOf(nodeId: Uint8Array, now: Now): Bucket {
    const hex = toHex(nodeId);
    let rate = this.#rates.get(hex);
    if (rate === undefined) {
      if (this.#rates.size >= MAX_AUTHORS) this.#rates.delete(this.#rates.keys().next().value as string);
      rate = new Bucket(AUTHOR_RATE, AUTHOR_BURST, now.nowMs);
      this.#rates.set(hex, rate);
    }
    return rate;
  }

  #isOverlay(endpoint: Uint8Array): boolean {
    const overlay = this.#deps.overlay();
    if (overlay === undefined) return false;
    if (isIPv4Mapped(endpoint)) {
      return overlay.ipv4 !== undefined && overlaps(overlay.ipv4, { base: readIpv4(endpoint, 12), bits: 32 });
    }
    return equal(endpoint.subarray(0, 6), networkPrefix(overlay.networkId).subarray(0, 6));
  }
}
