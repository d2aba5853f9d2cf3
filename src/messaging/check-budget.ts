/**
 * Who may have signatures checked: each peer that delivers signed words of others has a share, all together have a bound, and one that has delivered too many
 * that do not hold is cut off for a minute. Nobody passes on what it has not checked, so a bad signature is the deliverer's own doing; the one who is named
 * as the signer pays nothing for it. Bounds: 4,096 peers, least recently used out first. Source: docs/protocol.md, "Membership".
 */
import { SenderRates } from "./sender-rates.ts";

const MAX_PEERS = 4096;
/** So many bad ones at once, and again as many in each minute, before a peer is cut off. */
const MAX_BAD = 16;
const CUT_OFF_MS = 60_000;

export interface CheckLimits {
  /** Of all peers together. */
  readonly perSecond: number;
  readonly burst: number;
  readonly peerPerSecond: number;
  readonly peerBurst: number;
}

export class CheckBudget {
  readonly #all: SenderRates;
  readonly #peers: SenderRates;
  readonly #bad: SenderRates = new SenderRates(MAX_BAD / (CUT_OFF_MS / 1000), MAX_BAD - 1, MAX_PEERS);
  /** Until when, in the order in which they were cut off. */
  readonly #cutOff = new Map<string, number>();

  constructor({ perSecond, burst, peerPerSecond, peerBurst }: CheckLimits) {
    this.#all = new SenderRates(perSecond, burst, 1);
    this.#peers = new SenderRates(peerPerSecond, peerBurst, MAX_PEERS);
  }

  /** @returns false: nothing that this peer delivers is checked now; drop and count */
  take(nowMs: number, peerHex: string): boolean {
    const untilMs = this.#cutOff.get(peerHex);
    if (untilMs !== undefined) {
      if (nowMs < untilMs) return false;
      this.#cutOff.delete(peerHex);
    }
    return this.#peers.take(nowMs, peerHex) && this.#all.take(nowMs, "");
  }

  /** What that peer delivered did not hold. @returns true: it is cut off from now on */
  failed(nowMs: number, peerHex: string): boolean {
    if (this.#bad.take(nowMs, peerHex)) return false;
    this.#cutOff.delete(peerHex);
    this.#cutOff.set(peerHex, nowMs + CUT_OFF_MS);
    if (this.#cutOff.size > MAX_PEERS) {
      for (const oldest of this.#cutOff.keys()) {
        this.#cutOff.delete(oldest);
        break;
      }
    }
    return true;
  }
}
