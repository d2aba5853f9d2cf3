/**
 * Everything src/sys can prove about itself in a few milliseconds and without touching the network: `weft doctor` runs it.
 */
import { Slab } from "../base/slab.ts";
import { createAead } from "./aead.ts";
import { selfTestCalls } from "./libc.ts";
import { createMac } from "./mac.ts";

/** Foreign calls, AEAD and MAC against published vectors and node:crypto. @throws WeftError PLATFORM, or SysError saying what does not hold */
export function selfTest(): void {
  selfTestCalls();
  const slab = new Slab(8192);
  createAead({ slab }).close();
  createMac({ slab }).close();
}
