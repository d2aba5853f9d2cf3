/**
 * Frames of the directory, channel DIRECT, types 48–55.
 *
 *  48 VISIT     key 32 ‖ records (0 or 1: the visitor's own)         a follower of the topic comes to a meeting node
 *  49 VISITED   key 32 ‖ again u32 ‖ records (≤ 16)                  a sample; come again after so many seconds; 0: not kept here
 *  50 SHUFFLE   key 32 ‖ records (≤ 9)                               from a follower to a follower: a part of its sample
 *  51 SHUFFLED  key 32 ‖ follows u8 ‖ records (≤ 9)                  0: the sender does not follow this topic
 *  52 WITHDRAW  key 32 ‖ records (1, of role NONE)                   the sender follows no more
 *  53 LEASE     lease, 1–1,024 bytes                                 from the agent's host to its meeting nodes
 *  54 LOCATE    query u32 ‖ agent 32
 *  55 LOCATED   query u32 ‖ agent 32 ‖ lease, 0–1,024 bytes
 *
 *   records  count u8 ‖ node 32 ‖ version u64 ‖ life u32 ‖ role u8 ‖ signature 64 each
 *            version: the node's wall clock in ms; life in seconds, at most 7,200; role 0 none (withdrawn), 1 subscriber, 2 volunteer.
 *            Signed with the purpose "topic": key 32 ‖ version u64 ‖ life u32 ‖ role u8
 *
 * Guarantees: whatever the bytes, decoding gives a frame within these bounds or undefined; signatures are not checked here.
 * Source: docs/protocol.md, "Directory".
 */
import { concat } from "../../base/bytes.ts";
import { FieldReader, u32, u64, u8 } from "../fields.ts";
import { KEY_BYTES } from "./types.ts";

export const DirectoryType = {
  VISIT: 48,
  VISITED: 49,
  SHUFFLE: 50,
  SHUFFLED: 51,
  WITHDRAW: 52,
  LEASE: 53,
  LOCATE: 54,
  LOCATED: 55,
} as const;
export type DirectoryType = (typeof DirectoryType)[keyof typeof DirectoryType];

/** Records in a frame, at most. */
export const MAX_RECORDS = 16;
export const MAX_LEASE_BYTES = 1024;
export const MAX_LIFE_S = 7200;
export const RECORD_PURPOSE = "topic";
const NODE_BYTES = 32;
const SIGNATURE_BYTES = 64;
const RECORD_BYTES = 109;

/** What a record says of its node; TopicRole, and NONE once withdrawn. */
export const RecordRole = { NONE: 0, SUBSCRIBER: 1, VOLUNTEER: 2 } as const;
export type RecordRole = (typeof RecordRole)[keyof typeof RecordRole];

export interface TopicRecord {
  readonly node: Uint8Array;
  /** Wall-clock milliseconds of the node when it signed. */
  readonly version: number;
  readonly lifeS: number;
  readonly role: RecordRole;
  readonly signature: Uint8Array;
}

export type DirectoryFrame =
  | { readonly type: typeof DirectoryType.VISIT; readonly key: Uint8Array; readonly records: readonly TopicRecord[] }
  | {
      readonly type: typeof DirectoryType.VISITED;
      readonly key: Uint8Array;
      readonly againS: number;
      readonly records: readonly TopicRecord[];
    }
  | { readonly type: typeof DirectoryType.SHUFFLE; readonly key: Uint8Array; readonly records: readonly TopicRecord[] }
  | {
      readonly type: typeof DirectoryType.SHUFFLED;
      readonly key: Uint8Array;
      readonly follows: boolean;
      readonly records: readonly TopicRecord[];
    }
  | { readonly type: typeof DirectoryType.WITHDRAW; readonly key: Uint8Array; readonly records: readonly TopicRecord[] }
  | { readonly type: typeof DirectoryType.LEASE; readonly lease: Uint8Array }
  | { readonly type: typeof DirectoryType.LOCATE; readonly query: number; readonly agent: Uint8Array }
  | {
      readonly type: typeof DirectoryType.LOCATED;
      readonly query: number;
      readonly agent: Uint8Array;
      /** Empty: not known. */
      readonly lease: Uint8Array;
    };

/** What is signed in a record of that topic. */
export function recordBody(key: Uint8Array, record: Pick<TopicRecord, "version" | "lifeS" | "role">): Uint8Array {
  return concat(key, u64(record.version), u32(record.lifeS), u8(record.role));
}

function recordList(records: readonly TopicRecord[]): Uint8Array {
  const parts: Uint8Array[] = [u8(records.length)];
  for (const { node, version, lifeS, role, signature } of records)
    parts.push(node, u64(version), u32(lifeS), u8(role), signature);
  return concat(...parts);
}

export function encodeDirectory(frame: DirectoryFrame): Uint8Array {
  const type = u8(frame.type);
  switch (frame.type) {
    case DirectoryType.VISITED:
      return concat(type, frame.key, u32(frame.againS), recordList(frame.records));
    case DirectoryType.SHUFFLED:
      return concat(type, frame.key, u8(frame.follows ? 1 : 0), recordList(frame.records));
    case DirectoryType.VISIT:
    case DirectoryType.SHUFFLE:
    case DirectoryType.WITHDRAW:
      return concat(type, frame.key, recordList(frame.records));
    case DirectoryType.LEASE:
      return concat(type, frame.lease);
    case DirectoryType.LOCATE:
      return concat(type, u32(frame.query), frame.agent);
    case DirectoryType.LOCATED:
      return concat(type, u32(frame.query), frame.agent, frame.lease);
  }
}

/** @returns undefined: too many, or one that cannot be right */
function readRecords(reader: FieldReader, atMost: number): TopicRecord[] | undefined {
  const count = reader.u8();
  if (count > atMost || reader.left !== count * RECORD_BYTES) return undefined;
  const records: TopicRecord[] = [];
  for (let i = 0; i < count; i++) {
    const node = reader.bytes(NODE_BYTES);
    const version = reader.u64();
    const lifeS = reader.u32();
    const role = reader.u8();
    const signature = reader.bytes(SIGNATURE_BYTES);
    if (lifeS > MAX_LIFE_S || role > RecordRole.VOLUNTEER) return undefined;
    records.push({ node, version, lifeS, role: role as RecordRole, signature });
  }
  return records;
}

/** @param bytes anything */
export function decodeDirectory(bytes: Uint8Array): DirectoryFrame | undefined {
  const reader = new FieldReader(bytes);
  const frame = readBody(reader, reader.u8());
  return reader.isWhole ? frame : undefined;
}

function readBody(reader: FieldReader, type: number): DirectoryFrame | undefined {
  switch (type) {
    case DirectoryType.VISIT:
    case DirectoryType.WITHDRAW: {
      const key = reader.bytes(KEY_BYTES);
      const records = readRecords(reader, 1);
      return records === undefined ? undefined : { type, key, records };
    }
    case DirectoryType.SHUFFLE: {
      const key = reader.bytes(KEY_BYTES);
      const records = readRecords(reader, MAX_RECORDS);
      return records === undefined ? undefined : { type, key, records };
    }
    case DirectoryType.VISITED: {
      const key = reader.bytes(KEY_BYTES);
      const againS = reader.u32();
      const records = readRecords(reader, MAX_RECORDS);
      return records === undefined ? undefined : { type, key, againS, records };
    }
    case DirectoryType.SHUFFLED: {
      const key = reader.bytes(KEY_BYTES);
      const follows = reader.u8() === 1;
      const records = readRecords(reader, MAX_RECORDS);
      return records === undefined ? undefined : { type, key, follows, records };
    }
    case DirectoryType.LEASE:
      return reader.left < 1 || reader.left > MAX_LEASE_BYTES ? undefined : { type, lease: reader.bytes(reader.left) };
    case DirectoryType.LOCATE: {
      const query = reader.u32();
      return { type, query, agent: reader.bytes(KEY_BYTES) };
    }
    case DirectoryType.LOCATED: {
      const query = reader.u32();
      const agent = reader.bytes(KEY_BYTES);
      if (reader.left > MAX_LEASE_BYTES) return undefined;
      return { type, query, agent, lease: reader.bytes(reader.left) };
    }
    default:
      return undefined;
  }
}
