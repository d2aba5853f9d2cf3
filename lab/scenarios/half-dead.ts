/**
 * One side has forgotten the session while the other believes in it: whole again within two seconds, although the forgetful side's own
 * handshakes do not get through. A daemon is killed and started again while the other one is stopped (SIGSTOP) and so sees nothing of it;
 * from then on the router drops the handshake datagrams that the forgetful one begins (the first byte of the UDP payload says so), so
 * it is the believer who has to notice missing delivery and to act.
 * Parts: "idle" (the first packet after the restart) and "loaded" (100 pings a second and a UDP flow all the time).
 */
import { HANDSHAKE_INIT_TYPE } from "../../src/wire/handshake-sizes.ts";
import { PingStream } from "../gaps.ts";
import type { Host } from "../namespaces.ts";
import { formNetwork, type WeftNode } from "../network.ts";
import { sleep } from "../process.ts";
import { routedHosts } from "../topologies.ts";
import { timeUntilAnswered } from "../traffic.ts";
import { atLeast, atMost, wanted, type Finding, type Scenario } from "./types.ts";

const ROUNDS = 5;
const LIMIT_MS = 2_000;
const LOADS = ["idle", "loaded"] as const;
/** Between two rounds: what limits how often a handshake may be tried has calmed down. */
const REST_MS = 6_000;
const GIVE_UP_MS = 30_000;

/** Drops what `from` sends to begin a handshake. @returns heals it and says how many it dropped */
async function muteHandshakes(router: Host, from: Host): Promise<() => Promise<number>> {
  await router.nft(`table inet mute { chain forward {
    type filter hook forward priority -5;
    ip saddr ${from.address4} meta l4proto udp @th,64,8 ${HANDSHAKE_INIT_TYPE} counter drop;
    ip6 saddr ${from.address6} meta l4proto udp @th,64,8 ${HANDSHAKE_INIT_TYPE} counter drop;
  }
}`);
  return async () => {
    const text = await router.must("nft", ["list", "table", "inet", "mute"]);
    await router.must("nft", ["delete", "table", "inet", "mute"]);
    return [...text.matchAll(/counter packets (\d+)/g)].reduce((sum, match) => sum + Number(match[1]), 0);
  };
}

/** @returns milliseconds from when both run again to the first answer that the believer gets */
async function forget(
  victim: WeftNode,
  believer: WeftNode,
  router: Host,
  load: (typeof LOADS)[number],
): Promise<number> {
  const address = await victim.address(4);
  const stream = load === "loaded" ? PingStream.start(believer.host, address) : undefined;
  try {
    if (stream !== undefined) await sleep(1_000);
    believer.daemon?.signal("SIGSTOP");
    await victim.kill();
    const heal = await muteHandshakes(router, victim.host);
    try {
      await victim.up();
      believer.daemon?.signal("SIGCONT");
      const readyMs = Date.now();
      if (stream === undefined) return await timeUntilAnswered(believer.host, address, GIVE_UP_MS);
      for (;;) {
        const first = stream.replies.findLast(() => true);
        if (first !== undefined && first.atMs > readyMs) {
          const answered = stream.replies.find(({ atMs }) => atMs > readyMs);
          return (answered?.atMs ?? Number.POSITIVE_INFINITY) - readyMs;
        }
        if (Date.now() - readyMs > GIVE_UP_MS) return Number.POSITIVE_INFINITY;
        await sleep(20);
      }
    } finally {
      believer.daemon?.signal("SIGCONT");
      await heal();
    }
  } finally {
    await stream?.stop();
  }
}

export const halfDead: Scenario = {
  name: "half-dead",
  about: `one side loses its session and cannot begin another, the other believes in it: whole again ≤ ${LIMIT_MS} ms`,
  run: async (say, options): Promise<readonly Finding[]> => {
    const { lab, router, hosts } = await routedHosts(["a", "b"]);
    const findings: Finding[] = [];
    const rounds = options.rounds ?? (options.quick ? 2 : ROUNDS);
    try {
      const network = await formNetwork(lab, hosts);
      await network.allPairs();
      // What was learned in the last moment before a kill may be lost with it: let the join reach the disk.
      await sleep(1_000);
      const [a, b] = [network.node("a"), network.node("b")];
      for (const load of LOADS) {
        if (!wanted(options, load, LOADS)) continue;
        for (const [victim, believer] of [
          [a, b],
          [b, a],
        ] as const) {
          const waits: number[] = [];
          for (let round = 0; round < rounds; round++) {
            waits.push(await forget(victim, believer, router, load));
            say(`  ${load}, ${victim.name} forgot: ${Math.round(waits.at(-1) ?? Number.NaN)} ms`);
            await network.allPairs();
            await sleep(REST_MS);
          }
          findings.push(
            atMost(`${load}, ${victim.name} forgot: longest wait`, Math.max(...waits), LIMIT_MS, "ms"),
            atLeast(`${load}, ${victim.name} forgot: rounds`, waits.length, rounds, "times"),
          );
        }
      }
      return findings;
    } finally {
      await lab.close();
    }
  },
};
