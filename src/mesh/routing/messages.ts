/**
 * The control messages of routing, and what is signed in them.
 *
 *   lookup  {t, i: id 16, g: target 32, w: the walked path, node ids 32 each, the requester first and the sender last, h: hops left, l: label, r: relay}
 *           label: by which the sender receives from the receiver, should this become a path
 *   found   {t, i: id 16, l: label, n: sessions on the way, r: relay, s: signature 64 of the target}
 *           label: by which the sender receives from the receiver. Signed: id 16 ‖ target 32 ‖ requester 32, domain "found"
 *   unlabel {t, l: label}: the sender sends no more under that label; the path is over
 *   near    {t, s: signature 64, p: payload}: the sender's neighbour digest; signed: payload, domain "near"
 *           payload = CBOR {a: wall-clock ms, c: neighbours, n: id prefix 8 … (≤ 32) or b: Bloom filter, r: true = relays for any two members}
 * Guarantees: whatever the bytes, reading gives a message within the bounds above or undefined; nothing is verified here.
 * Source: docs/protocol.md, "Routing through members".
 */
import { concat } from "../../base/bytes.ts";
import { asBytes, asUint, type CborMap, decodeCbor, encodeCbor, asMap } from "../cbor.ts";
import { MAX_BLOOM_BYTES, MAX_EXACT, NeighbourDigest, PREFIX_BYTES } from "./digest.ts";

export const LOOKUP_ID_BYTES = 16;
/** Nodes on a path between its two ends, at most. */
export const MAX_BETWEEN = 7;
const NODE_BYTES = 32;
const SIGNATURE_BYTES = 64;
const MAX_NEAR_BYTES = MAX_BLOOM_BYTES + 64;
const MAX_LABEL = 0xffffffff;

export interface Lookup {
  readonly type: "lookup";
  readonly id: Uint8Array;
  readonly target: Uint8Array;
  /** 1 … MAX_BETWEEN + 1 node ids: the requester, then who passed it on. */
  readonly path: readonly Uint8Array[];
  /** How many more nodes may pass it on, the receiver included. */
  readonly ttl: number;
  /** u32, not zero */
  readonly label: number;
  readonly relay: boolean;
}

export interface Found {
  readonly type: "found";
  readonly id: Uint8Array;
  readonly label: number;
  readonly hops: number;
  readonly relay: boolean;
  readonly signature: Uint8Array;
}

export interface Unlabel {
  readonly type: "unlabel";
  readonly label: number;
}

export interface Near {
  readonly type: "near";
  readonly signature: Uint8Array;
  readonly payload: Uint8Array;
}

export type RoutingMessage = Lookup | Found | Unlabel | Near;

/** What a near message says once its signature holds. */
export interface NearContent {
  readonly atMs: number;
  readonly relay: boolean;
  readonly digest: NeighbourDigest;
}

/** What the target signs. */
export function foundBody(id: Uint8Array, target: Uint8Array, requester: Uint8Array): Uint8Array {
  return concat(id, target, requester);
}

export function nearPayload(content: NearContent): Uint8Array {
  const { atMs, relay, digest } = content;
  const list = digest.isExact ? { n: digest.bytes } : { b: digest.bytes };
  return encodeCbor({ a: Math.floor(atMs), c: digest.count, r: relay, ...list });
}

export function readNearPayload(payload: Uint8Array): NearContent | undefined {
  const map = asMap(decodeCbor(payload, MAX_NEAR_BYTES));
  const atMs = asUint(map?.["a"]);
  const count = asUint(map?.["c"], 65_535);
  if (map === undefined || atMs === undefined || count === undefined) return undefined;
  const exact = asBytes(map["n"], MAX_EXACT * PREFIX_BYTES, true);
  const bloom = asBytes(map["b"], MAX_BLOOM_BYTES, true);
  const digest = exact === undefined ? NeighbourDigest.bloom(bloom, count) : NeighbourDigest.exact(exact);
  return digest === undefined ? undefined : { atMs, relay: map["r"] === true, digest };
}

export function routingToCbor(message: RoutingMessage): CborMap {
  switch (message.type) {
    case "lookup":
      return {
        t: "lookup",
        i: message.id,
        g: message.target,
        w: concat(...message.path),
        h: message.ttl,
        l: message.label,
        r: message.relay,
      };
    case "found":
      return {
        t: "found",
        i: message.id,
        l: message.label,
        n: message.hops,
        r: message.relay,
        s: message.signature,
      };
    case "unlabel":
      return { t: "unlabel", l: message.label };
    case "near":
      return { t: "near", s: message.signature, p: message.payload };
  }
}

type Reader = (map: CborMap) => RoutingMessage | undefined;

export const ROUTING_READERS: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  ["lookup", readLookup],
  ["found", readFound],
  ["unlabel", readUnlabel],
  ["near", readNear],
]);

function readLookup(map: CborMap): Lookup | undefined {
  const id = asBytes(map["i"], LOOKUP_ID_BYTES);
  const target = asBytes(map["g"], NODE_BYTES);
  const walked = asBytes(map["w"], (MAX_BETWEEN + 1) * NODE_BYTES, true);
  const ttl = asUint(map["h"], MAX_BETWEEN);
  const label = readLabel(map);
  if (id === undefined || target === undefined || walked === undefined || ttl === undefined || label === undefined)
    return undefined;
  if (walked.length === 0 || walked.length % NODE_BYTES !== 0) return undefined;
  const path: Uint8Array[] = [];
  for (let at = 0; at < walked.length; at += NODE_BYTES) path.push(walked.slice(at, at + NODE_BYTES));
  return { type: "lookup", id, target, path, ttl, label, relay: map["r"] === true };
}

function readFound(map: CborMap): Found | undefined {
  const id = asBytes(map["i"], LOOKUP_ID_BYTES);
  const hops = asUint(map["n"], MAX_BETWEEN + 1);
  const label = readLabel(map);
  const signature = asBytes(map["s"], SIGNATURE_BYTES);
  if (id === undefined || hops === undefined || label === undefined || signature === undefined || hops < 2)
    return undefined;
  return { type: "found", id, label, hops, relay: map["r"] === true, signature };
}

function readUnlabel(map: CborMap): Unlabel | undefined {
  const label = readLabel(map);
  return label === undefined ? undefined : { type: "unlabel", label };
}

function readNear(map: CborMap): Near | undefined {
  const signature = asBytes(map["s"], SIGNATURE_BYTES);
  const payload = asBytes(map["p"], MAX_NEAR_BYTES, true);
  return signature === undefined || payload === undefined ? undefined : { type: "near", signature, payload };
}

function readLabel(map: CborMap): number | undefined {
  const label = asUint(map["l"], MAX_LABEL);
  return label === 0 ? undefined : label;
}
