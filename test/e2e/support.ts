/** What the end-to-end tests share: skipping without root, networks with logs on failure, conservation, error lines. */
import assert from "node:assert/strict";
import { whyNoNamespaces, type Host, type Lab } from "../../lab/namespaces.ts";
import { formNetwork, type NetworkOptions, type WeftNetwork, type WeftNode } from "../../lab/network.ts";
import { sleep, until, type RunResult } from "../../lab/process.ts";

/** Reason for skipping a test that needs namespaces; false when they can be made. */
export const skip: string | false = whyNoNamespaces() ?? false;

interface Topology {
  readonly lab: Lab;
}

/** Builds a topology, runs `body`, undoes everything. */
export async function withLab<T extends Topology>(
  build: () => Promise<T>,
  body: (topology: T) => Promise<void>,
): Promise<void> {
  const topology = await build();
  try {
    await body(topology);
  } finally {
    await topology.lab.close();
  }
}

/**
 * withLab() with a network of real daemons on `hosts` of the topology. A failure carries the ends of all logs; after success every node
 * that still runs must account for every packet (conservation).
 */
export async function withNetwork<T extends Topology>(
  build: () => Promise<T>,
  hosts: (topology: T) => readonly Host[],
  body: (network: WeftNetwork, topology: T) => Promise<void>,
  options: NetworkOptions = {},
): Promise<void> {
  await withLab(build, async (topology) => {
    const network = await formNetwork(topology.lab, hosts(topology), options);
    try {
      await network.allPairs();
      await body(network, topology);
      for (const node of network.nodes) {
        if (node.daemon !== undefined && node.daemon.exitCode === undefined) await assertConservation(node);
      }
    } catch (error) {
      if (error instanceof Error) error.message += `\n--- logs\n${network.logs()}`;
      throw error;
    }
  });
}

/** Sum of all samples of one metric whose labels contain every one of `labels` ('direction="rx"'). */
export function sum(samples: ReadonlyMap<string, number>, metric: string, ...labels: readonly string[]): number {
  let total = 0;
  for (const [key, value] of samples) {
    const [name = "", rest = ""] = key.split("{", 2);
    if (name === metric && labels.every((label) => rest.includes(label))) total += value;
  }
  return total;
}

/**
 * Packets in = packets out + the sum of all drop reasons, in both directions. Traffic goes on while the figures are read, so the sums
 * are compared until they agree in one reading; a true leak never agrees.
 */
export async function assertConservation(node: WeftNode): Promise<void> {
  const figures = async (): Promise<Record<string, number>> => {
    const m = await node.metrics();
    return {
      tunIn: sum(m, "weft_tun_packets_total", 'direction="rx"'),
      sent: sum(m, "weft_packets_total", 'direction="tx"'),
      queued: sum(m, "weft_queued_packets"),
      droppedOut: sum(m, "weft_drops_total", 'direction="tx"'),
      udpIn: sum(m, "weft_udp_datagrams_total", 'direction="rx"'),
      delivered: sum(m, "weft_packets_total", 'direction="rx"'),
      internal: sum(m, "weft_internal_datagrams_total", 'direction="rx"'),
      droppedIn: sum(m, "weft_drops_total", 'direction="rx"'),
    };
  };
  let last: Record<string, number> = {};
  await until("conservation", 5_000, async () => {
    last = await figures();
    const outbound = last["tunIn"] - last["sent"] - last["queued"] - last["droppedOut"];
    const inbound = last["udpIn"] - last["delivered"] - last["internal"] - last["droppedIn"];
    return outbound === 0 && inbound === 0 ? true : undefined;
  }).catch(() => assert.fail(`${node.name} does not account for every packet: ${JSON.stringify(last)}`));
  assert.ok(last["udpIn"] > 0, `${node.name} counted nothing`);
}

/** A command that had to fail: non-zero exit, exactly one line on stderr that begins with "weft:", no stack trace, and it says `what`. */
export function assertErrorLine(result: RunResult, what: RegExp): void {
  assert.equal(result.timedOut, false, `still running\n${result.stderr}`);
  assert.notEqual(result.code, 0, `ended with 0\n${result.stdout}${result.stderr}`);
  const lines = result.stderr.split("\n").filter((line) => line.startsWith("weft: "));
  assert.equal(lines.length, 1, `one error line expected, stderr was:\n${result.stderr}`);
  assert.match(lines[0], what);
  assert.match(lines[0], /; \S/, "the line ends with a remedy");
  assert.doesNotMatch(result.stderr, /^\s+at .+:\d+/m, "no stack trace without --debug");
}

/** Reads `value` until it stops changing for `quietMs`. */
export async function settled(value: () => Promise<number>, quietMs = 300): Promise<number> {
  let last = await value();
  for (;;) {
    await sleep(quietMs);
    const now = await value();
    if (now === last) return now;
    last = now;
  }
}
