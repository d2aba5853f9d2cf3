/**
 * Packet sizes. Parts:
 *   direct, nat, relay, transit   1,000-byte pings with DF and 976-byte UDP datagrams both ways for 90 s: none is lost
 *   1280, 1420, 1500, 9000        underlays of that MTU: TCP over both families never stalls, a packet that is too large gets an ICMP
 *                                 error with the size that fits exactly; and 9,000 is worth its while over 1,500
 *   changing                      an underlay that gets smaller and larger again under load, with and without ICMP from the router
 */
import { TcpFlow } from "../gaps.ts";
import type { Host } from "../namespaces.ts";
import { formNetwork, type WeftNetwork, type WeftNode } from "../network.ts";
import { sleep } from "../process.ts";
import { impairedHosts, twoHosts } from "../topologies.ts";
import { iperf, ping } from "../traffic.ts";
import { atLeast, atMost, holds, wanted, type Finding, type Scenario, type ScenarioOptions } from "./types.ts";
import { KIND_OF_WAY, openWay, WAYS, type Way } from "./ways.ts";

const SAFE_SECONDS = 90;
const QUICK_SAFE_SECONDS = 10;
const PING_BYTES = 1_000;
const DATAGRAM_BYTES = 976;
const DATAGRAM_BPS = 1e6;
const STALL_MS = 2_000;
const UNDERLAYS = [1_280, 1_420, 1_500, 9_000] as const;
/** Pings of exactly the size that an error told. */
const SIZES_TRIES = 3;
const SIZED_PINGS = 20;
const JUMBO_GAIN = 1.3;
const CHANGES = [1_300, 1_500, 1_280, 1_500];
const CHANGE_EVERY_MS = 6_000;
const PARTS: readonly string[] = [...WAYS, ...UNDERLAYS.map(String), "changing"];
/** IPv4 and ICMP header; IPv6 and ICMPv6 header. */
const HEADERS: Readonly<Record<4 | 6, number>> = { 4: 28, 6: 48 };

type Say = (line: string) => void;

/** Pings that must not be fragmented. @returns how many were lost of how many */
async function firmPings(from: Host, address: string, seconds: number): Promise<{ lost: number; sent: number }> {
  const args = ["-n", "-M", "do", "-s", String(PING_BYTES), "-i", "0.2", "-c", String(seconds * 5), "-W", "3", address];
  const { stdout } = await from.exec("ping", args, { timeoutMs: (seconds + 20) * 1_000 });
  const match = /(\d+) packets transmitted, (\d+) received/.exec(stdout);
  if (match === null) return { lost: Number.NaN, sent: 0 };
  return { lost: Number(match[1]) - Number(match[2]), sent: Number(match[1]) };
}

async function safe(way: Way, options: ScenarioOptions, say: Say): Promise<readonly Finding[]> {
  const { lab, network } = await openWay(way);
  const seconds = options.quick ? QUICK_SAFE_SECONDS : SAFE_SECONDS;
  try {
    const [a, b] = [network.node("a"), network.node("b")];
    // The first packet opens the way; what is measured is the way.
    await ping(a.host, await b.address(4), { count: 50, intervalMs: 100 });
    const { path } = await a.peer("b", 10_000, (peer) => peer.online && peer.path.kind !== "none");
    say(`  ${way}: ${seconds} s over ${path.kind} ${path.endpoint ?? path.via ?? ""}`);
    const findings: Finding[] = [
      holds(`${way}: the path is ${KIND_OF_WAY[way]}`, path.kind === KIND_OF_WAY[way], path.kind),
    ];
    const directions: readonly (readonly [WeftNode, WeftNode])[] = [
      [a, b],
      [b, a],
    ];
    const udp = { protocol: "udp", rateBps: DATAGRAM_BPS, lengthBytes: DATAGRAM_BYTES, seconds } as const;
    const results = await Promise.all(
      directions.map(async ([from, to]) => {
        const address = await to.address(4);
        const [echo, flow] = await Promise.all([
          firmPings(from.host, address, seconds),
          iperf(from.host, to.host, address, udp),
        ]);
        return { from, echo, flow };
      }),
    );
    for (const { from, echo, flow } of results) {
      const lost = Math.round(flow.lossRatio * flow.packets);
      findings.push(
        atMost(`${way}: ${PING_BYTES}-byte pings with DF lost from ${from.name}`, echo.lost, 0, `of ${echo.sent}`),
        atMost(`${way}: ${DATAGRAM_BYTES}-byte datagrams lost from ${from.name}`, lost, 0, `of ${flow.packets}`),
        atLeast(
          `${way}: datagrams sent from ${from.name}`,
          flow.packets,
          (seconds * DATAGRAM_BPS) / 8 / DATAGRAM_BYTES / 2,
          "",
        ),
      );
    }
    return findings;
  } finally {
    await lab.close();
  }
}

/** What a ping that is too large is told. @returns the MTU of the error, undefined when there was none, and whether it arrived all the same */
async function reportedMtu(
  from: Host,
  address: string,
  bytes: number,
): Promise<{ readonly mtu: number | undefined; readonly arrived: boolean }> {
  // The first one may only teach the kernel; it is told at the latest when it sends the second.
  const args = ["-n", "-M", "do", "-s", String(bytes), "-i", "0.2", "-c", "3", "-W", "1", address];
  const { stdout, stderr } = await from.exec("ping", args, { timeoutMs: 20_000 });
  const match = /mtu[= :]+(\d+)/i.exec(`${stdout}\n${stderr}`);
  return { mtu: match === null ? undefined : Number(match[1]), arrived: /bytes from/.test(stdout) };
}

async function endpointOf(a: WeftNode): Promise<string | null> {
  return (await a.peer("b", 5_000, () => true)).path.endpoint;
}

async function oneSize(name: string, from: Host, address: string, family: 4 | 6, underlay: number): Promise<Finding> {
  const { mtu } = await reportedMtu(from, address, Math.max(underlay, 1_500) + 500);
  if (mtu === undefined) return holds(`${name}: a packet that is too large is refused with a size`, false, "no error");
  const bytes = mtu - HEADERS[family];
  // A path that was never used for this size may learn its own by losing a packet.
  await ping(from, address, { count: 3, intervalMs: 50, bytes, graceMs: 500 });
  const fits = await ping(from, address, { count: SIZED_PINGS, intervalMs: 50, bytes });
  const larger = await reportedMtu(from, address, bytes + 1);
  const least = family === 6 ? 1_280 : underlay - 160;
  const more = larger.mtu === undefined ? (larger.arrived ? "arrives" : "no error") : `refused with ${larger.mtu}`;
  return holds(
    `${name}: the error's size is the one that fits`,
    // the size may have been found to be larger meanwhile: then one byte more arrives
    fits.received === SIZED_PINGS &&
      (larger.mtu === mtu || (larger.mtu === undefined && larger.arrived)) &&
      mtu >= least &&
      mtu < Math.max(underlay, 1_281),
    `${mtu} bytes reported; ${fits.received} of ${SIZED_PINGS} of that size arrive; one byte more: ${more}`,
  );
}

/** The largest packet passes and one byte more is refused with just that size. */
async function sizes(what: string, network: WeftNetwork, underlay: number): Promise<readonly Finding[]> {
  const [a, b] = [network.node("a"), network.node("b")];
  const findings: Finding[] = [];
  for (const family of [4, 6] as const) {
    const address = await b.address(family);
    const name = `${what}, IPv${family}`;
    let finding: Finding | undefined;
    // Sizes that belong to different paths cannot be compared: taken again when the path changed meanwhile.
    for (let tries = 0; tries < SIZES_TRIES; tries++) {
      const before = await endpointOf(a);
      finding = await oneSize(name, a.host, address, family, underlay);
      if ((await endpointOf(a)) === before) break;
    }
    if (finding !== undefined) findings.push(finding);
  }
  return findings;
}

async function underlay(
  mtuBytes: number,
  options: ScenarioOptions,
  say: Say,
): Promise<{ findings: Finding[]; bps: number }> {
  const { lab, a, b } = await twoHosts({ mtuBytes });
  const findings: Finding[] = [];
  const seconds = options.quick ? 3 : 8;
  try {
    const network = await formNetwork(lab, [a, b]);
    await network.allPairs();
    const from = network.node("a");
    // The true size is known once it was measured.
    await from.peer("b", 20_000, ({ pmtu }) => pmtu !== null && pmtu >= Math.min(mtuBytes, 1_500) - 20);
    await sleep(1_000);
    let bps = 0;
    for (const family of [4, 6] as const) {
      const flow = await iperf(b, a, await from.address(family), { seconds, reverse: true, intervalSeconds: 0.1 });
      let [silence, longest] = [0, 0];
      for (const one of flow.intervals) {
        silence = one === 0 ? silence + 100 : 0;
        longest = Math.max(longest, silence);
      }
      bps = Math.max(bps, flow.bitsPerSecond);
      say(`  ${mtuBytes}: ${Math.round(flow.bitsPerSecond / 1e6)} Mbit/s over IPv${family}`);
      findings.push(
        atMost(`${mtuBytes}: longest stall of TCP over IPv${family}`, longest, STALL_MS, "ms"),
        atLeast(`${mtuBytes}: TCP over IPv${family}`, flow.bitsPerSecond / 1e6, 10, "Mbit/s"),
      );
    }
    findings.push(...(await sizes(String(mtuBytes), network, mtuBytes)));
    return { findings, bps };
  } finally {
    await lab.close();
  }
}

async function changing(mtuIcmp: boolean, options: ScenarioOptions, say: Say): Promise<readonly Finding[]> {
  const { lab, hosts, impairment } = await impairedHosts(["a", "b"], { delayMs: 1, mtuIcmp });
  const what = `changing under load, the router ${mtuIcmp ? "answers" : "is silent"}`;
  try {
    const network = await formNetwork(lab, hosts);
    await network.allPairs();
    const [a, b] = [network.node("a"), network.node("b")];
    const flow = await TcpFlow.start(a.host, b.host, await a.address(4), 30e6);
    const findings: Finding[] = [];
    try {
      await sleep(3_000);
      for (const mtuBytes of options.quick ? CHANGES.slice(0, 2) : CHANGES) {
        await impairment.set({ mtuBytes });
        say(`  the underlay is ${mtuBytes} bytes now`);
        await sleep(CHANGE_EVERY_MS);
        if (mtuBytes < 1_500) findings.push(...(await sizes(`${what}, ${mtuBytes}`, network, mtuBytes)));
      }
      findings.push(
        holds(`${what}: the TCP connection survives`, flow.broken === undefined, flow.broken ?? "alive"),
        atMost(`${what}: longest stall of TCP`, flow.longestSilenceMs, STALL_MS, "ms"),
      );
    } finally {
      await flow.stop();
    }
    return findings;
  } finally {
    await lab.close();
  }
}

export const mtu: Scenario = {
  name: "mtu",
  about:
    "packet sizes: safe ones are never lost on any way, underlays of 1,280 to 9,000 bytes and changing ones, correct errors",
  run: async (say, options): Promise<readonly Finding[]> => {
    const findings: Finding[] = [];
    const part = async (name: string, run: () => Promise<readonly Finding[]>): Promise<void> => {
      if (!wanted(options, name, PARTS)) return;
      try {
        findings.push(...(await run()));
      } catch (error) {
        const evidence = error instanceof Error ? error.message : String(error);
        findings.push({ limit: `${name}: runs to its end`, verdict: "INVALID", evidence });
      }
    };
    for (const way of WAYS) await part(way, () => safe(way, options, say));
    const rates = new Map<number, number>();
    for (const mtuBytes of UNDERLAYS) {
      await part(String(mtuBytes), async () => {
        const { findings: found, bps } = await underlay(mtuBytes, options, say);
        rates.set(mtuBytes, bps);
        return found;
      });
    }
    const [jumbo, usual] = [rates.get(9_000), rates.get(1_500)];
    if (jumbo !== undefined && usual !== undefined)
      findings.push(atLeast("TCP over 9,000 bytes against 1,500", jumbo / usual, JUMBO_GAIN, "times"));
    for (const mtuIcmp of [true, false]) await part("changing", () => changing(mtuIcmp, options, say));
    return findings;
  },
};
