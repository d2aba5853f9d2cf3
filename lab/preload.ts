/**
 * Loaded into an unchanged daemon with NODE_OPTIONS=--import (test-hooks.ts writes it): moves its wall clock, or shortens its rekeying.
 * So the product has no test switches.
 *   WEFT_LAB_WALL_OFFSET_MS=400000   Date says this much more, in every thread
 *   WEFT_LAB_WALL_JUMP=AT/BY          from AT on (milliseconds of the monotonic clock) it says BY more
 *   WEFT_LAB_REKEY_MS=1000           the initiator of a session rekeys this often, without jitter
 */
import { isMainThread } from "node:worker_threads";

const offsetMs = Number(process.env["WEFT_LAB_WALL_OFFSET_MS"] ?? 0);
const [jumpAtMs = Number.POSITIVE_INFINITY, jumpByMs = 0] = (process.env["WEFT_LAB_WALL_JUMP"] ?? "")
  .split("/")
  .filter((part) => part !== "")
  .map(Number);
if (offsetMs !== 0 || jumpByMs !== 0) {
  const now = Date.now.bind(Date);
  const jumpMs = (): number => (Number(process.hrtime.bigint()) / 1e6 >= jumpAtMs ? jumpByMs : 0);
  Date.now = () => now() + offsetMs + jumpMs();
  globalThis.Date = new Proxy(Date, {
    construct: (target, args: unknown[], own) =>
      Reflect.construct(target, args.length === 0 ? [Date.now()] : args, own) as Date,
  });
}

const rekeyMs = Number(process.env["WEFT_LAB_REKEY_MS"] ?? 0);
if (rekeyMs > 0 && isMainThread) {
  // The times of a session are resolved once into a frozen object: the moment to change one of them.
  const { freeze } = Object;
  Object.freeze = <T>(value: T): Readonly<T> => {
    if (typeof value === "object" && value !== null && "rekeyMs" in value && "rekeyJitter" in value) {
      Object.assign(value, { rekeyMs, rekeyJitter: 0 });
    }
    return freeze(value);
  };
}
