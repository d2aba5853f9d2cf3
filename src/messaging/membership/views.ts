/**
 * The passive view: members known and not connected, as many as PASSIVE_FACTOR times the active view. When it is full, first goes what was sent away in
 * the exchange that brings the new one, then a random entry (HyParView, section 4.3).
 */
import type { Random } from "../../base/random.ts";
import { toHex } from "../../base/bytes.ts";

export class PassiveView {
  readonly #random: Random;
  readonly #hexes: string[] = [];
  readonly #byHex = new Map<string, Uint8Array>();

  constructor(random: Random) {
    this.#random = random;
  }

  get size(): number {
    return this.#hexes.length;
  }

  has(hex: string): boolean {
    return this.#byHex.has(hex);
  }

  nodes(): Uint8Array[] {
    return [...this.#byHex.values()];
  }

  /** @param limit entries at most, the new one included @param sent hexes that may go first */
  add(nodeId: Uint8Array, limit: number, sent?: Set<string>): void {
    const hex = toHex(nodeId);
    if (this.#byHex.has(hex) || limit < 1) return;
    while (this.#hexes.length >= limit) this.#dropOne(sent);
    this.#hexes.push(hex);
    this.#byHex.set(hex, nodeId);
  }

  remove(hex: string): void {
    if (!this.#byHex.delete(hex)) return;
    this.#removeAt(this.#hexes.indexOf(hex));
  }

  /** One at random that `accepts` takes; at most eight are looked at. */
  pick(accepts: (hex: string) => boolean): Uint8Array | undefined {
    for (let i = 0; i < 8 && this.#hexes.length > 0; i++) {
      const hex = this.#hexes[this.#random.u32() % this.#hexes.length];
      if (accepts(hex)) return this.#byHex.get(hex);
    }
    return undefined;
  }

  /** Up to `count` different ones at random. */
  sample(count: number): Uint8Array[] {
    const all = this.nodes();
    const out: Uint8Array[] = [];
    while (out.length < count && all.length > 0) {
      const at = this.#random.u32() % all.length;
      out.push(all[at]);
      all[at] = all[all.length - 1];
      all.pop();
    }
    return out;
  }

  #dropOne(sent: Set<string> | undefined): void {
    for (const hex of sent ?? []) {
      sent?.delete(hex);
      if (!this.#byHex.has(hex)) continue;
      this.remove(hex);
      return;
    }
    const at = this.#random.u32() % this.#hexes.length;
    this.#byHex.delete(this.#hexes[at]);
    this.#removeAt(at);
  }

  #removeAt(at: number): void {
    this.#hexes[at] = this.#hexes[this.#hexes.length - 1];
    this.#hexes.pop();
  }
}
