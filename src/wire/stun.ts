/**
 * STUN binding messages (RFC 8489), as far as a client needs them: the request, and every answer a server may give. All big-endian.
 *
 *   0 type u16 (00 | method and class) | 2 length u16 of the attributes | 4 magic cookie u32 = 0x2112a442 | 8 transaction id 12 | 20 attributes
 *   attribute: 0 type u16 | 2 length u16 | 4 value, padded to 4
 *
 * decodeStun() takes any bytes, never throws and allocates nothing; addresses come out as the 18 bytes of base/endpoint.ts. OTHER-ADDRESS
 * is of RFC 5780. A FINGERPRINT that is there must be right; MESSAGE-INTEGRITY is located, not checked: nobody shares a password here.
 */
import { Drop } from "../base/drop.ts";
import { ENDPOINT_BYTES } from "../base/endpoint.ts";

export const STUN_HEADER_BYTES = 20;
export const STUN_TRANSACTION_BYTES = 12;
const STUN_COOKIE = 0x2112a442;
const COOKIE_BYTES: readonly number[] = [0x21, 0x12, 0xa4, 0x42];
/** RFC 8489 section 6.1: what fits an IPv4 path of 576 bytes. */
const STUN_MAX_BYTES = 548;
const FINGERPRINT_XOR = 0x5354554e;
const MAX_ATTRIBUTES = 32;

export const StunClass = { REQUEST: 0, INDICATION: 1, SUCCESS: 2, ERROR: 3 } as const;
const BINDING = 0x001;

const Attribute = {
  MAPPED_ADDRESS: 0x0001,
  CHANGE_REQUEST: 0x0003,
  USERNAME: 0x0006,
  MESSAGE_INTEGRITY: 0x0008,
  ERROR_CODE: 0x0009,
  UNKNOWN_ATTRIBUTES: 0x000a,
  REALM: 0x0014,
  NONCE: 0x0015,
  MESSAGE_INTEGRITY_SHA256: 0x001c,
  PASSWORD_ALGORITHM: 0x001d,
  USERHASH: 0x001e,
  XOR_MAPPED_ADDRESS: 0x0020,
  PRIORITY: 0x0024,
  USE_CANDIDATE: 0x0025,
  FINGERPRINT: 0x8028,
  OTHER_ADDRESS: 0x802c,
} as const;

/** Attributes below 0x8000 that a message may carry without being beyond us. */
const UNDERSTOOD: ReadonlySet<number> = new Set(Object.values(Attribute));

/** Every field is overwritten when the result is `Drop.NONE`. */
export class StunMessage {
  /** StunClass */
  class = 0;
  readonly transactionId: Uint8Array = new Uint8Array(STUN_TRANSACTION_BYTES);
  /** Where the server saw the request come from; XOR-MAPPED-ADDRESS before MAPPED-ADDRESS. */
  readonly mapped: Uint8Array = new Uint8Array(ENDPOINT_BYTES);
  hasMapped = false;
  /** The server's second address and port (RFC 5780). */
  readonly other: Uint8Array = new Uint8Array(ENDPOINT_BYTES);
  hasOther = false;
  /** 300–699; 0 = none */
  errorCode = 0;
  /** Offset of the MESSAGE-INTEGRITY attribute, 0 = none; what follows it is not looked at, but for FINGERPRINT. */
  integrityOffset = 0;
  hasFingerprint = false;
  /** First attribute that must be understood and is not; 0 = none. Such an answer is a failed one (RFC 8489 section 6.3.3). */
  unknownRequired = 0;
}

/** @param transactionId 12 random bytes @returns a binding request of 28 bytes: header and FINGERPRINT */
export function encodeBindingRequest(transactionId: Uint8Array): Uint8Array {
  const out = new Uint8Array(STUN_HEADER_BYTES + 8);
  const view = new DataView(out.buffer);
  view.setUint16(0, BINDING);
  view.setUint16(2, 8);
  view.setUint32(4, STUN_COOKIE);
  out.set(transactionId.subarray(0, STUN_TRANSACTION_BYTES), 8);
  view.setUint16(20, Attribute.FINGERPRINT);
  view.setUint16(22, 4);
  view.setUint32(24, (crc32(out, STUN_HEADER_BYTES) ^ FINGERPRINT_XOR) >>> 0);
  return out;
}

/**
 * @param bytes a whole datagram; anything may be in it
 * @returns SHORT (lengths), BAD_TYPE (no STUN binding message), BAD_INNER (attributes), AUTH (wrong FINGERPRINT) or NONE
 */
export function decodeStun(bytes: Uint8Array, out: StunMessage): Drop {
  const length = bytes.length;
  if (length < STUN_HEADER_BYTES) return Drop.SHORT;
  const type = u16(bytes, 0);
  if (type >= 0x4000 || u32(bytes, 4) !== STUN_COOKIE) return Drop.BAD_TYPE;
  if (length > STUN_MAX_BYTES || u16(bytes, 2) !== length - STUN_HEADER_BYTES || length % 4 !== 0) return Drop.SHORT;
  // the method's twelve bits lie around the two class bits 0x0110
  if ((type & 0x3eef) !== BINDING) return Drop.BAD_TYPE;
  out.class = ((type >> 7) & 2) | ((type >> 4) & 1);
  for (let i = 0; i < STUN_TRANSACTION_BYTES; i++) out.transactionId[i] = bytes[8 + i];
  out.hasMapped = false;
  out.hasOther = false;
  out.errorCode = 0;
  out.integrityOffset = 0;
  out.hasFingerprint = false;
  out.unknownRequired = 0;
  return decodeAttributes(bytes, out);
}

function decodeAttributes(bytes: Uint8Array, out: StunMessage): Drop {
  let isXor = false;
  let count = 0;
  for (let at = STUN_HEADER_BYTES; at < bytes.length;) {
    if (++count > MAX_ATTRIBUTES || at + 4 > bytes.length) return Drop.BAD_INNER;
    const type = u16(bytes, at);
    const size = u16(bytes, at + 2);
    const value = at + 4;
    if (value + size > bytes.length) return Drop.BAD_INNER;
    if (type === Attribute.FINGERPRINT) {
      // the last one, by definition: it covers everything before
      if (size !== 4 || value + 4 !== bytes.length) return Drop.BAD_INNER;
      if (u32(bytes, value) !== (crc32(bytes, at) ^ FINGERPRINT_XOR) >>> 0) return Drop.AUTH;
      out.hasFingerprint = true;
    } else if (out.integrityOffset === 0) {
      if (type === Attribute.XOR_MAPPED_ADDRESS) {
        if (!readAddress(bytes, value, size, true, out.mapped)) return Drop.BAD_INNER;
        out.hasMapped = isXor = true;
      } else if (type === Attribute.MAPPED_ADDRESS) {
        if (!isXor) {
          if (!readAddress(bytes, value, size, false, out.mapped)) return Drop.BAD_INNER;
          out.hasMapped = true;
        }
      } else if (type === Attribute.OTHER_ADDRESS) {
        out.hasOther = readAddress(bytes, value, size, false, out.other);
      } else if (type === Attribute.ERROR_CODE) {
        if (size < 4) return Drop.BAD_INNER;
        out.errorCode = (bytes[value + 2] & 7) * 100 + bytes[value + 3];
      } else if (type === Attribute.MESSAGE_INTEGRITY || type === Attribute.MESSAGE_INTEGRITY_SHA256) {
        out.integrityOffset = at;
      } else if (type < 0x8000 && out.unknownRequired === 0 && !UNDERSTOOD.has(type)) {
        out.unknownRequired = type;
      }
    }
    at = value + ((size + 3) & ~3);
  }
  return Drop.NONE;
}

/** 0 zero u8 | 1 family u8, 1 or 2 | 2 port u16 | 4 address 4 or 16; the XOR form hides both from meddling middleboxes. */
function readAddress(bytes: Uint8Array, at: number, size: number, xor: boolean, out: Uint8Array): boolean {
  const family = bytes[at + 1];
  if (!((family === 1 && size === 8) || (family === 2 && size === 20))) return false;
  const port = u16(bytes, at + 2) ^ (xor ? STUN_COOKIE >>> 16 : 0);
  if (family === 1) {
    out.fill(0, 0, 10);
    out.fill(0xff, 10, 12);
    for (let i = 0; i < 4; i++) out[12 + i] = bytes[at + 4 + i] ^ (xor ? COOKIE_BYTES[i] : 0);
  } else {
    for (let i = 0; i < 16; i++) {
      const mask = i < 4 ? COOKIE_BYTES[i] : bytes[8 + i - 4];
      out[i] = bytes[at + 4 + i] ^ (xor ? mask : 0);
    }
  }
  out[16] = port & 255;
  out[17] = port >>> 8;
  return true;
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1];
}

function u32(bytes: Uint8Array, at: number): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}

/** CRC-32 of ITU V.42 (reflected 0xedb88320) over the first `length` bytes. */
function crc32(bytes: Uint8Array, length: number): number {
  let crc = 0xffffffff;
  for (let i = 0; i < length; i++) {
    crc ^= bytes[i];
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
