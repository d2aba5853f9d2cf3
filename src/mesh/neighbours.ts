/**
 * Which members a node keeps sessions with even when idle, and when it dials them: successors in the ring of node ids, the members of
 * lowest round trip, and beacons. Every member has successors, so the graph of neighbours is connected; in a small network they are
 * everybody. All other sessions open on demand.
 * Source: docs/protocol.md, "Neighbours".
 */
import type { Now } from "../base/clock.ts";
import { compare, equal, toHex } from "../base/bytes.ts";
import type { Random } from "../base/random.ts";
import type { Member } from "./types.ts";

/** With up to NEIGHBOURS + 1 members everybody is a neighbour of everybody. */
export const NEIGHBOURS = 8;
/** Of these, for the members of lowest round trip; the rest, and places nobody is measured for, go to successors. */
const NEAREST = 4;
/** Besides, at most. */
const BEACONS = 4;
/** A member that is a neighbour already counts as that much nearer, so that two alike do not take turns. */
const STAYING = 0.8;
const REDIAL_MS = 30_000;

/**
 * @param members this node may be among them @param own node id
 * @param rttMs of members reached directly, by node id in hex @param present neighbours until now, node ids in hex
 */
export function neighboursOf(
  members: readonly Member[],
  own: Uint8Array,
  rttMs: ReadonlyMap<string, number> = new Map(),
  present: ReadonlySet<string> = new Set(),
): Member[] {
  const others = members.filter((member) => !equal(member.nodeId, own));
  if (others.length <= NEIGHBOURS) return others;
  const cost = (member: Member): number => {
    const hex = toHex(member.nodeId);
    return (rttMs.get(hex) ?? Number.POSITIVE_INFINITY) * (present.has(hex) ? STAYING : 1);
  };
  const nearest = rttMs.size === 0 ? [] : others.filter((member) => cost(member) !== Number.POSITIVE_INFINITY);
  const byCost = (a: Member, b: Member): number => cost(a) - cost(b);
  const chosen = new Set(nearest.toSorted(byCost).slice(0, NEAREST));
  const ring = others.toSorted((a, b) => compare(a.nodeId, b.nodeId));
  const start = Math.max(
    0,
    ring.findIndex((member) => compare(member.nodeId, own) > 0),
  );
  for (let i = 0; chosen.size < NEIGHBOURS; i++) chosen.add(ring[(start + i) % ring.length]);
  // the nearest ones first; among unmeasured ones each node begins elsewhere, so that no beacon has everybody
  const beacons = ring.filter((member) => member.roles.includes("beacon"));
  const turned = beacons.map((_, i) => beacons[(i + own[0]) % beacons.length]);
  for (const member of turned.toSorted((a, b) => (cost(a) === cost(b) ? 0 : byCost(a, b))).slice(0, BEACONS))
    chosen.add(member);
  return [...chosen];
}

/** Paces dials: each neighbour at most once in about REDIAL_MS, with jitter, so that a restart of many does not synchronise them. */
export class Dialler {
  /** Monotonic; Infinity: nobody is missing. */
  dueMs: number = Number.POSITIVE_INFINITY;
  readonly #random: Random;
  /** Static key in hex → time of the last dial. Bound: neighbours that are not connected. */
  #dialled: ReadonlyMap<string, number> = new Map();

  constructor(random: Random) {
    this.#random = random;
  }

  /** Look again at that time or earlier. */
  schedule(atMs: number): void {
    this.dueMs = Math.min(this.dueMs, atMs);
  }

  /** Look again soon, but not all nodes at once. */
  scheduleJittered(now: Now, withinMs: number): void {
    this.schedule(now.nowMs + this.#random.unit() * withinMs);
  }

  /**
   * @param neighbours of this node @param isConnected by static key in hex @param isReachable whether there is an address to dial
   * @returns whom to dial now
   */
  due(
    now: Now,
    neighbours: readonly Member[],
    isConnected: (staticHex: string) => boolean,
    isReachable: (member: Member) => boolean,
  ): Member[] {
    this.dueMs = Number.POSITIVE_INFINITY;
    const dialled = new Map<string, number>();
    const out: Member[] = [];
    for (const member of neighbours) {
      const hex = toHex(member.staticKey);
      if (isConnected(hex)) continue;
      this.schedule(now.nowMs + REDIAL_MS * (0.9 + 0.2 * this.#random.unit()));
      const lastMs = this.#dialled.get(hex);
      if (lastMs !== undefined) dialled.set(hex, lastMs);
      const isDue = lastMs === undefined || now.nowMs - lastMs >= REDIAL_MS * 0.9;
      if (!isDue || !isReachable(member)) continue;
      dialled.set(hex, now.nowMs);
      out.push(member);
    }
    this.#dialled = dialled;
    return out;
  }
}
