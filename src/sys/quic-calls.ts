/**
 * OpenSSL's QUIC (3.5 or newer) bound through koffi, in the manner of libc.ts: one table of signatures, pointers as plain numbers, a
 * self-test before first use. Two C callbacks exist, both called only inside handshakes of this thread: the choice of the application
 * protocol, and the acceptance of certificates, which are judged by their key after the handshake (quic.ts).
 * Source: OpenSSL manual pages openssl-quic(7), SSL_new_listener(3), SSL_poll(3), BIO_new_bio_dgram_pair(3).
 */
import koffi, { type LibraryHandle } from "koffi";
import { SysError } from "./errno.ts";
import { libc, rawAddress, viewMemory } from "./libc.ts";

type ArgumentType = "int" | "uint" | "long" | "size_t" | "uint64_t" | "uint16_t" | "str";
type Signature = readonly [
  result: "int" | "long" | "size_t" | "uint64_t" | "void",
  parameters: readonly ArgumentType[],
];
type Parameters<P extends readonly ArgumentType[]> = { -readonly [K in keyof P]: P[K] extends "str" ? string : number };
type Bound<T extends Readonly<Record<string, Signature>>> = {
  readonly [K in keyof T]: (...parameters: Parameters<T[K][1]>) => number;
};

const QUIC = {
  OpenSSL_version_num: ["size_t", []],
  OSSL_QUIC_client_method: ["size_t", []],
  OSSL_QUIC_server_method: ["size_t", []],
  SSL_CTX_new: ["size_t", ["size_t"]],
  SSL_CTX_free: ["void", ["size_t"]],
  SSL_CTX_ctrl: ["long", ["size_t", "int", "long", "size_t"]],
  SSL_CTX_set_verify: ["void", ["size_t", "int", "size_t"]],
  SSL_CTX_set_num_tickets: ["int", ["size_t", "size_t"]],
  SSL_CTX_set_alpn_select_cb: ["void", ["size_t", "size_t", "size_t"]],
  SSL_CTX_use_certificate_ASN1: ["int", ["size_t", "int", "size_t"]],
  SSL_CTX_use_PrivateKey_ASN1: ["int", ["int", "size_t", "size_t", "long"]],
  SSL_CTX_check_private_key: ["int", ["size_t"]],
  SSL_new: ["size_t", ["size_t"]],
  SSL_free: ["void", ["size_t"]],
  SSL_set_bio: ["void", ["size_t", "size_t", "size_t"]],
  SSL_set_alpn_protos: ["int", ["size_t", "size_t", "uint"]],
  SSL_set1_initial_peer_addr: ["int", ["size_t", "size_t"]],
  SSL_set_blocking_mode: ["int", ["size_t", "int"]],
  SSL_set_default_stream_mode: ["int", ["size_t", "uint"]],
  SSL_set_incoming_stream_policy: ["int", ["size_t", "int", "uint64_t"]],
  SSL_set_value_uint: ["int", ["size_t", "uint", "uint", "uint64_t"]],
  SSL_get_value_uint: ["int", ["size_t", "uint", "uint", "size_t"]],
  SSL_ctrl: ["long", ["size_t", "int", "long", "size_t"]],
  SSL_new_listener: ["size_t", ["size_t", "uint64_t"]],
  SSL_listen: ["int", ["size_t"]],
  SSL_accept_connection: ["size_t", ["size_t", "uint64_t"]],
  SSL_do_handshake: ["int", ["size_t"]],
  SSL_is_init_finished: ["int", ["size_t"]],
  SSL_handle_events: ["int", ["size_t"]],
  SSL_get_event_timeout: ["int", ["size_t", "size_t", "size_t"]],
  SSL_get_error: ["int", ["size_t", "int"]],
  SSL_new_stream: ["size_t", ["size_t", "uint64_t"]],
  SSL_accept_stream: ["size_t", ["size_t", "uint64_t"]],
  SSL_get_stream_id: ["uint64_t", ["size_t"]],
  SSL_write_ex2: ["int", ["size_t", "size_t", "size_t", "uint64_t", "size_t"]],
  SSL_read_ex: ["int", ["size_t", "size_t", "size_t", "size_t"]],
  SSL_stream_conclude: ["int", ["size_t", "uint64_t"]],
  SSL_stream_reset: ["int", ["size_t", "size_t", "size_t"]],
  SSL_get_stream_read_state: ["int", ["size_t"]],
  SSL_get_stream_write_state: ["int", ["size_t"]],
  SSL_get_stream_read_error_code: ["int", ["size_t", "size_t"]],
  SSL_get_stream_write_error_code: ["int", ["size_t", "size_t"]],
  SSL_shutdown_ex: ["int", ["size_t", "uint64_t", "size_t", "size_t"]],
  SSL_get_conn_close_info: ["int", ["size_t", "size_t", "size_t"]],
  SSL_poll: ["int", ["size_t", "size_t", "size_t", "size_t", "uint64_t", "size_t"]],
  SSL_get1_peer_certificate: ["size_t", ["size_t"]],
  X509_get0_pubkey: ["size_t", ["size_t"]],
  X509_free: ["void", ["size_t"]],
  EVP_PKEY_get_raw_public_key: ["int", ["size_t", "size_t", "size_t"]],
  EVP_PKEY_get_id: ["int", ["size_t"]],
  BIO_new_bio_dgram_pair: ["int", ["size_t", "size_t", "size_t", "size_t"]],
  BIO_free: ["int", ["size_t"]],
  BIO_ctrl: ["long", ["size_t", "int", "long", "size_t"]],
  BIO_sendmmsg: ["int", ["size_t", "size_t", "size_t", "size_t", "uint64_t", "size_t"]],
  BIO_recvmmsg: ["int", ["size_t", "size_t", "size_t", "size_t", "uint64_t", "size_t"]],
  BIO_ADDR_new: ["size_t", []],
  BIO_ADDR_rawmake: ["int", ["size_t", "int", "size_t", "size_t", "uint16_t"]],
  ERR_get_error: ["size_t", []],
  ERR_clear_error: ["void", []],
  ERR_error_string_n: ["void", ["size_t", "size_t", "size_t"]],
} as const;

export type QuicCalls = Bound<typeof QUIC>;

/** The first version with QUIC servers. */
const OPENSSL_3_5 = 0x3050_0000;

function bind(library: LibraryHandle): QuicCalls {
  const bound: Record<string, unknown> = {};
  for (const [name, [result, parameters]] of Object.entries(QUIC))
    bound[name] = library.func(name, result, [...parameters]);
  return bound as QuicCalls;
}

let calls: QuicCalls | undefined;

/**
 * The OpenSSL inside this Node, or libssl.so.3 where a build hides its symbols.
 * @throws SysError QUIC_MISSING (no OpenSSL 3.5), SELF_TEST
 */
export function loadQuic(): QuicCalls {
  if (calls !== undefined) return calls;
  let bound: QuicCalls | undefined;
  let cause: unknown;
  for (const name of [null, "libssl.so.3"]) {
    try {
      bound = bind(koffi.load(name));
      if (bound.OpenSSL_version_num() >= OPENSSL_3_5) break;
      bound = undefined;
    } catch (error) {
      cause = error;
    }
  }
  if (bound === undefined) {
    throw new SysError("dlsym", 0, {
      code: "QUIC_MISSING",
      what: "OpenSSL 3.5 with QUIC was found neither in this Node nor as libssl.so.3",
      remedy: "use the pinned Node (npm ci), or install OpenSSL 3.5 or newer",
      cause,
    });
  }
  selfTest(bound);
  calls = bound;
  return bound;
}

function must(holds: boolean, what: string): void {
  if (holds) return;
  throw new SysError("koffi", 0, {
    code: "SELF_TEST",
    what: `OpenSSL's QUIC does not answer as declared: ${what}`,
    remedy: "use the pinned Node and koffi (npm ci)",
  });
}

/** One cheap call of each class of signature; touches no network. */
function selfTest(bound: QuicCalls): void {
  const memory = new Uint8Array(256);
  const view = new DataView(memory.buffer);
  const at = rawAddress(memory);
  const context = bound.SSL_CTX_new(bound.OSSL_QUIC_client_method());
  must(context > 0 && context < 2 ** 47, "a pointer as the result");
  // SSL_CTRL_MODE adds to the mode and returns it
  must((bound.SSL_CTX_ctrl(context, 33, 1, 0) & 1) === 1, "SSL_CTX_ctrl");
  const connection = bound.SSL_new(context);
  must(connection > 0, "SSL_new");
  must(bound.SSL_set_value_uint(connection, 1, 5, 12_345) === 1, "SSL_set_value_uint");
  must(
    bound.SSL_get_value_uint(connection, 1, 5, at) === 1 && view.getUint32(0, true) === 12_345,
    "SSL_get_value_uint",
  );
  must(bound.SSL_is_init_finished(connection) === 0, "SSL_is_init_finished");
  bound.SSL_free(connection);
  bound.SSL_CTX_free(context);
  must(bound.BIO_new_bio_dgram_pair(at, 4096, at + 8, 4096) === 1, "BIO_new_bio_dgram_pair");
  const [a, b] = [readPointer(view, 0), readPointer(view, 8)];
  for (let i = 0; i < 8; i++) memory[128 + i] = 0xb0 + i;
  writeMessage(view, 16, at + 128, 8, 0, 0);
  must(bound.BIO_sendmmsg(a, at + 16, MESSAGE_BYTES, 1, 0, at + 56) === 1, "BIO_sendmmsg");
  writeMessage(view, 16, at + 160, 64, 0, 0);
  must(bound.BIO_recvmmsg(b, at + 16, MESSAGE_BYTES, 1, 0, at + 56) === 1, "BIO_recvmmsg");
  must(readPointer(view, 24) === 8 && memory[160] === 0xb0 && memory[167] === 0xb7, "a datagram through a pair");
  bound.BIO_free(a);
  bound.BIO_free(b);
  bound.ERR_clear_error();
}

/** BIO_MSG: 0 data pointer | 8 data bytes u64 | 16 peer BIO_ADDR | 24 local BIO_ADDR | 32 flags u64 */
export const MESSAGE_BYTES = 40;

export function writeMessage(
  view: DataView,
  offset: number,
  data: number,
  bytes: number,
  peer: number,
  local: number,
): void {
  writePointer(view, offset, data);
  writePointer(view, offset + 8, bytes);
  writePointer(view, offset + 16, peer);
  writePointer(view, offset + 24, local);
  writePointer(view, offset + 32, 0);
}

export function writePointer(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setUint32(offset + 4, (value / 4294967296) >>> 0, true);
}

/** A pointer, size_t or u64 below 2^53. */
export function readPointer(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 4294967296;
}

const TLSEXT_ERR_OK = 0;
const TLSEXT_ERR_ALERT_FATAL = 2;

interface Callbacks {
  /** Address of the function for SSL_CTX_set_alpn_select_cb; its argument is not used. */
  readonly chooseProtocol: number;
  /** Address of the function for SSL_CTX_set_verify. */
  readonly acceptCertificate: number;
  /** Length-prefixed name, as SSL_set_alpn_protos takes it. */
  readonly protocolList: number;
  readonly protocolListBytes: number;
}

const chooseType = koffi.proto("int weft_quic_choose(size_t, size_t, size_t, size_t, uint, size_t)");
const acceptType = koffi.proto("int weft_quic_accept(int, size_t)");
const callbacks = new Map<string, Callbacks>();

/** Registered once per thread and protocol; never unregistered, because contexts of OpenSSL may hold them. */
export function quicCallbacks(protocol: string): Callbacks {
  let found = callbacks.get(protocol);
  if (found !== undefined) return found;
  const name = Buffer.from(protocol, "latin1");
  const memory = new Uint8Array(16 + name.length);
  const list = rawAddress(memory) + 8;
  memory[8] = name.length;
  memory.set(name, 9);
  const pointer = new DataView(memory.buffer);
  writePointer(pointer, 0, list + 1);
  const choose = koffi.register(
    (_ssl: number, out: number | bigint, outBytes: number | bigint, offered: number | bigint, offeredBytes: number) => {
      const bytes = Buffer.from(viewMemory(Number(offered), offeredBytes));
      for (let at = 0; at < bytes.length; at += 1 + bytes[at]) {
        if (!bytes.subarray(at + 1, at + 1 + bytes[at]).equals(name)) continue;
        libc.memcpy(Number(out), list - 8, 8);
        libc.memcpy(Number(outBytes), list, 1);
        return TLSEXT_ERR_OK;
      }
      return TLSEXT_ERR_ALERT_FATAL;
    },
    koffi.pointer(chooseType),
  );
  const accept = koffi.register((): number => 1, koffi.pointer(acceptType));
  found = {
    chooseProtocol: Number(choose),
    acceptCertificate: Number(accept),
    protocolList: list,
    protocolListBytes: 1 + name.length,
  };
  kept.push(memory);
  callbacks.set(protocol, found);
  return found;
}

/** Memory that OpenSSL may read for the life of the process. */
const kept: Uint8Array[] = [];
