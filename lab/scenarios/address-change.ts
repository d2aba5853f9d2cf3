/** The underlay address of one side changes again and again under one TCP connection: it survives, and no gap is longer than a second. */
import { formNetwork } from "../network.ts";
import type { Host, Link } from "../namespaces.ts";
import { sleep } from "../process.ts";
import { routedHosts } from "../topologies.ts";
import { iperf, ping } from "../traffic.ts";
import { atLeast, atMost, type Finding, type Scenario } from "./types.ts";

const CHANGES = 5;
const EVERY_MS = 4_000;
const PING_MS = 9;

/** Moves `host` to another address of the same link, as DHCP or another access point would: the old one is gone at once. */
export async function changeAddress(host: Host, link: Link, from: number, to: number): Promise<void> {
  const four = (last: number): string => `${link.a.address4.replace(/\.\d+$/, `.${last}`)}/24`;
  const six = (last: number): string => `${link.a.address6.replace(/::[\da-f]+$/, `::${last}`)}/64`;
  const { device } = link.a;
  await host.ip("addr", "del", four(from), "dev", device);
  await host.ip("addr", "add", four(to), "dev", device);
  await host.ip("-6", "addr", "del", six(from), "dev", device);
  await host.ip("-6", "addr", "add", six(to), "dev", device, "nodad");
  await host.defaultRoute(link.b);
}

export const addressChange: Scenario = {
  name: "address-change",
  about: `the address of one side changes ${CHANGES} times under iperf3: the connection survives, gaps ≤ 1 s`,
  run: async (say): Promise<readonly Finding[]> => {
    const { lab, hosts, links } = await routedHosts(["a", "b"]);
    const [link] = links;
    if (link === undefined) throw new Error("no link");
    try {
      const network = await formNetwork(lab, hosts);
      await network.allPairs();
      const [a, b] = [network.node("a"), network.node("b")];
      const address = await a.address(4);
      const seconds = Math.ceil(((CHANGES + 1) * EVERY_MS) / 1_000);
      // The client receives, so that its intervals show what arrived; pings beside it give the gap in finer steps.
      const flow = iperf(b.host, a.host, address, { seconds, reverse: true, intervalSeconds: 0.1, rateBps: 200e6 });
      const pings = ping(b.host, address, {
        count: Math.floor((seconds * 1_000 - 2_000) / PING_MS),
        intervalMs: PING_MS,
      });
      for (let change = 0; change < CHANGES; change++) {
        await sleep(EVERY_MS);
        await changeAddress(a.host, link, change === 0 ? 1 : 50 + change, 51 + change);
        say(`  change ${change + 1} of ${CHANGES}`);
      }
      const [result, echo] = await Promise.all([flow, pings]);
      let gap = 0;
      let longest = 0;
      for (const bps of result.intervals) {
        gap = bps === 0 ? gap + 100 : 0;
        longest = Math.max(longest, gap);
      }
      return [
        atMost("longest gap of the TCP flow", longest, 1_000, "ms"),
        atMost("longest gap of the pings", echo.longestGapMs, 1_000, "ms"),
        atLeast("mean rate", result.bitsPerSecond / 1e6, 150, "Mbit/s of 200"),
      ];
    } finally {
      await lab.close();
    }
  },
};
