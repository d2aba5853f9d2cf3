/**
 * The certificate with which a node presents its key in QUIC's handshake: X.509 version 3 (RFC 5280), self-signed with Ed25519 (RFC 8410),
 * the subject public key being the node id. Nobody judges its names or dates: the other end compares the key with the node id that the
 * session has authenticated. Written here in DER (X.690), because it is 200 bytes that never change their form.
 */
import { createPrivateKey, createPublicKey, sign } from "node:crypto";
import { concat, utf8 } from "../base/bytes.ts";

/** The key's algorithm identifier: SEQUENCE { OBJECT IDENTIFIER 1.3.101.112 }. */
const ED25519 = Uint8Array.of(0x30, 5, 0x06, 3, 0x2b, 0x65, 0x70);
/** OBJECT IDENTIFIER 2.5.4.3, commonName. */
const COMMON_NAME = Uint8Array.of(0x06, 3, 0x55, 4, 3);
const NAME = "weft";

const Tag = {
  INTEGER: 0x02,
  BIT_STRING: 0x03,
  OCTET_STRING: 0x04,
  UTF8_STRING: 0x0c,
  GENERALIZED_TIME: 0x18,
  SEQUENCE: 0x30,
  SET: 0x31,
  EXPLICIT_0: 0xa0,
} as const;

export interface KeyAndCertificate {
  /** X.509, DER. */
  readonly certificate: Uint8Array;
  /** PKCS #8, DER: secret, zeroise after use. */
  readonly privateKey: Uint8Array;
}

/** @param seed 32 secret bytes of the Ed25519 key */
export function certify(seed: Uint8Array): KeyAndCertificate {
  const key = createPrivateKey({ key: seed, format: "raw-private", asymmetricKeyType: "ed25519" });
  const publicKey = createPublicKey(key).export({ format: "raw-public" });
  const name = der(Tag.SEQUENCE, der(Tag.SET, der(Tag.SEQUENCE, COMMON_NAME, der(Tag.UTF8_STRING, utf8(NAME)))));
  const toBeSigned = der(
    Tag.SEQUENCE,
    der(Tag.EXPLICIT_0, der(Tag.INTEGER, Uint8Array.of(2))),
    der(Tag.INTEGER, Uint8Array.of(1)),
    ED25519,
    name,
    // RFC 5280 section 4.1.2.5: no well-defined end
    der(Tag.SEQUENCE, time("20000101000000Z"), time("99991231235959Z")),
    name,
    der(Tag.SEQUENCE, ED25519, bits(publicKey)),
  );
  const certificate = der(Tag.SEQUENCE, toBeSigned, ED25519, bits(sign(null, toBeSigned, key)));
  const inner = der(Tag.OCTET_STRING, seed);
  const privateKey = der(Tag.SEQUENCE, der(Tag.INTEGER, Uint8Array.of(0)), ED25519, der(Tag.OCTET_STRING, inner));
  inner.fill(0);
  return { certificate, privateKey };
}

function time(text: string): Uint8Array {
  return der(Tag.GENERALIZED_TIME, utf8(text));
}

function bits(bytes: Uint8Array): Uint8Array {
  return der(Tag.BIT_STRING, Uint8Array.of(0), bytes);
}

/** Lengths below 65,536 in the shortest form. */
function der(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = parts.reduce((sum, part) => sum + part.length, 0);
  const header =
    bytes < 0x80 ? [tag, bytes] : bytes < 0x100 ? [tag, 0x81, bytes] : [tag, 0x82, bytes >>> 8, bytes & 0xff];
  return concat(Uint8Array.from(header), ...parts);
}
