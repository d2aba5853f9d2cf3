/**
 * Frames of direct messages, little-endian. Several messages of one peer share a frame, and so do all answers of one commit.
 *
 *   DATA    0 type 1 | 1 zero 3 | 4 boot of the receiver u32, 0 = not known | 8 incarnation u64 | 16 oldest incarnation u64 | 24 floor u64 | 32 entries
 *   entry   0 number − floor u32 | 4 time left in ms u32 | 8 bytes of the body u32 | 12 body
 *   body    0 kind u8 | 1 flags u8 | 2 bytes of the name u8 | 3 zero | 4 sent, wall ms u64 | 12 [responses: incarnation u64, number u64 of the request]
 *           | [from agent 32] | [to agent 32] | name | payload
 *   CLOSE   0 type 2 | … 32 as DATA | entries: 0 number − floor u32 | 4 boot it was sent under u32, 0 = durable
 *   CANCEL  0 type 3 | … 32 as DATA | entries: 0 number − floor u32 | 4 zero u32
 *   ACK     0 type 1 | 1 zero 3 | 4 boot of the receiver u32 | 8 incarnation u64 | 16 base u64 | 24 admitted after µs u32 | 28 committed after µs u32 | 32 ranges
 *   range   0 first number − base u32 | 4 count u16 | 6 verdict u8 | 7 zero
 *
 * Source: docs/protocol.md, "Direct messages". Decoders return undefined for anything else, having read each byte at most once.
 */
import { utf8 } from "../../base/bytes.ts";
import { sha256 } from "../../crypto/kdf.ts";
import { MAX_FRAME_BYTES, FrameChannel } from "../frames.ts";
import { type AgentKey, MAX_NAME_BYTES, MAX_PAYLOAD_BYTES, MessageKind, WINDOW } from "./types.ts";

/** On channel DIRECT. */
export const DirectType = { DATA: 1, CLOSE: 2, CANCEL: 3 } as const;
export type DirectType = (typeof DirectType)[keyof typeof DirectType];
/** On channel ACK. */
export const ACK_TYPE = 1;

export const HEADER_BYTES = 32;
export const ENTRY_HEAD_BYTES = 12;
const MARK_BYTES = 8;
const RANGE_BYTES = 8;
const BODY_HEAD_BYTES = 12;
const REFERENCE_BYTES = 16;
const AGENT_BYTES = 32;
const MAX_BODY_BYTES = BODY_HEAD_BYTES + REFERENCE_BYTES + 2 * AGENT_BYTES + MAX_NAME_BYTES + MAX_PAYLOAD_BYTES;
/** Ranges that fit into an answer. */
export const MAX_RANGES: number = Math.floor((MAX_FRAME_BYTES[FrameChannel.ACK] - HEADER_BYTES) / RANGE_BYTES);
const MAX_COUNT = 65_535;
const TWO_32 = 4_294_967_296;
const MAX_HIGH = 0x1fffff;

const BodyFlag = { DURABLE: 1, FROM_AGENT: 2, TO_AGENT: 4, FAILED: 8 } as const;
const ALL_FLAGS = 15;

/** What DATA, CLOSE and CANCEL begin with. */
export interface DirectHeader {
  readonly boot: number;
  readonly incarnation: number;
  /** No number of an incarnation below it matters to the sender any more. */
  readonly oldest: number;
  /** No number below it matters to the sender any more. */
  readonly floor: number;
}

export interface DataEntry {
  readonly number: number;
  readonly leftMs: number;
  /** A view into the frame. */
  readonly body: Uint8Array;
}

/** An entry of CLOSE or CANCEL. */
export interface Mark {
  readonly number: number;
  readonly boot: number;
}

export type DirectFrame =
  | { readonly type: typeof DirectType.DATA; readonly header: DirectHeader; readonly entries: readonly DataEntry[] }
  | {
      readonly type: typeof DirectType.CLOSE | typeof DirectType.CANCEL;
      readonly header: DirectHeader;
      readonly marks: readonly Mark[];
    };

export interface Body {
  readonly kind: MessageKind;
  readonly durable: boolean;
  /** Of a response: the service has failed, and the payload says why. */
  readonly failed: boolean;
  readonly sentWallMs: number;
  /** Of a response: the request's. */
  readonly reference: { readonly incarnation: number; readonly number: number } | undefined;
  readonly fromAgent: AgentKey;
  readonly toAgent: AgentKey;
  readonly name: string;
  readonly payload: Uint8Array;
}

export interface Range {
  readonly first: number;
  readonly count: number;
  readonly verdict: number;
}

export interface Ack {
  readonly boot: number;
  readonly incarnation: number;
  readonly admitMs: number;
  readonly commitMs: number;
  readonly ranges: readonly Range[];
}

const decoder = new TextDecoder("utf-8", { fatal: true });

function put64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % TWO_32, true);
  view.setUint32(at + 4, Math.floor(value / TWO_32), true);
}

/** @returns −1 above 2^53 − 1 */
function get64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  return high > MAX_HIGH ? -1 : high * TWO_32 + view.getUint32(at, true);
}

function newFrame(type: number, header: DirectHeader, bytes: number): DataView {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + bytes));
  view.setUint8(0, type);
  view.setUint32(4, header.boot, true);
  put64(view, 8, header.incarnation);
  put64(view, 16, header.oldest);
  put64(view, 24, header.floor);
  return view;
}

/** @param entries numbers from floor to below floor + WINDOW, in any order */
export function encodeData(header: DirectHeader, entries: readonly DataEntry[]): Uint8Array {
  let bytes = 0;
  for (const { body } of entries) bytes += ENTRY_HEAD_BYTES + body.length;
  const view = newFrame(DirectType.DATA, header, bytes);
  const out = new Uint8Array(view.buffer);
  let at = HEADER_BYTES;
  for (const { number, leftMs, body } of entries) {
    view.setUint32(at, number - header.floor, true);
    view.setUint32(at + 4, Math.max(0, Math.min(TWO_32 - 1, Math.floor(leftMs))), true);
    view.setUint32(at + 8, body.length, true);
    out.set(body, at + ENTRY_HEAD_BYTES);
    at += ENTRY_HEAD_BYTES + body.length;
  }
  return out;
}

export function encodeMarks(
  type: typeof DirectType.CLOSE | typeof DirectType.CANCEL,
  header: DirectHeader,
  marks: readonly Mark[],
): Uint8Array {
  const view = newFrame(type, header, marks.length * MARK_BYTES);
  marks.forEach(({ number, boot }, i) => {
    view.setUint32(HEADER_BYTES + i * MARK_BYTES, number - header.floor, true);
    view.setUint32(HEADER_BYTES + i * MARK_BYTES + 4, boot, true);
  });
  return new Uint8Array(view.buffer);
}

/** @param bytes anything */
export function decodeDirect(bytes: Uint8Array): DirectFrame | undefined {
  if (bytes.length < HEADER_BYTES || bytes[1] !== 0 || bytes[2] !== 0 || bytes[3] !== 0) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const type = bytes[0];
  const header = {
    boot: view.getUint32(4, true),
    incarnation: get64(view, 8),
    oldest: get64(view, 16),
    floor: get64(view, 24),
  };
  if (header.incarnation < 0 || header.floor < 0 || header.oldest < 0 || header.oldest > header.incarnation)
    return undefined;
  if (header.floor > Number.MAX_SAFE_INTEGER - WINDOW) return undefined;
  if (type === DirectType.DATA) {
    const entries = decodeEntries(view, bytes, header.floor);
    return entries === undefined ? undefined : { type, header, entries };
  }
  if (type !== DirectType.CLOSE && type !== DirectType.CANCEL) return undefined;
  const count = (bytes.length - HEADER_BYTES) / MARK_BYTES;
  if (!Number.isInteger(count) || count > WINDOW) return undefined;
  const marks: Mark[] = [];
  for (let at = HEADER_BYTES; at < bytes.length; at += MARK_BYTES) {
    const above = view.getUint32(at, true);
    if (above >= WINDOW) return undefined;
    marks.push({ number: header.floor + above, boot: view.getUint32(at + 4, true) });
  }
  return { type, header, marks };
}

function decodeEntries(view: DataView, bytes: Uint8Array, floor: number): DataEntry[] | undefined {
  const entries: DataEntry[] = [];
  let at = HEADER_BYTES;
  while (at < bytes.length) {
    if (bytes.length - at < ENTRY_HEAD_BYTES || entries.length >= WINDOW) return undefined;
    const above = view.getUint32(at, true);
    const length = view.getUint32(at + 8, true);
    if (above >= WINDOW || length > MAX_BODY_BYTES || length > bytes.length - at - ENTRY_HEAD_BYTES) return undefined;
    const start = at + ENTRY_HEAD_BYTES;
    entries.push({
      number: floor + above,
      leftMs: view.getUint32(at + 4, true),
      body: bytes.subarray(start, start + length),
    });
    at = start + length;
  }
  return entries;
}

/** @returns undefined when the name is too long or the payload too big */
export function encodeBody(body: Body): Uint8Array | undefined {
  const name = utf8(body.name);
  if (name.length > MAX_NAME_BYTES || body.payload.length > MAX_PAYLOAD_BYTES) return undefined;
  const agents = [body.fromAgent, body.toAgent].filter((key) => key !== undefined);
  const fixed = BODY_HEAD_BYTES + (body.reference === undefined ? 0 : REFERENCE_BYTES) + agents.length * AGENT_BYTES;
  const out = new Uint8Array(fixed + name.length + body.payload.length);
  const view = new DataView(out.buffer);
  out[0] = body.kind;
  out[1] =
    (body.durable ? BodyFlag.DURABLE : 0) |
    (body.fromAgent === undefined ? 0 : BodyFlag.FROM_AGENT) |
    (body.toAgent === undefined ? 0 : BodyFlag.TO_AGENT) |
    (body.failed ? BodyFlag.FAILED : 0);
  out[2] = name.length;
  put64(view, 4, Math.floor(body.sentWallMs));
  let at = BODY_HEAD_BYTES;
  if (body.reference !== undefined) {
    put64(view, at, body.reference.incarnation);
    put64(view, at + 8, body.reference.number);
    at += REFERENCE_BYTES;
  }
  for (const key of agents) {
    out.set(key, at);
    at += AGENT_BYTES;
  }
  out.set(name, at);
  out.set(body.payload, at + name.length);
  return out;
}

/** What a body says of itself, without decoding it. @param bytes anything */
export function isDurable(bytes: Uint8Array): boolean {
  return bytes.length > 1 && (bytes[1] & BodyFlag.DURABLE) !== 0;
}

/** Byte strings of the result are copies. @param bytes anything */
export function decodeBody(bytes: Uint8Array): Body | undefined {
  if (bytes.length < BODY_HEAD_BYTES || bytes[3] !== 0) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const kind = bytes[0];
  const flags = bytes[1];
  if (kind !== MessageKind.MESSAGE && kind !== MessageKind.REQUEST && kind !== MessageKind.RESPONSE) return undefined;
  if ((flags & ~ALL_FLAGS) !== 0 || bytes[2] > MAX_NAME_BYTES) return undefined;
  const isResponse = kind === MessageKind.RESPONSE;
  if ((flags & BodyFlag.FAILED) !== 0 && !isResponse) return undefined;
  const hasFrom = (flags & BodyFlag.FROM_AGENT) !== 0;
  const hasTo = (flags & BodyFlag.TO_AGENT) !== 0;
  const nameAt =
    BODY_HEAD_BYTES + (isResponse ? REFERENCE_BYTES : 0) + (hasFrom ? AGENT_BYTES : 0) + (hasTo ? AGENT_BYTES : 0);
  const payloadAt = nameAt + bytes[2];
  if (payloadAt > bytes.length || bytes.length - payloadAt > MAX_PAYLOAD_BYTES) return undefined;
  const sentWallMs = get64(view, 4);
  if (sentWallMs < 0) return undefined;
  let at = BODY_HEAD_BYTES;
  let reference: Body["reference"];
  if (isResponse) {
    reference = { incarnation: get64(view, at), number: get64(view, at + 8) };
    if (reference.incarnation < 0 || reference.number < 0) return undefined;
    at += REFERENCE_BYTES;
  }
  const fromAgent = hasFrom ? bytes.slice(at, at + AGENT_BYTES) : undefined;
  if (hasFrom) at += AGENT_BYTES;
  const toAgent = hasTo ? bytes.slice(at, at + AGENT_BYTES) : undefined;
  let name = "";
  try {
    if (payloadAt > nameAt) name = decoder.decode(bytes.subarray(nameAt, payloadAt));
  } catch {
    // The decoder reports what is no UTF-8 by throwing; the bytes are a peer's and may hold anything.
    return undefined;
  }
  return {
    kind,
    durable: (flags & BodyFlag.DURABLE) !== 0,
    failed: (flags & BodyFlag.FAILED) !== 0,
    sentWallMs,
    reference,
    fromAgent,
    toAgent,
    name,
    payload: bytes.slice(payloadAt),
  };
}

/** 48 bits of its SHA-256: two bodies of one number are told apart by it. The sender alone chooses both, so nobody gains by a collision. */
export function bodyHash(body: Uint8Array): number {
  const hash = sha256(body);
  return ((hash[0] << 8) | hash[1]) * TWO_32 + (((hash[2] << 24) | (hash[3] << 16) | (hash[4] << 8) | hash[5]) >>> 0);
}

/** @param ranges at most MAX_RANGES, of numbers from base upwards */
export function encodeAck(ack: Omit<Ack, "ranges">, base: number, ranges: readonly Range[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + ranges.length * RANGE_BYTES));
  view.setUint8(0, ACK_TYPE);
  view.setUint32(4, ack.boot, true);
  put64(view, 8, ack.incarnation);
  put64(view, 16, base);
  view.setUint32(24, micros(ack.admitMs), true);
  view.setUint32(28, micros(ack.commitMs), true);
  ranges.forEach(({ first, count, verdict }, i) => {
    const at = HEADER_BYTES + i * RANGE_BYTES;
    view.setUint32(at, first - base, true);
    view.setUint16(at + 4, count, true);
    view.setUint8(at + 6, verdict);
  });
  return new Uint8Array(view.buffer);
}

/** @param bytes anything */
export function decodeAck(bytes: Uint8Array): Ack | undefined {
  const count = (bytes.length - HEADER_BYTES) / RANGE_BYTES;
  if (!Number.isInteger(count) || count < 0 || count > MAX_RANGES || bytes[0] !== ACK_TYPE) return undefined;
  if (bytes[1] !== 0 || bytes[2] !== 0 || bytes[3] !== 0) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const incarnation = get64(view, 8);
  const base = get64(view, 16);
  if (incarnation < 0 || base < 0 || base > Number.MAX_SAFE_INTEGER - TWO_32 - MAX_COUNT) return undefined;
  const ranges: Range[] = [];
  let total = 0;
  for (let at = HEADER_BYTES; at < bytes.length; at += RANGE_BYTES) {
    const range = {
      first: base + view.getUint32(at, true),
      count: view.getUint16(at + 4, true),
      verdict: view.getUint8(at + 6),
    };
    total += range.count;
    // nobody has more numbers open than a window: whoever answers more makes work for nothing
    if (total > WINDOW || bytes[at + 7] !== 0) return undefined;
    ranges.push(range);
  }
  return {
    boot: view.getUint32(4, true),
    incarnation,
    admitMs: view.getUint32(24, true) / 1000,
    commitMs: view.getUint32(28, true) / 1000,
    ranges,
  };
}

function micros(ms: number): number {
  return ms > 0 ? Math.min(TWO_32 - 1, Math.round(ms * 1000)) : 0;
}

/** Consecutive numbers with one verdict become one range. @param answers sorted by number in place */
export function toRanges(answers: { readonly number: number; readonly verdict: number }[]): Range[] {
  answers.sort((a, b) => a.number - b.number);
  const ranges: { first: number; count: number; verdict: number }[] = [];
  for (const { number, verdict } of answers) {
    const last = ranges.at(-1);
    if (last !== undefined && last.verdict === verdict && last.count < MAX_COUNT) {
      if (last.first + last.count === number) {
        last.count++;
        continue;
      }
      if (number < last.first + last.count) continue;
    }
    ranges.push({ first: number, count: 1, verdict });
  }
  return ranges;
}
