/**
 * The members with which this node has a direct session, what their digests say, and when each of them is told of this node's own. A digest goes to
 * a neighbour soon after it came up, to all of them soon after a change (then at most every CHANGE_GAP_MS), and every REPEAT_MS because messages get lost.
 * Bounds: MAX_NEIGHBOURS; digests and lookups taken from one neighbour per second.
 */
import { toHex } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import { TokenBucket } from "../../path/bucket.ts";
import { NeighbourDigest } from "./digest.ts";

const MAX_NEIGHBOURS = 4096;
/** Neighbours that are told; the others hear nothing of this node's neighbours, and find it by rings. */
const MAX_TOLD = 64;
const GREET_MS = 100;
const CHANGE_MS = 300;
const CHANGE_GAP_MS = 15_000;
const CHANGES_AT_ONCE = 4;
const REPEAT_MS = 60_000;
const DIGESTS_PER_SECOND = 0.5;
const LOOKUPS_PER_SECOND = 50;

export class Neighbour {
  readonly nodeId: Uint8Array;
  readonly hex: string;
  /** undefined: not measured yet */
  rttMs: number | undefined;
  digest: NeighbourDigest | undefined;
  digestAtMs = -1;
  /** It said that it relays for any two members. */
  relays = false;
  toldDueMs: number;
  readonly digests: TokenBucket = new TokenBucket(DIGESTS_PER_SECOND, 6);
  readonly lookups: TokenBucket = new TokenBucket(LOOKUPS_PER_SECOND, 2 * LOOKUPS_PER_SECOND);
  readonly founds: TokenBucket = new TokenBucket(LOOKUPS_PER_SECOND, 2 * LOOKUPS_PER_SECOND);

  constructor(nodeId: Uint8Array, toldDueMs: number) {
    this.nodeId = Uint8Array.from(nodeId);
    this.hex = toHex(nodeId);
    this.toldDueMs = toldDueMs;
  }
}

export class Neighbourhood {
  readonly #random: Random;
  readonly #byHex = new Map<string, Neighbour>();
  readonly #changes: TokenBucket = new TokenBucket(1000 / CHANGE_GAP_MS, CHANGES_AT_ONCE);
  #changeDueMs: number = Number.POSITIVE_INFINITY;
  #digest: NeighbourDigest | undefined;

  constructor(random: Random) {
    this.#random = random;
  }

  get size(): number {
    return this.#byHex.size;
  }

  get(nodeId: Uint8Array): Neighbour | undefined {
    return this.#byHex.get(toHex(nodeId));
  }

  /** Lowest round trip first, unmeasured ones last. */
  all(): Neighbour[] {
    return this.#byHex
      .values()
      .toArray()
      .toSorted((a, b) => (a.rttMs ?? 1e9) - (b.rttMs ?? 1e9));
  }

  /** This node's own digest. */
  digest(): NeighbourDigest {
    this.#digest ??= NeighbourDigest.of([...this.#byHex.values()].map((one) => one.nodeId));
    return this.#digest;
  }

  /** @returns true when it is new */
  up(nowMs: number, nodeId: Uint8Array, rttMs: number | undefined): boolean {
    const known = this.get(nodeId);
    if (known !== undefined) {
      known.rttMs = rttMs ?? known.rttMs;
      return false;
    }
    if (this.#byHex.size >= MAX_NEIGHBOURS) return false;
    const isTold = this.#byHex.size < MAX_TOLD;
    const neighbour = new Neighbour(nodeId, isTold ? nowMs + GREET_MS : Number.POSITIVE_INFINITY);
    neighbour.rttMs = rttMs;
    this.#byHex.set(neighbour.hex, neighbour);
    this.#changed(nowMs);
    return true;
  }

  /** @returns true when it was one */
  down(nowMs: number, nodeId: Uint8Array): boolean {
    if (!this.#byHex.delete(toHex(nodeId))) return false;
    this.#changed(nowMs);
    return true;
  }

  nextMs(): number {
    let next = this.#changeDueMs;
    for (const one of this.#byHex.values()) next = Math.min(next, one.toldDueMs);
    return next;
  }

  /** Who is to be told now. */
  due(nowMs: number): Neighbour[] {
    const isChange = nowMs >= this.#changeDueMs;
    if (isChange) this.#changeDueMs = Number.POSITIVE_INFINITY;
    const out: Neighbour[] = [];
    for (const one of this.#byHex.values()) {
      if (nowMs < one.toldDueMs && !(isChange && one.toldDueMs !== Number.POSITIVE_INFINITY)) continue;
      // what news has brought together, as a restart of many does, is repeated at a phase of its own
      const share = isChange ? 0.1 + this.#random.unit() : 0.9 + 0.2 * this.#random.unit();
      one.toldDueMs = nowMs + REPEAT_MS * share;
      out.push(one);
    }
    return out;
  }

  #changed(nowMs: number): void {
    this.#digest = undefined;
    if (this.#changeDueMs !== Number.POSITIVE_INFINITY) return;
    const waitMs = this.#changes.take(nowMs) ? CHANGE_MS : CHANGE_GAP_MS;
    this.#changeDueMs = nowMs + waitMs * (0.9 + 0.2 * this.#random.unit());
  }
}
