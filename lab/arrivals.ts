/**
 * Watches the receive counter of a device in this network namespace and prints when it has grown, as milliseconds of the wall clock.
 *
 *   bin/weft-node lab/arrivals.ts weft0       prints "watching", then lines of times; ends with a signal or when its input ends
 */
import { closeSync, openSync, readSync, writeSync } from "node:fs";

const LOOK_MS = 2;
const PRINT_MS = 100;

function main(device: string): void {
  const text = Buffer.alloc(32);
  const read = (): string => {
    // sysfs gives a fresh value for every open file only at offset 0, which a positioned read is.
    const bytes = readSync(file, text, 0, text.length, 0);
    return text.toString("latin1", 0, bytes);
  };
  const file = openSync(`/sys/class/net/${device}/statistics/rx_bytes`, "r");
  let last = read();
  let times: string[] = [];
  const look = setInterval(() => {
    const now = read();
    if (now === last) return;
    last = now;
    times.push((performance.timeOrigin + performance.now()).toFixed(1));
  }, LOOK_MS);
  const print = setInterval(() => {
    if (times.length > 0) writeSync(1, `${times.join(" ")}\n`);
    times = [];
  }, PRINT_MS);
  process.stdin.resume().on("end", () => {
    clearInterval(look);
    clearInterval(print);
    closeSync(file);
  });
  writeSync(1, "watching\n");
}

if (import.meta.main) main(process.argv[2] ?? "");
