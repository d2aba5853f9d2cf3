/**
 * Frames between this node and its peers: one long-lived stream per peer, channel and direction, opened when a frame wants to go and ended
 * when none has gone for a while. The opener writes, the other side reads.
 *
 *   send ──► queue (peer, channel) ──► batch ──► one write at a time ──► stream "frames-N"          stream ──► FrameReader ──► handler
 *
 * Order: frames of a peer and channel stay in order while the stream lives. Full: send() says so and keeps nothing; there is a bound per
 * peer and channel, one over all, and one on the peers. What waits longer than MAX_WAIT_MS is lost. When a stream ends, what it was
 * writing is lost ("fate unknown: ask again") and what still waited goes over the next one; opening is tried again with growing,
 * jittered distances, and at once when a session comes up. Each frame's `done` is called once, never from within send().
 * Source: docs/protocol.md, "Frames".
 */
import { toHex } from "../../base/bytes.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import { encodeFrames, FRAME_CHANNELS, FrameChannel, FrameReader, MAX_FRAME_BYTES } from "../../messaging/frames.ts";
import { type MeshStream, StreamClass, StreamCode, StreamError } from "../../stream/types.ts";
import type { Clock } from "../clock.ts";
import type { PeerStreams } from "../streams.ts";

/** "flushed": QUIC has taken it under the reader's credit. "lost": it never went, or the stream ended meanwhile: ask again. */
export type FrameFate = "flushed" | "lost";

export interface FrameLinks {
  /**
   * "full": the queue of that peer and channel (or all of them together) is at its bound; nothing was kept. "gone": no member, this node
   * itself, or closing. @param frame 1 – MAX_FRAME_BYTES of the channel; not to be changed any more
   */
  send(
    to: Uint8Array,
    channel: FrameChannel,
    frame: Uint8Array,
    done?: (fate: FrameFate, tookMs: number) => void,
  ): "accepted" | "full" | "gone";
  /** What waits and what is being written. */
  queuedBytes(to: Uint8Array, channel: FrameChannel): number;
  /** Something urgent (membership, acknowledgements, direct messages) waits for that peer: what is optional should wait too. */
  isPressed(to: Uint8Array): boolean;
}

/** By channel. */
const CLASS_OF: readonly StreamClass[] = [
  StreamClass.CONTROL,
  StreamClass.CONTROL,
  StreamClass.DIRECT,
  StreamClass.PUBSUB,
  StreamClass.BULK,
];
const MAX_QUEUED_BYTES: readonly number[] = [262_144, 262_144, 8_388_608, 2_097_152, 4_194_304];
const MAX_WAIT_MS: readonly number[] = [10_000, 10_000, 30_000, 10_000, 30_000];
/** Over all peers and channels. */
const MAX_ALL_BYTES = 134_217_728;
const MAX_PEERS = 4_096;
/** A stream that has lived so long was well. */
const WELL_AFTER_MS = 250;
/** Kept per frame besides its bytes. */
const FRAME_COST_BYTES = 64;
/** Of urgent frames that wait for a peer. */
const PRESSED_BYTES = 65_536;
const BATCH_BYTES = 65_536;
const IDLE_MS = 45_000;
const FIRST_RETRY_MS = 50;
const LONGEST_RETRY_MS = 5_000;
/** Streams of one peer and channel that are read at once; a successor may overtake the end of the one before. */
const MAX_READERS = 3;

export interface LinkCounters {
  framesOut: number;
  framesIn: number;
  bytesOut: number;
  bytesIn: number;
  framesFull: number;
  framesLost: number;
  framesExpired: number;
  /** Came from a node that is no member, of a type that nobody has, or made its part throw. */
  framesRefused: number;
  streamsOpened: number;
  opensFailed: number;
  streamsBroken: number;
  queuedBytes: number;
  links: number;
}

export interface LinksDeps {
  readonly streams: Pick<PeerStreams, "open" | "serve">;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  isMember(nodeId: Uint8Array): boolean;
  /** Streams to that peer have ended before their end: what was flushed to them may be lost. Once for all of them. */
  broken?(nodeId: Uint8Array): void;
  /** @param from 32 bytes @returns false when nobody takes it */
  handle(channel: FrameChannel, from: Uint8Array, frame: Uint8Array): boolean;
}

interface Waiting {
  readonly frame: Uint8Array;
  readonly done: ((fate: FrameFate, tookMs: number) => void) | undefined;
  readonly sinceMs: number;
}

function streamKindOf(channel: FrameChannel): string {
  return `frames-${channel}`;
}

const GONE: Waiting = { frame: new Uint8Array(0), done: undefined, sinceMs: 0 };

/** One peer, one channel, outwards. */
class Link {
  readonly nodeId: Uint8Array;
  readonly channel: FrameChannel;
  queue: Waiting[] = [];
  /** Index of the first that waits; the queue is cut from time to time. */
  head = 0;
  /** Being written. */
  batch: readonly Waiting[] = [];
  queuedBytes = 0;
  stream: MeshStream | undefined;
  opening: AbortController | undefined;
  isWritePlanned = false;
  /** 0 while all is well: a connection that was replaced has a successor at once. */
  retryMs = 0;
  openedAtMs = 0;
  retryAtMs = 0;
  usedAtMs = 0;
  cancelTimer: (() => void) | undefined;
  timerAtMs = Infinity;

  constructor(nodeId: Uint8Array, channel: FrameChannel) {
    this.nodeId = nodeId;
    this.channel = channel;
  }

  get isEmpty(): boolean {
    return this.head >= this.queue.length;
  }

  shift(): Waiting {
    const first = this.queue[this.head];
    // what has gone is not to be kept alive by the queue
    this.queue[this.head++] = GONE;
    if (this.isEmpty) {
      this.queue = [];
      this.head = 0;
    } else if (this.head > 1_024 && this.head * 2 > this.queue.length) {
      this.queue = this.queue.slice(this.head);
      this.head = 0;
    }
    return first;
  }
}

export class PeerFrameLinks implements FrameLinks {
  readonly counters: LinkCounters = {
    framesOut: 0,
    framesIn: 0,
    bytesOut: 0,
    bytesIn: 0,
    framesFull: 0,
    framesLost: 0,
    framesExpired: 0,
    framesRefused: 0,
    streamsOpened: 0,
    opensFailed: 0,
    streamsBroken: 0,
    queuedBytes: 0,
    links: 0,
  };
  readonly #deps: LinksDeps;
  /** By node id in hex; one place per channel. */
  readonly #peers = new Map<string, (Link | undefined)[]>();
  readonly #readers = new Map<string, MeshStream[]>();
  readonly #stopServing: (() => void)[] = [];
  /** Whose broken streams are told in this tick. */
  readonly #broken = new Set<string>();
  #isClosed = false;

  constructor(deps: LinksDeps) {
    this.#deps = deps;
  }

  /** From now on frames of peers come. */
  start(): void {
    for (const channel of FRAME_CHANNELS)
      this.#stopServing.push(this.#deps.streams.serve(streamKindOf(channel), (stream) => this.#read(stream, channel)));
  }

  send(
    to: Uint8Array,
    channel: FrameChannel,
    frame: Uint8Array,
    done?: (fate: FrameFate, tookMs: number) => void,
  ): "accepted" | "full" | "gone" {
    if (frame.length === 0 || frame.length > MAX_FRAME_BYTES[channel])
      throw new RangeError(
        `a frame of channel ${channel} has 1–${MAX_FRAME_BYTES[channel]} bytes, not ${frame.length}`,
      );
    if (this.#isClosed || !this.#deps.isMember(to)) return "gone";
    const link = this.#link(to, channel);
    const costBytes = frame.length + FRAME_COST_BYTES;
    if (
      link === undefined ||
      link.queuedBytes + costBytes > MAX_QUEUED_BYTES[channel] ||
      this.counters.queuedBytes + costBytes > MAX_ALL_BYTES
    ) {
      this.counters.framesFull++;
      return "full";
    }
    const nowMs = this.#deps.clock.now().nowMs;
    link.queue.push({ frame, done, sinceMs: nowMs });
    link.queuedBytes += costBytes;
    this.counters.queuedBytes += costBytes;
    link.usedAtMs = nowMs;
    if (link.stream === undefined) this.#open(link);
    // what is sent in one go travels together
    else if (link.batch.length === 0 && !link.isWritePlanned) {
      link.isWritePlanned = true;
      queueMicrotask(() => this.#write(link));
    }
    return "accepted";
  }

  queuedBytes(to: Uint8Array, channel: FrameChannel): number {
    return this.#peers.get(toHex(to))?.[channel]?.queuedBytes ?? 0;
  }

  /** Nine tenths of its bound. */
  isFull(to: Uint8Array, channel: FrameChannel): boolean {
    return this.queuedBytes(to, channel) * 10 > MAX_QUEUED_BYTES[channel] * 9;
  }

  isPressed(to: Uint8Array): boolean {
    const links = this.#peers.get(toHex(to));
    if (links === undefined) return false;
    let bytes = 0;
    for (let channel = 0; channel <= FrameChannel.DIRECT; channel++) bytes += links[channel]?.queuedBytes ?? 0;
    return bytes > PRESSED_BYTES;
  }

  /** A session is up: what waits need not wait for its next try. */
  peerUp(nodeId: Uint8Array): void {
    for (const link of this.#peers.get(toHex(nodeId)) ?? []) {
      if (link === undefined || link.stream !== undefined) continue;
      link.retryMs = 0;
      link.retryAtMs = 0;
      if (!link.isEmpty) this.#open(link);
    }
  }

  /** It is no member any more: everything for it is lost. */
  memberGone(nodeId: Uint8Array): void {
    const key = toHex(nodeId);
    for (const link of this.#peers.get(key) ?? []) if (link !== undefined) this.#end(link);
    for (const channel of FRAME_CHANNELS) {
      for (const stream of this.#readers.get(readerKey(key, channel)) ?? []) stream.reset(StreamCode.CANCELLED);
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const stop of this.#stopServing) stop();
    for (const links of this.#peers.values()) for (const link of links) if (link !== undefined) this.#end(link);
    this.#peers.clear();
    for (const streams of this.#readers.values()) for (const stream of streams) stream.destroy();
    this.#readers.clear();
  }

  // ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #link(nodeId: Uint8Array, channel: FrameChannel): Link | undefined {
    const key = toHex(nodeId);
    let links = this.#peers.get(key);
    if (links === undefined) {
      if (this.#peers.size >= MAX_PEERS) return undefined;
      links = [];
      this.#peers.set(key, links);
    }
    let link = links[channel];
    if (link === undefined) {
      link = new Link(Uint8Array.from(nodeId), channel);
      links[channel] = link;
      this.counters.links++;
    }
    return link;
  }

  #open(link: Link): void {
    if (this.#isClosed || link.stream !== undefined || link.opening !== undefined) return;
    if (this.#deps.clock.now().nowMs < link.retryAtMs) return this.#arm(link);
    const abort = new AbortController();
    link.opening = abort;
    this.#arm(link);
    const options = { kind: streamKindOf(link.channel), class: CLASS_OF[link.channel], signal: abort.signal };
    this.#deps.streams.open(link.nodeId, options).then(
      (stream) => {
        if (link.opening !== abort) return stream.reset(StreamCode.CANCELLED);
        link.opening = undefined;
        this.#opened(link, stream);
      },
      (error: unknown) => {
        if (link.opening !== abort) return;
        link.opening = undefined;
        this.counters.opensFailed++;
        this.#deps.log.debug(`no stream for frames: ${error instanceof Error ? error.message : String(error)}`);
        this.#later(link);
      },
    );
  }

  #opened(link: Link, stream: MeshStream): void {
    this.counters.streamsOpened++;
    link.stream = stream;
    link.openedAtMs = this.#deps.clock.now().nowMs;
    link.usedAtMs = link.openedAtMs;
    stream.resume();
    stream.once("close", () => {
      if (link.stream !== stream) return;
      link.stream = undefined;
      this.counters.streamsBroken++;
      const { batch } = link;
      link.batch = [];
      this.#conclude(link, batch, "lost");
      this.#later(link);
      if (this.#deps.clock.now().nowMs - link.openedAtMs >= WELL_AFTER_MS) this.#tellBroken(link.nodeId);
    });
    this.#write(link);
  }

  #tellBroken(nodeId: Uint8Array): void {
    const key = toHex(nodeId);
    if (this.#broken.has(key) || this.#isClosed) return;
    this.#broken.add(key);
    queueMicrotask(() => {
      this.#broken.delete(key);
      if (!this.#isClosed) this.#deps.broken?.(nodeId);
    });
  }

  /** Tries again, if there is anything to send. */
  #later(link: Link): void {
    const nowMs = this.#deps.clock.now().nowMs;
    link.retryAtMs = nowMs + link.retryMs * (0.5 + this.#deps.random.unit());
    link.retryMs = Math.min(LONGEST_RETRY_MS, Math.max(FIRST_RETRY_MS, link.retryMs * 2));
    this.#arm(link);
  }

  #write(link: Link): void {
    const { stream } = link;
    link.isWritePlanned = false;
    if (stream === undefined || link.batch.length > 0 || link.isEmpty || this.#isClosed) return;
    const batch: Waiting[] = [];
    let bytes = 0;
    while (!link.isEmpty && bytes < BATCH_BYTES) {
      const waiting = link.shift();
      batch.push(waiting);
      bytes += waiting.frame.length;
    }
    link.batch = batch;
    stream.write(encodeFrames(batch.map(({ frame }) => frame)), (error) => {
      if (link.batch !== batch) return;
      link.batch = [];
      if (error !== null && error !== undefined) {
        this.#conclude(link, batch, "lost");
        return;
      }
      link.usedAtMs = this.#deps.clock.now().nowMs;
      // a peer that ends every stream soon is not asked as fast as it answers
      if (link.usedAtMs - link.openedAtMs >= WELL_AFTER_MS) link.retryMs = 0;
      this.#conclude(link, batch, "flushed");
      this.#write(link);
      this.#arm(link);
    });
    this.#arm(link);
  }

  #conclude(link: Link, frames: readonly Waiting[], fate: FrameFate): void {
    const nowMs = this.#deps.clock.now().nowMs;
    for (const { frame, done, sinceMs } of frames) {
      const costBytes = frame.length + FRAME_COST_BYTES;
      link.queuedBytes -= costBytes;
      this.counters.queuedBytes -= costBytes;
      if (fate === "flushed") {
        this.counters.framesOut++;
        this.counters.bytesOut += frame.length;
      } else this.counters.framesLost++;
      if (done === undefined) continue;
      try {
        done(fate, nowMs - sinceMs);
      } catch (error) {
        this.#deps.log.error(`after a frame: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  }

  /** Ends it and forgets it. */
  #end(link: Link): void {
    link.cancelTimer?.();
    link.cancelTimer = undefined;
    link.timerAtMs = Infinity;
    link.opening?.abort(new StreamError("PEER_GONE", "frames for this peer are not wanted any more"));
    link.opening = undefined;
    const { stream, batch } = link;
    link.stream = undefined;
    link.batch = [];
    const waiting = link.queue.slice(link.head);
    link.queue = [];
    link.head = 0;
    stream?.destroy();
    this.#forget(link);
    this.#conclude(link, [...batch, ...waiting], "lost");
  }

  #forget(link: Link): void {
    const key = toHex(link.nodeId);
    const links = this.#peers.get(key);
    if (links?.[link.channel] !== link) return;
    links[link.channel] = undefined;
    this.counters.links--;
    if (links.every((one) => one === undefined)) this.#peers.delete(key);
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #arm(link: Link): void {
    const maxWaitMs = MAX_WAIT_MS[link.channel];
    let dueMs = link.usedAtMs + IDLE_MS;
    if (!link.isEmpty) dueMs = Math.min(dueMs, link.queue[link.head].sinceMs + maxWaitMs);
    if (link.batch.length > 0) dueMs = Math.min(dueMs, link.batch[0].sinceMs + 2 * maxWaitMs);
    if (link.stream === undefined && link.opening === undefined && !link.isEmpty)
      dueMs = Math.min(dueMs, link.retryAtMs);
    // an earlier timer looks again by itself
    if (link.timerAtMs <= dueMs) return;
    link.cancelTimer?.();
    link.timerAtMs = dueMs;
    link.cancelTimer = this.#deps.clock.schedule(dueMs, () => this.#timeout(link));
  }

  #timeout(link: Link): void {
    link.timerAtMs = Infinity;
    link.cancelTimer = undefined;
    if (this.#isClosed) return;
    const nowMs = this.#deps.clock.now().nowMs;
    const maxWaitMs = MAX_WAIT_MS[link.channel];
    const expired: Waiting[] = [];
    while (!link.isEmpty && nowMs - link.queue[link.head].sinceMs >= maxWaitMs) expired.push(link.shift());
    if (expired.length > 0) {
      this.counters.framesExpired += expired.length;
      this.#conclude(link, expired, "lost");
    }
    // the peer reads nothing: whoever waits for the write is told, and a new stream begins with the next frame
    const [writing] = link.batch;
    if (writing !== undefined && nowMs - writing.sinceMs >= 2 * maxWaitMs) link.stream?.destroy();
    if (link.isEmpty && link.batch.length === 0 && nowMs - link.usedAtMs >= IDLE_MS) {
      const { stream } = link;
      link.stream = undefined;
      link.opening?.abort(new StreamError("STREAM_TIMEOUT", "nothing waits for it any more"));
      link.opening = undefined;
      stream?.end();
      this.#forget(link);
      return;
    }
    if (!link.isEmpty && link.stream === undefined) this.#open(link);
    this.#arm(link);
  }

  // ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #read(stream: MeshStream, channel: FrameChannel): void {
    const from = stream.peerId;
    const key = readerKey(toHex(from), channel);
    const readers = this.#readers.get(key) ?? [];
    this.#readers.set(key, readers);
    readers.push(stream);
    if (readers.length > MAX_READERS) readers.shift()?.reset(StreamCode.CANCELLED);
    const reader = new FrameReader(channel);
    // nothing goes the other way
    stream.end();
    stream.on("data", (bytes: Uint8Array) => {
      this.counters.bytesIn += bytes.length;
      const isWhole = reader.add(bytes, (frame) => this.#take(channel, from, frame));
      if (!isWhole) {
        this.counters.streamsBroken++;
        stream.reset(StreamCode.BAD_OPENING);
      }
    });
    stream.once("close", () => {
      const at = readers.indexOf(stream);
      if (at >= 0) readers.splice(at, 1);
      if (readers.length === 0 && this.#readers.get(key) === readers) this.#readers.delete(key);
    });
  }

  #take(channel: FrameChannel, from: Uint8Array, frame: Uint8Array): void {
    if (this.#isClosed) return;
    this.counters.framesIn++;
    let isTaken = false;
    try {
      isTaken = this.#deps.isMember(from) && this.#deps.handle(channel, from, frame);
    } catch (error) {
      this.#deps.log.error(`a frame could not be handled: ${error instanceof Error ? error.message : String(error)}`);
    }
    if (!isTaken) this.counters.framesRefused++;
  }
}

function readerKey(nodeHex: string, channel: FrameChannel): string {
  return `${nodeHex}/${channel}`;
}
