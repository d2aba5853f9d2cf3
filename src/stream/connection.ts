/**
 * One QUIC connection with a peer: one generation. It pumps: what came in goes to OpenSSL, what OpenSSL has goes to the streams, what the
 * streams have goes to OpenSSL in the order of their classes, and what that makes goes to the peer.
 *
 *   handleDatagram ─► pair ─► process ─► accept, read ─► Duplex          Duplex ─► budget by class ─► write ─► process ─► pair ─► send
 *
 * Order: bytes of a stream stay in order; streams of one class take turns. Full: the application is not read from (its write waits),
 * the peer is not read (QUIC's flow control holds it), a datagram that the plane does not take waits and with it all behind it; a datagram
 * that finds the pair full is lost, as on a wire. A turn is bounded; the rest follows in the next one.
 * Before a stream moves, the peer's key from the handshake has been compared with its node id. Source: docs/protocol.md, "Streams".
 */
import { equal } from "../base/bytes.ts";
import type { QuicContext } from "../sys/quic-context.ts";
import { type QuicStream, ReadEnd, StreamEvent as Bit } from "../sys/quic-stream.ts";
import { QUIC_DATAGRAM_BYTES, QuicConnection } from "../sys/quic.ts";
import { ClassBudget } from "./budget.ts";
import { ConnectionStream, type StreamCarrier } from "./duplex.ts";
import { encodeOpening, type Opening, OpeningReader } from "./opening.ts";
import {
  STREAM_CLASSES,
  type StreamClass,
  StreamCode,
  type StreamCounters,
  StreamError,
  type StreamErrorCode,
  StreamFlag,
} from "./types.ts";

const DELAYED_RETRY_MS = 2;
const ROUNDS_PER_TURN = 4;
/** A turn that has taken so long gives way to whoever else waits in this thread. */
const TURN_MS = 2;
/** Bytes that a fresh stream gets at once of a class's room, so that streams of a class take turns. */
const TURN_BYTES = 65_536;
/**
 * While OpenSSL has no answer it waits a second before it sends again, whatever the path; the same datagrams sent once more after
 * three RTTs do no harm (a packet counts once) and most of the time help.
 */
const FIRST_RESEND_MS = 100;
const RESEND_RTTS = 3;
const MOST_RESENDS = 4;
const RESENT_DATAGRAMS = 8;
/** Datagrams without an answer before silence counts. */
const SILENT_DATAGRAMS = 4;

export interface ConnectionDeps {
  readonly context: QuicContext;
  readonly counters: StreamCounters;
  nowMs(): number;
  schedule(atMs: number, action: () => void): () => void;
  /** @returns false when there is no room now */
  send(datagram: Uint8Array): boolean;
  /** CREDIT and BLOCKED; may get lost. */
  signal(flag: number, payload: Uint8Array): void;
  rttMs(): number;
  /** The handshake is done and the key is the peer's. */
  onEstablished(): void;
  /** A stream of the peer with a whole opening. */
  onStream(stream: ConnectionStream): void;
  /** There may be room for another stream. */
  onRoom(): void;
  /** Called once; everything is given back already. */
  onEnd(code: StreamErrorCode, reason: string): void;
}

export interface ConnectionOptions {
  readonly role: "client" | "server";
  readonly peerId: Uint8Array;
  readonly generation: number;
  /** Names the connection between the two ends, 1–65,535. */
  readonly tag: number;
  readonly maxIncoming: number;
  readonly maxOutgoing: number;
  readonly streamBufferBytes: number;
  readonly readBufferBytes: number;
  readonly datagramBufferBytes: number;
  readonly handshakeTimeoutMs: number;
  readonly silenceMs: number;
  readonly idleMs: number;
}

/** CREDIT: 0 stream id u64 | 8 limit u64; BLOCKED: the id alone. Little-endian. */
const ID_BYTES = 8;
const CREDIT_BYTES = 16;
const LARGEST_WINDOW_BYTES = 1 << 20;
const FIRST_ASK_MS = 100;
const LAST_ASK_MS = 2_000;

function readU64(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 4_294_967_296;
}

function writeU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setUint32(offset + 4, Math.floor(value / 4_294_967_296), true);
}

/** A stream that the application is done with while its last bytes are not acknowledged. */
interface Lingering {
  readonly native: QuicStream;
  readonly streamClass: StreamClass;
  readonly isIncoming: boolean;
  inFlightBytes: number;
}

export class Connection implements StreamCarrier {
  readonly peerId: Uint8Array;
  readonly generation: number;
  readonly tag: number;
  readonly role: "client" | "server";
  /** Streams of both sides so far. */
  streamsSoFar = 0;
  /** A successor takes the new ones. */
  isDraining = false;
  isEstablished = false;
  isEnded = false;
  readonly #deps: ConnectionDeps;
  readonly #options: ConnectionOptions;
  readonly #quic: QuicConnection;
  readonly #budget: ClassBudget;
  readonly #streams = new Set<ConnectionStream>();
  readonly #byId = new Map<number, ConnectionStream>();
  readonly #lingering = new Set<Lingering>();
  readonly #openings = new Map<QuicStream, OpeningReader>();
  #incoming = 0;
  #outgoing = 0;
  #held: Uint8Array | undefined;
  #cancelTimer: (() => void) | undefined;
  #timerAtMs = Infinity;
  #isTurnPlanned = false;
  #isTurning = false;
  #startedMs: number;
  /** Datagrams sent since one came, and when the first of them went. */
  #unanswered = 0;
  #unansweredSinceMs = 0;
  #idleSinceMs: number;
  /** The last datagrams of a handshake that is under way, and when they go again. */
  #flight: Uint8Array[] = [];
  #resends = 0;
  #resendAtMs = Infinity;

  /** @throws SysError QUIC_FAILED */
  constructor(deps: ConnectionDeps, options: ConnectionOptions) {
    this.#deps = deps;
    this.#options = options;
    this.peerId = options.peerId;
    this.generation = options.generation;
    this.tag = options.tag;
    this.role = options.role;
    this.#startedMs = deps.nowMs();
    this.#idleSinceMs = this.#startedMs;
    this.#budget = new ClassBudget(this.#startedMs);
    this.#quic = new QuicConnection(deps.context, { role: options.role, pairBytes: options.datagramBufferBytes });
    deps.counters.connections++;
    this.wake();
  }

  get streamCount(): number {
    return this.#streams.size + this.#lingering.size + this.#openings.size;
  }

  handleDatagram(datagram: Uint8Array): void {
    if (this.isEnded) return;
    if (!this.#quic.receive(datagram)) {
      // many at once fill the pair: let OpenSSL take them before the turn
      if (!this.#isTurning) this.#quic.process();
      if (!this.#quic.receive(datagram)) {
        this.#deps.counters.datagramsDropped++;
        return;
      }
    }
    this.#deps.counters.datagramsIn++;
    this.#unanswered = 0;
    this.wake();
  }

  /** CREDIT or BLOCKED for one of its streams; anything may be in it. */
  handleSignal(flag: number, payload: Uint8Array): void {
    if (payload.length < ID_BYTES) return;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
    const stream = this.#byId.get(readU64(view, 0));
    if (stream === undefined || stream.destroyed) return;
    if (flag === StreamFlag.BLOCKED) stream.repeatCredit();
    else if (payload.length >= CREDIT_BYTES) stream.raiseLimit(readU64(view, ID_BYTES));
  }

  sendCredit(stream: ConnectionStream, limitBytes: number): void {
    if (this.isEnded) return;
    const view = new DataView(new ArrayBuffer(CREDIT_BYTES));
    writeU64(view, 0, stream.native.id);
    writeU64(view, ID_BYTES, limitBytes);
    this.#deps.signal(StreamFlag.CREDIT, new Uint8Array(view.buffer));
  }

  largestWindowBytes(): number {
    return Math.min(LARGEST_WINDOW_BYTES, this.#options.readBufferBytes / Math.max(1, this.#streams.size));
  }

  /** @returns undefined when the limit of either side is reached, or the connection is not up */
  open(opening: Opening): ConnectionStream | undefined {
    if (!this.isEstablished || this.isEnded || this.#outgoing >= this.#options.maxOutgoing) return undefined;
    const native = this.#quic.openStream();
    if (native === undefined) return undefined;
    const header = encodeOpening(opening);
    if (native.write(header, 0, header.length, false) !== header.length) {
      native.free();
      return undefined;
    }
    this.#outgoing++;
    this.#deps.counters.streamsOpened++;
    return this.#add(native, opening, false);
  }

  /** Ends it and all its streams; tells the peer when it can. */
  end(code: StreamErrorCode, reason: string, closeCode: number = StreamCode.NONE): void {
    if (this.isEnded) return;
    this.isEnded = true;
    this.#cancelTimer?.();
    this.#timerAtMs = Infinity;
    for (const stream of this.#streams) {
      stream.destroy(new StreamError(code, `the connection with the peer is gone: ${reason}`));
      stream.native.free();
    }
    for (const { native } of this.#lingering) native.free();
    for (const native of this.#openings.keys()) native.free();
    this.#deps.counters.streams -= this.#streams.size;
    this.#streams.clear();
    this.#lingering.clear();
    this.#openings.clear();
    this.#quic.shutdown(closeCode);
    this.#transmit();
    this.#quic.free();
    this.#deps.counters.connections--;
    this.#deps.onEnd(code, reason);
  }

  /** Plans a turn in this tick, after what is under way. */
  wake(): void {
    if (this.#isTurnPlanned || this.isEnded || this.#isTurning) {
      if (this.#isTurning) this.#isTurnPlanned = true;
      return;
    }
    this.#isTurnPlanned = true;
    queueMicrotask(() => this.#turn());
  }

  detach(stream: ConnectionStream): void {
    if (!this.#streams.delete(stream)) return;
    this.#byId.delete(stream.native.id);
    this.#deps.counters.streams--;
    const { native, streamClass, isIncoming, inFlightBytes } = stream;
    if (!this.isEnded) {
      this.#lingering.add({ native, streamClass, isIncoming, inFlightBytes });
      this.wake();
    }
  }

  // ── a turn ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #turn(): void {
    if (this.isEnded || this.#isTurning) return;
    this.#isTurning = true;
    let again = false;
    const endMs = this.#deps.nowMs() + TURN_MS;
    try {
      for (let round = 0; round < ROUNDS_PER_TURN && !this.isEnded; round++) {
        this.#isTurnPlanned = false;
        this.#quic.process();
        if (!this.#checkState()) break;
        let moved = 0;
        if (this.isEstablished) {
          this.#accept();
          this.#settle();
          moved = this.#moveBytes();
          this.#settle();
          if (moved > 0) this.#quic.process();
        }
        // a pair that was full may have kept OpenSSL from making more
        const wasFull = this.#transmit() * QUIC_DATAGRAM_BYTES > this.#options.datagramBufferBytes / 2;
        again = moved > 0 || this.#isTurnPlanned || (wasFull && this.#held === undefined);
        if (!again || this.#deps.nowMs() >= endMs) break;
      }
    } finally {
      this.#isTurning = false;
      this.#isTurnPlanned = false;
    }
    if (this.isEnded) return;
    if (this.isEstablished) this.#deps.onRoom();
    if (this.isEnded) return;
    if (again) {
      this.#isTurnPlanned = true;
      setImmediate(() => this.#turn());
    }
    this.#arm();
  }

  /** @returns false when the connection has ended */
  #checkState(): boolean {
    const closed = this.#quic.closeInfo();
    if (closed !== undefined) {
      const by = closed.isLocal ? "this side" : "the peer";
      const what = closed.reason === "" ? `code ${closed.code}` : `${closed.reason} (code ${closed.code})`;
      this.end("CONNECTION_CLOSED", `closed by ${by}, ${what}`);
      return false;
    }
    if (this.isEstablished) return !this.#isSilent() && !this.#isIdle();
    if (this.#quic.isEstablished) {
      const key = this.#quic.peerKey();
      if (key === undefined || !equal(key, this.peerId)) {
        this.#deps.counters.keysRefused++;
        this.end("CONNECTION_CLOSED", "the key in its handshake is not the node's", StreamCode.WRONG_KEY);
        return false;
      }
      this.isEstablished = true;
      this.#flight = [];
      this.#resendAtMs = Infinity;
      this.#deps.counters.connectionsEstablished++;
      this.#deps.onEstablished();
      return !this.isEnded;
    }
    if (this.#deps.nowMs() >= this.#resendAtMs) this.#resend();
    if (this.#deps.nowMs() - this.#startedMs < this.#options.handshakeTimeoutMs) return true;
    this.#deps.counters.connectionsFailed++;
    this.end("CONNECTION_CLOSED", "the handshake was not answered");
    return false;
  }

  #isSilent(): boolean {
    if (this.#unanswered < SILENT_DATAGRAMS) return false;
    if (this.#deps.nowMs() - this.#unansweredSinceMs < this.#options.silenceMs) return false;
    this.end("CONNECTION_REPLACED", "nothing came back");
    return true;
  }

  /** OpenSSL's servers offer 30 s of idleness and both ends ping every 15 s to stay within: not worth it for nobody. */
  #isIdle(): boolean {
    const nowMs = this.#deps.nowMs();
    if (this.streamCount > 0) this.#idleSinceMs = nowMs;
    if (this.role === "server" || nowMs - this.#idleSinceMs < this.#options.idleMs) return false;
    this.end("CONNECTION_CLOSED", "no streams");
    return true;
  }

  #accept(): void {
    while (this.#incoming < this.#options.maxIncoming) {
      const native = this.#quic.acceptStream();
      if (native === undefined) return;
      this.#incoming++;
      this.streamsSoFar++;
      native.wanted = Bit.READABLE | Bit.READ_ERROR;
      this.#openings.set(native, new OpeningReader());
    }
  }

  /** Looks at what was acknowledged, and gives back streams that are done. */
  #settle(): void {
    const nowMs = this.#deps.nowMs();
    this.#budget.setRtt(this.#deps.rttMs());
    for (const stream of this.#streams) if (stream.inFlightBytes > 0) this.#settleOne(nowMs, stream);
    for (const one of this.#lingering) {
      if (one.inFlightBytes > 0) this.#settleOne(nowMs, one);
      if (one.inFlightBytes > 0) continue;
      one.native.free();
      this.#lingering.delete(one);
      this.#countDown(one.isIncoming);
      // there is room for another one
      this.#isTurnPlanned = true;
    }
  }

  #settleOne(nowMs: number, stream: ConnectionStream | Lingering): void {
    const left = Math.min(stream.inFlightBytes, stream.native.unacknowledgedBytes);
    this.#budget.noteAcknowledged(nowMs, stream.streamClass, stream.inFlightBytes - left);
    stream.inFlightBytes = left;
  }

  #countDown(isIncoming: boolean): void {
    if (isIncoming) this.#incoming--;
    else this.#outgoing--;
  }

  /** @returns how much happened: bytes and openings */
  #moveBytes(): number {
    const natives: QuicStream[] = [];
    for (const native of this.#openings.keys()) natives.push(native);
    for (const stream of this.#streams) {
      stream.native.wanted = stream.wanted;
      natives.push(stream.native);
    }
    this.#quic.poll(natives);
    let moved = 0;
    for (const native of this.#openings.keys()) if (native.ready !== 0) moved += this.#readOpening(native);
    for (const stream of this.#streams) {
      const { ready } = stream.native;
      if ((ready & Bit.READABLE) !== 0) {
        const bytes = stream.pumpRead();
        this.#deps.counters.bytesIn += bytes;
        moved += bytes;
      }
      if ((ready & (Bit.READ_ERROR | Bit.WRITE_ERROR)) !== 0) stream.handleBreak();
    }
    return moved + this.#writeByClass();
  }

  #writeByClass(): number {
    const nowMs = this.#deps.nowMs();
    let moved = 0;
    let isPressed = false;
    for (let streamClass = 0; streamClass < STREAM_CLASSES; streamClass++) {
      const turn: ConnectionStream[] = [];
      for (const stream of this.#streams) if (stream.streamClass === streamClass && stream.hasWrites) turn.push(stream);
      this.#askForCredit(streamClass);
      for (const stream of turn) {
        const room = Math.min(TURN_BYTES, this.#budget.room(nowMs, stream.streamClass, isPressed));
        const bytes = stream.pumpWrite(room);
        if (bytes > 0) {
          this.#budget.noteWritten(nowMs, stream.streamClass, bytes);
          stream.inFlightBytes += bytes;
          this.#deps.counters.bytesOut += bytes;
          moved += bytes;
          // whoever has written goes behind the others of its class
          if (this.#streams.delete(stream)) this.#streams.add(stream);
        }
      }
      if (turn.some((stream) => stream.hasWrites)) isPressed = true;
    }
    return moved;
  }

  /** Who waits for credit asks again, in case it was lost. */
  #askForCredit(streamClass: number): void {
    const nowMs = this.#deps.nowMs();
    for (const stream of this.#streams) {
      if (stream.streamClass !== streamClass) continue;
      if (!stream.isBlocked) {
        stream.askAtMs = Infinity;
        stream.askAfterMs = FIRST_ASK_MS;
      } else if (stream.askAtMs === Infinity) stream.askAtMs = nowMs + stream.askAfterMs;
      else if (nowMs >= stream.askAtMs) {
        stream.askAfterMs = Math.min(LAST_ASK_MS, stream.askAfterMs * 2);
        stream.askAtMs = nowMs + stream.askAfterMs;
        const view = new DataView(new ArrayBuffer(ID_BYTES));
        writeU64(view, 0, stream.native.id);
        this.#deps.signal(StreamFlag.BLOCKED, new Uint8Array(view.buffer));
      }
    }
  }

  #readOpening(native: QuicStream): number {
    const reader = this.#openings.get(native) as OpeningReader;
    while (reader.wanted > 0) {
      const got = native.read(reader.wanted);
      if (got === ReadEnd.NOTHING) return 0;
      if (typeof got === "number" || !reader.add(got)) {
        this.#refuse(native, StreamCode.BAD_OPENING);
        return 1;
      }
    }
    const opening = reader.finish();
    if (opening === undefined) {
      this.#refuse(native, StreamCode.BAD_OPENING);
      return 1;
    }
    this.#openings.delete(native);
    this.#deps.counters.streamsAccepted++;
    this.#deps.onStream(this.#add(native, opening, true));
    return 1;
  }

  #refuse(native: QuicStream, code: number): void {
    this.#deps.counters.openingsRefused++;
    this.#openings.delete(native);
    native.reset(code);
    native.free();
    this.#incoming--;
  }

  #add(native: QuicStream, opening: Opening, isIncoming: boolean): ConnectionStream {
    const { kind, streamClass } = opening;
    const stream = new ConnectionStream(
      this,
      native,
      { kind, streamClass, isIncoming },
      this.#options.streamBufferBytes,
    );
    if (!isIncoming) this.streamsSoFar++;
    this.#streams.add(stream);
    this.#byId.set(native.id, stream);
    this.#deps.counters.streams++;
    this.wake();
    return stream;
  }

  // ── datagrams ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @returns datagrams sent */
  #transmit(): number {
    let sent = 0;
    for (;;) {
      const datagram = this.#held ?? this.#quic.transmit();
      this.#held = undefined;
      if (datagram === undefined) return sent;
      if (!this.#deps.send(datagram)) {
        this.#deps.counters.datagramsDelayed++;
        this.#held = datagram;
        return sent;
      }
      if (this.#unanswered === 0) this.#unansweredSinceMs = this.#deps.nowMs();
      this.#unanswered++;
      this.#deps.counters.datagramsOut++;
      sent++;
      if (this.isEstablished || this.isEnded) continue;
      this.#flight.push(datagram);
      if (this.#flight.length > RESENT_DATAGRAMS) this.#flight.shift();
      if (this.#resends < MOST_RESENDS) this.#resendAtMs = this.#deps.nowMs() + this.#resendAfterMs();
    }
  }

  #resendAfterMs(): number {
    return Math.max(FIRST_RESEND_MS, RESEND_RTTS * this.#deps.rttMs()) * 2 ** this.#resends;
  }

  /** Those that the plane has no room for are lost. */
  #resend(): void {
    this.#resends++;
    this.#resendAtMs = this.#resends < MOST_RESENDS ? this.#deps.nowMs() + this.#resendAfterMs() : Infinity;
    for (const datagram of this.#flight) if (this.#deps.send(datagram)) this.#deps.counters.datagramsOut++;
  }

  #arm(): void {
    const nowMs = this.#deps.nowMs();
    let dueMs = nowMs + Math.max(1, this.#quic.nextTimeoutMs());
    if (this.#held !== undefined) dueMs = Math.min(dueMs, nowMs + DELAYED_RETRY_MS);
    if (this.isEstablished && this.streamCount === 0 && this.role === "client")
      dueMs = Math.min(dueMs, this.#idleSinceMs + this.#options.idleMs + 1);
    for (const stream of this.#streams) dueMs = Math.min(dueMs, stream.askAtMs);
    if (!this.isEstablished)
      dueMs = Math.min(dueMs, this.#resendAtMs, this.#startedMs + this.#options.handshakeTimeoutMs + 1);
    if (Math.abs(dueMs - this.#timerAtMs) < 0.5) return;
    this.#cancelTimer?.();
    this.#timerAtMs = dueMs;
    this.#cancelTimer =
      dueMs === Infinity
        ? undefined
        : this.#deps.schedule(dueMs, () => {
            this.#timerAtMs = Infinity;
            this.#cancelTimer = undefined;
            this.#turn();
          });
  }
}
