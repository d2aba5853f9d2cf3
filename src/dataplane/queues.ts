/**
 * Packets that cannot leave yet: the socket is full, or the peer has no session. One FIFO per peer over one shared pool of blocks.
 *
 * A queued packet is plaintext, already split to wire size, with 4 bytes of inner header in front, ready to be sealed. Bounds:
 *  - without a session: 64 packets per peer, of which the oldest goes when full, and 4,096 in all, when the arriving one goes (NO_SESSION);
 *  - with one: `limitPackets` of the peer, 256–8,192; when full the arriving packet is dropped (QUEUE_FULL);
 *  - the pool: when it is empty the arriving packet is dropped (QUEUE_FULL).
 * Standing queues are cut by CoDel (RFC 8289) at dequeue (SOJOURN), so a long queue is not a long wait. All drops are counted by the caller's
 * statistics. Nothing here allocates after construction.
 */
import { Drop } from "../base/drop.ts";
import { BlockPool, type Slab } from "../base/slab.ts";
import { Counter, type PlaneStats, Stage } from "./stats.ts";

export const WAITING_PER_PEER = 64;
export const WAITING_TOTAL = 4_096;
export const QUEUE_MIN_PACKETS = 256;
export const QUEUE_MAX_PACKETS = 8_192;
const TARGET_MS = 5;
const INTERVAL_MS = 100;

/** Queue state of one peer, embedded in its PeerState. */
export class PeerQueue {
  head = -1;
  tail = -1;
  packets = 0;
  bytes = 0;
  limitPackets = 1_024;
  /** CoDel interval: at least the round trip. */
  intervalMs: number = INTERVAL_MS;
  firstAboveMs = 0;
  dropNextMs = 0;
  dropCount = 0;
  lastDropCount = 0;
  dropping = false;
}

/** What dequeue() found; fields of the packet handed out last. */
export interface Dequeued {
  /** Slab offset of the inner header; the IP packet follows. */
  offset: number;
  /** Bytes of the IP packet, without the inner header. */
  bytes: number;
}

export class PacketQueues {
  readonly out: Dequeued = { offset: 0, bytes: 0 };
  readonly #u8: Uint8Array;
  readonly #pool: BlockPool;
  readonly #stats: PlaneStats;
  readonly #blocks: Int32Array;
  readonly #freeNodes: Int32Array;
  #freeCount: number;
  readonly #next: Int32Array;
  readonly #length: Int32Array;
  readonly #enqueuedMs: Float64Array;
  #waiting = 0;

  /** @param maxPacketBytes largest IP packet that can be queued */
  constructor(slab: Slab, stats: PlaneStats, maxPacketBytes: number) {
    this.#u8 = slab.u8;
    this.#stats = stats;
    this.#pool = new BlockPool(slab, maxPacketBytes + 4, QUEUE_MAX_PACKETS);
    this.#blocks = new Int32Array(QUEUE_MAX_PACKETS);
    this.#freeNodes = new Int32Array(QUEUE_MAX_PACKETS);
    this.#freeCount = QUEUE_MAX_PACKETS;
    for (let i = 0; i < QUEUE_MAX_PACKETS; i++) this.#freeNodes[i] = QUEUE_MAX_PACKETS - 1 - i;
    this.#next = new Int32Array(QUEUE_MAX_PACKETS);
    this.#length = new Int32Array(QUEUE_MAX_PACKETS);
    this.#enqueuedMs = new Float64Array(QUEUE_MAX_PACKETS);
  }

  get maxPacketBytes(): number {
    return this.#pool.blockBytes - 4;
  }

  /**
   * Copies the 4-byte inner header and the IP packet behind it.
   * @param offset of the inner header @param bytes of the IP packet
   * @param waiting true when the peer has no session yet (oldest goes first then)
   * @returns Drop.NONE, or why the arriving packet was dropped (counted)
   */
  enqueue(queue: PeerQueue, nowMs: number, offset: number, bytes: number, waiting: boolean): Drop {
    if (bytes > this.maxPacketBytes) return this.#refuse(Drop.TOO_BIG);
    if (waiting) {
      if (queue.packets >= WAITING_PER_PEER) this.#dropHead(queue, Drop.NO_SESSION);
      else if (this.#waiting >= WAITING_TOTAL) return this.#refuse(Drop.NO_SESSION);
      this.#waiting++;
    } else if (queue.packets >= queue.limitPackets) {
      return this.#refuse(Drop.QUEUE_FULL);
    }
    if (this.#freeCount === 0) {
      if (waiting) this.#waiting--;
      return this.#refuse(Drop.QUEUE_FULL);
    }
    const block = this.#pool.take();
    const node = this.#freeNodes[--this.#freeCount];
    this.#u8.copyWithin(block, offset, offset + bytes + 4);
    this.#blocks[node] = block;
    // bit 31 remembers that the packet counts as waiting
    this.#length[node] = waiting ? bytes | 0x80000000 : bytes;
    this.#enqueuedMs[node] = nowMs;
    this.#next[node] = -1;
    if (queue.tail >= 0) this.#next[queue.tail] = node;
    else queue.head = node;
    queue.tail = node;
    queue.packets++;
    queue.bytes += bytes;
    this.#stats.add(Counter.queued, 1);
    return Drop.NONE;
  }

  /**
   * Takes the next packet that CoDel lets through; what it drops is counted.
   * @returns false when the queue is empty; else `out` names the packet, valid until the next call of release()
   */
  dequeue(queue: PeerQueue, nowMs: number): boolean {
    for (;;) {
      const node = queue.head;
      if (node < 0) {
        queue.dropping = false;
        queue.firstAboveMs = 0;
        return false;
      }
      const sojournMs = nowMs - this.#enqueuedMs[node];
      const waiting = this.#length[node] < 0;
      if (!waiting && this.#shouldDrop(queue, nowMs, sojournMs)) {
        this.#dropHead(queue, Drop.SOJOURN);
        continue;
      }
      this.#stats.record(Stage.QUEUE_WAIT, sojournMs);
      this.out.offset = this.#blocks[node];
      this.out.bytes = this.#length[node] & 0x7fffffff;
      return true;
    }
  }

  /** Frees the packet that dequeue() handed out, after it was sealed. */
  release(queue: PeerQueue): void {
    this.#remove(queue);
  }

  /** Throws away all packets of a peer. */
  clear(queue: PeerQueue, reason: Drop): void {
    while (queue.head >= 0) this.#dropHead(queue, reason);
  }

  /** Drops packets that wait for a session since before `beforeMs`. @returns how many */
  expire(queue: PeerQueue, beforeMs: number): number {
    let dropped = 0;
    while (queue.head >= 0 && this.#enqueuedMs[queue.head] < beforeMs) {
      this.#dropHead(queue, Drop.NO_SESSION);
      dropped++;
    }
    return dropped;
  }

  /** RFC 8289 section 5: sojourn above target for a whole interval begins dropping, at a rate that grows with its square root. */
  #shouldDrop(queue: PeerQueue, nowMs: number, sojournMs: number): boolean {
    // with less than two full packets behind it no queue stands
    const low = sojournMs < TARGET_MS || queue.packets <= 2;
    if (low) {
      queue.firstAboveMs = 0;
      queue.dropping = false;
      return false;
    }
    if (queue.firstAboveMs === 0) {
      queue.firstAboveMs = nowMs + queue.intervalMs;
      return false;
    }
    if (queue.dropping) {
      if (nowMs < queue.dropNextMs) return false;
      queue.dropCount++;
      queue.dropNextMs += queue.intervalMs / Math.sqrt(queue.dropCount);
      return true;
    }
    if (nowMs < queue.firstAboveMs) return false;
    queue.dropping = true;
    const delta = queue.dropCount - queue.lastDropCount;
    queue.dropCount = delta > 1 && nowMs - queue.dropNextMs < 16 * queue.intervalMs ? delta : 1;
    queue.lastDropCount = queue.dropCount;
    queue.dropNextMs = nowMs + queue.intervalMs / Math.sqrt(queue.dropCount);
    return true;
  }

  #refuse(reason: Drop): Drop {
    this.#stats.dropTx(reason, 1);
    return reason;
  }

  #dropHead(queue: PeerQueue, reason: Drop): void {
    this.#stats.dropTx(reason, 1);
    this.#remove(queue);
  }

  #remove(queue: PeerQueue): void {
    const node = queue.head;
    const length = this.#length[node];
    if (length < 0) this.#waiting--;
    queue.head = this.#next[node];
    if (queue.head < 0) queue.tail = -1;
    queue.packets--;
    queue.bytes -= length & 0x7fffffff;
    this.#pool.give(this.#blocks[node]);
    this.#freeNodes[this.#freeCount++] = node;
    this.#stats.add(Counter.queued, -1);
  }
}
