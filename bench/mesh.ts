/**
 * `bench mesh`: routing through members in the simulator. Random topologies with churn, in which no packet may visit a node twice and every pair that
 * can meet must; then what a node says while nothing happens, and what a search costs, for networks of growing size. Virtual time: the
 * machine's speed changes only how long it takes. A violation names its seed, and `--seed` replays it.
 */
import { writeFileSync } from "node:fs";
import { MeshNet, runTopology } from "../sim/mesh-net.ts";

export interface MeshBenchOptions {
  readonly topologies: number;
  /** First seed. */
  readonly seed: number;
  readonly sizes: readonly number[];
  /** A file, or true for standard output in place of the table. */
  readonly json?: string | true | undefined;
}

export interface SizeRow {
  readonly nodes: number;
  readonly idleBytesPerSecond: number;
  /** Median over searches, virtual milliseconds, and how many found the target. */
  readonly searchMs: number;
  readonly found: number;
  readonly searches: number;
  readonly messagesPerSearch: number;
}

const SEARCHES = 20;
const SEARCH_LIMIT_MS = 20_000;

/** Every node has sessions with its 4 successors in the ring and 4 random others, as its neighbours and whoever has it as theirs. */
function measureSize(nodes: number, seed: number): SizeRow {
  const net = new MeshNet(seed, nodes);
  for (let i = 0; i < nodes; i++) {
    for (let step = 1; step <= 4; step++) net.connect(net.nodes[i], net.nodes[(i + step) % nodes], 5);
    for (let k = 0; k < 4; k++)
      net.connect(net.nodes[i], net.nodes[net.random.u32() % nodes], 2 + net.random.unit() * 20);
  }
  net.run(30_000);
  const idleFrom = net.controlBytes;
  net.run(180_000);
  const idleBytesPerSecond = (net.controlBytes - idleFrom) / 180 / nodes;
  const times: number[] = [];
  let messages = 0;
  for (let i = 0; i < SEARCHES; i++) {
    const a = net.nodes[net.random.u32() % nodes];
    const b = net.nodes[net.random.u32() % nodes];
    if (a === b || net.isConnected(a, b)) continue;
    const startMs = net.nowMs;
    const from = net.controlMessages;
    let soughtAtMs = Number.NEGATIVE_INFINITY;
    const isFound = net.runUntil(() => {
      if (net.nowMs - soughtAtMs >= 500) net.seek(a, b);
      if (net.nowMs - soughtAtMs >= 500) soughtAtMs = net.nowMs;
      return a.routing.candidates(net.now, b.id).length > 0;
    }, SEARCH_LIMIT_MS);
    times.push(isFound ? net.nowMs - startMs : Number.POSITIVE_INFINITY);
    net.run(2000);
    messages += net.controlMessages - from;
  }
  const sorted = times.toSorted((x, y) => x - y);
  return {
    nodes,
    idleBytesPerSecond,
    searchMs: sorted[Math.floor(sorted.length / 2)] ?? 0,
    found: times.filter((ms) => ms !== Number.POSITIVE_INFINITY).length,
    searches: times.length,
    messagesPerSearch: messages / Math.max(1, times.length),
  };
}

export function runMeshBench(options: MeshBenchOptions): void {
  const total = { topologies: options.topologies, packets: 0, deliveries: 0, reachable: 0, found: 0 };
  const violations: string[] = [];
  for (let seed = options.seed; seed < options.seed + options.topologies; seed++) {
    const result = runTopology(seed);
    total.packets += result.packets;
    total.deliveries += result.deliveries;
    total.reachable += result.reachable;
    total.found += result.found;
    violations.push(...result.violations);
    if (result.found < result.reachable)
      violations.push(`seed ${seed}: ${result.reachable - result.found} pairs not found`);
  }
  const sizes = options.sizes.map((nodes) => measureSize(nodes, options.seed));
  const result = { ...total, violations, sizes };
  if (options.json === true) {
    console.log(JSON.stringify(result, null, 2));
  } else {
    if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(result, null, 2)}\n`);
    console.table([{ ...total, violations: violations.length }]);
    for (const text of violations.slice(0, 20)) console.log(text);
    console.table(
      sizes.map((row) => ({
        nodes: row.nodes,
        "idle B/s per node": Math.round(row.idleBytesPerSecond),
        "search, median ms": Math.round(row.searchMs),
        found: `${row.found}/${row.searches}`,
        "messages per search": Math.round(row.messagesPerSearch),
      })),
    );
  }
  if (violations.length > 0) process.exitCode = 1;
}
