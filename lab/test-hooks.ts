/** How tests make a daemon's life harder than a machine would: environments that load preload.ts and the bench's stalls into it. */
const PRELOAD = new URL("./preload.ts", import.meta.url).href;
const STALL = new URL("../bench/tools/stall.ts", import.meta.url).href;

export interface TestHooks {
  /** Added to the wall clock. */
  readonly wallOffsetMs?: number;
  /** Every commit and fsync takes this much longer. */
  readonly commitDelayMs?: number;
  /** The control thread stands still for `forMs` in every `everyMs`. */
  readonly blockControl?: { readonly forMs: number; readonly everyMs: number };
  /** Initiators rekey this often instead of every 120 s. */
  readonly rekeyMs?: number;
  /** The wall clock jumps by `byMs` once, `inMs` from now. */
  readonly wallJump?: { readonly inMs: number; readonly byMs: number };
}

/** @returns what to add to the environment of `weft up` */
export function testEnvironment(hooks: TestHooks): Record<string, string> {
  const environment: Record<string, string> = { NODE_OPTIONS: `--import=${PRELOAD} --import=${STALL}` };
  if (hooks.wallOffsetMs !== undefined) environment["WEFT_LAB_WALL_OFFSET_MS"] = String(hooks.wallOffsetMs);
  if (hooks.wallJump !== undefined) {
    const atMs = Math.round(Number(process.hrtime.bigint()) / 1e6) + hooks.wallJump.inMs;
    environment["WEFT_LAB_WALL_JUMP"] = `${atMs}/${hooks.wallJump.byMs}`;
  }
  if (hooks.rekeyMs !== undefined) environment["WEFT_LAB_REKEY_MS"] = String(hooks.rekeyMs);
  if (hooks.commitDelayMs !== undefined) environment["WEFT_BENCH_COMMIT_MS"] = String(hooks.commitDelayMs);
  if (hooks.blockControl !== undefined) {
    environment["WEFT_BENCH_BLOCK_MS"] = `${hooks.blockControl.forMs}/${hooks.blockControl.everyMs}`;
  }
  return environment;
}
