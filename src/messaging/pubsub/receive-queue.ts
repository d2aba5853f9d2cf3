/**
 * Received frames that wait for their turn. The transport is never made to wait: at the bound something is given up, first what says and
 * asks who has what (it is repeated), then answers and comparisons, then messages, always the oldest of its kind; never something more
 * important than what arrives. One peer may hold a quarter of the room.
 */
import { FrameType } from "./frames.ts";
import type { PeerKey, PubSubCounters } from "./types.ts";

const PEER_SHARE = 4;
const TREND_SHARE = 0.5;
const WARN_SHARE = 0.8;
const LOG_GAP_MS = 30_000;
/** Kinds, the least important last. */
const NORMAL = 0;
const BULK = 1;
const CHATTER = 2;

interface Waiting {
  readonly from: PeerKey;
  readonly frame: Uint8Array;
  readonly order: number;
}

/** First in, first out, without moving what is left. */
class Fifo {
  #items: (Waiting | undefined)[] = [];
  #head = 0;

  get first(): Waiting | undefined {
    return this.#items[this.#head];
  }

  push(item: Waiting): void {
    this.#items.push(item);
  }

  shift(): Waiting | undefined {
    const item = this.#items[this.#head];
    if (item === undefined) return undefined;
    this.#items[this.#head++] = undefined;
    if (this.#head > 1024 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }
}

export class ReceiveQueue {
  readonly #maxBytes: number;
  readonly #maxFrames: number;
  readonly #counters: PubSubCounters;
  readonly #log: (level: "info" | "warn", text: string) => void;
  readonly #kinds: readonly Fifo[] = [new Fifo(), new Fifo(), new Fifo()];
  readonly #byPeer = new Map<PeerKey, number>();
  #bytes = 0;
  #frames = 0;
  #order = 0;
  #trendMs: number = Number.NEGATIVE_INFINITY;
  #warnMs: number = Number.NEGATIVE_INFINITY;

  constructor(
    limits: { readonly maxBytes: number; readonly maxFrames: number },
    counters: PubSubCounters,
    log: (level: "info" | "warn", text: string) => void,
  ) {
    this.#maxBytes = limits.maxBytes;
    this.#maxFrames = limits.maxFrames;
    this.#counters = counters;
    this.#log = log;
  }

  get frames(): number {
    return this.#frames;
  }

  get bytes(): number {
    return this.#bytes;
  }

  push(nowMs: number, from: PeerKey, frame: Uint8Array): void {
    const kind = kindOf(frame);
    const held = this.#byPeer.get(from) ?? 0;
    if (held + frame.length > this.#maxBytes / PEER_SHARE) {
      this.#count(kind);
      return;
    }
    while (this.#bytes + frame.length > this.#maxBytes || this.#frames >= this.#maxFrames) {
      if (this.#shed(kind)) continue;
      this.#count(kind);
      return;
    }
    this.#kinds[kind].push({ from, frame, order: this.#order++ });
    this.#byPeer.set(from, held + frame.length);
    this.#bytes += frame.length;
    this.#frames++;
    const share = Math.max(this.#bytes / this.#maxBytes, this.#frames / this.#maxFrames);
    if (share >= TREND_SHARE) this.#report(nowMs, share);
  }

  /** The one that has waited longest. */
  shift(): { readonly from: PeerKey; readonly frame: Uint8Array } | undefined {
    let best: Fifo | undefined;
    for (const kind of this.#kinds) {
      if (kind.first === undefined) continue;
      if (best?.first === undefined || kind.first.order < best.first.order) best = kind;
    }
    const item = best?.shift();
    if (item !== undefined) this.#forget(item);
    return item;
  }

  /** Makes room at the cost of a kind not more important than `kind`. */
  #shed(kind: number): boolean {
    for (let lesser = CHATTER; lesser >= kind; lesser--) {
      const gone = this.#kinds[lesser].shift();
      if (gone === undefined) continue;
      this.#forget(gone);
      this.#count(lesser);
      return true;
    }
    return false;
  }

  #forget(item: Waiting): void {
    this.#bytes -= item.frame.length;
    this.#frames--;
    const left = (this.#byPeer.get(item.from) ?? 0) - item.frame.length;
    if (left > 0) this.#byPeer.set(item.from, left);
    else this.#byPeer.delete(item.from);
  }

  #count(kind: number): void {
    if (kind === NORMAL) this.#counters.receiveShedNormal++;
    else if (kind === BULK) this.#counters.receiveShedBulk++;
    else this.#counters.receiveShedChatter++;
  }

  #report(nowMs: number, share: number): void {
    const percent = Math.floor(share * 100);
    if (share >= WARN_SHARE) {
      if (nowMs - this.#warnMs < LOG_GAP_MS) return;
      this.#warnMs = nowMs;
      this.#log("warn", `receive queue of publish/subscribe is ${percent} % full; the least important frames go first`);
      return;
    }
    if (nowMs - this.#trendMs < LOG_GAP_MS) return;
    this.#trendMs = nowMs;
    this.#log("info", `receive queue of publish/subscribe is ${percent} % full`);
  }
}

function kindOf(frame: Uint8Array): number {
  switch (frame[0]) {
    case FrameType.IHAVE:
    case FrameType.IWANT:
    case FrameType.NONE:
      return CHATTER;
    case FrameType.ANSWER:
    case FrameType.DIGEST:
    case FrameType.LIST:
      return BULK;
    default:
      return NORMAL;
  }
}
