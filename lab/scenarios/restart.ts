/** kill -9 of either side, again and again: after each restart traffic flows within two seconds of `ready`, without joining again. */
import { formNetwork } from "../network.ts";
import { sleep } from "../process.ts";
import { twoHosts } from "../topologies.ts";
import { timeUntilAnswered } from "../traffic.ts";
import { atLeast, atMost, type Finding, type Scenario } from "./types.ts";

const ROUNDS = 5;
const LIMIT_MS = 2_000;

export const restart: Scenario = {
  name: "restart",
  about: `kill -9 of either side ${ROUNDS} times each, traffic flows within ${LIMIT_MS} ms after it is up`,
  run: async (say): Promise<readonly Finding[]> => {
    const { lab, a, b } = await twoHosts();
    try {
      const network = await formNetwork(lab, [a, b]);
      await network.allPairs();
      const waits: number[] = [];
      for (let round = 0; round < ROUNDS * 2; round++) {
        const victim = network.node(round % 2 === 0 ? "a" : "b");
        const other = network.node(round % 2 === 0 ? "b" : "a");
        const address = await victim.address(4);
        await victim.kill();
        await sleep(round * 300);
        await victim.up();
        waits.push(await timeUntilAnswered(other.host, address, 30_000));
        say(`  ${victim.name} restarted: ${Math.round(waits.at(-1) ?? Number.NaN)} ms`);
      }
      return [
        atMost("longest wait after ready", Math.max(...waits), LIMIT_MS, "ms"),
        atLeast("restarts", waits.length, ROUNDS * 2, "times"),
      ];
    } finally {
      await lab.close();
    }
  },
};
