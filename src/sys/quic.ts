/**
 * QUIC version 1 connections over datagrams that the owner carries, by the OpenSSL inside Node (RFC 9000, 9001, 9002).
 *
 *   owner ── receive(datagram) ──► datagram pair ──► OpenSSL        OpenSSL ──► datagram pair ── transmit() ──► owner
 *   owner ── process() at nextTimeoutMs() and after receive(); poll() then says which streams can be read or written
 *
 * No sockets, no threads, never blocks: both sides of the pair are memory of bounded size. TLS 1.3 with X25519MLKEM768 alone; both ends
 * present a certificate, whose chain nobody judges: the owner compares peerKey(), which TLS has proven the peer to hold.
 * Objects here are native: whoever makes one frees it, streams before their connection. A freed object answers nothing.
 * Datagrams are at most QUIC_DATAGRAM_BYTES. The clock is OpenSSL's own.
 */
import { SysError } from "./errno.ts";
import { libc, rawAddress } from "./libc.ts";
import {
  loadQuic,
  MESSAGE_BYTES,
  quicCallbacks,
  type QuicCalls,
  readPointer,
  writeMessage,
  writePointer,
} from "./quic-calls.ts";

/** Smallest datagram that QUIC must be able to use, and the largest used here (RFC 9000 section 14). */
export const QUIC_DATAGRAM_BYTES = 1_200;
/** Bytes that one read or write moves at most. */
export const QUIC_CHUNK_BYTES = 65_536;

const NID_ED25519 = 1087;
const KEY_BYTES = 32;

// OpenSSL's constants (ssl.h, bio.h), by their names there
const SSL_CTRL_MODE = 33;
const SSL_CTRL_SET_SESS_CACHE_MODE = 44;
const SSL_CTRL_SET_GROUPS_LIST = 92;
const SSL_MODE_PARTIAL_MOVING = 1 | 2;
const SSL_VERIFY_PEER_REQUIRED = 1 | 2;
const SSL_ERROR_WANT_READ = 2;
const SSL_ERROR_WANT_WRITE = 3;
const SSL_ERROR_ZERO_RETURN = 6;
const SSL_VALUE_CLASS_GENERIC = 0;
const SSL_VALUE_CLASS_FEATURE_REQUEST = 1;
const SSL_VALUE_QUIC_IDLE_TIMEOUT = 5;
const SSL_VALUE_EVENT_HANDLING_MODE = 6;
const SSL_VALUE_STREAM_WRITE_BUF_USED = 8;
const EVENT_HANDLING_EXPLICIT = 2;
const SSL_LISTENER_FLAG_NO_VALIDATE = 2;
const SSL_ACCEPT_NO_BLOCK = 1;
const SSL_STREAM_FLAG_NO_BLOCK = 2;
const SSL_INCOMING_STREAM_POLICY_ACCEPT = 1;
const SSL_WRITE_FLAG_CONCLUDE = 1;
const SSL_SHUTDOWN_RAPID_NO_BLOCK = 1 | 2 | 4;
const SSL_CONN_CLOSE_FLAG_LOCAL = 1;
const SSL_CONN_CLOSE_FLAG_TRANSPORT = 2;
const SSL_POLL_FLAG_NO_HANDLE_EVENTS = 1;
const BIO_POLL_DESCRIPTOR_TYPE_SSL = 2;
const POLL_ITEM_BYTES = 32;
const BIO_CTRL_DGRAM_SET_MTU = 42;
const BIO_CTRL_DGRAM_SET_LOCAL_ADDR_ENABLE = 84;
const BIO_CTRL_DGRAM_SET_CAPS = 87;
const BIO_CTRL_DGRAM_SET_NO_TRUNC = 89;
const DGRAM_CAP_ALL_ADDRESSES = 0xf;
const AF_INET = 2;

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

/** Native memory that calls of this thread share: nothing in it outlives a call. */
interface Scratch {
  readonly u8: Uint8Array;
  readonly view: DataView;
  readonly at: number;
}

/** 0 message 40 | 40 count 8 | 48 timeval 16 | 64 infinite 8 | 72 length 8 | 80 code 8 | 88 key 32 | 128 close info 40 | 256 poll items | chunk */
const MESSAGE = 0;
const COUNT = 40;
const TIMEVAL = 48;
const INFINITE = 64;
const LENGTH = 72;
const CODE = 80;
const REASON = 88;
const KEY = 96;
const CLOSE_INFO = 128;
const CLOSE_INFO_BYTES = 40;
const POLL_ITEMS = 256;
const MAX_POLL_ITEMS = 512;
const CHUNK = POLL_ITEMS + MAX_POLL_ITEMS * POLL_ITEM_BYTES;

let scratchMemory: Scratch | undefined;
let addresses: { readonly client: number; readonly server: number } | undefined;

function scratch(): Scratch {
  if (scratchMemory === undefined) {
    const u8 = new Uint8Array(CHUNK + QUIC_CHUNK_BYTES);
    scratchMemory = { u8, view: new DataView(u8.buffer), at: rawAddress(u8) };
  }
  return scratchMemory;
}

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

function failed(quic: QuicCalls, call: string): SysError {
  const { u8, at } = scratch();
  quic.ERR_error_string_n(quic.ERR_get_error(), at + CHUNK, 256);
  const text = Buffer.from(u8.subarray(CHUNK, CHUNK + 256));
  const reason = text.toString("latin1", 0, text.indexOf(0));
  quic.ERR_clear_error();
  return new SysError(call, 0, { code: "QUIC_FAILED", what: `${call} failed: ${reason}`, remedy: "report this" });
}

export interface QuicContextOptions {
  /** X.509 certificate of the key, DER. */
  readonly certificate: Uint8Array;
  /** Ed25519 private key, PKCS #8 DER; not kept by this object (OpenSSL keeps its own copy, cleared by close()). */
  readonly privateKey: Uint8Array;
  /** Application protocol, ASCII, at most 255 bytes. */
  readonly protocol: string;
}

/** Keys and settings of one node; serves both roles. Free with close() after its connections. */
export class QuicContext {
  readonly protocol: string;
  readonly calls: QuicCalls;
  client = 0;
  server = 0;

  /** @throws SysError QUIC_MISSING, SELF_TEST, QUIC_FAILED */
  constructor(options: QuicContextOptions) {
    const quic = loadQuic();
    this.calls = quic;
    this.protocol = options.protocol;
    this.client = this.#make(quic.OSSL_QUIC_client_method(), options);
    this.server = this.#make(quic.OSSL_QUIC_server_method(), options);
    const { chooseProtocol } = quicCallbacks(options.protocol);
    quic.SSL_CTX_set_alpn_select_cb(this.server, chooseProtocol, 0);
  }

  #make(method: number, options: QuicContextOptions): number {
    const quic = this.calls;
    const { u8, at } = scratch();
    const context = quic.SSL_CTX_new(method);
    if (context === 0) throw failed(quic, "SSL_CTX_new");
    const copy = (bytes: Uint8Array): number => {
      u8.set(bytes, CHUNK);
      return at + CHUNK;
    };
    const certified = quic.SSL_CTX_use_certificate_ASN1(context, options.certificate.length, copy(options.certificate));
    const keyed = quic.SSL_CTX_use_PrivateKey_ASN1(
      NID_ED25519,
      context,
      copy(options.privateKey),
      options.privateKey.length,
    );
    u8.fill(0, CHUNK, CHUNK + options.privateKey.length);
    copy(Buffer.from("X25519MLKEM768\0", "latin1"));
    const grouped = quic.SSL_CTX_ctrl(context, SSL_CTRL_SET_GROUPS_LIST, 0, at + CHUNK);
    if (certified !== 1 || keyed !== 1 || grouped !== 1 || quic.SSL_CTX_check_private_key(context) !== 1) {
      const error = failed(quic, "SSL_CTX setup");
      quic.SSL_CTX_free(context);
      throw error;
    }
    quic.SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, 0, 0);
    quic.SSL_CTX_set_num_tickets(context, 0);
    quic.SSL_CTX_ctrl(context, SSL_CTRL_MODE, SSL_MODE_PARTIAL_MOVING, 0);
    quic.SSL_CTX_set_verify(context, SSL_VERIFY_PEER_REQUIRED, quicCallbacks(options.protocol).acceptCertificate);
    return context;
  }

  close(): void {
    if (this.client !== 0) this.calls.SSL_CTX_free(this.client);
    if (this.server !== 0) this.calls.SSL_CTX_free(this.server);
    this.client = 0;
    this.server = 0;
  }
}

export interface QuicConnectionOptions {
  readonly role: "client" | "server";
  /** Bytes that wait in each direction between the owner and OpenSSL. @default 262144 */
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
    const pairBytes = options.pairBytes ?? 262_144;
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
    // idleness alone ends nothing: the session below knows whether the peer is there
    this.#set(this.#connection, SSL_VALUE_CLASS_FEATURE_REQUEST, SSL_VALUE_QUIC_IDLE_TIMEOUT, 0);
  }

  get isFreed(): boolean {
    return this.#top === 0;
  }

  /** @param datagram at most 64 KiB, anything may be in it @returns false when the pair is full: the datagram is lost, as on a wire */
  receive(datagram: Uint8Array): boolean {
    if (this.#outside === 0 || datagram.length > QUIC_CHUNK_BYTES) return false;
    const { u8, view, at } = scratch();
    u8.set(datagram, CHUNK);
    writeMessage(view, MESSAGE, at + CHUNK, datagram.length, this.#to, this.#from);
    return this.#quic.BIO_sendmmsg(this.#outside, at + MESSAGE, MESSAGE_BYTES, 1, 0, at + COUNT) === 1 || this.#missed();
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
    return u8.slice(CHUNK, CHUNK + readPointer(view, MESSAGE + 8));
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
