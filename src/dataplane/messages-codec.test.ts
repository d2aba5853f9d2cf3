import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeCommand, decodeEvent, encodeCommand, encodeEvent } from "./messages-codec.ts";
import type { Command, PlaneEvent } from "./messages.ts";

const endpoint = new Uint8Array(18).fill(7);

test("commands are read as they were written, and do not share memory with their record", () => {
  const commands: Command[] = [
    { kind: "via", id: 0xffff_ffff, hop: 3, out: 0x8000_0000, in: 1, pathKind: 2 },
    { kind: "viaRemove", id: 5 },
    { kind: "forward", label: 0xffff_fffe, from: 1, to: 2, out: 9, bytesPerSecond: 125_000 },
    { kind: "forwardRemove", label: 4, from: 1 },
    { kind: "channel", id: 7, open: true },
    { kind: "channelIn", id: 0xffff_ffff, datagram: new Uint8Array([1, 2, 3]) },
    { kind: "raw", to: endpoint, datagram: new Uint8Array(20) },
    { kind: "paths", peer: 3, token: 12 },
    { kind: "inner", peer: 2, epochId: 2 ** 40, innerKind: 2, flags: 1, aux: 65_535, payload: new Uint8Array([9]) },
  ];
  for (const command of commands) {
    const record = encodeCommand(command);
    const read = decodeCommand(record);
    record.fill(0);
    assert.deepEqual(read, command);
  }
});

test("events are read as they were written", () => {
  const events: PlaneEvent[] = [
    { kind: "viaFailed", id: 4_000_000_000, code: 2 },
    { kind: "forwardExpired", label: 4_000_000_000, from: 2 },
    { kind: "channelOut", id: 3, datagram: new Uint8Array(1_400).fill(5) },
    { kind: "channelOut", id: 3, datagram: new Uint8Array(0) },
    { kind: "stun", from: endpoint, datagram: new Uint8Array(32) },
    {
      kind: "paths",
      peer: 1,
      token: 2,
      paths: [
        {
          endpoint,
          local: new Uint8Array(16).fill(7),
          socket: 3,
          active: true,
          duplicate: false,
          state: 2,
          reason: "probes are answered",
          rttMs: 1.25,
          lossRatio: 0,
          mtuBytes: 1_500,
          lastReceivedAgoMs: -1,
        },
      ],
    },
  ];
  for (const event of events) {
    const record = encodeEvent(event);
    const read = decodeEvent(record);
    record.fill(0);
    // byte arrays come back as Buffers of the same bytes
    assert.deepEqual(JSON.parse(JSON.stringify(read, plain)), JSON.parse(JSON.stringify(event, plain)));
  }
});

function plain(_key: string, value: unknown): unknown {
  return value instanceof Uint8Array ? Array.from(value) : value;
}
