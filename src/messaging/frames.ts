/**
 * Frames: what the machines of this room send each other, and how they lie in a stream. Every peer has one long-lived stream per channel
 * and direction; a channel is a class of urgency and a bound on size. In the stream a frame is
 *   0 length u32 (1 – MAX_FRAME_BYTES of the channel) | 4 frame; its first byte is its type, and each type belongs to one part
 * A length out of bounds is the end of the stream; memory is held for bytes that have come, never for bytes that were announced.
 * Source: docs/protocol.md, "Frames"; sans-I/O.
 */
import { concat } from "../base/bytes.ts";

export const FrameChannel = {
  /** Who is there: goes before everything else. */
  MEMBERSHIP: 0,
  /** Answers to direct messages; as urgent as membership, so that no message makes an answer wait. */
  ACK: 1,
  DIRECT: 2,
  PUBSUB: 3,
  /** What may wait: mailboxes, anti-entropy of large states. */
  BULK: 4,
} as const;
export type FrameChannel = (typeof FrameChannel)[keyof typeof FrameChannel];
export const FRAME_CHANNELS: readonly FrameChannel[] = [0, 1, 2, 3, 4];

/** By channel. */
export const MAX_FRAME_BYTES: readonly number[] = [16_384, 4_096, 1_060_000, 70_000, 1_060_000];
export const FRAME_HEADER_BYTES = 4;

/** The frames as one piece of the stream, in order. */
export function encodeFrames(frames: readonly Uint8Array[]): Uint8Array {
  let total = 0;
  for (const frame of frames) total += FRAME_HEADER_BYTES + frame.length;
  const out = new Uint8Array(total);
  const view = new DataView(out.buffer);
  let at = 0;
  for (const frame of frames) {
    view.setUint32(at, frame.length, true);
    out.set(frame, at + FRAME_HEADER_BYTES);
    at += FRAME_HEADER_BYTES + frame.length;
  }
  return out;
}

/** Cuts a stream into its frames. Holds one unfinished frame at most. */
export class FrameReader {
  readonly #maxBytes: number;
  /** Of the unfinished frame, header included, in pieces as they came. */
  #pieces: Uint8Array[] = [];
  #have = 0;
  #isBroken = false;

  constructor(channel: FrameChannel) {
    this.#maxBytes = MAX_FRAME_BYTES[channel];
  }

  get heldBytes(): number {
    return this.#have;
  }

  /** @param take gets a copy of each whole frame, in order @returns false when what came is no sequence of frames; then nothing is taken any more */
  add(bytes: Uint8Array, take: (frame: Uint8Array) => void): boolean {
    if (this.#isBroken) return false;
    let rest = bytes;
    if (this.#have > 0) {
      const wanted = this.#wantedBytes();
      if (wanted < 0) return this.#break();
      const missing = wanted - this.#have;
      if (missing > rest.length) return this.#hold(rest);
      const head = concat(...this.#pieces, rest.subarray(0, missing));
      rest = rest.subarray(missing);
      this.#pieces = [];
      this.#have = 0;
      if (wanted === FRAME_HEADER_BYTES) {
        // the header was cut in two: now the length is known
        if (readLength(head, 0, this.#maxBytes) < 0) return this.#break();
        this.#hold(head);
        return this.add(rest, take);
      }
      take(head.subarray(FRAME_HEADER_BYTES));
    }
    let at = 0;
    while (rest.length - at >= FRAME_HEADER_BYTES) {
      const length = readLength(rest, at, this.#maxBytes);
      if (length < 0) return this.#break();
      const end = at + FRAME_HEADER_BYTES + length;
      if (end > rest.length) break;
      // a copy: a piece of a larger buffer would keep all of it alive
      take(new Uint8Array(rest.subarray(at + FRAME_HEADER_BYTES, end)));
      at = end;
    }
    return at === rest.length || this.#hold(rest.subarray(at));
  }

  #hold(bytes: Uint8Array): true {
    if (bytes.length === 0) return true;
    // many tiny pieces would cost more than they carry
    const last = this.#pieces.at(-1);
    if (last !== undefined && last.length + bytes.length <= 4_096)
      this.#pieces[this.#pieces.length - 1] = concat(last, bytes);
    else this.#pieces.push(new Uint8Array(bytes));
    this.#have += bytes.length;
    return true;
  }

  /** Bytes of what is held until it is whole: the header alone while that is not; −1 = no frame. */
  #wantedBytes(): number {
    if (this.#have < FRAME_HEADER_BYTES) return FRAME_HEADER_BYTES;
    const [first] = this.#pieces;
    const head = first.length >= FRAME_HEADER_BYTES ? first : concat(...this.#pieces);
    const length = readLength(head, 0, this.#maxBytes);
    return length < 0 ? -1 : FRAME_HEADER_BYTES + length;
  }

  #break(): false {
    this.#isBroken = true;
    this.#pieces = [];
    this.#have = 0;
    return false;
  }
}

/** @returns −1 when it is out of bounds */
function readLength(bytes: Uint8Array, at: number, maxBytes: number): number {
  const length = (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
  return length === 0 || length > maxBytes ? -1 : length;
}
