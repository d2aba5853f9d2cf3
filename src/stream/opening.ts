/**
 * The first bytes of every stream: what it is for.
 *   0 class u8 | 1 bytes of the kind u8 (1–64) | 2 kind, printable ASCII
 * Source: docs/protocol.md, "Streams".
 */
import { STREAM_CLASSES, type StreamClass } from "./types.ts";

export const MAX_KIND_BYTES = 64;
const HEADER_BYTES = 2;

export interface Opening {
  readonly streamClass: StreamClass;
  readonly kind: string;
}

export function isKind(kind: string): boolean {
  return /^[\x21-\x7e]{1,64}$/.test(kind);
}

export function encodeOpening(opening: Opening): Uint8Array {
  const out = new Uint8Array(HEADER_BYTES + opening.kind.length);
  out[0] = opening.streamClass;
  out[1] = opening.kind.length;
  for (let i = 0; i < opening.kind.length; i++) out[HEADER_BYTES + i] = opening.kind.charCodeAt(i);
  return out;
}

/** Takes a stream's first bytes as they come; never more than belong to the opening. */
export class OpeningReader {
  readonly #bytes = new Uint8Array(HEADER_BYTES + MAX_KIND_BYTES);
  #have = 0;

  /** Bytes to read next; 0 = it is whole. */
  get wanted(): number {
    if (this.#have < HEADER_BYTES) return HEADER_BYTES - this.#have;
    return HEADER_BYTES + this.#bytes[1] - this.#have;
  }

  /** @param bytes at most `wanted` @returns false when it cannot become an opening */
  add(bytes: Uint8Array): boolean {
    this.#bytes.set(bytes, this.#have);
    this.#have += bytes.length;
    if (this.#have >= 1 && this.#bytes[0] >= STREAM_CLASSES) return false;
    return this.#have < HEADER_BYTES || (this.#bytes[1] >= 1 && this.#bytes[1] <= MAX_KIND_BYTES);
  }

  /** Once `wanted` is 0. @returns undefined when the kind is not printable */
  finish(): Opening | undefined {
    const kind = String.fromCharCode(...this.#bytes.subarray(HEADER_BYTES, this.#have));
    return isKind(kind) ? { streamClass: this.#bytes[0] as StreamClass, kind } : undefined;
  }
}
