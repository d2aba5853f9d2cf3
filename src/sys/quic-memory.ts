/**
 * What the files of QUIC share: scratch memory that native calls of this thread point to, constants, and OpenSSL's errors as ours.
 */
import { SysError } from "./errno.ts";
import { rawAddress } from "./libc.ts";
import type { QuicCalls } from "./quic-calls.ts";

/** Bytes that one read or write moves at most. */
export const QUIC_CHUNK_BYTES = 65_536;
/** OpenSSL's number of the key type. */
export const NID_ED25519 = 1087;
export const SSL_CTRL_MODE = 33;
export const SSL_MODE_PARTIAL_MOVING = 3;
export const SSL_VALUE_CLASS_GENERIC = 0;
export const POLL_ITEM_BYTES = 32;

/** Native memory that calls of this thread share: nothing in it outlives a call. */
export interface Scratch {
  readonly u8: Uint8Array;
  readonly view: DataView;
  readonly at: number;
}

/** 0 message 40 | 40 count 8 | 48 timeval 16 | 64 infinite 8 | 72 length 8 | 80 code 8 | 88 key 32 | 128 close info 40 | 256 poll items | chunk */
export const MESSAGE = 0;
export const COUNT = 40;
export const TIMEVAL = 48;
export const INFINITE = 64;
export const LENGTH = 72;
export const CODE = 80;
export const REASON = 88;
export const KEY = 96;
export const CLOSE_INFO = 128;
export const CLOSE_INFO_BYTES = 40;
export const POLL_ITEMS = 256;
export const MAX_POLL_ITEMS = 512;
export const CHUNK: number = POLL_ITEMS + MAX_POLL_ITEMS * POLL_ITEM_BYTES;

let scratchMemory: Scratch | undefined;
export function scratch(): Scratch {
  if (scratchMemory === undefined) {
    const u8 = new Uint8Array(CHUNK + QUIC_CHUNK_BYTES);
    scratchMemory = { u8, view: new DataView(u8.buffer), at: rawAddress(u8) };
  }
  return scratchMemory;
}

export function failed(quic: QuicCalls, call: string): SysError {
  const { u8, at } = scratch();
  quic.ERR_error_string_n(quic.ERR_get_error(), at + CHUNK, 256);
  const text = Buffer.from(u8.subarray(CHUNK, CHUNK + 256));
  const reason = text.toString("latin1", 0, text.indexOf(0));
  quic.ERR_clear_error();
  return new SysError(call, 0, { code: "QUIC_FAILED", what: `${call} failed: ${reason}`, remedy: "report this" });
}
