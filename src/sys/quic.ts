/**
 * QUIC version 1 connections over datagrams that the owner carries, by the OpenSSL inside Node (RFC 9000, 9001, 9002).
 *
 *   owner ── receive(datagram) ──► datagram pair ──► OpenSSL        OpenSSL ──► datagram pair ── transmit() ──► owner
 *   owner ── process() at nextTimeoutMs() and after receive(); poll() then says which streams can be read or written
 *
 * No sockets, no threads, never blocks: both sides of the pair are memory of bounded size. TLS 1.3 with X25519MLKEM768 alone; both ends
 * present a certificate, whose chain nobody judges: the owner compares peerKey(), which TLS has proven the peer to hold.
 * Objects here are native: whoever makes one frees it, streams before their connection. A freed object answers nothing.
 * Datagrams are at most QUIC_DATAGRAM_BYTES. The clock is OpenSSL's own. The idle time-out is 30 s with pings every 15 s: a server of
 * OpenSSL 3.5 cannot be told otherwise before it has offered it. Callbacks must not call into OpenSSL: its locks are held.
 */
import { CopyPool } from "../base/copy-pool.ts";
import type { SysError } from "./errno.ts";
import { libc } from "./libc.ts";
import { MESSAGE_BYTES, quicCallbacks, type QuicCalls, readPointer, writeMessage, writePointer } from "./quic-calls.ts";
import type { QuicContext } from "./quic-context.ts";
import {
  CHUNK,
  CLOSE_INFO,
  CLOSE_INFO_BYTES,
  CODE,
  COUNT,
  failed,
  INFINITE,
  KEY,
  LENGTH,
  MAX_POLL_ITEMS,
  MESSAGE,
  NID_ED25519,
  POLL_ITEM_BYTES,
  POLL_ITEMS,
  QUIC_CHUNK_BYTES,
  REASON,
  scratch,
  SSL_VALUE_CLASS_GENERIC,
  TIMEVAL,
} from "./quic-memory.ts";
import { QuicStream } from "./quic-stream.ts";

/** Smallest datagram that QUIC must be able to use, and the largest used here (RFC 9000 section 14). */
export const QUIC_DATAGRAM_BYTES = 1_200;
const KEY_BYTES = 32;

// OpenSSL's constants (ssl.h, bio.h), by their names there
const SSL_VALUE_EVENT_HANDLING_MODE = 6;
const EVENT_HANDLING_EXPLICIT = 2;
const SSL_LISTENER_FLAG_NO_VALIDATE = 2;
const SSL_ACCEPT_NO_BLOCK = 1;
const SSL_STREAM_FLAG_NO_BLOCK = 2;
const SSL_INCOMING_STREAM_POLICY_ACCEPT = 1;
const SSL_SHUTDOWN_RAPID_NO_BLOCK = 1 | 2 | 4;
const SSL_CONN_CLOSE_FLAG_LOCAL = 1;
const SSL_CONN_CLOSE_FLAG_TRANSPORT = 2;
const SSL_POLL_FLAG_NO_HANDLE_EVENTS = 1;
const BIO_POLL_DESCRIPTOR_TYPE_SSL = 2;
const BIO_CTRL_DGRAM_SET_MTU = 42;
const BIO_CTRL_DGRAM_SET_LOCAL_ADDR_ENABLE = 84;
const BIO_CTRL_DGRAM_SET_CAPS = 87;
const BIO_CTRL_DGRAM_SET_NO_TRUNC = 89;
const DGRAM_CAP_ALL_ADDRESSES = 0xf;
const AF_INET = 2;

/** Datagrams on their way out are handed on at once. */
const copies = new CopyPool();
let addresses: { readonly client: number; readonly server: number } | undefined;

/** Invented socket addresses of the two ends; a connection's packets are told apart by the pair they travel through. */
function endAddresses(quic: QuicCalls): { readonly client: number; readonly server: number } {
  if (addresses !== undefined) return addresses;
  const { u8, at } = scratch();
  u8.set([127, 0, 0, 1], KEY);
  const make = (port: number): number => {
    const address = quic.BIO_ADDR_new();
    quic.BIO_ADDR_rawmake(address, AF_INET, at + KEY, 4, port);
    return address;
  };
  addresses = { client: make(1), server: make(2) };
  return addresses;
}

export interface QuicConnectionOptions {
  readonly role: "client" | "server";
  /** Bytes that wait in each direction between the owner and OpenSSL; resident. @default 65536 */
  readonly pairBytes?: number;
}

export interface QuicCloseInfo {
  readonly code: number;
  readonly reason: string;
  readonly isLocal: boolean;
  /** True: an error of QUIC or TLS itself; false: an application's close. */
  readonly isTransport: boolean;
}

/** One connection; a server's object is a listener that accepts exactly one. */
export class QuicConnection {
  readonly role: "client" | "server";
  readonly #quic: QuicCalls;
  /** The object that carries the pair: the connection itself, or the listener. */
  #top = 0;
  #connection = 0;
  #outside = 0;
  readonly #from: number;
  readonly #to: number;
  /** A server's: the destination id of the client's first packet, and the one that this side has chosen. */
  #firstId: string | undefined;
  #ownId: string | undefined;

  /** @throws SysError QUIC_FAILED */
  constructor(context: QuicContext, options: QuicConnectionOptions) {
    const quic = context.calls;
    this.#quic = quic;
    this.role = options.role;
    const { view, at } = scratch();
    const ends = endAddresses(quic);
    const isClient = options.role === "client";
    this.#from = isClient ? ends.server : ends.client;
    this.#to = isClient ? ends.client : ends.server;
    const pairBytes = options.pairBytes ?? 65_536;
    if (quic.BIO_new_bio_dgram_pair(at + MESSAGE, pairBytes, at + MESSAGE + 8, pairBytes) !== 1) {
      throw failed(quic, "BIO_new_bio_dgram_pair");
    }
    const inside = readPointer(view, MESSAGE);
    this.#outside = readPointer(view, MESSAGE + 8);
    for (const bio of [inside, this.#outside]) {
      quic.BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_CAPS, DGRAM_CAP_ALL_ADDRESSES, 0);
      quic.BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_LOCAL_ADDR_ENABLE, 1, 0);
      quic.BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_NO_TRUNC, 1, 0);
      quic.BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_MTU, QUIC_DATAGRAM_BYTES, 0);
    }
    this.#top = isClient
      ? quic.SSL_new(context.client)
      : quic.SSL_new_listener(context.server, SSL_LISTENER_FLAG_NO_VALIDATE);
    if (this.#top === 0) {
      quic.BIO_free(inside);
      throw this.#abandon(failed(quic, isClient ? "SSL_new" : "SSL_new_listener"));
    }
    quic.SSL_set_bio(this.#top, inside, inside);
    quic.SSL_set_blocking_mode(this.#top, 0);
    this.#set(this.#top, SSL_VALUE_CLASS_GENERIC, SSL_VALUE_EVENT_HANDLING_MODE, EVENT_HANDLING_EXPLICIT);
    if (isClient) {
      this.#connection = this.#top;
      const { protocolList, protocolListBytes } = quicCallbacks(context.protocol);
      this.#prepare();
      const named = quic.SSL_set_alpn_protos(this.#top, protocolList, protocolListBytes);
      const addressed = quic.SSL_set1_initial_peer_addr(this.#top, ends.server);
      if (named !== 0 || addressed !== 1) throw this.#abandon(failed(quic, "SSL_set1_initial_peer_addr"));
      quic.SSL_do_handshake(this.#top);
    } else if (quic.SSL_listen(this.#top) !== 1) {
      throw this.#abandon(failed(quic, "SSL_listen"));
    }
    quic.ERR_clear_error();
  }

  #abandon(error: SysError): SysError {
    this.free();
    return error;
  }

  #set(object: number, valueClass: number, id: number, value: number): void {
    this.#quic.SSL_set_value_uint(object, valueClass, id, value);
  }

  #prepare(): void {
    const quic = this.#quic;
    quic.SSL_set_blocking_mode(this.#connection, 0);
    quic.SSL_set_default_stream_mode(this.#connection, 0);
    quic.SSL_set_incoming_stream_policy(this.#connection, SSL_INCOMING_STREAM_POLICY_ACCEPT, 0);
  }

  get isFreed(): boolean {
    return this.#top === 0;
  }

  /**
   * @param datagram anything may be in it; a longer one than both ends send would stand in the pair for ever
   * @returns false when it does not belong to this connection or the pair is full: it is lost, as on a wire
   */
  receive(datagram: Uint8Array): boolean {
    if (this.#outside === 0 || datagram.length > QUIC_DATAGRAM_BYTES || !this.#belongs(datagram)) return false;
    const { u8, view, at } = scratch();
    u8.set(datagram, CHUNK);
    writeMessage(view, MESSAGE, at + CHUNK, datagram.length, this.#to, this.#from);
    return (
      this.#quic.BIO_sendmmsg(this.#outside, at + MESSAGE, MESSAGE_BYTES, 1, 0, at + COUNT) === 1 || this.#missed()
    );
  }

  /**
   * Other versions are not spoken. A listener would begin another connection with every packet that names a new destination id; only the
   * one that was begun and the one that this side has chosen are let through (RFC 9000 section 7.2).
   */
  #belongs(datagram: Uint8Array): boolean {
    if (datagram.length === 0 || datagram[0] < LONG_HEADER) return true;
    const ids = longHeaderIds(datagram);
    if (ids === undefined || this.role === "client") return ids !== undefined;
    this.#firstId ??= ids.destination;
    return ids.destination === this.#firstId || ids.destination === this.#ownId;
  }

  #missed(): false {
    this.#quic.ERR_clear_error();
    return false;
  }

  /** The next datagram to send; undefined when there is none. The bytes are the caller's. */
  transmit(): Uint8Array<ArrayBuffer> | undefined {
    if (this.#outside === 0) return undefined;
    const { u8, view, at } = scratch();
    // without buffers for addresses: they are always the same two
    writeMessage(view, MESSAGE, at + CHUNK, QUIC_CHUNK_BYTES, 0, 0);
    if (this.#quic.BIO_recvmmsg(this.#outside, at + MESSAGE, MESSAGE_BYTES, 1, 0, at + COUNT) !== 1) {
      this.#quic.ERR_clear_error();
      return undefined;
    }
    const datagram = copies.copy(u8, CHUNK, CHUNK + readPointer(view, MESSAGE + 8));
    if (this.role === "server") this.#ownId ??= longHeaderIds(datagram)?.source;
    return datagram;
  }

  /** Lets OpenSSL take what was received, act on its timers, and put what it wants sent into the pair. */
  process(): void {
    if (this.#top === 0) return;
    const quic = this.#quic;
    quic.SSL_handle_events(this.#top);
    if (this.role === "server" && this.#connection === 0) {
      this.#connection = quic.SSL_accept_connection(this.#top, SSL_ACCEPT_NO_BLOCK);
      if (this.#connection !== 0) this.#prepare();
    }
    quic.ERR_clear_error();
  }

  /** The handshake is complete on this side. */
  get isEstablished(): boolean {
    return this.#connection !== 0 && this.#quic.SSL_is_init_finished(this.#connection) === 1;
  }

  /** Milliseconds until process() is due, rounded up; Infinity = not before something is received or written. */
  nextTimeoutMs(): number {
    if (this.#top === 0) return Infinity;
    const { view, at } = scratch();
    if (this.#quic.SSL_get_event_timeout(this.#top, at + TIMEVAL, at + INFINITE) !== 1) return Infinity;
    if (view.getInt32(INFINITE, true) !== 0) return Infinity;
    return Math.ceil(readPointer(view, TIMEVAL) * 1000 + readPointer(view, TIMEVAL + 8) / 1000);
  }

  /** The peer's Ed25519 key, 32 bytes, once established; undefined when it showed another kind of key. */
  peerKey(): Uint8Array | undefined {
    if (this.#connection === 0) return undefined;
    const quic = this.#quic;
    const { u8, view, at } = scratch();
    const certificate = quic.SSL_get1_peer_certificate(this.#connection);
    if (certificate === 0) return undefined;
    try {
      const key = quic.X509_get0_pubkey(certificate);
      if (key === 0 || quic.EVP_PKEY_get_id(key) !== NID_ED25519) return undefined;
      writePointer(view, LENGTH, KEY_BYTES);
      if (quic.EVP_PKEY_get_raw_public_key(key, at + KEY, at + LENGTH) !== 1) return undefined;
      return u8.slice(KEY, KEY + KEY_BYTES);
    } finally {
      quic.X509_free(certificate);
      quic.ERR_clear_error();
    }
  }

  /** Why the connection is closed or closing; undefined while it is healthy. */
  closeInfo(): QuicCloseInfo | undefined {
    if (this.#connection === 0) return undefined;
    const { view, at } = scratch();
    if (this.#quic.SSL_get_conn_close_info(this.#connection, at + CLOSE_INFO, CLOSE_INFO_BYTES) !== 1) return undefined;
    const flags = view.getUint32(CLOSE_INFO + 32, true);
    return {
      code: readPointer(view, CLOSE_INFO),
      reason: nativeText(readPointer(view, CLOSE_INFO + 16), readPointer(view, CLOSE_INFO + 24)),
      isLocal: (flags & SSL_CONN_CLOSE_FLAG_LOCAL) !== 0,
      isTransport: (flags & SSL_CONN_CLOSE_FLAG_TRANSPORT) !== 0,
    };
  }

  /** A bidirectional stream, or undefined while the peer's limit is reached (or the connection is not up). */
  openStream(): QuicStream | undefined {
    return this.#stream((connection) => this.#quic.SSL_new_stream(connection, SSL_STREAM_FLAG_NO_BLOCK));
  }

  /** The next stream that the peer has opened. */
  acceptStream(): QuicStream | undefined {
    return this.#stream((connection) => this.#quic.SSL_accept_stream(connection, SSL_ACCEPT_NO_BLOCK));
  }

  #stream(make: (connection: number) => number): QuicStream | undefined {
    if (this.#connection === 0) return undefined;
    const stream = make(this.#connection);
    this.#quic.ERR_clear_error();
    return stream === 0 ? undefined : new QuicStream(this.#quic, stream);
  }

  /**
   * What can be done with these streams now: sets `ready` of each to bits of StreamEvent out of those wanted. Streams beyond the first
   * 512 are looked at in the following calls of the owner's choosing.
   */
  poll(streams: readonly QuicStream[]): void {
    const { view, at } = scratch();
    const count = Math.min(streams.length, MAX_POLL_ITEMS);
    for (let i = 0; i < count; i++) {
      const item = POLL_ITEMS + i * POLL_ITEM_BYTES;
      view.setUint32(item, BIO_POLL_DESCRIPTOR_TYPE_SSL, true);
      view.setUint32(item + 4, 0, true);
      writePointer(view, item + 8, streams[i].address);
      writePointer(view, item + 16, streams[i].wanted);
      writePointer(view, item + 24, 0);
    }
    if (count > 0) {
      view.setBigUint64(TIMEVAL, 0n, true);
      view.setBigUint64(TIMEVAL + 8, 0n, true);
      const flags = SSL_POLL_FLAG_NO_HANDLE_EVENTS;
      this.#quic.SSL_poll(at + POLL_ITEMS, count, POLL_ITEM_BYTES, at + TIMEVAL, flags, at + COUNT);
      this.#quic.ERR_clear_error();
    }
    for (let i = 0; i < count; i++) streams[i].ready = view.getUint32(POLL_ITEMS + i * POLL_ITEM_BYTES + 24, true);
  }

  /** Says good-bye at once, without waiting for streams; what transmit() then gives tells the peer. @param code below 2^53 */
  shutdown(code: number): void {
    if (this.#connection === 0) return;
    const { view, at } = scratch();
    writePointer(view, CODE, code);
    writePointer(view, REASON, 0);
    this.#quic.SSL_shutdown_ex(this.#connection, SSL_SHUTDOWN_RAPID_NO_BLOCK, at + CODE, 16);
    this.#quic.SSL_handle_events(this.#top);
    this.#quic.ERR_clear_error();
  }

  /** Gives everything back; streams must be freed before. Idempotent. */
  free(): void {
    const quic = this.#quic;
    if (this.#connection !== 0 && this.#connection !== this.#top) quic.SSL_free(this.#connection);
    if (this.#top !== 0) quic.SSL_free(this.#top);
    if (this.#outside !== 0) quic.BIO_free(this.#outside);
    this.#connection = 0;
    this.#top = 0;
    this.#outside = 0;
    quic.ERR_clear_error();
  }
}

const LONG_HEADER = 0x80;
/** Bytes before the destination id: first byte, version, its length. */
const LONG_IDS = 6;

/** Connection ids of a long header of version 1 (RFC 9000 section 17.2), as text for comparing. */
function longHeaderIds(datagram: Uint8Array): { readonly destination: string; readonly source: string } | undefined {
  if (datagram.length <= LONG_IDS || datagram[0] < LONG_HEADER) return undefined;
  if (datagram[1] !== 0 || datagram[2] !== 0 || datagram[3] !== 0 || datagram[4] !== 1) return undefined;
  const destinationEnd = LONG_IDS + datagram[LONG_IDS - 1];
  if (destinationEnd >= datagram.length) return undefined;
  const sourceEnd = destinationEnd + 1 + datagram[destinationEnd];
  if (sourceEnd > datagram.length) return undefined;
  const text = (from: number, to: number): string => Buffer.from(datagram.subarray(from, to)).toString("latin1");
  return { destination: text(LONG_IDS, destinationEnd), source: text(destinationEnd + 1, sourceEnd) };
}

const MAX_REASON_BYTES = 256;

function nativeText(address: number, bytes: number): string {
  if (address === 0 || bytes === 0) return "";
  return Buffer.from(copyNative(address, Math.min(bytes, MAX_REASON_BYTES))).toString("utf8");
}

function copyNative(address: number, bytes: number): Uint8Array {
  const { u8, at } = scratch();
  libc.memcpy(at + CHUNK, address, bytes);
  return u8.slice(CHUNK, CHUNK + bytes);
}
