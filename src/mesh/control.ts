/**
 * Control messages between peers (inner kind 2): one CBOR map each, at most 1,200 bytes, told apart by `t`. All are idempotent; whoever
 * needs an answer repeats. Unknown types and unknown fields are ignored, so that versions can differ.
 *
 *   hello      {t, b: build id, p: [lowest, highest protocol], c: capability bits, n: name}
 *   digest     {t, r: [count, fingerprint 16] of the roster, e: the same of the endpoint messages, a: true when it answers a digest}
 *   ranges     {t, l: lowest clock, r: [[upper clock, count, fingerprint 16] …]}: consecutive ranges of the sender's statements
 *   have       {t, l, u: clocks, f, o: hashes (o left out: no end), h: [hash …]}: all that the sender has with l ≤ clock < u and f ≤ hash < o
 *   want       {t, h: [hash …]}
 *   statements {t, s: [wire …]}
 *   endpoints  {t, e: [wire …]}
 *   known      {t, f, o: 8-byte id prefixes (o left out: no end), n: (id prefix 8 ‖ clock u64 little-endian) …}: endpoint messages the sender has
 *   seek       {t, n: id prefix 8 …}: asks for endpoint messages
 *   join       {t, net, node, name, exact, inv: invite id 8, wall: ms, sig: by the invite key}
 *   answer     {t, ok, hash} or {t, ok, code, text, fix, d: {…}}; both with inv: invite id of the request
 *   joinVia    {t, key: static key 32, j: {a join's fields}}: a beacon to an admin; answerVia {t, key, a: {an answer's fields}} is its answer
 *   leave      {t, s: wire} and its confirmation {t, h: hash}
 *   bye        {t}
 *   idle       {t, a: agreed}: this session is of no use to the sender; agreed: the answer, it ends
 *   punch, sight, seen: punch/messages.ts; lookup, found, unlabel, near: routing/messages.ts
 * Source: docs/protocol.md, "Control messages".
 */
import { type Cbor, type CborMap, asBytes, asListOf, asMap, asText, asUint, decodeCbor, encodeCbor } from "./cbor.ts";
import { MAX_ENDPOINT_MESSAGE_BYTES } from "./endpoints.ts";
import { INVITE_ID_BYTES } from "./invite.ts";
import { ROUTING_READERS, type RoutingMessage, routingToCbor } from "./routing/messages.ts";
import { HASH_BYTES, MAX_STATEMENT_BYTES, SIGNATURE_BYTES } from "./statement.ts";
import { type PunchControl, punchToCbor, readPunch, readSeen, readSight } from "./punch/messages.ts";

export const MAX_CONTROL_BYTES = 1200;
export const FINGERPRINT_BYTES = 16;
/** Lists are bounded so that the longest of each fits MAX_CONTROL_BYTES. */
export const MAX_RANGES = 16;
export const MAX_HASHES = 30;
export const MAX_KNOWN = 64;
export const MAX_SEEK = 128;
export const ID_PREFIX_BYTES = 8;
const KNOWN_BYTES = ID_PREFIX_BYTES + 8;
const MAX_WIRES = 16;
const MAX_TEXT = 300;

export interface Fingerprint {
  readonly count: number;
  readonly fingerprint: Uint8Array;
}

export interface RangeDigest extends Fingerprint {
  /** Not part of the range. */
  readonly upper: number;
}

export interface KnownEndpoint {
  readonly idPrefix: Uint8Array;
  readonly hlc: number;
}

export interface JoinRequest {
  readonly type: "join";
  readonly networkId: Uint8Array;
  readonly nodeId: Uint8Array;
  readonly name: string;
  readonly exactName: boolean;
  readonly inviteId: Uint8Array;
  readonly wallMs: number;
  readonly signature: Uint8Array;
}

/** Nobody sends user data in this session: may it end? */
export interface IdleMessage {
  readonly type: "idle";
  readonly agreed: boolean;
}

export type JoinDetails = Readonly<Record<string, string | number>>;

/** `inviteId` says which request it answers, so that a late answer to an earlier one is known as such. */
export type JoinAnswer =
  | {
      readonly type: "answer";
      readonly ok: true;
      readonly admission: Uint8Array;
      readonly inviteId?: Uint8Array | undefined;
    }
  | {
      readonly type: "answer";
      readonly ok: false;
      readonly inviteId?: Uint8Array | undefined;
      readonly code: string;
      readonly text: string;
      readonly remedy: string;
      readonly details: JoinDetails;
    };

export type ControlMessage =
  | {
      readonly type: "hello";
      readonly buildId: string;
      readonly protocol: readonly [number, number];
      readonly capabilities: number;
      readonly name: string;
    }
  | {
      readonly type: "digest";
      readonly roster: Fingerprint;
      readonly endpoints: Fingerprint;
      readonly isAnswer: boolean;
    }
  | { readonly type: "ranges"; readonly lower: number; readonly ranges: readonly RangeDigest[] }
  | {
      readonly type: "have";
      readonly lower: number;
      readonly upper: number;
      readonly from: Uint8Array;
      readonly below: Uint8Array | undefined;
      readonly hashes: readonly Uint8Array[];
    }
  | { readonly type: "want"; readonly hashes: readonly Uint8Array[] }
  | { readonly type: "statements"; readonly wires: readonly Uint8Array[] }
  | { readonly type: "endpoints"; readonly wires: readonly Uint8Array[] }
  | {
      readonly type: "known";
      readonly from: Uint8Array;
      readonly below: Uint8Array | undefined;
      readonly entries: readonly KnownEndpoint[];
    }
  | { readonly type: "seek"; readonly idPrefixes: readonly Uint8Array[] }
  | JoinRequest
  | JoinAnswer
  | { readonly type: "joinVia"; readonly staticKey: Uint8Array; readonly request: JoinRequest }
  | { readonly type: "answerVia"; readonly staticKey: Uint8Array; readonly answer: JoinAnswer }
  | { readonly type: "leave"; readonly wire: Uint8Array }
  | { readonly type: "left"; readonly hash: Uint8Array }
  | { readonly type: "bye" }
  | IdleMessage
  | PunchControl
  | RoutingMessage;

/** Why bytes are no message: malformed, or of a type that this version does not know. */
export const ControlFault = { MALFORMED: "malformed", UNKNOWN_TYPE: "unknown-type" } as const;
export type ControlFault = (typeof ControlFault)[keyof typeof ControlFault];

/** @throws RangeError above MAX_CONTROL_BYTES (callers stay within the list bounds above) */
export function encodeControl(message: ControlMessage): Uint8Array {
  const bytes = encodeCbor(toCbor(message));
  if (bytes.length > MAX_CONTROL_BYTES)
    throw new RangeError(`control message ${message.type} of ${bytes.length} bytes`);
  return bytes;
}

/** @param bytes any; the result shares no memory with them */
export function decodeControl(bytes: Uint8Array): ControlMessage | ControlFault {
  const map = asMap(decodeCbor(bytes, MAX_CONTROL_BYTES));
  const type = asText(map?.["t"], 32);
  if (map === undefined || type === undefined) return ControlFault.MALFORMED;
  const reader = READERS.get(type);
  return reader === undefined ? ControlFault.UNKNOWN_TYPE : (reader(map) ?? ControlFault.MALFORMED);
}

/**
 * Groups wires so that each group fits one message. @param wires each at most MAX_STATEMENT_BYTES
 */
export function packWires(wires: readonly Uint8Array[]): Uint8Array[][] {
  const groups: Uint8Array[][] = [];
  let room = 0;
  for (const wire of wires) {
    const need = wire.length + 3;
    const last = groups.at(-1);
    if (last === undefined || need > room || last.length === MAX_WIRES) {
      groups.push([wire]);
      room = MAX_CONTROL_BYTES - 24 - need;
    } else {
      last.push(wire);
      room -= need;
    }
  }
  return groups;
}

function toCbor(message: ControlMessage): CborMap {
  switch (message.type) {
    case "hello":
      return { t: "hello", b: message.buildId, p: [...message.protocol], c: message.capabilities, n: message.name };
    case "digest":
      return { t: "digest", r: pair(message.roster), e: pair(message.endpoints), a: message.isAnswer };
    case "ranges":
      return {
        t: "ranges",
        l: message.lower,
        r: message.ranges.map((range) => [range.upper, range.count, range.fingerprint]),
      };
    case "have":
      return { t: "have", l: message.lower, u: message.upper, f: message.from, o: message.below, h: message.hashes };
    case "want":
      return { t: "want", h: message.hashes };
    case "statements":
      return { t: "statements", s: message.wires };
    case "endpoints":
      return { t: "endpoints", e: message.wires };
    case "known":
      return { t: "known", f: message.from, o: message.below, n: packKnown(message.entries) };
    case "seek":
      return { t: "seek", n: Buffer.concat(message.idPrefixes) };
    case "join":
      return { t: "join", ...joinFields(message) };
    case "answer":
      return { t: "answer", ...answerFields(message) };
    case "joinVia":
      return { t: "joinVia", key: message.staticKey, j: joinFields(message.request) };
    case "answerVia":
      return { t: "answerVia", key: message.staticKey, a: answerFields(message.answer) };
    case "leave":
      return { t: "leave", s: message.wire };
    case "left":
      return { t: "left", h: message.hash };
    case "bye":
      return { t: "bye" };
    case "idle":
      return { t: "idle", a: message.agreed };
    case "punch":
    case "sight":
    case "seen":
      return punchToCbor(message);
    case "lookup":
    case "found":
    case "unlabel":
    case "near":
      return routingToCbor(message);
  }
}

function joinFields(request: JoinRequest): CborMap {
  return {
    net: request.networkId,
    node: request.nodeId,
    name: request.name,
    exact: request.exactName,
    inv: request.inviteId,
    wall: request.wallMs,
    sig: request.signature,
  };
}

function answerFields(answer: JoinAnswer): CborMap {
  if (answer.ok) return { ok: true, hash: answer.admission, inv: answer.inviteId };
  return {
    ok: false,
    inv: answer.inviteId,
    code: answer.code,
    text: answer.text,
    fix: answer.remedy,
    d: answer.details,
  };
}

type Reader = (map: CborMap) => ControlMessage | undefined;

const READERS: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  ["hello", readHello],
  ["digest", readDigest],
  ["ranges", readRanges],
  ["have", readHave],
  ["want", readWant],
  ["statements", (map) => readWires("statements", map["s"], MAX_STATEMENT_BYTES)],
  ["endpoints", (map) => readWires("endpoints", map["e"], MAX_ENDPOINT_MESSAGE_BYTES)],
  ["known", readKnown],
  ["seek", readSeek],
  ["join", readJoin],
  ["answer", readAnswer],
  ["joinVia", readJoinVia],
  ["answerVia", readAnswerVia],
  ["leave", readLeave],
  ["left", readLeft],
  ["bye", (): ControlMessage => ({ type: "bye" })],
  ["idle", (map): ControlMessage => ({ type: "idle", agreed: map["a"] === true })],
  ["punch", readPunch],
  ["sight", readSight],
  ["seen", readSeen],
  ...ROUTING_READERS,
]);

function readHello(map: CborMap): ControlMessage | undefined {
  const buildId = asText(map["b"], 64);
  const protocol = asListOf(map["p"], 2, (item) => asUint(item, 65_535));
  const capabilities = asUint(map["c"], 0xffffffff);
  const name = asText(map["n"], 63);
  if (buildId === undefined || protocol?.length !== 2 || capabilities === undefined || name === undefined)
    return undefined;
  return { type: "hello", buildId, protocol: [protocol[0], protocol[1]], capabilities, name };
}

function readDigest(map: CborMap): ControlMessage | undefined {
  const roster = readPair(map["r"]);
  const endpoints = readPair(map["e"]);
  return roster === undefined || endpoints === undefined
    ? undefined
    : { type: "digest", roster, endpoints, isAnswer: map["a"] === true };
}

function readRanges(map: CborMap): ControlMessage | undefined {
  const lower = asUint(map["l"]);
  const ranges = asListOf(map["r"], MAX_RANGES, (item) => {
    if (!Array.isArray(item) || item.length !== 3) return undefined;
    const upper = asUint(item[0]);
    const count = asUint(item[1]);
    const fingerprint = asBytes(item[2], FINGERPRINT_BYTES);
    return upper === undefined || count === undefined || fingerprint === undefined
      ? undefined
      : { upper, count, fingerprint };
  });
  if (lower === undefined || ranges === undefined) return undefined;
  let below = lower;
  for (const range of ranges) {
    if (range.upper <= below) return undefined;
    below = range.upper;
  }
  return { type: "ranges", lower, ranges };
}

function readHave(map: CborMap): ControlMessage | undefined {
  const lower = asUint(map["l"]);
  const upper = asUint(map["u"]);
  const from = asBytes(map["f"], HASH_BYTES);
  const below = asBytes(map["o"], HASH_BYTES);
  const hashes = readHashes(map["h"]);
  if (lower === undefined || upper === undefined || upper <= lower || from === undefined || hashes === undefined)
    return undefined;
  if (map["o"] !== undefined && below === undefined) return undefined;
  return { type: "have", lower, upper, from, below, hashes };
}

function readWant(map: CborMap): ControlMessage | undefined {
  const hashes = readHashes(map["h"]);
  return hashes === undefined ? undefined : { type: "want", hashes };
}

function readWires(
  type: "statements" | "endpoints",
  value: Cbor | undefined,
  maxBytes: number,
): ControlMessage | undefined {
  const wires = asListOf(value, MAX_WIRES, (item) => asBytes(item, maxBytes, true));
  return wires === undefined ? undefined : { type, wires };
}

function readKnown(map: CborMap): ControlMessage | undefined {
  const from = asBytes(map["f"], ID_PREFIX_BYTES);
  const below = asBytes(map["o"], ID_PREFIX_BYTES);
  const packed = asBytes(map["n"], MAX_KNOWN * KNOWN_BYTES, true);
  if (from === undefined || packed === undefined || packed.length % KNOWN_BYTES !== 0) return undefined;
  if (map["o"] !== undefined && below === undefined) return undefined;
  const view = new DataView(packed.buffer, packed.byteOffset, packed.length);
  const entries: KnownEndpoint[] = [];
  for (let at = 0; at < packed.length; at += KNOWN_BYTES) {
    const high = view.getUint32(at + ID_PREFIX_BYTES + 4, true);
    if (high > 0x1fffff) return undefined;
    const hlc = high * 2 ** 32 + view.getUint32(at + ID_PREFIX_BYTES, true);
    entries.push({ idPrefix: packed.slice(at, at + ID_PREFIX_BYTES), hlc });
  }
  return { type: "known", from, below, entries };
}

function packKnown(entries: readonly KnownEndpoint[]): Uint8Array {
  const packed = new Uint8Array(entries.length * KNOWN_BYTES);
  const view = new DataView(packed.buffer);
  entries.forEach((entry, i) => {
    packed.set(entry.idPrefix, i * KNOWN_BYTES);
    view.setUint32(i * KNOWN_BYTES + ID_PREFIX_BYTES, entry.hlc % 2 ** 32, true);
    view.setUint32(i * KNOWN_BYTES + ID_PREFIX_BYTES + 4, Math.floor(entry.hlc / 2 ** 32), true);
  });
  return packed;
}

function readSeek(map: CborMap): ControlMessage | undefined {
  const packed = asBytes(map["n"], MAX_SEEK * ID_PREFIX_BYTES, true);
  if (packed === undefined || packed.length % ID_PREFIX_BYTES !== 0) return undefined;
  const idPrefixes: Uint8Array[] = [];
  for (let at = 0; at < packed.length; at += ID_PREFIX_BYTES) idPrefixes.push(packed.slice(at, at + ID_PREFIX_BYTES));
  return { type: "seek", idPrefixes };
}

function readJoin(map: CborMap): JoinRequest | undefined {
  const networkId = asBytes(map["net"], 32);
  const nodeId = asBytes(map["node"], 32);
  const name = asText(map["name"], 63);
  const inviteId = asBytes(map["inv"], INVITE_ID_BYTES);
  const wallMs = asUint(map["wall"]);
  const signature = asBytes(map["sig"], SIGNATURE_BYTES);
  if (networkId === undefined || nodeId === undefined || name === undefined) return undefined;
  if (inviteId === undefined || wallMs === undefined || signature === undefined) return undefined;
  return { type: "join", networkId, nodeId, name, exactName: map["exact"] === true, inviteId, wallMs, signature };
}

function readJoinVia(map: CborMap): ControlMessage | undefined {
  const staticKey = asBytes(map["key"], 32);
  const inner = asMap(map["j"]);
  const request = inner === undefined ? undefined : readJoin(inner);
  return staticKey === undefined || request === undefined ? undefined : { type: "joinVia", staticKey, request };
}

function readAnswerVia(map: CborMap): ControlMessage | undefined {
  const staticKey = asBytes(map["key"], 32);
  const inner = asMap(map["a"]);
  const answer = inner === undefined ? undefined : readAnswer(inner);
  return staticKey === undefined || answer === undefined ? undefined : { type: "answerVia", staticKey, answer };
}

function readAnswer(map: CborMap): JoinAnswer | undefined {
  const inviteId = asBytes(map["inv"], INVITE_ID_BYTES);
  const which = inviteId === undefined ? {} : { inviteId };
  if (map["ok"] === true) {
    const admission = asBytes(map["hash"], HASH_BYTES);
    return admission === undefined ? undefined : { type: "answer", ok: true, admission, ...which };
  }
  const code = asText(map["code"], 64);
  const text = asText(map["text"], MAX_TEXT);
  const remedy = asText(map["fix"], MAX_TEXT);
  if (map["ok"] !== false || code === undefined || text === undefined || remedy === undefined) return undefined;
  const details: Record<string, string | number> = {};
  for (const [key, value] of Object.entries(asMap(map["d"]) ?? {})) {
    if (key.length <= 32 && (typeof value === "number" || (typeof value === "string" && value.length <= MAX_TEXT)))
      details[key] = value;
  }
  return { type: "answer", ok: false, code, text, remedy, details, ...which };
}

function readLeave(map: CborMap): ControlMessage | undefined {
  const wire = asBytes(map["s"], MAX_STATEMENT_BYTES, true);
  return wire === undefined ? undefined : { type: "leave", wire };
}

function readLeft(map: CborMap): ControlMessage | undefined {
  const hash = asBytes(map["h"], HASH_BYTES);
  return hash === undefined ? undefined : { type: "left", hash };
}

function readHashes(value: Cbor | undefined): Uint8Array[] | undefined {
  return asListOf(value, MAX_HASHES, (item) => asBytes(item, HASH_BYTES));
}

function pair(value: Fingerprint): Cbor {
  return [value.count, value.fingerprint];
}

function readPair(value: Cbor | undefined): Fingerprint | undefined {
  if (!Array.isArray(value) || value.length !== 2) return undefined;
  const count = asUint(value[0] as Cbor);
  const fingerprint = asBytes(value[1] as Cbor, FINGERPRINT_BYTES);
  return count === undefined || fingerprint === undefined ? undefined : { count, fingerprint };
}
