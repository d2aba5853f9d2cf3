/**
 * Makes a daemon suffer, from outside of the product: loaded with NODE_OPTIONS=--import into every thread of the process.
 *   WEFT_BENCH_COMMIT_MS=500           every commit of the database and every fsync takes that much longer
 *   WEFT_BENCH_BLOCK_MS=1000/3000      the main thread stands still for 1,000 ms in every 3,000 ms
 * Standing still is sleeping: it takes no processor time from anybody.
 */
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { DatabaseSync } from "node:sqlite";
import { isMainThread } from "node:worker_threads";

/** The daemon may start in peace. */
const START_MS = 5_000;

const sleeper = new Int32Array(new SharedArrayBuffer(4));

function sleep(ms: number): void {
  Atomics.wait(sleeper, 0, 0, ms);
}

const commitMs = Number(process.env["WEFT_BENCH_COMMIT_MS"] ?? 0);
if (commitMs > 0) {
  const { exec } = DatabaseSync.prototype;
  DatabaseSync.prototype.exec = function (sql: string): void {
    if (/^\s*COMMIT/i.test(sql)) sleep(commitMs);
    exec.call(this, sql);
  };
  const { fsyncSync } = fs;
  fs.fsyncSync = (descriptor: number): void => {
    sleep(commitMs);
    fsyncSync(descriptor);
  };
  syncBuiltinESMExports();
}

const [blockMs = 0, everyMs = 0] = (process.env["WEFT_BENCH_BLOCK_MS"] ?? "").split("/").map(Number);
if (isMainThread && blockMs > 0) {
  setTimeout(() => setInterval(() => sleep(blockMs), everyMs).unref(), START_MS).unref();
}
