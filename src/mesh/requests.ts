/**
 * Requests to join that wait for an admin's decision, on this admin's side: in memory only, because whoever waits asks again every few
 * seconds. Bound: MAX_REQUESTS, the one unheard of for longest goes, counted; one that is not repeated is forgotten after a day.
 * Source: docs/protocol.md, "Join".
 */
import type { Now } from "../base/clock.ts";
import { equal, toHex } from "../base/bytes.ts";
import type { JoinRequest } from "./control.ts";

const MAX_REQUESTS = 256;
/** A joiner asks every 5 s. */
const WAITING_MS = 20_000;
const FORGET_MS = 86_400_000;

export interface WaitingRequest {
  readonly request: JoinRequest;
  /** The X25519 key that a session has authenticated, here or at the beacon. */
  readonly staticKey: Uint8Array;
  /** Static key of the beacon that passes it on; undefined: this node has a session with the joiner. */
  readonly via: Uint8Array | undefined;
  readonly firstWallMs: number;
  readonly lastMs: number;
  readonly lastWallMs: number;
}

export class Requests {
  evicted = 0;
  /** By node id and invite id in hex, the one heard of last at the end. */
  readonly #waiting = new Map<string, WaitingRequest>();

  /** @returns true when it is a new one */
  note(now: Now, request: JoinRequest, staticKey: Uint8Array, via: Uint8Array | undefined): boolean {
    const key = keyOf(request);
    const before = this.#waiting.get(key);
    this.#waiting.delete(key);
    this.#waiting.set(key, {
      request,
      staticKey: new Uint8Array(staticKey),
      via,
      firstWallMs: before?.firstWallMs ?? now.wallMs,
      lastMs: now.nowMs,
      lastWallMs: now.wallMs,
    });
    if (this.#waiting.size > MAX_REQUESTS) {
      this.#waiting.delete(this.#waiting.keys().next().value as string);
      this.evicted++;
    }
    return before === undefined;
  }

  /** Of that node, under any invite. */
  forget(nodeId: Uint8Array): void {
    for (const [key, waiting] of this.#waiting) if (equal(waiting.request.nodeId, nodeId)) this.#waiting.delete(key);
  }

  /** Oldest request first. @param isOpen false: it needs no decision any more */
  list(now: Now, isOpen: (waiting: WaitingRequest) => boolean): WaitingRequest[] {
    for (const [key, waiting] of this.#waiting)
      if (now.nowMs - waiting.lastMs > FORGET_MS || !isOpen(waiting)) this.#waiting.delete(key);
    return [...this.#waiting.values()].toSorted((a, b) => a.firstWallMs - b.firstWallMs);
  }

  static isWaiting(waiting: WaitingRequest, nowMs: number): boolean {
    return nowMs - waiting.lastMs <= WAITING_MS;
  }
}

function keyOf(request: JoinRequest): string {
  return `${toHex(request.nodeId)} ${toHex(request.inviteId)}`;
}
