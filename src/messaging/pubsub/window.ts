/**
 * Which sequences of a publisher have been here: everything up to a floor, and at most 64 ranges above it. At the bound the lowest hole
 * is given up and the floor rises over it, so the state of a stream stays small whatever arrives.
 */

/** Inclusive. */
export interface SequenceRange {
  readonly from: number;
  readonly to: number;
}

export const MAX_RANGES = 64;

export class SequenceWindow {
  #floor: number;
  // disjoint, not adjacent, ascending, all above floor + 1
  #from: number[] = [];
  #to: number[] = [];

  constructor(floor = 0) {
    this.#floor = floor;
  }

  /** Nothing up to here is wanted any more. */
  get floor(): number {
    return this.#floor;
  }

  /** The highest sequence that has been here. */
  get top(): number {
    return this.#to.at(-1) ?? this.#floor;
  }

  get hasHoles(): boolean {
    return this.#from.length > 0;
  }

  /** The ranges above the floor. */
  ranges(): SequenceRange[] {
    return this.#from.map((from, i) => ({ from, to: this.#to[i] }));
  }

  has(sequence: number): boolean {
    if (sequence <= this.#floor) return true;
    const at = this.#after(sequence);
    return at > 0 && sequence <= this.#to[at - 1];
  }

  /** @returns how many lower sequences were given up to stay within the bound */
  add(sequence: number): number {
    if (sequence === this.#floor + 1) {
      this.#floor = sequence;
      this.#absorb();
      return 0;
    }
    if (this.has(sequence)) return 0;
    const at = this.#after(sequence);
    const joinsLower = at > 0 && this.#to[at - 1] === sequence - 1;
    const joinsUpper = at < this.#from.length && this.#from[at] === sequence + 1;
    if (joinsLower && joinsUpper) {
      this.#to[at - 1] = this.#to[at];
      this.#from.splice(at, 1);
      this.#to.splice(at, 1);
    } else if (joinsLower) this.#to[at - 1] = sequence;
    else if (joinsUpper) this.#from[at] = sequence;
    else {
      this.#from.splice(at, 0, sequence);
      this.#to.splice(at, 0, sequence);
    }
    if (this.#from.length <= MAX_RANGES) return 0;
    return this.skipTo(this.#from[0] - 1);
  }

  /** Gives up what is missing up to `sequence`. @returns how many that were */
  skipTo(sequence: number): number {
    if (sequence <= this.#floor) return 0;
    let missing = sequence - this.#floor;
    let gone = 0;
    while (gone < this.#from.length && this.#from[gone] <= sequence) {
      missing -= Math.min(this.#to[gone], sequence) - this.#from[gone] + 1;
      if (this.#to[gone] > sequence) break;
      gone++;
    }
    this.#from.splice(0, gone);
    this.#to.splice(0, gone);
    if (this.#from.length > 0 && this.#from[0] <= sequence) this.#from[0] = sequence + 1;
    this.#floor = sequence;
    this.#absorb();
    return missing;
  }

  /** The holes up to `upTo`, lowest first, at most `limit` ranges. */
  missing(upTo: number, limit: number): SequenceRange[] {
    const holes: SequenceRange[] = [];
    let next = this.#floor + 1;
    for (let i = 0; i < this.#from.length && holes.length < limit && next <= upTo; i++) {
      if (this.#from[i] > next) holes.push({ from: next, to: Math.min(this.#from[i] - 1, upTo) });
      next = this.#to[i] + 1;
    }
    if (holes.length < limit && next <= upTo) holes.push({ from: next, to: upTo });
    return holes;
  }

  /** Index of the first range that begins above `sequence`. */
  #after(sequence: number): number {
    let low = 0;
    let high = this.#from.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#from[middle] <= sequence) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #absorb(): void {
    while (this.#from.length > 0 && this.#from[0] <= this.#floor + 1) {
      this.#floor = this.#to[0];
      this.#from.shift();
      this.#to.shift();
    }
  }
}
