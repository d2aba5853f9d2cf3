/**
 * Which of two paths is the better one: direct over relay over channel over transit, then round-trip time and loss together; and by how much it must be
 * better before traffic moves. Source: docs/protocol.md, "Paths".
 */

/** How a path reaches the peer; a lower number is preferred whatever its figures. A channel is a relay over TCP: the last of the relays. */
export const PathKind = { DIRECT: 0, RELAY: 1, CHANNEL: 2, TRANSIT: 3 } as const;
export type PathKind = (typeof PathKind)[keyof typeof PathKind];

const KIND_COST_MS = 1e6;
/** One percent of loss weighs like a hundredth of this delay: about what a retransmission costs on average. */
const LOSS_COST_MS = 1_000;
/** Loss up to here is what senders that probe for bandwidth cause themselves, on whichever path carries them. */
const OWN_LOSS_RATIO = 0.05;
const HYSTERESIS_RATIO = 0.15;
const HYSTERESIS_MS = 5;

/**
 * @param rttMs the path's baseline round trip, so that the queue of our own traffic does not count against it; −1 = unknown
 * @param lossRatio 0–1
 * @returns milliseconds-like cost, lower is better; Infinity for an unmeasured path
 */
export function pathCost(kind: PathKind, rttMs: number, lossRatio: number): number {
  if (rttMs < 0) return Infinity;
  return kind * KIND_COST_MS + rttMs + Math.max(0, lossRatio - OWN_LOSS_RATIO) * LOSS_COST_MS;
}

/** True when a path of cost `candidate` is worth leaving one of cost `current` for: better by 15 % or 5 ms, whichever is more. */
export function worthMoving(candidate: number, current: number): boolean {
  if (current === Infinity) return candidate < Infinity;
  return candidate + Math.max(HYSTERESIS_MS, (current % KIND_COST_MS) * HYSTERESIS_RATIO) < current;
}
