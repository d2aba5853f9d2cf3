/** Handling of secret bytes: comparison in constant time and overwriting. */
import { timingSafeEqual } from "node:crypto";

/** Compares secrets or tags; the time depends on the length only. Different lengths are unequal. */
export function constantTimeEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

/** Overwrites keys with zeros; `undefined` entries are skipped so that optional keys need no test at the call. */
export function zeroise(...secrets: readonly (Uint8Array | undefined)[]): void {
  for (const secret of secrets) secret?.fill(0);
}
