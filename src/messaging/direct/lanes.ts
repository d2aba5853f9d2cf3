/** The lanes of all peers and their timers. Bound: MAX_LANES; idle ones of nodes that are no members go first. Source: docs/protocol.md, "Direct messages". */
import { toHex } from "../../base/bytes.ts";
import type { DirectCore } from "./core.ts";
import { Lane, type Outgoing } from "./lane.ts";

const MAX_LANES = 4_096;

export class Lanes {
  readonly #core: DirectCore;
  readonly #lanes = new Map<string, Lane>();
  #dueMs = Infinity;

  constructor(core: DirectCore) {
    this.#core = core;
  }

  find(nodeId: Uint8Array): Lane | undefined {
    return this.#lanes.get(toHex(nodeId));
  }

  all(): IterableIterator<Lane> {
    return this.#lanes.values();
  }

  /** @returns undefined when there are too many */
  open(nodeId: Uint8Array): Lane | undefined {
    const hex = toHex(nodeId);
    let lane = this.#lanes.get(hex);
    if (lane !== undefined) return lane;
    if (this.#lanes.size >= MAX_LANES) {
      for (const [key, other] of this.#lanes) {
        if (other.openCount > 0 || this.#core.deps.isMember(other.peer)) continue;
        this.#lanes.delete(key);
        break;
      }
      if (this.#lanes.size >= MAX_LANES) return undefined;
    }
    lane = new Lane(nodeId, this.#core.incarnation);
    this.#lanes.set(hex, lane);
    return lane;
  }

  get nextTimeoutMs(): number {
    return this.#dueMs;
  }

  schedule(outgoing: Outgoing): void {
    this.due(outgoing.lane, outgoing.dueAtMs);
  }

  due(lane: Lane, atMs: number): void {
    if (atMs < lane.dueMs) lane.dueMs = atMs;
    if (atMs < this.#dueMs) this.#dueMs = atMs;
  }

  /** @param visit called for each lane with something due; it sets when it is due next */
  handleTimeout(nowMs: number, visit: (lane: Lane) => void): void {
    if (nowMs < this.#dueMs) return;
    let dueMs = Infinity;
    for (const lane of this.#lanes.values()) {
      if (lane.dueMs <= nowMs) visit(lane);
      dueMs = Math.min(dueMs, lane.dueMs);
    }
    this.#dueMs = dueMs;
  }
}
