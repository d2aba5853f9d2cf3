/** Packets in = packets out + what waits + the sum of all drop reasons, outbound, inbound and on the way through. */
import assert from "node:assert/strict";
import { Drop } from "../../src/base/drop.ts";
import { Counter, type PlaneStats } from "../../src/dataplane/stats.ts";

/** @throws AssertionError naming the direction in which a packet is unaccounted for */
export function conserves(stats: PlaneStats): void {
  let tx = 0;
  let rx = 0;
  for (const reason of Object.values(Drop)) {
    tx += stats.droppedTx(reason);
    rx += stats.droppedRx(reason);
  }
  const get = (counter: number): number => stats.get(counter);
  assert.equal(get(Counter.tunRxPackets), get(Counter.txPackets) + get(Counter.queued) + tx, "outbound");
  assert.equal(get(Counter.udpRxDatagrams), get(Counter.rxPackets) + get(Counter.rxInternal) + rx, "inbound");
  assert.equal(get(Counter.forwardTaken), get(Counter.forwarded) + get(Counter.forwardLost), "forwarding");
}
