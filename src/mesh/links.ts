/**
 * What MeshNode keeps per connected peer: queues of things to hand on, paced; rates of what comes in, bounded; when to compare digests.
 * Bounds: MAX_LINKS links, MAX_QUEUED items per queue (what does not fit is found again by the next digest).
 */
import type { Now } from "../base/clock.ts";
import type { PeerHello } from "./types.ts";

export const MAX_LINKS = 4096;
const MAX_QUEUED = 4096;
/** Bulk messages handed on per second and peer, and how many at once. */
const SEND_RATE = 800;
const SEND_BURST = 32;
/** Control messages taken from one peer per second, and how many at once. */
const RECEIVE_RATE = 2000;
const RECEIVE_BURST = 4000;
/** The same for messages that cost more than a look-up: digests, lists, joins. */
const COSTLY_RATE = 200;
const COSTLY_BURST = 600;
/** Requests to join from one peer: each costs signatures and a line in the log, and honest joiners ask every second or two. */
const JOIN_RATE = 1;
const JOIN_BURST = 5;
/** Bad signatures after which a peer's statements and endpoints are ignored for a while. */
const FORGERY_LIMIT = 16;
/** The same for other statements that no honest member has: a version of its own rules may send a few. */
const REFUSAL_LIMIT = 64;
/**
 * Refused statements of one peer that are looked at: each costs a signature. Beyond, its statements wait for the next comparison. At once as
 * many as a roster holds, so that what a full one still takes is found among all that it does not.
 */
const REFUSAL_RATE = 100;
const REFUSAL_BURST = 10_240;
const MUTE_MS = 60_000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 60_000;

/** Token bucket: `rate` per second, at most `burst` at once. */
export class Bucket {
  readonly #rate: number;
  readonly #burst: number;
  #level: number;
  #atMs: number;

  constructor(rate: number, burst: number, nowMs: number) {
    this.#rate = rate;
    this.#burst = burst;
    this.#level = burst;
    this.#atMs = nowMs;
  }

  take(nowMs: number): boolean {
    if (!this.has(nowMs)) return false;
    this.#level -= 1;
    return true;
  }

  has(nowMs: number): boolean {
    const elapsedMs = Math.max(0, nowMs - this.#atMs);
    this.#level = Math.min(this.#burst, this.#level + (elapsedMs * this.#rate) / 1000);
    this.#atMs = nowMs;
    return this.#level >= 1;
  }
}

export class Link {
  readonly staticKey: Uint8Array;
  readonly hex: string;
  hello: PeerHello | undefined;
  /** Statements the peer said it has, from its latest digest or ranges. */
  remoteCount = 0;
  /** It has said so. */
  isRemoteCountKnown = false;
  /** The last comparison found no difference, in the roster alone and in everything. */
  hasSameRoster = false;
  isSynced = false;
  /** When to send a digest next, monotonic; Infinity: only in the periodic round. */
  digestDueMs: number;
  lastDigestMs: number = Number.NEGATIVE_INFINITY;
  /** A stream with statements is under way; what comes meanwhile goes as datagrams. */
  hasBulkUnderWay = false;
  /** No streams to this peer before; datagrams work always. */
  noBulkUntilMs: number = Number.NEGATIVE_INFINITY;
  /** Both by hash or node id in hex; insertion order is sending order. */
  readonly statements: Set<string> = new Set();
  readonly endpoints: Set<string> = new Set();
  readonly #send: Bucket;
  readonly #receive: Bucket;
  readonly #costly: Bucket;
  readonly #joins: Bucket;
  #retryMs: number = FIRST_RETRY_MS;
  readonly #refused: Bucket;
  #forgeries = 0;
  #refusals = 0;
  #mutedUntilMs: number = Number.NEGATIVE_INFINITY;

  constructor(staticKey: Uint8Array, hex: string, nowMs: number) {
    this.staticKey = new Uint8Array(staticKey);
    this.hex = hex;
    this.digestDueMs = Number.POSITIVE_INFINITY;
    this.#send = new Bucket(SEND_RATE, SEND_BURST, nowMs);
    this.#receive = new Bucket(RECEIVE_RATE, RECEIVE_BURST, nowMs);
    this.#costly = new Bucket(COSTLY_RATE, COSTLY_BURST, nowMs);
    this.#joins = new Bucket(JOIN_RATE, JOIN_BURST, nowMs);
    this.#refused = new Bucket(REFUSAL_RATE, REFUSAL_BURST, nowMs);
  }

  get hasQueued(): boolean {
    return this.statements.size > 0 || this.endpoints.size > 0;
  }

  queueStatement(hashHex: string): void {
    if (this.statements.size < MAX_QUEUED) this.statements.add(hashHex);
  }

  queueEndpoints(nodeHex: string): void {
    if (this.endpoints.size < MAX_QUEUED) this.endpoints.add(nodeHex);
  }

  maySend(nowMs: number): boolean {
    return this.#send.take(nowMs);
  }

  mayJoin(nowMs: number): boolean {
    return this.#joins.take(nowMs);
  }

  mayReceive(nowMs: number, costly: boolean): boolean {
    return this.#receive.take(nowMs) && (!costly || this.#costly.take(nowMs));
  }

  noteForgery(now: Now): void {
    this.#forgeries++;
    if (this.#forgeries < FORGERY_LIMIT) return;
    this.#forgeries = 0;
    this.#mutedUntilMs = now.nowMs + MUTE_MS;
  }

  /** @param isWrong whatever the roster: honest members have no such statement. Otherwise bounds and clocks of this node refuse it */
  noteRefusal(now: Now, isWrong: boolean): void {
    this.#refused.take(now.nowMs);
    if (!isWrong || ++this.#refusals < REFUSAL_LIMIT) return;
    this.#refusals = 0;
    this.#mutedUntilMs = now.nowMs + MUTE_MS;
  }

  /** False while too many of its statements were refused. */
  mayOffer(nowMs: number): boolean {
    return !this.isMuted(nowMs) && this.#refused.has(nowMs);
  }

  isMuted(nowMs: number): boolean {
    return nowMs < this.#mutedUntilMs;
  }

  /** A difference is being worked on: look again later, less often each time unless a person waits for it. */
  scheduleRetry(nowMs: number, isUrgent: boolean): void {
    this.isSynced = false;
    this.digestDueMs = Math.min(this.digestDueMs, nowMs + this.#retryMs);
    if (!isUrgent) this.#retryMs = Math.min(MAX_RETRY_MS, this.#retryMs * 1.5);
  }

  noteProgress(nowMs: number): void {
    this.#retryMs = FIRST_RETRY_MS;
    if (!this.isSynced) this.digestDueMs = nowMs + FIRST_RETRY_MS;
  }

  noteSynced(): void {
    this.isSynced = true;
    this.#retryMs = FIRST_RETRY_MS;
    this.digestDueMs = Number.POSITIVE_INFINITY;
  }
}
