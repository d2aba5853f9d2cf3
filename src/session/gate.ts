/**
 * The gate in front of the handshake: decides in the data worker, on slab memory, whether a datagram of type 0x41–0x43 is worth the control
 * thread's time. Source: docs/protocol.md, "Handshake".
 *
 * Stages, cheapest first; each refusal is a Drop reason and leaves no state:
 *   1 type, exact length, zero bytes
 *   2 responses and cookie replies: the random index of a handshake that this node sent (see noteSent)
 *   3 mac1, one HMAC (cookie replies have none)
 *   4 under load: an init needs mac2 under the current or the previous cookie secret, else a cookie reply is prepared (at most 5,000/s, and
 *     20/s for each address of a member, whatever the flood from elsewhere)
 *   5 under load: a token bucket per source /24, /64 or virtual endpoint, 20/s, burst 5, in a table of fixed size
 * A response needs no mac2: its 32-bit index proves that it answers an init of ours, which is all a cookie would prove.
 * A cookie reply is smaller than what it answers (56 of 176 bytes), so it amplifies nothing.
 */
import { NAME_FAMILY, NAME_PORT, NAME_REMOTE } from "../base/name.ts";
import { Drop } from "../base/drop.ts";
import type { Random } from "../base/random.ts";
import type { Slab } from "../base/slab.ts";
import { cookieKey, macKey, SALT_BYTES, sealCookie } from "../crypto/cookie.ts";
import type { MacPort } from "../dataplane/ports.ts";
import {
  checkHandshake,
  COOKIE_RECEIVER,
  COOKIE_REPLY_BYTES,
  COOKIE_REPLY_TYPE,
  COOKIE_SALT,
  COOKIE_SEALED,
  HANDSHAKE_INIT_BYTES,
  HANDSHAKE_RESPONSE_TYPE,
  handshakeBytes,
  INIT_MAC1,
  INIT_SENDER,
  MAC_BYTES,
  RESPONSE_MAC1,
  RESPONSE_RECEIVER,
} from "../wire/handshake-sizes.ts";

export interface GateDeps {
  readonly slab: Slab;
  readonly mac: MacPort;
  readonly random: Random;
}

export interface GateOptions {
  /** X25519 public key of this node, 32 bytes. */
  readonly staticKey: Uint8Array;
  /** How long a load signal lasts, ms. @default 1_000 */
  readonly loadMs?: number;
  /** Life of a cookie secret; the one before it is still accepted. @default 120_000 */
  readonly secretMs?: number;
  /** Handshakes per second and source prefix under load. @default 20 */
  readonly ratePerSecond?: number;
  /** @default 5 */
  readonly burst?: number;
  /** Cookie replies per second to all sources together. @default 5_000 */
  readonly cookiesPerSecond?: number;
}

const LOAD_FILL = 1 / 8;
const SOURCE_BYTES = 18;
/** Buckets of sources: sets of 4, the longest unused of a set is reused. */
const BUCKETS = 4096;
/** Indices of our own handshakes under way: sets of 4, the oldest of a set is reused. */
const INDICES = 8192;
const WAYS = 4;
/** Addresses at which members are known to be, direct-mapped by a keyed hash; a later one takes the place of an earlier one. */
const KNOWN = 4096;
/** A known address gets a cookie this often whatever the flood from elsewhere. */
const KNOWN_REPLY_MS = 50;

export class HandshakeGate {
  /** A cookie reply to send to the source after judge() returned Drop.COOKIE_REQUIRED with replyBytes > 0. */
  readonly replyOffset: number;
  replyBytes = 0;
  /** Cookie replies not sent because of their own limit. */
  cookiesSuppressed = 0;

  readonly #slab: Slab;
  readonly #mac: MacPort;
  readonly #random: Random;
  readonly #loadMs: number;
  readonly #secretMs: number;
  readonly #rate: number;
  readonly #burst: number;
  readonly #cookiesPerSecond: number;
  readonly #macHandle: number;
  readonly #cookieKey: Uint8Array;
  /** Slab scratch: 32 bytes of HMAC output, then 18 of source. */
  readonly #digest: number;
  readonly #source: number;
  #secretHandle: number;
  #previousHandle: number;
  #secretSinceMs = -Infinity;
  #loadUntilMs = -Infinity;
  #cookieTokens: number;
  #cookieTokensAtMs = 0;

  readonly #bucketHigh: Uint32Array = new Uint32Array(BUCKETS);
  readonly #bucketLow: Uint32Array = new Uint32Array(BUCKETS);
  readonly #bucketTokens: Float64Array = new Float64Array(BUCKETS);
  readonly #bucketAtMs: Float64Array = new Float64Array(BUCKETS).fill(-Infinity);
  readonly #bucketSeed: number;

  readonly #known: Uint32Array = new Uint32Array(KNOWN * 4);
  readonly #knownReplyMs: Float64Array = new Float64Array(KNOWN).fill(-Infinity);

  readonly #indices: Uint32Array = new Uint32Array(INDICES);
  readonly #indexNext: Uint8Array = new Uint8Array(INDICES / WAYS);

  constructor(deps: GateDeps, options: GateOptions) {
    this.#slab = deps.slab;
    this.#mac = deps.mac;
    this.#random = deps.random;
    this.#loadMs = options.loadMs ?? 1000;
    this.#secretMs = options.secretMs ?? 120_000;
    this.#rate = options.ratePerSecond ?? 20;
    this.#burst = options.burst ?? 5;
    this.#cookiesPerSecond = options.cookiesPerSecond ?? 5000;
    this.#cookieTokens = this.#cookiesPerSecond;
    this.#macHandle = deps.mac.create(macKey(options.staticKey));
    this.#cookieKey = cookieKey(options.staticKey);
    this.#secretHandle = deps.mac.create(deps.random.bytes(32));
    this.#previousHandle = deps.mac.create(deps.random.bytes(32));
    this.#bucketSeed = deps.random.u32();
    this.replyOffset = deps.slab.allocate(COOKIE_REPLY_BYTES);
    this.#digest = deps.slab.allocate(32);
    this.#source = deps.slab.allocate(SOURCE_BYTES);
  }

  /** @param fill how full the queue to the control thread is, 0–1: from 1/8 on cookies are required, for the next second too */
  setLoad(nowMs: number, fill: number): void {
    if (fill >= LOAD_FILL) this.#loadUntilMs = nowMs + this.#loadMs;
  }

  underLoad(nowMs: number): boolean {
    return nowMs < this.#loadUntilMs;
  }

  /** To be told of every handshake datagram this node sends: responses and cookie replies pass only for indices seen here. */
  noteSent(offset: number, bytes: number): void {
    if (bytes !== handshakeBytes(this.#slab.u8[offset]) || bytes === COOKIE_REPLY_BYTES) return;
    const index = this.#slab.view.getUint32(offset + INIT_SENDER, true);
    if (this.#knows(index)) return;
    const set = index & (INDICES / WAYS - 1);
    const way = this.#indexNext[set];
    this.#indexNext[set] = (way + 1) & (WAYS - 1);
    this.#indices[set * WAYS + way] = index;
  }

  /**
   * HOT under attack. @param offset,bytes the datagram as received; anything may be in it @param name its name block
   * @returns Drop.NONE: hand it to the control thread
   */
  judge(nowMs: number, offset: number, bytes: number, name: number): number {
    this.replyBytes = 0;
    const view = this.#slab.view;
    const malformed = checkHandshake(view, offset, bytes);
    if (malformed !== Drop.NONE) return malformed;
    const type = view.getUint8(offset);
    if (type === COOKIE_REPLY_TYPE) {
      return this.#knows(view.getUint32(offset + COOKIE_RECEIVER, true)) ? Drop.NONE : Drop.UNKNOWN_INDEX;
    }
    if (type === HANDSHAKE_RESPONSE_TYPE) {
      if (!this.#knows(view.getUint32(offset + RESPONSE_RECEIVER, true))) return Drop.UNKNOWN_INDEX;
      return this.#macMatches(this.#macHandle, offset, RESPONSE_MAC1) ? Drop.NONE : Drop.MAC1;
    }
    if (!this.#macMatches(this.#macHandle, offset, INIT_MAC1)) return Drop.MAC1;
    if (nowMs >= this.#loadUntilMs) return Drop.NONE;
    if (!this.#cookieMatches(nowMs, offset, name)) {
      this.#prepareReply(nowMs, offset, name);
      return Drop.COOKIE_REQUIRED;
    }
    return this.#takeToken(nowMs, name) ? Drop.NONE : Drop.RATE_LIMIT;
  }

  /** Frees the keys held by the MacPort. */
  destroy(): void {
    this.#mac.destroy(this.#macHandle);
    this.#mac.destroy(this.#secretHandle);
    this.#mac.destroy(this.#previousHandle);
    this.#cookieKey.fill(0);
  }

  #macMatches(handle: number, offset: number, macAt: number): boolean {
    this.#mac.compute(handle, offset, macAt, this.#digest);
    // Four words, all looked at: the time says nothing about where the first difference is.
    const view = this.#slab.view;
    let difference = 0;
    for (let i = 0; i < MAC_BYTES; i += 4) {
      difference |= view.getUint32(this.#digest + i, true) ^ view.getUint32(offset + macAt + i, true);
    }
    return difference === 0;
  }

  #cookieMatches(nowMs: number, offset: number, name: number): boolean {
    const view = this.#slab.view;
    const mac2At = offset + HANDSHAKE_INIT_BYTES - MAC_BYTES;
    let present = 0;
    for (let i = 0; i < MAC_BYTES; i += 4) present |= view.getUint32(mac2At + i, true);
    if (present === 0) return false;
    this.#rotate(nowMs);
    return this.#mac2Matches(this.#secretHandle, offset, name) || this.#mac2Matches(this.#previousHandle, offset, name);
  }

  #mac2Matches(secret: number, offset: number, name: number): boolean {
    this.#cookie(secret, name);
    const handle = this.#mac.create(this.#slab.u8.slice(this.#digest, this.#digest + MAC_BYTES));
    const matches = this.#macMatches(handle, offset, HANDSHAKE_INIT_BYTES - MAC_BYTES);
    this.#mac.destroy(handle);
    return matches;
  }

  /** Leaves the cookie of the name's remote address and port in the digest scratch. */
  #cookie(secret: number, name: number): void {
    this.#slab.u8.copyWithin(this.#source, name + NAME_REMOTE, name + NAME_REMOTE + 16);
    this.#slab.u8.copyWithin(this.#source + 16, name + NAME_PORT, name + NAME_PORT + 2);
    this.#mac.compute(secret, this.#source, SOURCE_BYTES, this.#digest);
  }

  #rotate(nowMs: number): void {
    if (nowMs - this.#secretSinceMs < this.#secretMs) return;
    this.#mac.destroy(this.#previousHandle);
    this.#previousHandle = this.#secretHandle;
    this.#secretHandle = this.#mac.create(this.#random.bytes(32));
    this.#secretSinceMs = nowMs;
  }

  /**
   * A member may be reached at this address: under load its handshakes are not at the mercy of a flood from elsewhere.
   * @param address 16 bytes, v4-mapped or IPv6
   */
  noteKnown(address: Uint8Array): void {
    const source = this.#source;
    this.#slab.u8.set(address.subarray(0, 16), source);
    const at = this.#knownAt(source);
    for (let i = 0; i < 4; i++) this.#known[at * 4 + i] = this.#slab.view.getUint32(source + i * 4, true);
    this.#knownReplyMs[at] = -Infinity;
  }

  /** @param address slab offset of 16 bytes @returns place in the table of known addresses */
  #knownAt(address: number): number {
    const view = this.#slab.view;
    let hash = this.#bucketSeed;
    for (let i = 0; i < 16; i += 4) {
      hash = Math.imul(hash ^ view.getUint32(address + i, true), 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    return (hash >>> 0) % KNOWN;
  }

  /** True when the source is a member's address that has had no cookie just now; counts as the cookie it gets. */
  #takeKnown(nowMs: number, name: number): boolean {
    const at = this.#knownAt(name + NAME_REMOTE);
    for (let i = 0; i < 4; i++) {
      if (this.#known[at * 4 + i] !== this.#slab.view.getUint32(name + NAME_REMOTE + i * 4, true)) return false;
    }
    if (nowMs - this.#knownReplyMs[at] < KNOWN_REPLY_MS) return false;
    this.#knownReplyMs[at] = nowMs;
    return true;
  }

  #prepareReply(nowMs: number, offset: number, name: number): void {
    this.#cookieTokens = Math.min(
      this.#cookiesPerSecond,
      this.#cookieTokens + ((nowMs - this.#cookieTokensAtMs) * this.#cookiesPerSecond) / 1000,
    );
    this.#cookieTokensAtMs = nowMs;
    const known = this.#takeKnown(nowMs, name);
    if (this.#cookieTokens < 1 && !known) {
      this.cookiesSuppressed++;
      return;
    }
    if (!known) this.#cookieTokens--;
    this.#rotate(nowMs);
    this.#cookie(this.#secretHandle, name);
    const u8 = this.#slab.u8;
    const salt = this.#random.bytes(SALT_BYTES);
    const mac1 = u8.slice(offset + INIT_MAC1, offset + INIT_MAC1 + MAC_BYTES);
    const sealed = sealCookie(this.#cookieKey, salt, mac1, u8.slice(this.#digest, this.#digest + MAC_BYTES));
    const view = this.#slab.view;
    view.setUint32(this.replyOffset, COOKIE_REPLY_TYPE, true);
    view.setUint32(this.replyOffset + COOKIE_RECEIVER, view.getUint32(offset + INIT_SENDER, true), true);
    u8.set(salt, this.replyOffset + COOKIE_SALT);
    u8.set(sealed, this.replyOffset + COOKIE_SEALED);
    this.replyBytes = COOKIE_REPLY_BYTES;
  }

  /** One token of the source's prefix. A source not in its set takes the place of the one unused for longest. */
  #takeToken(nowMs: number, name: number): boolean {
    const view = this.#slab.view;
    const family = this.#slab.u8[name + NAME_FAMILY];
    const high = family === 4 ? 0xffff : view.getUint32(name + NAME_REMOTE, false);
    let low = view.getUint32(name + NAME_REMOTE + 4, false);
    if (family === 4) low = (view.getUint32(name + NAME_REMOTE + 12, false) & 0xffffff00) >>> 0;
    // each via and channel by itself: they share one prefix that no wire has
    else if (family < 4) low = view.getUint32(name + NAME_REMOTE + 12, false);
    let hash = Math.imul(high ^ this.#bucketSeed, 0x9e3779b1) ^ Math.imul(low, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0xc2b2ae35);
    const set = ((hash ^ (hash >>> 13)) & (BUCKETS / WAYS - 1)) * WAYS;
    let at = set;
    for (let i = set; i < set + WAYS; i++) {
      if (this.#bucketHigh[i] === high && this.#bucketLow[i] === low && this.#bucketAtMs[i] !== -Infinity) {
        const sinceMs = nowMs - this.#bucketAtMs[i];
        const tokens = Math.min(this.#burst, this.#bucketTokens[i] + (sinceMs * this.#rate) / 1000);
        this.#bucketAtMs[i] = nowMs;
        this.#bucketTokens[i] = tokens >= 1 ? tokens - 1 : tokens;
        return tokens >= 1;
      }
      if (this.#bucketAtMs[i] < this.#bucketAtMs[at]) at = i;
    }
    this.#bucketHigh[at] = high;
    this.#bucketLow[at] = low;
    this.#bucketAtMs[at] = nowMs;
    this.#bucketTokens[at] = this.#burst - 1;
    return true;
  }

  #knows(index: number): boolean {
    const set = (index & (INDICES / WAYS - 1)) * WAYS;
    for (let i = set; i < set + WAYS; i++) if (this.#indices[i] === index && index !== 0) return true;
    return false;
  }
}
