/**
 * This node as an end of ways: it asks for targets, takes their answers, answers as a target itself, and keeps the ways that come of both.
 * Whom it asks: relays, and neighbours whose digest has the target, with one hop allowed; when that brings nothing, or nobody has it, rings of
 * more and more hops. Source: docs/protocol.md, "Routing through members".
 */
import type { Now } from "../../base/clock.ts";
import { compare, equal, toHex } from "../../base/bytes.ts";
import type { RoutingCore } from "./core.ts";
import { type Found, foundBody, type Lookup, LOOKUP_ID_BYTES, MAX_BETWEEN } from "./messages.ts";
import type { Neighbour } from "./neighbourhood.ts";
import { type Search, Searches } from "./searches.ts";
import { PathKind, RoutingSignature } from "./types.ts";
import type { Via } from "./vias.ts";

/** Hops that the rings of a search allow, one after the other. */
const RINGS: readonly number[] = [2, 4, MAX_BETWEEN];
/** Every so often a search begins with the directed lookups again: the neighbours' digests change. */
const ROUNDS = 4;
const GLANCE_MS = 20_000;
const MAX_DIRECTED = 4;
const MAX_RELAYS = 2;
const RING_WIDTH = 8;
/** A way in reserve may cost less. */
const SPARE_DIRECTED = 2;
const SPARE_RELAYS = 1;
const SPARE_WIDTH = 4;
/** Ways per lookup that a target gives. */
const MAX_ANSWERS = 4;
const MAX_ANSWERED = 2048;
/** The requester has the answer by then, and everybody between the entries. */
const SETTLE_MS = 300;

interface NewVia {
  readonly target: Uint8Array;
  readonly hop: Uint8Array;
  readonly out: number;
  readonly in: number;
  readonly relay: boolean;
  readonly hops: number;
  readonly isOwn: boolean;
}

export class Seeker {
  readonly searches: Searches = new Searches();
  readonly #core: RoutingCore;
  /** "lookup id/requester" → ways given, and the signature. */
  readonly #answered = new Map<string, { count: number; readonly signature: Uint8Array }>();
  #settleDueMs: number = Number.POSITIVE_INFINITY;

  constructor(core: RoutingCore) {
    this.#core = core;
  }

  // ── what is wanted ───────────────────────────────────────────────────────────────────────────────────────────────────

  seek(now: Now, target: Uint8Array): void {
    if (!this.#isPossible(target)) return;
    const search = this.searches.open(now.nowMs, target);
    if (search === undefined) {
      this.#core.counters.searchesRefused++;
      return;
    }
    search.soughtAtMs = now.nowMs;
    this.#plan(now, search);
    if (search.dueMs <= now.nowMs) this.#ask(now, search);
  }

  forget(now: Now, target: Uint8Array): void {
    const search = this.searches.get(target);
    if (search === undefined) return;
    search.soughtAtMs = Number.NEGATIVE_INFINITY;
    this.#plan(now, search);
  }

  glance(now: Now, target: Uint8Array): void {
    if (!this.#isPossible(target) || this.#core.vias.of(target).length > 0) return;
    const search = this.searches.open(now.nowMs, target);
    if (search === undefined || now.nowMs - search.lastAtMs < GLANCE_MS) return;
    search.isSpare = true;
    search.spareAttempts = 0;
    this.#ask(now, search);
  }

  using(now: Now, target: Uint8Array, use: { readonly via: number | undefined } | undefined): void {
    const search = use === undefined ? this.searches.get(target) : this.searches.open(now.nowMs, target);
    if (search === undefined || (search.isUsed === (use !== undefined) && search.usedVia === use?.via)) return;
    if (!search.isUsed) search.lastAtMs = Math.max(search.lastAtMs, now.nowMs);
    search.isUsed = use !== undefined;
    search.usedVia = use?.via;
    search.spareAttempts = 0;
    this.#plan(now, search);
  }

  /** Something changed that may help. @param helps whether it may help in finding this target */
  hurry(now: Now, helps: (target: Uint8Array) => boolean): void {
    for (const search of this.searches.all()) if (helps(search.target)) search.hurry(now.nowMs);
  }

  // ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** This node is the target: it can be reached the way the lookup came. */
  answer(now: Now, neighbour: Neighbour, lookup: Lookup): void {
    const { counters, deps, vias } = this.#core;
    const { id, path } = lookup;
    const requester = path[0];
    // who has a session with this node needs no way to it
    if (path.length < 2) {
      counters.lookupsEnded++;
      return;
    }
    const key = `${toHex(id)}/${toHex(requester)}`;
    const known = this.#answered.get(key);
    const used = this.searches.get(requester)?.usedVia;
    const displaced =
      known !== undefined && known.count >= MAX_ANSWERS
        ? undefined
        : vias.displacedBy(requester, neighbour.nodeId, false, used);
    if (displaced === undefined) {
      counters.lookupsLimited++;
      return;
    }
    for (const via of displaced) this.end(via);
    const body = foundBody(id, deps.nodeId, requester);
    const signature = known?.signature ?? deps.sign(RoutingSignature.FOUND, body);
    if (known !== undefined) {
      known.count++;
    } else {
      if (this.#answered.size >= MAX_ANSWERED) this.#answered.delete(this.#answered.keys().next().value as string);
      this.#answered.set(key, { count: 1, signature });
    }
    const relay = lookup.relay && path.length === 2;
    const label = this.#core.newLabel(neighbour.nodeId);
    const hops = path.length;
    this.#add(now, {
      target: requester,
      hop: neighbour.nodeId,
      out: lookup.label,
      in: label,
      relay,
      hops,
      isOwn: false,
    });
    counters.lookupsAnswered++;
    this.#core.send(neighbour.nodeId, { type: "found", id, label, hops, relay, signature });
  }

  /** @returns whether it answers a lookup of this node, rightly or not */
  take(now: Now, neighbour: Neighbour, found: Found): boolean {
    const asked = this.searches.asked(now.nowMs, found.id, neighbour.nodeId);
    if (asked === undefined) return false;
    const { target } = asked;
    const label = asked.labels.get(neighbour.hex) as number;
    asked.labels.delete(neighbour.hex);
    if (!this.#core.isSigned(found, target, this.#core.deps.nodeId)) return true;
    const search = this.searches.get(target);
    const displaced = this.#core.vias.displacedBy(target, neighbour.nodeId, true, search?.usedVia);
    if (displaced === undefined || !this.#core.deps.isMember(target)) {
      this.#core.send(neighbour.nodeId, { type: "unlabel", label: found.label });
      return true;
    }
    for (const via of displaced) this.end(via);
    const { hops, relay } = found;
    this.#add(now, { target, hop: neighbour.nodeId, out: found.label, in: label, relay, hops, isOwn: true });
    if (search === undefined) return true;
    search.attempts = 0;
    search.spareAttempts = 0;
    this.#plan(now, search);
    return true;
  }

  // ── ways ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** It ended by itself: another one is looked for when it is needed. */
  lose(now: Now, via: Via): void {
    this.#remove(via);
    const search = this.searches.get(via.target);
    if (search === undefined) return;
    if (search.usedVia === via.id) {
      search.usedVia = undefined;
      search.isUsed = false;
      if (this.#core.vias.of(via.target).length === 0) search.soughtAtMs = now.nowMs;
    }
    this.#plan(now, search);
    search.hurry(now.nowMs);
  }

  /** This node gives it up, and says so along the path. */
  end(via: Via): void {
    this.#remove(via);
    this.#core.send(via.hop, { type: "unlabel", label: via.out });
  }

  #add(now: Now, way: NewVia): void {
    const { target, hop, out, hops, isOwn } = way;
    const isSmaller = compare(this.#core.deps.nodeId, target) < 0;
    const via: Via = {
      id: this.#core.vias.nextId(),
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
    this.#core.vias.add(via);
    this.#core.counters.viasInstalled++;
    this.#core.push({ kind: "via", id: via.id, target, hop, out, in: via.in, pathKind: via.pathKind });
    if (isOwn) this.#core.push({ kind: "candidatesChanged", nodeId: target });
    else this.#settleDueMs = Math.min(this.#settleDueMs, via.readyAtMs);
  }

  #remove(via: Via): void {
    this.#core.vias.remove(via);
    this.#core.push({ kind: "viaRemove", id: via.id });
    this.#core.push({ kind: "candidatesChanged", nodeId: via.target });
  }

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  nextMs(): number {
    return Math.min(this.searches.nextMs(), this.#settleDueMs);
  }

  handleTimeout(now: Now): void {
    for (const search of this.searches.all()) {
      if (search.dueMs > now.nowMs) continue;
      // planned while it was wanted
      if (search.isSpare || search.isWanted(now.nowMs)) this.#ask(now, search);
      else this.#plan(now, search);
    }
    this.searches.clean(now.nowMs);
    if (now.nowMs < this.#settleDueMs) return;
    for (const via of this.#core.vias.readyBetween(this.#settleDueMs, now.nowMs))
      this.#core.push({ kind: "candidatesChanged", nodeId: via.target });
    this.#settleDueMs = this.#core.vias.nextReadyMs(now.nowMs);
  }

  #plan(now: Now, search: Search): void {
    const ways = this.#core.vias.of(search.target);
    const hops = new Set(ways.map((via) => toHex(via.hop))).size;
    const newestMs = Math.max(Number.NEGATIVE_INFINITY, ...ways.map((via) => via.installedAtMs));
    search.plan(now.nowMs, hops, newestMs, this.#core.deps.random.unit());
  }

  #ask(now: Now, search: Search): void {
    const { deps, counters } = this.#core;
    const { target, isSpare } = search;
    const { relays, others, ttl } = this.#choose(search);
    const asked = this.searches.note(now.nowMs, deps.random.bytes(LOOKUP_ID_BYTES), target);
    const path = [deps.nodeId];
    for (const one of new Set([...relays, ...others])) {
      const label = this.#core.newLabel(one.nodeId);
      asked.labels.set(one.hex, label);
      counters.lookupsSent++;
      const relay = relays.includes(one);
      this.#core.send(one.nodeId, { type: "lookup", id: asked.id, target, path, ttl, label, relay });
    }
    search.asked = asked.labels.size;
    search.lastAtMs = now.nowMs;
    search.attempts++;
    if (isSpare) search.spareAttempts++;
    this.#plan(now, search);
  }

  /** Whom to ask, and how far it may go. */
  #choose(search: Search): {
    readonly relays: readonly Neighbour[];
    readonly others: readonly Neighbour[];
    readonly ttl: number;
  } {
    const { target, isSpare } = search;
    const hops = isSpare ? this.#core.vias.of(target).filter((via) => via.isOwn) : [];
    const open = this.#core.neighbours
      .all()
      .filter((one) => !equal(one.nodeId, target) && !hops.some((via) => equal(via.hop, one.nodeId)));
    const has = (one: Neighbour): boolean => one.digest?.has(target) === true;
    const relays = open
      .filter((one) => one.relays || this.#core.deps.isBeacon(one.nodeId))
      .slice(0, isSpare ? SPARE_RELAYS : MAX_RELAYS);
    const knowing = open
      .filter((one) => has(one) && !relays.includes(one))
      .slice(0, isSpare ? SPARE_DIRECTED : MAX_DIRECTED);
    const round = isSpare ? search.spareAttempts : search.attempts;
    const isPromising = knowing.length > 0 || relays.some(has);
    if (isPromising && round % ROUNDS === 0) return { relays, others: knowing, ttl: 1 };
    const widest = isSpare ? 0 : RINGS.length - 1;
    const ring = Math.max(0, isPromising ? round - 1 : round);
    const around = this.#core.some(open, isSpare ? SPARE_WIDTH : RING_WIDTH);
    return { relays, others: [...knowing, ...around], ttl: RINGS[Math.min(ring, widest)] };
  }

  #isPossible(target: Uint8Array): boolean {
    return !equal(target, this.#core.deps.nodeId) && this.#core.deps.isMember(target);
  }
}
