/**
 * Bytes of the messages between control thread and worker. First byte 0: the structured clone of node:v8, for rare messages (both
 * ends are threads of one process, so the format never leaves it). First byte 1: an inner message, laid out by hand because it may
 * be frequent:
 *   0 tag u8 = 1 | 1 inner kind u8 | 2 flags u8 | 3 zero u8 | 4 aux u16 | 6 zero u16 | 8 peer u32 | 12 zero u32 | 16 epoch id f64 | 24 payload
 * The payload of a stream's datagram (kind 3), which is used at once, shares the record's memory when read; nothing else does.
 * First byte 2 and 3: a datagram into (channelIn) or out of (channelOut) the data plane through a channel:
 *   0 tag u8 | 1 zero, 3 bytes | 4 channel id u32 | 8 datagram
 */
import { deserialize, serialize } from "node:v8";
import { InnerKind } from "../wire/data.ts";
import type { Command, PlaneEvent } from "./messages.ts";

export const INNER_HEADER = 24;
const CHANNEL_HEADER = 8;
const TAG_INNER = 1;
const TAG_CHANNEL_IN = 2;
const TAG_CHANNEL_OUT = 3;

function encode(message: Command | PlaneEvent): Uint8Array {
  if (message.kind === "inner") {
    const out = new Uint8Array(INNER_HEADER + message.payload.length);
    writeInnerHeader(message, new DataView(out.buffer));
    out.set(message.payload, INNER_HEADER);
    return out;
  }
  if (message.kind === "channelIn" || message.kind === "channelOut") {
    const out = new Uint8Array(CHANNEL_HEADER + message.datagram.length);
    out[0] = message.kind === "channelIn" ? TAG_CHANNEL_IN : TAG_CHANNEL_OUT;
    new DataView(out.buffer).setUint32(4, message.id, true);
    out.set(message.datagram, CHANNEL_HEADER);
    return out;
  }
  const body = serialize(message);
  const out = new Uint8Array(1 + body.length);
  out.set(body, 1);
  return out;
}

function decode(record: Uint8Array): Command | PlaneEvent {
  if (record[0] === TAG_CHANNEL_IN || record[0] === TAG_CHANNEL_OUT) {
    return {
      kind: record[0] === TAG_CHANNEL_IN ? "channelIn" : "channelOut",
      id: new DataView(record.buffer, record.byteOffset, record.byteLength).getUint32(4, true),
      datagram: record.slice(CHANNEL_HEADER),
    };
  }
  if (record[0] === TAG_INNER) {
    const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
    return {
      kind: "inner",
      innerKind: record[1],
      flags: record[2],
      aux: view.getUint16(4, true),
      peer: view.getUint32(8, true),
      epochId: view.getFloat64(16, true),
      payload: record[1] === InnerKind.STREAM ? record.subarray(INNER_HEADER) : record.slice(INNER_HEADER),
    };
  }
  // byte arrays of the result are views of what is deserialised: a copy, so that the caller may overwrite its record
  return deserialize(record.slice(1)) as Command | PlaneEvent;
}

/** For a ring that takes header and payload apart. @param view of INNER_HEADER bytes, all of which are written */
export function writeInnerHeader(
  message: Extract<Command | PlaneEvent, { kind: "inner" }>,
  view: DataView<ArrayBuffer>,
): void {
  view.setUint32(0, TAG_INNER | (message.innerKind << 8) | (message.flags << 16), true);
  view.setUint32(4, message.aux, true);
  view.setUint32(8, message.peer, true);
  view.setUint32(12, 0, true);
  view.setFloat64(16, message.epochId, true);
}

/** Keys travel as structured clones alone. */
export function mayHoldKeys(record: Uint8Array): boolean {
  return record[0] === 0;
}

export function encodeCommand(command: Command): Uint8Array {
  return encode(command);
}

/** @param record one that encodeCommand() made */
export function decodeCommand(record: Uint8Array): Command {
  return decode(record) as Command;
}

export function encodeEvent(event: PlaneEvent): Uint8Array {
  return encode(event);
}

/** @param record one that encodeEvent() made */
export function decodeEvent(record: Uint8Array): PlaneEvent {
  return decode(record) as PlaneEvent;
}
