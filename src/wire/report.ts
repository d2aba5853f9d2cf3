/**
 * Payload of inner kind 5 (report): what arrived on one path, little-endian. Source: docs/protocol.md, "Paths".
 *
 *   0 path id u16, as the sender of the packets numbers it | 2 CE-marked packets u16, wraps | 4 zero u32 | 8 highest counter u64
 *   16 packets received u64 | 24 bytes received u64, both since the path began | 32 own timestamp u32 µs, wraps
 *   36 echo of the last timestamp received on the path u32, 0 = none | 40 time between that one's arrival and this report u32 µs
 */
import { Drop } from "../base/drop.ts";

export const REPORT_BYTES = 44;

const TWO_32 = 4294967296;
/** Larger totals than 2^53 − 1 are no totals. */
const MAX_HIGH = 0x1fffff;

/** Counts are exact doubles below 2^53. Every field is overwritten when decoding returns `Drop.NONE`. */
export class Report {
  pathId = 0;
  ceCount = 0;
  highestCounter = 0;
  packets = 0;
  receivedBytes = 0;
  timestampUs = 0;
  echoUs = 0;
  holdUs = 0;
}

/** @param bytes payload length; more than a report is ignored @returns BAD_INNER when short or with impossible totals, else NONE */
export function decodeReport(view: DataView, offset: number, bytes: number, out: Report): Drop {
  if (bytes < REPORT_BYTES) return Drop.BAD_INNER;
  const counterHigh = view.getUint32(offset + 12, true);
  const packetsHigh = view.getUint32(offset + 20, true);
  const bytesHigh = view.getUint32(offset + 28, true);
  if (counterHigh > MAX_HIGH || packetsHigh > MAX_HIGH || bytesHigh > MAX_HIGH) return Drop.BAD_INNER;
  out.pathId = view.getUint16(offset, true);
  out.ceCount = view.getUint16(offset + 2, true);
  out.highestCounter = counterHigh * TWO_32 + view.getUint32(offset + 8, true);
  out.packets = packetsHigh * TWO_32 + view.getUint32(offset + 16, true);
  out.receivedBytes = bytesHigh * TWO_32 + view.getUint32(offset + 24, true);
  out.timestampUs = view.getUint32(offset + 32, true);
  out.echoUs = view.getUint32(offset + 36, true);
  out.holdUs = view.getUint32(offset + 40, true);
  return Drop.NONE;
}

/** @returns bytes written (REPORT_BYTES) */
export function encodeReport(view: DataView, offset: number, report: Report): number {
  view.setUint16(offset, report.pathId, true);
  view.setUint16(offset + 2, report.ceCount & 0xffff, true);
  view.setUint32(offset + 4, 0, true);
  setU64(view, offset + 8, report.highestCounter);
  setU64(view, offset + 16, report.packets);
  setU64(view, offset + 24, report.receivedBytes);
  view.setUint32(offset + 32, report.timestampUs, true);
  view.setUint32(offset + 36, report.echoUs, true);
  view.setUint32(offset + 40, report.holdUs, true);
  return REPORT_BYTES;
}

function setU64(view: DataView, offset: number, value: number): void {
  const low = value >>> 0;
  view.setUint32(offset, low, true);
  view.setUint32(offset + 4, (value - low) / TWO_32, true);
}
