/**
 * One entry of a replicated space: the last that its author said about a key. Signed by the author, so that whoever passes it on can
 * neither change it nor invent one.
 *   0 flags u8 (bit 0: deleted) | 1 zero u8 | 2 key bytes u16 | 4 value bytes u32 | 8 hlc u64 | 16 author 32 | 48 key, UTF-8 ‖ value ‖ signature 64
 * Little-endian. Signed as "entry": space id 16 ‖ everything before the signature. An entry's id is the first 16 bytes of SHA-256(space id ‖ wire).
 * Of two entries of one key the one with the higher (hlc, author, id) counts: the same on every node, in whatever order they come.
 * Source: docs/protocol.md, "Replicated stores".
 */
import { compare, concat, toHex, utf8 } from "../../base/bytes.ts";
import { verifySignature } from "../../crypto/identity.ts";
import { sha256 } from "../../crypto/kdf.ts";
import { MAX_HLC } from "../../mesh/statement.ts";
import { u16, u32, u64 } from "../fields.ts";

export const ID_BYTES = 16;
export const MAX_KEY_BYTES = 256;
export const MAX_VALUE_BYTES = 65_536;
const HEADER_BYTES = 48;
const SIGNATURE_BYTES = 64;
const ENTRY_MIN_BYTES: number = HEADER_BYTES + 1 + SIGNATURE_BYTES;
export const MAX_ENTRY_BYTES: number = HEADER_BYTES + MAX_KEY_BYTES + MAX_VALUE_BYTES + SIGNATURE_BYTES;
const DELETED = 1;
const SIGN_KIND = "entry";
const SPACE_LABEL = utf8("weft space v1");

/** What a space holds; the same name with another kind is another space. */
export const SpaceKind = { KV: 1, TASKS: 2, GROUP: 3 } as const;
export type SpaceKind = (typeof SpaceKind)[keyof typeof SpaceKind];

export interface Entry {
  readonly key: string;
  /** undefined: deleted */
  readonly value: Uint8Array | undefined;
  readonly hlc: number;
  /** 32 bytes, node id */
  readonly author: Uint8Array;
  /** 16 bytes */
  readonly id: Uint8Array;
  readonly idHex: string;
  readonly wire: Uint8Array;
}

export interface EntrySigner {
  readonly nodeId: Uint8Array;
  sign(kind: string, networkId: Uint8Array, body: Uint8Array): Uint8Array;
}

/** @returns 16 bytes, the same on every node */
export function spaceId(kind: SpaceKind, name: string): Uint8Array {
  return sha256(SPACE_LABEL, Uint8Array.of(kind), utf8(name)).slice(0, ID_BYTES);
}

/** Letters, digits, `.`, `_` and `-`, beginning with a letter or digit, 1–64 characters. */
export function isSpaceName(name: string): boolean {
  return /^[a-z0-9][a-z0-9._-]{0,63}$/.test(name);
}

export function isKey(key: string): boolean {
  return key !== "" && key.isWellFormed() && key.length <= MAX_KEY_BYTES && utf8(key).length <= MAX_KEY_BYTES;
}

/** @param key isKey() @param value at most MAX_VALUE_BYTES; undefined: deleted */
export function signEntry(
  networkId: Uint8Array,
  space: Uint8Array,
  key: string,
  value: Uint8Array | undefined,
  hlc: number,
  signer: EntrySigner,
): Entry {
  const keyBytes = utf8(key);
  const valueBytes = value ?? new Uint8Array(0);
  const body = concat(
    Uint8Array.of(value === undefined ? DELETED : 0, 0),
    u16(keyBytes.length),
    u32(valueBytes.length),
    u64(hlc),
    signer.nodeId,
    keyBytes,
    valueBytes,
  );
  const wire = concat(body, signer.sign(SIGN_KIND, networkId, concat(space, body)));
  return readEntry(space, wire)!;
}

/** Form only: cheap, before anything is verified. @param wire anything; copied @returns undefined when it is malformed */
export function readEntry(space: Uint8Array, wire: Uint8Array): Entry | undefined {
  if (wire.length < ENTRY_MIN_BYTES || wire.length > MAX_ENTRY_BYTES) return undefined;
  const view = new DataView(wire.buffer, wire.byteOffset, wire.byteLength);
  const flags = wire[0];
  const keyBytes = view.getUint16(2, true);
  const valueBytes = view.getUint32(4, true);
  if (flags > DELETED || wire[1] !== 0 || keyBytes < 1 || keyBytes > MAX_KEY_BYTES) return undefined;
  if (valueBytes > MAX_VALUE_BYTES || (flags === DELETED && valueBytes > 0)) return undefined;
  if (HEADER_BYTES + keyBytes + valueBytes + SIGNATURE_BYTES !== wire.length) return undefined;
  const hlc = view.getUint32(8, true) + view.getUint32(12, true) * 4294967296;
  if (hlc > MAX_HLC) return undefined;
  const copy = new Uint8Array(wire);
  const key = readUtf8(copy.subarray(HEADER_BYTES, HEADER_BYTES + keyBytes));
  if (key === undefined) return undefined;
  const id = sha256(space, copy).slice(0, ID_BYTES);
  return {
    key,
    value: flags === DELETED ? undefined : copy.subarray(HEADER_BYTES + keyBytes, HEADER_BYTES + keyBytes + valueBytes),
    hlc,
    author: copy.subarray(16, HEADER_BYTES),
    id,
    idHex: toHex(id),
    wire: copy,
  };
}

export function verifyEntry(networkId: Uint8Array, space: Uint8Array, entry: Entry): boolean {
  const at = entry.wire.length - SIGNATURE_BYTES;
  const body = concat(space, entry.wire.subarray(0, at));
  return verifySignature(entry.author, SIGN_KIND, networkId, body, entry.wire.subarray(at));
}

/** @returns above 0 when `a` counts and `b` does not */
export function compareEntries(a: Entry, b: Entry): number {
  return a.hlc - b.hlc || compare(a.author, b.author) || compare(a.id, b.id);
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function readUtf8(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    // hostile input, like any other malformed field
    return undefined;
  }
}
