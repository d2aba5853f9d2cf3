/** Earliest deadline of many slots: a binary heap with each slot in it at most once, so moving a deadline costs O(log n). */

export class Deadlines {
  readonly #heap: number[] = [];
  /** Slot → position in the heap. */
  readonly #position = new Map<number, number>();
  readonly #at = new Map<number, number>();

  /** Earliest deadline, ms; Infinity when there is none. */
  next(): number {
    const slot = this.#heap[0];
    return slot === undefined ? Infinity : this.#time(slot);
  }

  /** @param atMs Infinity removes the slot */
  set(slot: number, atMs: number): void {
    if (atMs === Infinity) {
      this.#remove(slot);
      return;
    }
    this.#at.set(slot, atMs);
    let position = this.#position.get(slot);
    if (position === undefined) {
      position = this.#heap.length;
      this.#heap.push(slot);
      this.#position.set(slot, position);
    }
    this.#down(this.#up(position));
  }

  /** Takes the slot whose deadline is earliest, if that is at or before `nowMs`. @returns the slot, or −1 */
  takeDue(nowMs: number): number {
    const slot = this.#heap[0];
    if (slot === undefined || this.#time(slot) > nowMs) return -1;
    this.#remove(slot);
    return slot;
  }

  #time(slot: number): number {
    return this.#at.get(slot) as number;
  }

  #remove(slot: number): void {
    const position = this.#position.get(slot);
    if (position === undefined) return;
    this.#position.delete(slot);
    this.#at.delete(slot);
    const last = this.#heap.pop() as number;
    if (last === slot) return;
    this.#place(last, position);
    this.#down(this.#up(position));
  }

  #place(slot: number, position: number): void {
    this.#heap[position] = slot;
    this.#position.set(slot, position);
  }

  #up(from: number): number {
    let position = from;
    const slot = this.#heap[position];
    while (position > 0) {
      const above = (position - 1) >> 1;
      const other = this.#heap[above];
      if (this.#time(other) <= this.#time(slot)) break;
      this.#place(other, position);
      position = above;
    }
    this.#place(slot, position);
    return position;
  }

  #down(from: number): void {
    let position = from;
    const slot = this.#heap[position];
    for (;;) {
      let below = position * 2 + 1;
      if (below >= this.#heap.length) break;
      const right = this.#heap[below + 1];
      if (right !== undefined && this.#time(right) < this.#time(this.#heap[below])) below++;
      const other = this.#heap[below];
      if (this.#time(other) >= this.#time(slot)) break;
      this.#place(other, position);
      position = below;
    }
    this.#place(slot, position);
  }
}
