/** Randomness as protocols see it: an argument. The daemon passes the system's generator, the simulator a seeded one. */
export interface Random {
  /** `length` fresh bytes, owned by the caller */
  bytes(length: number): Uint8Array;
  /** uniform in 0 … 2^32 − 1 */
  u32(): number;
  /** uniform in [0, 1) */
  unit(): number;
}

/** xoshiro128** (Blackman, Vigna 2018) from a 32-bit seed: replays exactly; never for keys outside tests and simulation. */
export class SeededRandom implements Random {
  readonly #state: Uint32Array = new Uint32Array(4);

  constructor(seed: number) {
    let x = seed >>> 0;
    for (let i = 0; i < 4; i++) {
      // splitmix32 spreads small seeds over the whole state
      x = (x + 0x9e3779b9) >>> 0;
      let z = x;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      this.#state[i] = (z ^ (z >>> 16)) >>> 0;
    }
  }

  u32(): number {
    const s = this.#state;
    const s1 = s[1];
    const product = Math.imul(s1, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const t = s1 << 9;
    s[2] = s[2] ^ s[0];
    s[3] = s[3] ^ s1;
    s[1] = s1 ^ s[2];
    s[0] = s[0] ^ s[3];
    s[2] = s[2] ^ t;
    const s3 = s[3];
    s[3] = (s3 << 11) | (s3 >>> 21);
    return result;
  }

  unit(): number {
    return this.u32() / 4294967296;
  }

  bytes(length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) out[i] = this.u32() >>> 24;
    return out;
  }
}
