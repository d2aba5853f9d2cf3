/**
 * Payloads of inner kinds 7 (probe) and 8 (probe ack), little-endian. Source: docs/protocol.md, "Paths".
 *
 *   probe: 0 transaction id 8 | 8 sender timestamp u32 µs, wraps | 12 path id u16 | 14 flags u16 | 16 zero 8 | 24 padding, zero
 *   ack:   0 transaction id 8 | 8 echoed timestamp u32 | 12 echoed path id u16 | 14 echoed flags u16 | 16 observed source address 16 (v4-mapped)
 *          32 observed port u16 | 34 bytes of the probe's datagram as received u16 | 36 own timestamp u32 | 40 zero u32
 *
 * A probe is padded to at least the size of the ack, so an answer is never larger than the question.
 */
import { Drop } from "../base/drop.ts";

export const PROBE_ACK_BYTES = 44;
/** Smallest probe payload, padding included; shorter ones are not answered. */
export const PROBE_MIN_BYTES: number = PROBE_ACK_BYTES;
const PROBE_FIXED_BYTES = 24;

/** Bit of the flags: the probe is padded to find out whether its size passes. */
export const PROBE_FLAG_MTU = 1;

/** Offset of the 18 bytes "observed address ‖ port" within an ack: the form of base/endpoint.ts. */
export const PROBE_ACK_OBSERVED = 16;

/** Every field is overwritten when the result is `Drop.NONE`. */
export class Probe {
  transactionLow = 0;
  transactionHigh = 0;
  timestampUs = 0;
  pathId = 0;
  flags = 0;
}

/** @param bytes payload length @returns BAD_INNER when shorter than PROBE_MIN_BYTES or without a path id, else NONE */
export function decodeProbe(view: DataView, offset: number, bytes: number, out: Probe): Drop {
  if (bytes < PROBE_MIN_BYTES) return Drop.BAD_INNER;
  const pathId = view.getUint16(offset + 12, true);
  if (pathId === 0) return Drop.BAD_INNER;
  out.transactionLow = view.getUint32(offset, true);
  out.transactionHigh = view.getUint32(offset + 4, true);
  out.timestampUs = view.getUint32(offset + 8, true);
  out.pathId = pathId;
  out.flags = view.getUint16(offset + 14, true);
  return Drop.NONE;
}

/** Writes a probe and zeroes its padding. @param bytes payload length, ≥ PROBE_MIN_BYTES @returns bytes */
export function encodeProbe(u8: Uint8Array, view: DataView, offset: number, probe: Probe, bytes: number): number {
  view.setUint32(offset, probe.transactionLow, true);
  view.setUint32(offset + 4, probe.transactionHigh, true);
  view.setUint32(offset + 8, probe.timestampUs, true);
  view.setUint16(offset + 12, probe.pathId, true);
  view.setUint16(offset + 14, probe.flags, true);
  u8.fill(0, offset + 16, offset + Math.max(bytes, PROBE_FIXED_BYTES));
  return bytes;
}

/** Every field is overwritten when the result is `Drop.NONE`; the observed address stays in the payload at PROBE_ACK_OBSERVED. */
export class ProbeAck {
  transactionLow = 0;
  transactionHigh = 0;
  echoedTimestampUs = 0;
  pathId = 0;
  flags = 0;
  /** UDP payload bytes of the probe as the peer received it. */
  datagramBytes = 0;
  timestampUs = 0;
}

/** @param bytes payload length; more than an ack is ignored @returns BAD_INNER when short, else NONE */
export function decodeProbeAck(view: DataView, offset: number, bytes: number, out: ProbeAck): Drop {
  if (bytes < PROBE_ACK_BYTES) return Drop.BAD_INNER;
  out.transactionLow = view.getUint32(offset, true);
  out.transactionHigh = view.getUint32(offset + 4, true);
  out.echoedTimestampUs = view.getUint32(offset + 8, true);
  out.pathId = view.getUint16(offset + 12, true);
  out.flags = view.getUint16(offset + 14, true);
  out.datagramBytes = view.getUint16(offset + 34, true);
  out.timestampUs = view.getUint32(offset + 36, true);
  return Drop.NONE;
}

/**
 * Writes the answer to `probe`.
 * @param addressOffset of the 16-byte v4-mapped address that the probe came from @param port where it came from
 * @returns bytes written (PROBE_ACK_BYTES)
 */
export function encodeProbeAck(
  view: DataView,
  offset: number,
  probe: Probe,
  addressOffset: number,
  port: number,
  datagramBytes: number,
  timestampUs: number,
): number {
  view.setUint32(offset, probe.transactionLow, true);
  view.setUint32(offset + 4, probe.transactionHigh, true);
  view.setUint32(offset + 8, probe.timestampUs, true);
  view.setUint16(offset + 12, probe.pathId, true);
  view.setUint16(offset + 14, probe.flags, true);
  for (let i = 0; i < 16; i += 4) view.setUint32(offset + 16 + i, view.getUint32(addressOffset + i));
  view.setUint16(offset + 32, port, true);
  view.setUint16(offset + 34, datagramBytes, true);
  view.setUint32(offset + 36, timestampUs, true);
  view.setUint32(offset + 40, 0, true);
  return PROBE_ACK_BYTES;
}
