/**
 * Routing through members, sans-I/O: finds ways to nodes that cannot be reached directly, keeps the labels of paths that lead through this node, and
 * answers as a target. Time comes in as an argument; what shall happen comes out of pollOutput(), in order.
 *
 *   requester A                 member C (may be several)                      target B
 *   lookup, label a ─────────►  may A use me? seen before? where is B?
 *                               lookup, label c' ───────────────────────────►  install via C: out c', in b
 *                               install (A, c) → (B, b) and (B, c') → (A, a) ◄─ found, label b, signature over (id, B, A)
 *   install via C: out c, in a ◄─ found, label c, the same signature
 *
 * A label belongs to (receiver, sender) and is chosen by the receiver, at random. A path exists only where a lookup has walked, no lookup passes a
 * node twice, and only the requester chooses among its ways: so no packet visits a node twice. Entries are installed before the message that makes
 * them useful leaves, so data never meets a hop that does not know its label yet.
 *
 * Who may do what: only members with a direct session are heard. The signature binds the answer to this lookup, this target and this requester, so a
 * member in the middle can drop or delay, and nothing else: what travels under a label is sealed for the other end. Every table and rate is bounded
 * (vias.ts, forwards.ts, searches.ts, neighbourhood.ts); a refusal is a counted drop.
 * Source: docs/protocol.md, "Routing through members".
 */
import type { Now } from "../../base/clock.ts";
import { compare, equal, toHex } from "../../base/bytes.ts";
import { TokenBucket } from "../../path/bucket.ts";
import { type Forward, ForwardTable, type Pending } from "./forwards.ts";
import {
  type Found,
  foundBody,
  type Lookup,
  LOOKUP_ID_BYTES,
  MAX_BETWEEN,
  type Near,
  nearPayload,
  readNearPayload,
  type RoutingMessage,
} from "./messages.ts";
import { type Neighbour, Neighbourhood } from "./neighbourhood.ts";
import { type Search, Searches } from "./searches.ts";
import {
  newRoutingCounters,
  PathKind,
  type RoutingCounters,
  type RoutingDeps,
  type RoutingOptions,
  type RoutingOutput,
  RoutingSignature,
  type SearchView,
  type ViaView,
} from "./types.ts";
import { endpointOf, kindName, type Via, ViaTable } from "./vias.ts";

export type * from "./types.ts";

/** Hops that the rings of a search allow, from the second lookup on. */
const RINGS: readonly number[] = [2, 4, MAX_BETWEEN];
const GLANCE_MS = 20_000;
const MAX_DIRECTED = 4;
const MAX_RELAYS = 2;
/** A way in reserve may cost less. */
const SPARE_DIRECTED = 2;
const SPARE_WIDTH = 4;
const RING_WIDTH = 8;
const FORWARD_WIDTH = 6;
const ASIDE_WIDTH = 2;
/** A forwarder passes on one lookup per target and neighbour in that time, the next ring of a search besides. */
const FORWARD_PER_SECOND = 0.5;
const FORWARD_BURST = 2;
const MAX_LIMITS = 8192;
/** Ways per lookup that a target gives. */
const MAX_ANSWERS = 4;
const MAX_ANSWERED = 2048;
/** The requester has the answer by then, and everybody between the entries. */
const SETTLE_MS = 300;

export class Routing {
  readonly counters: RoutingCounters = newRoutingCounters();
  readonly #deps: RoutingDeps;
  readonly #options: Required<RoutingOptions>;
  readonly #neighbours: Neighbourhood;
  readonly #searches: Searches = new Searches();
  readonly #vias: ViaTable = new ViaTable();
  readonly #forwards: ForwardTable = new ForwardTable();
  /** "neighbour/target" → lookups that may be passed on. */
  readonly #limits = new Map<string, TokenBucket>();
  /** "lookup id/requester" → ways given, and the signature. */
  readonly #answered = new Map<string, { count: number; readonly signature: Uint8Array }>();
  #outputs: RoutingOutput[] = [];
  #outputAt = 0;
  #settleDueMs: number = Number.POSITIVE_INFINITY;
  #dueMs: number = Number.POSITIVE_INFINITY;

  constructor(deps: RoutingDeps, options: RoutingOptions = {}) {
    this.#deps = deps;
    this.#options = Object.freeze({
      relay: options.relay ?? false,
      relayBytesPerSecond: options.relayBytesPerSecond ?? 12_500_000,
      transitBytesPerSecond: options.transitBytesPerSecond ?? 12_500_000,
      maxForwardsPerNode: options.maxForwardsPerNode ?? 128,
      maxForwards: options.maxForwards ?? 4096,
    });
    this.#neighbours = new Neighbourhood(deps.random);
  }

  // ── what is ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Virtual endpoints of the ways to the node, 18 bytes each, best first, at most 4. */
  candidates(now: Now, nodeId: Uint8Array): Uint8Array[] {
    return this.#vias.ready(now.nowMs, nodeId).map(endpointOf);
  }

  /** The way behind a virtual endpoint's number. */
  via(id: number): ViaView | undefined {
    const via = this.#vias.byId(id);
    return via === undefined ? undefined : view(via, Number.POSITIVE_INFINITY);
  }

  describe(now: Now, nodeId: Uint8Array): ViaView[] {
    return this.#vias.of(nodeId).map((via) => view(via, now.nowMs));
  }

  search(nodeId: Uint8Array): SearchView | undefined {
    const search = this.#searches.get(nodeId);
    if (search === undefined) return undefined;
    return { attempts: search.attempts, lastAtMs: search.lastAtMs, nextAtMs: search.dueMs, asked: search.asked };
  }

  /** Paths that lead through this node. */
  get forwards(): number {
    return this.#forwards.size;
  }

  /** A way of this node begins with that neighbour, or a path of others leads over it. */
  isHop(nodeId: Uint8Array): boolean {
    return this.#vias.through(nodeId).length > 0 || this.#forwards.touching(nodeId).length > 0;
  }

  get isRelay(): boolean {
    return this.#options.relay || this.#deps.isBeacon(this.#deps.nodeId);
  }

  // ── what the owner asks for ──────────────────────────────────────────────────────────────────────────────────────────

  /** Traffic for the node waits, or it did not answer directly: look for a way. May be repeated as often as there is need. */
  seek(now: Now, nodeId: Uint8Array): void {
    if (equal(nodeId, this.#deps.nodeId) || !this.#deps.isMember(nodeId)) return;
    const search = this.#searches.open(now.nowMs, nodeId);
    if (search === undefined) {
      this.counters.searchesRefused++;
      return;
    }
    search.soughtAtMs = now.nowMs;
    this.#plan(now, search);
    if (search.dueMs <= now.nowMs) this.#ask(now, search);
  }

  /** Nothing waits for the node any more. Ways that are there stay, as spare ones. */
  forget(now: Now, nodeId: Uint8Array): void {
    const search = this.#searches.get(nodeId);
    if (search === undefined) return;
    search.soughtAtMs = Number.NEGATIVE_INFINITY;
    this.#plan(now, search);
  }

  /**
   * Nobody waits, but a session with the node is wanted: one small lookup, at most every 20 s.
   * Not for nodes that may simply be switched off: no rings through the whole network.
   */
  glance(now: Now, nodeId: Uint8Array): void {
    if (equal(nodeId, this.#deps.nodeId) || !this.#deps.isMember(nodeId)) return;
    const search = this.#searches.open(now.nowMs, nodeId);
    if (search === undefined || now.nowMs - search.lastAtMs < GLANCE_MS || this.#vias.of(nodeId).length > 0) return;
    search.isSpare = true;
    search.spareAttempts = 0;
    this.#ask(now, search);
  }

  /** @param use whether data flows to the node: over that way, or directly (via undefined); undefined: it does not */
  using(now: Now, nodeId: Uint8Array, use: { readonly via: number | undefined } | undefined): void {
    const search = use === undefined ? this.#searches.get(nodeId) : this.#searches.open(now.nowMs, nodeId);
    if (search === undefined || (search.isUsed === (use !== undefined) && search.usedVia === use?.via)) return;
    if (!search.isUsed) search.lastAtMs = Math.max(search.lastAtMs, now.nowMs);
    search.isUsed = use !== undefined;
    search.usedVia = use?.via;
    search.spareAttempts = 0;
    this.#plan(now, search);
  }

  /** A direct session exists: with a round trip, once one is known. May be repeated. */
  peerUp(now: Now, nodeId: Uint8Array, figures: { readonly rttMs?: number | undefined } = {}): void {
    if (!this.#deps.isMember(nodeId) || equal(nodeId, this.#deps.nodeId)) return;
    if (!this.#neighbours.up(now.nowMs, nodeId, figures.rttMs)) return;
    for (const search of this.#searches.all()) search.hurry(now.nowMs);
    this.#schedule();
  }

  /** The session has ended, or is no direct one any more. */
  peerDown(now: Now, nodeId: Uint8Array): void {
    if (!this.#neighbours.down(now.nowMs, nodeId)) return;
    for (const forward of this.#forwards.touching(nodeId)) this.#endForward(forward, nodeId);
    for (const via of this.#vias.through(nodeId)) this.#loseVia(now, via);
    this.#schedule();
  }

  /** The node is no member any more: nothing leads to it or through it. */
  memberRemoved(now: Now, nodeId: Uint8Array): void {
    this.peerDown(now, nodeId);
    for (const via of this.#vias.of(nodeId)) this.#endVia(via);
    this.#searches.drop(nodeId);
  }

  /** The data plane heard from the hop that this way is broken. */
  viaFailed(now: Now, id: number, _code: number): void {
    const via = this.#vias.byId(id);
    if (via === undefined) return;
    this.counters.viasFailed++;
    this.#loseVia(now, via);
  }

  /** The data plane gave up one direction of a path through this node: unused, broken, or its neighbour has gone. */
  forwardExpired(_now: Now, label: number, from: Uint8Array): void {
    const forward = this.#forwards.byLabel(from, label);
    if (forward !== undefined) this.#endForward(forward, undefined);
  }

  // ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param from the peer of the session it came through */
  handle(now: Now, from: Uint8Array, message: RoutingMessage): void {
    const neighbour = this.#deps.isMember(from) ? this.#neighbours.get(from) : undefined;
    switch (message.type) {
      case "lookup":
        this.counters.lookupsReceived++;
        if (neighbour === undefined) this.counters.lookupsRefused++;
        else this.#onLookup(now, neighbour, message);
        return;
      case "found":
        this.counters.foundReceived++;
        if (neighbour === undefined || !neighbour.founds.take(now.nowMs)) this.counters.foundUnknown++;
        else this.#onFound(now, neighbour, message);
        return;
      case "unlabel": {
        if (neighbour === undefined) return;
        const via = this.#vias.byLabel(from, message.label);
        if (via !== undefined) return this.#loseVia(now, via);
        const forward = this.#forwards.byLabel(from, message.label);
        if (forward !== undefined) this.#endForward(forward, from);
        return;
      }
      case "near":
        if (neighbour === undefined) this.counters.neighbourDigestsRefused++;
        else this.#onNear(now, neighbour, message);
    }
  }

  #onLookup(now: Now, neighbour: Neighbour, lookup: Lookup): void {
    const { path, target } = lookup;
    const own = this.#deps.nodeId;
    const isWhole =
      equal(path[path.length - 1], neighbour.nodeId) && path.every((nodeId) => this.#deps.isMember(nodeId));
    const names = new Set([own, target, ...path].map(toHex));
    const isTarget = equal(target, own);
    if (!isWhole || names.size !== path.length + (isTarget ? 1 : 2) || !this.#deps.isMember(target)) {
      this.counters.lookupsRefused++;
      return;
    }
    if (!neighbour.lookups.take(now.nowMs)) {
      this.counters.lookupsLimited++;
      return;
    }
    if (isTarget) this.#answer(now, neighbour, lookup);
    else this.#passOn(now, neighbour, lookup);
  }

  /** This node is the target: it can be reached the way the lookup came. */
  #answer(now: Now, neighbour: Neighbour, lookup: Lookup): void {
    const { id, path } = lookup;
    const requester = path[0];
    // who has a session with this node needs no way to it
    if (path.length < 2) {
      this.counters.lookupsEnded++;
      return;
    }
    const idHex = `${toHex(id)}/${toHex(requester)}`;
    const known = this.#answered.get(idHex);
    const displaced =
      known !== undefined && known.count >= MAX_ANSWERS
        ? undefined
        : this.#vias.displacedBy(requester, neighbour.nodeId, false, this.#searches.get(requester)?.usedVia);
    if (displaced === undefined) {
      this.counters.lookupsLimited++;
      return;
    }
    for (const via of displaced) this.#endVia(via);
    const signature = known?.signature ?? this.#sign(foundBody(id, this.#deps.nodeId, requester));
    if (known === undefined) {
      if (this.#answered.size >= MAX_ANSWERED) this.#answered.delete(this.#answered.keys().next().value as string);
      this.#answered.set(idHex, { count: 1, signature });
    } else {
      known.count++;
    }
    const relay = lookup.relay && path.length === 2;
    const label = this.#newLabel(neighbour.nodeId);
    this.#addVia(now, {
      target: requester,
      hop: neighbour.nodeId,
      out: lookup.label,
      in: label,
      relay,
      hops: path.length,
      isOwn: false,
    });
    this.counters.lookupsAnswered++;
    this.#send(neighbour.nodeId, { type: "found", id, label, hops: path.length, relay, signature });
  }

  #passOn(now: Now, neighbour: Neighbour, lookup: Lookup): void {
    const { id, path, target, ttl } = lookup;
    const requester = path[0];
    const relay = lookup.relay && path.length === 1 && this.isRelay;
    if (!this.isRelay && !this.#deps.mayTransit(requester)) {
      this.counters.lookupsForbidden++;
      return;
    }
    if (ttl === 0 || path.length > MAX_BETWEEN || !this.#forwards.notice(now.nowMs, id)) {
      this.counters.lookupsEnded++;
      return;
    }
    const { maxForwards, maxForwardsPerNode } = this.#options;
    const isFull = this.#forwards.size >= maxForwards || this.#forwards.countOf(neighbour.nodeId) >= maxForwardsPerNode;
    if (isFull || !this.#mayPass(now, neighbour, target)) {
      this.counters.lookupsLimited++;
      return;
    }
    const next = this.#nextHops(target, ttl, path);
    if (next.length === 0) {
      this.counters.lookupsEnded++;
      return;
    }
    const previous = neighbour.nodeId;
    const pending = this.#forwards.expect(now.nowMs, {
      id,
      target,
      requester,
      previous,
      outPrevious: lookup.label,
      relay,
    });
    this.counters.lookupsForwarded++;
    const walked = [...path, this.#deps.nodeId];
    for (const hop of next) {
      const label = this.#newLabel(hop.nodeId);
      pending.sent.set(hop.hex, label);
      this.#send(hop.nodeId, { type: "lookup", id, target, path: walked, ttl: ttl - 1, label, relay });
    }
  }

  #mayPass(now: Now, neighbour: Neighbour, target: Uint8Array): boolean {
    const key = `${neighbour.hex}/${toHex(target)}`;
    const bucket = this.#limits.get(key) ?? new TokenBucket(FORWARD_PER_SECOND, FORWARD_BURST);
    this.#limits.delete(key);
    if (this.#limits.size >= MAX_LIMITS) this.#limits.delete(this.#limits.keys().next().value as string);
    this.#limits.set(key, bucket);
    return bucket.take(now.nowMs);
  }

  /**
   * The target if it is a neighbour; else neighbours that have it, in wide rings a few others too, for these may not carry for the requester; else
   * some. Never where the lookup has been.
   */
  #nextHops(target: Uint8Array, ttl: number, path: readonly Uint8Array[]): Neighbour[] {
    const direct = this.#neighbours.get(target);
    if (direct !== undefined) return [direct];
    if (ttl < 2) return [];
    const others = this.#neighbours.all().filter((one) => !path.some((nodeId) => equal(nodeId, one.nodeId)));
    const knowing = others.filter((one) => one.digest?.has(target) === true);
    if (knowing.length === 0) return this.#some(others, FORWARD_WIDTH);
    const rest = ttl > 2 ? others.filter((one) => !knowing.includes(one)) : [];
    return [...knowing.slice(0, MAX_DIRECTED), ...this.#some(rest, ASIDE_WIDTH)];
  }

  #onFound(now: Now, neighbour: Neighbour, found: Found): void {
    const asked = this.#searches.asked(now.nowMs, found.id, neighbour.nodeId);
    if (asked !== undefined) {
      const label = asked.labels.get(neighbour.hex) as number;
      asked.labels.delete(neighbour.hex);
      if (!this.#isSigned(found, asked.target, this.#deps.nodeId)) return;
      this.#install(now, neighbour, found, asked.target, label);
      return;
    }
    const pending = this.#forwards.pending(now.nowMs, found.id, neighbour.nodeId);
    if (pending === undefined) {
      this.counters.foundUnknown++;
      return;
    }
    const label = pending.sent.get(neighbour.hex) as number;
    pending.sent.delete(neighbour.hex);
    if (!this.#isSigned(found, pending.target, pending.requester)) return;
    this.#passBack(neighbour, found, pending, label);
  }

  /** The answer to a lookup of this node. @param label by which this node receives */
  #install(now: Now, neighbour: Neighbour, found: Found, target: Uint8Array, label: number): void {
    const search = this.#searches.get(target);
    const displaced = this.#vias.displacedBy(target, neighbour.nodeId, true, search?.usedVia);
    if (displaced === undefined || !this.#deps.isMember(target)) {
      this.#send(neighbour.nodeId, { type: "unlabel", label: found.label });
      return;
    }
    for (const via of displaced) this.#endVia(via);
    const { hops, relay } = found;
    this.#addVia(now, { target, hop: neighbour.nodeId, out: found.label, in: label, relay, hops, isOwn: true });
    if (search === undefined) return;
    search.attempts = 0;
    search.spareAttempts = 0;
    this.#plan(now, search);
  }

  /** The answer to a lookup that this node passed on. The first one becomes a path, the others are ended. */
  #passBack(neighbour: Neighbour, found: Found, pending: Pending, label: number): void {
    const { previous, outPrevious, relay, id } = pending;
    const { maxForwards, maxForwardsPerNode } = this.#options;
    const isFull = this.#forwards.size >= maxForwards || this.#forwards.countOf(previous) >= maxForwardsPerNode;
    if (pending.isAnswered || isFull || this.#neighbours.get(previous) === undefined) {
      if (!pending.isAnswered) this.counters.forwardsRefused++;
      this.#send(neighbour.nodeId, { type: "unlabel", label: found.label });
      return;
    }
    pending.isAnswered = true;
    const forward: Forward = {
      previous: { nodeId: previous, in: this.#newLabel(previous), out: outPrevious },
      next: { nodeId: neighbour.nodeId, in: label, out: found.label },
      relay,
    };
    this.#forwards.add(forward);
    this.counters.forwardsInstalled++;
    const { relayBytesPerSecond, transitBytesPerSecond } = this.#options;
    const bytesPerSecond = relay ? relayBytesPerSecond : transitBytesPerSecond;
    for (const [from, to] of [
      [forward.previous, forward.next],
      [forward.next, forward.previous],
    ] as const) {
      this.#push({ kind: "forward", label: from.in, from: from.nodeId, to: to.nodeId, out: to.out, bytesPerSecond });
    }
    const { hops, signature } = found;
    // whether it counts as a relayed path is for the node that relays to say
    const isRelayed = relay && found.relay;
    this.#send(previous, { type: "found", id, label: forward.previous.in, hops, relay: isRelayed, signature });
  }

  #onNear(now: Now, neighbour: Neighbour, near: Near): void {
    const content = readNearPayload(near.payload);
    const isNews = content !== undefined && content.atMs > neighbour.digestAtMs;
    if (!isNews || !neighbour.digests.take(now.nowMs)) {
      this.counters.neighbourDigestsRefused++;
      return;
    }
    if (!this.#deps.verify(neighbour.nodeId, RoutingSignature.NEAR, near.payload, near.signature)) {
      this.counters.neighbourDigestsRefused++;
      return;
    }
    this.counters.neighbourDigestsReceived++;
    const before = neighbour.digest;
    const relayed = neighbour.relays;
    neighbour.digest = content.digest;
    neighbour.digestAtMs = content.atMs;
    neighbour.relays = content.relay;
    for (const search of this.#searches.all()) {
      const isNew = content.digest.has(search.target) && before?.has(search.target) !== true;
      if (isNew || (content.relay && !relayed)) search.hurry(now.nowMs);
    }
    this.#schedule();
  }

  // ── lookups of this node ─────────────────────────────────────────────────────────────────────────────────────────────

  #plan(now: Now, search: Search): void {
    const ready = this.#vias.of(search.target);
    const hops = new Set(ready.map((via) => toHex(via.hop))).size;
    const newestMs = Math.max(Number.NEGATIVE_INFINITY, ...ready.map((via) => via.installedAtMs));
    search.plan(now.nowMs, hops, newestMs, this.#deps.random.unit());
    this.#schedule();
  }

  #ask(now: Now, search: Search): void {
    const { target, isSpare } = search;
    const ways = this.#vias.of(target).filter((via) => via.isOwn);
    const open = this.#neighbours
      .all()
      .filter((one) => !equal(one.nodeId, target) && !ways.some((via) => isSpare && equal(via.hop, one.nodeId)));
    const relays = open
      .filter((one) => one.relays || this.#deps.isBeacon(one.nodeId))
      .slice(0, isSpare ? 1 : MAX_RELAYS);
    const knowing = open
      .filter((one) => one.digest?.has(target) === true && !relays.includes(one))
      .slice(0, isSpare ? SPARE_DIRECTED : MAX_DIRECTED);
    const round = isSpare ? search.spareAttempts : search.attempts;
    const promises = knowing.length > 0 || relays.some((one) => one.digest?.has(target) === true);
    const widest = isSpare ? 0 : RINGS.length - 1;
    const ring = promises && round % 4 === 0 ? 0 : RINGS[Math.min(Math.max(0, promises ? round - 1 : round), widest)];

    const asked = this.#searches.note(now.nowMs, this.#deps.random.bytes(LOOKUP_ID_BYTES), target);
    const to = new Set([...relays, ...knowing]);
    if (ring > 0) for (const one of this.#some(open, isSpare ? SPARE_WIDTH : RING_WIDTH)) to.add(one);
    for (const one of to) {
      const label = this.#newLabel(one.nodeId);
      asked.labels.set(one.hex, label);
      const path = [this.#deps.nodeId];
      this.counters.lookupsSent++;
      this.#send(one.nodeId, {
        type: "lookup",
        id: asked.id,
        target,
        path,
        ttl: Math.max(1, ring),
        label,
        relay: relays.includes(one),
      });
    }
    search.asked = to.size;
    search.lastAtMs = now.nowMs;
    search.attempts++;
    if (isSpare) search.spareAttempts++;
    this.#plan(now, search);
  }

  // ── ways and paths ───────────────────────────────────────────────────────────────────────────────────────────────────

  #addVia(
    now: Now,
    way: {
      readonly target: Uint8Array;
      readonly hop: Uint8Array;
      readonly out: number;
      readonly in: number;
      readonly relay: boolean;
      readonly hops: number;
      readonly isOwn: boolean;
    },
  ): void {
    const { target, hop, out, hops, isOwn } = way;
    const isSmaller = compare(this.#deps.nodeId, target) < 0;
    const via: Via = {
      id: this.#vias.nextId(),
      target,
      hop,
      out,
      in: way.in,
      pathKind: way.relay ? PathKind.RELAY : PathKind.TRANSIT,
      hops,
      isOwn,
      isSenior: isOwn === isSmaller,
      installedAtMs: now.nowMs,
      readyAtMs: isOwn ? now.nowMs : now.nowMs + SETTLE_MS,
    };
    this.#vias.add(via);
    this.counters.viasInstalled++;
    this.#push({ kind: "via", id: via.id, target, hop, out, in: via.in, pathKind: via.pathKind });
    if (isOwn) {
      this.#push({ kind: "candidatesChanged", nodeId: target });
    } else {
      this.#settleDueMs = Math.min(this.#settleDueMs, via.readyAtMs);
      this.#schedule();
    }
  }

  /** It ended by itself: another one is looked for when it is needed. */
  #loseVia(now: Now, via: Via): void {
    this.#removeVia(via);
    const search = this.#searches.get(via.target);
    if (search === undefined) return;
    if (search.usedVia === via.id) {
      search.usedVia = undefined;
      search.isUsed = false;
      if (this.#vias.of(via.target).length === 0) search.soughtAtMs = now.nowMs;
    }
    this.#plan(now, search);
    search.hurry(now.nowMs);
    this.#schedule();
  }

  /** This node gives it up, and says so along the path. */
  #endVia(via: Via): void {
    this.#removeVia(via);
    this.#send(via.hop, { type: "unlabel", label: via.out });
  }

  #removeVia(via: Via): void {
    this.#vias.remove(via);
    this.#push({ kind: "viaRemove", id: via.id });
    this.#push({ kind: "candidatesChanged", nodeId: via.target });
  }

  /** @param silent the neighbour that knows or cannot be told */
  #endForward(forward: Forward, silent: Uint8Array | undefined): void {
    this.#forwards.remove(forward);
    this.counters.forwardsEnded++;
    for (const end of [forward.previous, forward.next]) {
      this.#push({ kind: "forwardRemove", label: end.in, from: end.nodeId });
      if (silent === undefined || !equal(silent, end.nodeId))
        this.#send(end.nodeId, { type: "unlabel", label: end.out });
    }
  }

  // ── time and output ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Monotonic milliseconds; Infinity: nothing is due. */
  get nextTimeoutMs(): number {
    return this.#dueMs;
  }

  /** May be called at any time; does what is due. */
  handleTimeout(now: Now): void {
    if (now.nowMs < this.#dueMs) return;
    for (const search of this.#searches.all()) {
      if (search.dueMs > now.nowMs) continue;
      // planned while it was wanted
      if (search.isSpare || search.isWanted(now.nowMs)) this.#ask(now, search);
      else this.#plan(now, search);
    }
    this.#searches.clean(now.nowMs);
    if (now.nowMs >= this.#settleDueMs) this.#settle(now);
    this.#tell(now);
    this.#schedule();
  }

  pollOutput(): RoutingOutput | undefined {
    const output = this.#outputs[this.#outputAt];
    if (output !== undefined) {
      this.#outputAt++;
      return output;
    }
    this.#outputs.length = 0;
    this.#outputAt = 0;
    return undefined;
  }

  #settle(now: Now): void {
    for (const via of this.#vias.readyBetween(this.#settleDueMs, now.nowMs))
      this.#push({ kind: "candidatesChanged", nodeId: via.target });
    this.#settleDueMs = this.#vias.nextReadyMs(now.nowMs);
  }

  #tell(now: Now): void {
    const due = this.#neighbours.due(now.nowMs);
    if (due.length === 0) return;
    const payload = nearPayload({ atMs: now.wallMs, relay: this.isRelay, digest: this.#neighbours.digest() });
    const signature = this.#deps.sign(RoutingSignature.NEAR, payload);
    for (const one of due) {
      this.counters.neighbourDigestsSent++;
      this.#send(one.nodeId, { type: "near", signature, payload });
    }
  }

  #schedule(): void {
    this.#dueMs = Math.min(this.#searches.nextMs(), this.#settleDueMs, this.#neighbours.nextMs());
  }

  // ── small things ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #isSigned(found: Found, target: Uint8Array, requester: Uint8Array): boolean {
    const body = foundBody(found.id, target, requester);
    if (this.#deps.verify(target, RoutingSignature.FOUND, body, found.signature)) return true;
    this.counters.foundForged++;
    return false;
  }

  #sign(body: Uint8Array): Uint8Array {
    return this.#deps.sign(RoutingSignature.FOUND, body);
  }

  /** By which this node will receive from that neighbour. */
  #newLabel(from: Uint8Array): number {
    for (;;) {
      const label = this.#deps.random.u32();
      if (label === 0 || this.#forwards.isTaken(from, label) || this.#vias.byLabel(from, label) !== undefined) continue;
      return label;
    }
  }

  /** @param list not changed */
  #some(list: readonly Neighbour[], count: number): Neighbour[] {
    if (list.length <= count) return [...list];
    const rest = [...list];
    const out: Neighbour[] = [];
    while (out.length < count) {
      const at = this.#deps.random.u32() % rest.length;
      out.push(rest[at]);
      rest[at] = rest[rest.length - 1];
      rest.pop();
    }
    return out;
  }

  #send(nodeId: Uint8Array, message: RoutingMessage): void {
    this.#push({ kind: "send", nodeId, message });
  }

  #push(output: RoutingOutput): void {
    this.#outputs.push(output);
  }
}

function view(via: Via, nowMs: number): ViaView {
  const isReady = via.readyAtMs <= nowMs;
  return {
    id: via.id,
    kind: kindName(via.pathKind),
    hops: via.hops,
    viaNodeId: via.hop,
    state: isReady ? "ready" : "settling",
    reason: via.isOwn ? "found by this node" : "found by the other end",
  };
}
