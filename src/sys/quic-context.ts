/** Keys and settings of a node's QUIC connections: TLS 1.3, X25519MLKEM768 alone, a certificate at both ends. See quic.ts. */
import { loadQuic, quicCallbacks, type QuicCalls } from "./quic-calls.ts";
import { CHUNK, failed, NID_ED25519, scratch, SSL_CTRL_MODE, SSL_MODE_PARTIAL_MOVING } from "./quic-memory.ts";

const SSL_CTRL_SET_SESS_CACHE_MODE = 44;
const SSL_CTRL_SET_GROUPS_LIST = 92;
const SSL_VERIFY_PEER_REQUIRED = 1 | 2;

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
