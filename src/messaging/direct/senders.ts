/**
 * What this node remembers of those who write to it: trust, and per incarnation of a sender which numbers it has answered and how.
 *
 *   numbers      … floor ──────────────────── floor + WINDOW
 *                 │ nothing below matters to the sender any more: never delivered
 *                 └ seen: number → verdict, hash of the bytes; on disk as one row each before the verdict is sent (durable messages)
 *
 * The sender moves the floor (and the oldest incarnation) with every frame, and only past numbers whose outcome it has on its own disk; so
 * what it still may ask for is always remembered here. Bounds: MAX_SENDERS, MAX_INCARNATIONS each, WINDOW numbers each, MAX_SEEN in all;
 * MAX_UNDECIDED_OPS (receiver.ts) of a sender on the way to the disk.
 * Source: docs/protocol.md, "Direct messages".
 */
import { toHex } from "../../base/bytes.ts";
import type { StoreOp } from "../store-types.ts";
import type { DirectCore } from "./core.ts";
import { type TrustLevel, TRUST_LEVELS } from "./types.ts";

const MAX_SENDERS = 4_096;
/** A sender keeps fewer (sender.ts), so the oldest is never one it may still ask for. */
const MAX_INCARNATIONS = 8;
const MAX_SEEN = 1_048_576;

export interface Seen {
  readonly verdict: number;
  /** −1: none, the sender has asked for it before it came. */
  readonly hash: number;
  /** Not on disk yet: no answer before it is. */
  isPending: boolean;
}

export class Window {
  readonly sender: Sender;
  readonly incarnation: number;
  floor = 0;
  /** All numbers up to it that are not in `seen` are refused with `closedVerdict`. */
  closed = -1;
  closedVerdict = 0;
  /** As much of `closed` as is on disk: what may be said. */
  closedOnDisk = -1;
  /** Writes of `closed` under way. */
  closing = 0;
  readonly seen: Map<number, Seen> = new Map();
  /** The floor has moved since it was last written. */
  isDirty = false;

  constructor(sender: Sender, incarnation: number) {
    this.sender = sender;
    this.incarnation = incarnation;
  }

  op(): StoreOp {
    const { floor, closed, closedVerdict } = this;
    return {
      name: "direct.window.set",
      values: [this.sender.nodeId, this.incarnation, floor, closed, closedVerdict],
    };
  }
}

export class Sender {
  readonly nodeId: Uint8Array;
  readonly hex: string;
  trust: TrustLevel = "unknown";
  /** Incarnations below it are over. */
  oldest = 0;
  readonly windows: Map<number, Window> = new Map();
  /** Operations on the way to the disk because of what it sent. */
  undecidedOps = 0;
  /** `oldest` has moved since it was last written. */
  isDirty = false;

  constructor(nodeId: Uint8Array) {
    this.nodeId = Uint8Array.from(nodeId);
    this.hex = toHex(nodeId);
  }

  trustOp(): StoreOp {
    return { name: "direct.sender.trust", values: [this.nodeId, TRUST_LEVELS.indexOf(this.trust)] };
  }

  oldestOp(): StoreOp {
    return { name: "direct.sender.oldest", values: [this.nodeId, this.oldest] };
  }
}

export interface StoredSender {
  readonly nodeId: Uint8Array;
  readonly trust: number;
  readonly oldest: number;
}

export interface StoredWindow {
  readonly sender: Uint8Array;
  readonly incarnation: number;
  readonly floor: number;
  readonly closed: number;
  readonly closedVerdict: number;
}

export interface StoredSeen {
  readonly sender: Uint8Array;
  readonly incarnation: number;
  readonly number: number;
  readonly verdict: number;
  readonly hash: number;
}

export class Senders {
  readonly #core: DirectCore;
  readonly #senders = new Map<string, Sender>();
  readonly #dirty = new Set<Window>();
  readonly #dirtySenders = new Set<Sender>();
  #seen = 0;

  constructor(core: DirectCore) {
    this.#core = core;
  }

  load(senders: readonly StoredSender[], windows: readonly StoredWindow[], seen: readonly StoredSeen[]): void {
    for (const { nodeId, trust, oldest } of senders) {
      const sender = this.#get(nodeId);
      sender.trust = TRUST_LEVELS[trust] ?? "unknown";
      sender.oldest = oldest;
    }
    for (const row of windows) {
      const window = this.#windowOf(this.#get(row.sender), row.incarnation);
      window.floor = row.floor;
      window.closed = row.closed;
      window.closedOnDisk = row.closed;
      window.closedVerdict = row.closedVerdict;
    }
    for (const { sender, incarnation, number, verdict, hash } of seen) {
      this.remember(this.#windowOf(this.#get(sender), incarnation), number, verdict, hash, false);
    }
  }

  /** @returns undefined when there are too many */
  find(nodeId: Uint8Array): Sender | undefined {
    const known = this.#senders.get(toHex(nodeId));
    if (known !== undefined || this.#senders.size < MAX_SENDERS) return known ?? this.#get(nodeId);
    for (const [hex, sender] of this.#senders) {
      if (this.#core.deps.isMember(sender.nodeId) || sender.trust === "blocked") continue;
      this.#forgetBelow(sender, Infinity);
      this.#senders.delete(hex);
      return this.#get(nodeId);
    }
    return undefined;
  }

  /** Unlike find(), it remembers nobody new. */
  trustOf(nodeId: Uint8Array): TrustLevel {
    return this.#senders.get(toHex(nodeId))?.trust ?? "unknown";
  }

  all(): IterableIterator<Sender> {
    return this.#senders.values();
  }

  get size(): number {
    return this.#seen;
  }

  /** True while another number can be remembered. */
  get hasRoom(): boolean {
    return this.#seen < MAX_SEEN;
  }

  /** @returns undefined when that incarnation is over */
  window(sender: Sender, incarnation: number, oldest: number, floor: number): Window | undefined {
    if (oldest > sender.oldest) this.#forgetBelow(sender, oldest);
    if (incarnation < sender.oldest) return undefined;
    const window = this.#windowOf(sender, incarnation);
    if (sender.windows.size > MAX_INCARNATIONS) {
      const [, second] = [...sender.windows.keys()].toSorted((a, b) => a - b);
      this.#forgetBelow(sender, second);
      if (incarnation < sender.oldest) return undefined;
    }
    if (floor > window.floor) this.#raise(window, floor);
    return window;
  }

  remember(window: Window, number: number, verdict: number, hash: number, isPending: boolean): Seen {
    const seen: Seen = { verdict, hash, isPending };
    if (!window.seen.has(number)) this.#seen++;
    window.seen.set(number, seen);
    return seen;
  }

  forget(window: Window, number: number): void {
    if (window.seen.delete(number)) this.#seen--;
  }

  /**
   * Floors and oldest incarnations that moved go to disk together with the next messages, once however often they moved; until then a
   * restart only remembers more than needed.
   */
  flush(): void {
    for (const sender of this.#dirtySenders) {
      sender.isDirty = false;
      this.#core.intake.add([
        sender.oldestOp(),
        { name: "direct.window.trim", values: [sender.nodeId, sender.oldest] },
        { name: "direct.seen.forget", values: [sender.nodeId, sender.oldest] },
      ]);
    }
    this.#dirtySenders.clear();
    for (const window of this.#dirty) {
      window.isDirty = false;
      const { sender, incarnation, floor } = window;
      this.#core.intake.add([window.op(), { name: "direct.seen.trim", values: [sender.nodeId, incarnation, floor] }]);
    }
    this.#dirty.clear();
  }

  #raise(window: Window, floor: number): void {
    if (floor - window.floor <= window.seen.size) {
      for (let number = window.floor; number < floor; number++) this.forget(window, number);
    } else {
      for (const number of window.seen.keys()) if (number < floor) this.forget(window, number);
    }
    window.floor = floor;
    if (window.isDirty) return;
    window.isDirty = true;
    this.#dirty.add(window);
  }

  #forgetBelow(sender: Sender, oldest: number): void {
    for (const [incarnation, window] of sender.windows) {
      if (incarnation >= oldest) continue;
      this.#seen -= window.seen.size;
      sender.windows.delete(incarnation);
      this.#dirty.delete(window);
    }
    if (oldest === Infinity) {
      this.#dirtySenders.delete(sender);
      this.#core.intake.add([
        { name: "direct.sender.forget", values: [sender.nodeId] },
        { name: "direct.window.trim", values: [sender.nodeId, Number.MAX_SAFE_INTEGER] },
        { name: "direct.seen.forget", values: [sender.nodeId, Number.MAX_SAFE_INTEGER] },
      ]);
      return;
    }
    sender.oldest = oldest;
    if (sender.isDirty) return;
    sender.isDirty = true;
    this.#dirtySenders.add(sender);
  }

  #get(nodeId: Uint8Array): Sender {
    const hex = toHex(nodeId);
    let sender = this.#senders.get(hex);
    if (sender === undefined) {
      sender = new Sender(nodeId);
      this.#senders.set(hex, sender);
    }
    return sender;
  }

  #windowOf(sender: Sender, incarnation: number): Window {
    let window = sender.windows.get(incarnation);
    if (window === undefined) {
      window = new Window(sender, incarnation);
      sender.windows.set(incarnation, window);
    }
    return window;
  }
}
