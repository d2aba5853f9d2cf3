/**
 * Inboxes: what was admitted, in order, until the application acknowledges its cursor. Durable entries lie on disk and are known here by
 * sequence, sender and size only; those that are not durable live here. A reader sees everything up to the frontier: the last entry
 * before the first that is not on disk yet, so that no cursor ever passes an entry that comes later.
 *
 * Bounds per inbox: messages and bytes (options), half of each for one sender, TRANSIENT_BYTES for what is not durable. At a bound the sender is
 * told "busy" at once; nothing waits for a reader. MAX_INBOXES in all. Source: docs/protocol.md, "Inboxes".
 */
import { toHex } from "../../base/bytes.ts";
import type { StoreOp } from "../store-types.ts";
import type { DirectCore } from "./core.ts";
import type { InboxEntry } from "./types.ts";

const TRANSIENT_BYTES = 16 << 20;
const MAX_INBOXES = 256;
/** Kept per entry besides its payload. */
const ENTRY_COST_BYTES = 256;

const State = { PENDING: 0, READY: 1, DROPPED: 2 } as const;

/** One entry on its way into an inbox. */
export interface Slot {
  readonly sequence: number;
  readonly sender: string;
  readonly bytes: number;
  readonly isTransient: boolean;
  state: number;
  /** While it is not on disk, or for ever when it is transient. */
  entry: InboxEntry | undefined;
}

interface Share {
  messages: number;
  bytes: number;
}

class Inbox {
  readonly name: string;
  /** In order of sequence, from `head`. */
  slots: Slot[] = [];
  head = 0;
  /** Index of the first that readers do not see yet. */
  hidden = 0;
  messages = 0;
  bytes = 0;
  transientBytes = 0;
  /** Everything up to it was acknowledged by the application. */
  cursor = 0;
  readonly shares = new Map<string, Share>();

  constructor(name: string) {
    this.name = name;
  }

  count(slot: Slot, sign: 1 | -1): void {
    this.messages += sign;
    this.bytes += sign * slot.bytes;
    if (slot.isTransient) this.transientBytes += sign * slot.bytes;
    const share = this.shares.get(slot.sender) ?? { messages: 0, bytes: 0 };
    share.messages += sign;
    share.bytes += sign * slot.bytes;
    if (share.messages === 0) this.shares.delete(slot.sender);
    else this.shares.set(slot.sender, share);
  }
}

/** An entry as it was found on disk. */
export interface StoredSlot {
  readonly inbox: string;
  readonly sequence: number;
  readonly sender: string;
  readonly bytes: number;
}

export interface InboxView {
  readonly inbox: string;
  readonly messages: number;
  readonly bytes: number;
  readonly cursor: number;
  /** Sequence of the last entry that readers see; 0 when there is none. */
  readonly frontier: number;
}

export class Inboxes {
  readonly #core: DirectCore;
  readonly #inboxes = new Map<string, Inbox>();
  /** Inboxes that take messages; others are only read. */
  readonly #open = new Set<string>([""]);

  constructor(core: DirectCore) {
    this.#core = core;
  }

  /** @param stored in order of sequence */
  load(stored: readonly StoredSlot[], cursors: ReadonlyMap<string, number>): void {
    for (const { inbox: name, sequence, sender, bytes } of stored) {
      const inbox = this.#inbox(name);
      const slot: Slot = { sequence, sender, bytes, isTransient: false, state: State.READY, entry: undefined };
      inbox.slots.push(slot);
      inbox.count(slot, 1);
      inbox.hidden = inbox.slots.length;
    }
    for (const [name, cursor] of cursors) this.#inbox(name).cursor = cursor;
  }

  /** From now on it takes messages. @returns false when there are too many */
  open(name: string): boolean {
    if (!this.#inboxes.has(name) && this.#inboxes.size >= MAX_INBOXES) return false;
    this.#inbox(name);
    this.#open.add(name);
    return true;
  }

  /** From now on it takes none; what is in it stays to be read. */
  close(name: string): void {
    if (name !== "") this.#open.delete(name);
  }

  isOpen(name: string): boolean {
    return this.#open.has(name);
  }

  /** @param payloadBytes of the message that wants in */
  hasRoom(name: string, sender: string, payloadBytes: number, isTransient: boolean): boolean {
    const inbox = this.#inbox(name);
    const { inboxMessages, inboxBytes } = this.#core.options;
    const bytes = payloadBytes + ENTRY_COST_BYTES;
    if (inbox.messages >= inboxMessages || inbox.bytes + bytes > inboxBytes) return false;
    if (isTransient && inbox.transientBytes + bytes > TRANSIENT_BYTES) return false;
    const share = inbox.shares.get(sender);
    if (share === undefined) return true;
    return share.messages < Math.ceil(inboxMessages / 2) && share.bytes + bytes <= inboxBytes / 2;
  }

  /** Reserves a place; ready() or drop() follows. */
  add(entry: InboxEntry): Slot {
    const inbox = this.#inbox(entry.inbox);
    const slot: Slot = {
      sequence: entry.sequence,
      sender: toHex(entry.from),
      bytes: entry.payload.length + ENTRY_COST_BYTES,
      isTransient: !entry.durable,
      state: State.PENDING,
      entry,
    };
    inbox.slots.push(slot);
    inbox.count(slot, 1);
    return slot;
  }

  ready(name: string, slot: Slot): void {
    slot.state = State.READY;
    this.#advance(this.#inbox(name));
  }

  drop(name: string, slot: Slot): void {
    const inbox = this.#inbox(name);
    slot.state = State.DROPPED;
    slot.entry = undefined;
    inbox.count(slot, -1);
    this.#advance(inbox);
  }

  /**
   * The application has done with everything up to `upTo`; it is forgotten.
   * @param done called when that is on disk
   */
  acknowledge(name: string, upTo: number, done?: () => void): void {
    const inbox = this.#inboxes.get(name);
    const last = Math.min(upTo, this.frontier(name));
    if (inbox === undefined || last <= inbox.cursor) {
      // nothing new; what was asked for before may still be on its way to the disk
      if (done !== undefined) this.#core.write([cursorOp(name, inbox?.cursor ?? 0)], done);
      return;
    }
    inbox.cursor = last;
    while (inbox.head < inbox.hidden && inbox.slots[inbox.head].sequence <= last) {
      const slot = inbox.slots[inbox.head++];
      if (slot.state === State.READY) inbox.count(slot, -1);
    }
    if (inbox.head > 1_024 && inbox.head * 2 > inbox.slots.length) {
      inbox.slots = inbox.slots.slice(inbox.head);
      inbox.hidden -= inbox.head;
      inbox.head = 0;
    }
    this.#core.write([cursorOp(name, last), { name: "direct.inbox.delete", values: [name, last] }], done);
  }

  /** Those that are not durable, after `after` and up to the frontier, in order. */
  transient(name: string, after: number, limit: number): InboxEntry[] {
    const inbox = this.#inboxes.get(name);
    const found: InboxEntry[] = [];
    if (inbox === undefined || inbox.transientBytes === 0) return found;
    for (let i = inbox.head; i < inbox.hidden && found.length < limit; i++) {
      const { entry, isTransient, sequence } = inbox.slots[i];
      if (isTransient && entry !== undefined && sequence > after) found.push(entry);
    }
    return found;
  }

  /** Sequence of the last entry that readers see; at least the cursor. */
  frontier(name: string): number {
    const inbox = this.#inboxes.get(name);
    if (inbox === undefined) return 0;
    const last = inbox.slots[inbox.hidden - 1];
    return Math.max(inbox.cursor, last === undefined || inbox.hidden <= inbox.head ? 0 : last.sequence);
  }

  cursor(name: string): number {
    return this.#inboxes.get(name)?.cursor ?? 0;
  }

  views(): InboxView[] {
    return [...this.#inboxes.values()].map(({ name, messages, bytes, cursor }) => ({
      inbox: name,
      messages,
      bytes,
      cursor,
      frontier: this.frontier(name),
    }));
  }

  #advance(inbox: Inbox): void {
    while (inbox.hidden < inbox.slots.length && inbox.slots[inbox.hidden].state !== State.PENDING) {
      const slot = inbox.slots[inbox.hidden++];
      if (slot.state === State.DROPPED || slot.entry === undefined) continue;
      this.#core.counters.delivered++;
      this.#core.output({ kind: "delivered", entry: slot.entry });
      if (!slot.isTransient) slot.entry = undefined;
    }
  }

  #inbox(name: string): Inbox {
    let inbox = this.#inboxes.get(name);
    if (inbox === undefined) {
      inbox = new Inbox(name);
      this.#inboxes.set(name, inbox);
    }
    return inbox;
  }
}

function cursorOp(name: string, sequence: number): StoreOp {
  return { name: "direct.cursor.set", values: [name, sequence] };
}
