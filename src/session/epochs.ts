/**
 * The key generations of all peers as the data worker uses them: found by receiver index in O(1), with their replay windows, counters,
 * age and block limits. Source: docs/protocol.md, "Epochs, rekey, replay".
 *
 * Guarantees: takeCounter(), lookup() and accept() allocate nothing and never throw; no counter is given out twice under one key; a key is
 * destroyed (and so zeroised) at 270 s by handleTimeout(), and takeCounter() refuses it from that moment and past 2^35 blocks; a peer has at
 * most 4 epochs, and the one it sends under is never displaced. One received packet: lookup → replay.check → AEAD open → accept.
 */
import { ReplayWindow } from "../crypto/replay.ts";
import type { AeadPort } from "../dataplane/ports.ts";
import { Drop } from "../base/drop.ts";
import type { Cipher, EpochKeys } from "./types.ts";

export const EPOCHS_PER_PEER = 4;
/** A retired epoch under which nothing came for this long carries data no more, ms. */
const QUIET_MS = 250;

export interface EpochTableOptions {
  /** Peer slots are 0 … maxPeers − 1. */
  readonly maxPeers: number;
  /** Age at which a key is destroyed, ms. @default 270_000 */
  readonly maxAgeMs?: number;
  /** Sixteen-byte blocks sealed after which the sender asks for a rekey. @default 2 ** 33 */
  readonly rekeyBlocks?: number;
  /** Blocks past which nothing is sealed. @default 2 ** 35 */
  readonly maxBlocks?: number;
  /** Counters of a fresh replay window. @default 8192 */
  readonly replayCounters?: number;
}

/** One key generation. Fields are read freely; only EpochTable and the replay window change them. */
export class Epoch {
  readonly epochId: number;
  readonly peer: number;
  readonly localIndex: number;
  readonly remoteIndex: number;
  readonly cipher: Cipher;
  readonly hybrid: boolean;
  readonly userData: boolean;
  readonly initiator: boolean;
  readonly remoteCapabilities: number;
  readonly remoteMtuBytes: number;
  readonly sealHandle: number;
  readonly openHandle: number;
  readonly installedAtMs: number;
  readonly replay: ReplayWindow;
  /** Sixteen-byte blocks after which the session should rekey, and past which nothing is sealed. */
  readonly rekeyBlocks: number;
  readonly maxBlocks: number;
  /** Counter of the next packet. */
  counterLow = 0;
  counterHigh = 0;
  /** Counter that takeCounter() just gave out. */
  takenLow = 0;
  takenHigh = 0;
  blocksSealed = 0;
  /** A packet under this epoch authenticated: the peer has the keys. */
  proven = false;
  /** Time of the last authenticated packet; the installation before the first. */
  lastOpenedMs: number;
  /** −1 while not retired; else the time retire() was called. */
  retiredAtMs = -1;
  graceMs = 0;
  live = true;

  constructor(
    peer: number,
    keys: EpochKeys,
    sealHandle: number,
    openHandle: number,
    nowMs: number,
    options: Required<EpochTableOptions>,
  ) {
    this.epochId = keys.epochId;
    this.peer = peer;
    this.localIndex = keys.localIndex >>> 0;
    this.remoteIndex = keys.remoteIndex >>> 0;
    this.cipher = keys.cipher;
    this.hybrid = keys.hybrid;
    this.userData = keys.userData;
    this.initiator = keys.initiator;
    this.remoteCapabilities = keys.remoteCapabilities;
    this.remoteMtuBytes = keys.remoteMtuBytes;
    this.sealHandle = sealHandle;
    this.openHandle = openHandle;
    this.installedAtMs = nowMs;
    this.lastOpenedMs = nowMs;
    this.rekeyBlocks = options.rekeyBlocks;
    this.maxBlocks = options.maxBlocks;
    this.replay = new ReplayWindow(options.replayCounters);
  }
}

export class EpochTable {
  readonly #aead: AeadPort;
  readonly #options: Required<EpochTableOptions>;
  readonly #maxAgeMs: number;
  /** The owner's clock, for take(). */
  nowMs = 0;
  /** Open addressing, linear probing, ≤ ¼ full: receiver index → position in #slots + 1 (0 = empty). */
  readonly #keys: Uint32Array;
  readonly #positions: Int32Array;
  readonly #mask: number;
  /** Four places per peer. */
  readonly #slots: (Epoch | undefined)[];
  readonly #sending: (Epoch | undefined)[];
  #size = 0;
  /** Epochs destroyed to make room for a fifth. */
  displaced = 0;
  /** install() refused because the index was taken. */
  collisions = 0;

  constructor(aead: AeadPort, options: EpochTableOptions) {
    this.#aead = aead;
    this.#options = Object.freeze({
      maxAgeMs: 270_000,
      rekeyBlocks: 2 ** 33,
      maxBlocks: 2 ** 35,
      replayCounters: 8192,
      ...options,
    });
    this.#maxAgeMs = this.#options.maxAgeMs;
    const places = options.maxPeers * EPOCHS_PER_PEER;
    let capacity = 16;
    while (capacity < places * 4) capacity *= 2;
    this.#keys = new Uint32Array(capacity);
    this.#positions = new Int32Array(capacity);
    this.#mask = capacity - 1;
    this.#slots = Array.from({ length: places }, () => undefined);
    this.#sending = Array.from({ length: options.maxPeers }, () => undefined);
  }

  /** Live epochs of all peers. */
  get size(): number {
    return this.#size;
  }

  /** HOT. The epoch whose receiver index this is. */
  lookup(index: number): Epoch | undefined {
    const key = index >>> 0;
    let at = key & this.#mask;
    for (;;) {
      const position = this.#positions[at];
      if (position === 0) return undefined;
      if (this.#keys[at] === key) return this.#slots[position - 1];
      at = (at + 1) & this.#mask;
    }
  }

  /** HOT. What user data to this peer is sealed under; undefined without a session. */
  sending(peer: number): Epoch | undefined {
    return this.#sending[peer];
  }

  /** The epoch with this id, whatever its state. */
  byId(peer: number, epochId: number): Epoch | undefined {
    const base = peer * EPOCHS_PER_PEER;
    for (let i = base; i < base + EPOCHS_PER_PEER; i++) if (this.#slots[i]?.epochId === epochId) return this.#slots[i];
    return undefined;
  }

  /** The epoch installed last; control messages may use it before any is active. */
  newest(peer: number): Epoch | undefined {
    let newest: Epoch | undefined;
    const base = peer * EPOCHS_PER_PEER;
    for (let i = base; i < base + EPOCHS_PER_PEER; i++) {
      const epoch = this.#slots[i];
      if (epoch !== undefined && (newest === undefined || epoch.epochId > newest.epochId)) newest = epoch;
    }
    return newest;
  }

  /**
   * HOT. Takes the next counter for one packet: afterwards seal it with epoch.takenLow and epoch.takenHigh.
   * @param bytes plaintext of the packet
   * @returns Drop.NONE, or Drop.KEY_EXPIRED when the key is too old, destroyed, or has sealed too much
   */
  takeCounter(epoch: Epoch, nowMs: number, bytes: number): number {
    this.nowMs = nowMs;
    return this.take(epoch, bytes);
  }

  /** HOT. takeCounter() at the time in `nowMs`: as an argument a fraction may have to be boxed for every packet. */
  take(epoch: Epoch, bytes: number): number {
    // one more block for the tag
    const blocks = epoch.blocksSealed + ((bytes + 31) >>> 4);
    if (blocks > epoch.maxBlocks || !epoch.live || this.nowMs - epoch.installedAtMs >= this.#maxAgeMs)
      return Drop.KEY_EXPIRED;
    epoch.blocksSealed = blocks;
    epoch.takenLow = epoch.counterLow;
    epoch.takenHigh = epoch.counterHigh;
    epoch.counterLow = (epoch.counterLow + 1) >>> 0;
    if (epoch.counterLow === 0) epoch.counterHigh++;
    return Drop.NONE;
  }

  /** HOT. After a packet opened. @returns true when it was the first under this epoch: the peer has proven its keys */
  accept(epoch: Epoch, nowMs: number, counterLow: number, counterHigh: number): boolean {
    epoch.replay.mark(counterLow, counterHigh);
    epoch.lastOpenedMs = nowMs;
    if (epoch.proven) return false;
    epoch.proven = true;
    return true;
  }

  /**
   * Begins receiving under `keys` and overwrites them with zeros. A fifth epoch displaces the least useful of the others.
   * @returns undefined when the index is already in use (counted)
   */
  install(nowMs: number, peer: number, keys: EpochKeys): Epoch | undefined {
    if (this.#find(keys.localIndex >>> 0) >= 0) {
      this.collisions++;
      keys.sendKey.fill(0);
      keys.receiveKey.fill(0);
      return undefined;
    }
    const position = this.#place(peer, nowMs);
    const epoch = new Epoch(
      peer,
      keys,
      this.#aead.create(keys.cipher, keys.sendKey, "seal"),
      this.#aead.create(keys.cipher, keys.receiveKey, "open"),
      nowMs,
      this.#options,
    );
    keys.sendKey.fill(0);
    keys.receiveKey.fill(0);
    this.#slots[position] = epoch;
    this.#size++;
    let at = epoch.localIndex & this.#mask;
    while (this.#positions[at] !== 0) at = (at + 1) & this.#mask;
    this.#keys[at] = epoch.localIndex;
    this.#positions[at] = position + 1;
    return epoch;
  }

  /** From now on user data is sealed under it. @returns the epoch, or undefined when there is none of this id any more */
  activate(peer: number, epochId: number): Epoch | undefined {
    const epoch = this.byId(peer, epochId);
    if (epoch === undefined) return undefined;
    this.#sending[peer] = epoch;
    epoch.retiredAtMs = -1;
    return epoch;
  }

  /**
   * Stops receiving under an epoch once it is `afterMs` after this call and after the last packet under it (so a peer that has not heard of
   * the change yet is not cut off), and never later than its age limit. 0 = at once.
   */
  retire(nowMs: number, peer: number, epochId: number, afterMs: number): void {
    const epoch = this.byId(peer, epochId);
    if (epoch === undefined) return;
    epoch.retiredAtMs = nowMs;
    epoch.graceMs = afterMs;
    if (afterMs <= 0) this.#destroy(epoch);
  }

  /** Destroys all epochs of a peer at once. */
  removePeer(peer: number): void {
    const base = peer * EPOCHS_PER_PEER;
    for (let i = base; i < base + EPOCHS_PER_PEER; i++) {
      const epoch = this.#slots[i];
      if (epoch !== undefined) this.#destroy(epoch);
    }
  }

  /** Destroys every key; the table is empty afterwards. */
  close(): void {
    for (const epoch of this.#slots) if (epoch !== undefined) this.#destroy(epoch);
  }

  /** When handleTimeout() of this peer is due next, ms; Infinity without epochs. */
  nextTimeout(peer: number): number {
    let next = Infinity;
    const base = peer * EPOCHS_PER_PEER;
    for (let i = base; i < base + EPOCHS_PER_PEER; i++) {
      const epoch = this.#slots[i];
      if (epoch !== undefined) next = Math.min(next, this.#endOf(epoch));
    }
    return next;
  }

  /** Destroys the peer's epochs that are due. @returns when to call again, ms; Infinity without epochs */
  handleTimeout(nowMs: number, peer: number): number {
    const base = peer * EPOCHS_PER_PEER;
    for (let i = base; i < base + EPOCHS_PER_PEER; i++) {
      const epoch = this.#slots[i];
      if (epoch !== undefined && this.#endOf(epoch) <= nowMs) this.#destroy(epoch);
    }
    return this.nextTimeout(peer);
  }

  #endOf(epoch: Epoch): number {
    const oldest = epoch.installedAtMs + this.#options.maxAgeMs;
    if (epoch.retiredAtMs < 0) return oldest;
    return Math.min(oldest, Math.max(epoch.retiredAtMs, epoch.lastOpenedMs) + epoch.graceMs);
  }

  /** A free place of the peer; displaces the least useful epoch, never the one sent under. */
  #place(peer: number, nowMs: number): number {
    const base = peer * EPOCHS_PER_PEER;
    let worst: Epoch | undefined;
    for (let i = base; i < base + EPOCHS_PER_PEER; i++) {
      const epoch = this.#slots[i];
      if (epoch === undefined) return i;
      if (epoch !== this.#sending[peer] && (worst === undefined || lessUseful(epoch, worst, nowMs))) worst = epoch;
    }
    this.displaced++;
    const position = this.#slots.indexOf(worst, base);
    this.#destroy(worst as Epoch);
    return position;
  }

  #find(key: number): number {
    let at = key & this.#mask;
    while (this.#positions[at] !== 0) {
      if (this.#keys[at] === key) return at;
      at = (at + 1) & this.#mask;
    }
    return -1;
  }

  #destroy(epoch: Epoch): void {
    epoch.live = false;
    this.#aead.destroy(epoch.sealHandle);
    this.#aead.destroy(epoch.openHandle);
    let hole = this.#find(epoch.localIndex);
    this.#slots[this.#positions[hole] - 1] = undefined;
    this.#size--;
    if (this.#sending[epoch.peer] === epoch) this.#sending[epoch.peer] = undefined;
    // Backward-shift deletion keeps every probe sequence unbroken without tombstones (Knuth, TAOCP 6.4, algorithm R).
    this.#positions[hole] = 0;
    for (let at = (hole + 1) & this.#mask; this.#positions[at] !== 0; at = (at + 1) & this.#mask) {
      const home = this.#keys[at] & this.#mask;
      if (((at - home) & this.#mask) >= ((at - hole) & this.#mask)) {
        this.#keys[hole] = this.#keys[at];
        this.#positions[hole] = this.#positions[at];
        this.#positions[at] = 0;
        hole = at;
      }
    }
  }
}

/** Which of two epochs to displace first; among equals the one quiet for longest. */
function lessUseful(a: Epoch, b: Epoch, nowMs: number): boolean {
  const rankA = usefulness(a, nowMs);
  const rankB = usefulness(b, nowMs);
  return rankA === rankB ? a.lastOpenedMs < b.lastOpenedMs : rankA < rankB;
}

/** A displaced handshake is retried; a displaced epoch under which the peer still sends data loses it. So those rank highest. */
function usefulness(epoch: Epoch, nowMs: number): number {
  if (epoch.retiredAtMs >= 0) {
    if (!epoch.userData) return 0;
    return nowMs - epoch.lastOpenedMs > QUIET_MS ? 1 : 4;
  }
  if (!epoch.userData) return 2;
  // The initiator's unproven hybrid epoch may carry data any moment; the responder's only after the initiator heard from it.
  return epoch.proven || epoch.initiator ? 5 : 3;
}
