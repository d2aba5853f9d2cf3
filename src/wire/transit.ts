/**
 * Payload of inner kind 4 (transit), little-endian: a datagram on its way between two nodes that have no direct path, carried inside the session of
 * two that have one.
 *   0 label u32 | 4 one whole datagram                 flags 0
 *   0 label u32 | 4 code u8                            flag 2: error, goes back to the sender of what came under the label
 * A label belongs to the pair (receiver, sender): the receiver picks it, random and not zero. Source: docs/protocol.md, "Vias".
 */
import { Drop } from "../base/drop.ts";

export const TRANSIT_LABEL_BYTES = 4;
export const TRANSIT_ERROR_BYTES = 5;
/** Flag bit of the inner header: the payload is an error. */
export const TRANSIT_FLAG_ERROR = 2;

/** Why a node could not hand a datagram on. */
export const TransitError = {
  /** Label that the receiver did not give to the sender, or has taken back. */
  UNKNOWN_LABEL: 1,
  /** No session with, or no direct path to, the next node. */
  NO_PATH: 2,
} as const;

/** Reused between packets: every field is overwritten when the result is `Drop.NONE`. */
export class TransitHeader {
  label = 0;
  isError = false;
  /** 0 unless it is an error. */
  code = 0;
}

/** @param bytes of the payload from `offset`; anything may be in it @returns BAD_INNER or NONE */
export function decodeTransit(view: DataView, offset: number, bytes: number, flags: number, out: TransitHeader): Drop {
  if (bytes <= TRANSIT_LABEL_BYTES) return Drop.BAD_INNER;
  const isError = flags === TRANSIT_FLAG_ERROR;
  if (!isError && flags !== 0) return Drop.BAD_INNER;
  if (isError && bytes < TRANSIT_ERROR_BYTES) return Drop.BAD_INNER;
  const label = view.getUint32(offset, true);
  if (label === 0) return Drop.BAD_INNER;
  out.label = label;
  out.isError = isError;
  out.code = isError ? view.getUint8(offset + TRANSIT_LABEL_BYTES) : 0;
  return Drop.NONE;
}

/** @returns bytes written (TRANSIT_ERROR_BYTES); the inner header carries TRANSIT_FLAG_ERROR */
export function encodeTransitError(view: DataView, offset: number, label: number, code: number): number {
  view.setUint32(offset, label, true);
  view.setUint8(offset + TRANSIT_LABEL_BYTES, code);
  return TRANSIT_ERROR_BYTES;
}
