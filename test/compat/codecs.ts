/**
 * Every format that leaves a node, as functions over plain values: what the kept vectors (vectors-N.json) are made and checked with. Binary
 * fields of a value are bytes; in the files they stand as {"hex": "…"}. A format that gets a successor keeps its reader here for as long as the
 * protocol range includes it. Source: docs/protocol.md.
 */
import { Drop } from "../../src/base/drop.ts";
import { type ControlMessage, decodeControl, encodeControl } from "../../src/mesh/control.ts";
import { openEndpoints, signEndpoints } from "../../src/mesh/endpoints.ts";
import { decodeToken, encodeToken, type InviteToken } from "../../src/mesh/invite.ts";
import { systemKeys } from "../../src/mesh/keys.ts";
import { openStatement, signStatement, statementHash } from "../../src/mesh/statement.ts";
import {
  DataHeader,
  decodeDataHeader,
  decodeInnerHeader,
  encodeDataHeader,
  encodeInnerHeader,
  InnerHeader,
} from "../../src/wire/data.ts";
import { decodeFragment, encodeFragment, FragmentHeader } from "../../src/wire/fragment.ts";
import { decodeProbe, decodeProbeAck, encodeProbe, encodeProbeAck, Probe, ProbeAck } from "../../src/wire/probe.ts";
import { decodeReport, encodeReport, Report } from "../../src/wire/report.ts";
import { decodeTransit, encodeTransitError, TransitHeader, TRANSIT_FLAG_ERROR } from "../../src/wire/transit.ts";
import type { CborMap } from "../../src/mesh/cbor.ts";
import { handshakeTranscript, type HandshakeInputs } from "./transcript.ts";

export type Value = unknown;

export interface Codec {
  /** @throws when the bytes are refused */
  readonly decode: (bytes: Uint8Array, input: Value) => Value;
  /** @param input the value, or what it is made from (`made from` in the file) */
  readonly encode: (input: Value) => Uint8Array;
}

const room = (): { u8: Uint8Array; view: DataView } => {
  const u8 = new Uint8Array(256);
  return { u8, view: new DataView(u8.buffer) };
};

/** A codec over one reused object with numeric fields. */
function fields<T extends object>(
  make: () => T,
  decode: (view: DataView, bytes: number, out: T) => number,
  encode: (u8: Uint8Array, view: DataView, value: T) => number,
): Codec {
  return {
    decode: (bytes) => {
      const out = make();
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      if (decode(view, bytes.length, out) !== Drop.NONE) throw new Error("refused");
      return { ...out };
    },
    encode: (value) => {
      const { u8, view } = room();
      return u8.slice(0, encode(u8, view, Object.assign(make(), value as T)));
    },
  };
}

interface SignedEndpoints {
  readonly seed: Uint8Array;
  readonly networkId: Uint8Array;
  readonly endpoints: readonly Uint8Array[];
  readonly urls: readonly string[];
  readonly hlc: number;
  readonly expiresAtMs: number;
}

interface SignedStatement {
  readonly seed: Uint8Array;
  /** undefined in a genesis, whose own hash is the network's id */
  readonly networkId: Uint8Array | undefined;
  readonly parents: readonly Uint8Array[];
  readonly hlc: number;
  readonly kind: string;
  readonly body: CborMap;
}

export const CODECS: Readonly<Record<string, Codec>> = {
  "data header": fields(
    () => new DataHeader(),
    (view, bytes, out) => decodeDataHeader(view, 0, bytes, out),
    (_, view, value) => {
      encodeDataHeader(view, 0, value.receiver, value.counterLow, value.counterHigh);
      return 36;
    },
  ),
  "inner header": fields(
    () => new InnerHeader(),
    (view, bytes, out) => decodeInnerHeader(view, 0, bytes, out),
    (_, view, value) => encodeInnerHeader(view, 0, value.kind, value.flags, value.aux),
  ),
  probe: fields(
    () => new Probe(),
    (view, bytes, out) => decodeProbe(view, 0, bytes, out),
    (u8, view, value) => encodeProbe(u8, view, 0, value, 44),
  ),
  "probe ack": {
    decode: (bytes) => {
      const ack = new ProbeAck();
      if (decodeProbeAck(new DataView(bytes.buffer, bytes.byteOffset), 0, bytes.length, ack) !== Drop.NONE)
        throw new Error("refused");
      return { ...ack };
    },
    encode: (value) => {
      const { u8, view } = room();
      const ack = value as ProbeAck & { readonly address: Uint8Array; readonly port: number };
      const probe = Object.assign(new Probe(), ack, { timestampUs: ack.echoedTimestampUs });
      u8.set(ack.address, 128);
      return u8.slice(0, encodeProbeAck(view, 0, probe, 128, ack.port, ack.datagramBytes, ack.timestampUs));
    },
  },
  report: fields(
    () => new Report(),
    (view, bytes, out) => decodeReport(view, 0, bytes, out),
    (_, view, value) => encodeReport(view, 0, value),
  ),
  fragment: fields(
    () => new FragmentHeader(),
    (view, bytes, out) => decodeFragment(view, 0, bytes, out),
    (u8, view, value) => {
      const at = encodeFragment(view, 0, value);
      u8.fill(0xab, at, at + 4);
      return at + 4;
    },
  ),
  "transit error": fields(
    () => new TransitHeader(),
    (view, bytes, out) => decodeTransit(view, 0, bytes, TRANSIT_FLAG_ERROR, out),
    (_, view, value) => encodeTransitError(view, 0, value.label, value.code),
  ),
  control: {
    decode: (bytes) => {
      const message = decodeControl(bytes);
      if (typeof message === "string") throw new Error(message);
      return message;
    },
    encode: (value) => encodeControl(value as ControlMessage),
  },
  token: {
    decode: (bytes) => decodeToken(Buffer.from(bytes).toString("ascii")),
    encode: (value) => Uint8Array.from(Buffer.from(encodeToken(value as InviteToken), "ascii")),
  },
  endpoints: {
    decode: (bytes, input) => {
      const message = openEndpoints(bytes, (input as SignedEndpoints).networkId, systemKeys);
      if (message === undefined) throw new Error("refused");
      const { endpoints, urls, hlc, expiresAtMs, nodeId } = message;
      return { endpoints, urls, hlc, expiresAtMs, nodeId };
    },
    encode: (input) => {
      const { seed, networkId, endpoints, urls, hlc, expiresAtMs } = input as SignedEndpoints;
      return signEndpoints(endpoints, hlc, expiresAtMs, networkId, systemKeys.signerFromSeed(seed), urls).wire;
    },
  },
  statement: {
    decode: (bytes, input) => {
      const statement = openStatement(bytes, (input as SignedStatement).networkId ?? statementHash(bytes), systemKeys);
      if (typeof statement === "string") throw new Error(statement);
      const { hash, issuer, parents, hlc, kind, body } = statement;
      return { hash, issuer, parents, hlc, kind, body };
    },
    encode: (input) => {
      const { seed, ...statement } = input as SignedStatement;
      return signStatement(statement, systemKeys.signerFromSeed(seed));
    },
  },
  /** Both messages, the keys of the classic and the hybrid epoch, and a cookie: one after the other. */
  handshake: {
    decode: (bytes, input) => {
      const transcript = handshakeTranscript(input as HandshakeInputs);
      if (!Buffer.from(transcript.bytes).equals(bytes)) throw new Error("another transcript");
      return transcript.reading;
    },
    encode: (input) => handshakeTranscript(input as HandshakeInputs).bytes,
  },
};
