/**
 * How statements and endpoint messages get around: what is new is handed on at once (the one who made it tells every connected peer, the
 * others a few), and digests find whatever was lost: when a session comes up, every digest interval with some peers, and sooner where a
 * difference is known. Bulk goes out paced, parents first. Source: docs/protocol.md, "Roster" (propagation).
 */
import type { Now } from "../base/clock.ts";
import { toHex } from "../base/bytes.ts";
import type { Random } from "../base/random.ts";
import { type ControlMessage, type Fingerprint, MAX_CONTROL_BYTES, packWires } from "./control.ts";
import { compareEndpoints, listEndpoints, prefixOf } from "./endpoint-sync.ts";
import { EndpointCache, type EndpointMessage } from "./endpoints.ts";
import { Link, MAX_LINKS } from "./links.ts";
import type { Membership } from "./membership.ts";
import type { Roster } from "./roster.ts";
import { answerRanges, CLOCK_END, compareList, openingMoves, rosterDigest, sameFingerprint } from "./roster-sync.ts";
import { type Statement, wallFromHlc } from "./statement.ts";
import type { MeshCounters } from "./types.ts";

/** Peers to which something heard from another one is handed on at once; digests reach the rest. */
const FANOUT = 6;
/** Older things are being caught up with, not news. */
const NEWS_MS = 120_000;
const PEERS_PER_ROUND = 16;
const BULK_TICK_MS = 10;
/** More statements than this go in a stream where there are streams. */
const STREAM_STATEMENTS = 20;
/** After a stream has failed. */
const NO_STREAM_MS = 600_000;
/** Smallest distance between two digests to one peer. */
const DIGEST_GAP_MS = 50;
/** How long the list of endpoint messages worth handing on is reused. */
const ENDPOINT_LIST_MS = 5000;

/** The messages this file understands. */
export type GossipMessage = Extract<ControlMessage, { type: "digest" | "ranges" | "have" | "want" | "known" | "seek" }>;

export interface GossipDeps {
  readonly random: Random;
  readonly cache: EndpointCache;
  readonly counters: MeshCounters;
  membership(): Membership | undefined;
  /** True when the peer may see the roster. */
  isTrusted(staticHex: string): boolean;
  /** True while somebody waits for the roster to be whole. */
  isUrgent(): boolean;
  send(link: Link, message: ControlMessage): void;
  /** Sends them in a stream, in order, and reports with bulkDone(). @returns false: there are no streams to this peer */
  sendBulk(link: Link, messages: readonly ControlMessage[]): boolean;
}

export class Gossip {
  /** Monotonic time at which a member last agreed with the whole roster; undefined: not yet. */
  confirmedAtMs: number | undefined;
  readonly #deps: GossipDeps;
  readonly #intervalMs: number;
  readonly #links = new Map<string, Link>();
  /** Links that have something queued. */
  readonly #busy = new Set<Link>();
  #bulkDueMs: number = Number.POSITIVE_INFINITY;
  #roundDueMs: number | undefined;
  #roundCursor = 0;
  #list: readonly EndpointMessage[] = [];
  #listDigest: Fingerprint | undefined;
  #listUntilMs: number = Number.NEGATIVE_INFINITY;

  constructor(deps: GossipDeps, intervalMs: number) {
    this.#deps = deps;
    this.#intervalMs = intervalMs;
  }

  link(staticHex: string): Link | undefined {
    return this.#links.get(staticHex);
  }

  links(): IterableIterator<Link> {
    return this.#links.values();
  }

  /** @returns undefined when there are too many already */
  up(now: Now, staticKey: Uint8Array): Link | undefined {
    const hex = toHex(staticKey);
    let link = this.#links.get(hex);
    if (link === undefined) {
      if (this.#links.size >= MAX_LINKS) return undefined;
      link = new Link(staticKey, hex, now.nowMs);
      this.#links.set(hex, link);
    }
    this.#roundDueMs ??= now.nowMs + this.#deps.random.unit() * this.#intervalMs;
    return link;
  }

  down(staticHex: string): void {
    const link = this.#links.get(staticHex);
    if (link === undefined) return;
    this.#links.delete(staticHex);
    this.#busy.delete(link);
  }

  /** Compares with this peer now, or as soon as the smallest distance allows. */
  compareSoon(now: Now, link: Link): void {
    link.digestDueMs = Math.max(now.nowMs, link.lastDigestMs + DIGEST_GAP_MS);
  }

  handle(now: Now, link: Link, message: GossipMessage): void {
    const membership = this.#deps.membership();
    if (membership === undefined) return;
    const { roster } = membership;
    switch (message.type) {
      case "digest":
        return this.#onDigest(now, link, roster, message);
      case "ranges":
        if (message.lower === 0 && message.ranges.at(-1)?.upper === CLOCK_END) {
          link.remoteCount = message.ranges.reduce((total, range) => total + range.count, 0);
          link.isRemoteCountKnown = true;
        }
        for (const answer of answerRanges(roster, message.lower, message.ranges)) this.#deps.send(link, answer);
        return;
      case "have": {
        const { send, want } = compareList(roster, (hash) => membership.isKnown(hash), message);
        for (const statement of send) this.#queueStatement(now, link, statement.hashHex);
        if (want.length > 0) this.#deps.send(link, { type: "want", hashes: want });
        break;
      }
      case "want":
        for (const hash of message.hashes) if (roster.has(hash)) this.#queueStatement(now, link, toHex(hash));
        break;
      case "known": {
        const { send, seek } = compareEndpoints(this.#currentEndpoints(now), message);
        for (const one of send) this.#queueEndpoints(now, link, one.nodeId);
        if (seek.length > 0) this.#deps.send(link, { type: "seek", idPrefixes: seek });
        break;
      }
      case "seek": {
        const wanted = new Set(message.idPrefixes.map(toHex));
        for (const one of this.#currentEndpoints(now))
          if (wanted.has(toHex(prefixOf(one)))) this.#queueEndpoints(now, link, one.nodeId);
        break;
      }
    }
    this.#flush(now, true);
  }

  /** @param from the link it came through; undefined: this node made it */
  announceStatement(now: Now, statement: Statement, from: Link | undefined): void {
    if (from !== undefined && now.wallMs - wallFromHlc(statement.hlc) > NEWS_MS) return;
    for (const link of this.#audience(from)) this.#queueStatement(now, link, statement.hashHex);
    this.#flush(now);
  }

  announceEndpoints(now: Now, message: EndpointMessage, from: Link | undefined): void {
    this.endpointsChanged();
    if (from !== undefined && now.wallMs - wallFromHlc(message.hlc) > NEWS_MS) return;
    for (const link of this.#audience(from)) this.#queueEndpoints(now, link, message.nodeId);
    this.#flush(now);
  }

  /** The cache has gained or lost a message. */
  endpointsChanged(): void {
    this.#listUntilMs = Number.NEGATIVE_INFINITY;
  }

  /** After statements came through this link: when everything the peer has seems to be here, ask it to confirm at once. */
  noteProgress(now: Now, link: Link, rosterSize: number): void {
    link.noteProgress(now.nowMs);
    if (!link.isSynced && rosterSize >= link.remoteCount) this.compareSoon(now, link);
  }

  /** Asks for statements by hash, such as missing parents. */
  want(link: Link, hashes: readonly Uint8Array[]): void {
    this.#deps.send(link, { type: "want", hashes });
  }

  nextTimeout(): number {
    let next = Math.min(this.#bulkDueMs, this.#roundDueMs ?? Number.POSITIVE_INFINITY);
    for (const link of this.#links.values()) next = Math.min(next, link.digestDueMs);
    return next;
  }

  handleTimeout(now: Now): void {
    if (this.#roundDueMs !== undefined && now.nowMs >= this.#roundDueMs) {
      // missed ticks are skipped
      while (this.#roundDueMs <= now.nowMs) this.#roundDueMs += this.#intervalMs;
      this.#startRound(now);
    }
    for (const link of this.#links.values()) {
      if (now.nowMs < link.digestDueMs) continue;
      link.digestDueMs = Number.POSITIVE_INFINITY;
      if (!this.#deps.isTrusted(link.hex)) continue;
      this.#sendDigest(now, link, false);
      if (!link.isSynced) link.scheduleRetry(now.nowMs, this.#deps.isUrgent());
    }
    if (now.nowMs < this.#bulkDueMs) return;
    for (const link of this.#busy) this.#startBulk(now, link);
    this.#flush(now);
  }

  #startRound(now: Now): void {
    const links = [...this.#links.values()];
    const count = Math.min(PEERS_PER_ROUND, links.length);
    for (let i = 0; i < count; i++) {
      const link = links[(this.#roundCursor + i) % links.length];
      if (this.#deps.isTrusted(link.hex)) this.compareSoon(now, link);
    }
    this.#roundCursor = links.length === 0 ? 0 : (this.#roundCursor + count) % links.length;
  }

  #onDigest(now: Now, link: Link, roster: Roster, message: Extract<GossipMessage, { type: "digest" }>): void {
    this.#deps.counters.digestsReceived++;
    link.remoteCount = message.roster.count;
    link.isRemoteCountKnown = true;
    link.hasSameRoster = sameFingerprint(message.roster, rosterDigest(roster));
    const hasSameEndpoints = sameFingerprint(message.endpoints, this.#endpointDigest(now));
    if (link.hasSameRoster) this.confirmedAtMs = now.nowMs;
    else for (const move of openingMoves(roster)) this.#deps.send(link, move);
    if (!hasSameEndpoints) for (const list of listEndpoints(this.#currentEndpoints(now))) this.#deps.send(link, list);
    if (link.hasSameRoster && hasSameEndpoints) link.noteSynced();
    else link.scheduleRetry(now.nowMs, this.#deps.isUrgent());
    if (link.hasSameRoster && !message.isAnswer) this.#sendDigest(now, link, true);
  }

  #sendDigest(now: Now, link: Link, isAnswer: boolean): void {
    const roster = this.#deps.membership()?.roster;
    if (roster === undefined) return;
    link.lastDigestMs = now.nowMs;
    this.#deps.counters.digestsSent++;
    this.#deps.send(link, {
      type: "digest",
      roster: rosterDigest(roster),
      endpoints: this.#endpointDigest(now),
      isAnswer,
    });
  }

  #currentEndpoints(now: Now): readonly EndpointMessage[] {
    if (now.nowMs >= this.#listUntilMs) {
      this.#list = this.#deps.cache.current(now.wallMs);
      this.#listDigest = EndpointCache.fingerprint(this.#list);
      this.#listUntilMs = now.nowMs + ENDPOINT_LIST_MS;
    }
    return this.#list;
  }

  #endpointDigest(now: Now): Fingerprint {
    this.#currentEndpoints(now);
    return this.#listDigest as Fingerprint;
  }

  /** Everybody for own news, a random few for what came from somebody. */
  #audience(from: Link | undefined): Link[] {
    const trusted = [...this.#links.values()].filter((link) => link !== from && this.#deps.isTrusted(link.hex));
    if (from === undefined || trusted.length <= FANOUT) return trusted;
    for (let i = 0; i < FANOUT; i++) {
      const j = i + (this.#deps.random.u32() % (trusted.length - i));
      const other = trusted[j];
      trusted[j] = trusted[i];
      trusted[i] = other;
    }
    return trusted.slice(0, FANOUT);
  }

  #queueStatement(now: Now, link: Link, hashHex: string): void {
    link.queueStatement(hashHex);
    this.#noteBusy(now, link);
  }

  #queueEndpoints(now: Now, link: Link, nodeId: Uint8Array): void {
    link.queueEndpoints(toHex(nodeId));
    this.#noteBusy(now, link);
  }

  #noteBusy(now: Now, link: Link): void {
    this.#busy.add(link);
    if (this.#bulkDueMs === Number.POSITIVE_INFINITY) this.#bulkDueMs = now.nowMs + BULK_TICK_MS;
  }

  /** The stream of a sendBulk() has ended. @param wasTaken the peer has read all of it */
  bulkDone(now: Now, staticHex: string, wasTaken: boolean): void {
    const link = this.#links.get(staticHex);
    if (link === undefined) return;
    link.hasBulkUnderWay = false;
    if (!wasTaken) link.noBulkUntilMs = now.nowMs + NO_STREAM_MS;
    // what got lost is found by comparing
    this.compareSoon(now, link);
    this.#flush(now);
  }

  /** A peer that lacks much gets it in a stream, once the comparison under way has shown what. */
  #wantsBulk(now: Now, link: Link): boolean {
    if (link.hasBulkUnderWay || now.nowMs < link.noBulkUntilMs || link.statements.size === 0) return false;
    if (link.statements.size > STREAM_STATEMENTS) return true;
    const have = this.#deps.membership()?.roster.size ?? 0;
    return !link.isSynced && link.isRemoteCountKnown && have - link.remoteCount > STREAM_STATEMENTS;
  }

  #startBulk(now: Now, link: Link): void {
    const roster = this.#deps.membership()?.roster;
    if (roster === undefined || !this.#wantsBulk(now, link)) return;
    const wires: Uint8Array[] = [];
    for (const key of link.statements) {
      const wire = roster.get(Uint8Array.fromHex(key))?.wire;
      if (wire !== undefined) wires.push(wire);
    }
    const messages = [...packWires(wires)].map((group): ControlMessage => ({ type: "statements", wires: group }));
    if (!this.#deps.sendBulk(link, messages)) {
      link.noBulkUntilMs = now.nowMs + NO_STREAM_MS;
      return;
    }
    link.statements.clear();
    link.hasBulkUnderWay = true;
  }

  /** Sends what the rate of each link allows; the rest waits for the next tick. @param mayWait for a stream, one tick */
  #flush(now: Now, mayWait = false): void {
    const roster = this.#deps.membership()?.roster;
    for (const link of this.#busy) {
      if (mayWait && this.#wantsBulk(now, link)) continue;
      while (link.hasQueued && link.maySend(now.nowMs)) this.#sendNext(link, roster);
      if (!link.hasQueued) this.#busy.delete(link);
    }
    this.#bulkDueMs = this.#busy.size === 0 ? Number.POSITIVE_INFINITY : now.nowMs + BULK_TICK_MS;
  }

  #sendNext(link: Link, roster: Roster | undefined): void {
    const isStatements = link.statements.size > 0;
    const queue = isStatements ? link.statements : link.endpoints;
    const wires: Uint8Array[] = [];
    let room = MAX_CONTROL_BYTES;
    for (const key of queue) {
      const id = Uint8Array.fromHex(key);
      const wire = isStatements ? roster?.get(id)?.wire : this.#deps.cache.message(id)?.wire;
      if (wire !== undefined && wires.length > 0 && wire.length > room) break;
      queue.delete(key);
      if (wire === undefined) continue;
      wires.push(wire);
      room -= wire.length + 3;
    }
    for (const group of packWires(wires))
      this.#deps.send(link, { type: isStatements ? "statements" : "endpoints", wires: group });
  }
}
