/**
 * Messages whose signature is being checked. A message is checked once at a time; up to two more copies of it wait meanwhile, because the
 * first may be a forgery that must not keep the real one out. Bound: the caller's, by `size`.
 */
import type { Now } from "../../base/clock.ts";
import type { MessageFrame } from "./message.ts";
import type { Topic } from "./topic.ts";
import type { PeerKey, PubSubDeps } from "./types.ts";

const MAX_ALTERNATES = 2;

export interface Copy {
  readonly topic: Topic;
  readonly from: PeerKey;
  readonly message: MessageFrame;
  readonly frame: Uint8Array;
}

interface Checking {
  readonly key: string;
  readonly copy: Copy;
  readonly others: Copy[];
}

export interface ChecksDeps {
  readonly verify: PubSubDeps["verify"];
  good(now: Now, copy: Copy): void;
  bad(now: Now, from: PeerKey): void;
  /** The same as one that was good, or that is being checked with others waiting. */
  duplicate(now: Now, copy: Copy): void;
}

export class SignatureChecks {
  readonly #deps: ChecksDeps;
  readonly #byId = new Map<number, Checking>();
  readonly #byKey = new Map<string, Checking>();
  #nextId = 1;

  constructor(deps: ChecksDeps) {
    this.#deps = deps;
  }

  get size(): number {
    return this.#byId.size;
  }

  /** @returns true when a copy of it is being checked: this one waits, or is a duplicate */
  joins(now: Now, copy: Copy): boolean {
    const underWay = this.#byId.size === 0 ? undefined : this.#byKey.get(keyOf(copy.message));
    if (underWay === undefined) return false;
    if (underWay.others.length < MAX_ALTERNATES) underWay.others.push(copy);
    else this.#deps.duplicate(now, copy);
    return true;
  }

  begin(now: Now, copy: Copy, others: Copy[] = []): void {
    const { publisher, body, signature } = copy.message;
    const id = this.#nextId++;
    const verdict = this.#deps.verify(id, publisher, body, signature);
    const checking: Checking = { key: keyOf(copy.message), copy, others };
    if (verdict !== undefined) return this.#settle(now, checking, verdict);
    this.#byId.set(id, checking);
    this.#byKey.set(checking.key, checking);
  }

  verified(now: Now, id: number, isGood: boolean): void {
    const checking = this.#byId.get(id);
    if (checking === undefined) return;
    this.#byId.delete(id);
    this.#byKey.delete(checking.key);
    this.#settle(now, checking, isGood);
  }

  #settle(now: Now, { copy, others }: Checking, isGood: boolean): void {
    if (isGood) {
      this.#deps.good(now, copy);
      for (const other of others) this.#deps.duplicate(now, other);
      return;
    }
    this.#deps.bad(now, copy.from);
    // somebody else's copy may be the real one
    const [next, ...rest] = others;
    if (next !== undefined) this.begin(now, next, rest);
  }
}

function keyOf({ topic, publisher, epoch, sequence }: MessageFrame): string {
  return `${topic}${publisher.toHex()}${epoch}.${sequence}`;
}
