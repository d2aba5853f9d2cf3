/**
 * A published message on the wire, little-endian; the publisher signs everything after the type, which is the only byte that changes on
 * its way. Source: docs/protocol.md, "Publish/subscribe".
 *   0 type u8: 1 pushed, 2 answer to a question, 12 pushed on after an answer: only 1 shapes the tree | 1 flags u8: 1 an agent published | 2 topic id 16 | 18 publisher 32 | 50 epoch u48 |
 *   56 sequence u48 | 62 hlc u64 | 70 agent 32, with flag 1 | payload | signature 64
 * A topic id is the first 16 bytes of SHA-256("weft/1 topic" ‖ 0 ‖ name in UTF-8); a stream's ref the first 8 of
 * SHA-256("weft/1 stream" ‖ 0 ‖ publisher ‖ epoch u48).
 */
import { createHash } from "node:crypto";
import { toHex, utf8 } from "../../base/bytes.ts";
import { FrameType } from "./frames.ts";
import { MAX_PAYLOAD_BYTES } from "./types.ts";

const TOPIC_ID_BYTES = 16;
const REF_BYTES = 8;
export const MAX_SEQUENCE: number = 2 ** 48 - 1;
const PUBLISHER_OFFSET = 18;
const EPOCH_OFFSET = 50;
const SEQUENCE_OFFSET = 56;
const HLC_OFFSET = 62;
const BODY_OFFSET = 70;
const AGENT_BYTES = 32;
const SIGNATURE_BYTES = 64;
const HAS_AGENT = 1;
const MAX_HLC_HIGH = 2 ** 21;

const MESSAGE_MIN_BYTES: number = BODY_OFFSET + SIGNATURE_BYTES;
const MESSAGE_MAX_BYTES = BODY_OFFSET + AGENT_BYTES + MAX_PAYLOAD_BYTES + SIGNATURE_BYTES;

export type MessageType = typeof FrameType.PUSH | typeof FrameType.ANSWER | typeof FrameType.RELAY;

export function isMessage(type: number): type is MessageType {
  return type === FrameType.PUSH || type === FrameType.ANSWER || type === FrameType.RELAY;
}

export interface MessageFrame {
  readonly type: MessageType;
  readonly topic: string;
  /** The next four are views into the frame. */
  readonly publisher: Uint8Array;
  readonly agent: Uint8Array | undefined;
  readonly payload: Uint8Array;
  readonly signature: Uint8Array;
  readonly epoch: number;
  readonly sequence: number;
  readonly hlc: number;
  /** What is signed, a view into the frame. */
  readonly body: Uint8Array;
}

const TOPIC_PREFIX = utf8("weft/1 topic\0");
const STREAM_PREFIX = utf8("weft/1 stream\0");

/** @returns 16 bytes */
export function topicIdOf(name: string): Uint8Array {
  const hash = createHash("sha256").update(TOPIC_PREFIX).update(utf8(name)).digest();
  return new Uint8Array(hash.subarray(0, TOPIC_ID_BYTES));
}

/** @returns hexadecimal */
export function streamRefOf(publisher: Uint8Array, epoch: number): string {
  const bytes = new Uint8Array(6);
  putU48(new DataView(bytes.buffer), 0, epoch);
  return createHash("sha256")
    .update(STREAM_PREFIX)
    .update(publisher)
    .update(bytes)
    .digest()
    .subarray(0, REF_BYTES)
    .toString("hex");
}

export interface NewMessage {
  readonly topicId: Uint8Array;
  readonly publisher: Uint8Array;
  readonly agent: Uint8Array | undefined;
  readonly epoch: number;
  readonly sequence: number;
  readonly hlc: number;
  readonly payload: Uint8Array;
}

/** @param sign gets the bytes to sign, gives 64 */
export function encodeMessage(message: NewMessage, sign: (body: Uint8Array) => Uint8Array): Uint8Array {
  const { agent, payload } = message;
  const at = BODY_OFFSET + (agent === undefined ? 0 : AGENT_BYTES);
  const frame = new Uint8Array(at + payload.length + SIGNATURE_BYTES);
  const view = new DataView(frame.buffer);
  frame[0] = FrameType.PUSH;
  frame[1] = agent === undefined ? 0 : HAS_AGENT;
  frame.set(message.topicId, 2);
  frame.set(message.publisher, PUBLISHER_OFFSET);
  putU48(view, EPOCH_OFFSET, message.epoch);
  putU48(view, SEQUENCE_OFFSET, message.sequence);
  view.setUint32(HLC_OFFSET, message.hlc % 0x1_0000_0000, true);
  view.setUint32(HLC_OFFSET + 4, Math.floor(message.hlc / 0x1_0000_0000), true);
  if (agent !== undefined) frame.set(agent, BODY_OFFSET);
  frame.set(payload, at);
  const end = at + payload.length;
  frame.set(sign(frame.subarray(1, end)), end);
  return frame;
}

/** @param frame anything; the result looks into it @returns undefined when it is no message */
export function decodeMessage(frame: Uint8Array): MessageFrame | undefined {
  if (frame.length < MESSAGE_MIN_BYTES || frame.length > MESSAGE_MAX_BYTES) return undefined;
  const [type] = frame;
  if (!isMessage(type) || frame[1] > HAS_AGENT) return undefined;
  const at = BODY_OFFSET + (frame[1] === HAS_AGENT ? AGENT_BYTES : 0);
  const end = frame.length - SIGNATURE_BYTES;
  if (end < at || end - at > MAX_PAYLOAD_BYTES) return undefined;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const high = view.getUint32(HLC_OFFSET + 4, true);
  const sequence = getU48(view, SEQUENCE_OFFSET);
  if (high >= MAX_HLC_HIGH || sequence === 0) return undefined;
  return {
    type,
    topic: toHex(frame.subarray(2, 2 + TOPIC_ID_BYTES)),
    publisher: frame.subarray(PUBLISHER_OFFSET, EPOCH_OFFSET),
    agent: frame[1] === HAS_AGENT ? frame.subarray(BODY_OFFSET, at) : undefined,
    payload: frame.subarray(at, end),
    signature: frame.subarray(end),
    epoch: getU48(view, EPOCH_OFFSET),
    sequence,
    hlc: high * 0x1_0000_0000 + view.getUint32(HLC_OFFSET, true),
    body: frame.subarray(1, end),
  };
}

/** The same message, with its signature, as another type. @returns a copy */
export function asType(frame: Uint8Array, type: MessageType): Uint8Array {
  const copy = Uint8Array.from(frame);
  copy[0] = type;
  return copy;
}

/** A hybrid logical clock: never behind the wall clock, never twice the same, after everything it has seen (Kulkarni 2014). */
export class HybridClock {
  #last = 0;

  next(wallMs: number): number {
    this.#last = Math.max(this.#last + 1, hlcOf(wallMs));
    return this.#last;
  }

  see(hlc: number): void {
    this.#last = Math.max(this.#last, hlc);
  }
}

export function hlcOf(wallMs: number): number {
  return Math.floor(wallMs) * 1024;
}

export function wallOf(hlc: number): number {
  return Math.floor(hlc / 1024);
}

function putU48(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 0x1_0000_0000, true);
  view.setUint16(offset + 4, Math.floor(value / 0x1_0000_0000), true);
}

function getU48(view: DataView, offset: number): number {
  return view.getUint16(offset + 4, true) * 0x1_0000_0000 + view.getUint32(offset, true);
}
