/**
 * A QUIC stream as a Node Duplex. Bytes move only when the connection pumps. Writes go as far as QUIC, the class's budget and the peer's
 * credit take them; the callback of a write comes when all of it was taken, which is the back-pressure. Everything that comes is read
 * from QUIC at once, because what stands there stands in the way of all streams; so a reader that is slow holds its writer by credit:
 * bytes that the application has taken plus a window, which begins at FIRST_CREDIT_BYTES and doubles with use. A peer that sends more
 * than its credit loses the stream. A failure reaches the application as "error" with a StreamError; without a listener it is not the end of the process.
 */
import { Duplex } from "node:stream";
import type { WeftError } from "../base/errors.ts";
import { QUIC_CHUNK_BYTES } from "../sys/quic-memory.ts";
import { type QuicStream, ReadEnd, StreamEvent as Bit, StreamState } from "../sys/quic-stream.ts";
import { type MeshStream, type StreamClass, StreamCode, StreamError } from "./types.ts";

/** The connection as its streams see it. */
export interface StreamCarrier {
  readonly peerId: Uint8Array;
  readonly generation: number;
  /** Something waits to be written or there is room to read. */
  wake(): void;
  /** Tells the peer up to which byte of the stream it may send. May get lost: the peer asks. */
  sendCredit(stream: ConnectionStream, limitBytes: number): void;
  /** Bytes that one stream may hold here now. */
  largestWindowBytes(): number;
  /** The application is done with it; what was written may still be under way. */
  detach(stream: ConnectionStream): void;
}

/** Bytes that each side may send before it has heard of any credit. */
export const FIRST_CREDIT_BYTES = 65_536;
/** Read in one turn at most. */
const READ_TURN_BYTES = 262_144;

interface PendingWrite {
  readonly bytes: Buffer;
  offset: number;
  readonly done: (error?: Error | null) => void;
}

export class ConnectionStream extends Duplex implements MeshStream {
  readonly peerId: Uint8Array;
  readonly generation: number;
  readonly streamKind: string;
  readonly streamClass: StreamClass;
  readonly isIncoming: boolean;
  readonly native: QuicStream;
  /** Bytes handed to QUIC that were not acknowledged when last looked at; the connection keeps it. */
  inFlightBytes = 0;
  bytesRead = 0;
  bytesWritten = 0;
  readonly #carrier: StreamCarrier;
  /** Up to here this side may send, and the other one. */
  #sendLimitBytes = FIRST_CREDIT_BYTES;
  #grantedBytes = FIRST_CREDIT_BYTES;
  #windowBytes = FIRST_CREDIT_BYTES;
  /** When the peer is asked for credit again; Infinity while there is some. */
  askAtMs: number = Infinity;
  askAfterMs = 0;
  #pending: PendingWrite | undefined;
  #finish: ((error?: Error | null) => void) | undefined;
  #isConcluded = false;
  #isReadEnded = false;
  #resetCode: number | undefined;

  constructor(
    carrier: StreamCarrier,
    native: QuicStream,
    opening: { readonly kind: string; readonly streamClass: StreamClass; readonly isIncoming: boolean },
    bufferBytes: number,
  ) {
    super({
      allowHalfOpen: true,
      readableHighWaterMark: bufferBytes,
      writableHighWaterMark: bufferBytes,
      decodeStrings: true,
    });
    this.#carrier = carrier;
    this.peerId = carrier.peerId;
    this.generation = carrier.generation;
    this.native = native;
    this.streamKind = opening.kind;
    this.streamClass = opening.streamClass;
    this.isIncoming = opening.isIncoming;
    this.on("error", () => {});
  }

  reset(code: number): void {
    if (!Number.isSafeInteger(code) || code < 0) throw new RangeError(`a reset code is 0 to 2^53 - 1, not ${code}`);
    this.#resetCode = code;
    this.destroy();
  }

  // ── for the connection ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Bits of StreamEvent that matter now. */
  get wanted(): number {
    let bits = 0;
    if (!this.#isReadEnded) bits |= Bit.READABLE | Bit.READ_ERROR;
    if (!this.#isConcluded) bits |= this.hasWrites ? Bit.WRITABLE | Bit.WRITE_ERROR : Bit.WRITE_ERROR;
    return bits;
  }

  /** Something could be written now. */
  get hasWrites(): boolean {
    return this.#pending === undefined ? this.#finish !== undefined : this.bytesWritten < this.#sendLimitBytes;
  }

  /** Something waits for the peer's credit. */
  get isBlocked(): boolean {
    return this.#pending !== undefined && this.bytesWritten >= this.#sendLimitBytes;
  }

  /** The peer takes bytes of the stream up to here. */
  raiseLimit(limitBytes: number): void {
    if (limitBytes <= this.#sendLimitBytes) return;
    this.#sendLimitBytes = limitBytes;
    this.#carrier.wake();
  }

  /** The peer may have missed it. */
  repeatCredit(): void {
    this.#carrier.sendCredit(this, this.#grantedBytes);
  }

  /** @returns bytes that went to the application */
  pumpRead(): number {
    let bytes = 0;
    while (bytes < READ_TURN_BYTES && !this.#isReadEnded && !this.destroyed) {
      const got = this.native.read(QUIC_CHUNK_BYTES);
      if (got === ReadEnd.NOTHING) break;
      if (got === ReadEnd.FINISHED) {
        this.#isReadEnded = true;
        this.push(null);
        break;
      }
      if (got === ReadEnd.BROKEN) {
        this.#fail();
        break;
      }
      const chunk = got;
      bytes += chunk.length;
      this.bytesRead += chunk.length;
      if (this.bytesRead > this.#grantedBytes) {
        this.abort(new StreamError("STREAM_RESET", "the peer has sent more than it may"), StreamCode.TOO_MUCH);
        break;
      }
      try {
        this.push(chunk);
      } catch (error) {
        this.#listenerFailed(error);
      }
    }
    this.#noteConsumed();
    return bytes;
  }

  /** @param room bytes that the budget allows @returns bytes that QUIC took */
  pumpWrite(room: number): number {
    const pending = this.#pending;
    let taken = 0;
    if (pending !== undefined) {
      const credit = this.#sendLimitBytes - this.bytesWritten;
      const length = Math.min(room, credit, pending.bytes.length - pending.offset);
      taken = length === 0 ? 0 : this.native.write(pending.bytes, pending.offset, length, false);
      if (taken < 0) {
        this.#fail();
        return 0;
      }
      pending.offset += taken;
      this.bytesWritten += taken;
      if (pending.offset < pending.bytes.length) return taken;
      this.#pending = undefined;
      pending.done();
    }
    const finish = this.#finish;
    if (finish !== undefined && this.#pending === undefined && !this.destroyed) {
      this.#finish = undefined;
      this.#isConcluded = this.native.write(NOTHING, 0, 0, true) === 0;
      if (this.#isConcluded) finish();
      else this.#fail();
    }
    return taken;
  }

  /** The peer has ended one half abruptly, or the connection is going; the latter its connection reports itself. */
  handleBreak(): void {
    this.#fail();
  }

  /** Ends the stream for a reason of this side. */
  abort(error: WeftError, code: number = StreamCode.CANCELLED): void {
    this.#resetCode ??= code;
    this.destroy(error);
  }

  #fail(): void {
    if (this.destroyed) return;
    const { native } = this;
    const isReset = native.readState === StreamState.RESET_REMOTE || native.writeState === StreamState.RESET_REMOTE;
    if (!isReset) {
      const isClosed =
        native.readState === StreamState.CONNECTION_CLOSED || native.writeState === StreamState.CONNECTION_CLOSED;
      if (isClosed) return;
    }
    const code = native.readErrorCode ?? native.writeErrorCode ?? StreamCode.NONE;
    this.destroy(
      new StreamError("STREAM_RESET", `the peer has ended the stream "${this.streamKind}" (code ${code})`, code),
    );
  }

  // ── Node's side ──────────────────────────────────────────────────────────────────────────────────────────────────────

  override _read(): void {
    // what comes is pushed as it comes
  }

  override read(size?: number): unknown {
    let got: unknown = null;
    try {
      got = super.read(size);
    } catch (error) {
      this.#listenerFailed(error);
    }
    this.#noteConsumed();
    return got;
  }

  /** A listener of "data" has thrown: that is its stream's end and nobody else's. */
  #listenerFailed(error: unknown): void {
    this.destroy(error instanceof Error ? error : new Error(String(error)));
  }

  #noteConsumed(): void {
    if (this.#isReadEnded || this.destroyed) return;
    const consumed = this.bytesRead - this.readableLength;
    if (consumed + this.#windowBytes - this.#grantedBytes < this.#windowBytes / 2) return;
    this.#windowBytes = Math.max(
      this.#windowBytes,
      Math.min(this.#windowBytes * 2, this.#carrier.largestWindowBytes()),
    );
    this.#grantedBytes = consumed + this.#windowBytes;
    this.#carrier.sendCredit(this, this.#grantedBytes);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (chunk.length === 0) return done();
    this.#pending = { bytes: chunk, offset: 0, done };
    this.#carrier.wake();
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#finish = done;
    this.#carrier.wake();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const isComplete = this.#isConcluded && this.#isReadEnded && error === null && this.#resetCode === undefined;
    if (!isComplete) this.native.reset(this.#resetCode ?? StreamCode.CANCELLED);
    const pending = this.#pending;
    const finish = this.#finish;
    this.#pending = undefined;
    this.#finish = undefined;
    this.#carrier.detach(this);
    done(error);
    // Node has marked the stream as destroyed; its callbacks only release what they hold
    const why = error ?? new StreamError("STREAM_RESET", `the stream "${this.streamKind}" was ended by this side`);
    pending?.done(why);
    finish?.(why);
  }
}

const NOTHING = new Uint8Array(0);
