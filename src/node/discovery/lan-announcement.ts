/**
 * What a node tells its LAN about itself, sealed so that only members of its network can read or make it: an outsider learns neither name,
 * nor id, nor network, and cannot follow a laptop from one LAN to the next, for label and nonce are fresh at every change of address.
 *
 *   0 nonce 12 | 12 sealed: 0 node id 32 | 32 count u8 ≤ 6 | 33 endpoints 18 each | tag 16
 *   key = HKDF-SHA256(ikm = network id, salt = "", info = "weft lan v1"); associated data = the instance label
 *
 * ChaCha20-Poly1305. The network id is known to members and invited nodes only. A member may still lie about another one: an endpoint is a
 * place to try, and the handshake tells who is there. Source: docs/protocol.md, "Discovery and candidates".
 */
import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";
import { ENDPOINT_BYTES } from "../../base/endpoint.ts";
import { utf8 } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";

export const MAX_LAN_ENDPOINTS = 6;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const FIXED_BYTES = 33;
const MAX_BYTES: number = NONCE_BYTES + FIXED_BYTES + MAX_LAN_ENDPOINTS * ENDPOINT_BYTES + TAG_BYTES;
const CIPHER = "chacha20-poly1305";

export interface Announcement {
  readonly nodeId: Uint8Array;
  /** 18 bytes each */
  readonly endpoints: readonly Uint8Array[];
}

export class LanSeal {
  readonly #key: Uint8Array;
  readonly #random: Random;

  constructor(networkId: Uint8Array, random: Random) {
    this.#key = new Uint8Array(hkdfSync("sha256", networkId, "", "weft lan v1", 32));
    this.#random = random;
  }

  /** Endpoints beyond MAX_LAN_ENDPOINTS are left out. */
  seal(label: string, announcement: Announcement): Uint8Array {
    const endpoints = announcement.endpoints.slice(0, MAX_LAN_ENDPOINTS);
    const plain = new Uint8Array(FIXED_BYTES + endpoints.length * ENDPOINT_BYTES);
    plain.set(announcement.nodeId);
    plain[32] = endpoints.length;
    for (const [i, endpoint] of endpoints.entries()) plain.set(endpoint, FIXED_BYTES + i * ENDPOINT_BYTES);
    const nonce = this.#random.bytes(NONCE_BYTES);
    const cipher = createCipheriv(CIPHER, this.#key, nonce, { authTagLength: TAG_BYTES });
    cipher.setAAD(utf8(label), { plaintextLength: plain.length });
    return new Uint8Array(Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]));
  }

  /** @param sealed any bytes @returns undefined when it is not of this network, or malformed */
  open(label: string, sealed: Uint8Array): Announcement | undefined {
    if (sealed.length < NONCE_BYTES + FIXED_BYTES + TAG_BYTES || sealed.length > MAX_BYTES) return undefined;
    const plain = this.#decrypt(label, sealed);
    if (plain === undefined) return undefined;
    const count = plain[32];
    if (count > MAX_LAN_ENDPOINTS || plain.length !== FIXED_BYTES + count * ENDPOINT_BYTES) return undefined;
    const endpoints: Uint8Array[] = [];
    for (let at = FIXED_BYTES; at < plain.length; at += ENDPOINT_BYTES)
      endpoints.push(plain.slice(at, at + ENDPOINT_BYTES));
    return { nodeId: plain.slice(0, 32), endpoints };
  }

  #decrypt(label: string, sealed: Uint8Array): Uint8Array | undefined {
    const end = sealed.length - TAG_BYTES;
    const decipher = createDecipheriv(CIPHER, this.#key, sealed.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES });
    decipher.setAAD(utf8(label), { plaintextLength: end - NONCE_BYTES });
    decipher.setAuthTag(sealed.subarray(end));
    try {
      return new Uint8Array(Buffer.concat([decipher.update(sealed.subarray(NONCE_BYTES, end)), decipher.final()]));
    } catch {
      return undefined;
    }
  }
}
