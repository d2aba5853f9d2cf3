/**
 * This node in the middle: it passes lookups on, passes their answers back, and keeps the paths that come of it for others. Who may use it is up to
 * the allow-list, unless it is a relay; how much, up to the options. Source: docs/protocol.md, "Routing through members".
 */
import type { Now } from "../../base/clock.ts";
import { equal, toHex } from "../../base/bytes.ts";
import { TokenBucket } from "../../path/bucket.ts";
import type { RoutingCore } from "./core.ts";
import type { Forward, Pending } from "./forwards.ts";
import { type Found, type Lookup, MAX_BETWEEN } from "./messages.ts";
import type { Neighbour } from "./neighbourhood.ts";

const MAX_DIRECTED = 4;
const WIDTH = 6;
/** Neighbours asked besides those that have the target. */
const ASIDE_WIDTH = 2;
/** One lookup per target and neighbour in 2 s is passed on, the next ring of a search besides. */
const PER_SECOND = 0.5;
const BURST = 2;
const MAX_LIMITS = 8192;

export class Carrier {
  readonly #core: RoutingCore;
  /** "neighbour/target" → lookups that may be passed on. */
  readonly #limits = new Map<string, TokenBucket>();

  constructor(core: RoutingCore) {
    this.#core = core;
  }

  passOn(now: Now, neighbour: Neighbour, lookup: Lookup): void {
    const { counters, deps, forwards, isRelay } = this.#core;
    const { id, path, target, ttl } = lookup;
    const requester = path[0];
    if (!isRelay && !deps.mayTransit(requester)) {
      counters.lookupsForbidden++;
      return;
    }
    if (ttl === 0 || path.length > MAX_BETWEEN || !forwards.notice(now.nowMs, id)) {
      counters.lookupsEnded++;
      return;
    }
    const next = this.#nextHops(target, ttl, path);
    if (next.length === 0) {
      counters.lookupsEnded++;
      return;
    }
    // what leads nowhere costs nothing: the target may come in a moment, and is to be found then
    if (this.#isFull(neighbour.nodeId) || !this.#mayPass(now, neighbour, target)) {
      counters.lookupsLimited++;
      return;
    }
    // only the first member on the way counts as a relay
    const relay = lookup.relay && path.length === 1 && isRelay;
    const previous = neighbour.nodeId;
    const pending = forwards.expect(now.nowMs, { id, target, requester, previous, outPrevious: lookup.label, relay });
    counters.lookupsForwarded++;
    const walked = [...path, deps.nodeId];
    for (const hop of next) {
      const label = this.#core.newLabel(hop.nodeId);
      pending.sent.set(hop.hex, label);
      this.#core.send(hop.nodeId, { type: "lookup", id, target, path: walked, ttl: ttl - 1, label, relay });
    }
  }

  /** @returns whether it answers a lookup that was passed on, rightly or not */
  take(now: Now, neighbour: Neighbour, found: Found): boolean {
    const pending = this.#core.forwards.pending(now.nowMs, found.id, neighbour.nodeId);
    if (pending === undefined) return false;
    const label = pending.sent.get(neighbour.hex) as number;
    pending.sent.delete(neighbour.hex);
    if (this.#core.isSigned(found, pending.target, pending.requester)) this.#passBack(neighbour, found, pending, label);
    return true;
  }

  /** @param silent the neighbour that knows or cannot be told */
  end(forward: Forward, silent: Uint8Array | undefined): void {
    this.#core.forwards.remove(forward);
    this.#core.counters.forwardsEnded++;
    for (const end of [forward.previous, forward.next]) {
      this.#core.push({ kind: "forwardRemove", label: end.in, from: end.nodeId });
      if (silent === undefined || !equal(silent, end.nodeId))
        this.#core.send(end.nodeId, { type: "unlabel", label: end.out });
    }
  }

  /** The first answer becomes a path, the others are ended. @param label by which this node receives from the neighbour */
  #passBack(neighbour: Neighbour, found: Found, pending: Pending, label: number): void {
    const { counters, options } = this.#core;
    const { previous, outPrevious, relay, id } = pending;
    const isFull = this.#isFull(previous);
    if (pending.isAnswered || isFull || this.#core.neighbours.get(previous) === undefined) {
      if (!pending.isAnswered) counters.forwardsRefused++;
      this.#core.send(neighbour.nodeId, { type: "unlabel", label: found.label });
      return;
    }
    pending.isAnswered = true;
    const forward: Forward = {
      previous: { nodeId: previous, in: this.#core.newLabel(previous), out: outPrevious },
      next: { nodeId: neighbour.nodeId, in: label, out: found.label },
      relay,
    };
    this.#core.forwards.add(forward);
    counters.forwardsInstalled++;
    // by neighbour: it is the one whose name is proven; whom a lookup is for is only said
    const bytesPerSecond = options.forwardBytesPerSecond;
    for (const [from, to] of [
      [forward.previous, forward.next],
      [forward.next, forward.previous],
    ] as const) {
      const { nodeId } = to;
      this.#core.push({
        kind: "forward",
        label: from.in,
        from: from.nodeId,
        to: nodeId,
        out: to.out,
        bytesPerSecond,
      });
    }
    const { hops, signature } = found;
    // whether it counts as a relayed path is for the node that relays to say
    const isRelayed = relay && found.relay;
    this.#core.send(previous, { type: "found", id, label: forward.previous.in, hops, relay: isRelayed, signature });
  }

  #isFull(previous: Uint8Array): boolean {
    const { forwards, options } = this.#core;
    return forwards.size >= options.maxForwards || forwards.countOf(previous) >= options.maxForwardsPerNode;
  }

  #mayPass(now: Now, neighbour: Neighbour, target: Uint8Array): boolean {
    const key = `${neighbour.hex}/${toHex(target)}`;
    const bucket = this.#limits.get(key) ?? new TokenBucket(PER_SECOND, BURST);
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
    const { neighbours } = this.#core;
    const direct = neighbours.get(target);
    if (direct !== undefined) return [direct];
    if (ttl < 2) return [];
    const others = neighbours.all().filter((one) => !path.some((nodeId) => equal(nodeId, one.nodeId)));
    const knowing = others.filter((one) => one.digest?.has(target) === true);
    if (knowing.length === 0) return this.#core.some(others, WIDTH);
    const rest = ttl > 2 ? others.filter((one) => !knowing.includes(one)) : [];
    return [...knowing.slice(0, MAX_DIRECTED), ...this.#core.some(rest, ASIDE_WIDTH)];
  }
}
