/** One bidirectional stream of a QUIC connection (quic.ts), as OpenSSL has it: non-blocking reads and writes, half-close, reset. */
import type { QuicCalls } from "./quic-calls.ts";
import { readPointer, writePointer } from "./quic-calls.ts";
import {
  CHUNK,
  CODE,
  LENGTH,
  QUIC_CHUNK_BYTES,
  scratch,
  SSL_CTRL_MODE,
  SSL_MODE_PARTIAL_MOVING,
  SSL_VALUE_CLASS_GENERIC,
} from "./quic-memory.ts";

const SSL_ERROR_WANT_READ = 2;
const SSL_ERROR_WANT_WRITE = 3;
const SSL_ERROR_ZERO_RETURN = 6;
const SSL_VALUE_STREAM_WRITE_BUF_USED = 8;
const SSL_WRITE_FLAG_CONCLUDE = 1;

/** What poll() can say about a stream. */
export const StreamEvent = { READ_ERROR: 0x10, WRITE_ERROR: 0x20, READABLE: 0x40, WRITABLE: 0x80 } as const;

/** SSL_STREAM_STATE_* of one direction of a stream. */
export const StreamState = {
  NONE: 0,
  OK: 1,
  WRONG_DIRECTION: 2,
  FINISHED: 3,
  RESET_LOCAL: 4,
  RESET_REMOTE: 5,
  CONNECTION_CLOSED: 6,
} as const;

/** What a read gave that is not data. */
export const ReadEnd = { NOTHING: 0, FINISHED: 1, BROKEN: 2 } as const;
export type ReadEnd = (typeof ReadEnd)[keyof typeof ReadEnd];

/** One bidirectional stream. */
export class QuicStream {
  readonly #quic: QuicCalls;
  /** For poll(); 0 = freed. */
  address: number;
  /** Bits of StreamEvent that poll() asks for. */
  wanted = 0;
  /** Bits of StreamEvent that the last poll() found. */
  ready = 0;

  constructor(quic: QuicCalls, address: number) {
    this.#quic = quic;
    this.address = address;
    quic.SSL_ctrl(address, SSL_CTRL_MODE, SSL_MODE_PARTIAL_MOVING, 0);
  }

  /** The QUIC stream id. */
  get id(): number {
    return this.address === 0 ? -1 : this.#quic.SSL_get_stream_id(this.address);
  }

  /**
   * Hands bytes to OpenSSL, which keeps them until they are acknowledged.
   * @param isLast concludes the sending part when all of it was taken
   * @returns bytes taken (0 = not now), or −1 when the sending part is broken
   */
  write(bytes: Uint8Array, offset: number, length: number, isLast: boolean): number {
    if (this.address === 0) return -1;
    const { u8, view, at } = scratch();
    const take = Math.min(length, QUIC_CHUNK_BYTES);
    if (take === 0) {
      if (!isLast) return 0;
      const concluded = this.#quic.SSL_stream_conclude(this.address, 0);
      return concluded === 1 ? 0 : this.#broken();
    }
    u8.set(offset === 0 && take === bytes.length ? bytes : bytes.subarray(offset, offset + take), CHUNK);
    const flags = isLast && take === length ? SSL_WRITE_FLAG_CONCLUDE : 0;
    if (this.#quic.SSL_write_ex2(this.address, at + CHUNK, take, flags, at + LENGTH) === 1) {
      return readPointer(view, LENGTH);
    }
    const error = this.#quic.SSL_get_error(this.address, 0);
    this.#quic.ERR_clear_error();
    return error === SSL_ERROR_WANT_WRITE || error === SSL_ERROR_WANT_READ ? 0 : -1;
  }

  #broken(): -1 {
    this.#quic.ERR_clear_error();
    return -1;
  }

  /** Up to `limit` bytes, which are the caller's, or why there are none. */
  read(limit: number): Buffer | ReadEnd {
    if (this.address === 0) return ReadEnd.BROKEN;
    const { u8, view, at } = scratch();
    const room = Math.min(limit, QUIC_CHUNK_BYTES);
    if (this.#quic.SSL_read_ex(this.address, at + CHUNK, room, at + LENGTH) === 1) {
      const bytes = readPointer(view, LENGTH);
      const out = Buffer.allocUnsafeSlow(bytes);
      out.set(u8.subarray(CHUNK, CHUNK + bytes));
      return out;
    }
    const error = this.#quic.SSL_get_error(this.address, 0);
    this.#quic.ERR_clear_error();
    if (error === SSL_ERROR_WANT_READ || error === SSL_ERROR_WANT_WRITE) return ReadEnd.NOTHING;
    return error === SSL_ERROR_ZERO_RETURN ? ReadEnd.FINISHED : ReadEnd.BROKEN;
  }

  /** Bytes handed over that the peer has not acknowledged. */
  get unacknowledgedBytes(): number {
    if (this.address === 0) return 0;
    const { view, at } = scratch();
    const known = this.#quic.SSL_get_value_uint(
      this.address,
      SSL_VALUE_CLASS_GENERIC,
      SSL_VALUE_STREAM_WRITE_BUF_USED,
      at + CODE,
    );
    if (known === 1) return readPointer(view, CODE);
    this.#quic.ERR_clear_error();
    return 0;
  }

  get readState(): number {
    return this.address === 0 ? StreamState.CONNECTION_CLOSED : this.#quic.SSL_get_stream_read_state(this.address);
  }

  get writeState(): number {
    return this.address === 0 ? StreamState.CONNECTION_CLOSED : this.#quic.SSL_get_stream_write_state(this.address);
  }

  /** The code with which the peer reset its sending part (or stopped ours); undefined when it did not. */
  get readErrorCode(): number | undefined {
    return this.#errorCode("SSL_get_stream_read_error_code");
  }

  get writeErrorCode(): number | undefined {
    return this.#errorCode("SSL_get_stream_write_error_code");
  }

  #errorCode(call: "SSL_get_stream_read_error_code" | "SSL_get_stream_write_error_code"): number | undefined {
    if (this.address === 0) return undefined;
    const { view, at } = scratch();
    const found = this.#quic[call](this.address, at + CODE) === 1;
    this.#quic.ERR_clear_error();
    return found ? readPointer(view, CODE) : undefined;
  }

  /** Ends the sending part abruptly; what waits is not sent. @param code below 2^53 */
  reset(code: number): void {
    if (this.address === 0) return;
    const { view, at } = scratch();
    writePointer(view, CODE, code);
    this.#quic.SSL_stream_reset(this.address, at + CODE, 8);
    this.#quic.ERR_clear_error();
  }

  /** Gives it back. A receiving part that did not end is stopped, a sending part that was not concluded is reset with code 0. Idempotent. */
  free(): void {
    if (this.address === 0) return;
    this.#quic.SSL_free(this.address);
    this.#quic.ERR_clear_error();
    this.address = 0;
  }
}
