/**
 * STUN beside Weft on one port: the control thread asks, from the socket whose mapping matters, and hears only answers to what it asked. A message passes
 * when it has a STUN header (RFC 8489 section 5), a length that fits, and comes from an address that was asked within 5 s. At most 64 addresses are
 * remembered, the oldest goes; at most 200 answers a second pass, burst 100.
 */
import { Drop } from "../base/drop.ts";
import { ENDPOINT_BYTES } from "../base/endpoint.ts";
import { NAME_PORT, NAME_REMOTE } from "../base/name.ts";
import type { Slab } from "../base/slab.ts";
import { TokenBucket } from "../path/bucket.ts";

export const STUN_MIN_BYTES = 20;
export const STUN_MAX_BYTES = 548;
const MAGIC_COOKIE = 0x2112a442;
const ASKED_MS = 5_000;
const REMEMBERED = 64;

export class StunDoor {
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #asked: { readonly endpoint: Uint8Array; readonly untilMs: number }[] = [];
  readonly #passing: TokenBucket = new TokenBucket(200, 100);

  constructor(slab: Slab) {
    this.#u8 = slab.u8;
    this.#view = slab.view;
  }

  /** A question goes to this endpoint. @param endpoint 18 bytes */
  asked(nowMs: number, endpoint: Uint8Array): void {
    if (this.#asked.length === REMEMBERED) this.#asked.shift();
    this.#asked.push({ endpoint: endpoint.slice(), untilMs: nowMs + ASKED_MS });
  }

  /** @param offset,bytes a datagram whose first two bits are zero; anything may be in it @returns NONE: hand it to the control thread */
  judge(nowMs: number, offset: number, bytes: number, name: number): Drop {
    while (this.#asked.length > 0 && this.#asked[0].untilMs < nowMs) this.#asked.shift();
    if (this.#asked.length === 0) return Drop.BAD_TYPE;
    if (bytes < STUN_MIN_BYTES || bytes > STUN_MAX_BYTES) return Drop.SHORT;
    const length = this.#view.getUint16(offset + 2);
    if (this.#view.getUint32(offset + 4) !== MAGIC_COOKIE || length + STUN_MIN_BYTES !== bytes) return Drop.BAD_TYPE;
    for (let i = 0; i < this.#asked.length; i++) {
      if (this.#names(this.#asked[i].endpoint, name)) return this.#passing.take(nowMs) ? Drop.NONE : Drop.RATE_LIMIT;
    }
    return Drop.UNEXPECTED;
  }

  #names(endpoint: Uint8Array, name: number): boolean {
    for (let i = 0; i < ENDPOINT_BYTES; i++) {
      if (endpoint[i] !== this.#u8[name + (i < 16 ? NAME_REMOTE + i : NAME_PORT + i - 16)]) return false;
    }
    return true;
  }
}
