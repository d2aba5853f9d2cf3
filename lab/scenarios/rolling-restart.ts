/** Twelve nodes, restarted one after the other: all ordered pairs reach each other within 30 s of the last restart. */
import { formNetwork, type WeftNode } from "../network.ts";
import { sleep } from "../process.ts";
import { routedHosts } from "../topologies.ts";
import { timeUntilAnswered } from "../traffic.ts";
import { atLeast, atMost, type Finding, type Scenario } from "./types.ts";

const NODES = 12;
const QUICK_NODES = 4;
const LIMIT_MS = 30_000;
/** Between one node's `ready` and the next one's kill. */
const PAUSE_MS = 500;

/** @returns milliseconds until all others were reached, one after the other would be unfair to the last */
async function reachAll(from: WeftNode, others: readonly string[]): Promise<number> {
  const began = performance.now();
  const waits = await Promise.all(others.map((address) => timeUntilAnswered(from.host, address, LIMIT_MS * 2)));
  return waits.every(Number.isFinite) ? performance.now() - began : Number.POSITIVE_INFINITY;
}

export const rollingRestart: Scenario = {
  name: "rolling-restart",
  about: `${NODES} nodes are restarted one after the other: all ordered pairs work within ${LIMIT_MS / 1_000} s of the last one`,
  run: async (say, options): Promise<readonly Finding[]> => {
    const count = options.rounds ?? (options.quick ? QUICK_NODES : NODES);
    const { lab, hosts } = await routedHosts(Array.from({ length: count }, (_, index) => `n${index}`));
    try {
      const network = await formNetwork(lab, hosts);
      const addresses = new Map<string, string>();
      for (const node of network.nodes) addresses.set(node.name, await node.address(4));
      say(`  ${count} nodes are up`);
      for (const node of network.nodes) {
        await node.stop();
        await node.up();
        await sleep(PAUSE_MS);
      }
      const lastMs = performance.now();
      say("  all are restarted");
      let pairs = 0;
      let longestMs = 0;
      // From one node at a time, so that what is measured is the network and not this machine.
      for (const from of network.nodes) {
        const others = network.nodes.filter((node) => node !== from).map((node) => addresses.get(node.name) ?? "");
        const waitMs = await reachAll(from, others);
        if (Number.isFinite(waitMs)) pairs += others.length;
        longestMs = Math.max(longestMs, waitMs);
      }
      return [
        atLeast("ordered pairs that work", pairs, count * (count - 1), "pairs"),
        atMost("since the last restart", performance.now() - lastMs, LIMIT_MS, "ms"),
        atMost("longest wait of one node for all others", longestMs, LIMIT_MS, "ms"),
      ];
    } finally {
      await lab.close();
    }
  },
};
