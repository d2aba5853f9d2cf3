/**
 * Frames of presence, channel DIRECT, types 56–59.
 *
 *  56 WATCH     subject 32 ‖ version u64         send me the subject's beacons for the next 100 s; the last one I have, 0: none
 *  57 UNWATCH   subject 32
 *  58 BEACON    node 32 ‖ version u64 ‖ status u8 ‖ note length u8 (≤ 128) ‖ note, UTF-8 ‖ signature 64
 *               version: the node's wall clock in ms; status 0 stopping, 1 online, 2 away. Signed with the purpose "presence": the bytes from version
 *               to the end of the note
 *  59 REDIRECT  subject 32 ‖ count u8 (1–8) ‖ node 32 each      the sender has no room: ask one of these
 *
 * Guarantees: whatever the bytes, decoding gives a frame within these bounds or undefined; signatures are not checked here.
 * Source: docs/protocol.md, "Presence".
 */
import { concat } from "../../base/bytes.ts";
import { FieldReader, u64, u8 } from "../fields.ts";

export const PresenceType = { WATCH: 56, UNWATCH: 57, BEACON: 58, REDIRECT: 59 } as const;
export type PresenceType = (typeof PresenceType)[keyof typeof PresenceType];

export const BeaconStatus = { STOPPING: 0, ONLINE: 1, AWAY: 2 } as const;
export type BeaconStatus = (typeof BeaconStatus)[keyof typeof BeaconStatus];

export const BEACON_PURPOSE = "presence";
/** UTF-8 bytes. */
export const MAX_NOTE_BYTES = 128;
export const MAX_REDIRECTS = 8;
const NODE_BYTES = 32;
const SIGNATURE_BYTES = 64;

export interface Beacon {
  readonly node: Uint8Array;
  readonly version: number;
  readonly status: BeaconStatus;
  /** At most MAX_NOTE_BYTES of UTF-8. */
  readonly note: Uint8Array;
  readonly signature: Uint8Array;
}

export type PresenceFrame =
  | { readonly type: typeof PresenceType.WATCH; readonly subject: Uint8Array; readonly version: number }
  | { readonly type: typeof PresenceType.UNWATCH; readonly subject: Uint8Array }
  | { readonly type: typeof PresenceType.BEACON; readonly beacon: Beacon }
  | {
      readonly type: typeof PresenceType.REDIRECT;
      readonly subject: Uint8Array;
      readonly nodes: readonly Uint8Array[];
    };

/** What is signed in a beacon. */
export function beaconBody(beacon: Pick<Beacon, "version" | "status" | "note">): Uint8Array {
  return concat(u64(beacon.version), u8(beacon.status), u8(beacon.note.length), beacon.note);
}

export function encodePresence(frame: PresenceFrame): Uint8Array {
  const type = u8(frame.type);
  switch (frame.type) {
    case PresenceType.WATCH:
      return concat(type, frame.subject, u64(frame.version));
    case PresenceType.UNWATCH:
      return concat(type, frame.subject);
    case PresenceType.BEACON:
      return concat(type, frame.beacon.node, beaconBody(frame.beacon), frame.beacon.signature);
    case PresenceType.REDIRECT:
      return concat(type, frame.subject, u8(frame.nodes.length), ...frame.nodes);
  }
}

/** @param bytes anything */
export function decodePresence(bytes: Uint8Array): PresenceFrame | undefined {
  const reader = new FieldReader(bytes);
  const frame = readBody(reader, reader.u8());
  return reader.isWhole ? frame : undefined;
}

function readBody(reader: FieldReader, type: number): PresenceFrame | undefined {
  switch (type) {
    case PresenceType.WATCH: {
      const subject = reader.bytes(NODE_BYTES);
      return { type, subject, version: reader.u64() };
    }
    case PresenceType.UNWATCH:
      return { type, subject: reader.bytes(NODE_BYTES) };
    case PresenceType.BEACON: {
      const node = reader.bytes(NODE_BYTES);
      const version = reader.u64();
      const status = reader.u8();
      const noteBytes = reader.u8();
      if (status > BeaconStatus.AWAY || noteBytes > MAX_NOTE_BYTES) return undefined;
      const note = reader.bytes(noteBytes);
      const signature = reader.bytes(SIGNATURE_BYTES);
      return { type, beacon: { node, version, status: status as BeaconStatus, note, signature } };
    }
    case PresenceType.REDIRECT: {
      const subject = reader.bytes(NODE_BYTES);
      const count = reader.u8();
      if (count < 1 || count > MAX_REDIRECTS || reader.left !== count * NODE_BYTES) return undefined;
      const nodes: Uint8Array[] = [];
      for (let i = 0; i < count; i++) nodes.push(reader.bytes(NODE_BYTES));
      return { type, subject, nodes };
    }
    default:
      return undefined;
  }
}
