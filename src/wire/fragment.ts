/**
 * Header of inner kind 9 (fragment), little-endian: a piece of one inner message that does not fit the path and may not be refused.
 *   0 id u32 | 4 index u8 | 5 count u8, 1–4 | 6 kind of the whole u8 | 7 its flags u8 | 8 bytes
 * The aux field of the inner header is the whole message's. Source: docs/protocol.md, "Data".
 */
import { Drop } from "../base/drop.ts";
import { INNER_KIND_COUNT, InnerKind } from "./data.ts";

export const FRAGMENT_HEADER_BYTES = 8;
export const FRAGMENT_MAX_COUNT = 4;

/** Every field is overwritten when the result is `Drop.NONE`. */
export class FragmentHeader {
  id = 0;
  index = 0;
  count = 0;
  kind = 0;
  flags = 0;
}

/**
 * @param bytes payload length @returns BAD_INNER when short, empty, out of range or itself about a fragment, else NONE
 */
export function decodeFragment(view: DataView, offset: number, bytes: number, out: FragmentHeader): Drop {
  if (bytes <= FRAGMENT_HEADER_BYTES) return Drop.BAD_INNER;
  const index = view.getUint8(offset + 4);
  const count = view.getUint8(offset + 5);
  const kind = view.getUint8(offset + 6);
  if (count < 1 || count > FRAGMENT_MAX_COUNT || index >= count) return Drop.BAD_INNER;
  if (kind >= INNER_KIND_COUNT || kind === InnerKind.FRAGMENT) return Drop.BAD_INNER;
  out.id = view.getUint32(offset, true);
  out.index = index;
  out.count = count;
  out.kind = kind;
  out.flags = view.getUint8(offset + 7);
  return Drop.NONE;
}

/** @returns bytes written (FRAGMENT_HEADER_BYTES) */
export function encodeFragment(view: DataView, offset: number, header: FragmentHeader): number {
  view.setUint32(offset, header.id, true);
  view.setUint8(offset + 4, header.index);
  view.setUint8(offset + 5, header.count);
  view.setUint8(offset + 6, header.kind);
  view.setUint8(offset + 7, header.flags);
  return FRAGMENT_HEADER_BYTES;
}
