/**
 * CBOR (RFC 8949) as mesh messages use it: definite lengths, text keys, integers up to 2^53 − 1, bytes, text, booleans, null.
 * No tags, floats or undefined. Size, depth and shape are checked in one flat pass before anything is built, so hostile bytes cost at
 * most one read of themselves; decoding never throws.
 */
import { decode, encode } from "cborg";
import { equal } from "../base/bytes.ts";

export type Cbor = null | boolean | number | string | Uint8Array | readonly Cbor[] | CborMap;
export interface CborMap {
  readonly [key: string]: Cbor | undefined;
}

const MAX_DEPTH = 8;
const DECODE_OPTIONS = {
  strict: true,
  allowIndefinite: false,
  allowUndefined: false,
  allowBigInt: false,
  rejectDuplicateMapKeys: true,
} as const;

/** Deterministic form: shortest integers, keys in bytewise order of their encoding (RFC 8949 section 4.2.1). `undefined` fields are left out. */
export function encodeCbor(value: Cbor): Uint8Array {
  return encode(value, { ignoreUndefinedProperties: true });
}

/** @returns undefined when longer than maxBytes, malformed, too deep, or outside the subset named above */
export function decodeCbor(bytes: Uint8Array, maxBytes: number): Cbor | undefined {
  if (bytes.length > maxBytes || !wellShaped(bytes)) return undefined;
  try {
    // Copied: byte strings of the result must not alias a receive buffer.
    return decode(new Uint8Array(bytes), DECODE_OPTIONS) as Cbor;
  } catch {
    return undefined;
  }
}

/** Like decodeCbor, and the bytes must be the deterministic encoding of the value. */
export function decodeCanonicalCbor(bytes: Uint8Array, maxBytes: number): Cbor | undefined {
  const value = decodeCbor(bytes, maxBytes);
  if (value === undefined) return undefined;
  return equal(encodeCbor(value), bytes) ? value : undefined;
}

/** One pass over the heads: exactly one item, no item outside the subset, depth at most MAX_DEPTH, no length beyond the end. */
function wellShaped(bytes: Uint8Array): boolean {
  // items still due at each open level; a map of n pairs owes 2n
  const due: number[] = [1];
  const isMap: boolean[] = [false];
  let at = 0;
  while (due.length > 0) {
    const level = due.length - 1;
    const left = due[level];
    if (left === 0) {
      due.pop();
      isMap.pop();
      continue;
    }
    if (at >= bytes.length) return false;
    const head = bytes[at++];
    const major = head >> 5;
    const minor = head & 31;
    if (isMap[level] && left % 2 === 0 && major !== 3) return false;
    due[level] = left - 1;
    if (major === 7) {
      if (minor < 20 || minor > 22) return false;
      continue;
    }
    if (major === 6 || minor > 27) return false;
    let argument = minor;
    if (minor >= 24) {
      const width = 1 << (minor - 24);
      if (at + width > bytes.length) return false;
      argument = 0;
      for (let i = 0; i < width; i++) argument = argument * 256 + bytes[at + i];
      at += width;
    }
    if (major <= 1) continue;
    if (argument > bytes.length - at) return false;
    if (major <= 3) {
      at += argument;
      continue;
    }
    if (due.length > MAX_DEPTH) return false;
    due.push(major === 5 ? argument * 2 : argument);
    isMap.push(major === 5);
  }
  return at === bytes.length;
}

export function asMap(value: Cbor | undefined): CborMap | undefined {
  if (value === null || typeof value !== "object" || Array.isArray(value) || value instanceof Uint8Array)
    return undefined;
  return value as CborMap;
}

/** @param length exact, or the largest when `atMost` */
export function asBytes(value: Cbor | undefined, length: number, atMost = false): Uint8Array | undefined {
  if (!(value instanceof Uint8Array)) return undefined;
  return value.length === length || (atMost && value.length <= length) ? value : undefined;
}

export function asUint(value: Cbor | undefined, max: number = Number.MAX_SAFE_INTEGER): number | undefined {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value <= max ? value : undefined;
}

export function asText(value: Cbor | undefined, maxLength: number): string | undefined {
  return typeof value === "string" && value.length <= maxLength ? value : undefined;
}

export function asList(value: Cbor | undefined, maxItems: number): readonly Cbor[] | undefined {
  return Array.isArray(value) && value.length <= maxItems ? (value as readonly Cbor[]) : undefined;
}

/** @returns undefined when it is no list or one of its items is wrong */
export function asListOf<T>(
  value: Cbor | undefined,
  maxItems: number,
  item: (value: Cbor) => T | undefined,
): T[] | undefined {
  const list = asList(value, maxItems);
  if (list === undefined) return undefined;
  const out: T[] = [];
  for (const raw of list) {
    const one = item(raw);
    if (one === undefined) return undefined;
    out.push(one);
  }
  return out;
}
