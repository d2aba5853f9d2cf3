/**
 * What a topic knows of its publishers: one stream per publisher and epoch, with a window of sequences, so that a message is delivered
 * once. Streams are known by their ref before their first message has been verified ("ghosts": somebody claims to have them).
 *
 * Guarantee: a message that was delivered is never new again, also after its stream was forgotten: an epoch older than the oldest kept of
 * its publisher is too old, and so is a message of an unknown stream whose clock is not above that of everything forgotten.
 * A claim counts as long as the peer that made it does not take it back, and reaches MAX_AHEAD beyond what was seen at most.
 * Bounds: 4 epochs per publisher, `maxStreams` streams (the longest quiet is forgotten), 256 ghosts (the oldest goes), 4 claims per stream.
 */
import { createHash } from "node:crypto";
import type { DigestRange, StreamSummary } from "./frames.ts";
import { streamRefOf } from "./message.ts";
import type { PeerKey, PubSubCounters } from "./types.ts";
import { SequenceWindow } from "./window.ts";

const MAX_EPOCHS = 4;
const MAX_GHOSTS = 256;
const GHOST_MS = 120_000;
/** One whose messages are all from before this node joined stays known, so that comparing does not find it again and again. */
const SETTLED_MS = 3_600_000;
const MAX_PROVIDERS = 4;
/** Of a claim beyond the highest sequence seen; more is claimed again when that has come. */
export const MAX_AHEAD = 1_048_576;

/** Somebody has it and this node has not, yet. */
export interface Want {
  readonly sequence: number;
  /** Who says to have it, in order. */
  readonly providers: PeerKey[];
  /** How many of them were asked. */
  asked: number;
  dueMs: number;
  /** When it was first heard of. */
  readonly sinceMs: number;
  /** Found by comparing: pulled at leisure, and announced rather than pushed on. */
  readonly isOld: boolean;
}

export class PublisherStream {
  readonly ref: string;
  /** First two bytes of the ref. */
  readonly prefix: number;
  /** 32 bytes; undefined for a ghost. */
  publisher: Uint8Array | undefined;
  epoch = 0;
  window: SequenceWindow;
  /** Highest clock of its messages. */
  hlc = 0;
  /** Since when something up to top is missing; undefined: nothing is. */
  missingSinceMs: number | undefined;
  /** Answers that the lowest missing one is not to be had. */
  refusals: Set<PeerKey> = new Set();
  /** Up to which sequence each peer said to have it; the latest last. */
  readonly #claims = new Map<PeerKey, number>();
  lastMs: number;
  /** The floor when it last moved, and when that was seen. */
  stuckFloor = -1;
  stuckSinceMs = 0;
  readonly wants: Map<number, Want> = new Map();
  #fingerprint: Uint8Array | undefined;

  constructor(ref: string, nowMs: number, window: SequenceWindow = new SequenceWindow()) {
    this.ref = ref;
    this.prefix = Number.parseInt(ref.slice(0, 4), 16);
    this.lastMs = nowMs;
    this.window = window;
  }

  get isMissing(): boolean {
    return this.window.floor < this.top;
  }

  /** Highest sequence that was seen here, or that somebody says to have. */
  get top(): number {
    return Math.max(this.window.top, ...this.#claims.values());
  }

  /** Peers that said to have more than was seen. */
  get providers(): PeerKey[] {
    return [...this.#claims.keys()];
  }

  add(sequence: number): number {
    this.#fingerprint = undefined;
    if (sequence === this.window.floor + 1) this.refusals.clear();
    const given = this.window.add(sequence);
    if (!this.isMissing) this.missingSinceMs = undefined;
    return given;
  }

  skipTo(sequence: number): number {
    if (sequence <= this.window.floor) return 0;
    this.#fingerprint = undefined;
    this.refusals.clear();
    const given = this.window.skipTo(sequence);
    if (!this.isMissing) this.missingSinceMs = undefined;
    return given;
  }

  /** A peer says that it has messages up to `sequence`. */
  raise(nowMs: number, sequence: number, provider: PeerKey): void {
    const claim = Math.max(this.#claims.get(provider) ?? 0, Math.min(sequence, this.window.top + MAX_AHEAD));
    if (!this.#claims.has(provider) && this.#claims.size >= MAX_PROVIDERS) {
      const [oldest] = this.#claims.keys();
      this.#claims.delete(oldest);
    }
    this.#claims.set(provider, claim);
    if (this.isMissing) this.missingSinceMs ??= nowMs;
  }

  /** The peer does not have what it said. What nobody else says, and was not seen here, is not missing. */
  disown(provider: PeerKey): void {
    if (this.#claims.delete(provider) && !this.isMissing) this.missingSinceMs = undefined;
  }

  /** What nobody has shown is not missing. */
  forgetClaims(): void {
    this.#claims.clear();
    if (!this.isMissing) this.missingSinceMs = undefined;
  }

  /** Verified, or settled by somebody's word: something to compare. */
  get isKnown(): boolean {
    return this.publisher !== undefined || this.window.floor > 0;
  }

  /**
   * The first message has been verified: what others said before does not count any more, apart from the one that showed it.
   * @param from who sent that message
   */
  verify(publisher: Uint8Array, epoch: number, from: PeerKey | undefined): void {
    // a copy: the publisher is a view into a frame
    this.publisher = Uint8Array.from(publisher);
    this.epoch = epoch;
    this.window = new SequenceWindow();
    for (const provider of this.#claims.keys()) if (provider !== from) this.#claims.delete(provider);
    if (!this.isMissing) this.missingSinceMs = undefined;
    this.refusals.clear();
    this.#fingerprint = undefined;
  }

  summary(): StreamSummary {
    return { ref: this.ref, floor: this.window.floor, ranges: this.window.ranges() };
  }

  /** 8 bytes over ref, floor and ranges. */
  get fingerprint(): Uint8Array {
    if (this.#fingerprint === undefined) {
      const text = `${this.ref} ${this.window.floor} ${this.window
        .ranges()
        .map(({ from, to }) => `${from}-${to}`)
        .join(",")}`;
      this.#fingerprint = new Uint8Array(createHash("sha256").update(text).digest().subarray(0, 8));
    }
    return this.#fingerprint;
  }
}

export class StreamTable {
  readonly #byRef = new Map<string, PublisherStream>();
  readonly #byPublisher = new Map<string, PublisherStream[]>();
  /** Epochs below are too old, per publisher that has had more than MAX_EPOCHS. */
  readonly #oldestEpoch = new Map<string, number>();
  readonly #maxStreams: number;
  readonly #counters: PubSubCounters;
  readonly #forgotten: (stream: PublisherStream) => void;
  /** In the order in which they were heard of. */
  readonly #ghosts = new Map<string, PublisherStream>();
  /** Clock below which messages of unknown streams are too old. */
  forgottenHlc = 0;

  /** @param forgotten told of every stream that is given up */
  constructor(maxStreams: number, counters: PubSubCounters, forgotten: (stream: PublisherStream) => void) {
    this.#forgotten = forgotten;
    this.#maxStreams = maxStreams;
    this.#counters = counters;
  }

  get size(): number {
    return this.#byRef.size;
  }

  values(): IterableIterator<PublisherStream> {
    return this.#byRef.values();
  }

  byRef(ref: string): PublisherStream | undefined {
    return this.#byRef.get(ref);
  }

  find(publisher: Uint8Array, epoch: number): PublisherStream | undefined {
    return this.#byPublisher.get(keyOf(publisher))?.find((stream) => stream.epoch === epoch);
  }

  isTooOld(publisher: Uint8Array, epoch: number, hlc: number): boolean {
    return epoch < (this.#oldestEpoch.get(keyOf(publisher)) ?? 0) || hlc <= this.forgottenHlc;
  }

  /** The stream by its ref, a ghost when it is unknown. */
  claim(nowMs: number, ref: string): PublisherStream {
    let stream = this.#byRef.get(ref);
    if (stream !== undefined) return stream;
    if (this.#ghosts.size >= MAX_GHOSTS) {
      const [oldest] = this.#ghosts.values();
      this.#forget(oldest, 0);
    }
    stream = new PublisherStream(ref, nowMs);
    this.#byRef.set(ref, stream);
    this.#ghosts.set(ref, stream);
    return stream;
  }

  /** Of a verified message. @param wallHlc the clock now: what is forgotten never reaches beyond it @param from who sent it */
  open(nowMs: number, publisher: Uint8Array, epoch: number, wallHlc: number, from?: PeerKey): PublisherStream {
    const found = this.find(publisher, epoch);
    if (found !== undefined) return found;
    const stream = this.claim(nowMs, streamRefOf(publisher, epoch));
    const key = keyOf(publisher);
    stream.verify(publisher, epoch, from);
    this.#ghosts.delete(stream.ref);
    const epochs = this.#byPublisher.get(key) ?? [];
    epochs.push(stream);
    epochs.sort((a, b) => a.epoch - b.epoch);
    this.#byPublisher.set(key, epochs);
    if (epochs.length > MAX_EPOCHS) {
      this.#forget(epochs[0], wallHlc);
      this.#oldestEpoch.delete(key);
      this.#oldestEpoch.set(key, epochs[0].epoch);
      if (this.#oldestEpoch.size > this.#maxStreams) {
        const [first] = this.#oldestEpoch.keys();
        this.#oldestEpoch.delete(first);
        // its old epochs are told from new ones by the clock alone now
        this.forgottenHlc = Math.max(this.forgottenHlc, wallHlc);
      }
    }
    if (this.#byRef.size - this.#ghosts.size > this.#maxStreams) this.#forgetQuietest(stream, wallHlc);
    return stream;
  }

  /** Ghosts that nobody could show. */
  expire(nowMs: number): void {
    for (const stream of this.#ghosts.values())
      if (nowMs - stream.lastMs > (stream.isKnown ? SETTLED_MS : GHOST_MS)) this.#forget(stream, 0);
  }

  /** Sum (exclusive or) of the fingerprints of the known streams with a prefix in the range. */
  digest(lower: number, upper: number): DigestRange {
    const sum = new Uint8Array(8);
    let streams = 0;
    for (const stream of this.#byRef.values()) {
      if (!stream.isKnown || stream.prefix < lower || stream.prefix > upper) continue;
      streams++;
      const one = stream.fingerprint;
      for (let i = 0; i < 8; i++) sum[i] ^= one[i];
    }
    return { lower, upper, streams, fingerprint: sum.toHex() };
  }

  /** The known ones with a prefix in the range. */
  within(lower: number, upper: number): PublisherStream[] {
    const found: PublisherStream[] = [];
    for (const stream of this.#byRef.values())
      if (stream.isKnown && stream.prefix >= lower && stream.prefix <= upper) found.push(stream);
    return found;
  }

  #forgetQuietest(except: PublisherStream, wallHlc: number): void {
    let quietest: PublisherStream | undefined;
    for (const stream of this.#byRef.values()) {
      if (stream === except || stream.publisher === undefined) continue;
      if (quietest === undefined || stream.lastMs < quietest.lastMs) quietest = stream;
    }
    if (quietest !== undefined) this.#forget(quietest, wallHlc);
  }

  #forget(stream: PublisherStream, wallHlc: number): void {
    this.#byRef.delete(stream.ref);
    this.#forgotten(stream);
    if (stream.publisher === undefined) {
      this.#ghosts.delete(stream.ref);
      return;
    }
    this.#counters.streamsForgotten++;
    const key = keyOf(stream.publisher);
    const epochs = this.#byPublisher.get(key);
    if (epochs === undefined) return;
    const at = epochs.indexOf(stream);
    if (at >= 0) epochs.splice(at, 1);
    // an older epoch of a publisher with newer ones is told by its number; a whole publisher by the clock
    if (epochs.length === 0) {
      this.#byPublisher.delete(key);
      this.forgottenHlc = Math.max(this.forgottenHlc, Math.min(stream.hlc, wallHlc));
    }
  }
}

function keyOf(publisher: Uint8Array): string {
  return publisher.toHex();
}
