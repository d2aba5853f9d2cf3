/** What an endpoint keeps per peer. */
import type { Connection } from "./connection.ts";
import type { MeshStream, OpenOptions } from "./types.ts";

export interface Waiting {
  readonly options: OpenOptions;
  readonly resolve: (stream: MeshStream) => void;
  readonly reject: (error: Error) => void;
  readonly dueMs: number;
  stopListening: (() => void) | undefined;
}

export interface Peer {
  readonly id: Uint8Array;
  readonly key: string;
  readonly isClient: boolean;
  /** Takes new streams once established. */
  active: Connection | undefined;
  readonly draining: Set<Connection>;
  readonly waiting: Waiting[];
  generation: number;
  lastTag: number;
  readonly oldTags: number[];
  retryMs: number;
  retryAtMs: number;
  /** The other side has asked for a connection. */
  wantedAtMs: number;
  readonly resets: Bucket;
  readonly attempts: Bucket;
  cancelTimer: (() => void) | undefined;
  timerAtMs: number;
}

/** A token bucket whose burst is one second's worth. */
export class Bucket {
  readonly #perSecond: number;
  #tokens: number;
  #atMs: number;

  constructor(nowMs: number, perSecond: number) {
    this.#perSecond = perSecond;
    this.#tokens = perSecond;
    this.#atMs = nowMs;
  }

  take(nowMs: number): boolean {
    this.#tokens = Math.min(this.#perSecond, this.#tokens + ((nowMs - this.#atMs) / 1000) * this.#perSecond);
    this.#atMs = nowMs;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}
