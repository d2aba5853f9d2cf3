/**
 * Frames by which replicas of a space compare and complete each other. Little-endian; a space is its id of 16 bytes, a node of the tree
 * (fingerprints.ts) is depth u8 ‖ zero u8 ‖ prefix u16.
 *
 *   hello    0 type 16 | 1 flags u8 (bit 0: answer me) | 2 number u16 | { space 16 ‖ entries u32 ‖ fingerprint 16 } …      what I have, as a whole
 *   tree     0 type 17 | 1 zero u8 | 2 number u16 | 4 space 16 | { node 4 ‖ entries u32 ‖ fingerprint 16 } …                what I have under these nodes
 *   items    0 type 18 | 1 zero u8 | 2 number u16 | 4 space 16 | { node 4 ‖ number u16 ‖ id 16 … } …                        everything I have under these nodes, by id
 *   want     0 type 19 | 1 zero u8 | 2 number u16 | 4 space 16 | id 16 …                                                    send me these
 *   entries  0 type 20 | 1 hops u8 | 2 number u16 | 4 space 16 | { bytes u32 ‖ entry } …                                    hops 255: asked for; else news, handed on `hops` times so far
 *
 * No frame names a space or a node of the tree twice. All on the channel DIRECT, entries that were asked for on BULK.
 * Source: docs/protocol.md, "Replicated stores" (comparison).
 */
import { concat, toHex } from "../../base/bytes.ts";
import { u16, u32 } from "../fields.ts";
import { ID_BYTES, MAX_ENTRY_BYTES } from "./entry.ts";
import { FINGERPRINT_BYTES, LEAF_DEPTH } from "./fingerprints.ts";

export const SyncType = { HELLO: 16, TREE: 17, ITEMS: 18, WANT: 19, ENTRIES: 20 } as const;
export const SYNC_FIRST = 16;
export const SYNC_LAST = 20;

export const MAX_SYNC_FRAME_BYTES = 262_144;
export const MAX_HELLO_SPACES = 64;
export const MAX_TREE_NODES = 512;
export const MAX_ITEM_NODES = 512;
export const MAX_IDS = 4096;
/** Hops of entries that were asked for: they are not handed on. */
export const ASKED = 255;

const NODE_BYTES = 4;
const HEAD_BYTES = 20;
const HELLO_ITEM_BYTES = 36;
const TREE_ITEM_BYTES = 24;

export interface SpaceSummary {
  readonly space: Uint8Array;
  readonly count: number;
  readonly fingerprint: Uint8Array;
}

export interface NodeSummary {
  readonly depth: number;
  readonly prefix: number;
  readonly count: number;
  readonly fingerprint: Uint8Array;
}

export interface NodeItems {
  readonly depth: number;
  readonly prefix: number;
  readonly ids: readonly Uint8Array[];
}

export type SyncMessage =
  | { readonly type: "hello"; readonly wantsAnswer: boolean; readonly spaces: readonly SpaceSummary[] }
  | { readonly type: "tree"; readonly space: Uint8Array; readonly nodes: readonly NodeSummary[] }
  | { readonly type: "items"; readonly space: Uint8Array; readonly nodes: readonly NodeItems[] }
  | { readonly type: "want"; readonly space: Uint8Array; readonly ids: readonly Uint8Array[] }
  | {
      readonly type: "entries";
      readonly space: Uint8Array;
      readonly hops: number;
      readonly entries: readonly Uint8Array[];
    };

export function encodeSync(message: SyncMessage): Uint8Array {
  switch (message.type) {
    case "hello":
      return concat(
        head(SyncType.HELLO, message.wantsAnswer ? 1 : 0, message.spaces.length),
        ...message.spaces.flatMap((one) => [one.space, u32(one.count), one.fingerprint]),
      );
    case "tree":
      return concat(
        head(SyncType.TREE, 0, message.nodes.length),
        message.space,
        ...message.nodes.flatMap((one) => [nodeBytes(one), u32(one.count), one.fingerprint]),
      );
    case "items":
      return concat(
        head(SyncType.ITEMS, 0, message.nodes.length),
        message.space,
        ...message.nodes.flatMap((one) => [nodeBytes(one), u16(one.ids.length), ...one.ids]),
      );
    case "want":
      return concat(head(SyncType.WANT, 0, message.ids.length), message.space, ...message.ids);
    case "entries":
      return concat(
        head(SyncType.ENTRIES, message.hops, message.entries.length),
        message.space,
        ...message.entries.flatMap((one) => [u32(one.length), one]),
      );
  }
}

/** @param frame anything; the result's byte arrays are views into it @returns undefined when it is malformed */
export function decodeSync(frame: Uint8Array): SyncMessage | undefined {
  if (frame.length < 4 || frame.length > MAX_SYNC_FRAME_BYTES) return undefined;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const number = view.getUint16(2, true);
  if (frame[0] === SyncType.HELLO) return readHello(frame, view, number);
  if (frame.length < HEAD_BYTES) return undefined;
  const space = frame.subarray(4, HEAD_BYTES);
  if (frame[0] === SyncType.ENTRIES) return readEntries(frame, view, number, space);
  if (frame[1] !== 0) return undefined;
  switch (frame[0]) {
    case SyncType.TREE:
      return readTree(frame, view, number, space);
    case SyncType.ITEMS:
      return readItems(frame, view, number, space);
    case SyncType.WANT: {
      if (number > MAX_IDS || frame.length !== HEAD_BYTES + number * ID_BYTES) return undefined;
      return { type: "want", space, ids: readIds(frame, HEAD_BYTES, number) };
    }
    default:
      return undefined;
  }
}

function readHello(frame: Uint8Array, view: DataView, number: number): SyncMessage | undefined {
  if (frame[1] > 1 || number > MAX_HELLO_SPACES || frame.length !== 4 + number * HELLO_ITEM_BYTES) return undefined;
  const spaces: SpaceSummary[] = [];
  const named = new Set<string>();
  for (let at = 4; at < frame.length; at += HELLO_ITEM_BYTES) {
    if (isRepeated(named, toHex(frame.subarray(at, at + ID_BYTES)))) return undefined;
    spaces.push({
      space: frame.subarray(at, at + ID_BYTES),
      count: view.getUint32(at + 16, true),
      fingerprint: frame.subarray(at + 20, at + 20 + FINGERPRINT_BYTES),
    });
  }
  return { type: "hello", wantsAnswer: frame[1] === 1, spaces };
}

function readTree(frame: Uint8Array, view: DataView, number: number, space: Uint8Array): SyncMessage | undefined {
  if (number > MAX_TREE_NODES || frame.length !== HEAD_BYTES + number * TREE_ITEM_BYTES) return undefined;
  const nodes: NodeSummary[] = [];
  const named = new Set<number>();
  for (let at = HEAD_BYTES; at < frame.length; at += TREE_ITEM_BYTES) {
    if (!isNode(view, at) || isRepeated(named, view.getUint32(at, true))) return undefined;
    nodes.push({
      depth: frame[at],
      prefix: view.getUint16(at + 2, true),
      count: view.getUint32(at + 4, true),
      fingerprint: frame.subarray(at + 8, at + 8 + FINGERPRINT_BYTES),
    });
  }
  return { type: "tree", space, nodes };
}

function readItems(frame: Uint8Array, view: DataView, number: number, space: Uint8Array): SyncMessage | undefined {
  if (number > MAX_ITEM_NODES) return undefined;
  const nodes: NodeItems[] = [];
  const named = new Set<number>();
  let at = HEAD_BYTES;
  let total = 0;
  for (let i = 0; i < number; i++) {
    if (at + NODE_BYTES + 2 > frame.length || !isNode(view, at)) return undefined;
    if (isRepeated(named, view.getUint32(at, true))) return undefined;
    const count = view.getUint16(at + NODE_BYTES, true);
    const start = at + NODE_BYTES + 2;
    const end = start + count * ID_BYTES;
    total += count;
    if (end > frame.length || total > MAX_IDS) return undefined;
    nodes.push({ depth: frame[at], prefix: view.getUint16(at + 2, true), ids: readIds(frame, start, count) });
    at = end;
  }
  return at === frame.length ? { type: "items", space, nodes } : undefined;
}

function readEntries(frame: Uint8Array, view: DataView, number: number, space: Uint8Array): SyncMessage | undefined {
  const entries: Uint8Array[] = [];
  let at = HEAD_BYTES;
  for (let i = 0; i < number; i++) {
    if (at + 4 > frame.length) return undefined;
    const length = view.getUint32(at, true);
    if (length > MAX_ENTRY_BYTES || at + 4 + length > frame.length) return undefined;
    entries.push(frame.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return at === frame.length ? { type: "entries", space, hops: frame[1], entries } : undefined;
}

function readIds(frame: Uint8Array, start: number, count: number): Uint8Array[] {
  const ids: Uint8Array[] = [];
  for (let i = 0; i < count; i++) ids.push(frame.subarray(start + i * ID_BYTES, start + (i + 1) * ID_BYTES));
  return ids;
}

/** A frame names everything once, so that what it costs is bounded by what is here. */
function isRepeated<T>(named: Set<T>, one: T): boolean {
  const before = named.size;
  return named.add(one).size === before;
}

function isNode(view: DataView, at: number): boolean {
  const depth = view.getUint8(at);
  return depth <= LEAF_DEPTH && view.getUint8(at + 1) === 0 && view.getUint16(at + 2, true) < 1 << (4 * depth);
}

function head(type: number, flags: number, number: number): Uint8Array {
  return Uint8Array.of(type, flags, number & 255, number >>> 8);
}

function nodeBytes(node: { readonly depth: number; readonly prefix: number }): Uint8Array {
  return Uint8Array.of(node.depth, 0, node.prefix & 255, node.prefix >>> 8);
}
