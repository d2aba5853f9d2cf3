/**
 * a and b cannot reach each other in any way, and there is no beacon; c and d reach both. Traffic flows within two seconds of the first
 * packet, through one of them; that one is killed, and the other takes over within a second.
 */
import { PingStream } from "../gaps.ts";
import { sleep } from "../process.ts";
import { timeUntilAnswered } from "../traffic.ts";
import { atLeast, atMost, holds, type Finding, type Scenario } from "./types.ts";
import { openWay } from "./ways.ts";

const FIRST_MS = 2_000;
const GAP_MS = 1_000;
const ROUNDS = 10;

export const transit: Scenario = {
  name: "transit",
  about: `two nodes that only others can join: traffic ≤ ${FIRST_MS} ms after the first packet; the one in between is killed: gap ≤ ${GAP_MS} ms`,
  run: async (say, options): Promise<readonly Finding[]> => {
    const rounds = options.rounds ?? (options.quick ? 2 : ROUNDS);
    const { lab, network } = await openWay("transit");
    try {
      const [a, b] = [network.node("a"), network.node("b")];
      const address = await b.address(4);
      await sleep(1_000);
      const firstMs = await timeUntilAnswered(a.host, address, 20_000);
      const findings: Finding[] = [atMost("first answer after the first packet", firstMs, FIRST_MS, "ms")];
      if (!Number.isFinite(firstMs)) return findings;
      const seen = await a.peer("b", 5_000, ({ path }) => path.kind !== "none");
      findings.push(holds("the path goes through a member", seen.path.kind === "transit", JSON.stringify(seen.path)));
      const gaps: number[] = [];
      const stream = PingStream.start(a.host, address);
      try {
        for (let round = 0; round < rounds; round++) {
          // Long enough that the other one is known as a spare.
          await sleep(5_000);
          const { path } = await a.peer("b", 5_000, (peer) => peer.path.kind === "transit");
          const between = network.nodes.find(({ name }) => path.via !== null && path.via.includes(name));
          if (between === undefined)
            throw new Error(`a's path to b does not say through whom: ${JSON.stringify(path)}`);
          const killedMs = Date.now();
          await between.kill();
          await sleep(3_000);
          gaps.push(stream.longestGapMs(killedMs, Date.now()));
          say(`  ${between.name} killed: gap ${Math.round(gaps.at(-1) ?? Number.NaN)} ms`);
          await between.up();
          await a.peer(between.name);
          await b.peer(between.name);
        }
      } finally {
        await stream.stop();
      }
      findings.push(
        atMost("longest gap after the one in between was killed", Math.max(...gaps), GAP_MS, "ms"),
        atLeast("times killed", gaps.length, rounds, "times"),
      );
      return findings;
    } finally {
      await lab.close();
    }
  },
};
