/** One replicated space on this node: its map and who else has it. Bound: 64 other replicas are known; beyond, the one not heard of for longest goes. */
import { toHex } from "../../base/bytes.ts";
import type { Random } from "../../base/random.ts";
import { type Entry, spaceId, type SpaceKind } from "./entry.ts";
import { LwwMap, type MapLimits } from "./lww-map.ts";

const MAX_REPLICAS = 64;

interface Replica {
  readonly nodeId: Uint8Array;
  seenMs: number;
}

/** What distinguishes spaces of one kind from others. */
export interface SpaceRules {
  /** May this entry be in the space? Judged from the entry alone, so that all replicas agree. */
  readonly allows: (entry: Entry) => boolean;
  /** May this node have a part in it, by delivering or writing? @default everybody */
  readonly trusts?: (nodeId: Uint8Array) => boolean;
  /** Entries are forgotten when they are older; deletions always after 30 days. @default never */
  readonly lifeMs?: number;
  /** Entries with a lower hlc are not wanted any more, as the replicas have agreed. @default none */
  readonly floor?: () => number;
  /** @default ReplicasOptions.maxSpaceBytes */
  readonly maxBytes?: number;
  /** Of keys and bytes, the part that one author may take. @default a quarter */
  readonly authorShare?: number;
}

export class Space {
  /** 16 bytes */
  readonly id: Uint8Array;
  readonly idHex: string;
  readonly kind: SpaceKind;
  readonly name: string;
  readonly map: LwwMap;
  /** Monotonic time at which it was opened in this run. */
  readonly openedMs: number;
  readonly rules: SpaceRules;
  replicasEvicted = 0;
  readonly #replicas = new Map<string, Replica>();

  constructor(kind: SpaceKind, name: string, limits: MapLimits, openedMs: number, rules: SpaceRules) {
    this.id = spaceId(kind, name);
    this.idHex = toHex(this.id);
    this.kind = kind;
    this.name = name;
    this.map = new LwwMap(limits, rules.lifeMs);
    this.openedMs = openedMs;
    this.rules = rules;
  }

  get replicas(): number {
    return this.#replicas.size;
  }

  replicaIds(): Uint8Array[] {
    return Array.from(this.#replicas.values(), (replica) => replica.nodeId);
  }

  isTrusted(nodeId: Uint8Array): boolean {
    return this.rules.trusts?.(nodeId) ?? true;
  }

  /** That node has this space. */
  heardOf(nodeId: Uint8Array, nowMs: number): void {
    const hex = toHex(nodeId);
    const known = this.#replicas.get(hex);
    if (known !== undefined) {
      known.seenMs = nowMs;
      return;
    }
    if (this.#replicas.size >= MAX_REPLICAS) {
      let stalest: string | undefined;
      let seenMs = Infinity;
      for (const [one, replica] of this.#replicas) {
        if (replica.seenMs >= seenMs) continue;
        stalest = one;
        seenMs = replica.seenMs;
      }
      if (stalest !== undefined) this.#replicas.delete(stalest);
      this.replicasEvicted++;
    }
    this.#replicas.set(hex, { nodeId: Uint8Array.from(nodeId), seenMs: nowMs });
  }

  forget(nodeHex: string): void {
    this.#replicas.delete(nodeHex);
  }

  /** Up to `count` different other replicas at random, none of `except` (hexadecimal). */
  sample(count: number, random: Random, except?: ReadonlySet<string>): Uint8Array[] {
    const all = [...this.#replicas].filter(([hex]) => except?.has(hex) !== true);
    const chosen: Uint8Array[] = [];
    while (chosen.length < count && all.length > 0) {
      const at = random.u32() % all.length;
      chosen.push(all[at][1].nodeId);
      all[at] = all[all.length - 1];
      all.pop();
    }
    return chosen;
  }
}
