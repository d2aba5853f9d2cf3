/**
 * A message to a group: an entry of the group's replicated space, sealed with the key of an epoch.
 *   key    m/EPOCH/AUTHOR/NONCE (decimal; 64 and 32 hexadecimal digits)
 *   value  ChaCha20-Poly1305(HKDF-SHA256(epoch key, salt = nonce, info = "weft group message v1" ‖ author), 0, ad = group ‖ key, payload)
 * Every message has a key of its own, derived from its random nonce, so no counter must be remembered. Only its author may write an entry;
 * its signature (kv/entry.ts) says who that is. Source: docs/protocol.md, "Groups" (messages).
 */
import { concat, fromHex, toHex, utf8 } from "../../base/bytes.ts";
import { chachaOpen, chachaSeal, TAG_BYTES } from "../../crypto/chacha.ts";
import { hkdfSha256 } from "../../crypto/kdf.ts";
import { zeroise } from "../../crypto/secret.ts";
import { FieldReader, u64 } from "../fields.ts";
import { type Entry, MAX_VALUE_BYTES } from "../kv/entry.ts";

export const MESSAGE_NONCE_BYTES = 16;
export const MAX_GROUP_PAYLOAD_BYTES: number = MAX_VALUE_BYTES - TAG_BYTES;
const LABEL = utf8("weft group message v1");
const KEY = /^m\/([1-9][0-9]{0,9})\/([0-9a-f]{64})\/([0-9a-f]{32})$/;

export interface MessageKey {
  readonly epoch: number;
  readonly author: string;
  readonly nonce: Uint8Array;
}

export function messageKey(epoch: number, author: Uint8Array, nonce: Uint8Array): string {
  return `m/${epoch}/${toHex(author)}/${toHex(nonce)}`;
}

export function readMessageKey(key: string): MessageKey | undefined {
  const match = KEY.exec(key);
  const nonce = match === null ? undefined : fromHex(match[3]);
  if (match === null || nonce === undefined) return undefined;
  return { epoch: Number(match[1]), author: match[2], nonce };
}

/** Key of the one entry that is no message: the hlc below which messages are not wanted any more, u64, because the space was full. */
export const FLOOR_KEY = "floor";

export function floorValue(hlc: number): Uint8Array {
  return u64(hlc);
}

/** @returns 0 when there is none */
export function floorOf(entry: Entry | undefined): number {
  if (entry?.key !== FLOOR_KEY || entry.value === undefined) return 0;
  const reader = new FieldReader(entry.value);
  const hlc = reader.u64();
  return reader.isWhole && hlc <= entry.hlc ? hlc : 0;
}

/** May this entry be in a group's space? Nobody deletes: entries go when their time is over, or below the floor. */
export function isGroupEntry(entry: Entry): boolean {
  if (entry.key === FLOOR_KEY) return floorOf(entry) > 0;
  const key = readMessageKey(entry.key);
  return key !== undefined && entry.value !== undefined && key.author === toHex(entry.author);
}

export function sealMessage(
  epochKey: Uint8Array,
  group: Uint8Array,
  author: Uint8Array,
  key: string,
  nonce: Uint8Array,
  payload: Uint8Array,
): Uint8Array {
  const sealing = hkdfSha256(epochKey, nonce, concat(LABEL, author), 32);
  const sealed = chachaSeal(sealing, 0, concat(group, utf8(key)), payload);
  zeroise(sealing);
  return sealed;
}

/** @returns undefined when it was not sealed with this key */
export function openMessage(epochKey: Uint8Array, group: Uint8Array, entry: Entry): Uint8Array | undefined {
  const key = readMessageKey(entry.key);
  if (key === undefined || entry.value === undefined) return undefined;
  const sealing = hkdfSha256(epochKey, key.nonce, concat(LABEL, entry.author), 32);
  const payload = chachaOpen(sealing, 0, concat(group, utf8(entry.key)), entry.value);
  zeroise(sealing);
  return payload;
}
