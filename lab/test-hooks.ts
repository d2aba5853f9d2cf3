/**
 * The environment variables by which tests make a daemon's life harder than a machine would, in one place. They change when things
 * happen, never what is checked, and a daemon that runs with one says so at start.
 */
export interface TestHooks {
  /** Added to the wall clock. */
  readonly wallOffsetMs?: number;
  /** Every commit of the storage thread takes this much longer. */
  readonly commitDelayMs?: number;
  /** The control thread is blocked for `forMs` in every `everyMs`. */
  readonly blockControl?: { readonly forMs: number; readonly everyMs: number };
  /** Initiators rekey this often instead of every 120 s. */
  readonly rekeyMs?: number;
}

/** @returns what to add to the environment of `weft up` */
export function testEnvironment(hooks: TestHooks): Record<string, string> {
  const environment: Record<string, string> = {};
  if (hooks.wallOffsetMs !== undefined) environment["WEFT_TEST_WALL_OFFSET_MS"] = String(hooks.wallOffsetMs);
  if (hooks.commitDelayMs !== undefined) environment["WEFT_TEST_COMMIT_DELAY_MS"] = String(hooks.commitDelayMs);
  if (hooks.blockControl !== undefined) {
    environment["WEFT_TEST_BLOCK_CONTROL"] = `${hooks.blockControl.forMs}/${hooks.blockControl.everyMs}`;
  }
  if (hooks.rekeyMs !== undefined) environment["WEFT_TEST_REKEY_MS"] = String(hooks.rekeyMs);
  return environment;
}
