/**
 * Which path carries the data: the better one by score and hysteresis, any proven one instead of a dead one, and the one the peer moved to.
 * Only here does `active` change. Source: docs/protocol.md, "Paths".
 */
import { type Path, PathState } from "./path.ts";
import { PROBE_IN_USE_MS, SAMPLES_TO_COMPARE, type PathSet } from "./path-set.ts";
import { pathCost, PathKind, worthMoving } from "./select.ts";

const FOLLOW_JITTER_MS = 50;
const FOLLOW_MIN_SILENCE_MS = 60;
/** A path that has to prove itself, and from which the peer sends, is asked at most this often. */
const WAKE_MS = 250;
/** A failed path is taken back early only if it loses hardly more than the present one. */
const WAIVE_LOSS = 0.1;

export class Chooser {
  /** True after each change until taken. */
  changed = false;
  /** When data moves to the duplicate; Infinity = no move is pending. */
  moveAtMs: number = Infinity;
  readonly #set: PathSet;
  /** Newest data packet of the peer, and the path it came on. */
  #newestEpoch = 0;
  #newestCounter = -1;
  #newestSlot = -1;
  #followSlot = -1;
  #followAtMs = 0;

  constructor(set: PathSet) {
    this.#set = set;
  }

  /** Makes this path the active one and ends any doubt about the one before. */
  activate(slot: number): void {
    const set = this.#set;
    this.#followSlot = -1;
    set.duplicate = -1;
    this.moveAtMs = Infinity;
    if (slot === set.active) return;
    if (set.active >= 0) set.paths[set.active].unreportedSinceMs = -1;
    set.active = slot;
    set.life.reset();
    this.changed = true;
    // Counters were used up elsewhere meanwhile.
    set.paths[slot].restartReports();
    set.paths[slot].fromCounter = set.nextCounter;
  }

  /** Delivery on the active path is not in doubt any more. */
  endDoubt(): void {
    const set = this.#set;
    this.moveAtMs = Infinity;
    if (set.duplicate < 0) return;
    set.duplicate = -1;
    // Of what went out twice the peer counted each packet where it came first.
    const path = set.paths[set.active];
    path.accounts = false;
    path.fromCounter = set.nextCounter;
    path.loss.restart();
  }

  /** No path is left: data waits. */
  deactivate(): void {
    const set = this.#set;
    this.#followSlot = -1;
    set.duplicate = -1;
    this.moveAtMs = Infinity;
    if (set.active < 0) return;
    set.active = -1;
    this.changed = true;
  }

  /** A path was just failed from outside: nothing stays on it. */
  left(nowMs: number, slot: number): void {
    const set = this.#set;
    if (set.duplicate === slot) {
      set.duplicate = -1;
      this.moveAtMs = Infinity;
      // the doubt goes on; the next best stands by instead
      if (set.active >= 0) this.standBy(nowMs);
    }
    if (set.active === slot) this.choose(nowMs);
  }

  /**
   * Delivery on the active path is in doubt: from now on data goes to the best other path too, and in one report interval moves there.
   * @returns false when there is no other path
   */
  standBy(nowMs: number): boolean {
    const set = this.#set;
    const warm = this.#standIn(set.active);
    if (warm < 0) return false;
    set.duplicate = warm;
    set.paths[warm].unreportedSinceMs = -1;
    set.paths[warm].fromCounter = set.nextCounter;
    this.moveAtMs = nowMs + set.paths[set.active].reportIntervalMs;
    set.wakeAt(this.moveAtMs);
    return true;
  }

  /** The best path besides this one to fall back to; one on probation only when there is no other. @returns slot or −1 */
  warm(besides: number): number {
    const best = this.#best(besides);
    if (best >= 0) return best;
    for (const path of this.#set.paths) {
      const usable = path.used && path.state === PathState.ALIVE && path.suspectSinceMs < 0;
      if (usable && path.slot !== besides) return path.slot;
    }
    return -1;
  }

  /**
   * Who stands in for a path in doubt. Direct paths tend to fail together (one interface, one provider), so for one of them it is the best path of another kind,
   * if there is one; the others are asked at once and take over again when they answer.
   */
  #standIn(besides: number): number {
    const set = this.#set;
    if (set.paths[besides].kind === PathKind.DIRECT) {
      const other = this.#best(besides, PathKind.RELAY);
      if (other >= 0) return other;
    }
    return this.warm(besides);
  }

  /** @param fromKind the most direct kind that counts */
  #best(besides: number, fromKind: PathKind = PathKind.DIRECT): number {
    let best = -1;
    let bestCost = Infinity;
    for (const path of this.#set.paths) {
      if (path.slot === besides || path.kind < fromKind || !path.eligible) continue;
      const cost = costOf(path);
      if (best < 0 || cost < bestCost) {
        best = path.slot;
        bestCost = cost;
      }
    }
    return best;
  }

  /** Moves to a clearly better path, or from a dead one to any proven one. */
  choose(nowMs: number): void {
    const set = this.#set;
    const current = set.active < 0 ? undefined : set.paths[set.active];
    if (current === undefined || current.state !== PathState.ALIVE) {
      const to = this.warm(set.active);
      if (to < 0) return;
      if (current !== undefined) set.counters.failovers++;
      this.activate(to);
      return;
    }
    if (current.suspectSinceMs >= 0) {
      if (set.duplicate < 0) this.standBy(nowMs);
      return;
    }
    const best = this.#best(set.active);
    if (best < 0) return;
    const path = set.paths[best];
    // Old figures and single samples are no reason to leave a working path.
    if (path.rtt.samples < SAMPLES_TO_COMPARE || nowMs - path.lastProvenMs > PROBE_IN_USE_MS) return;
    if (!worthMoving(costOf(path), costOf(current))) return;
    set.counters.upgrades++;
    this.activate(best);
  }

  /** A run of data came in on a path, which knows its counter. Hot. */
  dataFrom(nowMs: number, path: Path, epochId: number): void {
    const counter = path.arrivedCounter;
    if (epochId < this.#newestEpoch || (epochId === this.#newestEpoch && counter <= this.#newestCounter)) return;
    this.#newestEpoch = epochId;
    this.#newestCounter = counter;
    this.#newestSlot = path.slot;
    if (path.slot !== this.#set.active) this.#newestElsewhere(nowMs, path);
  }

  /**
   * A probe through this path was answered. When the peer's newest data comes from there too, the peer has moved, and so do we: at once for
   * a path just proven, and for one on probation unless it failed by losing too much.
   * @param wasTrusted it was alive and not on probation before the answer
   */
  answered(path: Path, wasTrusted: boolean): void {
    const set = this.#set;
    if (wasTrusted || path.slot === set.active || path.slot !== this.#newestSlot) return;
    const currentLoss = set.active < 0 ? 1 : set.paths[set.active].loss.ratio;
    if (path.probation > 0 && path.loss.ratio > currentLoss + WAIVE_LOSS) return;
    path.probation = 0;
    set.counters.roams++;
    this.activate(path.slot);
  }

  forget(slot: number): void {
    if (this.#newestSlot === slot) this.#newestSlot = -1;
    if (this.#followSlot === slot) this.#followSlot = -1;
  }

  /**
   * The peer's newest data comes on another path than ours. One that has to prove itself is asked soon. A proven one may just be what the peer prefers, so we
   * follow only when nothing speaks for our own any more, and after a random delay, or both sides could swap for ever.
   */
  #newestElsewhere(nowMs: number, path: Path): void {
    const set = this.#set;
    if (path.state !== PathState.ALIVE || path.probation > 0) {
      if (nowMs - path.wokenMs < Math.max(WAKE_MS, 2 * path.rtt.smoothedMs)) return;
      path.wokenMs = nowMs;
      if (path.nextProbeMs > nowMs) set.probeAt(path, nowMs);
      return;
    }
    if (!path.eligible || set.active < 0) return;
    const current = set.paths[set.active];
    const boundMs = Math.max(
      FOLLOW_MIN_SILENCE_MS,
      current.rtt.smoothedMs + 2 * current.reportIntervalMs + 2 * FOLLOW_JITTER_MS,
    );
    if (nowMs - Math.max(current.lastProvenMs, current.lastReceivedMs) < boundMs) {
      this.#followSlot = -1;
      return;
    }
    if (this.#followSlot !== path.slot) {
      this.#followSlot = path.slot;
      this.#followAtMs = nowMs + set.random.unit() * FOLLOW_JITTER_MS;
      return;
    }
    if (nowMs < this.#followAtMs) return;
    set.counters.roams++;
    this.activate(path.slot);
    set.probeAt(current, nowMs);
  }
}

function costOf(path: Path): number {
  return pathCost(path.kind, path.rtt.baselineMs, path.loss.ratio);
}
