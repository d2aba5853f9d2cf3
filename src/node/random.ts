/** The system's random generator behind the Random interface; u32 draws come from a small buffer, so they cost no call each. */
import { randomFillSync } from "node:crypto";
import type { Random } from "../base/random.ts";

const pool = new Uint32Array(64);
let left = 0;

export const systemRandom: Random = {
  bytes(length: number): Uint8Array {
    return randomFillSync(new Uint8Array(length));
  },
  u32(): number {
    if (left === 0) {
      randomFillSync(pool);
      left = pool.length;
    }
    left--;
    const value = pool[left];
    pool[left] = 0;
    return value;
  },
  unit(): number {
    return this.u32() / 4294967296;
  },
};
