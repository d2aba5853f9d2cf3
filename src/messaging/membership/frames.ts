/**
 * Frames of the membership overlay, channel MEMBERSHIP, types 1–11. Who sent a frame is the peer of the session that brought it.
 *
 *   1 JOIN             incarnation u64                        the sender is new: become its neighbour, pass the news on
 *   2 FORWARD_JOIN     node 32 ‖ hops u8                      the news, on a random walk with so many steps left
 *   3 NEIGHBOUR        flags u8 ‖ incarnation u64             be my neighbour; 1: the sender has few, 2: at the end of its walk
 *   4 NEIGHBOUR_REPLY  flags u8 ‖ incarnation u64 ‖ nodes     1: yes; nodes: whom to ask else
 *   5 DISCONNECT       reason u8 ‖ nodes ‖ rumours            0 to make room, 1 the sender leaves
 *   6 SHUFFLE          origin 32 ‖ hops u8 ‖ nodes            a part of the origin's views
 *   7 SHUFFLE_REPLY    nodes                                  as many of the receiver's passive view
 *   8 PING             flags u8 ‖ sequence u32 ‖ incarnation u64 ‖ rumours     1: as your neighbour
 *   9 ACK              sequence u32 ‖ incarnation u64 ‖ rumours
 *  10 PING_REQ         sequence u32 ‖ target 32               ping it for me: ACK (its incarnation) or NACK
 *  11 NACK             sequence u32
 *
 *   nodes    count u8 (≤ 8) ‖ node id 32 each
 *   rumours  count u8 (≤ 6) ‖ kind u8 ‖ node 32 ‖ incarnation u64 ‖ accuser 32 (kinds 2, 3) ‖ signature 64 each
 *            1 alive, 4 left: signed by the node, over its incarnation; 2 suspect, 3 dead: by the accuser, over node ‖ incarnation
 *
 * Guarantees: whatever the bytes, decoding gives a frame within these bounds or undefined; signatures are not checked here.
 * Source: docs/protocol.md, "Membership".
 */
import { concat } from "../../base/bytes.ts";
import { FieldReader, u32, u64, u8 } from "../fields.ts";

export const OverlayType = {
  JOIN: 1,
  FORWARD_JOIN: 2,
  NEIGHBOUR: 3,
  NEIGHBOUR_REPLY: 4,
  DISCONNECT: 5,
  SHUFFLE: 6,
  SHUFFLE_REPLY: 7,
  PING: 8,
  ACK: 9,
  PING_REQ: 10,
  NACK: 11,
} as const;
export type OverlayType = (typeof OverlayType)[keyof typeof OverlayType];

/** FEW: fewer than half of the neighbours it wants. */
export const NeighbourFlag = { FEW: 1, WALK: 2 } as const;
export const REPLY_ACCEPTED = 1;
export const PING_AS_NEIGHBOUR = 1;
export const Disconnect = { ROOM: 0, LEAVING: 1 } as const;
export type Disconnect = (typeof Disconnect)[keyof typeof Disconnect];

export const MAX_NODES = 8;
export const MAX_RUMOURS = 6;
/** Steps that a walk may still have, whatever the frame says. */
export const MAX_HOPS = 8;
const NODE_BYTES = 32;
const SIGNATURE_BYTES = 64;

export const RumourKind = { ALIVE: 1, SUSPECT: 2, DEAD: 3, LEFT: 4 } as const;
export type RumourKind = (typeof RumourKind)[keyof typeof RumourKind];

export interface Rumour {
  readonly kind: RumourKind;
  readonly node: Uint8Array;
  readonly incarnation: number;
  /** Who signed it: the node itself for ALIVE and LEFT. */
  readonly accuser: Uint8Array;
  readonly signature: Uint8Array;
}

export type OverlayFrame =
  | { readonly type: typeof OverlayType.JOIN; readonly incarnation: number }
  | { readonly type: typeof OverlayType.FORWARD_JOIN; readonly node: Uint8Array; readonly hops: number }
  | { readonly type: typeof OverlayType.NEIGHBOUR; readonly flags: number; readonly incarnation: number }
  | {
      readonly type: typeof OverlayType.NEIGHBOUR_REPLY;
      readonly flags: number;
      readonly incarnation: number;
      readonly nodes: readonly Uint8Array[];
    }
  | {
      readonly type: typeof OverlayType.DISCONNECT;
      readonly reason: number;
      readonly nodes: readonly Uint8Array[];
      readonly rumours: readonly Rumour[];
    }
  | {
      readonly type: typeof OverlayType.SHUFFLE;
      readonly origin: Uint8Array;
      readonly hops: number;
      readonly nodes: readonly Uint8Array[];
    }
  | { readonly type: typeof OverlayType.SHUFFLE_REPLY; readonly nodes: readonly Uint8Array[] }
  | {
      readonly type: typeof OverlayType.PING;
      readonly flags: number;
      readonly sequence: number;
      readonly incarnation: number;
      readonly rumours: readonly Rumour[];
    }
  | {
      readonly type: typeof OverlayType.ACK;
      readonly sequence: number;
      readonly incarnation: number;
      readonly rumours: readonly Rumour[];
    }
  | { readonly type: typeof OverlayType.PING_REQ; readonly sequence: number; readonly target: Uint8Array }
  | { readonly type: typeof OverlayType.NACK; readonly sequence: number };

function nodeList(nodes: readonly Uint8Array[]): Uint8Array {
  return concat(u8(nodes.length), ...nodes);
}

function isAccusation(kind: number): boolean {
  return kind === RumourKind.SUSPECT || kind === RumourKind.DEAD;
}

function rumourList(rumours: readonly Rumour[]): Uint8Array {
  const parts: Uint8Array[] = [u8(rumours.length)];
  for (const { kind, node, incarnation, accuser, signature } of rumours) {
    parts.push(u8(kind), node, u64(incarnation));
    if (isAccusation(kind)) parts.push(accuser);
    parts.push(signature);
  }
  return concat(...parts);
}

/** What is signed in a rumour, with its purpose. */
export function rumourBody(rumour: Pick<Rumour, "kind" | "node" | "incarnation">): {
  readonly purpose: string;
  readonly body: Uint8Array;
} {
  const body = isAccusation(rumour.kind) ? concat(rumour.node, u64(rumour.incarnation)) : u64(rumour.incarnation);
  return { purpose: PURPOSES[rumour.kind], body };
}

const PURPOSES: Readonly<Record<RumourKind, string>> = { 1: "alive", 2: "suspect", 3: "dead", 4: "left" };

export function encodeOverlay(frame: OverlayFrame): Uint8Array {
  const type = u8(frame.type);
  switch (frame.type) {
    case OverlayType.JOIN:
      return concat(type, u64(frame.incarnation));
    case OverlayType.FORWARD_JOIN:
      return concat(type, frame.node, u8(frame.hops));
    case OverlayType.NEIGHBOUR:
      return concat(type, u8(frame.flags), u64(frame.incarnation));
    case OverlayType.NEIGHBOUR_REPLY:
      return concat(type, u8(frame.flags), u64(frame.incarnation), nodeList(frame.nodes));
    case OverlayType.DISCONNECT:
      return concat(type, u8(frame.reason), nodeList(frame.nodes), rumourList(frame.rumours));
    case OverlayType.SHUFFLE:
      return concat(type, frame.origin, u8(frame.hops), nodeList(frame.nodes));
    case OverlayType.SHUFFLE_REPLY:
      return concat(type, nodeList(frame.nodes));
    case OverlayType.PING:
      return concat(type, u8(frame.flags), u32(frame.sequence), u64(frame.incarnation), rumourList(frame.rumours));
    case OverlayType.ACK:
      return concat(type, u32(frame.sequence), u64(frame.incarnation), rumourList(frame.rumours));
    case OverlayType.PING_REQ:
      return concat(type, u32(frame.sequence), frame.target);
    case OverlayType.NACK:
      return concat(type, u32(frame.sequence));
  }
}

/** @returns undefined: more than MAX_NODES */
function readNodes(reader: FieldReader): Uint8Array[] | undefined {
  const count = reader.u8();
  if (count > MAX_NODES || reader.left < count * NODE_BYTES) return undefined;
  const nodes: Uint8Array[] = [];
  for (let i = 0; i < count; i++) nodes.push(reader.bytes(NODE_BYTES));
  return nodes;
}

function readRumours(reader: FieldReader): Rumour[] | undefined {
  const count = reader.u8();
  if (count > MAX_RUMOURS) return undefined;
  const rumours: Rumour[] = [];
  for (let i = 0; i < count; i++) {
    const kind = reader.u8();
    if (kind < RumourKind.ALIVE || kind > RumourKind.LEFT) return undefined;
    const node = reader.bytes(NODE_BYTES);
    const incarnation = reader.u64();
    const accuser = isAccusation(kind) ? reader.bytes(NODE_BYTES) : node;
    const signature = reader.bytes(SIGNATURE_BYTES);
    rumours.push({ kind: kind as RumourKind, node, incarnation, accuser, signature });
  }
  return rumours;
}

/** @param bytes anything */
export function decodeOverlay(bytes: Uint8Array): OverlayFrame | undefined {
  const reader = new FieldReader(bytes);
  const frame = readBody(reader, reader.u8());
  return reader.isWhole ? frame : undefined;
}

function readBody(reader: FieldReader, type: number): OverlayFrame | undefined {
  switch (type) {
    case OverlayType.JOIN:
      return { type, incarnation: reader.u64() };
    case OverlayType.FORWARD_JOIN: {
      const node = reader.bytes(NODE_BYTES);
      return { type, node, hops: Math.min(MAX_HOPS, reader.u8()) };
    }
    case OverlayType.NEIGHBOUR: {
      const flags = reader.u8();
      return { type, flags, incarnation: reader.u64() };
    }
    case OverlayType.NEIGHBOUR_REPLY: {
      const flags = reader.u8();
      const incarnation = reader.u64();
      const nodes = readNodes(reader);
      return nodes === undefined ? undefined : { type, flags, incarnation, nodes };
    }
    case OverlayType.DISCONNECT: {
      const reason = reader.u8();
      const nodes = readNodes(reader);
      const rumours = nodes === undefined ? undefined : readRumours(reader);
      return nodes === undefined || rumours === undefined ? undefined : { type, reason, nodes, rumours };
    }
    case OverlayType.SHUFFLE: {
      const origin = reader.bytes(NODE_BYTES);
      const hops = Math.min(MAX_HOPS, reader.u8());
      const nodes = readNodes(reader);
      return nodes === undefined ? undefined : { type, origin, hops, nodes };
    }
    case OverlayType.SHUFFLE_REPLY: {
      const nodes = readNodes(reader);
      return nodes === undefined ? undefined : { type, nodes };
    }
    case OverlayType.PING: {
      const flags = reader.u8();
      const sequence = reader.u32();
      const incarnation = reader.u64();
      const rumours = readRumours(reader);
      return rumours === undefined ? undefined : { type, flags, sequence, incarnation, rumours };
    }
    case OverlayType.ACK: {
      const sequence = reader.u32();
      const incarnation = reader.u64();
      const rumours = readRumours(reader);
      return rumours === undefined ? undefined : { type, sequence, incarnation, rumours };
    }
    case OverlayType.PING_REQ: {
      const sequence = reader.u32();
      return { type, sequence, target: reader.bytes(NODE_BYTES) };
    }
    case OverlayType.NACK:
      return { type, sequence: reader.u32() };
    default:
      return undefined;
  }
}
