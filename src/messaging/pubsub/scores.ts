/**
 * What a peer is worth as a neighbour, from sums that lose half their weight every ten minutes. The score steers whom a node grafts, whom
 * it prunes and drops first, and whom it refuses.
 *   score = min(first deliveries, 200) / 20 − 20 × time-outs / (sends + 10) − 3 × coolings − 15 × invalid frames
 * It is read from a snapshot that is replaced as a whole, so nobody sees half a table. Below REFUSED_BELOW a peer's frames are not even
 * decoded, until the decay has brought it back. Bound: 4,096 peers, the longest untouched is forgotten.
 */
import type { PeerKey } from "./types.ts";

const HALF_LIFE_MS = 600_000;
const SNAPSHOT_MS = 1000;
const MAX_PEERS = 4096;
export const REFUSED_BELOW = -50;

export const ScoreKind = { SEND: 0, TIMEOUT: 1, COOLING: 2, FIRST: 3, INVALID: 4 } as const;
export type ScoreKind = (typeof ScoreKind)[keyof typeof ScoreKind];

export interface PeerScore {
  readonly peer: PeerKey;
  readonly score: number;
  readonly sends: number;
  readonly timeouts: number;
  readonly coolings: number;
  readonly firstDeliveries: number;
  readonly invalidFrames: number;
}

interface Sums {
  readonly values: number[];
  atMs: number;
}

export class ScoreBoard {
  readonly #sums = new Map<PeerKey, Sums>();
  #snapshot: ReadonlyMap<PeerKey, PeerScore> = new Map();
  #snapshotMs: number = Number.NEGATIVE_INFINITY;
  #isChanged = false;

  note(nowMs: number, peer: PeerKey, kind: ScoreKind): void {
    let sums = this.#sums.get(peer);
    if (sums === undefined) {
      if (this.#sums.size >= MAX_PEERS) this.#forgetOne();
      sums = { values: [0, 0, 0, 0, 0], atMs: nowMs };
      this.#sums.set(peer, sums);
    }
    if (nowMs - sums.atMs >= SNAPSHOT_MS) decay(sums, nowMs);
    sums.values[kind]++;
    this.#isChanged = true;
    // an invalid frame counts at once: who sends them must not have a second for it
    if (kind === ScoreKind.INVALID) this.#snapshotMs = Number.NEGATIVE_INFINITY;
  }

  /** As of at most a second ago; never changes once given out. */
  snapshot(nowMs: number): ReadonlyMap<PeerKey, PeerScore> {
    if (nowMs - this.#snapshotMs < SNAPSHOT_MS || (!this.#isChanged && nowMs - this.#snapshotMs < HALF_LIFE_MS / 10))
      return this.#snapshot;
    const made = new Map<PeerKey, PeerScore>();
    for (const [peer, sums] of this.#sums) {
      decay(sums, nowMs);
      const [sends, timeouts, coolings, firstDeliveries, invalidFrames] = sums.values;
      const score =
        Math.min(firstDeliveries, 200) / 20 - (20 * timeouts) / (sends + 10) - 3 * coolings - 15 * invalidFrames;
      made.set(peer, { peer, score, sends, timeouts, coolings, firstDeliveries, invalidFrames });
    }
    this.#snapshot = made;
    this.#snapshotMs = nowMs;
    this.#isChanged = false;
    return made;
  }

  /** 0 for who is not known. */
  score(nowMs: number, peer: PeerKey): number {
    return this.snapshot(nowMs).get(peer)?.score ?? 0;
  }

  isRefused(nowMs: number, peer: PeerKey): boolean {
    return this.score(nowMs, peer) < REFUSED_BELOW;
  }

  forget(peer: PeerKey): void {
    this.#isChanged = this.#sums.delete(peer) || this.#isChanged;
  }

  #forgetOne(): void {
    let oldest: PeerKey | undefined;
    let oldestMs = Number.POSITIVE_INFINITY;
    for (const [peer, sums] of this.#sums) {
      if (sums.atMs >= oldestMs) continue;
      oldest = peer;
      oldestMs = sums.atMs;
    }
    if (oldest !== undefined) this.#sums.delete(oldest);
  }
}

function decay(sums: Sums, nowMs: number): void {
  const factor = 0.5 ** ((nowMs - sums.atMs) / HALF_LIFE_MS);
  sums.atMs = nowMs;
  for (let i = 0; i < sums.values.length; i++) sums.values[i] *= factor;
}
