/**
 * The ways this node has to others through a first member each, as one of their two ends. At most MAX_OWN that this node asked for and MAX_OWN
 * that the other end did, per target; in a (target, hop, asker) there is one, the newer replaces the older. When both ends asked through the same hop,
 * both take the way of the smaller node id as their candidate, so that they agree without a word; the other still receives.
 * Bounds: MAX_VIAS in all, MAX_ASKED before the other ends' ones are refused.
 */
import { equal, toHex } from "../../base/bytes.ts";
import { VirtualType, virtualEndpoint } from "../../base/endpoint.ts";
import { tally } from "./forwards.ts";
import { PathKind } from "./types.ts";

/** Ways per target and asker, and candidates given per target. */
export const MAX_OWN = 4;
const MAX_VIAS = 4096;
/** Of these, for those that others asked for. */
const MAX_ASKED = 3072;

export interface Via {
  readonly id: number;
  readonly target: Uint8Array;
  readonly hop: Uint8Array;
  /** Label by which the hop receives from this node, and the other way round. */
  readonly out: number;
  readonly in: number;
  readonly pathKind: PathKind;
  readonly hops: number;
  /** This node asked for it. */
  readonly isOwn: boolean;
  /** It is the one of the end with the smaller node id. */
  readonly isSenior: boolean;
  readonly installedAtMs: number;
  /** From then on it is a candidate. */
  readonly readyAtMs: number;
}

export class ViaTable {
  readonly #byId = new Map<number, Via>();
  /** "hop/label" in hex → via. */
  readonly #byLabel = new Map<string, Via>();
  readonly #byTarget = new Map<string, Via[]>();
  /** Ways per hop, in hex. */
  readonly #hops = new Map<string, number>();
  #lastId = 0;

  get size(): number {
    return this.#byId.size;
  }

  nextId(): number {
    do this.#lastId = (this.#lastId + 1) >>> 0;
    while (this.#lastId === 0 || this.#byId.has(this.#lastId));
    return this.#lastId;
  }

  byId(id: number): Via | undefined {
    return this.#byId.get(id);
  }

  byLabel(hop: Uint8Array, label: number): Via | undefined {
    return this.#byLabel.get(`${toHex(hop)}/${label}`);
  }

  /** In order of installation. */
  of(target: Uint8Array): readonly Via[] {
    return this.#byTarget.get(toHex(target)) ?? [];
  }

  isHop(nodeId: Uint8Array): boolean {
    return this.#hops.has(toHex(nodeId));
  }

  through(hop: Uint8Array): Via[] {
    return [...this.#byId.values()].filter((via) => equal(via.hop, hop));
  }

  /**
   * The ways that have to go to make room for one to `target` through `hop`.
   * @param spared id of the one that carries data and stays if any other can go @returns undefined when there is no room at all
   */
  displacedBy(target: Uint8Array, hop: Uint8Array, isOwn: boolean, spared: number | undefined): Via[] | undefined {
    const peers = this.of(target).filter((via) => via.isOwn === isOwn);
    const same = peers.filter((via) => equal(via.hop, hop));
    if (same.length > 0) return same;
    if (peers.length >= MAX_OWN) return [peers.find((via) => via.id !== spared) as Via];
    return this.#byId.size >= (isOwn ? MAX_VIAS : MAX_ASKED) ? undefined : [];
  }

  add(via: Via): void {
    const hex = toHex(via.target);
    this.#byId.set(via.id, via);
    const hopHex = toHex(via.hop);
    this.#byLabel.set(`${hopHex}/${via.in}`, via);
    tally(this.#hops, hopHex, 1);
    const list = this.#byTarget.get(hex);
    if (list === undefined) this.#byTarget.set(hex, [via]);
    else list.push(via);
  }

  remove(via: Via): void {
    if (!this.#byId.delete(via.id)) return;
    const hopHex = toHex(via.hop);
    this.#byLabel.delete(`${hopHex}/${via.in}`);
    tally(this.#hops, hopHex, -1);
    const hex = toHex(via.target);
    const rest = this.of(via.target).filter((other) => other.id !== via.id);
    if (rest.length === 0) this.#byTarget.delete(hex);
    else this.#byTarget.set(hex, rest);
  }

  /**
   * Best first, one per hop, at most MAX_OWN: relays, then transits, the shorter first. Where there are that many, half of them are this node's own, so that
   * nobody crowds these out by asking for others.
   */
  ready(nowMs: number, target: Uint8Array): Via[] {
    const byHop: Via[] = [];
    for (const via of this.of(target)) {
      if (via.readyAtMs > nowMs) continue;
      const at = byHop.findIndex((other) => equal(other.hop, via.hop));
      if (at < 0) byHop.push(via);
      else if (via.isSenior) byHop[at] = via;
    }
    byHop.sort(byRank);
    const own = byHop.filter((via) => via.isOwn);
    const asked = byHop.filter((via) => !via.isOwn);
    const share = Math.max(MAX_OWN / 2, MAX_OWN - own.length);
    const chosen = [...asked.slice(0, share), ...own].slice(0, MAX_OWN);
    return chosen.toSorted(byRank);
  }

  /** Those that became candidates in that time, the limits included. */
  readyBetween(fromMs: number, toMs: number): Via[] {
    return [...this.#byId.values()].filter((via) => !via.isOwn && via.readyAtMs >= fromMs && via.readyAtMs <= toMs);
  }

  /** When the next one becomes a candidate; Infinity: none waits. */
  nextReadyMs(afterMs: number): number {
    let next = Number.POSITIVE_INFINITY;
    for (const via of this.#byId.values()) if (via.readyAtMs > afterMs) next = Math.min(next, via.readyAtMs);
    return next;
  }
}

function byRank(a: Via, b: Via): number {
  return a.pathKind - b.pathKind || a.hops - b.hops || a.id - b.id;
}

/** The name of a way among endpoints, 18 bytes. */
export function endpointOf(via: Via): Uint8Array {
  return virtualEndpoint(VirtualType.LABEL, via.pathKind, via.id);
}

export function kindName(kind: PathKind): "relay" | "transit" {
  return kind === PathKind.RELAY ? "relay" : "transit";
}
