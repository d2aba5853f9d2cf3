/**
 * One group on this node: the chain of its last charters, the keys it was given, its space. Bounds: 16 charters, 64 keys, the oldest goes.
 * Source: docs/protocol.md, "Groups".
 */
import { equal, toHex } from "../../base/bytes.ts";
import { zeroise } from "../../crypto/secret.ts";
import type { Entry } from "../kv/entry.ts";
import type { Space } from "../kv/space.ts";
import { type Charter, compareSiblings, GroupRole, isAdmin, memberOf } from "./charter.ts";
import { openMessage, readMessageKey } from "./group-message.ts";

export const MAX_CHAIN = 16;
const MAX_KEYS = 64;
/** After that time who is no admin any more changes nothing by a charter beside an older one. */
export const SETTLED_MS = 3_600_000;

export interface EpochKey {
  readonly epoch: number;
  readonly hashHex: string;
  /** 32 bytes, secret */
  readonly key: Uint8Array;
}

/** Where a charter would go. */
export const Place = {
  /** After the current one. */
  NEXT: 0,
  /** Beside one that is here, and it counts instead of it and what followed. */
  REPLACES: 1,
  KNOWN: 2,
  /** Beside one that is here and counts. */
  LOSES: 3,
  /** It would count instead of one that has counted here for long, and its issuer is no admin any more. */
  SETTLED: 5,
  /** What it follows is not here. */
  GAP: 4,
} as const;
export type Place = (typeof Place)[keyof typeof Place];

export class Group {
  /** 32 bytes */
  readonly id: Uint8Array;
  readonly hex: string;
  /** Oldest first; never empty. */
  readonly chain: Charter[];
  space: Space | undefined;
  /** The issuer of the first charter of the chain says that it follows another branch now. */
  isFirstLost = false;
  /** 32 bytes: who signed the first charter that this node heard of. */
  readonly broughtBy: Uint8Array;
  /** Below it no messages are kept here; what members say about it is bounded (groups.ts). */
  floor = 0;
  readonly #keys: EpochKey[] = [];
  /** Wall-clock milliseconds at which each charter of the chain came. */
  readonly #takenMs = new WeakMap<Charter, number>();

  constructor(first: Charter, broughtBy: Uint8Array, takenMs: number) {
    this.id = first.group;
    this.hex = toHex(first.group);
    this.chain = [first];
    this.broughtBy = broughtBy;
    this.#takenMs.set(first, takenMs);
  }

  get current(): Charter {
    return this.chain[this.chain.length - 1];
  }

  /** Name of its replicated space. */
  get spaceName(): string {
    return `g-${this.hex.slice(0, 40)}`;
  }

  isMember(nodeId: Uint8Array, wallMs: number): boolean {
    const member = memberOf(this.current, nodeId);
    return member !== undefined && member.untilMs > wallMs;
  }

  isAdmin(nodeId: Uint8Array, wallMs: number): boolean {
    return isAdmin(this.current, nodeId, wallMs);
  }

  /** The charter that `charter` follows; undefined: it is not here. */
  parentOf(charter: Charter): Charter | undefined {
    return this.chain.find((one) => equal(one.hash, charter.parent));
  }

  place(charter: Charter, wallMs: number): Place {
    if (this.chain.some((one) => equal(one.hash, charter.hash))) return Place.KNOWN;
    const at = this.chain.findIndex((one) => equal(one.hash, charter.parent));
    if (at < 0) return Place.GAP;
    if (at === this.chain.length - 1) return Place.NEXT;
    const known = this.chain[at + 1];
    if (compareSiblings(charter, known, this.chain[at]) <= 0) return Place.LOSES;
    const isSettled = (this.#takenMs.get(known) ?? 0) + SETTLED_MS < wallMs;
    const isStillAdmin = memberOf(this.current, charter.issuer)?.role === GroupRole.ADMIN;
    return isSettled && !isStillAdmin ? Place.SETTLED : Place.REPLACES;
  }

  /** Puts it in its place. @returns what does not count any more, oldest first */
  append(charter: Charter, takenMs: number): Charter[] {
    const at = this.chain.findIndex((one) => equal(one.hash, charter.parent));
    const gone = at < 0 ? this.chain.splice(0) : this.chain.splice(at + 1);
    this.chain.push(charter);
    this.#takenMs.set(charter, takenMs);
    if (this.chain.length > MAX_CHAIN) this.chain.shift();
    return gone;
  }

  addKey(key: EpochKey): void {
    this.#keys.push(key);
    if (this.#keys.length > MAX_KEYS) zeroise(this.#keys.shift()?.key);
  }

  /** The key with which this node writes now. */
  currentKey(): Uint8Array | undefined {
    const hashHex = toHex(this.current.hash);
    return this.#keys.findLast((one) => one.hashHex === hashHex)?.key;
  }

  /** @returns the payload, or undefined when no key of this node opens it */
  open(entry: Entry): Uint8Array | undefined {
    const key = readMessageKey(entry.key);
    if (key === undefined) return undefined;
    for (const one of this.#keys) {
      if (one.epoch !== key.epoch) continue;
      const payload = openMessage(one.key, this.id, entry);
      if (payload !== undefined) return payload;
    }
    return undefined;
  }

  forgetKeys(): void {
    for (const { key } of this.#keys.splice(0)) zeroise(key);
  }
}

/** What its issuer wanted, as differences from the charter before. */
export interface Wish {
  readonly added: readonly { readonly nodeId: Uint8Array; readonly role: GroupRole }[];
  readonly removed: readonly Uint8Array[];
  readonly roles: readonly { readonly nodeId: Uint8Array; readonly role: GroupRole }[];
}

export function wishOf(charter: Charter, before: Charter): Wish {
  const added = charter.members.filter((member) => memberOf(before, member.nodeId) === undefined);
  const removed = before.members.filter((member) => memberOf(charter, member.nodeId) === undefined);
  const roles = charter.members.filter((member) => {
    const known = memberOf(before, member.nodeId);
    return known !== undefined && known.role !== member.role;
  });
  return { added, removed: removed.map((member) => member.nodeId), roles };
}
