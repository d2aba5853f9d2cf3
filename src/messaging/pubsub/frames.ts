/**
 * Frames between neighbours of a topic, on the frame channel PUBSUB, types 1–31. Source: docs/protocol.md, "Publish/subscribe".
 *   3 IHAVE   flags u8: 1 these are old, ask at leisure | topic 16 | count u16 | count × (ref 8, from varint, length varint)
 *   4 IWANT   flags 0 | topic 16 | since u64, hlc: nothing older is wanted | count u16 | count × (ref 8, from varint, length varint)
 *   5 NONE    flags: 1 these are older than `since`, 2 they are missing here too, 0 they are gone | topic 16 | count u16 | count × (ref 8, from varint, length varint)
 *   6 GRAFT   flags: 1 eager, else lazy; 2 I only publish; 4 I have no other eager link | topic 16
 *   7 PRUNE   flags: 1 no link at all, else lazy | topic 16 | back-off in seconds u16
 *   8 DIGEST  flags: 0 | topic 16 | count u8 | count × (lower u16, upper u16 inclusive, streams u32, fingerprint 8)
 *   9 LIST    flags: 1 answer to a list | topic 16 | lower u16 | upper u16 | count u16 |
 *             count × (ref 8, floor varint, ranges u8, ranges × (gap varint, length varint))
 *  10 PROBE   flags 0 | topic 16 | nonce u32
 *  11 ECHO    flags 0 | topic 16 | nonce u32
 * Types 1 (push), 2 (answer) and 12 (relay) are messages: message.ts.
 * Little-endian; varints are LEB128 below 2^48. Decoders read at most MAX_ENTRIES entries and never beyond the end; whatever is left over
 * or out of range makes the frame invalid.
 */
import { toHex } from "../../base/bytes.ts";
import { MAX_RANGES, type SequenceRange } from "./window.ts";

export const FrameType = {
  PUSH: 1,
  ANSWER: 2,
  IHAVE: 3,
  IWANT: 4,
  NONE: 5,
  GRAFT: 6,
  PRUNE: 7,
  DIGEST: 8,
  LIST: 9,
  PROBE: 10,
  ECHO: 11,
  RELAY: 12,
} as const;

export const MAX_ENTRIES = 1024;
export const MAX_DIGEST_RANGES = 64;
export const LAST_PREFIX = 0xffff;
const HEADER_BYTES = 18;
const REF_BYTES = 8;
const MAX_VALUE = 2 ** 48 - 1;

/** Sequences of one stream. */
export interface Entry extends SequenceRange {
  /** Hexadecimal. */
  readonly ref: string;
}

export interface DigestRange {
  /** First two bytes of the refs, both inclusive. */
  readonly lower: number;
  readonly upper: number;
  readonly streams: number;
  /** 16 hexadecimal digits. */
  readonly fingerprint: string;
}

export interface StreamSummary {
  readonly ref: string;
  readonly floor: number;
  readonly ranges: readonly SequenceRange[];
}

/** Why there is no answer. */
export const NoneReason = { GONE: 0, BEFORE: 1, MISSING: 2 } as const;
export type NoneReason = (typeof NoneReason)[keyof typeof NoneReason];

export type ControlFrame =
  | { readonly type: "ihave"; readonly topic: string; readonly isOld: boolean; readonly entries: readonly Entry[] }
  | { readonly type: "iwant"; readonly topic: string; readonly since: number; readonly entries: readonly Entry[] }
  | { readonly type: "none"; readonly topic: string; readonly reason: NoneReason; readonly entries: readonly Entry[] }
  | {
      readonly type: "graft";
      readonly topic: string;
      readonly isEager: boolean;
      readonly isSource: boolean;
      readonly isNeeded: boolean;
    }
  | { readonly type: "prune"; readonly topic: string; readonly isDrop: boolean; readonly backoffMs: number }
  | { readonly type: "digest"; readonly topic: string; readonly ranges: readonly DigestRange[] }
  | {
      readonly type: "list";
      readonly topic: string;
      readonly isAnswer: boolean;
      readonly lower: number;
      readonly upper: number;
      readonly streams: readonly StreamSummary[];
    }
  | { readonly type: "probe" | "echo"; readonly topic: string; readonly nonce: number };

/** @returns a frame of its exact size */
export function encodeControlFrame(frame: ControlFrame): Uint8Array {
  const out = new Writer();
  switch (frame.type) {
    case "ihave":
      out.head(FrameType.IHAVE, frame.isOld ? 1 : 0, frame.topic);
      out.entries(frame.entries);
      break;
    case "iwant":
      out.head(FrameType.IWANT, 0, frame.topic);
      out.u64(frame.since);
      out.entries(frame.entries);
      break;
    case "none":
      out.head(FrameType.NONE, frame.reason, frame.topic);
      out.entries(frame.entries);
      break;
    case "graft":
      out.head(
        FrameType.GRAFT,
        (frame.isEager ? 1 : 0) | (frame.isSource ? 2 : 0) | (frame.isNeeded ? 4 : 0),
        frame.topic,
      );
      break;
    case "prune":
      out.head(FrameType.PRUNE, frame.isDrop ? 1 : 0, frame.topic);
      out.u16(Math.min(0xffff, Math.ceil(frame.backoffMs / 1000)));
      break;
    case "digest":
      out.head(FrameType.DIGEST, 0, frame.topic);
      out.u8(frame.ranges.length);
      for (const range of frame.ranges) {
        out.u16(range.lower);
        out.u16(range.upper);
        out.u32(range.streams);
        out.hex(range.fingerprint);
      }
      break;
    case "list":
      out.head(FrameType.LIST, frame.isAnswer ? 1 : 0, frame.topic);
      out.u16(frame.lower);
      out.u16(frame.upper);
      out.u16(frame.streams.length);
      for (const stream of frame.streams) {
        out.hex(stream.ref);
        out.varint(stream.floor);
        out.u8(stream.ranges.length);
        let at = stream.floor;
        for (const { from, to } of stream.ranges) {
          out.varint(from - at);
          out.varint(to - from + 1);
          at = to;
        }
      }
      break;
    case "probe":
    case "echo":
      out.head(frame.type === "probe" ? FrameType.PROBE : FrameType.ECHO, 0, frame.topic);
      out.u32(frame.nonce);
      break;
  }
  return out.done();
}

/** @param frame anything @returns undefined when it is no control frame */
export function decodeControlFrame(frame: Uint8Array): ControlFrame | undefined {
  if (frame.length < HEADER_BYTES) return undefined;
  const flags = frame[1];
  const topic = toHex(frame.subarray(2, HEADER_BYTES));
  const input = new Reader(frame, HEADER_BYTES);
  let decoded: ControlFrame | undefined;
  switch (frame[0]) {
    case FrameType.IHAVE:
    case FrameType.NONE: {
      const entries = input.entries();
      if (flags > (frame[0] === FrameType.IHAVE ? 1 : 2) || entries === undefined) return undefined;
      decoded =
        frame[0] === FrameType.IHAVE
          ? { type: "ihave", topic, isOld: flags === 1, entries }
          : { type: "none", topic, reason: flags as NoneReason, entries };
      break;
    }
    case FrameType.IWANT: {
      const since = input.u64();
      const entries = input.entries();
      if (flags !== 0 || entries === undefined) return undefined;
      decoded = { type: "iwant", topic, since, entries };
      break;
    }
    case FrameType.GRAFT:
      if (flags > 7) return undefined;
      decoded = {
        type: "graft",
        topic,
        isEager: (flags & 1) !== 0,
        isSource: (flags & 2) !== 0,
        isNeeded: (flags & 4) !== 0,
      };
      break;
    case FrameType.PRUNE:
      if (flags > 1) return undefined;
      decoded = { type: "prune", topic, isDrop: flags === 1, backoffMs: input.u16() * 1000 };
      break;
    case FrameType.DIGEST:
      decoded = flags === 0 ? input.digest(topic) : undefined;
      break;
    case FrameType.LIST:
      decoded = flags <= 1 ? input.list(topic, flags === 1) : undefined;
      break;
    case FrameType.PROBE:
    case FrameType.ECHO:
      if (flags !== 0) return undefined;
      decoded = { type: frame[0] === FrameType.PROBE ? "probe" : "echo", topic, nonce: input.u32() };
      break;
    default:
      return undefined;
  }
  return input.isWhole ? decoded : undefined;
}

/** Adds sequences to the end of a list, to the last entry where they continue it. */
export function extendEntries(entries: Entry[], ref: string, from: number, to: number = from): void {
  const last = entries.at(-1);
  if (last !== undefined && last.ref === ref && last.to + 1 === from) entries[entries.length - 1] = { ...last, to };
  else entries.push({ ref, from, to });
}

export function countEntries(entries: readonly Entry[]): number {
  let sum = 0;
  for (const { from, to } of entries) sum += to - from + 1;
  return sum;
}

class Writer {
  #bytes: Uint8Array = new Uint8Array(64);
  #length = 0;

  head(type: number, flags: number, topic: string): void {
    this.u8(type);
    this.u8(flags);
    this.hex(topic);
  }

  u8(value: number): void {
    if (this.#length === this.#bytes.length) this.#grow();
    this.#bytes[this.#length++] = value;
  }

  u16(value: number): void {
    this.u8(value & 0xff);
    this.u8(value >>> 8);
  }

  u32(value: number): void {
    this.u16(value & 0xffff);
    this.u16(value >>> 16);
  }

  u64(value: number): void {
    this.u32((value % 0x1_0000_0000) >>> 0);
    this.u32(Math.floor(value / 0x1_0000_0000));
  }

  varint(value: number): void {
    let rest = value;
    while (rest >= 128) {
      this.u8((rest % 128) | 128);
      rest = Math.floor(rest / 128);
    }
    this.u8(rest);
  }

  hex(text: string): void {
    while (this.#length + text.length / 2 > this.#bytes.length) this.#grow();
    this.#length += this.#bytes.subarray(this.#length).setFromHex(text).written;
  }

  entries(entries: readonly Entry[]): void {
    this.u16(entries.length);
    for (const { ref, from, to } of entries) {
      this.hex(ref);
      this.varint(from);
      this.varint(to - from + 1);
    }
  }

  done(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  #grow(): void {
    const grown = new Uint8Array(this.#bytes.length * 2);
    grown.set(this.#bytes);
    this.#bytes = grown;
  }
}

/** Reads beyond the end give zeros and make the frame not whole. */
class Reader {
  readonly #bytes: Uint8Array;
  #at: number;
  #isBroken = false;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.#at = at;
  }

  get isWhole(): boolean {
    return !this.#isBroken && this.#at === this.#bytes.length;
  }

  u8(): number {
    if (this.#at >= this.#bytes.length) {
      this.#isBroken = true;
      return 0;
    }
    return this.#bytes[this.#at++];
  }

  u16(): number {
    return this.u8() | (this.u8() << 8);
  }

  u32(): number {
    return this.u16() + this.u16() * 0x1_0000;
  }

  u64(): number {
    const low = this.u32();
    const high = this.u32();
    if (high >= 2 ** 21) this.#isBroken = true;
    return low + high * 0x1_0000_0000;
  }

  varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 7; i++) {
      const byte = this.u8();
      value += (byte & 127) * scale;
      if (byte < 128) {
        if (value > MAX_VALUE || (byte === 0 && i > 0)) break;
        return value;
      }
      scale *= 128;
    }
    this.#isBroken = true;
    return 0;
  }

  hex(length: number): string {
    if (this.#bytes.length - this.#at < length) {
      this.#isBroken = true;
      return "";
    }
    this.#at += length;
    return toHex(this.#bytes.subarray(this.#at - length, this.#at));
  }

  entries(): Entry[] | undefined {
    const count = this.u16();
    // an entry takes ten bytes at least: a count that cannot be true costs nothing
    if (count > MAX_ENTRIES || count * (REF_BYTES + 2) > this.#bytes.length - this.#at) return undefined;
    const entries: Entry[] = [];
    for (let i = 0; i < count; i++) {
      const ref = this.hex(REF_BYTES);
      const from = this.varint();
      const to = from + this.varint() - 1;
      if (this.#isBroken || from === 0 || to < from || to > MAX_VALUE) return undefined;
      entries.push({ ref, from, to });
    }
    return entries;
  }

  digest(topic: string): ControlFrame | undefined {
    const count = this.u8();
    if (count === 0 || count > MAX_DIGEST_RANGES) return undefined;
    const ranges: DigestRange[] = [];
    let next = 0;
    for (let i = 0; i < count; i++) {
      const lower = this.u16();
      const upper = this.u16();
      if (this.#isBroken || lower < next || upper < lower) return undefined;
      ranges.push({ lower, upper, streams: this.u32(), fingerprint: this.hex(REF_BYTES) });
      next = upper + 1;
    }
    return { type: "digest", topic, ranges };
  }

  list(topic: string, isAnswer: boolean): ControlFrame | undefined {
    const lower = this.u16();
    const upper = this.u16();
    const count = this.u16();
    if (upper < lower || count > MAX_ENTRIES || count * (REF_BYTES + 2) > this.#bytes.length - this.#at)
      return undefined;
    const streams: StreamSummary[] = [];
    for (let i = 0; i < count; i++) {
      const ref = this.hex(REF_BYTES);
      const floor = this.varint();
      const many = this.u8();
      if (this.#isBroken || many > MAX_RANGES) return undefined;
      const ranges: SequenceRange[] = [];
      let at = floor;
      for (let j = 0; j < many; j++) {
        const gap = this.varint();
        const length = this.varint();
        const from = at + gap;
        at = from + length - 1;
        // a range beside the one before it, or beside the floor, would be part of it
        if (this.#isBroken || gap < 2 || length === 0 || at > MAX_VALUE) return undefined;
        ranges.push({ from, to: at });
      }
      streams.push({ ref, floor, ranges });
    }
    return { type: "list", topic, isAnswer, lower, upper, streams };
  }
}
