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
 * (vias.ts, forwards.ts, searches.ts, neighbourhood.ts); a refusal is a counted drop. The ends' part is in seeker.ts, the middle's in carrier.ts.
 * Source: docs/protocol.md, "Routing through members".
 */
import type { Now } from "../../base/clock.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { Carrier } from "./carrier.ts";
import { RoutingCore } from "./core.ts";
import { type Found, type Lookup, type Near, nearPayload, readNearPayload, type RoutingMessage } from "./messages.ts";
import type { Neighbour } from "./neighbourhood.ts";
import { Seeker } from "./seeker.ts";
import {
  type RoutingCounters,
  type RoutingDeps,
  type RoutingOptions,
  type RoutingOutput,
  RoutingSignature,
  type SearchView,
  type ViaView,
} from "./types.ts";
import { endpointOf, kindName, type Via } from "./vias.ts";

export type * from "./types.ts";

export class Routing {
  readonly #core: RoutingCore;
  readonly #seeker: Seeker;
  readonly #carrier: Carrier;

  constructor(deps: RoutingDeps, options: RoutingOptions = {}) {
    this.#core = new RoutingCore(deps, options);
    this.#seeker = new Seeker(this.#core);
    this.#carrier = new Carrier(this.#core);
  }

  // ── what is ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  get counters(): RoutingCounters {
    return this.#core.counters;
  }

  /** Virtual endpoints of the ways to the node, 18 bytes each, best first, at most 4. */
  candidates(now: Now, nodeId: Uint8Array): Uint8Array[] {
    return this.#core.vias.ready(now.nowMs, nodeId).map(endpointOf);
  }

  /** The way behind a virtual endpoint's number. */
  via(id: number): ViaView | undefined {
    const via = this.#core.vias.byId(id);
    return via === undefined ? undefined : view(via, Number.POSITIVE_INFINITY);
  }

  describe(now: Now, nodeId: Uint8Array): ViaView[] {
    return this.#core.vias.of(nodeId).map((via) => view(via, now.nowMs));
  }

  search(nodeId: Uint8Array): SearchView | undefined {
    const search = this.#seeker.searches.get(nodeId);
    if (search === undefined) return undefined;
    return { attempts: search.attempts, lastAtMs: search.lastAtMs, nextAtMs: search.dueMs, asked: search.asked };
  }

  /** Paths that lead through this node. */
  get forwards(): number {
    return this.#core.forwards.size;
  }

  /** A way of this node begins with that neighbour, or a path of others leads over it. */
  isHop(nodeId: Uint8Array): boolean {
    return this.#core.vias.isHop(nodeId) || this.#core.forwards.touches(nodeId);
  }

  // ── what the owner asks for ──────────────────────────────────────────────────────────────────────────────────────────

  /** Traffic for the node waits, or it did not answer directly: look for a way. May be repeated as often as there is need. */
  seek(now: Now, nodeId: Uint8Array): void {
    this.#seeker.seek(now, nodeId);
  }

  /** Nothing waits for the node any more. Ways that are there stay, as spare ones. */
  forget(now: Now, nodeId: Uint8Array): void {
    this.#seeker.forget(now, nodeId);
  }

  /**
   * Nobody waits, but a session with the node is wanted: one small lookup, at most every 20 s. Such nodes are often just switched off: no rings
   * through the whole network for them.
   */
  glance(now: Now, nodeId: Uint8Array): void {
    this.#seeker.glance(now, nodeId);
  }

  /** @param use whether data flows to the node: over that way, or directly (via undefined); undefined: it does not */
  using(now: Now, nodeId: Uint8Array, use: { readonly via: number | undefined } | undefined): void {
    this.#seeker.using(now, nodeId, use);
  }

  /** A direct session exists: with a round trip, once one is known. May be repeated. */
  peerUp(now: Now, nodeId: Uint8Array, figures: { readonly rttMs?: number | undefined } = {}): void {
    const { deps, neighbours } = this.#core;
    if (!deps.isMember(nodeId) || equal(nodeId, deps.nodeId)) return;
    if (neighbours.up(now.nowMs, nodeId, figures.rttMs)) this.#seeker.hurry(now, () => true);
  }

  /** The session has ended, or is no direct one any more. */
  peerDown(now: Now, nodeId: Uint8Array): void {
    if (!this.#core.neighbours.down(now.nowMs, nodeId)) return;
    for (const forward of this.#core.forwards.touching(nodeId)) this.#carrier.end(forward, nodeId);
    for (const via of this.#core.vias.through(nodeId)) this.#seeker.lose(now, via);
  }

  /** The node is no member any more: nothing leads to it or through it. */
  memberRemoved(now: Now, nodeId: Uint8Array): void {
    this.peerDown(now, nodeId);
    for (const via of this.#core.vias.of(nodeId)) this.#seeker.end(via);
    this.#seeker.searches.drop(nodeId);
  }

  /** The data plane heard from the hop that this way is broken. */
  viaFailed(now: Now, id: number, _code: number): void {
    const via = this.#core.vias.byId(id);
    if (via === undefined) return;
    this.#core.counters.viasFailed++;
    this.#seeker.lose(now, via);
  }

  /** The data plane gave up one direction of a path through this node: unused, broken, or its neighbour has gone. */
  forwardExpired(_now: Now, label: number, from: Uint8Array): void {
    const forward = this.#core.forwards.byLabel(from, label);
    if (forward !== undefined) this.#carrier.end(forward, undefined);
  }

  // ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param from the peer of the session it came through */
  handle(now: Now, from: Uint8Array, message: RoutingMessage): void {
    const { counters, deps, neighbours } = this.#core;
    const neighbour = deps.isMember(from) ? neighbours.get(from) : undefined;
    switch (message.type) {
      case "lookup":
        counters.lookupsReceived++;
        if (neighbour === undefined) counters.lookupsRefused++;
        else this.#onLookup(now, neighbour, message);
        return;
      case "found":
        counters.foundReceived++;
        if (neighbour === undefined || !this.#onFound(now, neighbour, message)) counters.foundUnknown++;
        return;
      case "unlabel":
        if (neighbour !== undefined) this.#onUnlabel(now, neighbour, message.label);
        return;
      case "near":
        if (neighbour === undefined || !this.#onNear(now, neighbour, message)) counters.neighbourDigestsRefused++;
    }
  }

  #onLookup(now: Now, neighbour: Neighbour, lookup: Lookup): void {
    const { counters, deps } = this.#core;
    const { path, target } = lookup;
    const isTarget = equal(target, deps.nodeId);
    // a walk of distinct members that ends with the sender, and that neither this node nor the target was on
    const isWhole = equal(path[path.length - 1], neighbour.nodeId) && path.every((nodeId) => deps.isMember(nodeId));
    const names = new Set([deps.nodeId, target, ...path].map(toHex));
    if (!isWhole || names.size !== path.length + (isTarget ? 1 : 2) || !deps.isMember(target)) {
      counters.lookupsRefused++;
      return;
    }
    if (!neighbour.lookups.take(now.nowMs)) {
      counters.lookupsLimited++;
      return;
    }
    if (isTarget) this.#seeker.answer(now, neighbour, lookup);
    else this.#carrier.passOn(now, neighbour, lookup);
  }

  #onFound(now: Now, neighbour: Neighbour, found: Found): boolean {
    if (!neighbour.founds.take(now.nowMs)) return false;
    return this.#seeker.take(now, neighbour, found) || this.#carrier.take(now, neighbour, found);
  }

  #onUnlabel(now: Now, neighbour: Neighbour, label: number): void {
    const via = this.#core.vias.byLabel(neighbour.nodeId, label);
    if (via !== undefined) return this.#seeker.lose(now, via);
    const forward = this.#core.forwards.byLabel(neighbour.nodeId, label);
    if (forward !== undefined) this.#carrier.end(forward, neighbour.nodeId);
  }

  #onNear(now: Now, neighbour: Neighbour, near: Near): boolean {
    const content = readNearPayload(near.payload);
    if (content === undefined || content.atMs <= neighbour.digestAtMs || !neighbour.digests.take(now.nowMs))
      return false;
    if (!this.#core.deps.verify(neighbour.nodeId, RoutingSignature.NEAR, near.payload, near.signature)) return false;
    this.#core.counters.neighbourDigestsReceived++;
    const before = neighbour.digest;
    const isNewRelay = content.relay && !neighbour.relays;
    neighbour.digest = content.digest;
    neighbour.digestAtMs = content.atMs;
    neighbour.relays = content.relay;
    this.#seeker.hurry(now, (target) => isNewRelay || (content.digest.has(target) && before?.has(target) !== true));
    return true;
  }

  // ── time and output ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Monotonic milliseconds; Infinity: nothing is due. */
  get nextTimeoutMs(): number {
    return Math.min(this.#seeker.nextMs(), this.#core.neighbours.nextMs());
  }

  /** May be called at any time; does what is due. */
  handleTimeout(now: Now): void {
    if (now.nowMs < this.nextTimeoutMs) return;
    this.#seeker.handleTimeout(now);
    const due = this.#core.neighbours.due(now.nowMs);
    if (due.length === 0) return;
    const { deps, neighbours, isRelay, counters } = this.#core;
    const payload = nearPayload({ atMs: now.wallMs, relay: isRelay, digest: neighbours.digest() });
    const signature = deps.sign(RoutingSignature.NEAR, payload);
    for (const one of due) {
      counters.neighbourDigestsSent++;
      this.#core.send(one.nodeId, { type: "near", signature, payload });
    }
  }

  pollOutput(): RoutingOutput | undefined {
    return this.#core.poll();
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
