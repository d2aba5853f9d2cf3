/**
 * Slots of the data plane and who holds them: every member (up to the plane's limit) and, while they join, nodes that have shown an
 * invite of this network. At most 64 joiners at a time, 30 s each (the session itself gives up on one that proves nothing after 5 s);
 * a slot given back is reused last, so that a late event about its former holder meets an empty slot. Peers are found by static key,
 * because a joiner has nothing else.
 */
import { toHex } from "../base/bytes.ts";
import type { Member } from "../mesh/types.ts";

export const MAX_PROVISIONAL = 64;
/** Of these, for those who come with an invite that has ended and only hear why. */
const MAX_ENDED = 8;
/** Time a joiner has for handshake, request and admission. */
const PROVISIONAL_LIFE_MS = 30_000;

export class PeerRecord {
  readonly slot: number;
  /** 32 bytes each; nodeId is all zero for a joiner, who is known by the static key alone. */
  nodeId: Uint8Array;
  readonly staticKey: Uint8Array;
  /** Sent in our inits while we join; 8 bytes. */
  inviteId: Uint8Array | undefined;
  psk: Uint8Array | undefined;
  /** undefined: a joiner, or an admin we join through. */
  member: Member | undefined;
  /** When a joiner loses the slot; Infinity for everybody else. */
  expiresAtMs: number = Infinity;
  hasEndedInvite = false;
  /** Epochs up to this one belong to a former holder of the slot. */
  readonly firstEpochId: number;
  established = false;
  /** The plane sent for a while and heard nothing since. */
  silent = false;
  stopping = false;
  /** It runs anew, and no session with this run of it is up yet. */
  restarted = false;
  lastError: string | undefined;
  /** Active path as the plane last said; endpoint is 18 bytes. */
  endpoint: Uint8Array | undefined;
  pathMtuBytes = 0;
  /** Of datagrams of streams, both ways: use of the session that the plane does not count as user data. */
  streamBytes = 0;
  /** The underlay address at which the peer sees this node, 18 bytes. */
  seesUsAt: Uint8Array | undefined;

  constructor(slot: number, nodeId: Uint8Array, staticKey: Uint8Array, firstEpochId: number) {
    this.slot = slot;
    this.nodeId = nodeId;
    this.staticKey = staticKey;
    this.firstEpochId = firstEpochId;
  }
}

export class PeerTable {
  readonly #free: number[] = [];
  readonly #bySlot: (PeerRecord | undefined)[] = [];
  readonly #byKey = new Map<string, PeerRecord>();
  #provisional = 0;

  /** @param slots of the plane */
  constructor(slots: number) {
    for (let slot = 0; slot < slots; slot++) {
      this.#free.push(slot);
      this.#bySlot.push(undefined);
    }
  }

  get size(): number {
    return this.#byKey.size;
  }

  bySlot(slot: number): PeerRecord | undefined {
    return this.#bySlot[slot];
  }

  byKey(staticKey: Uint8Array): PeerRecord | undefined {
    return this.#byKey.get(toHex(staticKey));
  }

  all(): PeerRecord[] {
    return [...this.#byKey.values()];
  }

  /** @returns undefined when no slot is free */
  add(nodeId: Uint8Array, staticKey: Uint8Array, lastEpochId: number): PeerRecord | undefined {
    const slot = this.#free.shift();
    if (slot === undefined) return undefined;
    const record = new PeerRecord(slot, nodeId, Uint8Array.from(staticKey), lastEpochId);
    this.#bySlot[slot] = record;
    this.#byKey.set(toHex(staticKey), record);
    return record;
  }

  /** @returns undefined when 64 join already, or no slot is free */
  addProvisional(
    staticKey: Uint8Array,
    lastEpochId: number,
    nowMs: number,
    hasEndedInvite: boolean,
  ): PeerRecord | undefined {
    if (this.#provisional >= MAX_PROVISIONAL || (hasEndedInvite && this.#ended() >= MAX_ENDED)) return undefined;
    const record = this.add(new Uint8Array(32), staticKey, lastEpochId);
    if (record === undefined) return undefined;
    record.expiresAtMs = nowMs + PROVISIONAL_LIFE_MS;
    record.hasEndedInvite = hasEndedInvite;
    this.#provisional++;
    return record;
  }

  #ended(): number {
    return this.all().reduce(
      (count, record) => count + (record.hasEndedInvite && record.member === undefined ? 1 : 0),
      0,
    );
  }

  /** A joiner was admitted, or proved its session and may take its time. */
  settle(record: PeerRecord): void {
    if (record.expiresAtMs !== Infinity) this.#provisional--;
    record.expiresAtMs = Infinity;
  }

  remove(record: PeerRecord): void {
    if (this.#bySlot[record.slot] !== record) return;
    this.settle(record);
    this.#bySlot[record.slot] = undefined;
    this.#byKey.delete(toHex(record.staticKey));
    this.#free.push(record.slot);
  }

  /** Joiners whose time is over. */
  expired(nowMs: number): PeerRecord[] {
    return this.all().filter((record) => record.expiresAtMs <= nowMs);
  }
}
