/**
 * From (scope, label), two u32, to a small number: open addressing with linear probing, at most half full, seeded so that nobody outside can choose
 * labels that collide. get() allocates nothing; set() may, when the table grows.
 */
const FIRST_CAPACITY = 64;

export class LabelTable {
  readonly #seed: number;
  #scopes: Uint32Array = new Uint32Array(FIRST_CAPACITY);
  #labels: Uint32Array = new Uint32Array(FIRST_CAPACITY);
  /** Value + 1; 0 = empty. */
  #values: Int32Array = new Int32Array(FIRST_CAPACITY);
  #mask: number = FIRST_CAPACITY - 1;
  size = 0;

  /** @param seed random u32 */
  constructor(seed: number) {
    this.#seed = seed;
  }

  /** HOT. @returns the value, or −1 */
  get(scope: number, label: number): number {
    let at = this.#home(scope, label);
    for (;;) {
      const value = this.#values[at];
      if (value === 0) return -1;
      if (this.#labels[at] === label && this.#scopes[at] === scope) return value - 1;
      at = (at + 1) & this.#mask;
    }
  }

  /** Puts or replaces. @param value ≥ 0 */
  set(scope: number, label: number, value: number): void {
    if ((this.size + 1) * 2 > this.#values.length) this.#grow();
    let at = this.#home(scope, label);
    while (this.#values[at] !== 0 && (this.#labels[at] !== label || this.#scopes[at] !== scope)) {
      at = (at + 1) & this.#mask;
    }
    if (this.#values[at] === 0) this.size++;
    this.#scopes[at] = scope;
    this.#labels[at] = label;
    this.#values[at] = value + 1;
  }

  delete(scope: number, label: number): void {
    let hole = this.#home(scope, label);
    while (this.#values[hole] !== 0 && (this.#labels[hole] !== label || this.#scopes[hole] !== scope)) {
      hole = (hole + 1) & this.#mask;
    }
    if (this.#values[hole] === 0) return;
    this.size--;
    this.#values[hole] = 0;
    // backward-shift deletion keeps every probe sequence unbroken without tombstones (Knuth, TAOCP 6.4, algorithm R)
    for (let at = (hole + 1) & this.#mask; this.#values[at] !== 0; at = (at + 1) & this.#mask) {
      const home = this.#home(this.#scopes[at], this.#labels[at]);
      if (((at - home) & this.#mask) < ((at - hole) & this.#mask)) continue;
      this.#scopes[hole] = this.#scopes[at];
      this.#labels[hole] = this.#labels[at];
      this.#values[hole] = this.#values[at];
      this.#values[at] = 0;
      hole = at;
    }
  }

  #home(scope: number, label: number): number {
    let hash = Math.imul(label ^ this.#seed, 0x9e3779b1) ^ Math.imul(scope + 1, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0xc2b2ae35);
    return (hash ^ (hash >>> 13)) & this.#mask;
  }

  #grow(): void {
    const scopes = this.#scopes;
    const labels = this.#labels;
    const values = this.#values;
    const capacity = values.length * 2;
    this.#scopes = new Uint32Array(capacity);
    this.#labels = new Uint32Array(capacity);
    this.#values = new Int32Array(capacity);
    this.#mask = capacity - 1;
    this.size = 0;
    for (let i = 0; i < values.length; i++) if (values[i] !== 0) this.set(scopes[i], labels[i], values[i] - 1);
  }
}
