/**
 * The labels of this node. A *via* is a way to some peer through another one, the hop: what is sent to its virtual endpoint leaves inside the hop's
 * session under label `out`, and what comes from the hop under label `in` comes from that endpoint. A *forward entry* hands what comes from one peer
 * under a label on to another peer under another label. Source: docs/protocol.md, "Vias".
 *
 * Labels are found by (peer, label): a label belongs to the pair of its receiver and its sender. Bounds: 4,096 vias and 16,384 forward entries; one
 * more is refused. An entry unused for 300 s is given up by sweep(). All entries of one sender share its quota; there is at most one for each peer.
 * Only the control thread installs; look-ups allocate nothing.
 */
import type { Random } from "../base/random.ts";
import { LabelTable } from "./label-table.ts";
import { Quota } from "./quota.ts";

export const MAX_VIAS = 4_096;
export const MAX_FORWARDS = 16_384;
export const FORWARD_IDLE_MS = 300_000;

export class Via {
  readonly id: number;
  /** Slot of the peer whose session carries it. */
  readonly hop: number;
  readonly out: number;
  readonly in: number;
  /** 1 relay, 2 transit. */
  readonly pathKind: number;
  /** When it was last reported as failed. */
  failedMs = -1e9;

  constructor(id: number, hop: number, out: number, into: number, pathKind: number) {
    this.id = id;
    this.hop = hop;
    this.out = out;
    this.in = into;
    this.pathKind = pathKind;
  }
}

/** Cell of a forward entry's state. */
export const FORWARD_LAST_USED_MS = 0;

export class Forward {
  readonly label: number;
  /** Peer slots. */
  readonly from: number;
  readonly to: number;
  readonly out: number;
  /** What `from` may send through this node, shared by all its entries. */
  readonly quota: Quota;
  /** What every packet changes, at FORWARD_…: an array, because writing a fraction to a field would box it. */
  readonly state: Float64Array = new Float64Array(1);

  constructor(nowMs: number, label: number, from: number, to: number, out: number, quota: Quota) {
    this.label = label;
    this.from = from;
    this.to = to;
    this.out = out;
    this.quota = quota;
    this.state[FORWARD_LAST_USED_MS] = nowMs;
  }
}

export class Vias {
  /** Counts up with every change, so that cached look-ups know that they are void. */
  version = 0;
  readonly #byId: LabelTable;
  /** Entry by (peer it comes from, label) and by (peer it goes to, label). An even value is twice the place of a via, an odd one that of a forward entry. */
  readonly #byIn: LabelTable;
  readonly #byOut: LabelTable;
  readonly #vias: (Via | undefined)[] = [];
  readonly #freeVias: number[] = [];
  readonly #forwards: (Forward | undefined)[] = [];
  readonly #freeForwards: number[] = [];
  /** By slot of the sender. */
  readonly #quotas = new Map<number, Quota>();
  #nextSweepMs = 0;

  constructor(random: Random) {
    this.#byId = new LabelTable(random.u32());
    this.#byIn = new LabelTable(random.u32());
    this.#byOut = new LabelTable(random.u32());
  }

  get viaCount(): number {
    return this.#byId.size;
  }

  get forwardCount(): number {
    return this.#forwards.length - this.#freeForwards.length;
  }

  // ── look-ups, hot ────────────────────────────────────────────────────────────────────────────────────────────────────

  via(id: number): Via | undefined {
    const at = this.#byId.get(0, id);
    return at < 0 ? undefined : this.#vias[at];
  }

  /** What a label means that peer `from` sends under. @returns an entry for viaOf() and forwardOf(), or −1 */
  incoming(from: number, label: number): number {
    return this.#byIn.get(from, label);
  }

  /** What this node sends under this label to peer `to`. @returns an entry, or −1 */
  outgoing(to: number, label: number): number {
    return this.#byOut.get(to, label);
  }

  viaOf(entry: number): Via | undefined {
    return entry < 0 || (entry & 1) !== 0 ? undefined : this.#vias[entry >>> 1];
  }

  forwardOf(entry: number): Forward | undefined {
    return entry < 0 || (entry & 1) === 0 ? undefined : this.#forwards[entry >>> 1];
  }

  // ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Installs a via, in the place of the one of the same id. @returns false when refused: too many, or the label is taken or zero */
  addVia(via: Via): boolean {
    const old = this.via(via.id);
    const holder = this.#byIn.get(via.hop, via.in);
    const isOwn = old !== undefined && holder >= 0 && this.viaOf(holder) === old;
    if (via.in === 0 || via.out === 0 || (holder >= 0 && !isOwn)) return false;
    if (old === undefined && this.viaCount >= MAX_VIAS) return false;
    if (old !== undefined) this.removeVia(via.id);
    const at = this.#freeVias.pop() ?? this.#vias.push(undefined) - 1;
    this.#vias[at] = via;
    this.#byId.set(0, via.id, at);
    this.#byIn.set(via.hop, via.in, at * 2);
    this.#byOut.set(via.hop, via.out, at * 2);
    this.version++;
    return true;
  }

  removeVia(id: number): Via | undefined {
    const at = this.#byId.get(0, id);
    const via = at < 0 ? undefined : this.#vias[at];
    if (via === undefined) return undefined;
    this.#byId.delete(0, id);
    this.#byIn.delete(via.hop, via.in);
    if (this.#byOut.get(via.hop, via.out) === at * 2) this.#byOut.delete(via.hop, via.out);
    this.#vias[at] = undefined;
    this.#freeVias.push(at);
    this.version++;
    return via;
  }

  /** The quota of a sender. @param bytesPerSecond its rate from now on; 0 = no limit */
  quotaOf(nowMs: number, from: number, bytesPerSecond: number): Quota {
    let quota = this.#quotas.get(from);
    if (quota === undefined) this.#quotas.set(from, (quota = new Quota(nowMs, bytesPerSecond)));
    else quota.setRate(nowMs, bytesPerSecond);
    return quota;
  }

  /** Installs a forward entry, in the place of the one of the same label and sender. @returns false when refused, as addVia(), or for an entry that leads back */
  addForward(forward: Forward): boolean {
    const holder = this.#byIn.get(forward.from, forward.label);
    if (forward.label === 0 || forward.out === 0 || forward.from === forward.to) return false;
    if (this.viaOf(holder) !== undefined) return false;
    if (holder < 0 && this.forwardCount >= MAX_FORWARDS) return false;
    if (holder >= 0) this.removeForward(forward.from, forward.label);
    const at = this.#freeForwards.pop() ?? this.#forwards.push(undefined) - 1;
    this.#forwards[at] = forward;
    this.#byIn.set(forward.from, forward.label, at * 2 + 1);
    this.#byOut.set(forward.to, forward.out, at * 2 + 1);
    this.version++;
    return true;
  }

  removeForward(from: number, label: number): Forward | undefined {
    const entry = this.#byIn.get(from, label);
    const forward = this.forwardOf(entry);
    if (forward === undefined) return undefined;
    this.#byIn.delete(from, label);
    if (this.#byOut.get(forward.to, forward.out) === entry) this.#byOut.delete(forward.to, forward.out);
    this.#forwards[entry >>> 1] = undefined;
    this.#freeForwards.push(entry >>> 1);
    this.version++;
    return forward;
  }

  /** Takes out everything that needs this peer. @param gone told of each */
  removePeer(slot: number, goneVia: (via: Via) => void, goneForward: (forward: Forward) => void): void {
    this.#quotas.delete(slot);
    for (const via of this.#vias) {
      if (via === undefined || via.hop !== slot) continue;
      this.removeVia(via.id);
      goneVia(via);
    }
    for (const forward of this.#forwards) {
      if (forward === undefined || (forward.from !== slot && forward.to !== slot)) continue;
      this.removeForward(forward.from, forward.label);
      goneForward(forward);
    }
  }

  /** Gives up forward entries unused for 300 s; looks every 10 s. @param gone told of each */
  sweep(nowMs: number, gone: (forward: Forward) => void): void {
    if (nowMs < this.#nextSweepMs) return;
    this.#nextSweepMs = nowMs + 10_000;
    for (const forward of this.#forwards) {
      if (forward === undefined || nowMs - forward.state[FORWARD_LAST_USED_MS] < FORWARD_IDLE_MS) continue;
      this.removeForward(forward.from, forward.label);
      gone(forward);
    }
  }
}
